"""Content credentials (C2PA): a signed manifest says what made a video, and for which tick."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import c2pa
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from consumer.artifacts.errors import ArtifactError
from consumer.artifacts.media import EncodedMedia
from consumer.artifacts.self_made import self_made_chain
from vortex.errors import one_line
from vortex.utils.files import sha256_of

SLOT_ASSERTION = "org.vortex-slots.slot"
"""Label of the assertion that binds a file to its tick."""
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
MP4 = "video/mp4"
_TEMPORARY_SUFFIX = ".part.mp4"  # what the store sweeps up

logger = logging.getLogger(__name__)


class CredentialsError(ArtifactError):
    """Certificate or key cannot be used; one line that names the file and what to do."""


@dataclass(frozen=True)
class Signed:
    """A file with its credentials inside."""

    media: EncodedMedia
    manifest_sha256: str
    """Of the manifest's bytes as they are in the file."""


class ManifestSigner:
    """Signs videos with one ES256 key; nothing is asked of a network."""

    def __init__(self, chain: list[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> None:
        self._leaf = chain[0]
        self._info = c2pa.C2paSignerInfo(
            alg=b"es256",
            sign_cert=b"".join(each.public_bytes(Encoding.PEM) for each in chain),
            private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            ta_url=None,  # an empty one would be an authority that cannot be reached
        )

    @classmethod
    def self_made(cls) -> Self:
        """Use a chain that is made now, which nobody has a reason to trust, and says so."""
        logger.warning(
            "Videos are signed by a certificate of this worker's own making, which nobody trusts;"
            " set artifacts.credentials.cert_file and key_file"
        )
        return cls(*self_made_chain())

    @classmethod
    def load(cls, cert_file: Path, key_file: Path) -> Self:
        """Read a PEM chain, leaf first, and the leaf's private key.

        Raises:
            CredentialsError: one cannot be read or used, they do not fit, or the time is over.
        """
        chain = _chain(cert_file)
        key = _key(key_file)
        if key.public_key() != chain[0].public_key():
            raise CredentialsError(
                f"artifacts.credentials.key_file {key_file} is not the key of the first"
                f" certificate in cert_file {cert_file}"
            )
        signer = cls(chain, key)
        signer.check_validity()
        signer._check_usable(cert_file)
        return signer

    def check_validity(self) -> None:
        """Return if the certificate is valid now.

        Raises:
            CredentialsError: it is not.
        """
        start, end = self._leaf.not_valid_before_utc, self._leaf.not_valid_after_utc
        if not start <= datetime.now(UTC) <= end:
            raise CredentialsError(
                "artifacts.credentials.cert_file: the certificate is valid from"
                f" {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, and not now; renew it"
            )

    def _check_usable(self, cert_file: Path) -> None:
        try:
            c2pa.Signer.from_info(self._info).close()
        except c2pa.C2paError as error:
            raise CredentialsError(
                f"artifacts.credentials.cert_file {cert_file} cannot sign: {one_line(error)}"
            ) from error

    def sign(self, media: EncodedMedia, claim: dict[str, Any]) -> Signed:
        """Put a signed manifest into the file; what a viewer decodes stays as it is. Blocks.

        Args:
            media: the finished file, which is replaced.
            claim: what the file is bound to, as JSON.

        Raises:
            CredentialsError: it cannot be signed; the file is as it was.
        """
        self.check_validity()
        signed = media.path.with_name(f".{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}")
        try:
            with (
                c2pa.Signer.from_info(self._info) as signer,
                c2pa.Builder(_manifest(claim)) as builder,
                media.path.open("rb") as source,
                signed.open("w+b") as target,
            ):
                manifest = builder.sign(signer, MP4, source, target)
            signed.replace(media.path)
        except (c2pa.C2paError, OSError) as error:
            raise CredentialsError(f"the video cannot be signed: {one_line(error)}") from error
        finally:
            signed.unlink(missing_ok=True)
        whole = replace(media, bytes=media.path.stat().st_size, sha256=sha256_of(media.path))
        return Signed(whole, hashlib.sha256(manifest).hexdigest())


def _manifest(claim: dict[str, Any]) -> dict[str, Any]:
    version = importlib.metadata.version("vortex-slots")
    created = {"action": "c2pa.created", "digitalSourceType": GENERATED}
    return {
        "claim_generator_info": [{"name": "vortex-slots", "version": version}],
        "title": f"{claim['channel']}/{claim['slot_id']}",
        "format": MP4,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": SLOT_ASSERTION, "data": claim},
        ],
    }


def _chain(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except ValueError:
        reason = "must be a PEM file with a certificate, and those that issued it after it"
    raise CredentialsError(f"artifacts.credentials.cert_file {path} {reason}")


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise CredentialsError(
            f"artifacts.credentials.key_file {path} cannot be read: {error.strerror}"
        ) from error
    except (TypeError, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CredentialsError(
            f"artifacts.credentials.key_file {path} must be a PEM file with a private key on the"
            " curve P-256 (ES256), without a password"
        )
    return key
