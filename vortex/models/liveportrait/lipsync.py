"""Moves a face in step with speech: phonemes give mouth shapes, shapes give offsets of keypoints.

Works on LivePortrait's expression vector, and needs neither a landmark detector nor a network.
"""

# ruff: noqa: RUF001 - phonetic symbols are meant, not the letters that look like them

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vortex.utils.audio import envelope

if TYPE_CHECKING:
    from vortex.models.kokoro import Speech, TimedPhoneme

KEYPOINTS = 21

# Mouths are computed at this rate, whatever the video's, and then read at the middle of each frame.
_RATE_HZ = 200
_BLEND_S = 0.08  # from one shape to the next; it begins half of this before the sound does
_CLOSING_S = 0.06  # lips meet and part faster than a jaw moves
_LOUDNESS_S = 0.06  # longer than a period of the voice, shorter than a syllable
_LONGEST_BRIDGE_S = 0.12  # a longer gap between sounds is a pause, and the mouth rests
_SILENCE = 0.05  # share of the loud level below which the mouth is closed
_LOUD_OPENING = 0.7  # of a mouth that knows no phonemes, at the loud level


class _Viseme(NamedTuple):
    """The shape of a mouth.

    Attributes:
        opening: share of the widest opening.
        grin: how far the corners are drawn up, 0 to 15.
        purse: how rounded the lips are, -20 to 15.
    """

    opening: float
    grin: float = 0.0
    purse: float = 0.0


_REST = _Viseme(0.0)
# In shares of 0.67, so that the open vowels come to 0.5 to 0.6 and most of speech stays below 0.3.
_VISEMES = {
    **dict.fromkeys("ɑa", _Viseme(0.85)),
    "æ": _Viseme(0.75, 4),
    **dict.fromkeys("ɒɔ", _Viseme(0.65, 0, 7)),
    **dict.fromkeys("ʌɐ", _Viseme(0.6)),
    "ɛ": _Viseme(0.55, 5),
    **dict.fromkeys("ɜɝɚ", _Viseme(0.45, 0, 4)),
    **dict.fromkeys("əᵊ", _Viseme(0.35)),
    "ɪ": _Viseme(0.35, 6),
    "e": _Viseme(0.45, 7),
    **dict.fromkeys("iᵻ", _Viseme(0.3, 10)),
    "ʊ": _Viseme(0.35, 0, 9),
    "o": _Viseme(0.4, 0, 12),
    "u": _Viseme(0.3, 0, 12),
    "w": _Viseme(0.2, 0, 12),
    "h": _Viseme(0.3),
    "j": _Viseme(0.2, 8),
    **dict.fromkeys("ɹrl", _Viseme(0.2, 0, 5)),
    **dict.fromkeys("ʃʒ", _Viseme(0.12, 0, 9)),
    **dict.fromkeys("kɡgŋʔ", _Viseme(0.2)),
    **dict.fromkeys("tdnɾTθð", _Viseme(0.14, 3)),
    **dict.fromkeys("sz", _Viseme(0.08, 5)),
    **dict.fromkeys("fv", _Viseme(0.06, 0, -5)),
    **dict.fromkeys("pbm", _REST),
}
_UNKNOWN = _Viseme(0.2)
_LIPS_MEET = frozenset("pbm")
# Letters of Kokoro's alphabet that stand for two sounds in turn.
_DIPHTHONGS = {"A": "eɪ", "I": "aɪ", "O": "oʊ", "Q": "əʊ", "W": "aʊ", "Y": "ɔɪ"}
_PAIRS = {**_DIPHTHONGS, "ʤ": "dʒ", "ʧ": "tʃ"}
_FIRST_OF_DIPHTHONG = 2 / 3  # of its time: the glide is the short part, and comes last
# With an ɹ right after them, vowels of Kokoro's alphabet that are one sound with it.
_R_COLOURED = {"ə": "ɚ", "ɜ": "ɝ"}
_LENGTHENS = "ː"
_STRESS = frozenset("ˈˌ")


def _direction(offsets: Mapping[tuple[int, int], float]) -> np.ndarray:
    """Return a direction of the expression vector from its `(keypoint, axis)` entries."""
    direction = np.zeros((KEYPOINTS, 3), dtype=np.float32)
    for place, offset in offsets.items():
        direction[place] = offset
    return direction


# Offsets per unit of the ratio of a mouth's opening to its width, and of an eye's to its width:
# the keypoints of lips and eyes out of a regression over 633 recorded frames. A mouth in speech
# opens to 0.3, the widest seen is 0.67; an open eye has 0.35.
_Y, _Z = 1, 2
_LIPS_OPEN = _direction({(19, _Y): 0.123, (19, _Z): 0.013, (20, _Y): -0.030, (17, _Y): -0.012})
_EYES_OPEN = _direction({(11, _Y): -0.0466, (13, _Y): 0.0081, (15, _Y): -0.0427, (16, _Y): 0.0110})
WIDEST_MOUTH_RATIO = 0.67
OPEN_EYE_RATIO = 0.35
WIDEST_GRIN = 15.0
# Offsets per unit of grin and purse.
_GRIN = _direction({(20, _Y): -0.001, (20, _Z): -0.001, (14, _Y): -0.001})
_PURSE = _direction({(14, _Y): 0.001, (3, _Y): -0.0005, (7, _Y): -0.0005, (17, _Z): -0.0005})
PRESS_RATIO = 0.05  # how far beyond "closed" lips are pressed together for p, b and m


class _Mood(NamedTuple):
    """How a face behaves under an expression.

    Attributes:
        articulation: factor on the mouth's opening.
        grin: a smile that stays, 0 to 15.
        eyes: how much wider the eyes are, as a ratio.
        liveliness: factor on the head's motion.
        blinks_per_min: on average. At rest people blink 17 times a minute, in conversation 26
            (Bentivoglio et al. 1997).
    """

    articulation: float
    grin: float
    eyes: float
    liveliness: float
    blinks_per_min: float


_MOODS = {
    "neutral": _Mood(1.0, 0.0, 0.0, 1.0, 17.0),
    "excited": _Mood(1.15, 6.0, 0.05, 1.5, 21.0),
    "manic": _Mood(1.3, 9.0, 0.12, 2.0, 26.0),
    "calm": _Mood(0.85, 2.0, -0.04, 0.5, 13.0),
}
_MOOD_CHANGE_S = 1.0

_BLINK_S = ((0.0, 0.10, 0.15, 0.30), (0.0, 1.0, 1.0, 0.0))  # shut within 0.1 s, open 0.3 s after
_SHORTEST_REST = 0.3  # between blinks, as a share of the mean interval

_NEUTRAL_DRIFT_DEGREES = (1.4, 2.0, 1.0)  # pitch, yaw, roll: the furthest
_DRIFT_HZ = (0.11, 0.29)
_DRIFT_SHARES = (0.7, 0.3)


@dataclass(frozen=True)
class FaceMotion:
    """How a face moves in `T` frames."""

    expression: np.ndarray
    """Added to the face's own expression, float32 `[T, 21, 3]`."""
    angles: np.ndarray
    """Added to the head's own pitch, yaw and roll, in degrees, float32 `[T, 3]`."""
    openings: np.ndarray
    """How far the mouth is open, float32 `[T]` from 0, closed, to 1, the widest."""


def drive(
    speech: Speech, fps: int, frame_count: int, expressions: Sequence[str], seed: int
) -> FaceMotion:
    """Return the motion of a face that speaks; same arguments, same motion.

    A frame shows the middle of its interval. With phoneme times the mouth takes their shapes,
    scaled by loudness; without, it opens by loudness alone. Lips meet in p, b and m, for a frame
    at least, and stay closed in silence.

    Args:
        speech: after its end the mouth is closed.
        fps: frames per second.
        frame_count: frames in all, `T`.
        expressions: neutral, excited, manic or calm, each for an equal share of the frames.
        seed: decides blinks and the drift of the head.
    """
    rng = np.random.default_rng(seed)
    time_s = (np.arange(frame_count) + 0.5) / fps
    mood = _moods(expressions, fps, frame_count)
    steps = max(1, math.ceil(frame_count / fps * _RATE_HZ))
    step_s = (np.arange(steps) + 0.5) / _RATE_HZ
    opening, grin, purse, press = (
        np.interp(time_s, step_s, track) for track in _mouth(speech, step_s, 1 / fps)
    )
    openings = np.minimum(opening * mood.articulation, 1.0)
    angles = _drift(time_s, rng) * mood.liveliness[:, None]
    shut = _blinks(time_s, mood.blinks_per_min, rng)
    expression = expression_of(
        WIDEST_MOUTH_RATIO * openings - PRESS_RATIO * press,
        np.minimum(grin + mood.grin, WIDEST_GRIN),
        purse,
        (1 - shut) * mood.eyes - shut * OPEN_EYE_RATIO,
    )
    return FaceMotion(expression, angles.astype(np.float32), openings.astype(np.float32))


def expression_of(
    lips: np.ndarray, grin: np.ndarray, purse: np.ndarray, eyes: np.ndarray
) -> np.ndarray:
    """Return what to add to a face's own expression, float32 `[T, 21, 3]`.

    Args:
        lips: change of the ratio of the mouth's opening to its width, `[T]`.
        grin: how far the corners are drawn up, `[T]` from 0 to 15.
        purse: how rounded the lips are, `[T]` from -20 to 15.
        eyes: change of the ratio of the eyes' opening to their width, `[T]`.
    """
    moves = ((_LIPS_OPEN, lips), (_GRIN, grin), (_PURSE, purse), (_EYES_OPEN, eyes))
    offsets = sum(
        np.multiply.outer(amounts.astype(np.float32), direction) for direction, amounts in moves
    )
    return np.asarray(offsets, dtype=np.float32)


def _mouth(
    speech: Speech, step_s: np.ndarray, frame_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return opening, grin, purse and press (0 to 1, of lips that meet) at each step."""
    loudness = _loudness(speech, len(step_s))
    if not speech.phonemes:
        nothing = np.zeros_like(loudness)
        return _LOUD_OPENING * loudness, nothing, nothing, nothing
    sounds = _sounds(speech.phonemes)
    press = _closures(sounds, step_s, frame_s)
    # The root, because a quiet vowel has its shape too; loudness decides above all in silence.
    opening, grin, purse = (
        _smoothed(shape, _BLEND_S * _RATE_HZ) * np.sqrt(loudness)
        for shape in _shapes(sounds, step_s)
    )
    return opening * (1 - press), grin, purse, press


def _loudness(speech: Speech, steps: int) -> np.ndarray:
    """Return loudness from 0, silence, to 1, the speech's own loud level, at each step."""
    rms = envelope(speech.waveform, speech.sample_rate_hz, _RATE_HZ, steps)
    rms = np.sqrt(_smoothed(np.square(rms, dtype=np.float64), _LOUDNESS_S * _RATE_HZ))
    loud = float(np.quantile(rms[rms > 0], 0.9)) if rms.any() else 1.0
    clipped: np.ndarray = np.clip((rms / loud - _SILENCE) / (1 - _SILENCE), 0.0, 1.0)
    return clipped


class _Sound(NamedTuple):
    symbol: str
    start_s: float
    end_s: float


def _sounds(phonemes: Sequence[TimedPhoneme]) -> list[_Sound]:
    """Return what the mouth speaks, without spaces and punctuation.

    Marks of length and stress have a time of their own: the first prolongs the sound before it,
    the second begins the one after it.
    """
    sounds: list[_Sound] = []
    before = ""
    stressed_s: float | None = None
    for phoneme in phonemes:
        symbol, start_s, end_s = phoneme.symbol, phoneme.start_s, phoneme.end_s
        if symbol in _STRESS:
            stressed_s = start_s
        elif symbol == _LENGTHENS:
            sounds[-1:] = [sound._replace(end_s=end_s) for sound in sounds[-1:]]
        elif symbol == "ɹ" and before in _R_COLOURED:
            sounds[-1] = sounds[-1]._replace(symbol=_R_COLOURED[before], end_s=end_s)
        elif symbol.isalpha():
            sounds += _in_turn(symbol, start_s if stressed_s is None else stressed_s, end_s)
        if symbol not in _STRESS:
            stressed_s = None
        before = symbol
    return sounds


def _in_turn(symbol: str, start_s: float, end_s: float) -> list[_Sound]:
    """Return the sound of a letter, or the two that it stands for."""
    if symbol not in _PAIRS:
        return [_Sound(symbol, start_s, end_s)]
    pair = _PAIRS[symbol]
    share = _FIRST_OF_DIPHTHONG if symbol in _DIPHTHONGS else 0.5
    turn_s = start_s + share * (end_s - start_s)
    return [_Sound(pair[0], start_s, turn_s), _Sound(pair[1], turn_s, end_s)]


def _shapes(sounds: Sequence[_Sound], step_s: np.ndarray) -> list[np.ndarray]:
    """Return opening, grin and purse at each step: held in a sound, bridged between two."""
    held: list[tuple[float, _Viseme]] = [(0.0, _REST)]
    for symbol, start_s, end_s in sounds:
        before_s = held[-1][0]
        if start_s - before_s > _LONGEST_BRIDGE_S:
            held += [(before_s, _REST), (start_s, _REST)]
        viseme = _VISEMES.get(symbol, _UNKNOWN)
        held += [(start_s, viseme), (end_s, viseme)]
    held.append((held[-1][0], _REST))
    knots_s = np.array([at_s for at_s, _ in held])
    shapes = np.array([viseme for _, viseme in held])
    return [np.interp(step_s, knots_s, shape) for shape in shapes.T]


def _closures(sounds: Sequence[_Sound], step_s: np.ndarray, frame_s: float) -> np.ndarray:
    """Return how closely the lips meet at each step: 1 in p, b and m, for a frame at least."""
    meeting = np.zeros_like(step_s)
    margin_s = _CLOSING_S / 2 + 1 / _RATE_HZ  # what the smoothing below takes away
    for symbol, start_s, end_s in sounds:
        if symbol in _LIPS_MEET:
            half_s = max(end_s - start_s, frame_s) / 2 + margin_s
            meeting[np.abs(step_s - (start_s + end_s) / 2) <= half_s] = 1.0
    return _smoothed(meeting, _CLOSING_S * _RATE_HZ)


def _smoothed(track: np.ndarray, width: float) -> np.ndarray:
    """Average a track under a Hann window of `width` steps; at its ends, it goes on unchanged."""
    half = max(1, round(width / 2))
    window = np.hanning(2 * half + 1)
    padded = np.pad(track, half, mode="edge")
    smoothed: np.ndarray = np.convolve(padded, window / window.sum(), mode="valid")
    # Sums of a window's parts are not exactly 0 and 1.
    return smoothed.round(9)


class _Moods(NamedTuple):
    """The fields of `_Mood`, each as an array over the frames."""

    articulation: np.ndarray
    grin: np.ndarray
    eyes: np.ndarray
    liveliness: np.ndarray
    blinks_per_min: np.ndarray


def _moods(expressions: Sequence[str], fps: int, frame_count: int) -> _Moods:
    """Return the mood in each frame; one passes smoothly into the next."""
    shares = np.arange(frame_count) * len(expressions) // frame_count
    wanted = np.array([_MOODS[expression] for expression in expressions])[shares]
    return _Moods(*(_smoothed(values, _MOOD_CHANGE_S * fps) for values in wanted.T))


def _drift(time_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a slow drift of pitch, yaw and roll in degrees, `[T, 3]`: two sines for each."""
    size = (len(_DRIFT_HZ), len(_NEUTRAL_DRIFT_DEGREES))
    phases = rng.uniform(0, 2 * math.pi, size)
    hz = np.array(_DRIFT_HZ)[:, None] * rng.uniform(0.8, 1.2, size)
    waves = np.sin(2 * math.pi * hz * time_s[:, None, None] + phases)
    drift: np.ndarray = np.einsum("s,tsa->ta", _DRIFT_SHARES, waves) * _NEUTRAL_DRIFT_DEGREES
    return drift


def _blinks(time_s: np.ndarray, blinks_per_min: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return how far the eyes are shut in each frame, from 0 to 1, `[T]`."""
    # Intervals are drawn with a mean of 1 and laid out on the count of blinks that the rates give.
    counted = np.cumsum(blinks_per_min / 60) * (time_s[1] - time_s[0] if len(time_s) > 1 else 0.0)
    most = math.ceil(counted[-1] / _SHORTEST_REST) + 1
    rests = _SHORTEST_REST + (1 - _SHORTEST_REST) * rng.gamma(2.0, 0.5, most)
    starts = np.cumsum(rests)
    starts_s = np.interp(starts[starts < counted[-1]], counted, time_s)
    shut = np.zeros_like(time_s)
    for start_s in starts_s:
        shut = np.maximum(shut, np.interp(time_s - start_s, *_BLINK_S))
    return shut
