"""What every network of Kokoro owes the speaker, whichever library runs it."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.kokoro_checkpoint import CONFIG, needs_kokoro, write_published
from vortex.errors import VortexInitializationError
from vortex.models.kokoro.backend import ONNX_FILE, SAMPLES_PER_UNIT, VNNI_FILE, KokoroBackend
from vortex.models.kokoro.load_backend import load_backend
from vortex.models.kokoro.voices import VOICES_FILE
from vortex.utils.cancellation import CancellationToken, StageCancelled

FEW = [43 + i % 60 for i in range(20)]
MANY = [43 + i % 60 for i in range(60)]


@pytest.fixture(scope="module", params=["onnx", pytest.param("torch", marks=needs_kokoro)])
def backend(
    request: pytest.FixtureRequest, mini_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KokoroBackend]:
    if request.param == "onnx":
        yield load_backend(mini_models / "mini" / "kokoro", threads=2)
        return
    directory = tmp_path_factory.mktemp("published") / "kokoro"
    write_published(directory)
    yield load_backend(directory)
    shutil.rmtree(directory)


def test_speech_is_the_sum_of_its_durations(backend: KokoroBackend) -> None:
    waveform, durations = backend.run(FEW, backend.voices[0], 1.0, token=CancellationToken())
    assert (waveform.dtype, waveform.ndim) == (np.float32, 1)
    assert (durations.dtype, durations.shape) == (np.int64, (len(FEW) + 2,))
    assert durations.sum() * SAMPLES_PER_UNIT == waveform.size


def test_nothing_is_spoken_with_a_token_that_is_cancelled_already(backend: KokoroBackend) -> None:
    token = CancellationToken()
    token.cancel()
    with pytest.raises(StageCancelled):
        backend.run(FEW, backend.voices[0], 1.0, token=token)


def test_run_is_stopped_inside_a_sentence_and_the_next_one_is_spoken_as_ever(
    backend: KokoroBackend,
) -> None:
    voice = backend.voices[0]
    before, _ = backend.run(FEW, voice, 1.0, token=CancellationToken())
    started = time.monotonic()
    backend.run(MANY, voice, 1.0, token=CancellationToken())
    whole_s = time.monotonic() - started

    token = CancellationToken()
    canceller = threading.Timer(whole_s / 5, token.cancel)
    canceller.start()
    with pytest.raises(StageCancelled):
        backend.run(MANY, voice, 1.0, token=token)
    canceller.join()

    after, _ = backend.run(FEW, voice, 1.0, token=CancellationToken())
    assert np.array_equal(after, before)


def test_failure_of_the_network_is_not_taken_for_a_cancellation(backend: KokoroBackend) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        backend.run([10**6], backend.voices[0], 1.0, token=CancellationToken())
    assert not isinstance(caught.value, StageCancelled)


@needs_kokoro
def test_torch_networks_do_not_stop_one_another(tmp_path: Path) -> None:
    """The library shares modules between all its networks."""
    write_published(tmp_path / "kokoro")
    stopped, other = load_backend(tmp_path / "kokoro"), load_backend(tmp_path / "kokoro")
    token = CancellationToken()
    stopped.run(FEW, stopped.voices[0], 1.0, token=token)
    token.cancel()
    other.run(FEW, other.voices[0], 1.0, token=CancellationToken())
    shutil.rmtree(tmp_path / "kokoro")


def test_missing_package_names_the_versions_of_python_that_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setitem(sys.modules, "kokoro.istftnet", None)
    with pytest.raises(VortexInitializationError, match=r"kokoro.* is missing; .*3\.11 or 3\.12"):
        load_backend(tmp_path)


# ONNX on different processors

VNNI = ("avx512_vnni", "avx_vnni")


def processor(monkeypatch: pytest.MonkeyPatch, *, vnni: bool) -> None:
    able = torch.cpu.get_capabilities() | dict.fromkeys(VNNI, vnni)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)


@pytest.mark.skipif(
    not any(torch.cpu.get_capabilities().get(name) for name in VNNI),
    reason="this processor has no VNNI",
)
def test_network_for_vnni_speaks_the_same_to_the_bit(
    mini_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = []
    for vnni in (True, False):
        processor(monkeypatch, vnni=vnni)
        backend = load_backend(mini_models / "mini" / "kokoro", threads=2)
        spoken.append(backend.run(FEW, backend.voices[0], 1.0, token=CancellationToken()))
    (fast, fast_durations), (slow, slow_durations) = spoken
    assert np.array_equal(fast, slow)
    assert np.array_equal(fast_durations, slow_durations)


@pytest.mark.parametrize(("vnni", "used"), [(True, VNNI_FILE), (False, ONNX_FILE)])
def test_network_for_vnni_is_loaded_where_there_is_vnni(
    vnni: bool, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, vnni=vnni)
    for name in (ONNX_FILE, VNNI_FILE):
        (tmp_path / name).write_bytes(b"no network")
    with pytest.raises(VortexInitializationError, match=f"{tmp_path / used} cannot be loaded"):
        load_backend(tmp_path)


def test_directory_without_a_network_for_vnni_is_loaded_all_the_same(
    mini_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, vnni=True)
    for name in (ONNX_FILE, VOICES_FILE):
        (tmp_path / name).symlink_to(mini_models / "mini" / "kokoro" / name)
    assert load_backend(tmp_path).voices
