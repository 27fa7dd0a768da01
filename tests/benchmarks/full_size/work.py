"""How much there is to compute and to hold, counted without computing: on the device "meta"."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.full_size.scale import Scale
from tests.benchmarks.full_size.stack import face_networks, flux_networks
from vortex.models.liveportrait.blocks import fold
from vortex.models.liveportrait.motion import KEYPOINTS

# Not views by their schema, but they touch no memory either.
_WITHOUT_TRAFFIC = {torch.ops.aten.empty.memory_format, torch.ops.aten._unsafe_view.default}


@dataclass(frozen=True)
class Work:
    """What one call of a network costs."""

    flop: int
    """Operations, two for a multiply-add; matrix products, attention and convolutions alone."""
    peak_bytes: int
    """The most that its activations hold at once, in the precision asked for; without what a
    library takes for itself, and with attention's whole matrix, which a fused kernel never has."""
    traffic_bytes: int
    """What all operations read and write, weights included, if nothing stays in a cache."""


def count(call: Callable[[], object]) -> Work:
    """Count what a call on tensors without memory costs."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, _Moved() as moved, _Held() as held:
        call()
    return Work(counter.get_total_flops(), held.peak_bytes, moved.bytes)


def work_of(scale: Scale, dtype: torch.dtype, batches: tuple[int, ...]) -> dict[str, Work]:
    """Return what each network costs: a step of the transformer, a picture, a batch of frames."""
    with torch.device("meta"):
        flux = {name: network.eval().to(dtype) for name, network in flux_networks(scale).items()}
        side = scale.size // 16
        tokens = side * side
        t5_width, pooled_width = scale.t5["d_model"], scale.clip_text["projection_dim"]
        transformer_inputs = {
            "hidden_states": torch.empty(1, tokens, scale.transformer["in_channels"], dtype=dtype),
            "encoder_hidden_states": torch.empty(1, scale.text_tokens, t5_width, dtype=dtype),
            "pooled_projections": torch.empty(1, pooled_width, dtype=dtype),
            "timestep": torch.empty(1, dtype=dtype),
            "img_ids": torch.empty(tokens, 3),
            "txt_ids": torch.empty(scale.text_tokens, 3),
        }
        ids = torch.empty(1, scale.text_tokens, dtype=torch.long)
        latents = torch.empty(1, 16, scale.size // 8, scale.size // 8, dtype=dtype)
        calls: dict[str, Callable[[], object]] = {
            "transformer": lambda: flux["transformer"](**transformer_inputs),
            "t5": lambda: flux["text_encoder_2"](ids),
            "vae": lambda: flux["vae"].decode(latents),
        }

        work = {name: count(call) for name, call in calls.items()}
    return work | frames_work(scale, dtype, batches)


def frames_work(scale: Scale, dtype: torch.dtype, batches: tuple[int, ...]) -> dict[str, Work]:
    """Return what each batch of frames costs, with networks as a worker has them on a GPU."""
    dims = scale.liveportrait
    work = {}
    with torch.device("meta"):
        networks = face_networks(scale)
        for network in networks:
            fold(network.eval())
        networks.warping.fill_channels()
        volume = networks.appearance(torch.empty(1, 3, dims.image_size, dims.image_size))
        source = networks.warping.prepare(volume, torch.empty(1, KEYPOINTS, 3))
        warping, generator = networks.warping.to(dtype), networks.generator.to(dtype)
        for frames in batches:
            driving = torch.empty(frames, KEYPOINTS, 3)
            work[f"liveportrait, {frames} frames"] = count(
                lambda driving=driving: generator(warping(source, driving).features)
            )
    return work


class _Moved(TorchDispatchMode):
    """Adds up the bytes of what operations under it read and write; views move none."""

    bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        made = func(*args, **(kwargs or {}))
        if not func.is_view and func not in _WITHOUT_TRAFFIC:
            self.bytes += sum(
                tensor.numel() * tensor.element_size()
                for tensor in tree_leaves((args, kwargs, made))
                if isinstance(tensor, torch.Tensor)
            )
        return made


class _Held(TorchDispatchMode):
    """Adds up the memory that tensors made under it would hold."""

    peak_bytes = 0

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self._note((args, kwargs), counted=False)  # weights and inputs were there before
        made = func(*args, **(kwargs or {}))
        self._note(made, counted=True)
        self.peak_bytes = max(self.peak_bytes, sum(self._sizes.values()))
        return made

    def _note(self, tensors: object, *, counted: bool) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in self._sizes:
                    self._sizes[id(storage)] = storage.nbytes() if counted else 0
                    weakref.finalize(storage, self._sizes.pop, id(storage), None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, value, traceback)
        self._sizes = {}
