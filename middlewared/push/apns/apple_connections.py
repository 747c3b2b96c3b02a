"""
Apple's connections belong to a credential: the apps of one team key share them.

Source: Apple, "Sending notification requests to APNs": a connection may carry the notifications
of all apps of the team whose provider token authorizes them, and many connections that open and
close look like an attack.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator

from middlewared.clock import Clock
from middlewared.outgoing.interface import TcpEndpoints
from middlewared.push.apns.reasons import goaway_fault
from middlewared.push.http2.connector import PeerHabits, tls_endpoint
from middlewared.push.http2.exchange import UsedConnection
from middlewared.push.http2.pool import HostPools, Http2Pool

LEAVE_EVERY_S = 10.0


class ConnectionUser(Protocol):
    """An app that uses the connections."""

    def on_round_trip(self, seconds: float) -> None:
        """A PING to Apple was acknowledged after ``seconds``."""


class AppleConnections:
    """
    The connections of one credential to one environment.

    They are open from the :meth:`start` of the first app that uses them to the :meth:`stop` of
    the last one, as many as that of these apps wants which wants most.

    :param name: for the log.
    :param tls: gives the TLS settings for a host: trusted roots, ALPN and our certificate.
    """

    def __init__(
        self,
        *,
        name: str,
        url: str,
        endpoint: TcpEndpoints,
        tls: Callable[[str], IOpenSSLClientConnectionCreator],
        clock: Clock,
        host_pools: HostPools,
    ) -> None:
        host, secured = tls_endpoint(url, endpoint, tls)
        self.pool = Http2Pool(
            name=name,
            clock=clock,
            host=host,
            endpoint=secured,
            size=0,
            host_pools=host_pools,
            peer="Apple",
            habits=PeerHabits(goaway_fault=goaway_fault),
            on_round_trip=self._on_round_trip,
        )
        self._clock = clock
        self._users: dict[ConnectionUser, int] = {}
        self._stopped = False
        self._left_at = -inf
        """When a connection was last left because Apple refused a request on it."""

    @property
    def usable(self) -> bool:
        """Whether it can be started, or used by another app."""
        return not self._stopped

    def start(self, user: ConnectionUser, connections: int) -> None:
        """Keep at least this many connections ready for this app."""
        first = not self._users
        self._users[user] = connections
        if first:
            self.pool.start()
        self.pool.resize(max(self._users.values()))

    async def stop(self, user: ConnectionUser) -> None:
        """This app needs them no more; close them if no other one uses them."""
        if self._users.pop(user, None) is None:
            return
        if self._users:
            self.pool.resize(max(self._users.values()))
        else:
            self._stopped = True
            await self.pool.stop()

    def leave_seldom(self, connection: UsedConnection, reason: str) -> None:
        """Leave ``connection``, but rarely: Apple treats many new connections as an attack."""
        now = self._clock.seconds()
        if now >= self._left_at + LEAVE_EVERY_S:
            self._left_at = now
            connection.leave(f"Apple responded {reason}", ours=True)

    def _on_round_trip(self, seconds: float) -> None:
        for user in self._users:
            user.on_round_trip(seconds)
