"""A TCP proxy in front of a broker, which can be told to do what bad networks do."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from consumer.embedded_kafka.cluster import HOST

PRODUCE, OFFSET_FETCH, INIT_PRODUCER_ID, END_TXN, TXN_OFFSET_COMMIT = 0, 9, 22, 26, 28
"""API keys of Kafka's protocol."""


async def _pass(_: int) -> bool:
    return True


class BrokerProxy:
    """Forwards connections from the loopback `port` to a broker's, request by request.

    `before_request` and `before_answer` are called with a request's API key before it, or its
    answer, is forwarded. They may wait; if one returns False, nothing more comes back on that
    connection, as if the cable had been cut.
    """

    def __init__(self, port: int, broker_port: int) -> None:
        self.port = port
        self.before_request: Callable[[int], Awaitable[bool]] = _pass
        self.before_answer: Callable[[int], Awaitable[bool]] = _pass
        self._broker_port = broker_port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, self.port)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Reset every connection."""
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def reset(self) -> None:
        """Do again what a good network does."""
        self.before_request = self.before_answer = _pass
        self.resume()
        self.accept()

    def stall(self) -> None:
        """Hold back all bytes, in both directions, until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let bytes through that were held back, and all later ones."""
        self._flowing.set()

    async def refuse(self) -> None:
        """Reset every connection, and every new one, until `accept`."""
        self._refusing = True
        await self.cut()

    def accept(self) -> None:
        """Accept connections."""
        self._refusing = False

    async def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        to_broker: asyncio.StreamWriter | None = None
        try:
            if self._refusing:
                return
            broker, to_broker = await asyncio.open_connection(HOST, self._broker_port)
            api_keys: dict[int, int] = {}
            pumps = [
                asyncio.create_task(self._requests(client, to_broker, api_keys)),
                asyncio.create_task(self._answers(broker, to_client, api_keys)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the broker is down, or the connection is being cut: the client sees a reset
        finally:
            self._connections.discard(connection)
            for writer in (to_client, to_broker):
                if writer is not None:
                    writer.transport.abort()

    async def _requests(
        self, client: asyncio.StreamReader, broker: asyncio.StreamWriter, api_keys: dict[int, int]
    ) -> None:
        with _until_closed():
            while True:
                frame = await _read_frame(client)
                api_key, _, correlation_id = struct.unpack_from(">hhi", frame)
                api_keys[correlation_id] = api_key
                await self._flowing.wait()
                if await self.before_request(api_key):
                    await _write_frame(broker, frame)

    async def _answers(
        self, broker: asyncio.StreamReader, client: asyncio.StreamWriter, api_keys: dict[int, int]
    ) -> None:
        with _until_closed():
            alive = True
            while True:
                frame = await _read_frame(broker)
                (correlation_id,) = struct.unpack_from(">i", frame)
                await self._flowing.wait()
                alive = await self.before_answer(api_keys.pop(correlation_id, -1)) and alive
                if alive:
                    await _write_frame(client, frame)


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


async def _write_frame(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)
    await writer.drain()


def _until_closed() -> contextlib.suppress:
    return contextlib.suppress(OSError, asyncio.IncompleteReadError)
