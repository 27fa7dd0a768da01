from __future__ import annotations

import numpy as np
import pytest

from vortex.utils.audio import PEAK_LIMIT, SpeechLeveller

LEVEL_DBFS = -20.0


def sentence(loudness: float, samples: int = 24_000) -> np.ndarray:
    return (loudness * np.sin(np.arange(samples) * 0.05)).astype(np.float32)


def level_db(waveform: np.ndarray) -> float:
    speech = waveform[np.abs(waveform) > 0.01]
    return float(10 * np.log10(np.mean(np.square(speech))))


@pytest.mark.parametrize("loudness", [0.05, 0.2, 0.9])
def test_first_sentence_comes_at_the_level(loudness: float) -> None:
    made = SpeechLeveller(LEVEL_DBFS).level(sentence(loudness))
    assert made.dtype == np.float32
    assert level_db(made) == pytest.approx(LEVEL_DBFS, abs=0.5)


def test_loud_and_short_first_sentence_does_not_leave_the_others_quiet() -> None:
    leveller = SpeechLeveller(LEVEL_DBFS)
    leveller.level(sentence(0.4, 6_000))
    rest_db = [level_db(leveller.level(sentence(0.2))) for _ in range(4)]
    assert rest_db == sorted(rest_db)
    assert rest_db[0] > LEVEL_DBFS - 2.5  # 6 dB less, with a gain kept from the first
    assert rest_db[-1] == pytest.approx(LEVEL_DBFS, abs=1.0)


def test_sentence_keeps_what_the_voice_stresses() -> None:
    leveller = SpeechLeveller(LEVEL_DBFS)
    for _ in range(5):
        usual = leveller.level(sentence(0.2))
    stressed = leveller.level(sentence(0.3, 6_000))
    assert 2.5 < level_db(stressed) - level_db(usual) < 3.6  # 3.5 dB in what was said


def test_gain_is_the_same_over_one_sentence_and_peaks_stay_below_the_limit() -> None:
    made = SpeechLeveller(0.0).level(np.concatenate([sentence(0.02), sentence(1.0)]))
    assert np.abs(made).max() <= PEAK_LIMIT
    quiet, loud = made[:24_000], sentence(0.02)
    ratio = quiet[np.abs(loud) > 0.01] / loud[np.abs(loud) > 0.01]
    assert ratio.max() / ratio.min() < 1.01


def test_silence_stays_silence_and_does_not_count() -> None:
    leveller = SpeechLeveller(LEVEL_DBFS)
    silence = np.zeros(100, dtype=np.float32)
    assert not leveller.level(silence).any()
    first = leveller.level(sentence(0.2))
    assert np.array_equal(first, SpeechLeveller(LEVEL_DBFS).level(sentence(0.2)))
