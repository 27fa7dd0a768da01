"""Why a broker that is there does not let us in: which key of the configuration to look at."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    KafkaConnectionError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

_CONNECTION_ENDS = (
    ssl.SSLEOFError,
    ssl.SSLSyscallError,
    ssl.SSLZeroReturnError,
    ConnectionResetError,
    BrokenPipeError,
    EOFError,
)
"""How a connection ends that the broker has closed, as one does that stops or restarts."""

_CERTIFICATE_ALERTS = (
    "ALERT_BAD_CERTIFICATE",
    "CERTIFICATE_REQUIRED",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "ALERT_UNKNOWN_CA",
    "ALERT_ACCESS_DENIED",
)
_HOSTNAME_MISMATCH = 62  # X509_V_ERR_HOSTNAME_MISMATCH
_IP_MISMATCH = 64  # X509_V_ERR_IP_ADDRESS_MISMATCH


class TokenRefusedError(SaslAuthenticationFailed):  # type: ignore[misc] # aiokafka ships no types
    """The bearer token cannot be used, or the broker does not accept it."""


@dataclass(frozen=True)
class Refusal:
    """What a broker did, and what to do about it."""

    what: str
    advice: str
    permanent: bool = True
    """Whether trying again cannot help."""


_LOGIN = Refusal(
    "Kafka refuses the login",
    "check kafka.security.username and password_file",
)
_TOKEN = Refusal(
    "Kafka refuses the login",
    "renew the file of kafka.security.token_file, with a token that the brokers accept",
)
_MECHANISM = Refusal(
    "Kafka does not offer this kind of login",
    "set kafka.security.sasl_mechanism to one that this listener has enabled",
)
_NO_SASL = Refusal(
    "Kafka expects no login on this listener",
    "set kafka.security.protocol to SSL or PLAINTEXT, or kafka.bootstrap_servers to another one",
)
_OUR_CERTIFICATE = Refusal(
    "Kafka requires a client certificate, or refuses ours",
    "set kafka.security.cert_file and key_file to one that has not expired, and that an authority"
    " signed which the brokers trust",
)
_THEIR_NAME = Refusal(
    "Kafka's certificate is for another host",
    "set kafka.bootstrap_servers to a name in the certificate",
)
_THEIR_CERTIFICATE = Refusal(
    "Kafka's certificate is not trusted",
    "set kafka.security.ca_file to the certificate of the authority that signed it",
)
_NO_TLS = Refusal(
    "Kafka speaks no TLS on this listener",
    "set kafka.security.protocol to PLAINTEXT or SASL_PLAINTEXT, or kafka.bootstrap_servers to"
    " another listener",
)
_CLOSED = Refusal(
    "Kafka closes the connection",
    "does kafka.security.protocol fit this listener (TLS, login), and is the broker well?",
    permanent=False,
)


def explain(errors: Iterable[object]) -> tuple[Refusal, BaseException] | None:
    """Return what the errors of a failed connection come down to, and the one that tells it."""
    found = [
        (refusal, cause)
        for error in errors
        for cause in _chain(error)
        if (refusal := _one(cause)) is not None
    ]
    # A connection that ends is the least that one can know.
    return next((each for each in found if each[0].permanent), found[0] if found else None)


def _one(error: BaseException) -> Refusal | None:
    match error:
        case TokenRefusedError():
            return _TOKEN
        case SaslAuthenticationFailed() | AuthenticationFailedError():
            return _LOGIN
        case UnsupportedSaslMechanismError() | AuthenticationMethodNotSupported():
            return _MECHANISM
        case IllegalSaslStateError():
            return _NO_SASL
        case ssl.SSLCertVerificationError():
            wrong_name = getattr(error, "verify_code", 0) in (_HOSTNAME_MISMATCH, _IP_MISMATCH)
            return _THEIR_NAME if wrong_name else _THEIR_CERTIFICATE
        case _ if isinstance(error, _CONNECTION_ENDS):
            return _CLOSED
        case ssl.SSLError():
            ours = any(alert in (error.reason or "") for alert in _CERTIFICATE_ALERTS)
            return _OUR_CERTIFICATE if ours else _NO_TLS
        case KafkaConnectionError() if str(error).endswith(" closed"):
            return _CLOSED
    return None


def _chain(error: object) -> Iterator[BaseException]:
    """Yield an error and what caused it; aiokafka hides the cause of a closed connection there."""
    while isinstance(error, BaseException):
        yield error
        error = error.__cause__
