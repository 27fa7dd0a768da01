"""What loudness, captions, watermark and credentials add to a slot: `make bench-on-air`.

Slots of the profile `mini`, 6 s at 12 frames a second and 128x128, from the recipe to the stored
MP4: the same one with everything off, with one feature, and with all, in turns, in one run. Prints
the median ratio of wall time and of all threads' processor time over the slot with everything off,
and the processor time of the event loop's own thread. `--small` is a minute's run. Fails if all
features together add more wall time than the bound. `--alone` needs no models: it encodes and signs
a drawn face of the same size, and prints the processor time that each feature adds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from consumer.artifacts.credentials import ManifestSigner
from consumer.artifacts.encoder import SlotEncoder
from consumer.artifacts.loudness import LoudnessTarget
from consumer.artifacts.store import ArtifactStore
from consumer.config import ArtifactsConfig, WorkerConfig
from consumer.demo.recipes import our_ticks
from consumer.demo.voices import installed_voices
from consumer.engine.base import SlotMade, SlotRequest
from consumer.engine.slot_maker import SlotMaker
from consumer.job import TickKey
from schemas import Recipe
from training.drawing import draw
from training.faces import Face, Motion
from vortex.config import TimeoutsConfig
from vortex.models.kokoro.speech import TimedWord
from vortex.models.mini import build_mini
from vortex.orchestration import StageEstimates
from vortex.pipeline import VortexPipeline
from vortex.slot import SlotListener

HIGHEST_RATIO = 1.03
DEADLINE_S = 300.0
ALONE_ROUNDS = 16
FPS, FRAMES, RATE_HZ = 12, 72, 24_000
WORDS = [TimedWord(f"word{number}", 0.5 * number, 0.5 * number + 0.5) for number in range(12)]
OFF, ALL = "everything off", "all"
FEATURES: Mapping[str, tuple[str, ...]] = {
    OFF: (),
    "loudness": ("loudness",),
    "captions": ("captions",),
    "watermark": ("watermark",),
    "credentials": ("credentials",),
    ALL: ("loudness", "captions", "watermark", "credentials"),
}


# What a busy machine takes is measured, and not refused.
_PATIENT = TimeoutsConfig(audio_s=120, image_s=120, video_s=120, clip_s=120)


@dataclass(frozen=True)
class Cost:
    """Seconds of one slot."""

    wall_s: float
    processor_s: float
    """Of all threads."""
    loop_s: float
    """Processor time of the event loop's thread."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="few slots, in about a minute")
    parser.add_argument("--alone", action="store_true", help="without models, in seconds")
    arguments = parser.parse_args()
    if arguments.alone:
        return _print_alone()
    rounds = 2 if arguments.small else 8
    os.environ["VORTEX__DEVICE__NAME"] = "cpu"
    with tempfile.TemporaryDirectory() as directory:
        costs = asyncio.run(_measure(WorkerConfig.load(), Path(directory), rounds))
    console = Console(width=90)
    console.print(
        f"{os.cpu_count()} cores ({platform.machine()}, no GPU), {rounds} slots of 6 s each,"
        f" {median(cost.wall_s for cost in costs[OFF]):.2f} s with everything off; medians",
        highlight=False,
    )
    console.print(_table(costs))
    return 0 if median(_ratios(costs, ALL)) <= HIGHEST_RATIO else 1


async def _measure(config: WorkerConfig, directory: Path, rounds: int) -> Mapping[str, list[Cost]]:
    build_mini(config.models.profile_directory)
    pipeline = await asyncio.to_thread(VortexPipeline, config=config)
    await pipeline.warm_up()
    store = ArtifactStore(str(directory))
    makers = {name: _maker(config, pipeline, store, on) for name, on in FEATURES.items()}
    voices = installed_voices(config.models.profile_directory)
    recipes = [tick.recipe for tick in our_ticks(voices) if tick.recipe][:4]
    await _cost(makers[ALL], recipes[0], 0)  # finds things cold
    costs: dict[str, list[Cost]] = {name: [] for name in FEATURES}
    order = list(FEATURES)
    for number in range(rounds):
        for name in order:
            costs[name].append(await _cost(makers[name], recipes[number % 4], number))
        order = [*order[1:], order[0]]  # so that none always follows the same one
    pipeline.close()
    return costs


def _maker(
    config: WorkerConfig, pipeline: VortexPipeline, store: ArtifactStore, on: tuple[str, ...]
) -> SlotMaker:
    changed = config.model_copy(
        update={
            "artifacts": _with_features(config.artifacts, on),
            "orchestration": config.orchestration.model_copy(update={"timeouts": _PATIENT}),
        }
    )
    estimates = StageEstimates(_PATIENT.by_stage())
    signer = ManifestSigner.self_made() if "credentials" in on else None
    return SlotMaker(changed, pipeline, store, estimates, signer)


def _with_features(artifacts: ArtifactsConfig, on: tuple[str, ...]) -> ArtifactsConfig:
    loudness = artifacts.loudness.model_copy(update={"enabled": "loudness" in on})
    changes = {
        "loudness": loudness,
        "captions": "captions" in on,
        "watermark": "watermark" in on,
    }
    return artifacts.model_copy(update=changes)


async def _cost(maker: SlotMaker, recipe: Recipe, number: int) -> Cost:
    began = time.monotonic(), time.process_time(), time.thread_time()
    request = SlotRequest(
        key=TickKey("bench", 0, number),
        slot_id=number,
        channel="bench",
        recipe=recipe,
        seed=number,
        deadline_s=began[0] + DEADLINE_S,
    )
    result = await maker.make(request, SlotListener())
    ended = time.monotonic(), time.process_time(), time.thread_time()
    if not isinstance(result, SlotMade):
        sys.exit(f"slot {number} was not made: {result.reason}: {result.detail}")
    return Cost(*(after - before for before, after in zip(began, ended, strict=True)))


def _print_alone() -> int:
    """Print the processor time that each feature adds to encoding and signing."""
    face = Face.sample(np.random.default_rng(1))
    openings = np.abs(np.sin(0.7 * np.arange(FRAMES)))
    frames = np.stack([draw(face, Motion(mouth_open=float(each))) for each in openings])
    signer = ManifestSigner.self_made()
    spent_ms: dict[str, list[float]] = {name: [] for name in FEATURES}
    order = list(FEATURES)
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(ALONE_ROUNDS + 1):
            for name in order:
                began_s = time.process_time()
                _encode(Path(directory) / "slot.mp4", frames, FEATURES[name], signer)
                spent_ms[name].append((time.process_time() - began_s) * 1000)
            order = [*order[1:], order[0]]
    print(f"{os.cpu_count()} cores ({platform.machine()}), median of {ALONE_ROUNDS}, 6 s of video")
    for name, measured in spent_ms.items():
        warm = zip(measured[1:], spent_ms[OFF][1:], strict=True)
        print(f"{name}: {median(ours - bare for ours, bare in warm):+.1f} ms of processor time")
    return 0


def _encode(path: Path, frames: np.ndarray, on: tuple[str, ...], signer: ManifestSigner) -> None:
    encoder = SlotEncoder(
        path,
        loudness=LoudnessTarget(-23.0, -1.0) if "loudness" in on else None,
        words=(lambda: WORDS) if "captions" in on else None,
        watermark_id="0123abcd" if "watermark" in on else None,
    )
    noise = np.random.default_rng(0).standard_normal(6 * RATE_HZ).astype(np.float32)
    height, width = frames.shape[1:3]
    encoder.begin(waveform=0.1 * noise, sample_rate_hz=RATE_HZ, fps=FPS, width=width, height=height)
    for start in range(0, len(frames), 4):
        encoder.write(frames[start : start + 4])
    media = encoder.finish(DEADLINE_S)
    if "credentials" in on:
        signer.sign(media, {"slot_id": 1, "channel": "bench"})


def _ratios(costs: Mapping[str, list[Cost]], name: str) -> list[float]:
    pairs = zip(costs[name], costs[OFF], strict=True)
    return [cost.wall_s / bare.wall_s for cost, bare in pairs]


def _table(costs: Mapping[str, list[Cost]]) -> Table:
    table = Table("on", "wall time", "from", "to", "processor time", "event loop", box=None)
    for name, measured in costs.items():
        ratios = _ratios(costs, name)
        processor = median(
            cost.processor_s / bare.processor_s
            for cost, bare in zip(measured, costs[OFF], strict=True)
        )
        table.add_row(
            name,
            f"{median(ratios):.3f}",
            f"{min(ratios):.3f}",
            f"{max(ratios):.3f}",
            f"{processor:.3f}",
            f"{median(cost.loop_s for cost in measured) * 1000:.1f} ms",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
