from dataclasses import asdict, replace

import numpy as np
import pytest

from training.captions import Caption, contradict, describe, shown_and_neutral, vocabulary
from training.faces import ATTRIBUTES, Attributes
from vortex.models.mini import shipped_weights
from vortex.models.vocabulary import Vocabulary

MAN = Attributes(
    person="man",
    skin="pale",
    hair_colour="white",
    hair_style="curly",
    facial_hair="beard",
    eyewear="glasses",
    headwear="crown",
    garment="coat",
    coat_colour="purple",
    background="yellow",
)


def captions(count: int = 300) -> list[tuple[Attributes, Caption]]:
    described = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        attributes = Attributes.sample(rng)
        described.append((attributes, describe(attributes, rng)))
    return described


@pytest.mark.parametrize("seed", range(10))
def test_complete_caption_names_everything_that_is_there(seed: int) -> None:
    caption = describe(MAN, np.random.default_rng(seed), complete=True)
    assert caption.claims == asdict(MAN)
    for words in (
        ("man", "guy", "gentleman", "male"),
        ("pale", "fair", "light"),
        ("white", "snow"),
        ("curly", "frizzy"),
        ("glasses", "spectacles"),
        ("beard",),
        ("crown",),
        ("coat", "jacket", "blazer"),
        ("purple",),
        ("yellow",),
    ):
        assert any(word in caption.text.lower() for word in words), (words, caption.text)


def test_claims_hold_for_the_face_they_were_made_of() -> None:
    assert all(caption.holds_for(attributes) for attributes, caption in captions())


def test_colour_that_is_not_claimed_is_not_named() -> None:
    for attributes, caption in captions():
        if "background" not in caption.claims and attributes.background in ("purple", "yellow"):
            assert attributes.background not in caption.text.lower()


def test_wording_order_and_length_vary() -> None:
    texts = [describe(MAN, np.random.default_rng(seed)).text for seed in range(100)]
    assert len(set(texts)) > 95
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) < 8
    assert max(lengths) > 25
    places = [text.lower().find("yellow") < text.lower().find("purple") for text in texts]
    assert any(places)
    assert not all(places)


def test_contradiction_claims_something_that_is_not_there() -> None:
    rng = np.random.default_rng(0)
    for attributes, caption in captions():
        changed = contradict(caption, rng)
        if changed.claims.keys() == caption.claims.keys():
            assert not changed.holds_for(attributes)


def test_every_word_of_a_caption_is_in_the_vocabulary_or_made_up() -> None:
    known = set(vocabulary())
    strangers = [
        sum(word.strip(".,").lower() not in known for word in caption.text.split())
        for _, caption in captions()
    ]
    assert max(strangers) <= 3
    assert np.mean(np.array(strangers) > 0) < 0.3


def test_held_out_combinations_never_reach_training() -> None:
    for seed in range(500):
        rng = np.random.default_rng(seed)
        attributes = Attributes.sample(rng)
        assert not attributes.held_out
        claims = describe(attributes, rng, complete=True).claims
        if "hair_colour" in claims:
            assert not replace(MAN, **claims).held_out


def test_held_out_combinations_can_be_asked_for_and_use_every_value() -> None:
    rng = np.random.default_rng(0)
    asked = [Attributes.sample(rng, held_out=True) for _ in range(400)]
    assert all(attributes.held_out for attributes in asked)
    for name, values in ATTRIBUTES.items():
        assert {getattr(attributes, name) for attributes in asked} == set(values)


def test_every_caption_claims_something() -> None:
    bald = Attributes.sample(np.random.default_rng(0))
    bald = replace(bald, hair_style="bald", facial_hair="none")
    for seed in range(3000):
        assert describe(bald, np.random.default_rng(seed)).claims


def test_vocabulary_of_the_shipped_encoders_is_that_of_the_captions() -> None:
    for name in ("clip-b", "clip-l"):
        assert Vocabulary.read(shipped_weights() / name) == shown_and_neutral()
