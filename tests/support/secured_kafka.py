"""A real Kafka with every kind of listener that a worker may log in at, and its access lists."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consumer.config import KafkaConfig
from consumer.embedded_kafka.cluster import EmbeddedKafka, Security
from tests.support.certificates import Authority, Identity

PASSWORD = "correct-horse-battery"
ADMIN = "admin"
"""May do everything; all others need access lists."""
USERS = ("worker", "producer", "watcher", "operator", "narrow")
REAUTHENTICATE_MS = 3000

_LOGIN = "org.apache.kafka.common.security"


@dataclass(frozen=True)
class SecuredKafka:
    """The running cluster, and what its clients need."""

    cluster: EmbeddedKafka
    authority: Authority
    client: Identity
    directory: Path

    def config(self, kafka: KafkaConfig, listener: str, **changes: Any) -> KafkaConfig:
        """Return a worker's configuration for a listener, right for it but for the changes."""
        servers = changes.pop("bootstrap_servers", None) or self.cluster.secured(listener)
        security = {**self.login(listener), **changes}
        return KafkaConfig.model_validate(
            kafka.model_dump() | {"bootstrap_servers": servers, "security": security}
        )

    def login(self, listener: str) -> dict[str, Any]:
        """Return the whole `kafka.security` with which a listener lets the administrator in."""
        nothing = dict.fromkeys(
            ("username", "password", "password_file", "token_file", "key_password_file")
        )
        common = {**nothing, "sasl_mechanism": "PLAIN", "ca_file": self.authority.ca_file}
        common |= {"cert_file": None, "key_file": None, "protocol": "SASL_SSL"}
        match listener:
            case "MUTUAL":
                return common | {
                    "protocol": "SSL",
                    "cert_file": self.client.cert_file,
                    "key_file": self.client.key_file,
                }
            case "OAUTH":
                token_file = self.secret("token", token(ADMIN))
                return common | {"sasl_mechanism": "OAUTHBEARER", "token_file": token_file}
            case _:
                return common | {
                    "sasl_mechanism": "PLAIN" if listener == "PLAIN" else "SCRAM-SHA-512",
                    "username": ADMIN,
                    "password_file": self.secret("password", PASSWORD),
                }

    def secret(self, name: str, text: str) -> Path:
        """Write a secret to a file, as a mounted one looks, and return its path."""
        path = self.directory / name
        partial = path.with_suffix(".partial")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
        return path


def token(subject: str, lifetime_s: float = 3600.0) -> str:
    """Return an unsecured token (RFC 7515, algorithm none), which this cluster accepts."""
    now = time.time()
    parts = ({"alg": "none"}, {"sub": subject, "iat": now, "exp": now + lifetime_s})
    encoded = (base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in parts)
    return b".".join(encoded).decode() + "."


@contextmanager
def secured_kafka(directory: Path) -> Iterator[SecuredKafka]:
    """Run a node with listeners for mutual TLS, SCRAM, PLAIN and OAUTHBEARER, all over TLS.

    Its open listener stays, for whoever sets up a test; nobody is its superuser.
    """
    authority = Authority(directory / "certificates")
    broker = authority.issue("broker")
    client = authority.issue(ADMIN)
    keystore = directory / "broker.pem"
    keystore.write_bytes(broker.key_file.read_bytes() + broker.cert_file.read_bytes())
    security = Security(
        listeners={
            "MUTUAL": "SSL",
            "SCRAM": "SASL_SSL",
            "PLAIN": "SASL_SSL",
            "OAUTH": "SASL_SSL",
            "OPENSCRAM": "SASL_PLAINTEXT",
        },
        settings=_settings(keystore, authority.ca_file),
        scram_users=dict.fromkeys((ADMIN, *USERS), PASSWORD),
    )
    with EmbeddedKafka(security=security) as cluster:
        yield SecuredKafka(cluster, authority, client, directory)


def _settings(keystore: Path, ca_file: Path) -> Mapping[str, object]:
    scram = f"{_LOGIN}.scram.ScramLoginModule required;"
    plain = f'{_LOGIN}.plain.PlainLoginModule required user_{ADMIN}="{PASSWORD}";'
    oauth = (
        f"{_LOGIN}.oauthbearer.OAuthBearerLoginModule required"
        ' unsecuredLoginStringClaim_sub="broker";'
    )
    return {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # The open listener's clients, the node itself among them, are called ANONYMOUS.
        "super.users": f"User:ANONYMOUS;User:{ADMIN}",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": keystore,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": ca_file,
        "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.scram.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.openscram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.openscram.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.plain.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.plain.plain.sasl.jaas.config": plain,
        "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.oauth.oauthbearer.sasl.jaas.config": oauth,
        "listener.name.oauth.oauthbearer.connections.max.reauth.ms": REAUTHENTICATE_MS,
    }
