"""
Simulator, Apple: the server of one environment.

After ``stop`` no port, connection or delayed call is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.protocol import Protocol

from middlewared.simulator.apple.apple_connection import AppleConnection, AppleOffice
from middlewared.simulator.apple.faults import Behaviour, Step
from middlewared.simulator.apple.validation import KnownTokens, Validator
from middlewared.simulator.certificates import ProviderKey
from middlewared.simulator.http2.greeter import Greeter
from middlewared.simulator.listening import LOOPBACK, ListeningSocket, ServerTLS
from middlewared.simulator.record import ReceivedPush, Record
from middlewared.simulator.scripts import Scripts

TOPICS = frozenset({"com.voipgrid.vialer", "com.voipgrid.vialer.voip"})


class AppleServer:
    """
    APNs as one environment: HTTP/2 over TLS on loopback.

    ``scripts`` orders faults by push token or for the next pushes, ``record`` shows what
    was seen, ``connections`` can be tampered with while they live. ``behaviour`` is that
    of connections to come; those in ``next_behaviours`` come first, one connection each.

    :param certificate: PEM file of the server's certificate and key.
    :param client_authority: PEM file of the authority that clients' certificates must
        come from; a client without a certificate needs a provider token.
    :param provider_keys: the keys whose provider tokens are accepted.
    :param topics: the topics an app may use.
    :param tokens: the device tokens of this environment; None: any well-formed one.
    :param update_interval_s: provider tokens may change no faster; 0: no rule (Apple's
        is 1200).
    :param listener: notified of each push that a phone gets.
    :param keep: how many pushes are remembered.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        certificate: Path,
        client_authority: Path | None = None,
        provider_keys: Sequence[ProviderKey] = (),
        topics: Collection[str] = TOPICS,
        tokens: Collection[str] | None = None,
        environment: str = "production",
        behaviour: Behaviour | None = None,
        update_interval_s: float = 0,
        listener: Callable[[ReceivedPush], None] | None = None,
        keep: int = 10_000,
        interface: str = LOOPBACK,
    ) -> None:
        self.behaviour = behaviour or Behaviour()
        self.next_behaviours: deque[Behaviour] = deque()
        self.scripts = Scripts[Step]()
        self.record = Record[ReceivedPush](listener=listener, keep=keep)
        self.connections: set[AppleConnection] = set()
        self._certificate = certificate
        self._client_authority = client_authority
        self._socket = ListeningSocket(reactor=reactor, interface=interface)
        keys = {key.key_id: key for key in provider_keys}
        provider_tokens = KnownTokens(keys, update_interval_s)
        self._validator = Validator(topics=topics, tokens=tokens, provider_tokens=provider_tokens)
        self._office = AppleOffice(
            environment=environment,
            clock=reactor,
            validator=self._validator,
            scripts=self.scripts,
            record=self.record,
            lost=self._forget,
        )

    @property
    def url(self) -> str:
        """Base URL, once started."""
        return f"https://{self._socket.address}"

    async def start(self) -> int:
        """Listen and give the port; a second start takes the same port."""
        tls = ServerTLS(self._certificate)
        tls.context.set_alpn_select_callback(_select_h2)
        if self._client_authority is not None:
            tls.context.load_verify_locations(str(self._client_authority))
            tls.context.set_verify(SSL.VERIFY_PEER, self._verified)
        port = self._socket.open(Greeter(tls, self._next_behaviour, self.connect))
        self._validator.authorities = [
            self._socket.address,
            *(f"{host}:{port}" for host in ("localhost", LOOPBACK, "[::1]")),
        ]
        return port

    async def stop(self) -> None:
        """Stop listening and reset all connections."""
        await self._socket.close()

    def drop_connections(self) -> None:
        """Reset every connection, those in their handshake too, and go on listening."""
        self._socket.drop_connections()

    def connect(self, behaviour: Behaviour) -> AppleConnection:
        """Make the protocol of a new connection."""
        self.record.connection_count += 1
        connection = AppleConnection(
            number=self.record.connection_count, office=self._office, behaviour=behaviour
        )
        self.connections.add(connection)
        return connection

    def _next_behaviour(self) -> Behaviour:
        return self.next_behaviours.popleft() if self.next_behaviours else self.behaviour

    def _forget(self, connection: Protocol) -> None:
        self.connections.discard(connection)

    def _verified(
        self, _connection: SSL.Connection, _certificate: object, _error: int, _depth: int, ok: int
    ) -> bool:
        return bool(ok) and not self.behaviour.refuse_certificate


def _select_h2(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
    # With no common protocol OpenSSL would drop the connection without the alert that
    # names the fault, so anything is chosen and then refused by the connection.
    return b"h2" if b"h2" in offered else offered[0]
