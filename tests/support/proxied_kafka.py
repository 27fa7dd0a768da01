"""A real Kafka whose clients come through a proxy in front of each broker."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from consumer.embedded_kafka.cluster import HOST, EmbeddedKafka, Node, Settings, free_ports
from tests.support.proxy import BrokerProxy


class ProxiedKafka:
    """An embedded Kafka of `nodes` nodes, and a proxy for each; both are started separately.

    `kafka` is a context of its own; this one, asynchronous, is open while the proxies are. The
    brokers advertise their proxies' ports to those who come by `bootstrap_servers`, and their own
    to those who come by `kafka.bootstrap_servers`. `settings` are further broker settings.
    """

    def __init__(self, nodes: int = 1, settings: Settings | None = None) -> None:
        ports = free_ports(2 * nodes)
        self._broker_ports, proxy_ports = ports[:nodes], ports[nodes:]
        self.proxies = [
            BrokerProxy(port, broker_port)
            for port, broker_port in zip(proxy_ports, self._broker_ports, strict=True)
        ]
        self._settings = settings or {}
        self.kafka = EmbeddedKafka(nodes, settings=self._listeners)
        self._open = AsyncExitStack()

    @property
    def bootstrap_servers(self) -> str:
        """The addresses of all proxies."""
        return ",".join(proxy.address for proxy in self.proxies)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            for proxy in self.proxies:
                await opening.enter_async_context(proxy)
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    def _listeners(self, node: Node) -> dict[str, object]:
        behind = f"PROXIED://{HOST}:{self._broker_ports[node.node_id]}"
        advertised = f"PROXIED://{self.proxies[node.node_id].address}"
        return {
            **self._settings,
            "listeners": f"CLIENT://{node.address},{behind},CONTROLLER://{node.controller_address}",
            "advertised.listeners": f"CLIENT://{node.address},{advertised}",
            "listener.security.protocol.map": ",".join(
                f"{name}:PLAINTEXT" for name in ("CLIENT", "PROXIED", "CONTROLLER")
            ),
        }
