# ruff: noqa: RUF001 - phonetic symbols are meant, not the letters that look like them

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.support.cases import slow_but
from vortex.errors import InvalidRecipeError, VortexInitializationError
from vortex.models.kokoro import SAMPLE_RATE_HZ, KokoroSpeech, Speech, SpeechPiece
from vortex.models.kokoro.voices import PREFERRED
from vortex.utils.audio import envelope
from vortex.utils.cancellation import CancellationToken, StageCancelled

SHORT = "Good evening."
SENTENCES = ("Good evening.", "It rains in the north.", "The sun shines.")
MELODIC_VOICE = "jf_nezumi"  # of the packaged ones, the one whose pitch is told most clearly
VOWELS = frozenset("aeiouæɐɑɒɔəɚɛɜɪʊʌ")
VOICELESS_STOPS = frozenset("ptk")
EMOTIONS = ("neutral", "excited", "sad", "angry", "manic")


@pytest.fixture(scope="module")
def kokoro(mini_models: Path) -> KokoroSpeech:
    return KokoroSpeech(mini_models / "mini" / "kokoro", default_voice="jm_kumo", threads=1)


def say(kokoro: KokoroSpeech, script: str = SHORT, **changes: Any) -> Speech:
    settings: dict[str, Any] = {"max_duration_s": 30.0, "token": CancellationToken()}
    return kokoro.synthesize(script, **{**settings, **changes})


@pytest.fixture(scope="module")
def short(kokoro: KokoroSpeech) -> Speech:
    """Give what `SHORT` sounds like."""
    return say(kokoro)


@pytest.fixture(scope="module")
def told(kokoro: KokoroSpeech) -> Speech:
    """Give what `SENTENCES` sound like."""
    return say(kokoro, " ".join(SENTENCES))


@pytest.fixture(scope="module")
def readings(kokoro: KokoroSpeech) -> Mapping[str, Speech]:
    """Give two sentences with many stops, read with each emotion."""
    script = "The happy cook took a copper pot to the park. Pack a bitter apple, Peter."
    return {
        emotion: say(kokoro, script, emotion=emotion, voice_id=MELODIC_VOICE)
        for emotion in EMOTIONS
    }


def test_speech_is_audible_bounded_and_of_the_default_voice(short: Speech) -> None:
    assert short.voice_id == "jm_kumo"
    assert short.sample_rate_hz == SAMPLE_RATE_HZ
    assert short.waveform.dtype == np.float32
    assert 0.5 < short.duration_s < 3.0
    assert 0.1 < np.abs(short.waveform).max() < 1.0
    assert not short.truncated


def test_same_arguments_give_the_same_samples(kokoro: KokoroSpeech, short: Speech) -> None:
    assert np.array_equal(say(kokoro).waveform, short.waveform)


def test_voices_sound_different(kokoro: KokoroSpeech) -> None:
    some = kokoro.voices[:: 1 + len(kokoro.voices) // 3]
    assert len(some) > 1
    spoken = [say(kokoro, "Yes.", voice_id=voice) for voice in some]
    assert [speech.voice_id for speech in spoken] == list(some)
    assert len({speech.waveform.tobytes() for speech in spoken}) == len(some)


def test_pieces_of_the_stream_are_the_whole_speech(kokoro: KokoroSpeech, told: Speech) -> None:
    stream = kokoro.stream(" ".join(SENTENCES), max_duration_s=30.0, token=CancellationToken())
    pieces = list(stream)
    assert len(pieces) == len(SENTENCES)
    assert np.array_equal(np.concatenate([piece.waveform for piece in pieces]), told.waveform)
    assert tuple(itertools.chain(*(piece.phonemes for piece in pieces))) == told.phonemes
    assert (stream.voice_id, stream.truncated) == (told.voice_id, False)
    for piece in pieces:
        times_s = [time_s for p in piece.phonemes for time_s in (p.start_s, p.end_s)]
        assert piece.start_s <= times_s[0] < times_s[-1] <= piece.end_s + 1e-9


def test_level_holds_from_sentence_to_sentence_without_knowing_the_later_ones(
    kokoro: KokoroSpeech,
) -> None:
    """The voice stresses short sentences, by up to 2.4 dB; nothing but that may be heard."""
    script = "Hi! Markets fell sharply after the bank raised its rates. No. Nobody knows why."
    stream = kokoro.stream(script, max_duration_s=30.0, token=CancellationToken())
    pieces = list(stream)
    levels_db = [speech_level_db([piece]) for piece in pieces]
    assert speech_level_db(pieces) == pytest.approx(-20.0, abs=1.0)
    assert max(abs(b - a) for a, b in itertools.pairwise(levels_db)) < 3.0
    assert levels_db[1] == pytest.approx(levels_db[3], abs=2.0)


def test_speed_changes_the_length(kokoro: KokoroSpeech, short: Speech) -> None:
    slow_s, fast_s = (say(kokoro, speed=s).duration_s for s in (0.8, 1.2))
    assert slow_s > 1.1 * short.duration_s > 1.1 * 1.05 * fast_s


def test_emotions_change_the_tempo(readings: Mapping[str, Speech]) -> None:
    """By the reciprocal of 1.15, 1.06, 1.04, 1 and 0.9, nearly: pauses do not scale."""
    length_s = {emotion: speech.duration_s for emotion, speech in readings.items()}
    order = sorted(EMOTIONS, key=length_s.__getitem__)
    assert order == ["manic", "excited", "angry", "neutral", "sad"]
    assert length_s["manic"] < 0.92 * length_s["neutral"] < 0.92 * 0.95 * length_s["sad"]


def test_emotions_change_the_pitch(readings: Mapping[str, Speech]) -> None:
    """By factors of 1.08, 1.05, 0.97 and 0.96."""
    pitch_hz = {emotion: median_pitch_hz(speech) for emotion, speech in readings.items()}
    high = min(pitch_hz["manic"], pitch_hz["excited"])
    low = max(pitch_hz["sad"], pitch_hz["angry"])
    assert high > 1.02 * pitch_hz["neutral"] > 1.02 * 1.01 * low


def test_emotions_change_the_loudness(readings: Mapping[str, Speech]) -> None:
    """By +3, +3, +2 and -3 dB, of which the limiter takes some."""
    level_db = {emotion: loudness_db(speech) for emotion, speech in readings.items()}
    gains = {emotion: level_db[emotion] - level_db["neutral"] for emotion in EMOTIONS}
    assert gains["sad"] == pytest.approx(-3.0, abs=0.7)
    assert gains["excited"] == pytest.approx(2.0, abs=0.7)
    assert gains["angry"] == pytest.approx(3.0, abs=1.0)
    assert gains["manic"] == pytest.approx(3.0, abs=1.0)


def test_script_longer_than_the_slot_is_cut_at_a_sentence_with_a_warning(
    kokoro: KokoroSpeech, caplog: pytest.LogCaptureFixture
) -> None:
    two = say(kokoro, " ".join(SENTENCES[:2]))
    assert our_warnings(caplog) == []
    max_duration_s = two.duration_s + 0.1
    cut = say(kokoro, " ".join(SENTENCES), max_duration_s=max_duration_s)
    assert np.array_equal(cut.waveform, two.waveform)
    assert cut.truncated
    (record,) = our_warnings(caplog)
    assert record.message == "Script cut: it is longer than the slot"
    assert vars(record)["sentences"] == 3
    assert vars(record)["sentences_spoken"] == 2
    assert "evening" not in str(vars(record))


@pytest.mark.parametrize("max_duration_s", slow_but([0.7], [0.05, 0.7, 1.7]))
def test_sentence_longer_than_the_slot_is_cut_to_fit(
    kokoro: KokoroSpeech, max_duration_s: float
) -> None:
    sentence = "Good evening to all, who watch this tonight."
    speech = say(kokoro, sentence, max_duration_s=max_duration_s)
    assert speech.truncated
    assert 0 < len(speech.waveform) <= int(max_duration_s * SAMPLE_RATE_HZ)
    assert abs(speech.waveform[-1]) < 0.01  # no click at the cut


def test_long_sentence_after_a_short_one_does_not_leave_the_slot_silent(
    kokoro: KokoroSpeech,
) -> None:
    script = "Good evening. The ministers of the seven countries met for the third time this week."
    speech = say(kokoro, script, max_duration_s=3.0)
    assert speech.truncated
    assert script.startswith(speech.text)
    assert " ".join(word.text for word in speech.words) == speech.text
    assert 2.1 < speech.duration_s <= 3.0


def test_what_cannot_be_spoken_is_left_out(kokoro: KokoroSpeech, short: Speech) -> None:
    with_noise = say(kokoro, f"... ♪♫! {SHORT} !?!")
    assert np.array_equal(with_noise.waveform, short.waveform)
    assert not with_noise.truncated


@pytest.mark.parametrize("script", ["...", "!?! -- ...", "♪♫", "\u200b", "\n"])
def test_script_without_anything_to_speak_is_refused(kokoro: KokoroSpeech, script: str) -> None:
    with pytest.raises(InvalidRecipeError, match=r"^audio_track\.script: nothing in it can be"):
        say(kokoro, script)


def test_unknown_voice_is_refused_and_the_known_ones_named(kokoro: KokoroSpeech) -> None:
    with pytest.raises(InvalidRecipeError, match="voice_id 'af_nobody' is not known") as caught:
        say(kokoro, voice_id="af_nobody")
    assert all(voice in str(caught.value) for voice in kokoro.voices)


class CancelledAtPoll(CancellationToken):
    """Is cancelled while it is polled for the nth time."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self._n = n
        self.polls = 0

    def raise_if_cancelled(self) -> None:
        self.polls += 1
        if self.polls == self._n:
            self.cancel()
        super().raise_if_cancelled()


@pytest.mark.parametrize("n", [1, 3])
def test_cancelled_speech_stops_before_the_next_sentence(kokoro: KokoroSpeech, n: int) -> None:
    token = CancelledAtPoll(n)
    with pytest.raises(StageCancelled):
        say(kokoro, " ".join(SENTENCES), token=token)
    assert token.polls == n


def test_durations_add_up_to_the_samples(mini_models: Path) -> None:
    session = onnxruntime.InferenceSession(
        mini_models / "mini" / "kokoro" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    tokens = np.array([[0, *range(43, 63), 0]])
    style = np.load(mini_models / "mini" / "kokoro" / "voices.npz")["jm_kumo"][tokens.size - 3]
    inputs = {"tokens": tokens, "style": style, "speed": np.ones(1, dtype=np.float32)}
    samples, durations = session.run(["audio", "duration"], inputs)
    assert durations.shape == tokens.shape
    assert durations.min() >= 1
    assert durations.sum() * 600 == samples.size


def test_phonemes_spell_the_script_in_order_and_within_the_speech(told: Speech) -> None:
    letters = "".join(p.symbol for p in told.phonemes if p.symbol not in "ˈˌː .")
    assert letters == "ɡʊdivnɪŋɪtɹAnzɪnðənɔɹθðəsʌnʃInz"
    times_s = [time_s for p in told.phonemes for time_s in (p.start_s, p.end_s)]
    assert times_s == sorted(times_s)
    assert 0 <= times_s[0] < 0.2
    assert told.duration_s - 0.1 < times_s[-1] <= told.duration_s


def test_sentences_are_apart_by_silence(told: Speech) -> None:
    pauses = [
        (before.end_s, after.start_s)
        for before, after in itertools.pairwise(told.phonemes)
        if after.start_s - before.end_s > 0.2
    ]
    assert len(pauses) == len(SENTENCES) - 1
    for start_s, end_s in pauses:
        middle = int((start_s + end_s) / 2 * SAMPLE_RATE_HZ)
        pause = told.waveform[middle - SAMPLE_RATE_HZ // 20 : middle + SAMPLE_RATE_HZ // 20]
        assert np.abs(pause).max() < 0.01


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_phonemes_sound_when_they_say(readings: Mapping[str, Speech], emotion: str) -> None:
    """Vowels are louder than voiceless stops, most so without any shift of the times."""
    shifts_s = np.arange(-8, 9) * 0.02
    contrasts_db = [vowel_contrast_db(readings[emotion], shift_s) for shift_s in shifts_s]
    assert max(contrasts_db) > 20
    assert abs(shifts_s[int(np.argmax(contrasts_db))]) <= 0.02


def test_cut_sentence_has_no_phonemes_after_its_end(kokoro: KokoroSpeech) -> None:
    speech = say(kokoro, "Good evening to all who watch tonight.", max_duration_s=0.3)
    assert speech.phonemes
    assert speech.phonemes[-1].end_s <= speech.duration_s


def test_missing_files_are_named(tmp_path: Path, mini_models: Path) -> None:
    with pytest.raises(VortexInitializationError, match=f"^kokoro: {tmp_path} must hold either"):
        KokoroSpeech(tmp_path, default_voice="jm_kumo")
    (tmp_path / "model.onnx").symlink_to(mini_models / "mini" / "kokoro" / "model.onnx")
    with pytest.raises(VortexInitializationError, match=r"voices\.npz cannot be loaded: "):
        KokoroSpeech(tmp_path, default_voice="jm_kumo")


def test_file_that_is_no_network_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no network")
    with pytest.raises(VortexInitializationError, match=r"model\.onnx cannot be") as caught:
        KokoroSpeech(tmp_path, default_voice="jm_kumo")
    assert "\n" not in str(caught.value)


def test_unknown_default_voice_is_refused_and_the_known_ones_named(mini_models: Path) -> None:
    with pytest.raises(VortexInitializationError, match=r"default_voice 'nobody' .* jm_kumo$"):
        KokoroSpeech(mini_models / "mini" / "kokoro", default_voice="nobody")


def test_automatic_default_voice_is_the_best_one_there(mini_models: Path) -> None:
    kokoro = KokoroSpeech(mini_models / "mini" / "kokoro", default_voice="auto", threads=1)
    best = next(voice for voice in PREFERRED if voice in kokoro.voices)
    assert say(kokoro).voice_id == best


def our_warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "vortex.models.kokoro.stream"]


def vowel_contrast_db(speech: Speech, shift_s: float) -> float:
    """Return how much louder vowels are than voiceless stops, if all times came later."""
    per_s = 200
    frames = int(speech.duration_s * per_s)
    level_db = 20 * np.log10(
        envelope(speech.waveform, SAMPLE_RATE_HZ, per_s, frames).clip(min=1e-3)
    )
    middles = {
        kind: [
            int(((p.start_s + p.end_s) / 2 + shift_s) * per_s)
            for p in speech.phonemes
            if p.symbol in kind
        ]
        for kind in (VOWELS, VOICELESS_STOPS)
    }
    vowels_db, stops_db = (level_db[np.clip(at, 0, frames - 1)] for at in middles.values())
    return float(np.mean(vowels_db) - np.mean(stops_db))


def loudness_db(speech: Speech) -> float:
    """Return the level of what is spoken, pauses left out."""
    frames = framed(speech.waveform, SAMPLE_RATE_HZ // 20)
    levels = np.sqrt(np.mean(np.square(frames), axis=1))
    return float(20 * np.log10(np.median(levels[levels > 0.1 * levels.max()])))


def speech_level_db(pieces: list[SpeechPiece]) -> float:
    """Return the root mean square of what is louder than a pause."""
    waveform = np.concatenate([piece.waveform for piece in pieces])
    speech = waveform[np.abs(waveform) > 0.01]
    return float(10 * np.log10(np.mean(np.square(speech))))


def median_pitch_hz(speech: Speech) -> float:
    """Return the median of the voiced frames' pitch: the peak of their autocorrelation."""
    lowest_hz, highest_hz = 120, 400
    pitches = []
    for frame in framed(speech.waveform, SAMPLE_RATE_HZ // 25):
        centred = frame - frame.mean()
        correlation = np.correlate(centred, centred, "full")[len(centred) - 1 :]
        shortest = SAMPLE_RATE_HZ // highest_hz
        lag = shortest + int(np.argmax(correlation[shortest : SAMPLE_RATE_HZ // lowest_hz]))
        if correlation[lag] > 0.6 * correlation[0] > 0.5:
            pitches.append(SAMPLE_RATE_HZ / lag)
    return float(np.median(pitches))


def framed(waveform: np.ndarray, samples: int) -> np.ndarray:
    whole = len(waveform) // samples * samples
    return waveform[:whole].reshape(-1, samples)
