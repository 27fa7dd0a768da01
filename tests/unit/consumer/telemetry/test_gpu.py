"""Which GPUs are observed; their figures need a card."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from consumer.telemetry.gpu import _devices

NVML = SimpleNamespace(
    nvmlDeviceGetCount=lambda: 3,
    nvmlDeviceGetHandleByIndex=lambda index: f"#{index}",
    nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
)


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (None, ["#0", "#1", "#2"]),
        ("2,0", ["#2", "#0"]),
        ("GPU-1a2b, 1", ["GPU-1a2b", "#1"]),
        ("0,-1,1", ["#0"]),
        ("", []),
    ],
)
def test_observed_gpus_are_those_that_cuda_shows(visible: str | None, devices: list[str]) -> None:
    assert list(_devices(NVML, visible)) == devices
