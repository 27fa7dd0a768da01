from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch

from vortex.errors import MemoryPressureError, VortexInitializationError
from vortex.utils.cancellation import CancellationToken, StageCancelled
from vortex.utils.vram import (
    MemoryPressureWarning,
    VRAMMonitor,
    allocated_bytes_reader,
    loading,
    out_of_memory_at_load,
)

GB = 1_000_000_000


class Memory:
    used_bytes = 0

    def __call__(self) -> int:
        return self.used_bytes


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def monitor(memory: Memory) -> VRAMMonitor:
    return VRAMMonitor(11 * GB, 12 * GB, memory)


@pytest.fixture
def use(memory: Memory, monitor: VRAMMonitor) -> Callable[[float], list[str]]:
    """Return a function that checks at a use in GB and returns the warnings that came."""

    def check(used_gb: float) -> list[str]:
        memory.used_bytes = int(used_gb * GB)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monitor.check("image")
        assert all(warning.category is MemoryPressureWarning for warning in caught)
        return [str(warning.message) for warning in caught]

    return check


def test_use_up_to_the_soft_limit_is_silent(use: Callable[[float], list[str]]) -> None:
    assert use(0) == use(11) == []


def test_warning_names_stage_use_and_limit(memory: Memory, monitor: VRAMMonitor) -> None:
    memory.used_bytes = 11_500_000_000
    expected = r"^image: 11\.500 GB of memory in use, above the soft limit of 11\.000 GB"
    with pytest.warns(MemoryPressureWarning, match=expected):
        monitor.check("image")


def test_each_crossing_of_the_soft_limit_warns_once(use: Callable[[float], list[str]]) -> None:
    counts = [len(use(used_gb)) for used_gb in (10, 11.5, 11.6, 11.5, 11, 11.5, 11.5, 9, 11.5)]
    assert counts == [0, 1, 0, 0, 0, 1, 0, 0, 1]


def test_use_above_the_hard_limit_fails_at_every_check(
    memory: Memory, monitor: VRAMMonitor, use: Callable[[float], list[str]]
) -> None:
    memory.used_bytes = 12_300_000_000
    expected = r"^video: 12\.300 GB of memory in use, above the hard limit of 12\.000 GB$"
    for _ in range(2):
        with pytest.raises(MemoryPressureError, match=expected):
            monitor.check("video")
    assert use(10) == []
    assert len(use(11.5)) == 1


def test_limits_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValueError, match="soft_limit_bytes 2 is above hard_limit_bytes 1"):
        VRAMMonitor(2, 1, lambda: 0)


def test_soft_limit_can_be_made_strict(memory: Memory, monitor: VRAMMonitor) -> None:
    memory.used_bytes = 11_500_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("error", MemoryPressureWarning)
        with pytest.raises(MemoryPressureWarning):
            monitor.check("clip")


@pytest.fixture
def _captured_warnings() -> Iterator[None]:
    """Log warnings as a worker does, with Python's own rule of what is shown how often."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logging.captureWarnings(capture=True)
        yield
        logging.captureWarnings(capture=False)


@pytest.mark.usefixtures("_captured_warnings")
def test_every_crossing_is_a_line_of_the_log(
    caplog: pytest.LogCaptureFixture, memory: Memory, monitor: VRAMMonitor
) -> None:
    for used_gb in (11.5, 10, 11.5):  # twice the same use, from the same line
        memory.used_bytes = int(used_gb * GB)
        monitor.check("image")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "MemoryPressureWarning: image: 11.500 GB" in caplog.text


def watched(monitor: VRAMMonitor, work: Callable[[CancellationToken], None]) -> None:
    token = CancellationToken()
    with monitor.watching("video", token, interval_s=0.005):
        work(token)


def wait_for_cancellation(token: CancellationToken) -> None:
    give_up_s = time.monotonic() + 10
    while not token.cancelled:
        assert time.monotonic() < give_up_s, "nobody stopped the work"
        time.sleep(0.002)


def test_work_that_crosses_the_hard_limit_is_stopped_at_its_next_step(
    memory: Memory, monitor: VRAMMonitor
) -> None:
    def work(token: CancellationToken) -> None:
        memory.used_bytes = 13 * GB
        wait_for_cancellation(token)
        token.raise_if_cancelled()

    with pytest.raises(MemoryPressureError, match=r"^video: 13\.000 GB"):
        watched(monitor, work)
    memory.used_bytes = 0
    watched(monitor, lambda _: None)  # the next slot is served


def test_peak_during_the_work_fails_it_though_it_has_passed(
    memory: Memory, monitor: VRAMMonitor
) -> None:
    def work(token: CancellationToken) -> None:
        memory.used_bytes = 13 * GB
        wait_for_cancellation(token)
        memory.used_bytes = 0

    with pytest.raises(MemoryPressureError):
        watched(monitor, work)


def test_work_cancelled_for_another_reason_is_no_matter_of_memory(monitor: VRAMMonitor) -> None:
    token = CancellationToken()
    token.cancel()
    with pytest.raises(StageCancelled), monitor.watching("video", token):
        token.raise_if_cancelled()


def test_no_thread_watches_when_the_work_is_done(monitor: VRAMMonitor) -> None:
    with monitor.watching("clip", CancellationToken()):
        assert "vortex-vram" in {thread.name for thread in threading.enumerate()}
    assert "vortex-vram" not in {thread.name for thread in threading.enumerate()}


def test_reader_off_the_gpu_tells_nothing_in_use() -> None:
    assert allocated_bytes_reader(torch.device("cpu"))() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_reader_on_the_gpu_counts_the_bytes_of_tensors() -> None:
    device = torch.device("cuda:0")
    read = allocated_bytes_reader(device)
    before = read()
    tensor = torch.empty(1_000_000, dtype=torch.uint8, device=device)
    assert 1_000_000 <= read() - before < 3_000_000
    del tensor
    assert read() == before


def test_model_that_does_not_fit_is_told_with_what_it_needs_what_is_free_and_what_to_do() -> None:
    assert out_of_memory_at_load("flux", "cuda:0", 9_240_000_000, 3_100_000_000) == (
        "flux: out of memory on cuda:0 while loading: it needs 9.24 GB and 3.10 GB were free;"
        " stop what else uses cuda:0, or set models.flux_quantization and"
        " models.clip_quantization to fewer bits"
    )


def load_too_much() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB.")


def test_out_of_memory_while_loading_stops_the_start_with_one_line() -> None:
    with (
        pytest.raises(VortexInitializationError, match=r"^clip-l: out of memory .*0\.43 GB") as it,
        loading("clip-l", torch.device("cpu"), 430_000_000),
    ):
        load_too_much()
    assert "\n" not in str(it.value)
    assert isinstance(it.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_while_loading_pass_through() -> None:
    with pytest.raises(ValueError, match="damaged"), loading("flux", torch.device("cpu"), 1):
        raise ValueError("damaged")
