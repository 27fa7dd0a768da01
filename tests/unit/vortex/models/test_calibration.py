"""What cosines count for: kept outside the weights, and bound to them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.models import link_models
from vortex.errors import VortexInitializationError
from vortex.models.calibration import Calibration, CalibrationFile, Figures, path_of
from vortex.models.clip_ensemble import DualClip
from vortex.weights.manifest import FILE_NAME, Manifest

CPU = torch.device("cpu")
FIGURES = Figures(
    prompts=20,
    separation=0.99,
    refused=0.05,
    accepted=0.01,
    refused_uncalibrated=0.4,
    accepted_uncalibrated=0.0,
)
MAP = Calibration(scale=1.25, offset=-0.1, concept_margin=0.02)


@pytest.fixture
def profile(mini_models: Path, tmp_path: Path) -> Path:
    """Give a directory of the profile, without calibrations."""
    directory = link_models(mini_models, tmp_path) / "mini"
    for path in directory.glob("calibration.*"):
        path.unlink()
    return directory


def write(directory: Path, encoder: str = "clip-b", calibration: Calibration = MAP) -> Path:
    CalibrationFile.of(directory, encoder, calibration, FIGURES).write(directory)
    return path_of(directory, encoder)


def replace_weights(directory: Path, model: str) -> None:
    """Have the manifest list another file of weights, as a newer release would."""
    manifest = json.loads((directory / FILE_NAME).read_text())
    files = manifest["models"][model]["files"]
    next(iter(files.values()))["sha256"] = "0" * 64
    manifest["models"][model]["revision"] = "newer"
    (directory / FILE_NAME).unlink()
    (directory / FILE_NAME).write_text(json.dumps(manifest))
    Manifest.read(directory)


def test_calibration_of_the_installed_weights_is_used(profile: Path) -> None:
    assert Calibration.read(profile, "clip-b") is None
    write(profile)
    read = Calibration.read(profile, "clip-b")
    assert read == MAP
    assert float(read.apply(torch.tensor(0.4))) == pytest.approx(0.4)


@pytest.mark.parametrize("model", ["clip-b", "flux"])
def test_calibration_of_other_weights_is_refused_in_one_line(model: str, profile: Path) -> None:
    path = write(profile)
    replace_weights(profile, model)
    with pytest.raises(VortexInitializationError) as caught:
        DualClip.load(profile, device=CPU)
    message = str(caught.value)
    assert re.match(
        rf"{re.escape(str(path))}: belongs to {model} [0-9a-f]{{12}} \([0-9a-f]{{8}}\), but {model}"
        r" newer \([0-9a-f]{8}\) is installed; run `vortex models calibrate`, or remove the file$",
        message,
    )
    assert not DualClip.load(profile, device=CPU, calibrated=False).calibrated


def test_calibration_of_another_model_does_not_matter(profile: Path) -> None:
    write(profile)
    replace_weights(profile, "liveportrait")
    assert Calibration.read(profile, "clip-b") == MAP


def test_models_on_disk_without_a_manifest_have_the_same_binding(profile: Path) -> None:
    write(profile)
    (profile / FILE_NAME).unlink()
    assert Calibration.read(profile, "clip-b") == MAP


def test_one_encoder_alone_makes_no_common_scale(profile: Path) -> None:
    write(profile, "clip-b")
    half = DualClip.load(profile, device=CPU)
    assert not half.calibrated
    assert half.encoders["clip-b"].calibration == Calibration()
    write(profile, "clip-l")
    whole = DualClip.load(profile, device=CPU)
    assert whole.calibrated
    assert whole.encoders["clip-l"].calibration == MAP


def test_shipped_models_are_calibrated(mini_models: Path) -> None:
    assert DualClip.load(mini_models / "mini", device=CPU).calibrated


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scale": 0}, "calibration.scale: Input should be greater than 0, got 0"),
        ({"scale": -1}, "calibration.scale: Input should be greater than 0, got -1"),
        ({"scale": "1"}, "calibration.scale: Input should be a valid number, got '1'"),
        ({"scale": float("nan")}, "calibration.scale: Input should be a finite number, got nan"),
        ({"offset": None}, "calibration.offset: Input should be a valid number, got None"),
        ({"shift": 1}, "calibration.shift: Extra inputs are not permitted"),
    ],
)
def test_calibration_that_is_none_is_refused_in_one_line(
    changes: dict[str, Any], reason: str, profile: Path
) -> None:
    path = write(profile)
    content = json.loads(path.read_text())
    content["calibration"].update(changes)
    path.write_text(json.dumps(content))
    with pytest.raises(VortexInitializationError) as caught:
        Calibration.read(profile, "clip-b")
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", '{"scale": 1.0, "offset": 0.06}'])
def test_file_of_another_kind_is_refused_in_one_line(content: str, profile: Path) -> None:
    path_of(profile, "clip-b").write_text(content)
    with pytest.raises(VortexInitializationError, match=r"calibration\.clip-b\.json: ") as caught:
        Calibration.read(profile, "clip-b")
    assert "\n" not in str(caught.value)
