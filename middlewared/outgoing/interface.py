"""
The outgoing seam: how other rooms reach the world outside.

The one invariant: whatever a peer or a proxy does, the asker gets an answer or an
:class:`OutgoingFailed` before its own deadline, and neither carries a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import attrs
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.http_headers import Headers

from middlewared.errors import MiddlewaredError


class OutgoingFailed(MiddlewaredError):
    """No usable answer came; the text says why in a few words. Another try may work."""


class TimedOut(OutgoingFailed):
    """The answer did not arrive, or not wholly, in the time given."""


class Dropped(OutgoingFailed):
    """
    The peer closed the connection instead of answering.

    A kept connection may just have grown old, so trying again at once is reasonable.
    """


class Unwanted(OutgoingFailed):
    """While the request waited for a connection its asker lost interest; nothing was sent."""


@attrs.frozen
class AnswerTimes:
    """
    How long an answer may take once all of its request was sent, in seconds.

    A kept connection may have failed silently, so it gets less time for its first byte: as
    long as recent answers of this host took (:mod:`.pace`), or ``kept_s`` if that is more.
    After that, the other idle connections to the host are closed as well.
    """

    whole_s: float
    """To the end of the body."""

    kept_s: float = 0.0


class TcpEndpoints(Protocol):
    """Where each TCP connection to the outside begins; straight or through the proxy."""

    def __call__(self, host: str, port: int) -> IStreamClientEndpoint:
        """
        An endpoint whose every ``connect`` resolves the name anew and ends in bounded time.

        It fails with what Twisted raises for TCP, or with
        :class:`~middlewared.outgoing.proxy.ProxyFailed`, a ``ConnectError`` too.
        """


@attrs.frozen
class HttpResponse:
    """A whole HTTP answer; ``body`` is cut at the client's limit (``complete`` tells)."""

    status: int
    headers: Headers = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    complete: bool = True

    def header(self, name: str) -> str | None:
        """The last value of a header, or None."""
        values = self.headers.getRawHeaders(name)
        return values[-1] if values else None


@attrs.define
class Progress:
    """How far a request got that was cancelled or ended without a complete answer."""

    sent_at: float | None = None
    """When its last byte was handed to the connection; None: it was not completely sent."""

    partial: HttpResponse | None = None
    """The part of the answer that arrived, at least the status; never ``complete``."""

    def clear(self) -> None:
        """Reset, for another request."""
        self.sent_at = self.partial = None


class HttpClient(Protocol):
    """Implemented by :class:`middlewared.outgoing.http_client.PooledHttpClient`."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str | bytes],
        body: bytes | None = None,
        timeout_s: float,
        turn_s: float | None = None,
        wanted: Callable[[], bool] | None = None,
        answer: AnswerTimes | None = None,
        progress: Progress | None = None,
    ) -> HttpResponse:
        """
        One HTTP request; redirects are answers like any other, cookies are ignored.

        :param timeout_s: for everything: a free connection, the connect, the whole body.
        :param turn_s: for the free connection only, before ``timeout_s`` starts.
        :param wanted: called once, right before the request is sent.
        :param answer: for the answer only; ``timeout_s`` then covers what comes before it.
        :param progress: set when the request ends, in whatever way.
        :raises TimedOut: it took longer.
        :raises Dropped: the peer closed the connection instead of answering.
        :raises Unwanted: ``wanted`` returned False.
        :raises OutgoingFailed: no connection, TLS refused, or the answer broke off.
        """

    async def close(self) -> None:
        """End all requests, which fail as OutgoingFailed, and close every connection."""


class WarmHttpClient(HttpClient, Protocol):
    """A client that can keep a connection ready."""

    def keep_warm(self, url: str) -> None:
        """Keep one connection to the host of ``url`` ready until ``close``."""

    def connection_states(self, url: str) -> Mapping[str, int]:
        """Connections to the host of ``url`` by state: connecting, ready, draining."""
