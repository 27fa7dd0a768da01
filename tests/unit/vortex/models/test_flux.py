from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.text import T5_TOKENS
from vortex.errors import VortexInitializationError
from vortex.models.flux import FluxImage
from vortex.utils.cancellation import CancellationToken, StageCancelled

CPU = torch.device("cpu")
STEPS = 4


@pytest.fixture(scope="module")
def flux(mini_models: Path) -> FluxImage:
    return FluxImage.load(mini_models / "mini" / "flux", device=CPU, dtype=torch.float32)


def draw(flux: FluxImage, prompt: str = "an old man with a hat", **changes: Any) -> torch.Tensor:
    settings: dict[str, Any] = {"width": 64, "height": 64, "steps": 2, "seed": 1}
    token = CancellationToken()
    return flux.generate(prompt, **{**settings, "token": token, **changes})


def test_same_seed_draws_the_same_picture_and_another_seed_another(flux: FluxImage) -> None:
    size = {"width": 128, "height": 128}  # as it was trained
    picture = draw(flux, **size)
    assert torch.equal(draw(flux, **size), picture)
    assert (draw(flux, seed=2, **size) - picture).abs().mean() > 0.05


def test_prompt_changes_the_picture(flux: FluxImage) -> None:
    assert not torch.equal(draw(flux, "a robot with silver skin"), draw(flux, "a clown"))


def test_what_a_prompt_leaves_open_is_chosen_by_the_seed(flux: FluxImage) -> None:
    first, again, other = (flux.encode("a man", seed)[0] for seed in (1, 1, 2))
    assert first is again  # as when it was encoded ahead of the slot
    assert not torch.equal(first, other)
    whole = "a man with short red hair and pale skin, in a green coat, against a grey wall"
    assert flux.encode(whole, 1)[0] is flux.encode(whole, 2)[0]


def test_picture_has_the_size_asked_for_and_values_from_0_to_1(flux: FluxImage) -> None:
    picture = draw(flux, width=96, height=64)
    assert picture.shape == (1, 3, 64, 96)
    assert picture.dtype == torch.float32
    assert 0.0 <= picture.min() < picture.max() <= 1.0


def test_drawing_leaves_the_global_generator_alone(flux: FluxImage) -> None:
    before = torch.get_rng_state()
    draw(flux)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("cancelled_after", range(STEPS))
def test_cancelled_picture_stops_after_the_step(flux: FluxImage, cancelled_after: int) -> None:
    token = CancellationToken()
    seen: list[tuple[int, int]] = []

    def on_step(done: int, of: int) -> None:
        seen.append((done, of))
        if done == cancelled_after:
            token.cancel()

    if cancelled_after == 0:
        token.cancel()
    with pytest.raises(StageCancelled):
        draw(flux, steps=STEPS, token=token, on_step=on_step)
    assert seen == [(step, STEPS) for step in range(1, cancelled_after + 1)]


def test_cancelled_picture_does_not_spoil_the_next(flux: FluxImage) -> None:
    picture = draw(flux)
    token = CancellationToken()
    with pytest.raises(StageCancelled):
        draw(flux, token=token, on_step=lambda *_: token.cancel())
    assert torch.equal(draw(flux), picture)


def test_prompt_longer_than_the_encoder_is_cut_and_warned_of_without_its_text(
    flux: FluxImage, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    draw(flux, "a portrait of a clown with a zebra " * 40)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.message == "Prompt cut: it is longer than the text encoder"
    assert vars(record)["tokens"] > vars(record)["max_tokens"] == T5_TOKENS
    printed = "".join(capfd.readouterr())
    assert "zebra" not in f"{[vars(record) for record in caplog.records]}{printed}"


def test_negative_prompt_has_no_effect_and_is_warned_of(
    flux: FluxImage, caplog: pytest.LogCaptureFixture
) -> None:
    picture = draw(flux)
    assert caplog.records == []
    assert torch.equal(draw(flux, negative_prompt="zebra"), picture)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message == "Negative prompt has no effect: the image model has no guidance"


def absent(directory: Path) -> None:
    assert not directory.exists()


def empty(directory: Path) -> None:
    directory.mkdir()


def with_a_garbled_part(directory: Path) -> None:
    weights = directory / "text_encoder" / "model.safetensors"
    weights.unlink()
    weights.write_bytes(bytes(1000))


def without_a_part(directory: Path) -> None:
    (directory / "vae" / "config.json").unlink()


@pytest.mark.parametrize("spoil", [absent, empty, with_a_garbled_part, without_a_part])
def test_directory_that_cannot_be_loaded_is_named_in_one_line(
    spoil: Callable[[Path], None], mini_models: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "flux"
    if spoil not in (absent, empty):
        source = mini_models / "mini" / "flux"
        shutil.copytree(source, directory, copy_function=os.symlink)
    spoil(directory)
    with pytest.raises(VortexInitializationError) as caught:
        FluxImage.load(directory, device=CPU, dtype=torch.float32)
    message = str(caught.value)
    assert message.startswith(f"flux: {directory}")
    assert "cannot be loaded: " in message or message.endswith("is missing")
    assert "\n" not in message


def test_embeddings_of_the_latest_prompts_are_kept_and_no_more(
    mini_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flux = FluxImage.load(mini_models / "mini" / "flux", device=CPU, dtype=torch.float32)
    read: list[str] = []
    flux.parts["t5"].register_forward_hook(lambda *_: read.append("t5"))
    monkeypatch.setattr("vortex.models.flux.PROMPTS_KEPT", 2)
    first = draw(flux, "a man")
    assert torch.equal(draw(flux, "a man"), first)
    assert len(read) == 1
    for prompt in ("a woman", "a man", "a hat", "a man", "a woman"):
        draw(flux, prompt)
    assert len(read) == 4  # of the two latest, "a woman" had gone


def test_t5_reads_256_tokens_though_its_tokenizer_would_take_more(mini_models: Path) -> None:
    flux = FluxImage.load(mini_models / "mini" / "flux", device=CPU, dtype=torch.float32)
    pipeline = flux._pipeline
    pipeline.tokenizer_2.model_max_length = 512
    lengths: list[int] = []
    flux.parts["t5"].register_forward_pre_hook(
        lambda _, arguments: lengths.append(arguments[0].shape[1])
    )
    draw(FluxImage(pipeline), "a man " * 400)
    assert lengths == [256]
