"""Ed25519 keys in PEM files, as a producer and a worker hold them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from schemas.signing import TickSigner, TrustedKeys


class KeyFiles(NamedTuple):
    """A private key and its public one."""

    private: Path
    public: Path

    @property
    def signer(self) -> TickSigner:
        """The private key."""
        return TickSigner.load(self.private)


def new_key(directory: Path, name: str) -> KeyFiles:
    """Write a new key pair."""
    key = Ed25519PrivateKey.generate()
    files = KeyFiles(directory / f"{name}.key", directory / f"{name}.pub")
    files.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    files.public.write_bytes(public)
    return files


def trusting(*keys: KeyFiles) -> TrustedKeys:
    """Return what accepts the ticks of these keys."""
    return TrustedKeys.load(key.public for key in keys)
