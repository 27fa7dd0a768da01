"""Certificates made for one test session: an authority, a broker, and clients good and bad."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, in PEM files."""

    cert_file: Path
    key_file: Path


class Authority:
    """Signs certificates; everything lies in one directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._ca = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca_file))

    def issue(self, name: str, host: str = "127.0.0.1", expired: bool = False) -> Identity:
        """Return a certificate with this common name, valid for a host."""
        now = datetime.now(UTC)
        end = now - timedelta(hours=1) if expired else now + timedelta(days=1)
        issued = self._ca.issue_cert(
            host, common_name=name, not_before=now - timedelta(days=2), not_after=end
        )
        cert_file = self._directory / f"{name}.pem"
        key_file = self._directory / f"{name}.key"
        cert_file.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        # Java reads private keys as PKCS 8 alone.
        key = load_pem_private_key(issued.private_key_pem.bytes(), password=None)
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Identity(cert_file, key_file)
