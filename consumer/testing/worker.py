"""A worker in a thread, which answers ticks as a test wants, and what a test asks it."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from consumer.config import TopicsConfig, WorkerConfig
from consumer.emitter import TickEmitter
from consumer.intake import load_trusted_keys
from consumer.job import Job, Step
from consumer.kafka.clients import make_admin
from consumer.kafka.topics import create_topics
from consumer.progress import telling_progress
from consumer.results import DeadLetter, read_results
from consumer.testing.engine import FakeEngine
from consumer.testing.orders import Miss, Orders
from consumer.worker import Worker
from schemas import (
    AudioTrack,
    DeadlineMissed,
    MissReason,
    Recipe,
    SlotComplete,
    SlotParams,
    SlotTick,
    Stage,
    TickSource,
    VisualTrack,
)

T = TypeVar("T")

WORKER_ID = "fake-worker"
WAIT_S = 30.0
"""How long the methods that wait do so by default."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_LOOK_S = 0.02
_PARTITIONS = 2
# Short, so that a test which ends, or a worker that is started again, waits for nobody.
_QUICK = {
    "session_timeout_s": 6.0,
    "rebalance_timeout_s": 6.0,
    "request_timeout_s": 10.0,
    "transaction_timeout_s": 10.0,
    "start_timeout_s": 10.0,
    "shutdown_grace_s": 2.0,
}
_RECIPE = Recipe(
    slot_params=SlotParams(duration_sec=1.0, fps=12, resolution="128x128"),
    audio_track=AudioTrack(script="Good evening."),
    visual_track=VisualTrack(prompt="A news presenter in a blue coat"),
)


class FakeWorkerError(Exception):
    """The fake worker does not start or has failed; the message is one line that says why."""


def topics(
    ticks: str = "slot.ticks",
    results: str = "slot.results",
    dead_letter: str = "slot.dead-letter",
    progress: str | None = None,
) -> TopicsConfig:
    """Return the names of an application's topics; None: that topic is not written."""
    # A single worker has no use for the topics that workers have among themselves.
    others: dict[str, str | None] = dict.fromkeys(TopicsConfig.model_fields)
    names = {"ticks": ticks, "results": results, "dead_letter": dead_letter, "progress": progress}
    return TopicsConfig.model_validate(others | names)


def fresh_topics() -> TopicsConfig:
    """Return names of topics that nobody else uses."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    return topics(f"{name}.slot.ticks", f"{name}.slot.results", f"{name}.slot.dead-letter")


class FakeWorker:
    """A worker that makes no videos: it answers every tick, at once and with slot-complete.

    All but the engine is the worker's own code: it claims partitions, plans, and publishes each
    outcome in a transaction with the tick's offset, with the keys and headers of a real one. What
    cannot be read goes to the dead letters, and a tick whose deadline has passed is answered as
    expired. It makes one slot at a time, as a real one does.

    It runs in a thread of its own, between entering and leaving the context. Methods whose names
    begin with `wait_for` and `send` block; in a coroutine, call them through `asyncio.to_thread`.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topics: TopicsConfig | None = None,
        *,
        group_id: str | None = None,
        videos: Path | str | None = None,
        settings: WorkerConfig | None = None,
    ) -> None:
        """Set it up; nothing is connected before the context is entered.

        Args:
            bootstrap_servers: HOST:PORT of a broker, several separated by commas.
            topics: names of the topics, which are made where they do not exist; by default new
                ones.
            group_id: the group that it joins; by default one of its own for these ticks.
            videos: where artifacts are stored, a directory or an fsspec URL; by default a
                temporary directory that goes at the end.
            settings: everything else, such as how to log in at Kafka; by default what
                `VORTEX__…` variables say.
        """
        settings = settings or WorkerConfig.load()
        self.topics = topics or fresh_topics()
        """Names of the topics: `ticks`, `results`, `dead_letter`."""
        self.bootstrap_servers = bootstrap_servers
        self._settings = settings
        self._kafka = settings.kafka.model_copy(
            update={
                **_QUICK,
                "bootstrap_servers": bootstrap_servers,
                "topics": self.topics,
                "group_id": group_id or f"fake-worker.{self.topics.ticks}"[:249],
            }
        )
        self._orders = Orders()
        self._videos = videos
        self._ticks: list[tuple[TickSource, SlotTick]] = []
        self._outcomes: list[SlotComplete | DeadlineMissed] = []
        self._dead_letters: list[DeadLetter] = []
        self._changed = threading.Condition()
        self._ready = False
        self._ended = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    # --- orders -----------------------------------------------------------------------------

    def miss(
        self,
        reason: MissReason | str = MissReason.FAILED,
        *,
        slot_id: int | None = None,
        channel: str | None = None,
        times: int | None = None,
        stage: Stage | str | None = None,
        detail: str | None = None,
    ) -> None:
        """Have slots missed. The latest order that holds for a slot counts.

        Args:
            reason: as in the event; `late` is answered just after the deadline. A tick whose
                deadline has passed is `expired` without any order.
            slot_id: of this slot alone; None: of any.
            channel: of this channel alone; None: of any.
            times: for so many slots; None: always.
            stage: which step was under way; by default what is usual for the reason.
            detail: words for people; by default what a real worker says.

        Raises:
            ValueError: there is no such reason or stage, or the reason is `expired`.
        """
        self._orders.order(Miss.of(reason, stage, detail), slot_id, channel, times)

    def reject(
        self, *, slot_id: int | None = None, channel: str | None = None, times: int | None = None
    ) -> None:
        """Have slots fail the self-check, as `miss("rejected")` does."""
        self.miss(MissReason.REJECTED, slot_id=slot_id, channel=channel, times=times)

    def complete(
        self, *, slot_id: int | None = None, channel: str | None = None, times: int | None = None
    ) -> None:
        """Have slots completed, as an exception to earlier orders."""
        self._orders.order(None, slot_id, channel, times)

    def delay(
        self,
        seconds: float,
        *,
        slot_id: int | None = None,
        channel: str | None = None,
        times: int | None = None,
    ) -> None:
        """Have slots take so many seconds, whatever becomes of them.

        One that has less time is missed at once, as `predicted`.
        """
        self._orders.delay(seconds, slot_id, channel, times)

    def reset(self) -> None:
        """Forget all orders."""
        self._orders.reset()

    # --- ticks ------------------------------------------------------------------------------

    def send(
        self,
        slot_id: int,
        *,
        channel: str = "main",
        deadline_s: float = 60.0,
        recipe: Recipe | None = None,
    ) -> TickSource:
        """Send a tick as a producer does, and return where it stands.

        Args:
            slot_id: the slot.
            channel: the programme that it belongs to.
            deadline_s: seconds from now; negative for one that has passed.
            recipe: what to make; by default a second of anything.

        Raises:
            FakeWorkerError: the worker has failed.
        """
        now = datetime.now(UTC)
        tick = SlotTick(
            slot_id=slot_id,
            channel=channel,
            emitted_at=now,
            deadline=now + timedelta(seconds=deadline_s),
            recipe=recipe or _RECIPE,
        )
        return self._call(self._emit(tick.model_dump_json(exclude_none=True).encode(), slot_id))

    def send_raw(self, value: bytes, slot_id: int | None = None) -> TickSource:
        """Send any value, readable as a tick or not, keyed by a slot; return where it stands."""
        return self._call(self._emit(value, slot_id))

    @property
    def ticks(self) -> list[SlotTick]:
        """The ticks that were read, in this order."""
        with self._changed:
            return [tick for _, tick in self._ticks]

    def wait_for_tick(self, slot_id: int, timeout_s: float = WAIT_S) -> SlotTick:
        """Return the latest tick for a slot, as soon as one was read.

        Raises:
            TimeoutError: none came; says what did.
            FakeWorkerError: the worker has failed.
        """

        def find() -> list[SlotTick]:
            return [tick for _, tick in self._ticks if tick.slot_id == slot_id]

        return self._wait(find, f"a tick for slot {slot_id}", timeout_s)

    # --- outcomes ---------------------------------------------------------------------------

    @property
    def outcomes(self) -> list[SlotComplete | DeadlineMissed]:
        """The outcomes that were published and committed, in this order."""
        with self._changed:
            return list(self._outcomes)

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The dead letters that were published and committed, in this order."""
        with self._changed:
            return list(self._dead_letters)

    def wait_for_outcome(
        self, of: int | TickSource, timeout_s: float = WAIT_S
    ) -> SlotComplete | DeadlineMissed:
        """Return an outcome as soon as a `read_committed` reader sees it.

        Args:
            of: a slot id, for the latest outcome of that slot in any channel; or what `send`
                returned, for the outcome of that tick.
            timeout_s: seconds to wait.

        Raises:
            TimeoutError: none came; says what did.
            FakeWorkerError: the worker has failed.
        """

        def find() -> list[SlotComplete | DeadlineMissed]:
            return [each for each in self._outcomes if of in (each.slot_id, each.source)]

        what = f"slot {of}" if isinstance(of, int) else f"the tick at {_place(of)}"
        return self._wait(find, f"an outcome of {what}", timeout_s)

    def wait_for_dead_letter(
        self, of: TickSource | None = None, timeout_s: float = WAIT_S
    ) -> DeadLetter:
        """Return a dead letter as soon as a `read_committed` reader sees it.

        Args:
            of: what `send_raw` returned; None: the latest one.
            timeout_s: seconds to wait.

        Raises:
            TimeoutError: none came; says what did.
            FakeWorkerError: the worker has failed.
        """

        def find() -> list[DeadLetter]:
            return [each for each in self._dead_letters if of in (None, each.source)]

        what = "a dead letter" if of is None else f"the dead letter of the tick at {_place(of)}"
        return self._wait(find, what, timeout_s)

    # --- the thread -------------------------------------------------------------------------

    def check(self) -> None:
        """Return if the worker runs.

        Raises:
            FakeWorkerError: it does not; says why.
        """
        self._require_running()

    def __enter__(self) -> Self:
        """Start, and return once the worker has claimed its partitions.

        Raises:
            FakeWorkerError: it does not start; says why.
        """
        self._thread = threading.Thread(target=self._run, name=WORKER_ID, daemon=True)
        self._thread.start()
        with self._changed:
            started = self._changed.wait_for(lambda: self._ready or self._ended, START_TIMEOUT_S)
        if started and not self._ended:
            return self
        error = self._failed(f"is not ready after {START_TIMEOUT_S:.0f} s")
        self.__exit__(type(error), error, None)
        raise error from self._failure

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Answer what is being made, stop, and disconnect.

        Raises:
            FakeWorkerError: the worker has failed, and nothing else is being raised.
        """
        if self._thread is None:
            return
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(STOP_TIMEOUT_S)
        if exc is None and self._thread.is_alive():
            raise self._failed(f"has not stopped in {STOP_TIMEOUT_S:.0f} s")
        self._thread = None
        if exc is None and self._failure is not None:
            raise self._failed("has failed") from self._failure

    def _run(self) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="vortex-fake-") as temporary:
                videos = temporary if self._videos is None else str(self._videos)
                asyncio.run(self._serve(videos))
        except BaseException as error:  # noqa: BLE001 - raised again where the test waits
            self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    async def _serve(self, videos: str) -> None:
        self._loop = asyncio.get_running_loop()
        await self._create_topics()
        engine = FakeEngine(self._orders, videos)
        async with (
            telling_progress(self._kafka, WORKER_ID, engine.predict_s) as tell,
            TickEmitter(self._kafka) as self._emitter,
        ):

            def note(job: Job, step: Step) -> None:
                tell(job, step)
                if step.stage is None:
                    self._note(self._ticks, (TickSource(**job.key._asdict()), job.tick))

            worker = Worker(
                self._kafka,
                engine,
                worker_id=WORKER_ID,
                on_progress=note,
                trusted=load_trusted_keys(self._settings.intake.trusted_keys),
                slate=self._settings.slate,
            )
            await self._attend(worker)

    async def _attend(self, worker: Worker) -> None:
        """Run the worker and read its outcomes until told to stop; both end here."""
        reading = asyncio.Event()
        serving = asyncio.create_task(worker.run())
        following = asyncio.create_task(self._follow(reading))
        told = asyncio.create_task(self._stopping.wait())
        try:
            while not told.done():
                done, _ = await asyncio.wait(
                    {serving, following, told},
                    timeout=None if self._ready else _LOOK_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done - {told}:
                    task.result()
                if not self._ready and reading.is_set() and not any(worker.readiness().values()):
                    with self._changed:
                        self._ready = True
                        self._changed.notify_all()
        finally:
            worker.request_stop()
            following.cancel()
            told.cancel()
            await asyncio.wait({serving, following, told}, timeout=STOP_TIMEOUT_S / 2)
        if serving.done() and not serving.cancelled():
            serving.result()

    async def _follow(self, reading: asyncio.Event) -> None:
        async with aclosing(read_results(self._kafka, from_start=False)) as results:
            async for result in results:
                reading.set()
                if isinstance(result, DeadLetter):
                    self._note(self._dead_letters, result)
                elif result is not None:
                    self._note(self._outcomes, result)

    async def _create_topics(self) -> None:
        names = self.topics
        wanted = {names.ticks: _PARTITIONS, names.results: _PARTITIONS, names.dead_letter: 1}
        if names.progress is not None:
            wanted[names.progress] = 1
        await create_topics(make_admin(self._kafka, client_id=WORKER_ID), wanted)

    async def _emit(self, value: bytes, slot_id: int | None) -> TickSource:
        key = None if slot_id is None else str(slot_id).encode()
        at = await self._emitter.emit_raw(value, key=key, slot_id=slot_id)
        return TickSource(topic=at.topic, partition=at.partition, offset=at.offset)

    # --- between the threads ----------------------------------------------------------------

    def _note(self, notes: list[T], note: T) -> None:
        with self._changed:
            notes.append(note)
            self._changed.notify_all()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            loop = self._require_running()
        except FakeWorkerError:
            coroutine.close()
            raise
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(WAIT_S)

    def _wait(self, find: Callable[[], list[T]], what: str, timeout_s: float) -> T:
        """Return the last of what is found, as soon as there is anything."""
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while not (found := find()):
                self._require_running()
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"{what} has not come in {timeout_s:g} s; {self._story()}")
                self._changed.wait(left_s)
            return found[-1]

    def _story(self) -> str:
        """Say what came instead of what a test waits for."""
        read = ", ".join(f"{tick.channel}/{tick.slot_id}" for _, tick in self._ticks) or "none"
        answered = ", ".join(f"{each.channel}/{each.slot_id}" for each in self._outcomes) or "none"
        letters = "".join(
            f"; dead letter of {_place(each.source)}: {each.reason}" for each in self._dead_letters
        )
        return f"ticks read from {self.topics.ticks}: {read}; answered: {answered}{letters}"

    def _require_running(self) -> asyncio.AbstractEventLoop:
        if self._failure is not None or self._ended or self._loop is None:
            raise self._failed("does not run; use it as a context manager") from self._failure
        return self._loop

    def _failed(self, otherwise: str) -> FakeWorkerError:
        """Return an error with the reason why the thread has failed, or what else is wrong."""
        if self._failure is None:
            return FakeWorkerError(f"the fake worker {otherwise}")
        reason = str(self._failure) or repr(self._failure)
        return FakeWorkerError(f"the fake worker has failed: {reason}")


def _place(at: TickSource) -> str:
    return f"{at.topic}/{at.partition}@{at.offset}"
