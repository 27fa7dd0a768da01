from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from consumer.artifacts.encoder import SlotEncoder
from consumer.artifacts.errors import ArtifactError
from consumer.artifacts.media import EncodedMedia

FPS = 12
SIZE = 64
RATE_HZ = 24_000
TIMEOUT_S = 60.0

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}

MakeEncoder = Callable[..., SlotEncoder]


@pytest.fixture
def make_encoder(tmp_path: Path) -> Iterator[MakeEncoder]:
    """Make encoders, of which no thread is left at the end."""
    made: list[SlotEncoder] = []

    def make(name: str = "slot.mp4", **settings: Any) -> SlotEncoder:
        made.append(SlotEncoder(tmp_path / name, preset="ultrafast", **settings))
        return made[-1]

    yield make
    for encoder in made:
        encoder.abort()
    assert encoder_threads() == []


def encoder_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "vortex-encoder"]


def tone(duration_s: float, frequency_hz: float = 440.0) -> np.ndarray:
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def film(*colours: str, size: int = SIZE) -> np.ndarray:
    """Return half a second of each colour, uint8 `[n, H, W, 3]`."""
    frames = [np.full((size, size, 3), COLOURS[colour], dtype=np.uint8) for colour in colours]
    return np.repeat(np.stack(frames), FPS // 2, axis=0)


def noise(seconds: int, size: int = SIZE) -> np.ndarray:
    """Return a still picture of noise that drifts, uint8 `[n, H, W, 3]`."""
    still = np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8)
    still = still[::4, ::4].repeat(4, axis=0).repeat(4, axis=1)
    return np.stack([np.roll(still, number, axis=1) for number in range(seconds * FPS)])


RED_GREEN_BLUE = film("red", "green", "blue")
DURATION_S = len(RED_GREEN_BLUE) / FPS


def begin(encoder: SlotEncoder, waveform: np.ndarray | None = None, size: int = SIZE) -> None:
    waveform = tone(DURATION_S) if waveform is None else waveform
    encoder.begin(waveform=waveform, sample_rate_hz=RATE_HZ, fps=FPS, width=size, height=size)


def encode(
    encoder: SlotEncoder,
    frames: np.ndarray = RED_GREEN_BLUE,
    waveform: np.ndarray | None = None,
    batch_frames: int = 5,
) -> EncodedMedia:
    begin(encoder, waveform, size=frames.shape[1])
    for start in range(0, len(frames), batch_frames):
        encoder.write(frames[start : start + batch_frames])
    return encoder.finish(TIMEOUT_S)


def decoded_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def decoded_samples(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def boxes(path: Path) -> list[str]:
    """Return the names of an MP4 file's outer boxes, in order."""
    content, names, at = path.read_bytes(), [], 0
    while at < len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        names.append(name.decode())
        at += length
    return names


def slices(packet: bytes) -> int:
    """Return how many slices a packet of H.264 in MP4 holds: units of type 1 and 5."""
    found, at = 0, 0
    while at < len(packet):
        found += packet[at + 4] & 0x1F in (1, 5)
        at += 4 + int.from_bytes(packet[at : at + 4])
    return found


def test_same_frames_and_samples_give_the_same_bytes(make_encoder: MakeEncoder) -> None:
    first = encode(make_encoder("first.mp4"))
    second = encode(make_encoder("second.mp4"), batch_frames=1)
    assert first.path.read_bytes() == second.path.read_bytes()


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores, and a system on which a thread can be kept to one of them",
)
def test_number_of_cores_does_not_change_the_bytes(make_encoder: MakeEncoder) -> None:
    frames = noise(seconds=2)
    on_all = encode(make_encoder("all.mp4"), frames)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # threads inherit it from the one that starts them
    try:
        on_one = encode(make_encoder("one.mp4"), frames)
    finally:
        os.sched_setaffinity(0, cores)
    assert on_one.path.read_bytes() == on_all.path.read_bytes()


def test_frames_are_not_cut_into_slices_for_the_threads(make_encoder: MakeEncoder) -> None:
    media = encode(make_encoder(threads=4), noise(seconds=1, size=256))
    with av.open(str(media.path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert [slices(packet) for packet in packets] == [1] * FPS


def test_result_describes_the_file(make_encoder: MakeEncoder) -> None:
    media = encode(make_encoder())
    content = media.path.read_bytes()
    assert media.bytes == len(content)
    assert media.sha256 == hashlib.sha256(content).hexdigest()
    assert (media.duration_s, media.width, media.height, media.fps) == (DURATION_S, SIZE, SIZE, FPS)


def test_deadline_in_the_year_9999_is_no_limit(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder()
    begin(encoder)
    encoder.write(RED_GREEN_BLUE)
    assert encoder.finish(2.5e11).bytes > 0


def test_index_lies_before_the_data(make_encoder: MakeEncoder) -> None:
    order = boxes(encode(make_encoder()).path)
    assert order.index("moov") < order.index("mdat")


def test_both_tracks_begin_at_0_and_last_as_long_as_the_frames(make_encoder: MakeEncoder) -> None:
    with av.open(str(encode(make_encoder()).path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec.name, audio.codec.name) == ("h264", "aac")
        assert (video.pix_fmt, video.average_rate, video.frames) == (
            "yuv420p",
            FPS,
            DURATION_S * FPS,
        )
        assert video.start_time == audio.start_time == 0
        assert video.time_base is not None
        assert video.duration is not None
        assert float(video.duration * video.time_base) == pytest.approx(DURATION_S)
        assert audio.time_base is not None
        assert audio.duration is not None
        assert float(audio.duration * audio.time_base) == pytest.approx(
            DURATION_S, abs=1024 / 48_000
        )
        times_s = [frame.time for frame in container.decode(video=0)]
    assert times_s == pytest.approx([frame / FPS for frame in range(len(RED_GREEN_BLUE))])


def test_frames_come_back_in_order_and_in_their_colours(make_encoder: MakeEncoder) -> None:
    decoded = decoded_frames(encode(make_encoder()).path)
    assert len(decoded) == len(RED_GREEN_BLUE)
    for got, sent in zip(decoded, RED_GREEN_BLUE, strict=True):
        assert got.mean(axis=(0, 1)) == pytest.approx(sent[0, 0], abs=8)


def test_sound_comes_back_at_its_time_and_pitch(make_encoder: MakeEncoder) -> None:
    waveform = tone(DURATION_S)
    waveform[: RATE_HZ // 2] = 0  # the tone begins after half a second
    samples = decoded_samples(encode(make_encoder(), waveform=waveform).path)
    onset_s = np.argmax(np.abs(samples) > 0.25) / 48_000
    assert onset_s == pytest.approx(0.5, abs=0.005)
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) * 48_000 / len(samples) == pytest.approx(440, abs=2)


def test_short_waveform_is_followed_by_silence_and_a_long_one_is_cut(
    make_encoder: MakeEncoder,
) -> None:
    short = decoded_samples(encode(make_encoder("short.mp4"), waveform=tone(0.5)).path)
    long = decoded_samples(encode(make_encoder("long.mp4"), waveform=tone(10.0)).path)
    assert len(short) == len(long) == pytest.approx(DURATION_S * 48_000, abs=1024)
    assert np.abs(short[int(0.6 * 48_000) :]).max() < 0.01
    assert np.abs(long[int(1.2 * 48_000) : int(1.4 * 48_000)]).max() > 0.4


def test_frames_and_samples_are_not_referred_to_after_the_call(make_encoder: MakeEncoder) -> None:
    expected = encode(make_encoder("kept.mp4"))
    encoder = make_encoder("overwritten.mp4")
    waveform, frames = tone(DURATION_S), RED_GREEN_BLUE.copy()
    begin(encoder, waveform)
    waveform[:] = 0
    encoder.write(frames)
    frames[:] = 0
    assert encoder.finish(TIMEOUT_S).sha256 == expected.sha256


def test_beginning_again_discards_what_was_written(make_encoder: MakeEncoder) -> None:
    expected = encode(make_encoder("once.mp4"))
    encoder = make_encoder("twice.mp4")
    begin(encoder)
    encoder.write(film("blue", "blue", "blue"))
    assert encode(encoder).sha256 == expected.sha256


@pytest.mark.parametrize(("width", "height"), [(63, 64), (64, 63)])
def test_odd_size_is_refused(make_encoder: MakeEncoder, width: int, height: int) -> None:
    encoder = make_encoder()
    with pytest.raises(ArtifactError, match=f"must be even, got {width}x{height}"):
        encoder.begin(waveform=tone(1), sample_rate_hz=RATE_HZ, fps=FPS, width=width, height=height)
    assert not encoder.begun
    assert encoder_threads() == []


@pytest.mark.parametrize("progress", ["begun", "written", "finished"])
def test_abort_removes_the_file_and_ends_the_thread(
    make_encoder: MakeEncoder, tmp_path: Path, progress: str
) -> None:
    encoder = make_encoder()
    begin(encoder)
    if progress != "begun":
        encoder.write(RED_GREEN_BLUE)
    if progress == "finished":
        encoder.finish(TIMEOUT_S)
    encoder.abort()
    assert encoder_threads() == []
    assert list(tmp_path.iterdir()) == []
    assert not encoder.begun
    encoder.abort()


def test_nothing_is_written_before_it_begins(make_encoder: MakeEncoder, tmp_path: Path) -> None:
    encoder = make_encoder()
    with pytest.raises(ArtifactError, match="before the encoder was begun"):
        encoder.write(RED_GREEN_BLUE)
    with pytest.raises(ArtifactError, match="nothing to finish"):
        encoder.finish(TIMEOUT_S)
    assert list(tmp_path.iterdir()) == []


def test_failure_of_the_encoders_thread_reaches_who_writes(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder("no-such-directory/slot.mp4")
    with pytest.raises(ArtifactError, match=r"^encoding failed: .*No such file"):
        encode(encoder, np.repeat(RED_GREEN_BLUE, 10, axis=0), batch_frames=1)


def test_frames_of_another_size_are_refused(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder()
    begin(encoder, size=SIZE)
    with pytest.raises(ArtifactError, match=r"must be \[n, 64, 64, 3\], got \(6, 128, 128, 3\)"):
        encoder.write(film("red", size=2 * SIZE))


def test_video_without_frames_is_refused(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder()
    begin(encoder)
    with pytest.raises(ArtifactError, match="no frames were written"):
        encoder.finish(TIMEOUT_S)


@pytest.mark.parametrize("batches", [1, 3])
def test_finish_gives_up_when_its_time_is_over(make_encoder: MakeEncoder, batches: int) -> None:
    size = 1024
    encoder = make_encoder(queue_batches=1)
    begin(encoder, size=size)
    noise = np.random.default_rng(0).integers(0, 256, (24, size, size, 3), dtype=np.uint8)
    for _ in range(batches):
        encoder.write(noise)
    with pytest.raises(ArtifactError, match=r"^encoding did not finish within 0\.0 s$"):
        encoder.finish(0.0)
