"""A stand-in for the evapi of a Kamailio: what it sends and receives, message by message."""

# Twisted's protocols have no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.basic import NetstringReceiver

reactor: Any = installed_reactor


class EvapiPeer(NetstringReceiver):
    """The Kamailio's end of a connection; confirms as ``etc/kamailio/middlewared.cfg`` does."""

    def __init__(self, kamailio: EvapiServer) -> None:
        self._kamailio = kamailio
        self.closed: Deferred[None] = Deferred()
        self.states: list[str] = []

    def connectionMade(self) -> None:
        super().connectionMade()
        self._kamailio.connected(self)

    def connectionLost(self, reason: Any = None) -> None:
        self.closed.callback(None)

    def stringReceived(self, string: bytes) -> None:
        message = json.loads(string)
        if message["event"] == "state":
            self.states.append(message["state"])
        self._kamailio.received(message)
        if self._kamailio.responsive and message["event"] == "state":
            self.send(event="seen")
        if message["event"] == "outcome" and self._kamailio.confirms:
            self.send(event="done", id=message["id"])

    def write(self, data: bytes) -> None:
        """Send bytes that may be no message."""
        transport: Any = self.transport
        transport.write(data)

    def close(self) -> None:
        """Close the connection."""
        transport: Any = self.transport
        transport.loseConnection()

    def send(self, **members: object) -> None:
        """Send one message."""
        self.sendString(json.dumps(members).encode())


class _Peers(Factory):
    noisy = False

    def __init__(self, kamailio: EvapiServer) -> None:
        self._kamailio = kamailio

    def buildProtocol(self, addr: object) -> EvapiPeer:
        return EvapiPeer(self._kamailio)


class EvapiServer:
    """
    Listens where a daemon connects.

    :ivar messages: all that came but the states.
    :ivar states: each state that came, in order.
    """

    def __init__(self) -> None:
        self.peers: list[EvapiPeer] = []
        self.messages: list[dict[str, Any]] = []
        self.states: list[str] = []
        self.responsive = True
        self.confirms = True
        self._waiters: list[tuple[Any, Deferred[None]]] = []
        self._port: Any = None

    async def start(self, port: int = 0) -> None:
        """Listen on loopback."""
        endpoint: Any = TCP4ServerEndpoint(reactor, port, interface="127.0.0.1")
        self._port = await endpoint.listen(_Peers(self))

    async def stop(self) -> None:
        """Stop listening, and close what is open."""
        await self._port.stopListening()
        for peer in self.peers:
            peer.transport.abortConnection()  # type: ignore[union-attr]
            await peer.closed

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._port.getHost().port)

    def connected(self, peer: EvapiPeer) -> None:
        """A daemon has connected."""
        self.peers.append(peer)

    def received(self, message: dict[str, Any]) -> None:
        """A daemon has sent something."""
        if message["event"] == "state":
            self.states.append(message["state"])
        else:
            self.messages.append(message)
        for waiter in [each for each in self._waiters if each[0]()]:
            self._waiters.remove(waiter)
            waiter[1].callback(None)

    async def until(self, met: Any) -> None:
        """Wait until ``met()`` is true after a message."""
        if not met():
            waiter: Deferred[None] = Deferred()
            self._waiters.append((met, waiter))
            await waiter

    async def until_ready(self, daemons: int = 1) -> None:
        """Wait until so many connections were made, counted from the first, and each is ready."""
        await self.until(lambda: sum(bool(peer.states) for peer in self.peers) >= daemons)

    def call(self, transaction: str, account: object, *, at: int = -1, **fields: str) -> None:
        """Hand over the INVITE of a suspended transaction."""
        given = {"sip_user_id": str(account), "phonenumber": "+31501234567", **fields}
        self.peers[at].send(event="call", id=transaction, fields=urlencode(given))

    def send(self, event: str, **fields: object) -> None:
        """Send ``cancel`` or ``registered``."""
        self.peers[-1].send(event=event, fields=urlencode(fields))

    async def outcome(self, transaction: str) -> str:
        """The outcome of a transaction."""

        def found() -> list[str]:
            return [m["outcome"] for m in self.messages if m.get("id") == transaction]

        await self.until(found)
        return found()[0]
