"""What the GPUs of this worker say of themselves, read through NVML; nothing without a card."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.semconv._incubating.attributes import hw_attributes as hw

from consumer.telemetry import instruments

logger = logging.getLogger(__name__)

Read = Callable[[Any], float]


def observe_gpus(meter: Meter) -> int:
    """Have the GPUs that CUDA shows observed at each export; return how many there are."""
    try:
        import pynvml

        pynvml.nvmlInit()
        # NVML itself ignores the variable.
        devices = list(_devices(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES")))
    except ImportError:
        return 0
    except pynvml.NVMLError as error:
        logger.debug("No GPU is observed", extra={"reason": str(error)})
        return 0
    labels = [_labels(pynvml, device) for device in devices]

    def observe(instrument: instruments.Instrument, read: Read, **more: str) -> None:
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            for device, names in zip(devices, labels, strict=True):
                try:
                    yield Observation(read(device), names | more)
                except pynvml.NVMLError:  # this card does not say, such as a slice of one
                    continue

        instrument.observe(meter, callback)

    memory, rates = pynvml.nvmlDeviceGetMemoryInfo, pynvml.nvmlDeviceGetUtilizationRates
    observe(instruments.GPU_UTILIZATION, lambda device: rates(device).gpu / 100)
    observe(instruments.GPU_MEMORY, lambda device: memory(device).used)
    observe(instruments.GPU_MEMORY_LIMIT, lambda device: memory(device).total)
    observe(
        instruments.TEMPERATURE,
        lambda device: pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU),
        **{hw.HW_TYPE: "gpu"},
    )
    return len(devices)


def _devices(nvml: Any, visible: str | None) -> Iterator[Any]:
    if visible is None:
        for index in range(nvml.nvmlDeviceGetCount()):
            yield nvml.nvmlDeviceGetHandleByIndex(index)
        return
    for name in filter(None, (each.strip() for each in visible.split(","))):
        if name.isdecimal():
            yield nvml.nvmlDeviceGetHandleByIndex(int(name))
        elif name.startswith(("GPU-", "MIG-")):
            yield nvml.nvmlDeviceGetHandleByUUID(name)
        else:
            return  # as CUDA does: nothing behind what it does not know


def _labels(nvml: Any, device: Any) -> dict[str, str]:
    names = (nvml.nvmlDeviceGetUUID(device), nvml.nvmlDeviceGetName(device))
    uuid, name = (each.decode() if isinstance(each, bytes) else each for each in names)
    return {hw.HW_ID: uuid, hw.HW_NAME: name}
