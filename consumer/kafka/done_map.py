"""The finished ticks above the committed offset, as text for the offset's metadata.

Slots finish in the order that the planner chooses, not in that of their offsets. What is finished
above the lowest unfinished offset is kept with the committed offset, so that whoever owns
the partition next does not make it again.
"""

from __future__ import annotations

import base64
from collections.abc import Collection

_PREFIX = "vortex-done-1:"


class DoneMapError(ValueError):
    """The metadata was written by a version of this worker that this one does not understand."""


def encode_done(committed: int, done: Collection[int]) -> str:
    """Return the text for a set of finished offsets, all above `committed`.

    Bit `i` of the little-endian bitmap stands for offset `committed + 1 + i`; the offset
    `committed` itself is unfinished by definition. Four characters hold 24 offsets.
    """
    if not done:
        return ""
    if min(done) <= committed:
        raise ValueError(f"finished offset {min(done)} is not above the committed {committed}")
    packed = bytearray((max(done) - committed + 7) // 8)
    for offset in done:
        byte, bit = divmod(offset - committed - 1, 8)
        packed[byte] |= 1 << bit
    return _PREFIX + base64.b64encode(packed).decode("ascii")


def decode_done(committed: int, metadata: str) -> set[int]:
    """Return the finished offsets that `encode_done` wrote.

    Metadata that is not ours (someone moved the offset by hand) means that none is known.

    Raises:
        DoneMapError: it is ours, but of another version or damaged; to go on would make slots
            twice.
    """
    if not metadata.startswith("vortex-done-"):
        return set()
    if not metadata.startswith(_PREFIX):
        raise DoneMapError(f"offset metadata {metadata!r:.80} is of another version")
    try:
        packed = base64.b64decode(metadata.removeprefix(_PREFIX), validate=True)
    except ValueError as error:
        raise DoneMapError(f"offset metadata {metadata!r:.80} cannot be read: {error}") from error
    return {
        committed + 1 + 8 * index + bit
        for index, byte in enumerate(packed)
        if byte
        for bit in range(8)
        if byte >> bit & 1
    }
