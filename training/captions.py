"""Says in varied words what a drawn portrait shows, and remembers which attributes it named."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from training.faces import ATTRIBUTES, Attributes
from vortex.models.vocabulary import Vocabulary

_OPENINGS = (
    "",
    "",
    "a portrait of",
    "portrait of",
    "a picture of",
    "a drawing of",
    "an illustration of",
    "a photo of",
    "a close-up of",
    "head and shoulders of",
    "a centred portrait of",
    "we see",
    "this is",
)
SUBJECTS = {
    "woman": ("woman", "woman", "young woman", "lady", "girl", "female reporter", "old woman"),
    "man": ("man", "man", "young man", "gentleman", "guy", "male reporter", "old man"),
}
_ANYONE = (
    "person",
    "news presenter",
    "weather reporter",
    "sports reporter",
    "reporter",
    "presenter",
    "teacher",
    "scientist",
    "doctor",
    "singer",
    "host",
    "friend",
    "character",
)
_SKIN_WORDS = {
    "pale": ("pale", "fair", "light"),
    "olive": ("olive", "tanned", "tan"),
    "dark": ("dark", "brown", "deep brown"),
}
HAIR_WORDS = {
    "black": ("black", "black", "dark"),
    "brown": ("brown", "brown", "chestnut"),
    "blonde": ("blonde", "blond", "golden"),
    "red": ("red", "red", "ginger"),
    "grey": ("grey", "gray", "silver"),
    "white": ("white", "white", "snow white"),
    "blue": ("blue",),
    "pink": ("pink",),
}
COLOUR_WORDS = {"grey": ("grey", "grey", "gray")}
STYLE_WORDS = {
    "short": ("short", "short", "cropped"),
    "long": ("long", "long", "long straight"),
    "curly": ("curly", "curly", "frizzy"),
    "spiky": ("spiky", "spiked"),
}
GARMENT_WORDS = {
    "coat": ("coat", "coat", "jacket", "blazer"),
    "jumper": ("jumper", "sweater", "pullover"),
    "shirt": ("shirt", "shirt", "blouse"),
}
_ANY_GARMENT = ("top", "clothes", "outfit")
_EYEWEAR_WORDS = {
    "none": ("no glasses", "without glasses"),
    "glasses": ("glasses", "round glasses", "spectacles"),
    "sunglasses": ("sunglasses", "dark glasses", "shades"),
}
_HEADWEAR_WORDS = {
    "none": ("no hat", "without a hat"),
    "hat": ("a brown hat", "a hat", "a hat with a brim"),
    "cap": ("a red cap", "a cap", "a knitted cap", "a beanie", "a red bobble hat"),
    "crown": ("a crown", "a golden crown", "a gold crown"),
}
_PLACES = (
    "in front of a {} wall",
    "in front of a {} wall",
    "in front of a {} background",
    "against a {} background",
    "on a {} background",
    "before a {} wall",
    "with a {} background",
    "against {}",
    "{} backdrop",
)
_FILLERS = (
    "looking at the camera",
    "facing the camera",
    "mouth closed",
    "calm expression",
    "neutral expression",
    "sharp focus",
    "in the evening light",
    "soft light",
    "studio photo",
    "centred",
    "smiling",
    "flat colours",
    "digital illustration",
    "at a desk",
    "high quality",
    "best quality",
    "looking straight ahead",
    "on stage",
)
# How likely a caption names an attribute. Things that are worn are named nearly always, so that
# what is not named is mostly not there.
_NAMED_SHARE = {
    "person": 0.8,
    "skin": 0.45,
    "hair_colour": 0.85,
    "hair_style": 0.8,
    "garment": 0.8,
    "coat_colour": 0.85,
    "background": 0.85,
}
_WORN_SHARE, _ABSENT_SHARE = 0.93, 0.06
_BRIEF = 0.3  # how much of these shares is left in a short caption
_UNKNOWN_SHARE = 0.15  # captions with words that mean nothing here


@dataclass(frozen=True)
class Caption:
    """A sentence, and what it claims."""

    text: str
    claims: dict[str, str]
    """Attribute to value, only for what the text names."""

    def holds_for(self, attributes: Attributes) -> bool:
        """Whether nothing that the text names is otherwise there."""
        return all(getattr(attributes, name) == value for name, value in self.claims.items())


def describe(
    attributes: Attributes, rng: np.random.Generator, *, complete: bool = False
) -> Caption:
    """Say what a portrait shows.

    Args:
        attributes: what it shows.
        rng: chooses what is named, the words and their order.
        complete: name all attributes that are there, and nothing else.
    """
    claims = dataclasses.asdict(attributes) if complete else _chosen(attributes, rng)
    if complete:
        absent = [name for name in ("eyewear", "facial_hair", "headwear") if claims[name] == "none"]
        claims = {name: value for name, value in claims.items() if name not in absent}
    if attributes.hair_style == "bald" and attributes.facial_hair == "none":
        claims.pop("hair_colour", None)  # there is no hair to see it on
        claims = claims or {"person": attributes.person}
    said = _Sentence(claims, rng).text()
    if not complete and rng.random() < _UNKNOWN_SHARE:
        said = _with_unknown_words(said, rng)
    if rng.random() < 0.5:
        said = said[0].upper() + said[1:]
    elif rng.random() < 0.1:
        said = said.title()
    if rng.random() < 0.25:
        said += "."
    return Caption(said, claims)


def contradict(caption: Caption, rng: np.random.Generator, changes: int = 1) -> Caption:
    """Return the claims with some values changed, in other words.

    Raises:
        ValueError: the caption claims nothing.
    """
    if not caption.claims:
        raise ValueError("a caption that claims nothing cannot be contradicted")
    claims = dict(caption.claims)
    names = [name for name in claims if name != "hair_style" or claims[name] != "bald"]
    for name in rng.permutation(names or list(claims))[:changes].tolist():
        others = [value for value in ATTRIBUTES[name] if value not in (claims[name], "bald")]
        claims[name] = str(rng.choice(others))
    if claims.get("person") == "woman":
        claims.pop("facial_hair", None)
    return Caption(_Sentence(claims, rng).text(), claims)


def vocabulary() -> list[str]:
    """Return every word that a caption may use, sorted."""
    templates = [
        *_OPENINGS,
        *(word for words in SUBJECTS.values() for word in words),
        *_ANYONE,
        *_PLACES,
        *_FILLERS,
        *(
            word
            for table in (
                _SKIN_WORDS,
                HAIR_WORDS,
                STYLE_WORDS,
                GARMENT_WORDS,
                _EYEWEAR_WORDS,
                _HEADWEAR_WORDS,
            )
            for words in table.values()
            for word in words
        ),
        *_ANY_GARMENT,
        *(value for values in ATTRIBUTES.values() for value in values),
        *(f"{skin}-skinned" for skin in _SKIN_WORDS),
        *_CONNECTIVES,
    ]
    return sorted(set(re.findall(r"[a-z-]+", " ".join(templates))))


def shown_and_neutral() -> Vocabulary:
    """Return the same, parted at hyphens, by whether they say what a portrait shows.

    What openings and fillers are made of was never told apart in training, and says nothing.
    """
    said = " ".join((*_OPENINGS, *_FILLERS, *_PLACES, *_JOINTS))
    neutral = frozenset(re.findall(r"[a-z]+", said))
    words = frozenset(part for word in vocabulary() for part in word.split("-"))
    return Vocabulary(shown=words - neutral, neutral=neutral & words)


_JOINTS = (
    "a an the and with in of wearing dressed who has is whose no without none up tied full",
    "old young clean deep round fair snow news weather sports",
)
_CONNECTIVES = (
    "a an the and with in of wearing dressed who has is whose hair skin long-haired bearded bald"
    " clean-shaven beard moustache mustache braids braided pigtails bun tied up in a bun haired"
    " skinned faced full head no without shaven red-haired blue gray",
)


def _chosen(attributes: Attributes, rng: np.random.Generator) -> dict[str, str]:
    brief = _BRIEF if rng.random() < 0.25 else 1.0
    claims: dict[str, str] = {}
    for name, value in dataclasses.asdict(attributes).items():
        if name in _NAMED_SHARE:
            share = _NAMED_SHARE[name]
        elif value == "none":
            # "without a beard" is only worth saying of a man.
            absent = name != "facial_hair" or attributes.person == "man"
            share = _ABSENT_SHARE if absent else 0.0
        else:
            share = _WORN_SHARE
        if rng.random() < share * brief:
            claims[name] = value
    if attributes.hair_style == "bald" and "hair_style" in claims and "facial_hair" not in claims:
        claims.pop("hair_colour", None)
    return claims or {"person": attributes.person}


class _Sentence:
    """Claims on their way to words."""

    def __init__(self, claims: dict[str, str], rng: np.random.Generator) -> None:
        self._claims = claims
        self._rng = rng
        self._skin_is_said = False

    def text(self) -> str:
        """Return the sentence, in lower case."""
        subject = self._subject()
        parts = [part for part in (self._with(), self._wearing(), self._place()) if part]
        if self._rng.random() < 0.3:
            parts.append(self._pick(_FILLERS))
        order = self._rng.permutation(len(parts)) if self._rng.random() < 0.5 else range(len(parts))
        parts = [parts[i] for i in order]
        if self._rng.random() < 0.12:
            return ", ".join([*parts, subject])
        opening, article = self._pick(_OPENINGS), "an" if subject[0] in "aeiou" else "a"
        joint = ", " if self._rng.random() < 0.35 else " "
        return joint.join([f"{opening} {article} {subject}".strip(), *parts])

    def _pick(self, words: Sequence[str]) -> str:
        return words[int(self._rng.integers(len(words)))]

    def _maybe(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    def _subject(self) -> str:
        person = self._claims.get("person")
        noun = self._pick(SUBJECTS[person] if person else _ANYONE)
        adjectives = []
        if self._claims.get("hair_style") == "bald":
            adjectives.append("bald")
        if self._claims.get("skin") and self._maybe(0.3):
            self._skin_is_said = True
            adjectives.append(f"{self._claims['skin']}-skinned")
        return " ".join([*adjectives, noun])

    def _with(self) -> str:
        makers: list[Callable[[], str]] = [
            self._hair,
            self._skin,
            self._eyewear,
            self._facial_hair,
            self._headwear,
        ]
        said = [maker() for maker in makers]
        said = [words for words in said if words]
        if not said:
            return ""
        if self._maybe(0.4):
            said = [said[i] for i in self._rng.permutation(len(said))]
        listed = ", ".join(said[:-1])
        return "with " + (f"{listed} and {said[-1]}" if listed else said[-1])

    def _hair(self) -> str:
        colour, style = self._claims.get("hair_colour"), self._claims.get("hair_style")
        tone = self._pick(HAIR_WORDS[colour]) if colour else ""
        if style == "bald":
            return ""
        if style == "bun":
            tail = self._pick(("hair in a bun", "hair tied up in a bun"))
            return f"{tone} {tail}" if tone else f"{self._pick(('a bun', tail))}"
        if style == "braids":
            tail = self._pick(("braids", "braided hair", "hair in braids", "pigtails"))
            return f"{tone} {tail}".strip()
        if style is None and not tone:
            return ""
        words = [self._pick(STYLE_WORDS[style])] if style else []
        words += [tone] if tone else []
        if len(words) == 2 and self._maybe(0.2):
            words.reverse()
        return " ".join([*words, "hair"])

    def _skin(self) -> str:
        skin = self._claims.get("skin")
        if skin is None or self._skin_is_said:
            return ""
        return f"{self._pick(_SKIN_WORDS[skin])} skin"

    def _eyewear(self) -> str:
        kind = self._claims.get("eyewear")
        return self._pick(_EYEWEAR_WORDS[kind]).replace("without", "no") if kind else ""

    def _facial_hair(self) -> str:
        kind = self._claims.get("facial_hair")
        if kind is None:
            return ""
        if kind == "none":
            return "no beard"
        noun = "beard" if kind == "beard" else self._pick(("moustache", "mustache"))
        colour = self._claims.get("hair_colour")
        bald = self._claims.get("hair_style") == "bald"
        tone = f"{self._pick(HAIR_WORDS[colour])} " if colour and (bald or self._maybe(0.4)) else ""
        return f"a {tone}{noun}"

    def _headwear(self) -> str:
        kind = self._claims.get("headwear")
        return self._pick(_HEADWEAR_WORDS[kind]).replace("without a", "no") if kind else ""

    def _wearing(self) -> str:
        garment, colour = self._claims.get("garment"), self._claims.get("coat_colour")
        if garment is None and colour is None:
            return ""
        tone = self._pick(COLOUR_WORDS.get(colour, (colour,))) if colour else ""
        if garment is None and self._maybe(0.5):
            return f"dressed in {tone}"
        noun = self._pick(GARMENT_WORDS[garment] if garment else _ANY_GARMENT)
        words = f"{tone} {noun}".strip()
        article = "" if noun == "clothes" else "an " if words[0] in "aeiou" else "a "
        return f"{self._pick(('in', 'in', 'wearing', 'dressed in'))} {article}{words}"

    def _place(self) -> str:
        colour = self._claims.get("background")
        if not colour:
            return ""
        place = self._pick(_PLACES).format(self._pick(COLOUR_WORDS.get(colour, (colour,))))
        return place.replace("a orange", "an orange")


def _with_unknown_words(text: str, rng: np.random.Generator) -> str:
    """Put one to three made-up words somewhere: they must do no harm."""
    words = text.split(" ")
    for _ in range(rng.integers(1, 4)):
        letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=rng.integers(3, 9))
        words.insert(int(rng.integers(len(words) + 1)), "".join(letters))
    return " ".join(words)
