"""Credentials of real small videos: made, checked, and broken in every way."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from consumer.artifacts.credentials import SLOT_ASSERTION, CredentialsError, ManifestSigner, Signed
from consumer.artifacts.inspection import inspect_file
from consumer.artifacts.self_made import self_made_chain
from schemas import SlotComplete
from schemas.examples import example_events
from tests.unit.consumer.artifacts.test_captions import encoded, words

ALTERED = "altered"


@pytest.fixture(scope="module")
def signer() -> ManifestSigner:
    return ManifestSigner.self_made()


def claim(offset: int) -> dict[str, Any]:
    return {
        "tick": {"topic": "slot.ticks", "partition": 3, "offset": offset},
        "channel": "main",
        "slot_id": offset,
        "recipe_sha256": f"{offset:064x}",
        "media_sha256": f"{offset + 1:064x}",
        "seed": offset,
    }


def signed_slot(directory: Path, offset: int, signer: ManifestSigner) -> Signed:
    media = encoded(directory / f"{offset}.mp4", words(f"This is slot number {offset}."), 3.0)
    return signer.sign(media, claim(offset))


def outcome_of(signed: Signed, offset: int) -> SlotComplete:
    example = example_events()["slot-complete"]
    assert isinstance(example, SlotComplete)
    assert example.provenance is not None
    return example.model_copy(
        update={
            "source": example.source.model_copy(update={"offset": offset}),
            "seed": offset,
            "artifact": example.artifact.model_copy(update={"sha256": signed.media.sha256}),
            "provenance": example.provenance.model_copy(
                update={
                    "recipe_sha256": f"{offset:064x}",
                    "media_sha256": f"{offset + 1:064x}",
                    "manifest_sha256": signed.manifest_sha256,
                }
            ),
        }
    )


def boxes(content: bytes) -> Iterator[tuple[str, int, int]]:
    at = 0
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        yield kind.decode(), at, at + size
        at += size


def parts(content: bytes) -> dict[str, bytes]:
    return {kind: content[start:end] for kind, start, end in boxes(content)}


def problems(path: Path, content: bytes, outcome: SlotComplete | None = None) -> str:
    path.write_bytes(content)
    return "\n".join(inspect_file(path, outcome=outcome).problems)


def flipped(content: bytes, at: int, mask: int = 0x01) -> bytes:
    return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]


def check_slots(tmp_path: Path, signer: ManifestSigner, count: int) -> None:
    chosen = random.Random(7)
    other = signed_slot(tmp_path, 10_000, signer).media.path.read_bytes()
    broken = tmp_path / "broken.mp4"
    for offset in range(count):
        signed = signed_slot(tmp_path, offset, signer)
        whole = signed.media.path.read_bytes()
        outcome = outcome_of(signed, offset)
        assert inspect_file(signed.media.path, outcome=outcome).problems == []
        for kind, start, end in boxes(whole):
            if kind in ("moov", "mdat"):
                at = chosen.randrange(start + 8, end)
                assert ALTERED in problems(broken, flipped(whole, at)), (kind, at)
            if kind == "uuid":
                for _ in range(5):
                    at, mask = chosen.randrange(start, end), chosen.randrange(1, 256)
                    assert problems(broken, flipped(whole, at, mask), outcome), (at, mask)
        pieces, foreign = parts(whole), parts(other)
        stripped = b"".join(part for kind, part in pieces.items() if kind != "uuid")
        assert "no content credentials" in problems(broken, stripped)
        moved = b"".join({**pieces, "uuid": foreign["uuid"]}.values())
        assert "manifest is that of another file" in problems(broken, moved)
        assert "manifest is that of another slot: of the tick slot.ticks/3@10000" in problems(
            broken, moved, outcome
        )
        again = ManifestSigner.self_made().sign(
            encoded(tmp_path / "again.mp4", words(f"This is slot number {offset}."), 3.0),
            claim(offset),
        )
        swapped = again.media.path.read_bytes()
        assert problems(broken, swapped) == ""
        assert "the manifest was swapped" in problems(broken, swapped, outcome)


def test_every_alteration_is_found_and_named(tmp_path: Path, signer: ManifestSigner) -> None:
    check_slots(tmp_path, signer, count=3)


def test_altered_names_within_the_manifest_are_told_and_do_not_stop_the_inspection(
    tmp_path: Path, signer: ManifestSigner
) -> None:
    signed = signed_slot(tmp_path, 5, signer)
    whole, broken = signed.media.path.read_bytes(), tmp_path / "broken.mp4"
    for name in (b"urn:c2pa:", b"claim_generator", b"org.vortex-slots.slot"):
        places = [found.start() for found in re.finditer(re.escape(name), whole)]
        assert places, name
        for at in places:
            for offset in (1, len(name) - 2, len(name) + 5):
                told = problems(broken, flipped(whole, at + offset), outcome_of(signed, 5))
                assert ALTERED in told, (name, at, offset)


@pytest.mark.parametrize("told", ["a slot", [1, 2], ["tick"]])
def test_claim_of_another_kind_is_told_and_does_not_stop_the_inspection(
    tmp_path: Path, signer: ManifestSigner, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    def read(text: str) -> Any:
        store = json.loads(text)
        for assertion in store["manifests"][store["active_manifest"]]["assertions"]:
            if assertion["label"] == SLOT_ASSERTION:
                assertion["data"] = told
        return store

    signed = signed_slot(tmp_path, 5, signer)
    monkeypatch.setattr("consumer.artifacts.inspection.json", SimpleNamespace(loads=read))
    found = inspect_file(signed.media.path, outcome=outcome_of(signed, 5))
    assert "the manifest was altered: parts that it needs are not there" in found.problems


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_alteration_of_a_hundred_slots_is_found(
    tmp_path: Path, signer: ManifestSigner
) -> None:
    check_slots(tmp_path, signer, count=100)


def test_credentials_say_what_made_the_video_and_for_which_tick(
    tmp_path: Path, signer: ManifestSigner
) -> None:
    found = inspect_file(signed_slot(tmp_path, 42, signer).media.path)
    assert found.claim == claim(42)
    assert found.generator is not None
    assert found.generator.startswith("vortex-slots ")
    assert found.signer is not None
    assert "self-made, not trusted" in found.signer
    assert not found.trusted


def test_proof_of_another_recipe_seed_or_output_is_named(
    tmp_path: Path, signer: ManifestSigner
) -> None:
    signed = signed_slot(tmp_path, 5, signer)
    outcome = outcome_of(signed, 5)
    assert outcome.provenance is not None
    other = outcome.provenance.model_copy(
        update={"recipe_sha256": "a" * 64, "media_sha256": "b" * 64}
    )
    told = outcome.model_copy(update={"provenance": other, "seed": 6})
    assert inspect_file(signed.media.path, outcome=told).problems == [
        "the manifest is that of another recipe than the outcome's",
        "the manifest names another seed, 5, than the outcome, 6",
        "the manifest names another checksum of the unsigned file than the outcome",
    ]


def test_signer_is_trusted_only_by_its_own_authority(tmp_path: Path) -> None:
    chain, key = self_made_chain()
    signed = signed_slot(tmp_path, 1, ManifestSigner(chain, key))
    own, other = tmp_path / "own.pem", tmp_path / "other.pem"
    own.write_bytes(chain[1].public_bytes(Encoding.PEM))
    other.write_bytes(self_made_chain()[0][1].public_bytes(Encoding.PEM))
    assert inspect_file(signed.media.path, authorities=own).trusted
    assert "not trusted" in inspect_file(signed.media.path, authorities=other).problems[0]


def test_signing_leaves_what_is_decoded_as_it_is(tmp_path: Path, signer: ManifestSigner) -> None:
    plain = encoded(tmp_path / "plain.mp4", words("Good evening."), 2.0)
    signed = signer.sign(encoded(tmp_path / "signed.mp4", words("Good evening."), 2.0), claim(1))
    assert signed.media.sha256 != plain.sha256
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["plain.mp4", "signed.mp4"]
    contents = []
    for path in (plain.path, signed.media.path):
        with av.open(str(path)) as container:
            contents.append(np.stack([f.to_ndarray() for f in container.decode(video=0)]))
    assert np.array_equal(*contents)


def write_pair(directory: Path, until: datetime | None = None) -> tuple[Path, Path]:
    chain, key = self_made_chain(until)
    cert_file, key_file = directory / "chain.pem", directory / "slots.key"
    cert_file.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert_file, key_file


def test_key_and_chain_from_files_sign(tmp_path: Path) -> None:
    signed = signed_slot(tmp_path, 1, ManifestSigner.load(*write_pair(tmp_path)))
    assert inspect_file(signed.media.path).problems == []


@pytest.mark.parametrize("wrong", ["missing", "expired", "of another", "no PEM", "Ed25519"])
def test_wrong_key_is_one_line_that_names_the_file(tmp_path: Path, wrong: str) -> None:
    until = datetime.now(UTC) - timedelta(hours=1) if wrong == "expired" else None
    cert_file, key_file = write_pair(tmp_path, until)
    if wrong == "missing":
        key_file.unlink()
    elif wrong == "of another":
        (tmp_path / "other").mkdir()
        key_file = write_pair(tmp_path / "other")[1]
    elif wrong == "no PEM":
        cert_file.write_text("nothing")
    elif wrong == "Ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    expected = {
        "missing": r"key_file .*slots\.key cannot be read: No such file",
        "expired": r"cert_file: the certificate is valid from .*; renew it",
        "of another": r"key_file .* is not the key of the first certificate",
        "no PEM": r"cert_file .*chain\.pem must be a PEM file",
        "Ed25519": r"key_file .* curve P-256",
    }
    with pytest.raises(CredentialsError, match=expected[wrong]) as caught:
        ManifestSigner.load(cert_file, key_file)
    assert "\n" not in str(caught.value)


def test_certificate_that_ends_while_the_worker_runs_signs_no_more(tmp_path: Path) -> None:
    chain, key = self_made_chain(datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(CredentialsError, match="renew it"):
        signed_slot(tmp_path, 1, ManifestSigner(chain, key))
