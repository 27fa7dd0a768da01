"""`vortex models calibrate`: made on the models' own videos, used, refused with other weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from tests.support.command_line import vortex
from tests.support.models import link_models
from vortex.models.calibration import CalibrationFile, path_of
from vortex.models.clip_ensemble import THRESHOLDS, DualClip

# In `make test` the parts: the fit, and the refusal, in tests/unit/vortex/models.
pytestmark = [pytest.mark.models, pytest.mark.slow, pytest.mark.timeout(400)]

PROMPTS = 20
CPU = torch.device("cpu")


def test_calibration_is_made_used_and_refused_when_it_belongs_to_other_weights(
    mini_models: Path, tmp_path: Path
) -> None:
    models = link_models(mini_models, tmp_path / "models")
    mini = models / "mini"
    variables = {"VORTEX__MODELS__DIRECTORY": str(models)}
    for name in THRESHOLDS:
        path_of(mini, name).unlink()
    assert not DualClip.load(mini, device=CPU).calibrated

    command = ("models", "calibrate", "--prompts", str(PROMPTS), "--seed", "5")
    done = vortex(*command, timeout_s=300, **variables)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [
        "self-check", "clip-b", "clip-l", "both", "concepts:", "calibration",
    ]  # fmt: skip
    assert all(float(row[1]) > 0.95 for row in rows[1:4])

    clip = DualClip.load(mini, device=CPU)
    assert clip.calibrated
    for name, encoder in clip.encoders.items():
        file = CalibrationFile.read(mini, name)
        assert file is not None
        assert file.calibration.scale == encoder.calibration.scale != 1.0
        assert file.figures.prompts == PROMPTS
        assert file.figures.refused <= 0.3  # of ten videos, fitted to the ten others

    path = path_of(mini, "clip-l")
    content = json.loads(path.read_text())
    content["image_model"] |= {"revision": "older", "sha256": "0" * 64}
    path.write_text(json.dumps(content))
    verified = vortex("models", "verify", **variables)
    assert verified.returncode == 3
    (refusal,) = [line for line in verified.stdout.splitlines() if line.startswith("FAIL")]
    assert re.search(
        r"calibration\.clip-l\.json: belongs to flux older \(00000000\), but flux \w+ \(\w+\) is"
        r" installed; run `vortex models calibrate`, or remove the file$",
        refusal,
    )
