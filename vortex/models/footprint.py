"""How much memory a model's tensors hold, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class HasParts(Protocol):
    """A model that is made of torch modules."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules by name; together they hold all of the model's tensors."""


def held_bytes(module: nn.Module) -> int:
    """Return the bytes of all tensors of a module: weights, buffers, and what decodes them.

    Of a quantised weight these are the packed values and their scales. What several parts share is
    counted once. A GPU's allocator rounds each tensor up to 512 bytes, which is not counted.
    """
    sizes = {_place(tensor): tensor.nbytes for tensor in _tensors(module)}
    return sum(sizes.values())


def held_bytes_by_part(models: Mapping[str, object]) -> dict[str, int]:
    """Return the bytes of every part of those models that are made of torch modules."""
    return {
        f"{name}.{part}": held_bytes(module)
        for name, model in models.items()
        if isinstance(model, HasParts)
        for part, module in model.parts.items()
    }


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    for tensor in [*module.parameters(), *module.buffers()]:
        yield from _inner(tensor)
        # bitsandbytes keeps the scales next to the weight, out of the module's sight.
        yield from _of_state(getattr(tensor, "quant_state", None))


def _of_state(state: object) -> Iterator[torch.Tensor]:
    for value in vars(state).values() if state is not None else ():
        if isinstance(value, torch.Tensor):
            yield value
        elif hasattr(value, "absmax"):  # the scales are quantised too, and have scales
            yield from _of_state(value)


def _inner(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the tensors that a wrapping one, such as torchao's, is made of; else itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _inner(getattr(tensor, name))


def _place(tensor: torch.Tensor) -> tuple[torch.device, int]:
    return tensor.device, id(tensor) if tensor.is_meta else tensor.data_ptr()
