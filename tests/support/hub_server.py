"""A model hub for tests: the part of its HTTP API that fetches files, on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import yaml

from tests.support.loopback_server import LoopbackServer

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class HubServer(LoopbackServer):
    """Serves repositories at `endpoint` (for HF_ENDPOINT) while its context is open.

    Large files are answered as the hub does it: a redirect to a store on another host, with size
    and checksum in headers. That host is this server again, under another name.

    Attributes:
        repositories: files by path, by repository.
        refusals: a status and the hub's code for it, by repository.
        cuts: numbers of bytes after which the next answers break off, by path in a repository.
        revision: what it calls every file's revision.
    """

    repositories: Mapping[str, Mapping[str, bytes]]
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    revision: str = REVISION
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(_handler(self))

    @property
    def store(self) -> str:
        """The base URL of where large files lie."""
        return f"http://localhost:{self.port}/store"

    def fetched(self, path: str) -> list[str | None]:
        """Return the ranges in which a file was asked for, None for all of it."""
        return [
            request.range
            for request in self.requests
            if request.method == "GET" and request.path.endswith(path)
        ]


def write_catalogue(
    path: Path,
    models: Mapping[str, str],
    repositories: Mapping[str, Mapping[str, bytes]],
    *,
    profile: str = "production",
    unknown: frozenset[str] = frozenset(),
) -> Path:
    """Pin all files of repositories in a catalogue.

    Args:
        path: of the catalogue.
        models: repositories by the name of the model.
        repositories: as the server has them.
        profile: that needs the models.
        unknown: files of which neither size nor checksum stands in the catalogue.
    """
    content = {
        profile: {
            name: {
                "repository": repository,
                "revision": REVISION,
                "licence": "MIT",
                "gated": False,
                "files": {
                    file: {}
                    if file in unknown
                    else {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                    for file, data in repositories[repository].items()
                },
            }
            for name, repository in models.items()
        }
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            hub.requests.append(
                Request(
                    self.command,
                    self.path,
                    self.headers["Range"],
                    self.headers["Authorization"],
                )
            )
            stored = self.path.startswith("/store/")
            repository, _, rest = self.path.removeprefix("/store").strip("/").partition("/resolve/")
            revision, _, path = rest.partition("/")
            content = hub.repositories.get(repository, {}).get(path)
            if repository in hub.refusals:
                self._refuse(*hub.refusals[repository])
            elif repository not in hub.repositories:
                self._refuse(404, "RepoNotFound")
            elif revision != REVISION:
                self._refuse(404, "RevisionNotFound")
            elif content is None:
                self._refuse(404, "EntryNotFound")
            elif path.endswith(".json") or stored:
                self._send(path, content)
            else:
                self._redirect(content)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _redirect(self, content: bytes) -> None:
            self.send_response(302)
            self.send_header("Location", hub.store + self.path)
            self.send_header("X-Repo-Commit", hub.revision)
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, path: str, content: bytes) -> None:
            start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            if start:
                whole = len(content)
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            blob = b"blob %d\0%b" % (len(content), content)
            self.send_header("ETag", f'"{hashlib.sha1(blob).hexdigest()}"')
            self.send_header("X-Repo-Commit", hub.revision)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if self.command == "HEAD":
                return
            end = start + hub.cuts[path].pop(0) if hub.cuts.get(path) else None
            self.wfile.write(content[start:end])
            self.close_connection = True  # fewer bytes than announced, if it was cut

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep standard error to the tests."""

    return Handler
