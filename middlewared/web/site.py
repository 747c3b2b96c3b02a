"""
Listeners: factories of connections, which they count and limit.
"""

# Most of twisted.web has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet import protocol
from twisted.internet.interfaces import IAddress
from twisted.web import http, server
from twisted.web.resource import Resource

from middlewared.clock import Clock
from middlewared.web.channel import Channel, RefuseBroken
from middlewared.web.filters import RequestFilter
from middlewared.web.replies import Reply
from middlewared.web.request import Request
from middlewared.web.settings import LiveSettings, WebSettings

INTERNAL_SETTINGS = WebSettings(
    max_connections=100, max_body_bytes=1024, request_timeout_s=10.0, idle_timeout_s=60.0
)
"""Few connections: their clients are known, and calls need the descriptors."""


class LimitedSite(server.Site):
    """
    The connections of one listener, at most ``max_connections``.

    :param observe: called with each request that was answered.
    :param filters: refuse requests by their bytes.
    """

    protocol = Channel  # type: ignore[assignment]
    requestFactory = Request

    def __init__(
        self,
        *,
        resource: Resource,
        clock: Clock,
        settings: LiveSettings,
        refuse_broken: RefuseBroken,
        observe: Callable[[Request], None],
        filters: Sequence[RequestFilter] = (),
    ) -> None:
        super().__init__(resource, reactor=clock)
        self.clock = clock
        self.settings = settings
        self.refuse_broken = refuse_broken
        self._observe = observe
        self.filters = filters
        self.connections = 0

    def startFactory(self) -> None:
        """Twisted would open an access log and tick once a second for its dates."""

    def stopFactory(self) -> None:
        """Nothing was started."""

    def acceptableProtocols(self) -> list[bytes]:
        """HTTP/1.1 alone, since the limits are those of its channel."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        A connection, or one that is closed when there are too many.

        Twisted lets a factory return None for that, but its TLS breaks on None.
        """
        if self.connections >= self.settings.current.max_connections:
            return _RefusedConnection()
        self.connections += 1
        return super().buildProtocol(addr)

    def log(self, request: http.Request) -> None:
        """Called by Twisted for each answered request, in place of an access log."""
        self._observe(cast(Request, request))


class _RefusedConnection(protocol.Protocol):
    """Closes the connection before anything is read."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.loseConnection()


def internal_site(
    *, resource: Resource, clock: Clock, settings: WebSettings = INTERNAL_SETTINGS
) -> LimitedSite:
    """
    The factory of a listener for operators' tools: the limits of the API, in fixed settings.

    :param resource: a resource of twisted.web, which writes its own replies.
    """
    return LimitedSite(
        resource=resource,
        clock=clock,
        settings=LiveSettings(settings),
        refuse_broken=_refuse_broken,
        observe=lambda _: None,
    )


def _refuse_broken(_target: bytes, status: int) -> Reply:
    return Reply(status, b"%d: this is no request that is served.\n" % status, b"text/plain")
