"""How much of a script reaches the network: the real tokenizer, and a network that only counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kokoro_onnx.config import DEFAULT_VOCAB

from tests.support.cases import slow_but
from vortex.errors import InvalidRecipeError
from vortex.models.kokoro import KokoroSpeech, Speech, speaker
from vortex.models.kokoro.backend import MAX_TOKENS, SAMPLES_PER_UNIT
from vortex.models.kokoro.reading import ReadWord, read_aloud
from vortex.utils.cancellation import CancellationToken

NEWS = (
    "Markets fell sharply after the bank raised its rates, and nobody knows why the minister"
    " resigned on Tuesday morning in Edinburgh."
)
HTML = '<p class="a">&amp;&nbsp;&copy; <b>$$$ ### @@@ %%% &&& ***</b></p>'
SCRIPT_LIMIT = 5000
SCRIPTS = {
    "digits": "7" * 4000,
    "spaced digits": "7 " * 2500,
    "grouped digits": "777,777,777 " * 400,
    "html": HTML,
    "much html": HTML * 70,
    "entities": "&#128512;" * 500,
    "full stops": "Hello" + "." * 4900,
    "spaced stops": ". " * 2000 + "Hello",
    "marks in front": "!" * 4900 + "Hello",
    "dashes": "a —" * 1600,
    "emoji": "\U0001f600" * 5000,
    "spaced emoji": "\U0001f600 " * 2500,
    "emoji and commas": "\U0001f600," * 2500,
    "joined emoji": "\U0001f469\U0001f3fd\u200d\u2764\ufe0f\u200d\U0001f48b " * 500,
    "Chinese": "\u6f22" * 5000,
    "Chinese and commas": "\u6f22," * 2500,
    "Arabic": "\u0645\u0631\u062d\u0628\u0627 " * 800,
    "Hebrew": "\u05e9\u05dc\u05d5\u05dd" * 1200,
    "overridden direction": "\u202eGood evening " * 350,
    "one long word": "a" * 5000,
    "consonants": "xkcdq" * 1000,
    "euros": "\u20ac" * 5000,
    "dollars": "$ " * 2500,
    "Roman numerals": "MCMLXXXVIII " * 400,
    "addresses": "https://www.example.com/a/b?c=d&e=f " * 138,
    "combining marks": "z\u0334\u0338\u0337\u0321\u0322\u031b" * 700,
    "null bytes": "a\0" * 2500,
    "invisible": "\u200b" * 4980 + "Good evening.",
    "many sentences": "I. " * 1666,
    "many silent sentences": "?! " * 1600 + "Good evening.",
    "news": NEWS * 38,
    "lone surrogates": "\ud800Hi" * 1600,
}  # fmt: skip


class CountingBackend:
    """Gives each token the same time and a tone, at the rate of ordinary speech, and counts."""

    vocabulary: Mapping[str, int] = DEFAULT_VOCAB
    voices = ("af_heart",)
    sounds_early_s = 0.0

    def __init__(self) -> None:
        self.runs: list[int] = []

    @property
    def tokens(self) -> int:
        """How many tokens were spoken in all."""
        return sum(self.runs)

    def run(
        self, tokens: Sequence[int], voice: str, tempo: float, **_: object
    ) -> tuple[np.ndarray, np.ndarray]:
        assert 1 <= len(tokens) <= MAX_TOKENS
        self.runs.append(len(tokens))
        durations = np.full(len(tokens) + 2, max(1, round(2 / tempo)))
        time = np.arange(durations.sum() * SAMPLES_PER_UNIT)
        return (0.2 * np.sin(time / 20)).astype(np.float32), durations


@pytest.fixture(scope="module")
def counting() -> KokoroSpeech:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(speaker, "load_backend", lambda *_, **__: CountingBackend())
        return KokoroSpeech(Path(), default_voice="auto")


def say(kokoro: KokoroSpeech, script: str, **changes: Any) -> tuple[int, Speech | None]:
    """Return how many tokens the network was given, and the speech; None if it was refused."""
    backend = kokoro._backend = CountingBackend()
    settings: dict[str, Any] = {"max_duration_s": 1.0, "token": CancellationToken()}
    try:
        speech = kokoro.synthesize(script, **{**settings, **changes})
    except InvalidRecipeError:
        return backend.tokens, None
    return backend.tokens, speech


def most(duration_s: float) -> float:
    """Return what a slot may cost: that many tokens a second, and the same again for the cut.

    Ordinary speech takes 14 to 21 tokens a second; a single character can be spelled out in 45.
    """
    return 2 * max(64.0, 12 + 40 * 1.08 * duration_s)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("duration_s", slow_but([0.1, 45.0], [0.1, 1.0, 10.0, 45.0]))
def test_network_is_given_what_the_slot_can_hold_and_not_what_the_script_holds(
    counting: KokoroSpeech, name: str, duration_s: float
) -> None:
    given, speech = say(counting, SCRIPTS[name], max_duration_s=duration_s)
    assert given <= most(duration_s)
    assert speech is not None
    assert 0 < speech.duration_s <= duration_s


@pytest.mark.parametrize("name", ["digits", "much html", "Chinese", "one long word", "euros"])
def test_hostile_script_costs_at_most_three_times_ordinary_speech_of_the_same_length(
    counting: KokoroSpeech, name: str
) -> None:
    ordinary, speech = say(counting, f"{NEWS} " * 30, max_duration_s=20.0)
    assert speech is not None
    assert speech.truncated
    hostile, _ = say(counting, SCRIPTS[name], max_duration_s=20.0)
    assert hostile <= 3 * ordinary


ANY_TEXT = st.text(max_size=SCRIPT_LIMIT)
REPEATED = st.builds(
    lambda parts, times: ("".join(parts) * times)[:SCRIPT_LIMIT],
    st.lists(
        st.one_of(
            st.text(min_size=1, max_size=5),
            st.sampled_from([" ", ". ", "7", "$", "&", "\u6f22", "\U0001f600", "\0", "Hello "]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 2000),
)


@given(
    script=st.one_of(ANY_TEXT, REPEATED),
    duration_s=st.floats(0.02, 45.0),
    speed=st.floats(0.8, 1.2),
    emotion=st.sampled_from(["neutral", "sad", "manic"]),
)
@example(script="7" * 4000, duration_s=1.0, speed=1.0, emotion="neutral")
@example(script="\u0d77" * 50, duration_s=0.02, speed=0.8, emotion="sad")
def test_tokens_given_to_the_network_are_bounded_by_the_slot_whatever_the_script(
    counting: KokoroSpeech, script: str, duration_s: float, speed: float, emotion: str
) -> None:
    given, speech = say(counting, script, max_duration_s=duration_s, speed=speed, emotion=emotion)
    assert given <= most(duration_s)
    assert speech is None or 0 < speech.duration_s <= duration_s


class PhonemizerSpy:
    """Counts the characters that are read out to the phonemizer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.longest = 0

        def spied(text: str, *, british: bool) -> list[ReadWord]:
            self.longest = max(self.longest, len(text))
            return read_aloud(text, british=british)

        monkeypatch.setattr(speaker, "read_aloud", spied)


@pytest.mark.parametrize("name", SCRIPTS)
def test_phonemizer_is_never_given_more_text_than_the_slot_could_hold(
    counting: KokoroSpeech, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = PhonemizerSpy(monkeypatch)
    say(counting, SCRIPTS[name])
    assert spy.longest <= 200


@pytest.mark.parametrize(
    ("script", "duration_s", "truncated"),
    [
        (NEWS, 9.0, False),
        (NEWS, 3.0, True),
        (NEWS, 1.0, True),
        (f"{NEWS} Good evening.", 6.8, True),
        ("Good evening.", 1.5, False),
        ("Good evening. ?! ... !!", 1.2, False),
        ("Good evening. " + "?! " * 900, 1.2, False),
        ("Good evening." + "\u2500" * 2000, 1.5, False),
        ("\u200b" * 2000 + "Good evening.", 1.5, False),
        ("Good evening." + "\u2500" * 2000 + " Goodbye.", 1.0, True),
        ("7" * 4000, 45.0, True),
        ("\u6f22" * 30, 1.0, True),
    ],
)
def test_speech_knows_whether_anything_that_can_be_spoken_was_cut(
    counting: KokoroSpeech, script: str, duration_s: float, truncated: bool
) -> None:
    _, speech = say(counting, script, max_duration_s=duration_s)
    assert speech is not None
    assert speech.truncated is truncated


def test_long_sentence_is_cut_at_a_clause_where_there_is_one(counting: KokoroSpeech) -> None:
    clause = "Markets fell sharply after the bank raised its rates,"
    _, alone = say(counting, clause, max_duration_s=10.0)
    _, cut = say(counting, f"{clause} {'and nobody knows why ' * 200}", max_duration_s=4.0)
    assert alone is not None
    assert cut is not None
    assert [p.symbol for p in cut.phonemes] == [p.symbol for p in alone.phonemes]


def test_null_byte_does_not_swallow_the_rest_of_its_sentence(counting: KokoroSpeech) -> None:
    _, with_null = say(counting, "Good\0 evening to you.", max_duration_s=10.0)
    _, without = say(counting, "Good evening to you.", max_duration_s=10.0)
    assert with_null is not None
    assert without is not None
    assert with_null.phonemes == without.phonemes


@pytest.mark.parametrize("script", ["\0", "\ud800", "\u202e\u200b", "\u0334" * 50, "!" * 5000])
def test_script_of_what_makes_no_sound_is_refused_unspoken(
    counting: KokoroSpeech, script: str
) -> None:
    assert say(counting, script, max_duration_s=45.0) == (0, None)
