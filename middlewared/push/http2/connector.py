"""
Keeps one slot of a pool filled: connects, waits until the connection is left, connects again.

Between two attempts a slot waits for its back-off, unless a request waits. Only a useful
connection resets the back-off: one on which the peer responded, or that lived for a while.
The pauses are the constants below, their shape is in ``middlewared/backoff.py`` (which retried
pushes share), their tests, some of which count connects in a minute, are in
``tests/test_push_http2_pool.py``. No document names them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf
from typing import Any, Protocol, TypeAlias, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from middlewared.backoff import backoff_s
from middlewared.push.http2.connection import Http2Connection
from middlewared.push.http2.failures import connect_fault, describe
from middlewared.push.interface import ConfigFault
from middlewared.waiting import with_fair_timeout

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

GoAwayFault: TypeAlias = Callable[[str], ConfigFault | None]
"""Returns the fault that a GOAWAY reports in its debug data; None: no configuration fault."""

T = TypeVar("T")


def no_fault(_: str) -> None:
    """For peers whose GOAWAYs never report a configuration fault."""


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
        goaway_fault: GoAwayFault = no_fault,
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
        self._goaway_fault = goaway_fault
        self._running: Deferred[None] | None = None
        self._stopping = False
        self._notifying = False
        """Whether a callback of the pool is running, which may call :meth:`stop`."""

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
                connection = await self._connect()
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
        self.log.info("{name}: connected", name=self._name)
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
        self._fault = fault = self._goaway_fault(goaway)
        if fault is not None:
            self._report(fault, why)
        else:
            log = self.log.warn if connection.broken else self.log.info
            log("{name}: {what}; connecting again", name=self._name, what=why)

    def _report(self, fault: ConfigFault | None, problem: str) -> None:
        """Log why there is no connection, if the reason is new; a fault is an error."""
        self._fault = fault
        is_new, self.problem = not self._pool.is_known(problem), problem
        if is_new:
            log = self.log.warn if fault is None else self.log.error
            log("{name}: not connected: {what}", name=self._name, what=problem)
        if fault is not None:
            self._notify(self._pool.refused, fault)

    async def _back_off(self) -> None:
        """Pause, so that many slots do not return in step; :meth:`hurry` may shorten it."""
        longest_s = MAX_BACKOFF_S if self._fault is None else MAX_FAULT_BACKOFF_S
        pause_s = backoff_s(self._failures, first_s=FIRST_BACKOFF_S, longest_s=longest_s)
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
