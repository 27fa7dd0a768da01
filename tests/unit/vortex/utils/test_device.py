from __future__ import annotations

import pytest
import torch

from vortex.utils.device import half_precision


@pytest.mark.parametrize(
    ("instructions", "dtype"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "avx512_f": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_processor_is_given_what_it_multiplies_fast(
    instructions: dict[str, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert half_precision(torch.device("cpu")) is dtype


def test_gpu_is_given_float16() -> None:
    assert half_precision(torch.device("cuda")) is torch.float16
