"""Kokoro-82M: the class that speaks scripts with it, and the two ways to run the network."""

from vortex.models.kokoro.speaker import KokoroSpeech
from vortex.models.kokoro.speech import SAMPLE_RATE_HZ, Speech, SpeechPiece, TimedPhoneme
from vortex.models.kokoro.stream import SpeechStream

__all__ = [
    "SAMPLE_RATE_HZ",
    "KokoroSpeech",
    "Speech",
    "SpeechPiece",
    "SpeechStream",
    "TimedPhoneme",
]
