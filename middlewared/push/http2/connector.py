"""
Keeps one place of a pool filled: connects, waits until the connection leaves, connects again.

The one invariant: a place never makes two attempts closer together than its back-off,
unless a push waits; and the back-off is reset only by a useful connection: one on which
Apple answered a push, or that lived for a while.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from middlewared.clock import DelayedCall
from middlewared.push.http2.connection import Http2Connection
from middlewared.push.http2.failures import connect_fault, describe, farewell_fault
from middlewared.push.interface import ConfigFault
from middlewared.waiting import with_fair_timeout

READY_TIMEOUT_S = 5.0
"""For TLS and the first SETTINGS; the endpoint bounds the TCP connect itself."""

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 10.0
MAX_FAULT_BACKOFF_S = 60.0
HURRIED_BACKOFF_S = 1.0
"""How long a place may rest while a push waits."""

REST_S = 10.0
"""The first push after this time without pushes skips the back-off."""

USEFUL_AFTER_S = 10.0
"""A connection that was ready for this long was useful even without a push."""

T = TypeVar("T")


class ConnectorOwner(Protocol):
    """The pool whose place this is."""

    def is_known(self, problem: str) -> bool:
        """Whether a place of the pool has already logged this reason."""

    def joined(self, connection: Http2Connection) -> None:
        """A connection is ready."""

    def refused(self, fault: ConfigFault) -> None:
        """The connection was refused for a configuration fault: retry later."""


class Connector:
    """One place of a pool."""

    log = Logger()

    def __init__(
        self,
        *,
        name: str,
        clock: Any,
        endpoint: Callable[[], Any],
        factory: Callable[[], Http2Connection],
        host: ConnectorOwner,
    ) -> None:
        self.connecting = False
        self._name = name
        self._clock = clock
        self._endpoint = endpoint
        self._factory = Factory.forProtocol(factory)
        self._factory.noisy = False
        self._host = host
        self._running: Deferred[None] | None = None
        self._stopping = False
        self._reporting = False
        """Whether a callback of the host is running, which may call :meth:`stop`."""

        self._failures = 0
        self._fault: ConfigFault | None = None
        self._told = ""
        self._nap: DelayedCall | None = None
        self._nap_ends = 0.0
        self._hurried_at = -inf

    @property
    def problem(self) -> str:
        """Why it has no connection; "" if unknown."""
        return self._told

    def start(self) -> None:
        """Begin to connect."""
        self._running = Deferred.fromCoroutine(self._keep())

    async def stop(self) -> None:
        """Stop connecting; a connection that is up is left to the pool."""
        self._stopping = True
        if self._running is not None:
            if not self._reporting:
                self._running.cancel()
            await self._running

    def hurry(self) -> None:
        """A push waits: try again soon, unless the configuration must be repaired first."""
        now = self._clock.seconds()
        rested, self._hurried_at = now - self._hurried_at > REST_S, now
        if self._nap is None or self._fault is not None:
            return
        if rested:
            self._wake_at(now)
        elif self._nap_ends > now + HURRIED_BACKOFF_S:
            self._wake_at(now + random.uniform(0, HURRIED_BACKOFF_S))  # noqa: S311

    def _wake_at(self, at: float) -> None:
        if self._nap is not None:
            self._nap_ends = at
            self._nap.reset(at - self._clock.seconds())

    async def _keep(self) -> None:
        while not self._stopping:
            try:
                connection = await self._connect()
                self._report(self._host.joined, connection)
                if self._stopping:
                    return
                await connection.left
                self._judge(connection)
            except Exception as error:  # the network, TLS or the peer may cause anything
                if self._stopping:
                    return
                self._failures += 1
                self._tell(connect_fault(error), describe(error))
            if self._failures and not self._stopping:
                await self._rest()

    def _report(self, report: Callable[[T], None], what: T) -> None:
        self._reporting = True
        try:
            report(what)
        finally:
            self._reporting = False

    async def _connect(self) -> Http2Connection:
        self.connecting = True
        try:
            connection: Http2Connection = await self._endpoint().connect(self._factory)
            await with_fair_timeout(connection.ready, READY_TIMEOUT_S, self._clock)
        finally:
            self.connecting = False
        self.log.info("{name}: connected", name=self._name)
        return connection

    def _judge(self, connection: Http2Connection) -> None:
        """Evaluate a connection that was left: whether it was useful, and why it ended."""
        lived_s = self._clock.seconds() - connection.ready_at
        if connection.session.answers or lived_s >= USEFUL_AFTER_S:
            self._failures = 0
            self._told = ""
        else:
            self._failures += 1
        said = connection.session.farewell or connection.why or "its stream numbers are used up"
        self._fault = fault = farewell_fault(connection.session.farewell)
        if fault is not None:
            self._tell(fault, said)
        else:
            tell = self.log.warn if connection.broken else self.log.info
            tell("{name}: {what}; connecting again", name=self._name, what=said)

    def _tell(self, fault: ConfigFault | None, what: str) -> None:
        """Log why there is no connection, if the reason is new; a fault is an error."""
        self._fault = fault
        news, self._told = not self._host.is_known(what), what
        if news:
            tell = self.log.warn if fault is None else self.log.error
            tell("{name}: not connected: {what}", name=self._name, what=what)
        if fault is not None:
            self._report(self._host.refused, fault)

    async def _rest(self) -> None:
        """Back off with jitter, so that many places do not return in step."""
        longest = MAX_BACKOFF_S if self._fault is None else MAX_FAULT_BACKOFF_S
        delay = min(FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 16), longest)
        delay *= random.uniform(0.5, 1.0)  # noqa: S311
        rested: Deferred[None] = Deferred(lambda _: nap.cancel())
        nap = self._nap = self._clock.callLater(delay, rested.callback, None)
        self._nap_ends = self._clock.seconds() + delay
        try:
            await rested
        except CancelledError:
            return  # stopped
        finally:
            self._nap = None
