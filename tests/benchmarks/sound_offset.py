"""By how much a sound is heard before the time that Kokoro's durations give it.

`python -m tests.benchmarks.sound_offset` prints it for every installed voice: the shift at which
the loudness of the speech follows the kind of its sounds best. Vowels are loud, nasals less,
fricatives soft, and stops silent. A backend's `sounds_early_s` is the median.
"""

# ruff: noqa: RUF001 - phonetic symbols are meant, not the letters that look like them

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from consumer.config import WorkerConfig
from vortex.models.kokoro import SAMPLE_RATE_HZ, KokoroSpeech, Speech
from vortex.utils.audio import envelope
from vortex.utils.cancellation import CancellationToken

SENTENCES = (
    "The happy cook took a copper pot to the park.",
    "Pack a bitter apple for the captain, Peter.",
)
_RATE_HZ = 200
_SHIFTS_S = np.arange(-16, 17) / _RATE_HZ
_LEVELS = {
    **dict.fromkeys("AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻᵊ", 1.0),
    **dict.fromkeys("mnŋlɹjw", 0.75),
    **dict.fromkeys("vzʒðTɾ", 0.5),
    **dict.fromkeys("fsʃθhʧʤ", 0.35),
    **dict.fromkeys("pbtdkɡ", 0.0),
}  # fmt: skip
_SOFTEST = 1e-3


def offset_s(speech: Speech) -> tuple[float, float]:
    """Return how much earlier sounds are heard than the speech says, and the correlation there."""
    frames = int(speech.duration_s * _RATE_HZ)
    loud = np.log(envelope(speech.waveform, SAMPLE_RATE_HZ, _RATE_HZ, frames).clip(min=_SOFTEST))
    time_s = (np.arange(frames) + 0.5) / _RATE_HZ
    correlations = []
    for shift_s in _SHIFTS_S:
        expected = np.zeros(frames)
        for phoneme in speech.phonemes:
            if phoneme.symbol in _LEVELS:
                begins, ends = phoneme.start_s - shift_s, phoneme.end_s - shift_s
                expected[(time_s >= begins) & (time_s < ends)] = _LEVELS[phoneme.symbol]
        correlations.append(np.corrcoef(expected, loud)[0, 1])
    best = int(np.argmax(correlations))
    return float(_SHIFTS_S[best]), float(correlations[best])


def main() -> None:
    """Print the offset of each voice, and the median of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kokoro", type=Path, help="default: the installed profile's")
    parser.add_argument("--voices", nargs="*", help="default: all that are installed")
    arguments = parser.parse_args()
    folder = arguments.kokoro or WorkerConfig.load().models.profile_directory / "kokoro"
    kokoro = KokoroSpeech(folder, default_voice="auto")
    assumed_s = kokoro._backend.sounds_early_s
    offsets = []
    for voice in arguments.voices or kokoro.voices:
        found = [
            offset_s(
                kokoro.synthesize(
                    sentence, voice_id=voice, max_duration_s=20.0, token=CancellationToken()
                )
            )
            for sentence in SENTENCES
        ]
        shift_s, correlation = np.mean(found, axis=0)
        offsets.append(assumed_s + shift_s)
        print(f"{voice:12} {1000 * offsets[-1]:5.0f} ms, correlation {correlation:.2f}", flush=True)
    middle, low, high = (1000 * np.quantile(offsets, share) for share in (0.5, 0.1, 0.9))
    print(f"median {middle:.0f} ms, 80% of {len(offsets)} voices {low:.0f} to {high:.0f} ms")


if __name__ == "__main__":
    main()
