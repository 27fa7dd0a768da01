"""Pictures out of a finished video."""

from __future__ import annotations

from pathlib import Path

import av
from PIL import Image


def evenly_spaced_frames(path: Path, count: int) -> list[Image.Image]:
    """Return frames from the middle of equal parts of a video; all of them if it has fewer.

    Raises:
        av.error.FFmpegError: the file is no video.
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        total = stream.frames
        if total == 0:  # a fragmented file has no index that says so
            total = sum(1 for packet in container.demux(stream) if packet.size)
            container.seek(0)
        count = min(count, total)
        wanted = {(2 * part + 1) * total // (2 * count) for part in range(count)}
        return [
            frame.to_image()
            for index, frame in enumerate(container.decode(stream))
            if index in wanted
        ]
