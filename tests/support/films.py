"""Real small videos: faces that we draw, through the project's own encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from consumer.artifacts.encoder import SlotEncoder
from training.drawing import draw
from training.faces import Face, Motion

FPS = 12
SIZE_PX = 128
RATE_HZ = 24_000
TIMEOUT_S = 60.0


def encode(path: Path, frames: np.ndarray, *, fragmented: bool = False) -> Path:
    """Write frames `[n, H, W, 3]` uint8 as an MP4 with silence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = SlotEncoder(path, preset="ultrafast", fragmented=fragmented)
    height, width = frames.shape[1:3]
    silence = np.zeros(len(frames) * RATE_HZ // FPS, dtype=np.float32)
    encoder.begin(waveform=silence, sample_rate_hz=RATE_HZ, fps=FPS, width=width, height=height)
    encoder.write(frames)
    return encoder.finish(TIMEOUT_S).path


def talking_face(path: Path, seed: int, count: int = 12) -> Path:
    """Write a face whose mouth opens and closes."""
    face = Face.sample(np.random.default_rng(seed))
    openings = np.abs(np.sin(np.arange(count)))
    return encode(
        path, np.stack([draw(face, Motion(mouth_open=float(opening))) for opening in openings])
    )
