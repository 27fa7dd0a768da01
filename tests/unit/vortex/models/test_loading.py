from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from consumer.config import WorkerConfig
from vortex.errors import VortexInitializationError
from vortex.models.loading import try_loading
from vortex.weights.catalogue import Catalogue

State = dict[str, torch.Tensor]
OPEN_CLIP = "clip-b/open_clip_model.safetensors"
TEXT_ENCODERS = ("flux/text_encoder/model.safetensors", "flux/text_encoder_2/model.safetensors")
DIFFUSED = tuple(
    f"flux/{part}/diffusion_pytorch_model.safetensors" for part in ("transformer", "vae")
)


def without_one(state: State) -> None:
    del state[min(state)]


def with_one_more(state: State) -> None:
    state["more"] = torch.zeros(1)


def with_one_of_other_shape(state: State) -> None:
    name = min(state)
    state[name] = torch.zeros([2 * size for size in state[name].shape] or [2, 2])


@pytest.fixture
def spoilt(mini_models: Path, tmp_path: Path) -> Callable[[str, Callable[[State], None]], Path]:
    """Return a function that copies a model and changes the tensors of one of its files."""

    def spoil(weights: str, change: Callable[[State], None]) -> Path:
        name = Path(weights).parts[0]
        shutil.copytree(mini_models / "mini" / name, tmp_path / name, copy_function=os.symlink)
        path = tmp_path / weights
        state = load_file(path)
        change(state)
        path.unlink()
        save_file(state, path, metadata={"format": "pt"})
        return tmp_path

    return spoil


def refusal(name: str, directory: Path, config: WorkerConfig) -> str:
    with pytest.raises(VortexInitializationError) as caught:
        try_loading(name, directory, config)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", Catalogue.load().profile("mini"))
def test_every_model_of_mini_loads(name: str, mini_config: WorkerConfig) -> None:
    try_loading(name, mini_config.models.profile_directory, mini_config)


@pytest.mark.parametrize("name", Catalogue.load().profile("production"))
def test_every_model_of_production_has_a_class_that_misses_its_files(
    name: str, tmp_path: Path, mini_config: WorkerConfig
) -> None:
    assert str(tmp_path / name) in refusal(name, tmp_path, mini_config)


def test_model_without_a_class_is_refused(tmp_path: Path, mini_config: WorkerConfig) -> None:
    assert refusal("x", tmp_path, mini_config) == "x: no class loads such a model"


@pytest.mark.parametrize("weights", [OPEN_CLIP, *TEXT_ENCODERS, *DIFFUSED])
@pytest.mark.parametrize("change", [without_one, with_one_more, with_one_of_other_shape])
def test_tensors_that_do_not_fit_are_refused(
    weights: str,
    change: Callable[[State], None],
    spoilt: Callable[[str, Callable[[State], None]], Path],
    mini_config: WorkerConfig,
) -> None:
    directory = spoilt(weights, change)
    name = Path(weights).parts[0]
    message = refusal(name, directory, mini_config)
    assert str(directory / name) in message
    if name == "flux":
        assert str((directory / weights).parent) in message
