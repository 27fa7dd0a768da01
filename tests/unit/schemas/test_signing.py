from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from schemas.signing import HEADER, BadSignatureError, SigningKeyError, TickSigner, TrustedKeys
from tests.support.signing_keys import KeyFiles, new_key, trusting

VALUE = b'{"slot_id":1,"channel":"main"}'


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> KeyFiles:
    return new_key(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> KeyFiles:
    return new_key(tmp_path_factory.mktemp("keys"), "other")


def refusal(keys: TrustedKeys, value: bytes, *headers: tuple[str, bytes]) -> str:
    with pytest.raises(BadSignatureError) as refused:
        keys.check(value, headers)
    return str(refused.value)


def test_signed_value_is_accepted(ours: KeyFiles) -> None:
    trusting(ours).check(VALUE, [("other", b"x"), ours.signer.header(VALUE)])


@given(at=st.integers(0, len(VALUE) - 1), flip=st.integers(1, 255))
def test_value_with_any_byte_changed_is_refused(at: int, flip: int, ours: KeyFiles) -> None:
    tampered = VALUE[:at] + bytes([VALUE[at] ^ flip]) + VALUE[at + 1 :]
    said = refusal(trusting(ours), tampered, ours.signer.header(VALUE))
    assert "not what was signed" in said


@pytest.mark.parametrize("tampered", [VALUE + b" ", VALUE[:-1], b"", b" " + VALUE])
def test_longer_or_shorter_value_is_refused(tampered: bytes, ours: KeyFiles) -> None:
    """JSON that means the same is still not what was signed."""
    assert "not what was signed" in refusal(trusting(ours), tampered, ours.signer.header(VALUE))


def test_unsigned_value_is_refused(ours: KeyFiles) -> None:
    assert refusal(trusting(ours), VALUE) == f"the tick is not signed: it has no header {HEADER}"


def test_key_that_is_not_trusted_is_refused_by_its_id(ours: KeyFiles, other: KeyFiles) -> None:
    said = refusal(trusting(ours), VALUE, other.signer.header(VALUE))
    assert said == f"the tick is signed by the key '{other.signer.key_id}': not trusted"


def test_foreign_signature_under_a_trusted_name_is_refused(ours: KeyFiles, other: KeyFiles) -> None:
    name, header = other.signer.header(VALUE)
    forged = header.replace(other.signer.key_id.encode(), ours.signer.key_id.encode())
    assert "not what was signed" in refusal(trusting(ours), VALUE, (name, forged))


def test_signature_of_the_value_alone_is_refused(ours: KeyFiles) -> None:
    """One that its key made for another purpose."""
    import base64

    bare = base64.b64encode(ours.signer._key.sign(VALUE)).decode()
    header = f"ed25519 {ours.signer.key_id} {bare}".encode()
    assert "not what was signed" in refusal(trusting(ours), VALUE, (HEADER, header))


def test_old_and_new_key_are_accepted_while_keys_are_replaced(
    ours: KeyFiles, other: KeyFiles
) -> None:
    both = trusting(ours, other)
    both.check(VALUE, [ours.signer.header(VALUE)])
    both.check(VALUE, [other.signer.header(VALUE)])
    # A producer that signs with both is accepted by who knows one of them.
    trusting(other).check(VALUE, [ours.signer.header(VALUE), other.signer.header(VALUE)])
    refusal(trusting(other), VALUE, ours.signer.header(VALUE))


@given(header=st.binary(max_size=200))
def test_any_other_header_is_refused_in_one_line(header: bytes, ours: KeyFiles) -> None:
    said = refusal(trusting(ours), VALUE, (HEADER, header))
    assert said.isprintable()
    assert len(said) < 200


def test_only_a_few_signatures_are_looked_at(ours: KeyFiles) -> None:
    wrong = [(HEADER, b"x")] * 4
    refusal(trusting(ours), VALUE, *wrong, ours.signer.header(VALUE))


def test_keys_that_openssl_makes_are_read(tmp_path: Path) -> None:
    private, public = tmp_path / "a.key", tmp_path / "a.pub"
    for command in (
        ("openssl", "genpkey", "-algorithm", "ed25519", "-out", private),
        ("openssl", "pkey", "-in", private, "-pubout", "-out", public),
    ):
        subprocess.run(command, check=True, capture_output=True)
    trusting(KeyFiles(private, public)).check(VALUE, [TickSigner.load(private).header(VALUE)])


def test_file_that_is_no_such_key_is_named_without_its_content(
    tmp_path: Path, ours: KeyFiles
) -> None:
    missing, text, elliptic = (tmp_path / name for name in ("missing", "text", "elliptic"))
    text.write_text("hunter2", encoding="utf-8")
    elliptic.write_bytes(
        generate_private_key(SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for path in (missing, text, elliptic, ours.private):
        with pytest.raises(SigningKeyError, match=str(path)) as refused:
            TrustedKeys.load([path])
        assert "hunter2" not in str(refused.value)
    for path in (missing, text, ours.public):
        with pytest.raises(SigningKeyError, match=str(path)):
            TickSigner.load(path)
