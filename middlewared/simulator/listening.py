"""
Simulator: a listening socket whose every connection is known.

After ``close`` no socket and no connection is left, however the
peers behave. A second ``open`` listens on the port number of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.protocol import Factory
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

LOOPBACK = "127.0.0.1"


class _Door(WrappingFactory):
    """Knows who is inside."""

    noisy = False

    def __init__(self, factory: Factory[Any]) -> None:
        super().__init__(factory)  # type: ignore[no-untyped-call]
        self.opened = 0
        self._emptied: Deferred[None] | None = None

    def registerProtocol(self, p: ProtocolWrapper) -> None:
        self.opened += 1
        super().registerProtocol(p)  # type: ignore[no-untyped-call]

    def unregisterProtocol(self, p: ProtocolWrapper) -> None:
        super().unregisterProtocol(p)  # type: ignore[no-untyped-call]
        if not self.protocols and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def empty(self) -> Deferred[None]:
        """Abort all connections; fires when the last has ended."""
        emptied: Deferred[None] = Deferred()
        if not self.protocols:
            emptied.callback(None)
            return emptied
        self._emptied = emptied
        for protocol in list(self.protocols):
            protocol.abortConnection()
        return emptied


class ListeningSocket:
    """One TCP socket on ``interface``; the system chooses its ``port`` at the first ``open``."""

    def __init__(self, *, reactor: Any, interface: str = LOOPBACK) -> None:
        self._reactor = reactor
        self._interface = interface
        self.port = 0
        self._door: _Door | None = None
        self._listening: Any = None

    @property
    def address(self) -> str:
        """``host:port``, with brackets around an IPv6 host."""
        host = f"[{self._interface}]" if ":" in self._interface else self._interface
        return f"{host}:{self.port}"

    @property
    def connections_opened(self) -> int:
        """How many connections were made since ``open``."""
        return 0 if self._door is None else self._door.opened

    def open(self, factory: Factory[Any]) -> int:
        """Listen, and give the port number."""
        self._door = _Door(factory)
        self._listening = self._reactor.listenTCP(
            self.port, self._door, interface=self._interface, backlog=1024
        )
        port: int = self._listening.getHost().port
        self.port = port
        return port

    def drop_connections(self) -> None:
        """Reset every connection, and go on listening."""
        if self._door is not None:
            for protocol in list(self._door.protocols):
                protocol.abortConnection()

    async def close(self) -> None:
        """Stop listening and reset all connections."""
        listening, self._listening = self._listening, None
        if listening is not None and self._door is not None:
            await listening.stopListening()
            await self._door.empty()


@implementer(IOpenSSLContextFactory)
class ServerTLS:
    """
    Context factory of a server: certificate and key in one PEM file, TLS 1.2 or later.

    Sessions are not resumed, so that every handshake shows its certificates.
    """

    def __init__(self, certificate: Path) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET)
        context.use_certificate_chain_file(str(certificate))
        context.use_privatekey_file(str(certificate))
        self.context = context

    def getContext(self) -> SSL.Context:
        """Twisted asks for it at each connection."""
        return self.context

    def choose_protocol(self, spoken: Sequence[str]) -> None:
        """Choose the first of ``spoken`` that a client offers in ALPN; otherwise none."""

        def choose(_connection: SSL.Connection, offered: list[bytes]) -> Any:
            for name in spoken:
                if name.encode() in offered:
                    return name.encode()
            return SSL.NO_OVERLAPPING_PROTOCOLS

        self.context.set_alpn_select_callback(choose)

    def wrap(self, factory: Factory[Any]) -> TLSMemoryBIOFactory:
        """Put TLS under ``factory``."""
        return TLSMemoryBIOFactory(cast(Any, self), False, cast(Any, factory))
