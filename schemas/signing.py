"""Signed ticks: Ed25519 over the bytes of a record's value, in the header `vortex-signature`.

Needs the package `cryptography` (the extra `signing`); nothing else of `schemas` does. Keys are PEM
files, as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them.

A producer:

    signer = TickSigner.load(Path("producer.key"))
    producer.send(topic, value, headers=[signer.header(value)])
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

HEADER = "vortex-signature"
MAX_SIGNATURES = 4
"""So many headers of a record are looked at: one for each key, while keys are being replaced."""

_CONTEXT = b"vortex-tick-v1\n"
"""Precedes the value, so that a signature made for another purpose proves nothing here."""


class SigningKeyError(ValueError):
    """A key file cannot be used; the message names it, and not what is in it."""


class BadSignatureError(ValueError):
    """A value is not signed by a trusted key; the message says what is wrong."""


def key_id(key: Ed25519PublicKey) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the raw public key."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


class TickSigner:
    """Signs the values of ticks with one private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = key_id(key.public_key())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a private key without a password.

        Raises:
            SigningKeyError: the file cannot be read, or holds no such key.
        """
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise SigningKeyError(f"{path} cannot be read: {error.strerror}") from error
        except (TypeError, ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise SigningKeyError(
                f"{path} must be a PEM file with an Ed25519 private key without a password"
            )
        return cls(key)

    def header(self, value: bytes) -> tuple[str, bytes]:
        """Return the header that goes along with a value, exactly as it is sent."""
        signature = base64.b64encode(self._key.sign(_CONTEXT + value))
        return HEADER, f"ed25519 {self.key_id} {signature.decode()}".encode()


class TrustedKeys:
    """The public keys of those whose ticks are accepted."""

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        self._keys = {key_id(key): key for key in keys}

    @classmethod
    def load(cls, paths: Iterable[Path]) -> Self:
        """Read public keys, one from each file.

        Raises:
            SigningKeyError: a file cannot be read, or holds no such key.
        """
        return cls(_load_public(path) for path in paths)

    def check(self, value: bytes, headers: Iterable[tuple[str, bytes | None]]) -> None:
        """Return if a trusted key has signed the value.

        Raises:
            BadSignatureError: none has.
        """
        signatures = [content or b"" for name, content in headers if name == HEADER]
        if not signatures:
            raise BadSignatureError(f"the tick is not signed: it has no header {HEADER}")
        problems = []
        for signature in signatures[:MAX_SIGNATURES]:
            try:
                self._check_one(value, signature)
            except BadSignatureError as error:
                problems.append(str(error))
            else:
                return
        raise BadSignatureError(problems[0])

    def _check_one(self, value: bytes, header: bytes) -> None:
        try:
            algorithm, name, encoded = header.decode("ascii").split(" ")
            signature = base64.b64decode(encoded, validate=True)
        except ValueError:
            algorithm, name, signature = "", "", b""
        if algorithm != "ed25519" or len(signature) != 64:
            raise BadSignatureError(f"header {HEADER} must be 'ed25519 KEY-ID BASE64'")
        key = self._keys.get(name)
        if key is None:
            raise BadSignatureError(f"the tick is signed by the key {name[:16]!r}: not trusted")
        try:
            key.verify(signature, _CONTEXT + value)
        except InvalidSignature:
            raise BadSignatureError(
                f"the signature by the key {name} does not fit: the value is not what was signed"
            ) from None


def _load_public(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SigningKeyError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SigningKeyError(f"{path} must be a PEM file with an Ed25519 public key")
    return key
