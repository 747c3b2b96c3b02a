"""
Keeps one slot of a pool filled: connects, waits until the connection is left, connects again.

Between two attempts a slot waits for its back-off, unless a request waits. Only a useful
connection resets the back-off: one on which the peer responded, or that lived for a while.
The pauses are the constants below, for Apple and Google alike; what differs between the two is
in ``PeerHabits``, which ``push/apns/apple_connections.py`` and ``push/google/fcm_project.py``
make. The shape of the pauses is in ``middlewared/backoff.py``, which retried pushes share. Their
tests, some of which count connects in a minute, are in ``tests/test_push_http2_pool.py``. No
document names them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from middlewared.backoff import backoff_s
from middlewared.outgoing.interface import TcpEndpoints
from middlewared.push.http2.connection import Http2Connection
from middlewared.push.http2.failures import WITHOUT_HTTP2, connect_fault, describe
from middlewared.push.interface import ConfigFault
from middlewared.push.problem_log import LineLimit
from middlewared.waiting import with_fair_timeout

HTTPS = 443
READY_TIMEOUT_S = 5.0
"""For TLS and the first SETTINGS; the endpoint bounds the TCP connect itself."""

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 10.0
MAX_FAULT_BACKOFF_S = 60.0
HURRIED_BACKOFF_S = 1.0
"""The longest back-off while a request waits."""

REST_S = 10.0
"""The first request after this time without requests skips the back-off."""

USEFUL_AFTER_S = 10.0
"""A connection that was ready for this long was useful even without a request."""

T = TypeVar("T")


@attrs.frozen
class PeerHabits:
    """
    How a peer treats connections.

    :ivar pings_at_rest: whether it takes PINGs on a connection without requests.
    :ivar speaks_http1: whether HTTP/1.1 is used when it does not choose HTTP/2, so that this
        is no fault.
    :ivar goaway_fault: the configuration fault that a GOAWAY reports in its debug data, or None.
    :ivar is_routine: whether a GOAWAY is of the kind that ends every connection some time.
    """

    pings_at_rest: bool = True
    speaks_http1: bool = False
    goaway_fault: Callable[[str], ConfigFault | None] = lambda _: None
    is_routine: Callable[[str], bool] = lambda _: False


def tls_endpoint(
    url: str, tcp: TcpEndpoints, tls: Callable[[str], IOpenSSLClientConnectionCreator]
) -> tuple[str, Callable[[], IStreamClientEndpoint]]:
    """The host and port of an https URL, and what makes an endpoint for each connect to it."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or HTTPS
    creator = tls(host)

    def endpoint() -> IStreamClientEndpoint:
        secured: IStreamClientEndpoint = wrapClientTLS(creator, tcp(host, port))
        return secured

    return f"{host}:{port}", endpoint


class ConnectorOwner(Protocol):
    """The pool to which a slot belongs."""

    def is_known(self, problem: str) -> bool:
        """Whether a slot of the pool has already logged this problem."""

    def joined(self, connection: Http2Connection) -> None:
        """A connection is ready."""

    def refused(self, fault: ConfigFault) -> None:
        """The connection was refused for a configuration fault; the slot tries again later."""


class Connector:
    """
    One slot of a pool.

    :param name: of the pool, for the log.
    :param endpoint: returns an endpoint for each attempt.
    """

    log = Logger()

    def __init__(
        self,
        *,
        name: str,
        clock: Any,
        endpoint: Callable[[], Any],
        factory: Callable[[], Http2Connection],
        pool: ConnectorOwner,
        habits: PeerHabits,
    ) -> None:
        self.connecting = False
        self.problem = ""
        """Why it has no connection, in a few words; "" if unknown."""

        self._name = name
        self._clock = clock
        self._endpoint = endpoint
        self._factory = Factory.forProtocol(factory)
        self._factory.noisy = False
        self._pool = pool
        self._habits = habits
        self._running: Deferred[None] | None = None
        self._connection: Http2Connection | None = None
        self._stopping = False
        self._notifying = False
        """Whether a callback of the pool is running, which may call :meth:`stop`."""

        self._renewing = False
        """Whether the last connection ended as every one eventually does: not worth a line."""

        self._limit = LineLimit(clock=clock)

        self._failures = 0
        self._fault: ConfigFault | None = None
        self._backing_off: Deferred[None] | None = None
        self._back_off_until = 0.0
        self._hurried_at = -inf

    def start(self) -> None:
        """Begin to connect."""
        self._running = Deferred.fromCoroutine(self._keep_connected())

    async def stop(self) -> None:
        """Stop connecting; a connection that is up is left to the pool."""
        self._stopping = True
        if self._running is not None:
            if not self._notifying:
                self._running.cancel()
            await self._running

    async def retire(self) -> None:
        """Stop; a connection that is up closes after its last request."""
        await self.stop()
        if self._connection is not None:
            self._connection.leave("fewer connections are configured")

    def hurry(self) -> None:
        """A request waits: try again soon, unless the configuration must be corrected first."""
        now = self._clock.seconds()
        rested, self._hurried_at = now - self._hurried_at > REST_S, now
        if self._backing_off is None or self._fault is not None:
            return
        if rested:
            self._shorten_back_off(now)
        elif self._back_off_until > now + HURRIED_BACKOFF_S:
            self._shorten_back_off(now + random.uniform(0, HURRIED_BACKOFF_S))  # noqa: S311

    def _shorten_back_off(self, until: float) -> None:
        self._back_off_until = until
        if self._backing_off is not None:
            self._backing_off.cancel()

    async def _keep_connected(self) -> None:
        while not self._stopping:
            try:
                connection = self._connection = await self._connect()
                self._notify(self._pool.joined, connection)
                if self._stopping:
                    return
                await connection.left
                self._evaluate(connection)
            except Exception as error:  # the network, TLS or the peer may cause anything
                if self._stopping:
                    return
                self._failures += 1
                self._report(connect_fault(error), describe(error))
            if self._failures and not self._stopping:
                await self._back_off()

    def _notify(self, notify: Callable[[T], None], what: T) -> None:
        self._notifying = True
        try:
            notify(what)
        finally:
            self._notifying = False

    async def _connect(self) -> Http2Connection:
        self.connecting = True
        try:
            connection: Http2Connection = await self._endpoint().connect(self._factory)
            await with_fair_timeout(connection.ready, READY_TIMEOUT_S, self._clock)
        finally:
            self.connecting = False
        log, self._renewing = self.log.debug if self._renewing else self.log.info, False
        log("{name}: connected", name=self._name)
        return connection

    def _evaluate(self, connection: Http2Connection) -> None:
        """A connection was left: was it useful, and does an operator have to act?"""
        lived_s = self._clock.seconds() - connection.ready_at
        if connection.session.responses or lived_s >= USEFUL_AFTER_S:
            self._failures = 0
            self.problem = ""
        else:
            self._failures += 1
        goaway = connection.session.goaway
        why = goaway or connection.why or "its stream numbers are used up"
        self._fault = fault = self._habits.goaway_fault(goaway)
        if fault is not None:
            self._report(fault, why)
        else:
            log = self.log.warn if connection.broken or connection.ours else self.log.info
            # A fault of ours may end each connection at its first request.
            repeated = connection.ours and not self._limit.allows(why)
            self._renewing = repeated or self._habits.is_routine(goaway)
            if self._renewing:
                log = self.log.debug
            log("{name}: {what}; connecting again", name=self._name, what=why)

    def _report(self, fault: ConfigFault | None, problem: str) -> None:
        """Log why there is no connection, if the reason is new; a fault is an error."""
        self._fault = fault
        is_new, self.problem = not self._pool.is_known(problem), problem
        if is_new:
            log = self.log.warn if fault is None else self.log.error
            if self._is_left_to_http1:
                log = self.log.info
            log("{name}: not connected: {what}", name=self._name, what=problem)
        if fault is not None:
            self._notify(self._pool.refused, fault)

    @property
    def _is_left_to_http1(self) -> bool:
        return self._fault == WITHOUT_HTTP2 and self._habits.speaks_http1

    async def _back_off(self) -> None:
        """Pause, so that many slots do not return in step; :meth:`hurry` may shorten it."""
        longest_s = MAX_BACKOFF_S if self._fault is None else MAX_FAULT_BACKOFF_S
        first_s = longest_s if self._is_left_to_http1 else FIRST_BACKOFF_S
        pause_s = backoff_s(self._failures, first_s=first_s, longest_s=longest_s)
        self._back_off_until = self._clock.seconds() + pause_s
        while not self._stopping:
            self._backing_off = deferLater(self._clock, max(pause_s, 0.0))
            try:
                await self._backing_off
                return
            except CancelledError:  # hurried or stopped
                pause_s = self._back_off_until - self._clock.seconds()
            finally:
                self._backing_off = None
