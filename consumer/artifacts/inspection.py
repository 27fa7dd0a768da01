"""What a video's credentials say, and whether they are still true; offline."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import c2pa

from consumer.artifacts.credentials import SLOT_ASSERTION
from consumer.artifacts.errors import ArtifactError
from consumer.artifacts.watermark import read_watermark
from schemas import SlotComplete
from vortex.errors import one_line
from vortex.utils.files import sha256_of

_C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_PURPOSE = b"manifest\0"
_OFFSET_BYTES = 8
_UNTRUSTED = "signingCredential.untrusted"


@dataclass
class Inspection:
    """What was found in a file."""

    claim: dict[str, Any] | None = None
    """What our own assertion binds the file to."""
    generator: str | None = None
    signer: str | None = None
    trusted: bool = False
    """Whether the signer's chain ends at a given authority."""
    manifest_sha256: str | None = None
    watermark_id: str | None = None
    """What is hidden in the picture; None if nothing can be read there."""
    problems: list[str] = field(default_factory=list)
    """What was altered, one line each; empty if nothing was."""


def inspect_file(
    path: Path, *, outcome: SlotComplete | None = None, authorities: Path | None = None
) -> Inspection:
    """Check a file's credentials, and whether they are those of an outcome.

    Args:
        path: an MP4 file.
        outcome: the slot's outcome; None checks the file by itself.
        authorities: PEM file with whom to trust; None: the signer is named, and not judged.

    Raises:
        ArtifactError: the file cannot be read.
    """
    found = Inspection()
    try:
        _read_manifest(path, found, authorities)
        found.watermark_id = _watermark_id(path)
        if outcome is not None:
            _compare(path, found, outcome)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    return found


def _read_manifest(path: Path, found: Inspection, authorities: Path | None) -> None:
    settings: dict[str, Any] = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
    if authorities is not None:
        settings["trust"] = {"trust_anchors": authorities.read_text("utf-8")}
    content = path.read_bytes()
    found.manifest_sha256 = _manifest_sha256(content)
    try:
        with (
            path.open("rb") as file,
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader("video/mp4", file, context=context) as reader,
        ):
            store = json.loads(reader.json())
    except c2pa.C2paError as error:
        found.problems.append(_unreadable(error, found.manifest_sha256))
        return
    statuses = store.get("validation_status") or []
    found.trusted = store.get("validation_state") == "Trusted"
    for status in statuses:
        if status["code"] != _UNTRUSTED:
            found.problems.append(_in_words(status["code"], status.get("url", "")))
    try:
        _read_claim(store, found)
    except (LookupError, TypeError, ValueError, AttributeError):  # names and kinds, too
        found.problems.append("the manifest was altered: parts that it needs are not there")
        return
    if found.claim is None:
        found.problems.append(f"the manifest says nothing of a slot: it has no {SLOT_ASSERTION}")
    if authorities is not None and not found.trusted and not found.problems:
        found.problems.append(f"the signer is not trusted: {found.signer}")


def _read_claim(store: dict[str, Any], found: Inspection) -> None:
    manifest = store["manifests"][store["active_manifest"]]
    generator = manifest["claim_generator_info"][0]
    found.generator = f"{generator['name']} {generator.get('version', '')}".strip()
    signature = manifest.get("signature_info", {})
    found.signer = f"{signature.get('issuer')}, {signature.get('common_name')}"
    for assertion in manifest["assertions"]:
        if assertion["label"] == SLOT_ASSERTION:
            found.claim = dict(assertion["data"])


def _watermark_id(path: Path) -> str | None:
    try:
        reading = read_watermark(path)
    except (av.error.FFmpegError, IndexError):  # damaged, or without a picture
        return None
    return None if reading is None else reading.watermark_id


def _unreadable(error: c2pa.C2paError, manifest_sha256: str | None) -> str:
    if isinstance(error, c2pa.C2paError.ManifestNotFound) and manifest_sha256 is None:
        return "there are no content credentials: they were stripped, or never made"
    return f"the file or its manifest was altered and cannot be read: {one_line(error)}"


def _in_words(code: str, url: str) -> str:
    part = url.rsplit("/", 1)[-1]
    if code.startswith("assertion.bmffHash"):
        return "the media was altered, or the manifest is that of another file"
    if code.startswith("assertion."):
        return f"the manifest was altered: {part} is not what was signed ({code})"
    if code.startswith("claimSignature"):
        return f"the manifest was altered: its signature does not fit ({code})"
    return f"the credentials are not valid: {code}"


def _compare(path: Path, found: Inspection, outcome: SlotComplete) -> None:
    expected = outcome.artifact.watermark_id
    if None not in (expected, found.watermark_id) and found.watermark_id != expected:
        found.problems.append(
            f"the picture is that of another slot: its watermark is {found.watermark_id},"
            f" not {expected}"
        )
    provenance = outcome.provenance
    if provenance is None:
        found.problems.append("the outcome says nothing of where its video comes from")
        return
    if found.claim is not None:
        source = outcome.source.model_dump()
        if found.claim.get("tick") != source:
            found.problems.append(
                f"the manifest is that of another slot: of the tick {_place(found.claim)},"
                f" not {_place({'tick': source})}"
            )
        if found.claim.get("recipe_sha256") != provenance.recipe_sha256:
            found.problems.append("the manifest is that of another recipe than the outcome's")
        if found.claim.get("seed") != outcome.seed:
            found.problems.append(
                f"the manifest names another seed, {found.claim.get('seed')},"
                f" than the outcome, {outcome.seed}"
            )
        if found.claim.get("media_sha256") != provenance.media_sha256:
            found.problems.append(
                "the manifest names another checksum of the unsigned file than the outcome"
            )
    if found.manifest_sha256 is not None and found.manifest_sha256 != provenance.manifest_sha256:
        found.problems.append("the manifest was swapped: it is not the one of the outcome")
    if sha256_of(path) != outcome.artifact.sha256:
        found.problems.append("the file is not the one of the outcome: its checksum differs")


def _place(claim: dict[str, Any]) -> str:
    match claim:
        case {"tick": {"topic": topic, "partition": partition, "offset": offset}}:
            return f"{topic}/{partition}@{offset}"
    return "that it does not name"


def _manifest_sha256(content: bytes) -> str | None:
    """Return the checksum of the manifest's bytes in an MP4 file; None if there is none."""
    at = 0
    while at + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        body = at + 8
        if size == 1 and body + 8 <= len(content):
            (size,) = struct.unpack_from(">Q", content, body)
            body += 8
        end = len(content) if size == 0 else at + size
        if kind == b"uuid" and content[body : body + 16] == _C2PA_BOX:
            start = body + 16 + 4 + len(_PURPOSE) + _OFFSET_BYTES  # version and flags are 4 bytes
            return hashlib.sha256(content[start:end]).hexdigest()
        if end <= body - 8:
            return None
        at = end
    return None
