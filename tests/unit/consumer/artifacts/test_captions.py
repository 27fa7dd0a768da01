from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import webvtt
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.artifacts.captions import LINE_CHARS, as_webvtt, cues_of
from consumer.artifacts.encoder import SlotEncoder
from consumer.artifacts.media import EncodedMedia
from consumer.artifacts.store import ArtifactStore
from tests.support.speech import speeches
from vortex.models.kokoro import Speech
from vortex.models.kokoro.limits import can_be_spoken
from vortex.models.kokoro.speech import TimedPhoneme, TimedWord

FPS = 12
RATE_HZ = 24_000


def words(text: str, each_s: float = 0.5) -> list[TimedWord]:
    return [TimedWord(w, n * each_s, (n + 1) * each_s) for n, w in enumerate(text.split())]


def encoded(path: Path, said: Sequence[TimedWord], seconds: float, fps: int = FPS) -> EncodedMedia:
    encoder = SlotEncoder(path, preset="ultrafast", words=lambda: said)
    waveform = np.zeros(round(seconds * RATE_HZ), np.float32)
    encoder.begin(waveform=waveform, sample_rate_hz=RATE_HZ, fps=fps, width=64, height=64)
    encoder.write(np.zeros((round(seconds * fps), 64, 64, 3), np.uint8))
    return encoder.finish(60.0)


def track(path: Path) -> list[tuple[float, float, str]]:
    """Return the cues of the track of timed text: start, end, text."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.subtitles[0]) if p.size > 2]
        assert all(p.pts is not None and p.time_base is not None for p in packets)
        return [
            (float(p.pts * p.time_base), float((p.pts + p.duration) * p.time_base), said.decode())
            for p in packets
            for said in [bytes(p)[2:]]
        ]


@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8"), min_size=1, max_size=90), st.floats(0, 3)),
        max_size=40,
    ),
    st.integers(1, 60),
)
@example(said=[(" ", 0.0)], fps=1)
@example(said=[("a" * 37 + "\u00a0 ", 1.0), ("\n", 1.0)], fps=12)
def test_cues_follow_each_other_in_lines_of_broadcast_length(
    said: list[tuple[str, float]], fps: int
) -> None:
    at, timed = 0.0, []
    for text, length_s in said:
        timed.append(TimedWord(text, at, at + length_s))
        at += length_s
    frames = max(1, round(at * fps))
    cues = cues_of(timed, fps, frames)
    for cue, following in zip(cues, [*cues, None][1:], strict=True):
        assert cue.start_frame < cue.end_frame <= frames
        assert following is None or cue.end_frame <= following.start_frame
        assert 1 <= len(cue.lines) <= 2
        assert all(len(line) <= LINE_CHARS for line in cue.lines)
    assert len(webvtt.from_string(as_webvtt(cues, fps)).captions) == len(cues)


def test_cue_is_seen_from_the_frame_of_its_first_word_to_that_of_its_last() -> None:
    (cue,) = cues_of([TimedWord("Good", 0.30, 0.5), TimedWord("evening.", 0.5, 1.02)], FPS, 24)
    assert (cue.start_frame, cue.end_frame) == (3, 13)
    assert "00:00:00.250 --> 00:00:01.083" in as_webvtt([cue], FPS)


def test_phonemes_stand_in_a_comment_that_players_skip() -> None:
    (cue,) = cues_of([TimedWord("Go.", 0.3, 0.6)], FPS, 12)
    sounds = [TimedPhoneme("k", 0.3, 0.4), TimedPhoneme(" ", 0.4, 0.41), TimedPhoneme("O", 0.41, 1)]
    document = as_webvtt([cue], FPS, sounds)
    assert document.endswith("Go.\n\nNOTE phonemes\n300 400 k\n410 1000 O\n")
    assert document.startswith(as_webvtt([cue], FPS))
    assert [caption.text for caption in webvtt.from_string(document).captions] == ["Go."]


def test_markup_in_a_script_is_text(tmp_path: Path) -> None:
    media = encoded(tmp_path / "a.mp4", words("<b>AT&T</b> --> {x}"), 4.0)
    assert media.captions is not None
    assert "&lt;b&gt;AT&amp;T&lt;/b&gt; --&gt; {x}" in media.captions
    assert [text for _, _, text in track(media.path)] == ["<b>AT&T</b> --> {x}"]


def test_track_and_document_say_the_same_at_the_same_frames(tmp_path: Path) -> None:
    text = "It rained all day, and the river rose by two metres. Nobody was hurt. Good night."
    media = encoded(tmp_path / "a.mp4", words(text), 10.0)
    assert media.captions is not None
    document = [
        (caption.start_in_seconds, caption.end_in_seconds, caption.text)
        for caption in webvtt.from_string(media.captions).captions
    ]
    in_track = track(media.path)
    assert [said for *_, said in in_track] == [said for *_, said in document]
    assert len(in_track) >= 3
    for (start, end, _), caption in zip(
        in_track, webvtt.from_string(media.captions).captions, strict=True
    ):
        assert start * FPS == pytest.approx(round(start * FPS), abs=0.01)
        assert end * FPS == pytest.approx(round(end * FPS), abs=0.01)
        assert caption.start == f"00:00:{start:06.3f}"
        assert caption.end == f"00:00:{end:06.3f}"


def test_captions_are_stored_beside_the_video(tmp_path: Path) -> None:
    for url in (str(tmp_path / "store"), "memory://captions"):
        store = ArtifactStore(url)
        media = encoded(store.scratch_path("main", 7), words("Good evening."), 2.0)
        stored = store.put(media, "main", 7)
        assert stored.captions_uri == stored.uri.removesuffix(".mp4") + ".vtt"
        assert store._fs.cat_file(stored.captions_uri).decode() == media.captions


def test_no_captions_when_switched_off(tmp_path: Path) -> None:
    encoder = SlotEncoder(tmp_path / "a.mp4", preset="ultrafast")
    encoder.begin(
        waveform=np.zeros(RATE_HZ, np.float32), sample_rate_hz=RATE_HZ, fps=FPS, width=64, height=64
    )
    encoder.write(np.zeros((FPS, 64, 64, 3), np.uint8))
    media = encoder.finish(60.0)
    assert media.captions is None
    with av.open(str(media.path)) as container:
        assert not container.streams.subtitles


def test_captions_of_real_speech_are_seen_while_it_is_heard(mini_models: Path) -> None:
    for speech in speeches(mini_models, 2):
        assert " ".join(word.text for word in speech.words) == speech.text
        for word, following in zip(speech.words, speech.words[1:], strict=False):
            assert word.start_s < word.end_s <= following.start_s + 1e-6
        assert speech.words[-1].end_s <= speech.duration_s + 1e-6
        frames = round(speech.duration_s * FPS)
        seen = np.zeros(len(speech.waveform), bool)
        for cue in cues_of(speech.words, FPS, frames):
            seen[cue.start_frame * RATE_HZ // FPS : cue.end_frame * RATE_HZ // FPS] = True
        heard = np.square(speech.waveform)
        assert heard[seen].sum() > 0.9 * heard.sum()


def word_edges(speech: Speech) -> tuple[list[float], list[float]]:
    """Return when words begin and end, from phonemes and the spaces and pauses between them."""
    starts: list[float] = []
    ends: list[float] = []
    sounding = False
    for phoneme in speech.phonemes:
        spoken = can_be_spoken(phoneme.symbol)
        pause = bool(ends) and phoneme.start_s > ends[-1] + 0.001  # also between sentences
        if spoken and (not sounding or pause):
            starts.append(phoneme.start_s)
            ends.append(phoneme.end_s)
        elif spoken:
            ends[-1] = phoneme.end_s
        sounding = spoken
    return starts, ends


def check_phonemes(models: Path, tmp_path: Path, count: int) -> None:
    """Compare the track of finished files with the speech model's own times, at 25 fps."""
    fps = 25
    off: list[float] = []
    for number, speech in enumerate(speeches(models, count)):
        media = encoded(tmp_path / f"{number}.mp4", speech.words, speech.duration_s, fps)
        starts, ends = word_edges(speech)
        cues = track(media.path)
        off.append(abs(cues[0][0] - starts[0]) * fps)
        off.append(abs(cues[-1][1] - ends[-1]) * fps)
        off += [min(abs(start - edge) for edge in starts) * fps for start, *_ in cues]
        off += [min(abs(end - edge) for edge in ends) * fps for _, end, _ in cues]
    print(f"{count} slots: {len(off)} edges of captions, at most {max(off):.2f} frames off")
    assert max(off) <= 1.0 + 0.03  # the track counts milliseconds


def test_captions_are_at_most_a_frame_off_the_phonemes(mini_models: Path, tmp_path: Path) -> None:
    check_phonemes(mini_models, tmp_path, count=3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_captions_of_fifty_slots_are_at_most_a_frame_off_the_phonemes(
    mini_models: Path, tmp_path: Path
) -> None:
    check_phonemes(mini_models, tmp_path, count=50)


def test_words_that_were_cut_are_not_in_the_captions(mini_models: Path) -> None:
    (speech,) = speeches(mini_models, 1, max_duration_s=1.5)
    said = " ".join(word.text for word in speech.words)
    assert said == speech.text != ""
    assert speech.words[-1].end_s <= 1.5
    assert len(said) < len("Good evening. Here is the news.")
