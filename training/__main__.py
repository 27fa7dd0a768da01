"""`python -m training train PART`: trains the miniature's models on portraits drawn here.

Every part resumes from its checkpoint in the directory. `evaluate` measures the shipped models, or
those just trained; `export` ships these.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from training import (
    calibration,
    evaluate,
    judge,
    train_autoencoder,
    train_clip,
    train_flux,
    train_liveportrait,
    train_text,
)
from training.loop import Report
from vortex.models.calibration import path_of
from vortex.models.clip_ensemble import THRESHOLDS
from vortex.models.mini import SHIPPED, shipped_weights

TRAINED = Path("build/mini")

# In the order in which one needs the other.
PARTS: dict[str, Callable[..., Report]] = {
    "autoencoder": train_autoencoder.run,
    "text": train_text.run,
    "flux": train_flux.run,
    "liveportrait": train_liveportrait.run,
    "beards": train_liveportrait.run_beards,
    "mouths": train_liveportrait.run_mouths,
    "clip": train_clip.run,
    "calibration": calibration.run,
    "judge": judge.run,
}


def main() -> None:
    """Read the command line; train or measure."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a part, or all in their order")
    train.add_argument("part", choices=[*PARTS, "all"])
    train.add_argument("--directory", type=Path, default=TRAINED, help="for checkpoints and models")
    measure = commands.add_parser("evaluate", help="measure models on held-out prompts and faces")
    measure.add_argument("--models", type=Path, default=shipped_weights(), help="default: shipped")
    measure.add_argument("--output", type=Path, default=Path("build/evaluation"))
    pack = commands.add_parser("export", help="copy what was trained to where the package ships it")
    pack.add_argument("--directory", type=Path, default=TRAINED)
    for command, seed in ((train, 0), (measure, evaluate.SEED)):
        command.add_argument("--seed", type=int, default=seed)
        command.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    if arguments.command == "export":
        export(arguments.directory, shipped_weights())
        return
    settings = {"seed": arguments.seed, "device": arguments.device, "say": _say}
    if arguments.command == "evaluate":
        evaluate.run(arguments.models, arguments.output, **settings)
        return
    for part in PARTS if arguments.part == "all" else [arguments.part]:
        PARTS[part](arguments.directory, **settings)


def export(directory: Path, target: Path) -> None:
    """Copy the trained models, their calibration and the judge over what is there."""
    target.mkdir(exist_ok=True)
    for name in THRESHOLDS:
        shutil.copyfile(path_of(directory, name), path_of(target, name))
    for name in SHIPPED:
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(directory / name, target / name)
    shutil.copyfile(directory / "judge.safetensors", target / "judge.safetensors")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the command line's own output


if __name__ == "__main__":
    main()
