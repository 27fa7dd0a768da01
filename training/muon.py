"""Muon (Jordan et al. 2024): momentum, made orthogonal, for matrices; AdamW for all else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_MOMENTUM = 0.95
# Newton and Schulz's iteration with coefficients that lift small singular values fast.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Steps whose size does not depend on the gradient's, along all directions alike.

    Convolutions count as matrices, output channels by all else. The length of a step is that of
    `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, so that learning rates of AdamW fit.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - _MOMENTUM)
                ahead = parameter.grad.lerp(momentum, _MOMENTUM).flatten(1)
                step = _orthogonal(ahead) * 0.2 * max(ahead.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step.view_as(parameter), alpha=-group["lr"])


def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return nearly the closest matrix with all singular values 1."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x: torch.Tensor = matrix.T if tall else matrix
    x = (x / (x.norm() + 1e-7)).bfloat16()  # exact enough, and twice as fast on a recent CPU
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).float()
