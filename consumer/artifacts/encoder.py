"""H.264 and AAC in MP4, encoded in a thread of its own while the frames are still being made."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.codec.context import ThreadType
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from av.video.reformatter import ColorRange, Colorspace

from consumer.artifacts.captions import Cue, as_timed_text, as_webvtt, cues_of
from consumer.artifacts.errors import ArtifactError
from consumer.artifacts.loudness import LoudnessTarget, levelled, measure_file
from consumer.artifacts.media import EncodedMedia, Measured
from consumer.artifacts.watermark import Watermark, luma_of
from vortex.models.kokoro.speech import TimedPhoneme, TimedWord
from vortex.utils.files import sha256_of

logger = logging.getLogger(__name__)

AUDIO_RATE_HZ = 48_000
MAX_GOP_S = 2
_PUT_POLL_S = 0.1
# Moves the index before the data when the file is closed.
_INDEX_FIRST = {"movflags": "+faststart"}
# Every fragment is in the file as soon as it is complete. FFmpeg would keep 256 KiB of them, and
# after the last caption wait 10 s for another one, in microseconds.
_FRAGMENTED = {
    "movflags": "+frag_keyframe+empty_moov+default_base_moof",
    "flush_packets": "1",
    "max_interleave_delta": str(MAX_GOP_S * 1_000_000),
}
_ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,16
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


class SlotEncoder:
    """Receives frames in batches and writes the MP4; a `MediaSink` for the pipeline.

    A bounded queue lies between the renderer's thread and the encoder's: rendering waits only if
    the encoder is that far behind. Same frames and samples, same bytes on any number of cores:
    x264 runs with a fixed number of threads, and nothing about time or machine goes into the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        preset: str = "veryfast",
        crf: int = 20,
        threads: int = 4,
        audio_bitrate_bps: int = 128_000,
        queue_batches: int = 4,
        loudness: LoudnessTarget | None = None,
        words: Callable[[], Sequence[TimedWord]] | None = None,
        phonemes: Callable[[], Sequence[TimedPhoneme]] = tuple,
        fragmented: bool = False,
        watermark_id: str | None = None,
    ) -> None:
        """Nothing is written before `begin`.

        Args:
            path: on the local disk; an existing file is replaced.
            preset: x264's.
            crf: x264's constant rate factor, 0 to 51.
            threads: x264's; the file's bytes depend on their number.
            audio_bitrate_bps: of the AAC track.
            queue_batches: batches that may wait before `write` blocks.
            loudness: what the sound is brought to; None leaves it alone.
            words: asked for the words of the waveform when it begins; None makes no captions.
            phonemes: asked for its phonemes then, for a comment in the captions.
            fragmented: write fragments of a GOP each instead of one index before the data; what is
                there of the file can be played while it grows.
            watermark_id: eight hexadecimal digits to hide in the picture; None leaves it alone.
        """
        self._path = path
        self._preset = preset
        self._crf = crf
        self._threads = threads
        self._audio_bitrate_bps = audio_bitrate_bps
        self._queue_batches = queue_batches
        self._loudness = loudness
        self._words = words
        self._phonemes = phonemes
        self._fragmented = fragmented
        self._watermark_id = watermark_id
        self._attempt: _Attempt | None = None

    @property
    def begun(self) -> bool:
        """Whether anything was written to it."""
        return self._attempt is not None

    def begin(
        self, *, waveform: np.ndarray, sample_rate_hz: int, fps: int, width: int, height: int
    ) -> None:
        """Start over; see `MediaSink`.

        Raises:
            ArtifactError: width or height is odd, which H.264 in 4:2:0 cannot hold.
        """
        self.abort()
        if width % 2 or height % 2:
            raise ArtifactError(f"width and height must be even, got {width}x{height}")
        self._attempt = _Attempt(
            self._path,
            np.array(waveform, dtype=np.float32),
            sample_rate_hz,
            fps,
            (width, height),
            x264={"preset": self._preset, "crf": str(self._crf), "threads": str(self._threads)},
            audio_bitrate_bps=self._audio_bitrate_bps,
            queue_batches=self._queue_batches,
            loudness=self._loudness,
            words=None if self._words is None else self._words(),
            phonemes=self._phonemes(),
            muxing=_FRAGMENTED if self._fragmented else _INDEX_FIRST,
            watermark_id=self._watermark_id,
        )

    def write(self, frames: np.ndarray) -> None:
        """Hand frames `[n, H, W, 3]` uint8 to the encoder; blocks while its queue is full.

        Raises:
            ArtifactError: the frames are not as large as announced, or an earlier one could not be
                encoded.
        """
        if self._attempt is None:
            raise ArtifactError("frames came before the encoder was begun")
        self._attempt.write(frames)

    def finish(self, timeout_s: float) -> EncodedMedia:
        """Wait for the last frame to be written, and return the finished file.

        Raises:
            ArtifactError: encoding failed, or took longer.
        """
        if self._attempt is None:
            raise ArtifactError("there is nothing to finish: the encoder was not begun")
        return self._attempt.finish(timeout_s)

    def abort(self) -> None:
        """Stop, and remove what was written; does no harm at any time."""
        if self._attempt is not None:
            self._attempt.abort()
            self._attempt = None


class _Attempt:
    """One run of the encoder's thread over one file."""

    def __init__(
        self,
        path: Path,
        waveform: np.ndarray,
        sample_rate_hz: int,
        fps: int,
        size: tuple[int, int],
        *,
        x264: dict[str, str],
        audio_bitrate_bps: int,
        queue_batches: int,
        loudness: LoudnessTarget | None,
        words: Sequence[TimedWord] | None,
        phonemes: Sequence[TimedPhoneme],
        muxing: Mapping[str, str],
        watermark_id: str | None,
    ) -> None:
        self._path = path
        self._waveform = waveform
        self._sample_rate_hz = sample_rate_hz
        self._fps = fps
        self._size = size
        self._x264 = x264
        self._audio_bitrate_bps = audio_bitrate_bps
        self._target = loudness
        self._words = words
        self._phonemes = phonemes
        self._muxing = muxing
        self._watermark_id = watermark_id
        self._watermark: Watermark | None = None
        self._captions: str | None = None
        self._loudness: Measured | None = None
        self._batches: queue.Queue[np.ndarray | None] = queue.Queue(queue_batches)
        self._aborted = threading.Event()
        self._error: BaseException | None = None
        self._frames = 0
        self._thread = threading.Thread(target=self._run, name="vortex-encoder", daemon=True)
        self._thread.start()

    def write(self, frames: np.ndarray) -> None:
        width, height = self._size
        if frames.shape[1:] != (height, width, 3):
            raise ArtifactError(f"frames must be [n, {height}, {width}, 3], got {frames.shape}")
        self._put(np.array(frames, dtype=np.uint8))

    def _put(self, batch: np.ndarray | None, timeout_s: float = math.inf) -> None:
        give_up_at = time.monotonic() + timeout_s
        while self._thread.is_alive():
            try:
                self._batches.put(batch, timeout=_PUT_POLL_S)
            except queue.Full:
                if time.monotonic() >= give_up_at:
                    raise _too_slow(timeout_s) from None
                continue
            return
        self._raise_error()
        raise ArtifactError("the encoder has stopped")

    def finish(self, timeout_s: float) -> EncodedMedia:
        timeout_s = min(timeout_s, threading.TIMEOUT_MAX)  # a deadline may be centuries away
        give_up_at = time.monotonic() + timeout_s
        if self._thread.is_alive():
            self._put(None, timeout_s)
        self._thread.join(max(0.0, give_up_at - time.monotonic()))
        if self._thread.is_alive():
            raise _too_slow(timeout_s)
        self._raise_error()
        if self._frames == 0:
            raise ArtifactError("there is nothing to finish: no frames were written")
        width, height = self._size
        return EncodedMedia(
            path=self._path,
            bytes=self._path.stat().st_size,
            sha256=sha256_of(self._path),
            duration_s=self._frames / self._fps,
            width=width,
            height=height,
            fps=self._fps,
            loudness=self._loudness,
            captions=self._captions,
            watermark_id=self._watermark_id,
        )

    def abort(self) -> None:
        self._aborted.set()
        self._thread.join()
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:  # what went wrong before is what counts; `check` sweeps it up
            logger.warning(
                "Unfinished video not removed",
                extra={"file": str(self._path), "reason": error.strerror},
            )

    def _raise_error(self) -> None:
        if self._error is not None:
            raise ArtifactError(f"encoding failed: {self._error}") from self._error

    def _run(self) -> None:
        try:
            if self._target is not None:
                self._waveform = levelled(self._waveform, self._sample_rate_hz, self._target)
            self._encode()
            if self._target is not None:
                self._loudness = measure_file(self._path)
        except Exception as error:  # noqa: BLE001 - it is raised where frames are written
            self._error = error

    def _encode(self) -> None:
        if self._watermark_id is not None:
            self._watermark = Watermark(self._watermark_id, *self._size)
        options = {**self._muxing, "fflags": "+bitexact"}
        with av.open(str(self._path), "w", format="mp4", container_options=options) as container:
            video = self._video_stream(container)
            audio = container.add_stream("aac", rate=AUDIO_RATE_HZ, layout="mono")
            audio.bit_rate = self._audio_bitrate_bps
            audio.options = {"flags": "+bitexact"}
            cues = self._cues()
            if cues:
                captions = _caption_stream(container)
                container.start_encoding()
                for cue in cues:
                    container.mux(self._caption(captions, cue))
            track = _AudioTrack(container, audio, self._waveform, self._sample_rate_hz)
            while (batch := self._next_batch()) is not None:
                for pixels in batch:
                    self._write_frame(container, video, pixels)
                # Interleaved as it will be played, so that neither track has to be held back.
                track.write_until(self._frames / self._fps)
            for packet in video.encode():
                container.mux(packet)
            track.finish(self._frames / self._fps)

    def _cues(self) -> list[Cue]:
        if self._words is None:
            return []
        frames = round(len(self._waveform) / self._sample_rate_hz * self._fps)
        cues = cues_of(self._words, self._fps, frames)
        self._captions = as_webvtt(cues, self._fps, self._phonemes)
        return cues

    def _caption(self, stream: SubtitleStream, cue: Cue) -> av.Packet[Stream]:
        packet: av.Packet[Stream] = av.Packet(as_timed_text(cue))
        packet.stream = stream
        packet.time_base = Fraction(1, 1000)
        start_ms, end_ms = (
            round(frame * 1000 / self._fps) for frame in (cue.start_frame, cue.end_frame)
        )
        packet.pts = packet.dts = start_ms
        packet.duration = end_ms - start_ms
        return packet

    def _video_stream(self, container: av.container.OutputContainer) -> av.VideoStream:
        video: av.VideoStream = container.add_stream("libx264", rate=self._fps)
        video.width, video.height = self._size
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, self._fps)
        video.options = {
            **self._x264,
            "flags": "+bitexact+cgop",
            "g": str(MAX_GOP_S * self._fps),
        }
        context = video.codec_context
        # Slices, the default of PyAV, would be predicted each on its own: larger files.
        context.thread_type = ThreadType.FRAME
        context.color_primaries = context.color_trc = context.colorspace = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        return video

    def _write_frame(
        self, container: av.container.OutputContainer, video: av.VideoStream, pixels: np.ndarray
    ) -> None:
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )
        if self._watermark is not None:
            self._watermark.apply(luma_of(frame))
        frame.pts = self._frames
        frame.time_base = Fraction(1, self._fps)
        self._frames += 1
        for packet in video.encode(frame):
            container.mux(packet)

    def _next_batch(self) -> np.ndarray | None:
        while not self._aborted.is_set():
            try:
                return self._batches.get(timeout=_PUT_POLL_S)
            except queue.Empty:
                continue
        raise ArtifactError("aborted")


def _caption_stream(container: av.container.OutputContainer) -> SubtitleStream:
    """Add a track of timed text; FFmpeg wants a header of styles for it, and uses none of them."""
    stream: SubtitleStream = container.add_stream("mov_text")
    stream.codec_context.subtitle_header = _ASS_HEADER
    stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = "eng"
    return stream


class _AudioTrack:
    """Feeds the waveform to the AAC encoder, as far as the video has come."""

    def __init__(
        self,
        container: av.container.OutputContainer,
        stream: av.AudioStream,
        waveform: np.ndarray,
        sample_rate_hz: int,
    ) -> None:
        self._container = container
        self._stream = stream
        self._waveform = np.clip(waveform, -1.0, 1.0)
        self._rate_hz = sample_rate_hz
        self._resampler = AudioResampler(format="fltp", layout="mono", rate=AUDIO_RATE_HZ)
        self._written = 0

    def write_until(self, end_s: float) -> None:
        """Encode up to a moment; beyond the waveform's end there is silence."""
        end = round(end_s * self._rate_hz)
        if end <= self._written:
            return
        samples = self._waveform[self._written : end]
        samples = np.pad(samples, (0, end - self._written - len(samples)))
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
        frame.sample_rate = self._rate_hz
        frame.pts = self._written
        frame.time_base = Fraction(1, self._rate_hz)
        self._written = end
        self._encode(frame)

    def finish(self, end_s: float) -> None:
        """Encode up to the video's end, and flush."""
        self.write_until(end_s)
        self._encode(None)
        for packet in self._stream.encode(None):
            self._container.mux(packet)

    def _encode(self, frame: av.AudioFrame | None) -> None:
        for resampled in self._resampler.resample(frame):
            for packet in self._stream.encode(resampled):
                self._container.mux(packet)


def _too_slow(timeout_s: float) -> ArtifactError:
    return ArtifactError(f"encoding did not finish within {timeout_s:.1f} s")
