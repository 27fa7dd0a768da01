"""Emits ticks, as a producer of them would."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from aiokafka.structs import RecordMetadata
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from consumer.config import KafkaConfig
from consumer.kafka.access import PRODUCER, ask_for_access, require_topics
from consumer.kafka.clients import connecting, make_plain_producer
from consumer.telemetry import propagation, semconv
from schemas import SlotTick

if TYPE_CHECKING:
    from schemas.signing import TickSigner

CLIENT_ID = "vortex-tick"

tracer = trace.get_tracer("vortex.emitter", schema_url=semconv.SCHEMA_URL)


class TickEmitter:
    """Writes ticks to Kafka; each begins a trace of its own, which goes along in its headers."""

    def __init__(self, config: KafkaConfig, signer: TickSigner | None = None) -> None:
        """Create an emitter that is not connected yet.

        Args:
            config: brokers and topic.
            signer: signs everything that is emitted.
        """
        self._signer = signer
        self._config = config
        self._topic = config.topics.ticks
        self._producer = make_plain_producer(config, client_id=CLIENT_ID)

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            KafkaUnreachableError: no broker answers, the topic does not exist, or it may not
                be written.
        """
        try:
            # First, since a producer that may write nowhere is refused in words that do not say so.
            missing = await ask_for_access(self._config, PRODUCER, client_id=CLIENT_ID)
            require_topics(self._config, missing)
            with connecting():
                await self._producer.start()
        except BaseException:
            await self._producer.stop()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect."""
        await self._producer.stop()

    async def emit(self, tick: SlotTick) -> RecordMetadata:
        """Write a tick, keyed by its slot, and return where it stands."""
        value = tick.model_dump_json(exclude_none=True).encode()
        return await self.emit_raw(value, key=str(tick.slot_id).encode(), slot_id=tick.slot_id)

    async def emit_raw(
        self, value: bytes, *, key: bytes | None = None, slot_id: int | None = None
    ) -> RecordMetadata:
        """Write any value, readable as a tick or not."""
        with tracer.start_as_current_span("vortex tick") as root:
            if slot_id is not None:
                root.set_attribute(semconv.SLOT_ID, slot_id)
            with tracer.start_as_current_span(
                f"send {self._topic}",
                kind=SpanKind.PRODUCER,
                attributes=semconv.send_attributes(
                    topic=self._topic, client_id=CLIENT_ID, body_size_bytes=len(value), key=key
                ),
            ) as span:
                headers: list[tuple[str, bytes]] = [("content-type", b"application/json")]
                if self._signer is not None:
                    headers.append(self._signer.header(value))
                propagation.inject(headers)
                written = await self._producer.send_and_wait(
                    self._topic, value, key=key, headers=headers
                )
                span.set_attribute(semconv.PARTITION_ID, str(written.partition))
                span.set_attribute(semconv.OFFSET, written.offset)
                return written
