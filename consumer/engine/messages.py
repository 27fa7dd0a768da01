"""What worker and engine process say to each other: JSON with a length before it.

Every message is one of these types, checked when it is read; nothing is unpickled.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, TypeAdapter

from consumer.engine.base import SlotMade, SlotNotMade, SlotRequest
from schemas import Stage

_LENGTH_BYTES = 4
MAX_MESSAGE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Load:
    """To the engine, once: load everything that this configuration asks for."""

    config: Mapping[str, Any]
    type: Literal["load"] = "load"


@dataclass(frozen=True)
class Make:
    """To the engine: make a slot. One at a time, besides those that are being stored.

    Whatever concerns this work has the same number.
    """

    work: int
    request: SlotRequest
    type: Literal["make"] = "make"


@dataclass(frozen=True)
class Speak:
    """To the engine: speak a slot that should be made next. This is a work of its own."""

    work: int
    request: SlotRequest
    type: Literal["speak"] = "speak"


@dataclass(frozen=True)
class Cancel:
    """To the engine: stop the work."""

    work: int
    type: Literal["cancel"] = "cancel"


@dataclass(frozen=True)
class Starting:
    """To the worker: how far the start has come."""

    step: str
    type: Literal["starting"] = "starting"


@dataclass(frozen=True)
class Started:
    """To the worker: the first slot may come."""

    type: Literal["started"] = "started"


@dataclass(frozen=True)
class StartFailed:
    """To the worker: the engine cannot start, and trying again will not help."""

    message: str
    type: Literal["start-failed"] = "start-failed"


@dataclass(frozen=True)
class StepBegan:
    """To the worker: a stage of the slot began."""

    work: int
    stage: Stage
    type: Literal["step-began"] = "step-began"


@dataclass(frozen=True)
class StepEnded:
    """To the worker: a stage of the slot ended, well or not."""

    work: int
    stage: Stage
    type: Literal["step-ended"] = "step-ended"


@dataclass(frozen=True)
class AttemptBegan:
    """To the worker: an attempt of a stage began, under the stage's time limit."""

    work: int
    stage: Stage
    type: Literal["attempt-began"] = "attempt-began"


@dataclass(frozen=True)
class AttemptEnded:
    """To the worker: an attempt ended, well or not."""

    work: int
    stage: Stage
    type: Literal["attempt-ended"] = "attempt-ended"


@dataclass(frozen=True)
class Beat:
    """To the worker: a stage's own thread goes on."""

    work: int
    type: Literal["beat"] = "beat"


@dataclass(frozen=True)
class Observed:
    """To the worker: how long an attempt took, for its estimates."""

    stage: str
    seconds: float
    units: float
    end: Literal["finished", "at its limit", "stopped"]
    type: Literal["observed"] = "observed"


@dataclass(frozen=True)
class Restored:
    """To the worker: what was learned before this start, for its estimates."""

    stages: Mapping[str, Mapping[str, float]]
    type: Literal["restored"] = "restored"


@dataclass(frozen=True)
class Made:
    """To the worker: the slot is stored."""

    work: int
    slot: SlotMade
    type: Literal["made"] = "made"


@dataclass(frozen=True)
class NotMade:
    """To the worker: there is no video."""

    work: int
    slot: SlotNotMade
    type: Literal["not-made"] = "not-made"


@dataclass(frozen=True)
class Spoken:
    """To the worker: the slot is spoken, or cannot be spoken ahead."""

    work: int
    type: Literal["spoken"] = "spoken"


@dataclass(frozen=True)
class Stopped:
    """To the worker: the work has stopped, as it was told to."""

    work: int
    type: Literal["stopped"] = "stopped"


@dataclass(frozen=True)
class Lost:
    """To the worker: this process must be replaced."""

    message: str
    type: Literal["lost"] = "lost"


OfWork = (
    StepBegan | StepEnded | AttemptBegan | AttemptEnded | Beat | Made | NotMade | Spoken | Stopped
)
"""What the worker is told of a slot in the making, or of one that is spoken ahead."""

Order = Make | Speak | Cancel
Message = Annotated[
    Load | Order | Starting | Started | StartFailed | Observed | Restored | Lost | OfWork,
    Discriminator("type"),
]
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Message)


class Line:
    """One end of the socket pair between worker and engine process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Line:
        """Return the line over a connected socket, which it owns from then on."""
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, message: Message) -> None:
        """Queue a message; a line that is cut drops it, and `receive` tells."""
        text = _MESSAGES.dump_json(message)
        self._writer.write(len(text).to_bytes(_LENGTH_BYTES) + text)

    async def drain(self) -> None:
        """Wait until the other end has room for what was sent."""
        await self._writer.drain()

    async def receive(self) -> Message | None:
        """Return the next message; None once the other end is gone.

        Raises:
            ValueError: what came is not a message of ours.
        """
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
            if length > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of {length} bytes; at most {MAX_MESSAGE_BYTES}")
            return _MESSAGES.validate_json(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """Cut the line."""
        self._writer.close()
