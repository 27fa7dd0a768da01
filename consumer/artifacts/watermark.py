"""A watermark in the picture: 32 bits that lead from a copy of a video to its slot's outcome.

The picture is divided into 32x32 cells, whatever its size. Each cell is a little lighter or darker
in all frames alike. Which of the two, the payload says: the id and a checksum of it, in four
symbols of 12 bits. A symbol owns a quarter of the cells, scattered over the picture, and has a
pseudo-random code of signs for each of its 4,096 values. A reader knows the codes and tries all of
them, at every scale and offset that cropping may have left.
"""

from __future__ import annotations

import binascii
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

MAX_SCORE_BY_CHANCE = 9.8
"""Pictures without this watermark stay below, but for one in `1 / FALSE_ALARMS`.

Signs are drawn independently of the picture, so a code's normalised correlation with any picture at
all exceeds t with a probability of at most exp(-t²/2) (Hoeffding 1963).
"""

_KEY = b"vortex watermark 1"  # no secret: the mark finds an outcome, and proves nothing
_CELLS = 32
_CELL_PX = 4  # in the reader's picture
_FULL_PX = _CELLS * _CELL_PX
_LEAST_PX = 112  # what is left of the width and height after cropping, of _FULL_PX
_STEP_PX = 2
_ID_BYTES, _CHECK_BYTES = 4, 2
_SYMBOLS, _SYMBOL_BITS = 4, 12
_VALUES = 1 << _SYMBOL_BITS
_CELLS_PER_SYMBOL = _CELLS * _CELLS // _SYMBOLS
_RMS = 2.0  # grey levels of luma
_BLACK, _WHITE = 16, 235
_TRUSTED_RANGE = 1.0  # grey levels; what differs by more shows an edge rather than the mark
_LEAST_VARIANCE = 2.0  # of the contrast around a cell; where there is more, a cell counts for less
_SURROUNDINGS_PX = 9

Plane = NDArray[np.uint8]
Floats = NDArray[np.floating]


def _hypotheses() -> Iterator[tuple[int, int, int]]:
    """Return what may be left of a picture: its size and the offset of its top left corner."""
    for size in range(_FULL_PX, _LEAST_PX - 1, -_STEP_PX):
        cut = _FULL_PX - size
        for top in range(cut + 1):
            for left in range(cut + 1):
                yield size, top, left


FALSE_ALARMS = (
    2.0 ** (8 * _ID_BYTES) * sum(1 for _ in _hypotheses()) * math.exp(-(MAX_SCORE_BY_CHANCE**2) / 2)
)
"""At most so likely is it to read any id in a picture that has none."""


@dataclass(frozen=True)
class Reading:
    """A watermark that was read."""

    watermark_id: str
    score: float
    """In standard deviations of what a picture without a watermark gives."""


def watermark_id_of(topic: str, partition: int, offset: int) -> str:
    """Return the id of a tick's video, eight hexadecimal digits."""
    place = f"{topic}/{partition}@{offset}".encode()
    return hashlib.sha256(place).hexdigest()[: 2 * _ID_BYTES]


class Watermark:
    """Marks the frames of one video; the same pattern in each, made once."""

    def __init__(self, watermark_id: str, width: int, height: int) -> None:
        symbols = _symbols_of(watermark_id)
        cells = np.zeros(_CELLS * _CELLS, np.float32)
        for number, owned in enumerate(_owned_cells()):
            cells[owned] = _signs(_drawn(number)[symbols[number]])
        pattern = _between_cells(height) @ cells.reshape(_CELLS, _CELLS) @ _between_cells(width).T
        levels = np.rint(pattern * _RMS / np.sqrt(np.mean(pattern**2))).astype(np.int16)
        self._lowest = (_BLACK + np.maximum(-levels, 0)).astype(np.uint8)
        self._highest = (_WHITE - np.maximum(levels, 0)).astype(np.uint8)
        self._levels = levels.astype(np.uint8)  # modulo 256: adding wraps to the right sum

    def apply(self, luma: Plane) -> None:
        """Mark a plane of luma in limited range, `[H, W]` uint8, in place."""
        np.clip(luma, self._lowest, self._highest, out=luma)
        luma += self._levels


def read_watermark(path: Path) -> Reading | None:
    """Return the id in a video's picture; None if there is none that can be told from chance.

    Blocks for as long as all frames take to decode, and about a second more.

    Raises:
        av.error.FFmpegError: the file is no video.
    """
    total, frames = None, 0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            luma = luma_of(frame)
            if total is None:
                total = np.zeros(luma.shape, np.uint32)
            total += luma
            frames += 1
    return None if total is None else read_mean((total / frames).astype(np.float32))


def luma_of(frame: av.VideoFrame) -> Plane:
    """Return a writable view of the luma of a frame in 4:2:0, `[H, W]` uint8."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    luma: Plane = rows[:, : plane.width]
    return luma


def read_mean(luma: Floats) -> Reading | None:
    """Return the id in a mean of frames, `[H, W]`; None if there is none."""
    reading = best_guess(luma)
    valid = reading is not None and reading.score > MAX_SCORE_BY_CHANCE
    return reading if valid else None


def best_guess(luma: Floats) -> Reading | None:
    """Return the likeliest id, if its checksum is right, however unlikely it is."""
    cells = np.concatenate(
        [
            _cells_at_all_offsets(_contrast(_resized(luma, size)), size)
            for size in range(_FULL_PX, _LEAST_PX - 1, -_STEP_PX)
        ]
    )
    score = np.zeros(len(cells), np.float32)
    symbols = np.empty((len(cells), _SYMBOLS), np.int64)
    for number, owned in enumerate(_owned_cells()):
        codes = _signs(_drawn(number))
        own = cells[:, owned]
        fit = own @ codes.T
        symbols[:, number] = fit.argmax(axis=1)
        score += fit.max(axis=1) / np.maximum(np.linalg.norm(own, axis=1), 1e-9)
    best = int(score.argmax())
    watermark_id = _id_of(symbols[best].tolist())
    if watermark_id is None:
        return None
    return Reading(watermark_id, float(score[best]) / math.sqrt(_SYMBOLS))


def _symbols_of(watermark_id: str) -> list[int]:
    content = bytes.fromhex(watermark_id)
    payload = int.from_bytes(content + _check(content))
    return [payload >> number * _SYMBOL_BITS & _VALUES - 1 for number in range(_SYMBOLS)]


def _id_of(symbols: list[int]) -> str | None:
    payload = sum(symbol << number * _SYMBOL_BITS for number, symbol in enumerate(symbols))
    content = payload.to_bytes(_ID_BYTES + _CHECK_BYTES)
    whole = _check(content[:_ID_BYTES]) == content[_ID_BYTES:]
    return content[:_ID_BYTES].hex() if whole else None


def _check(content: bytes) -> bytes:
    return binascii.crc_hqx(content, 0xFFFF).to_bytes(_CHECK_BYTES)


def _owned_cells() -> NDArray[np.intp]:
    """Return the cells of each symbol, `[symbols, cells]`."""
    keys = np.frombuffer(hashlib.shake_256(_KEY).digest(8 * _CELLS * _CELLS), "<u8")
    return np.argsort(keys, kind="stable").reshape(_SYMBOLS, _CELLS_PER_SYMBOL)


def _drawn(number: int) -> NDArray[np.uint8]:
    """Return a symbol's random bits by value, `[values, cells / 8]`."""
    row_bytes = _CELLS_PER_SYMBOL // 8
    drawn = hashlib.shake_256(_KEY + bytes([number])).digest(_VALUES * row_bytes)
    return np.frombuffer(drawn, np.uint8).reshape(_VALUES, row_bytes)


def _signs(drawn: NDArray[np.uint8]) -> Floats:
    """Return bits as 1 and -1, eight times as many along the last axis."""
    signs: Floats = np.unpackbits(drawn, axis=-1).astype(np.float32) * 2 - 1
    return signs


def _between_cells(pixels: int) -> Floats:
    """Return the matrix `[pixels, cells]` that interpolates linearly between cells' centres."""
    centres = (np.arange(pixels) + 0.5) * _CELLS / pixels - 0.5
    distance = np.abs(np.clip(centres, 0, _CELLS - 1)[:, None] - np.arange(_CELLS))
    return np.asarray(np.maximum(0, 1 - distance), np.float32)


def _resized(luma: Floats, size: int) -> Floats:
    rows, columns = (_area_weights(length, size) for length in luma.shape)
    resized: Floats = rows @ luma @ columns.T
    return resized


def _area_weights(length: int, size: int) -> Floats:
    """Return the matrix `[size, length]` that averages over the area of each new pixel."""
    edges = np.arange(size + 1)[:, None] * (length / size)
    covered = np.clip(edges - np.arange(length), 0, 1)
    weights: Floats = np.diff(covered, axis=0) * (size / length)
    return np.asarray(weights, np.float32)


def _contrast(luma: Floats) -> Floats:
    """Return by how much a cell differs from its surroundings, were there one at each pixel.

    The mark is faint: what differs by much, or lies where much differs, is weighed down.
    """
    difference = _box(luma, _CELL_PX, 0) - _box(luma, 2 * _CELL_PX, _CELL_PX // 2)
    variance = _box(difference**2, _SURROUNDINGS_PX, _SURROUNDINGS_PX // 2)
    doubt = (variance + _LEAST_VARIANCE) * (1 + (difference / _TRUSTED_RANGE) ** 2)
    return difference / doubt


def _box(luma: Floats, size: int, before: int) -> Floats:
    """Return means over boxes that begin `before` pixels ahead of each pixel's top left."""
    after = size - 1 - before
    result: Floats = np.pad(luma.astype(np.float64), (before, after), mode="reflect")
    for axis in (0, 1):
        sums = np.cumsum(np.insert(result, 0, 0.0, axis=axis), axis=axis)
        upper = sums.take(range(size, sums.shape[axis]), axis=axis)
        result = (upper - sums.take(range(upper.shape[axis]), axis=axis)) / size
    return np.asarray(result, np.float32)


def _cells_at_all_offsets(contrast: Floats, size: int) -> Floats:
    """Return the cells `[offsets, cells]`; those that are not wholly in the picture are 0."""
    cut = _FULL_PX - size
    padded = np.pad(contrast[: size - _CELL_PX + 1, : size - _CELL_PX + 1], (cut, cut + _CELL_PX))
    found = [
        padded[cut - top :, cut - left :][:_FULL_PX:_CELL_PX, :_FULL_PX:_CELL_PX].ravel()
        for top in range(cut + 1)
        for left in range(cut + 1)
    ]
    return np.stack(found)
