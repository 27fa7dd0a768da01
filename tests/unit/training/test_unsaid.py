from __future__ import annotations

import re

import numpy as np
import pytest

from training.captions import describe
from training.evaluate import held_out_prompts
from training.faces import Attributes
from training.unsaid import unsaid
from vortex.models.mini import shipped_weights
from vortex.models.unsaid import Unsaid

UNSAID = unsaid()
# What is added where a caption does not name an attribute, and must not be where it does.
ADDED = {
    "person": r"\b(man|woman)\b",
    "hair_colour": r"\b(brown|black|blonde|red|grey) hair\b",
    "hair_style": r"\bwith (short|long|curly)\b",
    "skin": r"\bskin\b",
    "garment": r"\bin a \w+ (coat|jumper|shirt)\b",
    "coat_colour": r"\bdressed in\b",
    "background": r"\bbackground\b",
}


def added(prompt: str, seed: int = 0) -> str:
    completed = UNSAID.completed(prompt, seed)
    kept = prompt if completed == prompt else prompt.rstrip(" .,")
    assert completed.startswith(kept)
    return completed.removeprefix(kept)


def test_shipped_file_is_the_one_of_the_captions() -> None:
    assert Unsaid.read(shipped_weights() / "flux") == UNSAID


def test_nothing_that_a_caption_says_is_said_again() -> None:
    for number in range(1000):
        rng = np.random.default_rng(number)
        caption = describe(Attributes.sample(rng), rng)
        more = added(caption.text, number)
        for name in caption.claims.keys() & ADDED.keys():
            assert not re.search(ADDED[name], more), (caption, more)


def test_prompts_that_name_everything_stay_as_they_are() -> None:
    assert not any(added(caption.text) for _, caption in held_out_prompts(300, 1))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A moustache.", ["a young man", "hair", "skin", "in a", "background"]),
        ("a boy with brown hair", ["a young man", "skin"]),
        ("our queen", ["a young woman"]),
        ("a bearded man", ["with a beard"]),
        ("a woman in a raincoat", ["dressed in"]),
    ],
)
def test_what_is_missing_is_said(prompt: str, expected: list[str]) -> None:
    for seed in range(20):
        assert [words for words in expected if words not in added(prompt, seed)] == []


@pytest.mark.parametrize(
    ("prompt", "unwanted"),
    [
        ("a bald man", "hair"),
        ("a blonde in a red coat", "(black|brown|red) hair"),
        ("a Black woman", "skin"),
        ("a Japanese man", "skin"),
        ("a woman dressed in green", "in a|dressed"),
        ("a man against the sea", "background"),
        ("a girl with pink hair", "man,|a man|young man|(black|brown|blonde) hair"),
    ],
)
def test_what_is_said_in_other_words_is_left_alone(prompt: str, unwanted: str) -> None:
    for seed in range(20):
        assert not re.search(rf"\b({unwanted})\b", added(prompt, seed))


def test_seed_chooses_and_colours_are_not_said_twice() -> None:
    prompt = "a man in a red coat"
    assert added(prompt, 1) == added(prompt, 1)
    assert len({added(prompt, seed) for seed in range(20)}) > 5
    for seed in range(100):
        colours = re.findall(
            r"\b(blue|green|red|purple|grey|pink)\b", UNSAID.completed(prompt, seed)
        )
        assert len(colours) == len(set(colours))
