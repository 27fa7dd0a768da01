"""A disk that fills up while a video is encoded, on a real and very small one."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from consumer.artifacts.encoder import SlotEncoder
from consumer.artifacts.errors import ArtifactError, ArtifactStoreError
from consumer.artifacts.store import ArtifactStore
from tests.support.small_disk import small_disk

NOISE = np.random.default_rng(7).integers(0, 255, (24, 64, 64, 3), dtype=np.uint8)


def encode(path: Path) -> str | None:
    """Write the video, or return why there is none."""
    encoder = SlotEncoder(path, preset="ultrafast", crf=30)
    silence = np.zeros(24_000, np.float32)
    try:
        encoder.begin(waveform=silence, sample_rate_hz=24_000, fps=12, width=64, height=64)
        for frame in NOISE:
            encoder.write(frame[np.newaxis])
        encoder.finish(60.0)
    except ArtifactError as error:
        encoder.abort()
        return str(error)
    return None


def test_wherever_the_disk_fills_up_the_video_is_whole_or_there_is_none(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk.path / "slot.mp4"
        assert encode(path) is None
        size = path.stat().st_size
        path.unlink()
        failed = 0
        for leave_bytes in range(0, size + 8192, 4096):
            disk.fill(leave_bytes)
            problem = encode(path)
            if problem is None:
                assert path.stat().st_size == size
                with av.open(str(path)) as container:
                    assert sum(1 for _ in container.decode(video=0)) == len(NOISE)
                path.unlink()
            else:
                assert "No space left on device" in problem
                assert not path.exists()
                failed += 1
            disk.free()
        assert failed >= size // 4096


def test_full_disk_does_not_count_as_writable_and_no_probe_is_left(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = ArtifactStore(str(disk.path / "slots"))
        store.try_writing()
        disk.fill(0)
        with pytest.raises(ArtifactStoreError, match="No space left on device"):
            store.try_writing()
        assert list((disk.path / "slots").iterdir()) == []
        disk.free()
        store.try_writing()
