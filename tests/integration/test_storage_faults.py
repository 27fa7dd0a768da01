"""What a store, a disk or a trace collector that fails does to slots: docs/faults.md, row by row.

Worker, engine, encoder, store and Kafka are real; only the models are left out.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import fsspec
import pytest
from aiokafka.structs import RecordMetadata

from consumer.artifacts.store import ArtifactStore
from consumer.config import WorkerConfig
from consumer.engine import slot_maker
from consumer.engine.inline import InlineEngine
from consumer.results import Result
from schemas import DeadlineMissed, MissReason, Recipe, SlotComplete, Stage
from schemas.recipe import AudioTrack, SlotParams, VisualTrack
from tests.integration.conftest import MakeLane
from tests.support.command_line import environment, kafka_variables
from tests.support.faulty_store import FULL, READ_ONLY, UNREACHABLE, FaultyFileSystem
from tests.support.film_pipeline import FilmPipeline
from tests.support.lane import Lane, assert_one_outcome_each, tick
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.small_disk import small_disk
from tests.support.vortex_run import COMMAND
from tests.support.waiting import until

pytestmark = pytest.mark.kafka

NOISE = Recipe(
    slot_params=SlotParams(duration_sec=4.0, fps=12, resolution="64x64"),
    audio_track=AudioTrack(script="Good evening."),
    visual_track=VisualTrack(prompt="noise"),
)
"""About half a megabyte."""


class Station:
    """A worker with a store, and the ticks that it was given."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._emitted: list[RecordMetadata] = []

    async def emit(self, deadline_s: float = 60.0) -> None:
        number = len(self._emitted)
        self._emitted += await self._lane.emit([tick(number, deadline_s, recipe=NOISE)])

    async def outcomes(self) -> list[Result]:
        """Return one outcome for each tick, in order."""
        results = await self._lane.outcomes(len(self._emitted), settle_s=0.2)
        assert_one_outcome_each(results, self._emitted)
        return sorted(results, key=lambda result: result.source.offset)

    async def next(self, deadline_s: float = 60.0) -> Result:
        """Emit a tick and return its outcome."""
        await self.emit(deadline_s)
        return (await self.outcomes())[-1]


@asynccontextmanager
async def station(lane: Lane, url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Station]:
    monkeypatch.setattr(slot_maker, "_load_pipeline", lambda _: FilmPipeline())
    config = WorkerConfig.load()
    config = config.model_copy(
        update={
            "artifacts": config.artifacts.model_copy(update={"url": url, "preset": "ultrafast"}),
            "pipeline": config.pipeline.model_copy(update={"warmup": False}),
            "orchestration": config.orchestration.model_copy(update={"deadline_buffer_s": 0.1}),
        }
    )
    async with lane.worker(InlineEngine(config), "a") as worker:
        await until(lambda: worker.accepting)
        yield Station(lane)


@pytest.fixture
def faulty() -> Iterator[str]:
    FaultyFileSystem.heal()
    yield f"faulty://{uuid.uuid4().hex}"
    FaultyFileSystem.heal()


def files(url: str) -> list[str]:
    """Return the names without suffix: a video and its captions have the same."""
    fs, root = fsspec.core.url_to_fs(url)
    return sorted({Path(path).stem for path in fs.find(root, withdirs=False)})


def assert_missed(result: Result, stage: Stage, *words: str) -> None:
    assert isinstance(result, DeadlineMissed), result
    assert (result.reason, result.stage) == (MissReason.FAILED, stage)
    for word in words:
        assert word in result.detail


def assert_made(result: Result, url: str) -> None:
    assert isinstance(result, SlotComplete), result
    assert ArtifactStore(url).is_whole(result.artifact.uri, result.artifact.sha256)


# A directory as the store


async def test_full_disk_misses_its_slot_leaves_nothing_and_heals_with_the_disk(
    make_lane: MakeLane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        url = str(disk.path / "slots")
        async with station(await make_lane(), url, monkeypatch) as worker:
            assert_made(await worker.next(), url)
            for leave_bytes in (0, 8192, 65_536):
                disk.fill(leave_bytes)
                assert_missed(await worker.next(), Stage.ENCODE, "No space left on device")
                assert [name.split("-")[0] for name in files(url)] == ["0"]
                disk.free()
            assert_made(await worker.next(), url)


async def test_read_only_disk_misses_its_slot_and_heals_with_the_disk(
    make_lane: MakeLane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        url = str(disk.path / "slots")
        async with station(await make_lane(), url, monkeypatch) as worker:
            assert_made(await worker.next(), url)
            disk.writable(False)
            assert_missed(await worker.next(), Stage.ENCODE, "Read-only file system")
            disk.writable(True)
            assert_made(await worker.next(), url)


async def test_directory_that_is_gone_misses_its_slot_and_heals_when_it_is_back(
    make_lane: MakeLane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots, aside = tmp_path / "slots", tmp_path / "aside"
    async with station(await make_lane(), str(slots), monkeypatch) as worker:
        assert_made(await worker.next(), str(slots))
        slots.rename(aside)
        slots.touch()  # so that nobody can make the directory again
        assert_missed(await worker.next(), Stage.STORE, str(slots), "Not a directory")
        slots.unlink()
        aside.rename(slots)
        assert_made(await worker.next(), str(slots))


# An object store


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (UNREACHABLE, "Connection refused"),
        (FULL, "No space left on device"),
        (READ_ONLY, "Read-only file system"),
    ],
)
async def test_store_that_refuses_misses_its_slots_and_heals_by_itself(
    number: int,
    said: str,
    faulty: str,
    make_lane: MakeLane,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with station(await make_lane(), faulty, monkeypatch) as worker:
        FaultyFileSystem.fail(number)
        for _ in range(2):
            assert_missed(await worker.next(), Stage.STORE, faulty, said)
        assert files(faulty) == []
        FaultyFileSystem.heal()
        assert_made(await worker.next(), faulty)
    told = [record for record in caplog.records if record.getMessage() == "Slot failed"]
    assert [vars(record)["stage"] for record in told] == ["store", "store"]


async def test_upload_that_is_cut_short_is_noticed_and_replaces_no_older_video(
    faulty: str, make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with station(await make_lane(), faulty, monkeypatch) as worker:
        FaultyFileSystem.truncate_to = 1000
        assert_missed(await worker.next(), Stage.STORE, "1000 of ", "bytes arrived")
        assert files(faulty) == []


async def test_slot_of_a_slow_store_is_made_if_it_is_stored_before_its_deadline(
    faulty: str, make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with station(await make_lane(), faulty, monkeypatch) as worker:
        FaultyFileSystem.answers.clear()
        await worker.emit()
        await until(lambda: FaultyFileSystem.waiting == 1)
        began_s = time.monotonic()
        await until(lambda: time.monotonic() - began_s > 0.5)
        FaultyFileSystem.answers.set()
        (made,) = await worker.outcomes()
        assert_made(made, faulty)
        assert made.breakdown.store_ms >= 500  # type: ignore[union-attr]


async def test_store_that_hangs_costs_each_slot_its_deadline_and_nothing_more(
    faulty: str, make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with station(await make_lane(), faulty, monkeypatch) as worker:
        FaultyFileSystem.answers.clear()
        for number in range(6):  # more than the threads that may hang
            missed = await worker.next(deadline_s=3.0)
            assert isinstance(missed, DeadlineMissed)
            assert missed.stage is Stage.STORE
            hangs = number < 4
            assert missed.reason is (MissReason.TIMEOUT if hangs else MissReason.FAILED)
            assert hangs or "does not answer: 4 earlier uploads hang" in missed.detail
        FaultyFileSystem.heal()
        await until(lambda: FaultyFileSystem.waiting == 0)
        assert_made(await worker.next(), faulty)
        # What arrived after its slot was given up has got no name.
        assert [name.split("-")[0] for name in files(faulty)] == ["6"]


async def test_scratch_disk_that_is_full_while_encoding_misses_its_slot_and_heals(
    faulty: str, make_lane: MakeLane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "scratch", "4m") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk.path))
        async with station(await make_lane(), faulty, monkeypatch) as worker:
            disk.fill(8192)
            assert_missed(await worker.next(), Stage.ENCODE, "No space left on device")
            assert [each.name for each in disk.path.iterdir()] == [".filler"]
            disk.free()
            assert_made(await worker.next(), faulty)
            assert list(disk.path.iterdir()) == []


# The trace collector


@contextmanager
def closed_port() -> Iterator[str]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


@contextmanager
def hanging_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def traced_worker(lane: Lane, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `vortex run` with a scripted engine that exports its spans, and stop it at the end."""
    env = environment(
        **kafka_variables(lane.config),
        VORTEX__TELEMETRY__EXPORTER="otlp",
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
        **variables,
    )
    with (
        log.open("wb") as stderr,
        subprocess.Popen([*COMMAND, "nothing"], stderr=stderr, env=env) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def events(log: Path) -> list[str]:
    lines = log.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["event"] for line in lines if line.startswith("{")]


@pytest.mark.parametrize("collector", [closed_port, hanging_port], ids=["gone", "hanging"])
async def test_collector_that_does_not_answer_delays_no_slot_and_is_told_once(
    collector: Callable[[], Iterator[str]], make_lane: MakeLane, tmp_path: Path
) -> None:
    lane, log = await make_lane(), tmp_path / "log"
    with (
        collector() as endpoint,
        traced_worker(  # type: ignore[attr-defined]
            lane, log, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
        ),
    ):
        emitted = await lane.emit([tick(slot_id) for slot_id in range(20)])
        results = await lane.outcomes(20)
        await until(lambda: "Trace export failing, spans are dropped" in events(log))
        started_s = time.monotonic()
        emitted += await lane.emit([tick(20)])
        results = await lane.outcomes(21, settle_s=0.0)
        assert time.monotonic() - started_s < 10
    assert_one_outcome_each(results, emitted)
    assert all(isinstance(result, SlotComplete) for result in results)
    assert events(log).count("Trace export failing, spans are dropped") == 1


async def test_collector_that_is_back_gets_the_spans_of_later_slots(
    make_lane: MakeLane, tmp_path: Path
) -> None:
    lane, log = await make_lane(), tmp_path / "log"
    with OtlpReceiver() as receiver:
        receiver.status = 400
        with traced_worker(lane, log, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint):
            await lane.emit([tick(1)])
            await lane.outcomes(1)
            await until(lambda: "Trace export failing, spans are dropped" in events(log))
            receiver.status = 200
            await lane.emit([tick(2)])
            await lane.outcomes(2)
            await until(lambda: "Trace export recovered" in events(log))
            spans = await asyncio.to_thread(
                receiver.wait_for,
                lambda spans: any(span.attributes.get("slot.id") == 2 for span in spans),
            )
    assert not [span for span in spans if span.attributes.get("slot.id") == 1]
