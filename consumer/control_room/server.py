"""Serves the page, what changes on it, and the videos of finished slots."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path

import fsspec
from aiokafka.errors import KafkaError
from fsspec.implementations.local import LocalFileSystem
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from consumer.config import ArtifactsConfig
from consumer.control_room.board import Slot, trace_of
from consumer.control_room.feed import Feed
from consumer.control_room.replay import (
    MAX_SPEED,
    MIN_SPEED,
    Replays,
    TooManyReplaysError,
)

PAGE = Path(__file__).with_name("page")
# The page holds no script but its own, and nobody may frame it.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_app(feed: Feed, artifacts: ArtifactsConfig, replays: Replays | None = None) -> Starlette:
    """Return the application.

    Args:
        feed: what is shown.
        replays: plays the past; without, there is only the present.
        artifacts: where videos may be read; an outcome that names another place is not followed.
    """

    def slot_of(request: Request) -> Slot:
        name = request.path_params["slot"]
        slot = feed.board.get(name)
        if slot is None and replays is not None:
            slot = replays.get(name)
        if slot is None:
            raise HTTPException(404, "this slot is not known, or no longer")
        return slot

    async def events(request: Request) -> EventSourceResponse:
        source = feed.watch()
        if "from" in request.query_params and replays is not None:
            source = replays.play(*_asked_replay(request))

        async def changes() -> AsyncGenerator[ServerSentEvent]:
            try:
                async for change in source:
                    yield ServerSentEvent(json.dumps(change), event="slots")
            except TooManyReplaysError as error:
                yield ServerSentEvent(str(error), event="refused")
            except KafkaError as error:
                yield ServerSentEvent(f"Kafka: {error!r}", event="refused")
            finally:
                await source.aclose()

        return EventSourceResponse(changes())

    async def video(request: Request) -> Response:
        artifact = slot_of(request).artifact
        if artifact is None:
            raise HTTPException(404, "this slot has no video")
        return await _serve_file(artifact["uri"], artifacts, "video/mp4")

    async def captions(request: Request) -> Response:
        artifact = slot_of(request).artifact
        if artifact is None or artifact["captions_uri"] is None:
            raise HTTPException(404, "this slot has no captions")
        return await _serve_file(artifact["captions_uri"], artifacts, "text/vtt")

    async def plan(request: Request) -> JSONResponse:
        slot = slot_of(request)
        if slot.decided is None:
            raise HTTPException(404, "this slot has no outcome yet")
        replayed = None if replays is None else replays.board_of(slot)
        return JSONResponse((replayed or feed.board).plan_at_the_end_of(slot))

    async def trace(request: Request) -> JSONResponse:
        slot = slot_of(request)
        name = f"{slot.channel}-{slot.slot_id}.json"
        disposition = f'attachment; filename="{name}"'
        return JSONResponse(trace_of(slot), headers={"Content-Disposition": disposition})

    return Starlette(
        routes=[
            Route("/", lambda _: FileResponse(PAGE / "index.html")),
            Route("/events", events),
            Route("/video/{slot:path}", video),
            Route("/captions/{slot:path}", captions),
            Route("/plan/{slot:path}", plan),
            Route("/trace/{slot:path}", trace),
            Mount("/page", StaticFiles(directory=PAGE)),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=_secure)],
    )


def _asked_replay(request: Request) -> tuple[float, float]:
    """Return where a replay begins, milliseconds since 1970, and its speed."""
    try:
        moment = datetime.fromisoformat(request.query_params["from"])
        from_ms = moment.timestamp() * 1000
        speed = float(request.query_params.get("speed", "1"))
    except (ValueError, OverflowError) as error:
        raise HTTPException(400, f"from or speed: {error}") from error
    if moment.tzinfo is None or not MIN_SPEED <= speed <= MAX_SPEED:
        raise HTTPException(
            400, f"from needs an offset, and speed lies between {MIN_SPEED:g} and {MAX_SPEED:g}"
        )
    return from_ms, speed


async def _serve_file(uri: str, artifacts: ArtifactsConfig, media_type: str) -> Response:
    store, root = fsspec.core.url_to_fs(artifacts.url, **artifacts.storage_options)
    path = store._strip_protocol(uri)
    if not path.startswith(root.rstrip("/") + "/") or ".." in path.split("/"):
        raise HTTPException(403, "it does not lie below artifacts.url")
    try:
        if isinstance(store, LocalFileSystem):
            about = await run_in_threadpool(os.stat, path)
            return FileResponse(path, media_type=media_type, stat_result=about)
        content = await run_in_threadpool(store.cat_file, path)
    except OSError as error:
        raise HTTPException(404, "it cannot be read") from error
    return Response(content, media_type=media_type)


async def _secure(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers.update(SECURITY_HEADERS)
    return response
