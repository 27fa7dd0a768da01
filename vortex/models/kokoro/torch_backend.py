"""Kokoro's network in PyTorch, on a GPU or the CPU, from the files of hexgrad/Kokoro-82M."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import remove_weight_norm
from torch.overrides import TorchFunctionMode

from vortex.errors import VortexInitializationError
from vortex.models.kokoro.backend import CONFIG_FILE, MAX_TOKENS
from vortex.models.kokoro.voices import checked, style_of
from vortex.utils.cancellation import CancellationToken
from vortex.weights.tensors import SUFFIXES, check_fit, find_weights, read_weights

WEIGHTS_NAME = "kokoro-v1_0"
VOICES_FOLDER = "voices"

_MODEL = "kokoro"
_REPOSITORY = "hexgrad/Kokoro-82M"  # only named to the library, which else warns; never asked
# What a training over several GPUs leaves in front of every name.
_PARALLEL_PREFIX = "module."
_NOISE_SEED = 0
SOUNDS_EARLY_S = 0.06  # 62 ms in the median of ten voices, with ONNX's weights (November 2026)


class TorchBackend:
    """Runs the package `kokoro`'s network, without its downloads, phonemizer and language model."""

    def __init__(self, directory: Path, *, device: torch.device | None = None) -> None:
        """Load `config.json`, the weights and the voices.

        The weights are `kokoro-v1_0.safetensors` (ours: one flat table) or `.pth` (published), a
        voice is `voices/NAME.safetensors` or `.pt`: one tensor, `[510, 1, 256]`.

        Args:
            directory: holds the files.
            device: where the network runs; None is the CPU.

        Raises:
            VortexInitializationError: the package is missing, or a file is, or does not fit; one
                line that names file and tensor.
        """
        self._device = device or torch.device("cpu")
        config = _read_config(directory / CONFIG_FILE)
        network = _build(config, directory / CONFIG_FILE)
        weights = find_weights(directory / WEIGHTS_NAME, _MODEL)
        state = _flat(read_weights(weights, _MODEL), weights)
        check_fit(network.state_dict(), state, _MODEL, str(weights))
        network.load_state_dict(state, strict=True)
        self._network = _prepared(network).to(self._device)
        self._token = CancellationToken()  # of the run that goes on
        for module in self._network.modules():
            # The library shares its activations, which have no parameters, between all networks.
            if any(True for _ in module.parameters()):
                module.register_forward_pre_hook(self._poll)
        self._voices = _read_voices(directory / VOICES_FOLDER)
        self.vocabulary: Mapping[str, int] = config["vocab"]
        self.voices = tuple(sorted(self._voices))

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The network, for what it holds."""
        return {"network": self._network}

    @property
    def sounds_early_s(self) -> float:
        """By how much sounds come early, as the protocol says."""
        return SOUNDS_EARLY_S

    @torch.inference_mode()
    def run(
        self, tokens: Sequence[int], voice: str, tempo: float, *, token: CancellationToken
    ) -> tuple[np.ndarray, np.ndarray]:
        """Speak tokens, as the protocol says."""
        self._token = token
        marked = torch.tensor([[0, *tokens, 0]], device=self._device)
        style = torch.from_numpy(style_of(self._voices[voice], len(tokens))).to(self._device)
        waveform, durations = self._network.forward_with_tokens(marked, style, tempo)
        return waveform.cpu().numpy(), durations.cpu().numpy()

    def _poll(self, *_: object) -> None:
        self._token.raise_if_cancelled()


class _SeededSource(nn.Module):
    """The decoder's source of sound, with noise of its own: a sentence sounds alike every time.

    The library draws its noise from torch's global generator, which all threads share.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.source = source

    def forward(self, pitch: torch.Tensor) -> Any:  # whatever the library's module returns
        with _OwnNoise(torch.Generator(pitch.device).manual_seed(_NOISE_SEED)):
            return self.source(pitch)


class _OwnNoise(TorchFunctionMode):
    """In this thread, and while it is entered, random tensors come from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # torch's own signature
        kwargs = kwargs or {}
        if func is torch.randn_like:
            return torch.empty_like(*args, **kwargs).normal_(generator=self._generator)
        if func is torch.rand:
            kwargs = {**kwargs, "generator": self._generator}
        return func(*args, **kwargs)


class _LeftUnfilled(TorchFunctionMode):
    """In this thread, and while it is entered, no tensor is given first values, only memory."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # torch's own signature
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        vocabulary, context = config["vocab"], config["plbert"]["max_position_embeddings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VortexInitializationError(
            f"kokoro: {path} cannot be read: {type(error).__name__}: {error}"
        ) from error
    if type(context) is not int or context < MAX_TOKENS + 2:
        raise VortexInitializationError(
            f"kokoro: {path}: plbert.max_position_embeddings is {context!r}, it must be at least"
            f" {MAX_TOKENS + 2}"
        )
    if not (isinstance(vocabulary, dict) and all(type(i) is int for i in vocabulary.values())):
        raise VortexInitializationError(f"kokoro: {path}: vocab must map symbols to numbers")
    return dict(config)


def _build(config: dict[str, Any], path: Path) -> nn.Module:
    """Return the network, its weights named as the published ones are, but without values."""
    try:
        from kokoro.istftnet import AdaIN1d
        from kokoro.model import KModel
    except ModuleNotFoundError as error:
        raise VortexInitializationError(
            f"kokoro: the package {error.name} is missing; install vortex-slots[production] with"
            " Python 3.11 or 3.12 (kokoro has no release for 3.13)"
        ) from error
    # Given no weights, the library would fetch them; what does not fit, it would leave random.
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    try:
        # Some of it draws from the global generator all the same, or says that it is old.
        with _LeftUnfilled(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: nn.Module = KModel(repo_id=_REPOSITORY, config=config, model=nothing)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise VortexInitializationError(
            f"kokoro: {path} describes no network: {type(error).__name__}: {error}"
        ) from error
    for module in network.modules():
        # The library gives these norms a scale and an offset, for an export; the weights have none.
        if isinstance(module, AdaIN1d):
            module.norm = nn.InstanceNorm1d(module.norm.num_features)
    return network


def _prepared(network: Any) -> Any:  # the library's network has no types
    """Make a loaded network fit for speaking: nothing is trained, noise is its own."""
    for module in network.modules():
        if hasattr(module, "weight_g"):  # its product with weight_v would be taken at every call
            remove_weight_norm(module)
    generator = network.decoder.generator
    generator.m_source = _SeededSource(generator.m_source)
    return network.eval().requires_grad_(requires_grad=False)


def _flat(content: object, path: Path) -> dict[str, torch.Tensor]:
    """Return one table of tensors.

    Published, it is a table of five tables, one a part of the network.
    """
    state: dict[str, Any] = {}
    for part, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Mapping):
            for name, tensor in value.items():
                state[f"{part}.{str(name).removeprefix(_PARALLEL_PREFIX)}"] = tensor
        else:
            state[str(part)] = value
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise VortexInitializationError(
                f"kokoro: {path}: '{name}' is not a tensor but {type(value).__name__}"
            )
    return state


def _read_voices(folder: Path) -> dict[str, np.ndarray]:
    """Return all voices of a folder by name, float32 `[510, 1, 256]`."""
    voices = {}
    for stem in sorted({path.with_suffix("") for path in folder.glob("*") if _holds_weights(path)}):
        path = find_weights(stem, _MODEL)
        content = read_weights(path, _MODEL)
        if isinstance(content, Mapping) and len(content) == 1:
            (content,) = content.values()
        if not isinstance(content, torch.Tensor):
            raise VortexInitializationError(f"kokoro: {path} must hold one tensor and nothing else")
        voices.update(checked({stem.name: content.numpy()}, path))
    return voices


def _holds_weights(path: Path) -> bool:
    return path.suffix in SUFFIXES
