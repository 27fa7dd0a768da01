"""Serves the page, what changes on it, and the videos of finished slots."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import fsspec
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

PAGE = Path(__file__).with_name("page")
# The page holds no script but its own, and nobody may frame it.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_app(feed: Feed, artifacts: ArtifactsConfig) -> Starlette:
    """Return the application.

    Args:
        feed: what is shown.
        artifacts: where videos may be read; an outcome that names another place is not followed.
    """

    def slot_of(request: Request) -> Slot:
        slot = feed.board.get(request.path_params["slot"])
        if slot is None:
            raise HTTPException(404, "this slot is not known, or no longer")
        return slot

    async def events(_: Request) -> EventSourceResponse:
        async def changes() -> AsyncGenerator[ServerSentEvent]:
            async for change in feed.watch():
                yield ServerSentEvent(json.dumps(change), event="slots")

        return EventSourceResponse(changes())

    async def video(request: Request) -> Response:
        artifact = slot_of(request).artifact
        if artifact is None:
            raise HTTPException(404, "this slot has no video")
        return await _serve_video(artifact["uri"], artifacts)

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
            Route("/trace/{slot:path}", trace),
            Mount("/page", StaticFiles(directory=PAGE)),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=_secure)],
    )


async def _serve_video(uri: str, artifacts: ArtifactsConfig) -> Response:
    store, root = fsspec.core.url_to_fs(artifacts.url, **artifacts.storage_options)
    path = store._strip_protocol(uri)
    if not path.startswith(root.rstrip("/") + "/") or ".." in path.split("/"):
        raise HTTPException(403, "the video does not lie below artifacts.url")
    try:
        if isinstance(store, LocalFileSystem):
            about = await run_in_threadpool(os.stat, path)
            return FileResponse(path, media_type="video/mp4", stat_result=about)
        content = await run_in_threadpool(store.cat_file, path)
    except OSError as error:
        raise HTTPException(404, "the video cannot be read") from error
    return Response(content, media_type="video/mp4")


async def _secure(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers.update(SECURITY_HEADERS)
    return response
