"""One file from the hub, by huggingface_hub: its tokens, mirrors, proxies and retries.

Files come over plain HTTP. The library's own ways, Xet included, restart an interrupted file;
here a download resumes where it stopped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # not marked so

from vortex.errors import VortexInitializationError, one_line
from vortex.weights.catalogue import HubModel

_SHA256 = re.compile(r"[0-9a-f]{64}")

Advance = Callable[[int], None]
"""Told how many bytes more have come."""


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids to ask the hub."""
    return constants.is_offline_mode()


def cache_directory() -> Path:
    """Return the cache that other programs fill from the hub."""
    return Path(constants.HF_HUB_CACHE)


def download(model: HubModel, path: str, target: Path, advance: Advance) -> None:
    """Fetch a file of the pinned revision; an existing part of it is resumed.

    Args:
        model: whose file.
        path: in its repository.
        target: the file to write; what it holds is the beginning of the file.
        advance: told what comes, and first what is there.

    Raises:
        VortexInitializationError: the hub cannot be reached, refuses, or has another file than the
            catalogue names; one line that says what to do.
    """
    # Its warnings hold addresses that are signed for this download.
    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call] # its gap
    url = huggingface_hub.hf_hub_url(model.repository, path, revision=model.revision)
    # Compressed, a file could not be continued at a byte.
    headers = build_hf_headers(headers={"Accept-Encoding": "identity"})
    try:
        found = huggingface_hub.get_hf_file_metadata(url, headers=headers)
        _check(found, model, path)
        have_bytes = target.stat().st_size if target.exists() else 0
        if found.size is not None and have_bytes > found.size:
            target.unlink()
            have_bytes = 0
        advance(have_bytes)
        if urlsplit(found.location).netloc != urlsplit(url).netloc:
            headers.pop("authorization", None)  # of no concern to where large files are stored
        with target.open("ab") as file:
            http_get(
                found.location,
                file,
                resume_size=have_bytes,
                headers=headers,
                expected_size=found.size,
                tqdm_class=_bar(advance),
            )
    except VortexInitializationError:
        raise
    except Exception as error:  # the transport behind the library has errors of its own
        raise VortexInitializationError(_explain(error, model, path)) from error


def _check(found: huggingface_hub.HfFileMetadata, model: HubModel, path: str) -> None:
    """Compare with the catalogue before gigabytes are fetched for nothing."""
    wanted = model.files[path]
    where = f"{model.repository}: {path} at {constants.ENDPOINT}"
    # For a large file, the entity tag is its checksum.
    tag = found.etag if found.etag and _SHA256.fullmatch(found.etag) else None
    for what, has, wants in (
        ("revision", found.commit_hash, model.revision),
        ("size", found.size, wanted.bytes),
        ("sha256", tag, wanted.sha256),
    ):
        if None not in (has, wants) and has != wants:
            raise VortexInitializationError(f"{where} has {what} {has} instead of {wants}")


def _explain(error: Exception, model: HubModel, path: str) -> str:
    repository, hub = model.repository, constants.ENDPOINT
    match error:
        case errors.GatedRepoError():
            return (
                f"{repository} is gated: accept its conditions at {hub}/{repository}, then log in"
                " with `hf auth login` or set HF_TOKEN"
            )
        case errors.RevisionNotFoundError():
            return (
                f"{repository} at {hub} has no revision {model.revision}; install a"
                " newer vortex-slots, or set models.catalogue to a catalogue with another"
            )
        case errors.RemoteEntryNotFoundError():
            return (
                f"{repository} has no file {path} at {hub} in revision {model.revision}; correct"
                " the catalogue"
            )
        case errors.RepositoryNotFoundError():
            return (
                f"{repository} is not at {hub}, or not public; check HF_ENDPOINT, log in with"
                " `hf auth login` or set HF_TOKEN"
            )
        case errors.HfHubHTTPError():
            status = error.response.status_code
            return f"{hub} answers {status} for {repository}: {path}; try again later"
        case errors.OfflineModeIsEnabled():
            return f"{repository}: HF_HUB_OFFLINE is set; unset it or give --from DIRECTORY"
        case OSError() if error.strerror:  # of the disk, full or not writable
            return f"{path} of {repository} cannot be written: {error.strerror}"
        case _:
            return (
                f"{repository}: {path} did not come from {hub}: {one_line(error)}; check the"
                " network or HF_ENDPOINT and run it again to resume, or give --from DIRECTORY"
            )


def _bar(advance: Advance) -> Any:  # what stands in for tqdm, whose interface is large
    class Bar:
        """The part of tqdm that a download uses."""

        def __init__(self, **_: object) -> None:
            """Ignore how it would look."""

        def update(self, bytes_: int) -> None:
            """Pass on what has come."""
            advance(bytes_)

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self,
            error_type: type[BaseException] | None,
            error: BaseException | None,
            traceback: TracebackType | None,
        ) -> None:
            """Leave nothing to close."""

    return Bar
