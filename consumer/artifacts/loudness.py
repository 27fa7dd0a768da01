"""Loudness after EBU R 128, measured and set by FFmpeg's filters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.filter import Graph

from consumer.artifacts.media import Measured

FLOOR_LUFS = -69.9
"""At and below it there is nothing to measure: silence, or less than 400 ms of sound."""
_CODEC_HEADROOM_DB = 1.0  # AAC overshoots what it was given, by less than this
_CLOSE_LU = 0.05
_MAX_ROUNDS = 4  # limiting lowers the loudness a little, which another round makes up for
_OVERSAMPLED_HZ = 192_000


@dataclass(frozen=True)
class LoudnessTarget:
    """What a slot's sound is brought to."""

    lufs: float
    """Integrated loudness of the whole slot."""
    true_peak_dbtp: float
    """No peak of the finished file is above."""


def measure(waveform: np.ndarray, sample_rate_hz: int) -> Measured:
    """Measure float samples `[n]`, mono."""
    hop = sample_rate_hz // 10
    # The filter says nothing about what follows the last whole tenth of a second. A peak there
    # counts; for the loudness, BS.1770 leaves out a block that is not whole.
    padded = np.pad(waveform, (0, -len(waveform) % hop))
    lufs, peak = -math.inf, 0.0
    for number, frame in enumerate(_filtered(padded, sample_rate_hz, ("ebur128", _MEASURING)), 1):
        peak = float(frame.metadata.get("lavfi.r128.true_peak", peak))
        if number <= len(waveform) // hop:
            lufs = float(frame.metadata.get("lavfi.r128.I", lufs))
    return Measured(
        integrated_lufs=lufs if lufs > FLOOR_LUFS else None,
        true_peak_dbtp=round(_db(peak), 2) if peak > 0 else None,
    )


def measure_file(path: Path) -> Measured:
    """Measure the mono sound of a finished file, as its listeners decode it."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        parts = [frame.to_ndarray()[0] for frame in container.decode(stream)]
        rate_hz = stream.rate
    return measure(np.concatenate(parts) if parts else np.zeros(0, np.float32), rate_hz)


def levelled(waveform: np.ndarray, sample_rate_hz: int, target: LoudnessTarget) -> np.ndarray:
    """Return the samples at the target loudness, below the peak limit; silence as it is.

    One gain for all of it. Only where that would lift a peak over the limit is it limited.
    """
    measured = measure(waveform, sample_rate_hz)
    if measured.integrated_lufs is None or measured.true_peak_dbtp is None:
        return waveform
    ceiling_db = target.true_peak_dbtp - _CODEC_HEADROOM_DB
    gain_db = target.lufs - measured.integrated_lufs
    if measured.true_peak_dbtp + gain_db <= ceiling_db:
        return _scaled(waveform, gain_db)
    for _ in range(_MAX_ROUNDS):
        limited = _limited(_scaled(waveform, gain_db), sample_rate_hz, ceiling_db)
        reached = measure(limited, sample_rate_hz).integrated_lufs
        if reached is None or abs(target.lufs - reached) <= _CLOSE_LU:
            break
        gain_db += target.lufs - reached
    return limited


_MEASURING = "peak=true:metadata=1:framelog=quiet"


def _limited(waveform: np.ndarray, sample_rate_hz: int, ceiling_db: float) -> np.ndarray:
    """Bend the peaks between the samples too, without a delay."""
    frames = _filtered(
        waveform,
        sample_rate_hz,
        ("aresample", str(_OVERSAMPLED_HZ)),
        ("alimiter", f"limit={10 ** (ceiling_db / 20)}:level=0:latency=1"),
        ("aresample", str(sample_rate_hz)),
        ("aformat", "sample_fmts=flt"),
    )
    limited = np.concatenate([frame.to_ndarray()[0] for frame in frames])[: len(waveform)]
    return np.pad(limited, (0, len(waveform) - len(limited))).astype(np.float32)


def _filtered(
    waveform: np.ndarray, sample_rate_hz: int, *filters: tuple[str, str]
) -> Iterator[av.AudioFrame]:
    if not len(waveform):
        return
    graph = Graph()
    nodes = [
        graph.add_abuffer(sample_rate=sample_rate_hz, format="flt", layout="mono"),
        *(graph.add(name, arguments) for name, arguments in filters),
        graph.add("abuffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    samples = np.ascontiguousarray(waveform[np.newaxis], dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
    frame.sample_rate = sample_rate_hz
    frame.pts = 0
    graph.push(frame)
    graph.push(None)
    while True:
        try:
            made = graph.pull()
        except (av.error.EOFError, av.error.BlockingIOError):
            return
        if isinstance(made, av.AudioFrame):
            yield made


def _scaled(waveform: np.ndarray, gain_db: float) -> np.ndarray:
    return (waveform * 10 ** (gain_db / 20)).astype(np.float32)


def _db(amplitude: float) -> float:
    return 20 * math.log10(amplitude)
