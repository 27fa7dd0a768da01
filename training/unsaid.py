"""What captions say of every portrait: a prompt that does not is completed before it is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from training.captions import COLOUR_WORDS, GARMENT_WORDS, HAIR_WORDS, STYLE_WORDS, SUBJECTS
from training.faces import COLOURS
from vortex.models.unsaid import Detail, Unsaid

_MALE = (
    "boy boys son king prince father grandfather grandpa dad uncle brother husband actor waiter"
    " businessman policeman fireman he his him mr sir beard bearded moustache mustache"
)
_FEMALE = (
    "girl queen princess mother grandmother grandma mom mum aunt sister wife actress waitress"
    " businesswoman policewoman she her mrs ms miss madam"
)
# Who a person is may say it too. Nothing is added then.
_ORIGINS = (
    "african american asian european indian chinese japanese korean arab latino latina hispanic"
    " caucasian nigerian kenyan mexican brazilian scandinavian"
)
_MORE_STYLES = "bun braids braided pigtails ponytail afro dreadlocks mohawk bald shaven"
_MORE_HAIR_COLOURS = "redhead brunette auburn bald"
_MORE_GARMENTS = (
    "raincoat dress suit uniform cardigan hoodie robe gown vest waistcoat tunic top clothes outfit"
    " t-shirt kimono sari armour armor"
)
_PEOPLE = "man men woman women lady gentleman guy girl boy person people"


def unsaid() -> Unsaid:
    """Return the details of a portrait that captions name nearly always."""
    person = _words("women men female male", *(word.split()[-1] for word in _flat(SUBJECTS)))
    colours = _words(*COLOURS, *_flat(COLOUR_WORDS))
    hair_colours = _words(*_flat(HAIR_WORDS))
    grows = _words("hair haired beard bearded moustache mustache", _MORE_STYLES)
    of_hair = (
        rf"{_words('blonde blond', _MORE_HAIR_COLOURS)}|{hair_colours}(\W+\w+){{0,2}}\W+{grows}"
        rf"|\bhair\W+(is|was|dyed|coloured|colored)\W+{hair_colours}"
    )
    style = _words(*_flat(STYLE_WORDS), _MORE_STYLES)
    garment = _words(*_flat(GARMENT_WORDS), _MORE_GARMENTS)
    of_garment = rf"{colours}(\W+\w+){{0,2}}\W+{garment}|\b(dressed in|wearing|in)\W+{colours}"
    of_skin = (
        rf"\b(skin|skinned|pale|tanned|olive)\b|{_words(_ORIGINS)}"
        rf"|\b(black|brown|white|dark)\W+{_words(_PEOPLE)}"
    )
    return Unsaid(
        (
            Detail(person, "a young man", when=_words(_MALE)),
            Detail(person, "a young woman", when=_words(_FEMALE)),
            Detail(person, "a {}", ("man", "woman")),
            Detail(r"\bbeard\b", "with a beard", when=r"\bbearded\b"),
            Detail(
                rf"{of_hair}|{style}",
                "with {} hair",
                ("short brown", "short black", "curly black", "short blonde", "short red"),
                when=_words("man male gentleman guy"),
            ),
            Detail(
                rf"{of_hair}|{style}",
                "with {} hair",
                ("long brown", "long black", "short brown", "curly black", "long blonde"),
            ),
            Detail(of_hair, "with {} hair", ("brown", "black", "blonde", "red")),
            Detail(style, "with {} hair", ("short", "long", "curly")),
            Detail(
                of_skin,
                "with {} skin",
                ("pale", "olive", "dark"),
            ),
            Detail(
                rf"{garment}|{of_garment}",
                "in a {}",
                ("blue coat", "green jumper", "red shirt", "purple jumper", "grey coat"),
            ),
            Detail(of_garment, "dressed in {}", ("blue", "green", "red", "purple", "yellow")),
            Detail(
                r"\b(wall|background|backdrop|against)\b",
                "against a {} background",
                ("grey", "blue", "green", "purple", "pink"),
            ),
        )
    )


def _flat(table: Mapping[str, Iterable[str]]) -> list[str]:
    return [word for words in table.values() for word in words]


def _words(*texts: str) -> str:
    """Return a regular expression that finds one of these words."""
    return rf"\b({'|'.join(dict.fromkeys(' '.join(texts).split()))})\b"
