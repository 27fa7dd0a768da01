"""Reads tensors from files, without ever running code from them, and checks that they fit."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vortex.errors import VortexInitializationError, one_line

SUFFIXES = (".safetensors", ".pth", ".pt")
"""Of files that hold weights; the first is what we write."""

# Over which torch's restricted unpickler and safetensors stumble in a damaged file.
_DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    SafetensorError,
)


def find_weights(stem: Path, model: str, *, published: str = ".pth") -> Path:
    """Return the file of that name which exists, ours before the published one.

    Args:
        stem: its path without a suffix; the name may hold dots.
        model: whose weights they are, for the message.
        published: the suffix under which it is published.

    Raises:
        VortexInitializationError: there is none.
    """
    for suffix in SUFFIXES:
        path = stem.with_name(stem.name + suffix)
        if path.is_file():
            return path
    raise VortexInitializationError(f"{model}: {stem}{published} is missing")


def read_weights(path: Path, model: str) -> object:
    """Return what a file holds, on the CPU: tensors, or tables and lists of them.

    Args:
        path: safetensors, or what `torch.save` writes.
        model: whose weights they are, for the message.

    Raises:
        VortexInitializationError: it is damaged, or holds something else than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise VortexInitializationError(
            f"{model}: {path} is refused: it is damaged, or holds something else than tensors"
        ) from error
    except _DAMAGE as error:
        raise VortexInitializationError(f"{model}: {path} is damaged: {one_line(error)}") from error


def check_fit(
    expected: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    model: str,
    origin: str,
) -> None:
    """Check that tensors are those which a network expects, every one and no other.

    Raises:
        VortexInitializationError: one line that names the first tensor that is missing, not known
            or of another shape or kind.
    """
    wrong = [f"tensor '{name}' is missing" for name in expected.keys() - state.keys()]
    wrong += [f"tensor '{name}' is not known" for name in state.keys() - expected.keys()]
    for name in expected.keys() & state.keys():
        want, have = expected[name], state[name]
        if want.shape != have.shape:
            wrong.append(f"tensor '{name}' is {list(have.shape)} instead of {list(want.shape)}")
        elif want.is_floating_point() != have.is_floating_point():
            wrong.append(f"tensor '{name}' is {have.dtype} instead of {want.dtype}")
    if wrong:
        others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise VortexInitializationError(f"{model}: {origin}: {min(wrong)}{others}")
