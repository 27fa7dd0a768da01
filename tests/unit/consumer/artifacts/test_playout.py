"""What docs/on-air.md says of the files, read from real ones."""

from __future__ import annotations

import io
import time
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from consumer.artifacts.credentials import ManifestSigner
from consumer.artifacts.encoder import SlotEncoder
from consumer.artifacts.inspection import inspect_file
from consumer.artifacts.media import EncodedMedia
from tests.unit.consumer.artifacts.test_captions import words
from tests.unit.consumer.artifacts.test_credentials import boxes, claim

RATE_HZ = 24_000
SECONDS = 7


def film(path: Path, fps: int = 12, size: int = 128, *, fragmented: bool = False) -> EncodedMedia:
    """Encode moving noise, so that x264 has no reason for a keyframe of its own."""
    encoder = SlotEncoder(
        path, words=lambda: words("Good evening. Here is the news."), fragmented=fragmented
    )
    encoder.begin(
        waveform=np.zeros(SECONDS * RATE_HZ, np.float32),
        sample_rate_hz=RATE_HZ,
        fps=fps,
        width=size,
        height=size,
    )
    still = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    for number in range(SECONDS * fps):
        encoder.write(np.roll(still, number, axis=1)[np.newaxis])
    return encoder.finish(60.0)


@pytest.mark.parametrize("fps", [12, 25, 50])
@pytest.mark.parametrize("fragmented", [False, True])
def test_profile_colours_and_sound_are_as_documented(
    tmp_path: Path, fps: int, fragmented: bool
) -> None:
    with av.open(str(film(tmp_path / "a.mp4", fps, fragmented=fragmented).path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        context = video.codec_context
        assert (context.name, context.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
        assert context.colorspace == context.color_primaries == Colorspace.ITU709
        assert context.color_trc == Colorspace.ITU709
        assert context.color_range == ColorRange.MPEG
        assert (audio.codec_context.name, audio.rate, audio.layout.name) == ("aac", 48_000, "mono")
        assert audio.codec_context.profile == "LC"


@pytest.mark.parametrize("fps", [12, 25])
def test_gops_are_closed_and_at_most_two_seconds(tmp_path: Path, fps: int) -> None:
    path = film(tmp_path / "a.mp4", fps).path
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    keys = [p for p in packets if p.is_keyframe]
    times_s = [float(p.pts * p.time_base) for p in keys if p.pts is not None and p.time_base]
    assert max(np.diff([*times_s, SECONDS])) <= 2.0 + 1e-6
    # Closed: whatever follows a keyframe in the file is shown after it.
    for key in keys:
        later = packets[packets.index(key) + 1 :]
        assert all(p.pts > key.pts for p in later if p.pts is not None and key.pts is not None)


def test_fragmented_file_is_whole_and_signed(tmp_path: Path) -> None:
    plain = film(tmp_path / "plain.mp4")
    media = film(tmp_path / "fragmented.mp4", fragmented=True)
    kinds = [kind for kind, *_ in boxes(media.path.read_bytes())]
    assert kinds.count("moof") >= SECONDS / 2
    with av.open(str(plain.path)) as one, av.open(str(media.path)) as other:
        frames = [[f.to_ndarray() for f in each.decode(video=0)] for each in (one, other)]
    assert np.array_equal(*frames)
    signed = ManifestSigner.self_made().sign(media, claim(1))
    assert inspect_file(signed.media.path).problems == []
    content = bytearray(signed.media.path.read_bytes())
    content[-len(content) // 4] ^= 1
    signed.media.path.write_bytes(content)
    assert inspect_file(signed.media.path).problems


def frames_of(content: bytes) -> list[np.ndarray]:
    """Decode the pictures of a file that may end anywhere."""
    with av.open(io.BytesIO(content)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def test_fragmented_file_plays_while_later_frames_are_still_to_come(tmp_path: Path) -> None:
    path, fps, size, seconds = tmp_path / "a.mp4", 12, 128, 14
    encoder = SlotEncoder(
        path,
        words=lambda: words("Good evening."),  # and 13 s without another caption
        fragmented=True,
        watermark_id="0123abcd",
    )
    encoder.begin(
        waveform=np.zeros(seconds * RATE_HZ, np.float32),
        sample_rate_hz=RATE_HZ,
        fps=fps,
        width=size,
        height=size,
    )
    still = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    pictures = [np.roll(still, number, axis=1)[np.newaxis] for number in range(seconds * fps)]
    half = len(pictures) // 2
    for picture in pictures[:half]:
        encoder.write(picture)
    grown = b""
    give_up_s = time.monotonic() + 60.0
    while b"moof" not in grown:
        assert time.monotonic() < give_up_s, "nothing can be played yet"
        time.sleep(0.02)
        grown = path.read_bytes() if path.exists() else b""
    early = frames_of(grown)
    assert len(early) >= 2 * fps
    for picture in pictures[half:]:
        encoder.write(picture)
    whole = encoder.finish(60.0).path.read_bytes()
    assert whole.startswith(grown)
    assert np.array_equal(early, frames_of(whole)[: len(early)])
