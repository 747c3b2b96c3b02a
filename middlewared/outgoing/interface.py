"""
The outgoing seam: how other rooms connect to the outside.

Whatever a peer or a proxy does, the caller gets an answer or an :class:`OutgoingFailed`
within its time-out. Neither contains a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import attrs
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.http_headers import Headers

from middlewared.errors import MiddlewaredError


class OutgoingFailed(MiddlewaredError):
    """There is no usable answer; the text gives the reason. Another try may work."""


class TimedOut(OutgoingFailed):
    """The answer did not arrive in time, or not completely."""


class Dropped(OutgoingFailed):
    """
    The peer closed the connection instead of answering.

    The peer may just have closed an idle connection, so another try at once is reasonable.
    """


class Unwanted(OutgoingFailed):
    """The caller lost interest while the request waited for a connection; nothing was sent."""


@attrs.frozen
class AnswerTimes:
    """
    How long an answer may take after all of its request was sent, in seconds.

    A kept connection may have failed silently, so its first byte gets less time: as long as
    recent answers of the host took (:class:`.http1_pool.AnswerLatency`), or ``kept_s`` if that
    is more. After it, the other idle connections to the host are closed as well.
    """

    whole_s: float
    """To the end of the body."""

    kept_s: float = 0.0


class TcpEndpoints(Protocol):
    """Makes the endpoint of each TCP connection to the outside: direct or through the proxy."""

    def __call__(self, host: str, port: int) -> IStreamClientEndpoint:
        """
        An endpoint whose ``connect`` resolves the name each time and ends in bounded time.

        It fails as Twisted's TCP endpoints do, or with
        :class:`~middlewared.outgoing.proxy.ProxyFailed`, which is a ``ConnectError`` too.
        """


@attrs.frozen
class HttpResponse:
    """An HTTP answer; not ``complete``: its body was cut at the client's limit, or broke off."""

    status: int
    headers: Headers = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    complete: bool = True

    def header(self, name: str) -> str | None:
        """The last value of a header; None: it is absent."""
        values = self.headers.getRawHeaders(name)
        return values[-1] if values else None


@attrs.define
class Progress:
    """How far a request got; for one that was cancelled or has no complete answer."""

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
        Send one HTTP request; redirects are not followed, cookies are ignored.

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
