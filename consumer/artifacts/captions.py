"""Captions: the spoken words as cues of broadcast length, exact to a frame."""

from __future__ import annotations

import math
import struct
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import webvtt

from vortex.models.kokoro.speech import TimedPhoneme, TimedWord

LINE_CHARS = 37
MAX_CUE_S = 6.0
MIN_CUE_S = 1.0
_LONG_PAUSE_S = 1.0
_SENTENCE_ENDS = ".!?…"
_ROUNDING = 1e-6  # of a frame
_CLOSING = "\"')]\u2019\u201d"


@dataclass(frozen=True)
class Cue:
    """One caption, of one line or two."""

    start_frame: int
    end_frame: int
    """The first frame without it."""
    lines: tuple[str, ...]


def cues_of(words: Sequence[TimedWord], fps: int, frames: int) -> list[Cue]:
    """Return the captions of words in the order in which they are heard.

    Each is seen from the frame in which its first word begins to that in which its last one ends.
    """
    cues: list[Cue] = []
    for group in _grouped([part for word in words for part in _short(word)]):
        free = cues[-1].end_frame if cues else 0
        start = max(free, math.floor(group[0].start_s * fps + _ROUNDING))
        end = min(frames, max(start + 1, math.ceil(group[-1].end_s * fps - _ROUNDING)))
        if start < end:
            cues.append(Cue(start, end, _lines(_text(group))))
    return cues


def as_webvtt(cues: Sequence[Cue], fps: int, phonemes: Sequence[TimedPhoneme] = ()) -> str:
    """Return a WebVTT document.

    Phonemes are listed in a comment at its end, which players skip: a line each with start and end
    in milliseconds and the symbol.
    """
    document = webvtt.WebVTT()
    for cue in cues:
        text = "\n".join(cue.lines)
        for character, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(character, written)
        start, end = _timestamp(cue.start_frame, fps), _timestamp(cue.end_frame, fps)
        document.captions.append(webvtt.Caption(start, end, text))
    content: str = document.content
    sounds = [
        f"{round(each.start_s * 1000)} {round(each.end_s * 1000)} {each.symbol}\n"
        for each in phonemes
        if each.symbol.strip()
    ]
    return "".join([content, "\n", *(["NOTE phonemes\n", *sounds] if sounds else [])])


def as_timed_text(cue: Cue) -> bytes:
    """Return a sample of a 3GPP timed text track (tx3g)."""
    text = "\n".join(cue.lines).encode()
    return struct.pack(">H", len(text)) + text


def _short(word: TimedWord) -> Iterator[TimedWord]:
    """Divide a word that no line holds, and leave out what cannot be shown."""
    text = "".join(letter for letter in word.text if letter.isprintable()).strip()
    parts = [text[at : at + LINE_CHARS] for at in range(0, len(text), LINE_CHARS)]
    each_s = (word.end_s - word.start_s) / max(1, len(parts))
    for number, part in enumerate(parts):
        start_s = word.start_s + number * each_s
        if part.strip():
            yield TimedWord(part, start_s, start_s + each_s)


def _grouped(words: Sequence[TimedWord]) -> Iterator[list[TimedWord]]:
    group: list[TimedWord] = []
    for word in words:
        if group and _ends_before(group, word):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _ends_before(group: list[TimedWord], word: TimedWord) -> bool:
    long_enough = group[-1].end_s - group[0].start_s >= MIN_CUE_S
    ends_sentence = group[-1].text.rstrip(_CLOSING).endswith(tuple(_SENTENCE_ENDS))
    return (
        len(textwrap.wrap(_text([*group, word]), LINE_CHARS)) > 2
        or word.end_s - group[0].start_s > MAX_CUE_S
        or word.start_s - group[-1].end_s > _LONG_PAUSE_S
        or (ends_sentence and long_enough)
    )


def _text(words: Sequence[TimedWord]) -> str:
    return " ".join(word.text for word in words)


def _lines(text: str) -> tuple[str, ...]:
    """Wrap into lines of about the same length."""
    count = len(textwrap.wrap(text, LINE_CHARS))
    for width in range(max(1, len(text) // count), LINE_CHARS):
        lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        if len(lines) == count and max(map(len, lines)) <= width:
            return tuple(lines)
    return tuple(textwrap.wrap(text, LINE_CHARS))


def _timestamp(frame: int, fps: int) -> str:
    seconds, milliseconds = divmod(round(frame * 1000 / fps), 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}"
