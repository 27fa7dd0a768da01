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

from tests.support.kokoro_checkpoint import CONFIG, needs_kokoro, write_published
from vortex.errors import VortexInitializationError
from vortex.models.kokoro.backend import SAMPLES_PER_UNIT, KokoroBackend
from vortex.models.kokoro.load_backend import load_backend
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
