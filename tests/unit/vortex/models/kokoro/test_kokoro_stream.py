from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from vortex.errors import InvalidRecipeError
from vortex.models.kokoro import SAMPLE_RATE_HZ, SpeechStream, TimedPhoneme
from vortex.models.kokoro.limits import Fitting
from vortex.models.kokoro.stream import Said
from vortex.utils.cancellation import CancellationToken, StageCancelled

SCRIPT = "One two. Three four five. Six."
WORD_S = 0.5
PAUSE_S = 0.25


class Sayer:
    """Says each word as half a second of a tone, `#` not at all, and remembers the sentences."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def __call__(self, sentence: str) -> Said | None:
        self.sentences.append(sentence)
        if "#" in sentence:
            return None
        words = len(sentence.split())
        time_s = np.arange(int(words * WORD_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        waveform = (0.2 * np.sin(2 * np.pi * 200 * time_s)).astype(np.float32)
        return waveform, [TimedPhoneme("a", i * WORD_S, (i + 1) * WORD_S) for i in range(words)]


def stream(say: Sayer, script: str = SCRIPT, **changes: Any) -> SpeechStream:
    settings: dict[str, Any] = {
        "voice_id": "someone",
        "level_dbfs": -20.0,
        "max_duration_s": 30.0,
        "token": CancellationToken(),
    }
    return SpeechStream(script, say, fit_all, **{**settings, **changes})


def fit_all(sentence: str, seconds: float) -> Fitting:
    return Fitting(sentence, whole=True)


def test_sentence_is_made_when_it_is_asked_for_and_no_sooner() -> None:
    say = Sayer()
    pieces = iter(stream(say))
    assert say.sentences == []
    for n in (1, 2, 3):
        next(pieces)
        assert len(say.sentences) == n
    assert list(pieces) == []


def test_piece_does_not_depend_on_what_comes_later() -> None:
    short, long = list(stream(Sayer(), "One two.")), list(stream(Sayer()))
    assert np.array_equal(short[0].waveform, long[0].waveform)
    assert short[0].phonemes == long[0].phonemes


def test_pieces_follow_one_another_with_a_pause_before_each_but_the_first() -> None:
    pieces = list(stream(Sayer()))
    assert pieces[0].start_s == 0.0
    for before, after in itertools.pairwise(pieces):
        assert after.start_s == before.end_s
        pause = after.waveform[: int(PAUSE_S * SAMPLE_RATE_HZ)]
        assert not pause.any()
    assert pieces[-1].end_s == pytest.approx(6 * WORD_S + 2 * PAUSE_S)


def test_phonemes_come_at_absolute_times_where_they_sound() -> None:
    pieces = list(stream(Sayer()))
    starts_s = [phoneme.start_s for piece in pieces for phoneme in piece.phonemes]
    assert starts_s == pytest.approx([0.0, 0.5, 1.25, 1.75, 2.25, 3.0])


@pytest.mark.parametrize(
    ("max_duration_s", "sentences", "truncated"),
    [(3.5, 3, False), (3.4, 2, True), (2.75, 2, True), (2.7, 1, True), (1.0, 1, True)],
)
def test_stream_never_goes_beyond_its_length_and_knows_at_its_end_whether_it_was_cut(
    max_duration_s: float, sentences: int, truncated: bool
) -> None:
    cut = stream(Sayer(), max_duration_s=max_duration_s)
    pieces = list(cut)
    assert len(pieces) == sentences
    assert pieces[-1].end_s <= max_duration_s
    assert cut.truncated is truncated


def test_first_sentence_that_is_too_long_is_cut_at_a_word() -> None:
    cut = stream(Sayer(), "One two three four. Five.", max_duration_s=1.2)
    (piece,) = cut
    assert (piece.text, piece.end_s) == ("One two", pytest.approx(2 * WORD_S))
    assert cut.truncated


LONG = "Good evening. The markets fell again today, as the banks had to raise rates in the north."


def test_later_sentence_that_does_not_fit_is_cut_at_a_word_where_no_clause_ends() -> None:
    say = Sayer()
    script = "Good evening. The markets fell again today in the north and in all of the south."
    cut = stream(say, script, max_duration_s=5.0)
    pieces = list(cut)
    assert [piece.text for piece in pieces] == ["Good evening.", "The markets fell again today"]
    assert cut.truncated
    assert pieces[-1].end_s == pytest.approx(1.0 + PAUSE_S + 5 * WORD_S)


def test_later_sentence_that_does_not_fit_is_cut_at_a_clause_where_one_ends() -> None:
    pieces = list(stream(Sayer(), LONG, max_duration_s=5.2))
    assert [piece.text for piece in pieces] == ["Good evening.", "The markets fell again today,"]


def test_clause_that_ends_early_is_passed_over_rather_than_leave_most_of_the_slot_silent() -> None:
    (piece,) = stream(Sayer(), "Yes, the markets fell again today anywhere.", max_duration_s=3.2)
    assert piece.text == "Yes, the markets fell again today"


@pytest.mark.parametrize("max_duration_s", np.linspace(0.3, 10.0, 40).tolist())
def test_slot_is_filled_as_far_as_the_script_goes(max_duration_s: float) -> None:
    cut = stream(Sayer(), LONG, max_duration_s=max_duration_s)
    pieces = list(cut)
    said = " ".join(piece.text for piece in pieces)
    assert LONG.startswith(said)
    assert cut.truncated is (said != LONG)
    assert 0 < pieces[-1].end_s <= max_duration_s
    # Weak words at the end, the pause, or a clause that ends before may be left out.
    assert not cut.truncated or max_duration_s - pieces[-1].end_s < 3.2


def test_next_sentence_is_left_out_rather_than_cut_to_a_word_or_two() -> None:
    cut = stream(Sayer(), "Good evening. The markets fell again.", max_duration_s=2.4)
    assert [piece.text for piece in cut] == ["Good evening."]
    assert cut.truncated


def test_full_stop_of_an_abbreviation_does_not_end_a_sentence() -> None:
    say = Sayer()
    list(stream(say, "Mr. Brown of the U.S. Navy met J. K. Smith at 5 p.m. today. He left. Why?"))
    assert say.sentences == [
        "Mr. Brown of the U.S. Navy met J. K. Smith at 5 p.m. today.",
        "He left.",
        "Why?",
    ]


def test_what_cannot_be_spoken_leaves_no_pause() -> None:
    with_noise = list(stream(Sayer(), "# #. One two. ###! Six. #"))
    without = list(stream(Sayer(), "One two. Six."))
    assert [piece.start_s for piece in with_noise] == [piece.start_s for piece in without]
    assert len(with_noise) == 2


def test_script_without_anything_to_speak_is_refused() -> None:
    with pytest.raises(InvalidRecipeError, match=r"^audio_track\.script: nothing in it can be"):
        next(iter(stream(Sayer(), "#. ##!")))


def test_cancelled_stream_makes_no_further_sentence() -> None:
    say, token = Sayer(), CancellationToken()
    pieces = iter(stream(say, token=token))
    next(pieces)
    token.cancel()
    with pytest.raises(StageCancelled):
        next(pieces)
    assert len(say.sentences) == 1


def test_stream_can_be_left_early_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    left = stream(Sayer())
    pieces = iter(left)
    next(pieces)
    del left, pieces
    assert caplog.records == []
