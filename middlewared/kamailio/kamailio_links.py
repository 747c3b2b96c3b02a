"""
The links to all Kamailios of the configuration: each is one connection, opened again whenever
it is lost.
"""

# Twisted's endpoints have no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from middlewared.backoff import backoff_s
from middlewared.clock import Clock, DelayedCall
from middlewared.kamailio.evapi_connection import ConnectionFactory, EvapiConnection
from middlewared.kamailio.interface import Requests
from middlewared.logs.interface import RepeatCounter
from middlewared.outgoing.interface import TcpEndpoints

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
GOOD_LIFE_S = 10.0
"""A connection that lasted this long was not a failure."""


@attrs.define(kw_only=True, eq=False, repr=False)
class KamailioLinks:
    """
    Connects to the Kamailios that ``use`` names, and takes their calls.

    :ivar draining: whether new calls should go to other daemons; see ``drain``.
    """

    _clock: Clock
    _endpoints: TcpEndpoints
    _requests: Requests
    _repeats: RepeatCounter
    draining: bool = attrs.field(default=False, init=False)
    _links: dict[tuple[str, str, int], _Link] = attrs.field(factory=dict, init=False)

    def use(self, kamailios: Mapping[str, tuple[str, int]]) -> None:
        """Link to these, by name, and to no others; the links that stay are not touched."""
        wanted = {(name, *address) for name, address in kamailios.items()}
        for key in self._links.keys() - wanted:
            self._links.pop(key).stop()
        for name, host, port in sorted(wanted - self._links.keys()):
            endpoint = self._endpoints(host, port)
            where = f"{host}:{port}"
            link = _Link(
                name=name, where=where, endpoint=endpoint, factory=self._factory, clock=self._clock
            )
            self._links[name, host, port] = link
            link.start()

    def drain(self) -> None:
        """Let all Kamailios know that new calls should go to other daemons."""
        self.draining = True
        for link in self._links.values():
            link.report_state()

    def stop(self) -> None:
        """Disconnect."""
        self.use({})

    def connected(self) -> Mapping[str, bool]:
        """Whether each Kamailio is connected, by name."""
        return {link.name: link.is_up for link in self._links.values()}

    def _factory(self, link: _Link) -> ConnectionFactory:
        return ConnectionFactory(
            name=link.name,
            clock=self._clock,
            requests=self._requests,
            repeats=self._repeats,
            draining=lambda: self.draining,
            up=link.up,
            lost=link.lost,
        )


@attrs.define(kw_only=True, eq=False, repr=False)
class _Link:
    """
    The link to one Kamailio: connecting, connected, pausing or stopped.

    :ivar is_up: whether it is connected, and Kamailio has responded: one that has no place for
        another client closes the connection at once.
    """

    log = Logger()

    name: str
    where: str
    _endpoint: IStreamClientEndpoint
    _factory: Callable[[_Link], ConnectionFactory]
    _clock: Clock
    is_up: bool = attrs.field(default=False, init=False)
    _connection: EvapiConnection | None = attrs.field(default=None, init=False)
    _connecting: Deferred[Any] | None = attrs.field(default=None, init=False)
    _pause: DelayedCall | None = attrs.field(default=None, init=False)
    _up_at: float = attrs.field(default=0.0, init=False)
    _failures: int = attrs.field(default=0, init=False)
    _problem: str = attrs.field(default="", init=False)
    _stopped: bool = attrs.field(default=False, init=False)

    def start(self) -> None:
        """Connect now."""
        self._pause = None
        connect: Any = self._endpoint.connect
        connecting = self._connecting = connect(self._factory(self))
        connecting.addCallbacks(self._made, self._failed)

    def stop(self) -> None:
        """Disconnect, for good."""
        self._stopped = True
        if self._pause is not None:
            self._pause.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()

    def report_state(self) -> None:
        """Let Kamailio know whether new calls are taken here."""
        if self._connection is not None:
            self._connection.report_state()

    def up(self) -> None:
        """Kamailio has responded on the connection."""
        self.is_up = True
        self._up_at = self._clock.seconds()
        self._problem = ""
        self.log.info("connected to kamailio {name}", name=self.name)

    def lost(self, why: str) -> None:
        """The connection has ended."""
        self._connection = None
        if self.is_up and self._clock.seconds() - self._up_at >= GOOD_LIFE_S:
            self._failures = 0
        self.is_up = False
        self._again(why)

    def _made(self, connection: EvapiConnection) -> None:
        self._connecting = None
        if not connection.connected:
            return  # lost before Twisted could report that it was made
        self._connection = connection
        if self._stopped:
            connection.close()

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        if not (self._stopped and failure.check(CancelledError)):
            self._again(failure.getErrorMessage())

    def _again(self, why: str) -> None:
        """Connect again after a pause; log once when it begins to fail, or the reason changes."""
        if self._stopped:
            return
        self._failures += 1
        if why != self._problem:
            self._problem = why
            self.log.warn(
                "kamailio {name} at {where} is not connected: {why}",
                name=self.name,
                where=self.where,
                why=why,
            )
        pause_s = backoff_s(self._failures, first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S)
        self._pause = self._clock.callLater(pause_s, self.start)
