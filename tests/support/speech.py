"""Real speech by the small model, in many voices and moods."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from vortex.models.kokoro import Speech
from vortex.models.kokoro.speaker import KokoroSpeech
from vortex.utils.cancellation import CancellationToken

SCRIPTS = (
    "Good evening. Here is the news.",
    "It rained all day, and the river rose by two metres. Nobody was hurt.",
    "Stop! Who goes there?",
    "The train to the north leaves at half past nine from platform 4.",
    "She whispered: we are not alone; then the lights went out.",
)
EMOTIONS = ("neutral", "excited", "sad", "angry", "manic")


def speeches(models: Path, count: int, max_duration_s: float = 6.0) -> list[Speech]:
    """Speak `count` different pairs of script, voice and emotion; what was spoken is kept."""
    return [_speech(models, number, max_duration_s) for number in range(count)]


@cache
def _speech(models: Path, number: int, max_duration_s: float) -> Speech:
    kokoro = _kokoro(models)
    kinds = [(voice, emotion) for emotion in EMOTIONS for voice in kokoro.voices[:10]]
    voice, emotion = kinds[number % len(kinds)]
    return kokoro.synthesize(
        SCRIPTS[number % len(SCRIPTS)],
        voice_id=voice,
        emotion=emotion,
        max_duration_s=max_duration_s,
        token=CancellationToken(),
    )


@cache
def _kokoro(models: Path) -> KokoroSpeech:
    return KokoroSpeech(models / "mini" / "kokoro", default_voice="auto")
