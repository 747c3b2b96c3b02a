"""
The HTTP client: exchanges within bounds of time and of connections.

The one invariant: a request ends in its time, and until then it holds at most one
connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

from twisted.internet.defer import CancelledError, Deferred

from middlewared.outgoing.http1_exchange import Asked, Exchanges
from middlewared.outgoing.http1_pool import REST_S
from middlewared.outgoing.interface import (
    AnswerTimes,
    HttpResponse,
    OutgoingFailed,
    Progress,
    TcpEndpoints,
    TimedOut,
    Unwanted,
)
from middlewared.outgoing.slots import Slots
from middlewared.outgoing.tls import ClientTLS
from middlewared.waiting import with_fair_timeout

MAX_CONNECTIONS = 256
MAX_BODY_BYTES = 65_536


class PooledHttpClient:
    """
    Talks HTTP/1.1 to a few configured hosts over connections it keeps.

    Requests above ``max_connections`` wait for a free one inside their own time-out.

    :param rest_s: how long an idle connection is kept.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        endpoints: TcpEndpoints,
        tls: ClientTLS,
        max_connections: int = MAX_CONNECTIONS,
        max_body_bytes: int = MAX_BODY_BYTES,
        rest_s: float = REST_S,
    ) -> None:
        self._reactor = reactor
        self._exchanges = Exchanges(
            reactor=reactor,
            endpoints=endpoints,
            tls=tls,
            max_connections=max_connections,
            max_body_bytes=max_body_bytes,
            rest_s=rest_s,
        )
        self._slots = Slots(max_connections)
        self._running: set[Deferred[HttpResponse]] = set()
        self._closed = False

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
        """See :meth:`middlewared.outgoing.interface.HttpClient.request`."""
        if self._closed:
            raise OutgoingFailed("closed")
        asked = Asked(method, url, headers, body, wanted, answer, progress or Progress())
        asked.progress.clear()
        running = Deferred.fromCoroutine(self._in_turn(asked, timeout_s, turn_s))
        self._running.add(running)
        try:
            return await running
        except CancelledError as error:
            if self._closed:
                raise OutgoingFailed("closed") from error
            raise
        finally:
            self._running.discard(running)

    def keep_warm(self, url: str) -> None:
        """See :meth:`middlewared.outgoing.interface.WarmHttpClient.keep_warm`."""
        if not self._closed:
            self._exchanges.keep_warm(url)

    def connection_states(self, url: str) -> Mapping[str, int]:
        """See :meth:`middlewared.outgoing.interface.WarmHttpClient.connection_states`."""
        return self._exchanges.connection_states(url)

    async def close(self) -> None:
        """End all requests, which fail as OutgoingFailed, and close every connection."""
        self._closed = True
        for running in list(self._running):
            running.cancel()
        await self._exchanges.close()

    async def _in_turn(self, asked: Asked, timeout_s: float, turn_s: float | None) -> HttpResponse:
        asked_at = self._reactor.seconds()
        turn = self._slots.acquire()
        if not turn.called:
            # A request sent with little time left would only blame the peer, and break
            # a good connection when its time is up.
            longest_s = timeout_s / 2 if turn_s is None else turn_s
            with_fair_timeout(turn, longest_s, self._reactor, partial(_none_free, longest_s))
        await turn
        if turn_s is None:
            timeout_s -= self._reactor.seconds() - asked_at
        answered = False
        try:
            reply = await self._exchanges.run(asked, timeout_s)
            answered = True
            return reply
        except Unwanted:
            answered = True  # the peer is not to blame
            raise
        finally:
            self._slots.release(answered=answered)


def _none_free(timeout_s: float) -> NoReturn:
    raise TimedOut(f"no connection was free within {timeout_s:.3g} s")
