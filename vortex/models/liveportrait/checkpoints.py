"""Reads the five networks from disk: as they are published, or as we write them.

A directory holds, as `.pth` (published) or `.safetensors` (ours):

    config.json                                          (ours only: the dimensions)
    base_models/appearance_feature_extractor
    base_models/motion_extractor
    base_models/warping_module
    base_models/spade_generator
    retargeting_models/stitching_retargeting_module

Published, the last one also holds two networks that open lips and eyes as far as those of a driving
video. There is no such video here, and they are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import nn

from vortex.errors import VortexInitializationError
from vortex.models.liveportrait.appearance import AppearanceExtractor
from vortex.models.liveportrait.dims import LivePortraitDims
from vortex.models.liveportrait.generator import Generator
from vortex.models.liveportrait.motion_extractor import MotionExtractor
from vortex.models.liveportrait.stitching import Stitching, stitching_network
from vortex.models.liveportrait.warping import Warping
from vortex.weights.tensors import check_fit, find_weights, read_weights

_APPEARANCE = "base_models/appearance_feature_extractor"
_MOTION = "base_models/motion_extractor"
_WARPING = "base_models/warping_module"
_GENERATOR = "base_models/spade_generator"
_STITCHING = "retargeting_models/stitching_retargeting_module"
_STITCHING_TABLE = "retarget_shoulder"

# What a training over several GPUs leaves in front of every name.
_PARALLEL_PREFIX = "module."

_MODEL = "liveportrait"

_Network = TypeVar("_Network", bound=nn.Module)
_State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Networks:
    """All five networks, in evaluation mode, float32, on the CPU, not folded."""

    appearance: AppearanceExtractor
    motion: MotionExtractor
    warping: Warping
    generator: Generator
    stitching: Stitching

    @classmethod
    def load(cls, directory: Path, dims: LivePortraitDims) -> Networks:
        """Load from a directory; every tensor must be there, of its shape, and no other.

        Raises:
            VortexInitializationError: one line that names the file, and the tensor if it is one.
        """

        def base(name: str, build: Callable[[LivePortraitDims], _Network]) -> _Network:
            path = find_weights(directory / name, _MODEL)
            return build_strictly(
                build, dims, _tensors(read_weights(path, _MODEL), path), str(path)
            )

        stitching = find_weights(directory / _STITCHING, _MODEL)
        table = _stitching_table(read_weights(stitching, _MODEL), stitching)
        return cls(
            appearance=base(_APPEARANCE, AppearanceExtractor),
            motion=base(_MOTION, MotionExtractor),
            warping=base(_WARPING, Warping),
            generator=base(_GENERATOR, Generator),
            stitching=build_strictly(
                stitching_network, dims, table, f"{stitching} ({_STITCHING_TABLE})"
            ),
        )

    @classmethod
    def untrained(cls, dims: LivePortraitDims) -> Networks:
        """Return networks with random weights, of torch's global generator."""
        networks = cls(
            appearance=AppearanceExtractor(dims),
            motion=MotionExtractor(dims),
            warping=Warping(dims),
            generator=Generator(dims),
            stitching=stitching_network(dims),
        )
        for network in networks:
            network.eval()
        return networks

    def save(
        self, directory: Path, dims: LivePortraitDims, *, dtype: torch.dtype = torch.float32
    ) -> None:
        """Write safetensors of a precision, and the dimensions; only before folding."""
        files = {
            _APPEARANCE: self.appearance.state_dict(),
            _MOTION: self.motion.state_dict(),
            _WARPING: self.warping.state_dict(),
            _GENERATOR: self.generator.state_dict(),
            _STITCHING: {
                f"{_STITCHING_TABLE}.{name}": tensor
                for name, tensor in self.stitching.state_dict().items()
            },
        }
        for name, state in files.items():
            path = directory / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            written = {
                key: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
                for key, tensor in state.items()
            }
            save_file(written, path)
        dims.write(directory)

    def __iter__(self) -> Iterator[nn.Module]:
        """Iterate over the networks."""
        return iter(vars(self).values())


def build_strictly(
    build: Callable[[LivePortraitDims], _Network],
    dims: LivePortraitDims,
    state: Mapping[str, torch.Tensor],
    origin: str,
) -> _Network:
    """Build a network around tensors that fit it exactly.

    Args:
        build: makes the network.
        dims: its dimensions.
        state: its tensors by name.
        origin: where they are from, for the message.

    Raises:
        VortexInitializationError: a tensor is missing, not known or of another shape or kind.
    """
    with torch.device("meta"):  # nothing is allocated or initialised only to be replaced
        network = build(dims)
    expected: _State = network.state_dict()
    check_fit(expected, state, _MODEL, origin)
    # Copies, since files are mapped anywhere in memory, and the last bits of what a CPU computes
    # depend on how its numbers are aligned.
    fitting = {name: state[name].to(expected[name].dtype, copy=True) for name in expected}
    network.load_state_dict(fitting, strict=True, assign=True)
    return network.eval().requires_grad_(requires_grad=False)


def _tensors(content: object, path: Path) -> _State:
    """Check that a file is one flat table of tensors."""
    if not isinstance(content, Mapping):
        raise VortexInitializationError(f"liveportrait: {path} holds no table of tensors")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise VortexInitializationError(
                f"liveportrait: {path}: '{name}' is not a tensor but {type(value).__name__}"
            )
    return {str(name): value for name, value in content.items()}


def _stitching_table(content: object, path: Path) -> _State:
    """Return the stitching network's tensors, and nothing else of its file.

    Published, it is one of several tables, next to others that the training left, such as its
    optimizers' states; ours is flat, with the table's name in front.
    """
    table: dict[object, object] = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        key, _, rest = str(name).partition(".")
        if key == _STITCHING_TABLE and rest:
            table[rest] = value
        elif key == _STITCHING_TABLE and isinstance(value, Mapping):
            table.update(value)
    return {
        name.removeprefix(_PARALLEL_PREFIX): tensor
        for name, tensor in _tensors(table, path).items()
    }
