from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from consumer.demo.recipes import our_ticks, own_recipe
from consumer.demo.tick import MADE, DemoTick
from consumer.demo.voices import choose_voice, installed_voices, speak_english
from schemas import Recipe, SlotTick

ENGLISH = ("af_heart", "am_michael", "bf_emma", "bm_george")
JAPANESE = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
OPEN: dict[str, Any] = {
    "prompt": None,
    "script": None,
    "voice": "default",
    "emotion": "neutral",
    "expressions": (),
    "duration_s": None,
    "seed": None,
}


def recipes(ticks: list[DemoTick]) -> list[Recipe]:
    return [tick.recipe for tick in ticks if tick.expected == MADE and tick.recipe is not None]


def voices(ticks: list[DemoTick]) -> list[str]:
    return [recipe.audio_track.voice_id for recipe in recipes(ticks)]


def test_our_slots_all_differ() -> None:
    made = recipes(our_ticks(ENGLISH))
    assert len(made) == 4
    assert len({recipe.visual_track.prompt for recipe in made}) == 4
    assert len({recipe.audio_track.script for recipe in made}) == 4
    assert len({recipe.visual_track.expression_sequence for recipe in made}) == 4
    assert len({recipe.audio_track.voice_id for recipe in made}) == 4


def test_english_voices_speak_where_they_are_installed() -> None:
    assert set(voices(our_ticks((*ENGLISH, *JAPANESE)))) == set(ENGLISH)
    assert set(voices(our_ticks(JAPANESE))) <= set(JAPANESE)
    assert set(voices(our_ticks(()))) == {"default"}


def test_first_installed_voice_is_chosen() -> None:
    assert choose_voice(("bf_emma", "jf_alpha"), JAPANESE) == "jf_alpha"
    assert choose_voice(("bf_emma",), JAPANESE) == "default"


def test_voices_are_read_from_the_models(mini_models: Path) -> None:
    assert set(JAPANESE) <= set(installed_voices(mini_models / "mini"))


def test_voices_are_unknown_where_there_are_no_models(tmp_path: Path) -> None:
    assert installed_voices(tmp_path) == ()


def test_english_is_told_by_a_voices_name(tmp_path: Path) -> None:
    (tmp_path / "kokoro").mkdir()
    np.savez(tmp_path / "kokoro" / "voices.npz", af_heart=np.zeros(1), jm_kumo=np.zeros(1))
    assert speak_english(installed_voices(tmp_path))
    assert not speak_english(JAPANESE)


def test_deadlines_are_told_from_the_moment_of_emission() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    emitted = [tick.value(now) for tick in our_ticks(())]
    ticks = [value for value in emitted if isinstance(value, SlotTick)]
    assert [tick.deadline > now for tick in ticks] == [True, True, True, True, False]
    with pytest.raises(ValidationError):
        SlotTick.model_validate_json(emitted[-1])


def test_own_words_are_taken_and_the_rest_is_ours() -> None:
    ours = recipes(our_ticks(()))[0]
    own = own_recipe(**OPEN | {"prompt": "A bald man", "seed": 7, "expressions": ["calm"]})
    assert own.visual_track.prompt == "A bald man"
    assert own.visual_track.expression_sequence == ("calm",)
    assert own.seed == 7
    assert own.audio_track.script == ours.audio_track.script
    own = own_recipe(**OPEN | {"script": "Good morning."})
    assert own.audio_track.script == "Good morning."
    assert own.visual_track.prompt == ours.visual_track.prompt


@pytest.mark.parametrize(("characters", "expected_s"), [(5, 6.0), (130, 11.0), (5000, 15.0)])
def test_slot_is_as_long_as_its_script_within_limits(characters: int, expected_s: float) -> None:
    own = own_recipe(**OPEN | {"script": "a" * characters})
    assert own.slot_params.duration_sec == expected_s


@pytest.mark.parametrize("wrong", [{"script": ""}, {"prompt": ""}, {"script": "a" * 5001}])
def test_words_against_the_contract_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        own_recipe(**OPEN | wrong)
