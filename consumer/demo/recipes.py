"""What the demo's slots show and say: four of ours, or one of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from consumer.demo.tick import EXPIRED, MADE, UNREADABLE, DemoTick
from consumer.demo.voices import choose_voice
from schemas import Recipe
from vortex.orchestration.estimates import SPOKEN_CHARACTERS_PER_S

DUE_IN_S = 180.0  # enough for one busy core
_EXPIRED_SINCE_S = 5.0
_FORMAT = {"fps": 12, "resolution": "128x128"}
_DURATION_S = 6.0
_LONGEST_GUESS_S = 15.0  # so that two busy cores speak it within a stage's time limit

# Faces that the small image model can draw. Of the voices, the first that is installed speaks.
_OURS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("af_heart", "jf_alpha"),
        {
            "audio_track": {
                "script": "Good evening. The weather today is cold and dark, with rain in the"
                " north."
            },
            "visual_track": {
                "prompt": "A young woman with curly red hair and glasses in a green coat in front"
                " of a blue wall",
            },
        },
    ),
    (
        ("am_michael", "jm_kumo"),
        {
            "audio_track": {
                "script": "What a day! The home team has won the game, and people are dancing.",
                "emotion": "excited",
            },
            "visual_track": {
                "prompt": "A man with short black hair, dark skin and a red cap in a yellow jumper"
                " in front of a purple wall",
                "expression_sequence": ["excited", "manic"],
            },
        },
    ),
    (
        ("bf_emma", "jf_gongitsune"),
        {
            "audio_track": {
                "script": "The old bridge is closed. Please take the ferry across the river.",
                "emotion": "sad",
            },
            "visual_track": {
                "prompt": "A woman with pink braids and olive skin in a white shirt in front of a"
                " grey wall",
                "expression_sequence": ["calm"],
            },
        },
    ),
    (
        ("bm_george", "jm_kumo"),
        {
            "audio_track": {
                "script": "This is the last programme of the day. Thank you for watching. Good"
                " night.",
                "speed": 1.1,
            },
            "visual_track": {
                "prompt": "An old man with a white beard and a crown in a purple coat in front of"
                " an orange wall",
                "expression_sequence": ["neutral", "calm", "excited"],
            },
        },
    ),
)


def our_ticks(installed_voices: Sequence[str]) -> list[DemoTick]:
    """Return six ticks: four that can be made, one already past its deadline, one unreadable."""
    ticks = []
    for number, (voices, content) in enumerate(_OURS, start=1):
        voice = choose_voice(voices, installed_voices)
        audio = {**content["audio_track"], "voice_id": voice}
        params = {**_FORMAT, "duration_sec": _DURATION_S}
        recipe = Recipe.model_validate({**content, "audio_track": audio, "slot_params": params})
        ticks.append(DemoTick(number, MADE, recipe, DUE_IN_S + number))
    ticks.append(DemoTick(len(ticks) + 1, EXPIRED, recipe, -_EXPIRED_SINCE_S))
    return [*ticks, DemoTick(None, UNREADABLE)]


def own_tick(recipe: Recipe) -> DemoTick:
    """Return a tick that asks for the user's recipe."""
    return DemoTick(1, MADE, recipe, DUE_IN_S)


def own_recipe(
    *,
    prompt: str | None,
    script: str | None,
    voice: str,
    emotion: str,
    expressions: Sequence[str],
    duration_s: float | None,
    seed: int | None,
) -> Recipe:
    """Return the recipe of the user's words; what is left open is the first of our recipes'.

    Args:
        prompt: describes the portrait.
        script: what is said.
        voice: one that is installed, or "default".
        emotion: of the voice.
        expressions: of the face, in order; none is a neutral one.
        duration_s: None is about as long as the script, 6 to 15.
        seed: decides all that is random.

    Raises:
        pydantic.ValidationError: something in it is against the contract.
    """
    ours = _OURS[0][1]
    script = ours["audio_track"]["script"] if script is None else script
    if duration_s is None:
        spoken_s = len(script) / SPOKEN_CHARACTERS_PER_S + 1
        duration_s = round(min(max(_DURATION_S, spoken_s), _LONGEST_GUESS_S), 1)
    visual = {"prompt": ours["visual_track"]["prompt"] if prompt is None else prompt}
    return Recipe.model_validate(
        {
            "slot_params": {**_FORMAT, "duration_sec": duration_s},
            "audio_track": {"script": script, "voice_id": voice, "emotion": emotion},
            "visual_track": {**visual, "expression_sequence": expressions or ["neutral"]},
            "seed": seed,
        }
    )
