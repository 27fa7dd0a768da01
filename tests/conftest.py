"""What all tests share: marks, the mini models, built once for all runs, hypothesis' settings."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings

from consumer.config import WorkerConfig
from consumer.embedded_kafka import jars
from tests.support.models import link_models
from vortex.models.mini import build_mini, shipped_weights
from vortex.utils.heap import keep_freed_memory

# Machines are shared: how long an example takes says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

keep_freed_memory()  # as the pipeline does, whose models most tests run without it

ROOT = Path(__file__).parent.parent
BROKERS = ROOT / "tests" / "brokers"
BUILDER_SOURCES = (
    "vortex/models/mini.py",
    "vortex/models/kokoro/packaged.py",
    "vortex/models/kokoro/graphs.py",
    "vortex/models/kokoro/english_voices.py",
    "vortex/models/kokoro/voices.py",
    "vortex/weights/manifest.py",
)

MODEL_FOLDERS = tuple(
    ROOT / "tests" / "unit" / folder for folder in ("benchmarks", "training", "vortex/models")
)
MARKING_FIXTURES = {"kafka": "kafka", "mini_models": "models"}

# The files that take longest come first, so that no process is left alone with one in the end: by
# turns those that compute and those that wait, so that both cores are busy all the time.
LONGEST = (
    "tests/chaos/test_short_chaos.py",
    "tests/unit/training/test_weights.py",
    "tests/integration/test_ladder.py",
    "tests/unit/vortex/models/kokoro/test_kokoro.py",
    "tests/integration/test_unreadable_records.py",
    "tests/integration/test_fetch_models.py",
    "tests/chaos/test_traps.py",
    "tests/integration/test_kafka_security.py",
    "tests/unit/vortex/models/liveportrait/test_liveportrait.py",
    "tests/integration/test_handover.py",
    "tests/integration/test_frozen_coordinator.py",
    "tests/integration/test_control_room.py",
    "tests/unit/vortex/models/kokoro/test_kokoro_torch.py",
    "tests/integration/test_worker_start.py",
    "tests/integration/test_storage_faults.py",
    "tests/integration/test_demo.py",  # after chaos, since its worker has two minutes to be ready
    "tests/integration/test_pipeline.py",
    "tests/chaos/test_checker.py",
    "tests/unit/vortex/models/kokoro/test_kokoro_limits.py",
    "tests/integration/test_backlog.py",
    "tests/unit/consumer/engine/test_process.py",
    "tests/integration/test_exactly_one_outcome.py",
    "tests/unit/consumer/simulation/test_fleet.py",
    "tests/integration/test_command_line.py",
    "tests/integration/test_speech_recognition.py",
    "tests/integration/test_embedded_kafka.py",
    "tests/unit/consumer/artifacts/test_credentials.py",
    "tests/integration/test_access_lists.py",
    "tests/integration/test_limits.py",
    "tests/integration/test_partitions_command.py",
    "tests/unit/vortex/models/test_mini.py",
    "tests/unit/benchmarks/test_full_size.py",
    "tests/unit/training/test_training.py",
    "tests/integration/test_light_install.py",
    "tests/unit/vortex/models/kokoro/test_kokoro_backends.py",
    "tests/integration/test_cancel.py",
    "tests/integration/test_examples.py",
    "tests/unit/consumer/test_dispatcher.py",
    "tests/unit/vortex/models/liveportrait/test_animator.py",
    "tests/integration/test_overlap.py",
    "tests/unit/vortex/models/test_quantization.py",
    "tests/integration/test_site.py",
    "tests/unit/consumer/artifacts/test_captions.py",
    "tests/unit/vortex/models/liveportrait/test_lipsync.py",
    "tests/integration/test_memory_drift.py",
    "tests/integration/test_duplicate_ticks.py",
    "tests/integration/test_claims.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the version of the tests' brokers."""
    locks = sorted(BROKERS.glob("kafka-*.lock"))
    versions = [lock.stem.removeprefix("kafka-") for lock in locks]
    parser.addoption("--kafka", choices=versions, help="run the tests' brokers in this version")


def pytest_configure(config: pytest.Config) -> None:
    """Have every broker that this process starts be of the version that was asked for."""
    if version := config.getoption("--kafka"):
        jars.LOCK_PATH = BROKERS / f"kafka-{version}.lock"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the collector the million objects that are imported, and stay.

    To look through them takes a third of a second each time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Kafka or models, so that `make check` can leave it out."""
    for item in items:
        for fixture in MARKING_FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKING_FIXTURES[fixture])
        if any(item.path.is_relative_to(folder) for folder in MODEL_FOLDERS):
            item.add_marker("models")


# After the order was shuffled, and before xdist's processes tell it: they are then sent numbers.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Put the longest files first, and last what needs neither Kafka nor models."""
    places = {ROOT / name: number for number, name in enumerate(LONGEST)}
    needed = MARKING_FIXTURES.values()

    def place(item: pytest.Item) -> int:
        quick = not any(item.get_closest_marker(mark) for mark in needed)
        return places.get(item.path, len(places) + quick)

    session.items.sort(key=place)


@pytest.fixture(scope="session")
def mini_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory of models, as `models.directory` takes it, that holds the profile `mini`.

    The models lie in the user's cache, under a name that changes with the sources that build them,
    and with npm, which brings the English voices.
    """
    digest = hashlib.sha256(b"npm" if shutil.which("npm") else b"")
    weights = sorted(path for path in shipped_weights().rglob("*") if path.is_file())
    for source in (*(ROOT / path for path in BUILDER_SOURCES), *weights):
        digest.update(source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "vortex" / "tests" / digest.hexdigest()[:16]
    if not (directory / "mini").exists():
        build_mini(directory / "mini")
    return link_models(directory, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def mini_config(mini_models: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkerConfig:
    """Give the packaged configuration with the mini models on the CPU, and without a warm-up."""
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    content = {
        "device": {"name": "cpu"},
        "models": {"directory": str(mini_models)},
        "pipeline": {"warmup": False},
        "artifacts": {"url": str(tmp_path_factory.mktemp("artifacts"))},
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.upper().startswith("VORTEX__")]:
            environment.delenv(name)
        return WorkerConfig.load(path)
