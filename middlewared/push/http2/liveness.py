"""
The signs of life of one connection: responses, and ACKs of PINGs (RFC 9113, section 6.7).

Once a sign of life is expected, it comes within ``timeout_s`` or the connection is reported
silent. Time is counted in our own ticks, so that a pause of this process is not blamed on the
peer, and data that arrived by the last tick is read before the connection is given up.
"""

from __future__ import annotations

from typing import Protocol

from middlewared.clock import Clock, DelayedCall
from middlewared.push.http2.session import Session

KEEP_ALIVE_S = 60.0
"""Shorter than the idle time-out of NAT gateways."""

MOST_PINGS = 2
"""Without PINGs at rest: how many are sent between two requests. Google closes at the third."""

REST_S = 10.0
"""Without PINGs at rest: a PING goes with the first request after so long without a sign."""

MIN_TIMEOUT_S = 1.0
ROUND_TRIPS = 4
TICKS = 4
SUSPECT_AFTER_TICKS = 2

MAX_GUESS_S = 1.0
"""The longest connect time that is taken as the round trip until a PING has measured it."""

SMOOTHING = 1 / 8
"""The weight of a new measurement (RFC 6298, section 2)."""


class MonitoredConnection(Protocol):
    """The connection that is monitored."""

    session: Session

    def flush(self) -> None:
        """Write the output of the session."""

    def on_suspect(self) -> None:
        """A sign of life is overdue: the path may be dead."""

    def on_silent(self) -> None:
        """No sign of life came in time."""

    def on_round_trip(self, seconds: float) -> None:
        """A PING was acknowledged after ``seconds``."""


class Liveness:
    """
    Sends PINGs, and waits for signs of life.

    :param pings_at_rest: False: PINGs are only sent while requests are in flight, and few: when
        no more may be sent, the silence of the peer means nothing.
    :ivar heard_at: when the latest sign came.
    :ivar suspect: whether a sign is overdue; the next one resets it.
    :ivar round_trip_s: the smoothed round trip of PINGs.
    """

    def __init__(
        self, connection: MonitoredConnection, *, clock: Clock, pings_at_rest: bool = True
    ) -> None:
        self.heard_at = 0.0
        self.suspect = False
        self.round_trip_s = 0.0
        self._connection = connection
        self._session = connection.session
        self._clock = clock
        self._pings_at_rest = pings_at_rest
        self._timer: DelayedCall | None = None
        self._signs = 0
        self._ping_acks = 0
        self._silent_ticks = 0
        self._resting = False
        self._pinged_at = 0.0
        self._ticks_since_ping = 0
        self._expecting_since: float | None = None
        self._next_id = 1
        self._pings_since_request = 0

    @property
    def timeout_s(self) -> float:
        """How long a sign of life may take."""
        return max(MIN_TIMEOUT_S, ROUND_TRIPS * self.round_trip_s)

    def start(self, connecting_s: float) -> None:
        """The connection became ready in ``connecting_s``: measure its path by a first PING."""
        self.heard_at = self._clock.seconds()
        self.round_trip_s = min(connecting_s, MAX_GUESS_S)
        if self._pings_at_rest:
            self._ping()
            self._tick_in(self._tick_s)

    def stop(self) -> None:
        """The connection has ended: stop waiting."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def expect(self) -> None:
        """A request is sent; if none was in flight, silence counts from now on."""
        if not self._session.streams and not self._session.ping_pending:
            self._signs = self._session.signs_of_life
            self._silent_ticks = 0
            self._expecting_since = now = self._clock.seconds()
            if not self._pings_at_rest and (not self._pinged_at or now - self.heard_at > REST_S):
                self._ping()
            self._tick_in(self._tick_s)

    def verify(self) -> None:
        """
        Another connection to the host is suspect: require a sign of life in half the time.

        The other half has already passed there. A connection that was heard just now is exempt.
        """
        fresh = self._clock.seconds() - self.heard_at < self._tick_s
        if fresh or self.suspect or not self._session.ready or not self._may_ping:
            return
        self._signs = self._session.signs_of_life
        self._silent_ticks = SUSPECT_AFTER_TICKS
        self.suspect = True
        if not self._session.ping_pending:
            self._ping()
            self._connection.flush()
        self._tick_in(self._tick_s)

    def heard(self) -> None:
        """A sign of life has come."""
        now = self._clock.seconds()
        self.heard_at = now
        self.suspect = False
        if self._session.ping_acks != self._ping_acks:
            # Bounded by our ticks: a pause of this process does not count.
            took_s = min(now - self._pinged_at, (self._ticks_since_ping + 1) * self._tick_s)
            share = SMOOTHING if self._ping_acks else 1.0
            self._ping_acks = self._session.ping_acks
            self.round_trip_s += share * (took_s - self.round_trip_s)
            self._connection.on_round_trip(took_s)
        elif self._expecting_since is not None:
            # A response is never faster than the path.
            self.round_trip_s = min(self.round_trip_s, now - self._expecting_since)
        self._expecting_since = None

    @property
    def _tick_s(self) -> float:
        return self.timeout_s / TICKS

    @property
    def _may_ping(self) -> bool:
        """Whether the peer takes a PING now."""
        if self._next_id != self._session.next_id:
            self._next_id, self._pings_since_request = self._session.next_id, 0
        return self._pings_at_rest or self._pings_since_request < MOST_PINGS

    def _ping(self) -> None:
        self._pings_since_request += 1
        self._pinged_at = self._clock.seconds()
        self._ticks_since_ping = 0
        self._session.ping()

    def _tick_in(self, delay_s: float) -> None:
        self._resting = delay_s == KEEP_ALIVE_S
        if self._timer is not None and self._timer.active():
            self._timer.reset(delay_s)
        else:
            self._timer = self._clock.callLater(delay_s, self._tick)

    def _tick(self) -> None:
        session = self._session
        self._ticks_since_ping += 1
        if session.signs_of_life != self._signs:
            self._signs, self._silent_ticks = session.signs_of_life, 0
        elif session.ping_pending or (session.streams and self._may_ping):
            self._silent_ticks += 1
        if self._silent_ticks > TICKS:
            self._connection.on_silent()
        elif self._silent_ticks == TICKS:
            self._tick_in(0)
        else:
            self._ping_if_due()
            if session.ping_pending or session.streams:
                self._tick_in(self._tick_s)
            elif self._pings_at_rest:
                self._tick_in(KEEP_ALIVE_S)

    def _ping_if_due(self) -> None:
        """Send a PING when a sign is overdue, after a rest, and regularly to measure the path."""
        late = self._silent_ticks == SUSPECT_AFTER_TICKS and not self.suspect
        due = self._resting or self._clock.seconds() - self._pinged_at >= KEEP_ALIVE_S
        if (late or due) and self._may_ping and not self._session.ping_pending:
            self._ping()
            self._connection.flush()
        if late:
            self.suspect = True
            self._connection.on_suspect()
