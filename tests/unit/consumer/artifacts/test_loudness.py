"""Loudness on real files, measured by pyloudnorm and soxr; the worker itself uses FFmpeg."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pyloudnorm
import pytest
import soxr

from consumer.artifacts.encoder import SlotEncoder
from consumer.artifacts.loudness import LoudnessTarget, levelled, measure
from consumer.artifacts.media import EncodedMedia
from tests.support.speech import speeches

TARGET = LoudnessTarget(lufs=-23.0, true_peak_dbtp=-1.0)
RATE_HZ = 24_000
FPS = 12


def encoded(
    path: Path, waveform: np.ndarray, loudness: LoudnessTarget | None = TARGET
) -> EncodedMedia:
    frames = np.zeros((math.ceil(len(waveform) / RATE_HZ * FPS), 64, 64, 3), np.uint8)
    encoder = SlotEncoder(path, preset="ultrafast", loudness=loudness)
    encoder.begin(waveform=waveform, sample_rate_hz=RATE_HZ, fps=FPS, width=64, height=64)
    encoder.write(frames)
    return encoder.finish(60.0)


def by_others(path: Path) -> tuple[float, float]:
    """Return integrated loudness and true peak of a file, without FFmpeg's filters."""
    with av.open(str(path)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    # In whole tenths of a second: of a shorter rest it makes a block or none, by rounding.
    whole = samples[: len(samples) // 4800 * 4800]
    lufs = pyloudnorm.Meter(48_000).integrated_loudness(whole.astype(np.float64))
    peak = np.abs(soxr.resample(samples, 48_000, 192_000)).max()
    return float(lufs), 20 * math.log10(peak)


def check_speeches(models: Path, tmp_path: Path, count: int) -> None:
    found = []
    for number, speech in enumerate(speeches(models, count)):
        media = encoded(tmp_path / f"{number}.mp4", speech.waveform)
        lufs, peak = by_others(media.path)
        assert media.loudness is not None
        assert media.loudness.integrated_lufs == pytest.approx(lufs, abs=0.1)
        assert media.loudness.true_peak_dbtp == pytest.approx(peak, abs=0.2)
        found.append((lufs, peak))
    print(f"{count} slots: {min(found)[0]:.2f} to {max(found)[0]:.2f} LUFS,", end=" ")
    print(f"true peak at most {max(peak for _, peak in found):.2f} dBTP")
    assert all(abs(lufs - TARGET.lufs) <= 0.5 for lufs, _ in found), found
    assert all(peak <= TARGET.true_peak_dbtp for _, peak in found), found


def test_speech_in_any_voice_and_mood_meets_r128(mini_models: Path, tmp_path: Path) -> None:
    check_speeches(mini_models, tmp_path, count=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_slots_meet_r128(mini_models: Path, tmp_path: Path) -> None:
    check_speeches(mini_models, tmp_path, count=50)


def test_peaks_are_limited_where_the_gain_would_lift_them_over_the_limit(tmp_path: Path) -> None:
    clicks = 0.01 * np.random.default_rng(0).standard_normal(4 * RATE_HZ)
    clicks[:: RATE_HZ // 2] = 0.5
    media = encoded(tmp_path / "clicks.mp4", clicks.astype(np.float32))
    lufs, peak = by_others(media.path)
    assert lufs == pytest.approx(TARGET.lufs, abs=0.5)
    assert peak <= TARGET.true_peak_dbtp


def test_limited_sound_stays_in_its_place_and_length() -> None:
    sound = (0.02 * np.sin(0.1 * np.arange(4 * RATE_HZ))).astype(np.float32)
    sound[RATE_HZ] = 0.9
    limited = levelled(sound, RATE_HZ, TARGET)
    assert limited.shape == sound.shape
    assert np.abs(limited).max() < 10 ** (TARGET.true_peak_dbtp / 20)
    quiet = slice(2 * RATE_HZ, 3 * RATE_HZ)
    assert np.corrcoef(limited[quiet], sound[quiet])[0, 1] > 0.999


@pytest.mark.parametrize("seconds", [0.0, 0.2, 2.0])
def test_silence_stays_silent_and_has_no_loudness(tmp_path: Path, seconds: float) -> None:
    silence = np.zeros(round(seconds * RATE_HZ), np.float32)
    assert not levelled(silence, RATE_HZ, TARGET).any()
    assert measure(silence, RATE_HZ).integrated_lufs is None


def test_block_that_is_not_whole_does_not_count_but_a_peak_in_it_does() -> None:
    tone = (0.1 * np.sin(0.3 * np.arange(RATE_HZ // 2))).astype(np.float32)
    rest = np.zeros(RATE_HZ // 20, np.float32)
    rest[-10] = 0.9
    alone, followed = measure(tone, RATE_HZ), measure(np.concatenate([tone, rest]), RATE_HZ)
    assert followed.integrated_lufs == alone.integrated_lufs
    assert followed.true_peak_dbtp == pytest.approx(20 * math.log10(0.9), abs=0.5)


def test_loudness_is_left_alone_when_switched_off(tmp_path: Path) -> None:
    loud = (0.5 * np.sin(np.arange(2 * RATE_HZ) * 0.2)).astype(np.float32)
    media = encoded(tmp_path / "loud.mp4", loud, loudness=None)
    assert media.loudness is None
    assert by_others(media.path)[0] > -12
