"""Who we are to the brokers, and how we know them: the only place that makes a client's secrets.

Secrets come from mounted files, or the password from the configuration itself. Messages name the
key and the file, never what is in it.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from pathlib import Path
from typing import Any

import aiokafka.conn
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import OAuthAuthenticator

from consumer.config import SecurityConfig
from consumer.kafka.refusals import TokenRefusedError
from vortex.config import ConfigError

MAX_SECRET_BYTES = 64 * 1024


def security_arguments(security: SecurityConfig) -> dict[str, Any]:
    """Return the arguments about security that every client of aiokafka takes.

    Raises:
        ConfigError: a file cannot be used; one line with its key.
    """
    arguments: dict[str, Any] = {"security_protocol": security.protocol}
    if security.encrypted:
        arguments["ssl_context"] = _ssl_context(security)
    if not security.uses_sasl:
        return arguments
    arguments["sasl_mechanism"] = security.sasl_mechanism
    if security.token_file is not None:
        read_secret("token_file", security.token_file)  # what is wrong now shows at the start
        aiokafka.conn.OAuthAuthenticator = _Authenticator
        return arguments | {"sasl_oauth_token_provider": TokenFile(security.token_file)}
    password = security.password.get_secret_value() if security.password else ""
    if security.password_file is not None:
        password = read_secret("password_file", security.password_file)
    return arguments | {
        "sasl_plain_username": security.username,
        "sasl_plain_password": password,
    }


def read_secret(key: str, path: Path) -> str:
    """Return the text of a mounted secret without the end of its last line.

    Raises:
        ConfigError: it cannot be read, or is not one line.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_SECRET_BYTES + 1).rstrip("\r\n")
    except OSError as error:
        raise ConfigError(
            f"kafka.security.{key}: {path} cannot be read: {error.strerror}; mount the secret"
            " there, readable for this user"
        ) from error
    except UnicodeDecodeError:
        raise ConfigError(f"kafka.security.{key}: {path} is not UTF-8 text") from None
    if not text or len(text) > MAX_SECRET_BYTES or not text.isprintable():
        raise ConfigError(f"kafka.security.{key}: {path} must hold one line, the secret alone")
    return text


class TokenFile(AbstractTokenProvider):  # type: ignore[misc] # aiokafka ships no types
    """Gives the bearer token of a file, which is read for every connection: tokens rotate."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """Return the token.

        Raises:
            TokenRefusedError: the file cannot be read, or its token has expired. Of this
                error a client makes a failed connection, and tries again.
        """
        try:
            token = read_secret("token_file", self._path)
        except ConfigError as error:
            raise TokenRefusedError(str(error)) from None
        expires_s = _expiry_s(token)
        if expires_s is not None and expires_s <= time.time():
            raise TokenRefusedError(
                f"the token in {self._path} expired {time.time() - expires_s:.0f} s ago"
            )
        return token


class _Authenticator(OAuthAuthenticator):  # type: ignore[misc] # aiokafka ships no types
    """Notices that a broker refuses a token; aiokafka 0.14 takes every answer for a welcome."""

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        """Return what to send next, None at the end."""
        if payload:  # RFC 7628: a server says in JSON why it refuses, and nothing if it does not
            reason = payload.decode(errors="replace")[:200]
            raise TokenRefusedError(f"the broker refuses the token: {reason}")
        step: tuple[bytes, bool] | None = await super().step(payload)
        return step


def _expiry_s(token: str) -> float | None:
    """Return when a token expires, in seconds since the epoch; None for one that does not say."""
    try:
        claims = token.split(".")[1]
        content = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        return float(content["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def _ssl_context(security: SecurityConfig) -> ssl.SSLContext:
    ca_file = security.ca_file
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:
        raise ConfigError(
            f"kafka.security.ca_file: {ca_file} cannot be used: {error.strerror or error};"
            " it must be a PEM file with certificates"
        ) from error
    if security.cert_file is not None:
        _add_certificate(context, security)
    return context


def _add_certificate(context: ssl.SSLContext, security: SecurityConfig) -> None:
    cert_file, key_file = security.cert_file, security.key_file
    for key, path in (("cert_file", cert_file), ("key_file", key_file)):
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            raise ConfigError(
                f"kafka.security.{key}: {path} cannot be read: {error.strerror}; mount the file"
                " there, readable for this user"
            ) from error
    password = ""  # OpenSSL would ask for one on the terminal
    if security.key_password_file is not None:
        password = read_secret("key_password_file", security.key_password_file)
    try:
        context.load_cert_chain(str(cert_file), str(key_file), password=password)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"kafka.security.cert_file: {cert_file} cannot be used with key_file {key_file}:"
            f" {getattr(error, 'reason', None) or error}; both must be PEM files that belong"
            " together, and an encrypted key needs key_password_file"
        ) from error
