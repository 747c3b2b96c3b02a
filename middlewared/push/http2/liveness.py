"""
The signs of life of one connection: answers, and ACKs of PINGs (RFC 9113, section 6.7).

The one invariant: once a sign of life is expected, it comes within ``patience_s`` or the
connection is reported silent. Time is counted in our own ticks, so that a pause of this process
is not blamed on the peer, and data that arrived by the last tick is read before the verdict.
"""

from __future__ import annotations

from typing import Protocol

from middlewared.clock import Clock, DelayedCall
from middlewared.push.http2.session import Session

KEEP_ALIVE_S = 60.0
"""Shorter than the idle time-out of NAT gateways; as often as other APNs clients do."""

LEAST_PATIENCE_S = 1.0
ROUND_TRIPS = 4
TICKS = 4
DOUBT_AFTER_TICKS = 2

LONGEST_GUESS_S = 1.0
"""The longest connect time that is taken as the round trip until a PING has measured it."""

SMOOTHING = 1 / 8
"""The weight of a new measurement (RFC 6298, section 2)."""


class Patient(Protocol):
    """The connection that is monitored."""

    session: Session

    def flush(self) -> None:
        """Write the output of the session."""

    def doubt(self) -> None:
        """A sign of life is overdue: the path may be dead."""

    def fell_silent(self) -> None:
        """No sign of life came in time."""

    def measured(self, seconds: float) -> None:
        """A PING's round trip."""


class Liveness:
    """
    Asks for signs of life, and waits for them.

    :ivar heard_at: when the latest sign came.
    :ivar doubtful: whether a sign is overdue; reset by the next one.
    :ivar round_trip_s: the smoothed round trip of PINGs.
    """

    def __init__(self, patient: Patient, *, clock: Clock) -> None:
        self.heard_at = 0.0
        self.doubtful = False
        self.round_trip_s = 0.0
        self._patient = patient
        self._session = patient.session
        self._clock = clock
        self._watch: DelayedCall | None = None
        self._signs = 0
        self._pongs = 0
        self._quiet = 0
        self._resting = False
        self._asked_at = 0.0
        self._ticks_asked = 0
        self._began_at: float | None = None

    @property
    def patience_s(self) -> float:
        """How long a sign of life may take."""
        return max(LEAST_PATIENCE_S, ROUND_TRIPS * self.round_trip_s)

    def begin(self, connecting_s: float) -> None:
        """The connection is ready after ``connecting_s``: measure its path by a first PING."""
        self.heard_at = self._clock.seconds()
        self.round_trip_s = min(connecting_s, LONGEST_GUESS_S)
        self._ask()
        self._watch_in(self._tick_s)

    def stop(self) -> None:
        """The connection has ended: stop waiting."""
        if self._watch is not None and self._watch.active():
            self._watch.cancel()

    def expect(self) -> None:
        """A push is sent; if none was in flight, silence counts from now on."""
        if not self._session.streams and not self._session.asked:
            self._signs = self._session.signs
            self._quiet = 0
            self._began_at = self._clock.seconds()
            self._watch_in(self._tick_s)

    def prove(self) -> None:
        """
        Another connection to the same host is in doubt: require a sign within half the time.

        The other half has already passed there. A connection heard just now is exempt.
        """
        fresh = self._clock.seconds() - self.heard_at < self._tick_s
        if fresh or self.doubtful or not self._session.ready:
            return
        self._signs = self._session.signs
        self._quiet = DOUBT_AFTER_TICKS
        self.doubtful = True
        if not self._session.asked:
            self._ask()
            self._patient.flush()
        self._watch_in(self._tick_s)

    def heard(self) -> None:
        """A sign of life has come."""
        now = self._clock.seconds()
        self.heard_at = now
        self.doubtful = False
        if self._session.pongs != self._pongs:
            # By our ticks too: a pause of this process is not the path's.
            took_s = min(now - self._asked_at, (self._ticks_asked + 1) * self._tick_s)
            share = SMOOTHING if self._pongs else 1.0
            self._pongs = self._session.pongs
            self.round_trip_s += share * (took_s - self.round_trip_s)
            self._patient.measured(took_s)
        elif self._began_at is not None:
            # An answer is never faster than the path.
            self.round_trip_s = min(self.round_trip_s, now - self._began_at)
        self._began_at = None

    @property
    def _tick_s(self) -> float:
        return self.patience_s / TICKS

    def _ask(self) -> None:
        self._asked_at = self._clock.seconds()
        self._ticks_asked = 0
        self._session.ping()

    def _watch_in(self, delay: float) -> None:
        self._resting = delay == KEEP_ALIVE_S
        if self._watch is not None and self._watch.active():
            self._watch.reset(delay)
        else:
            self._watch = self._clock.callLater(delay, self._tick)

    def _tick(self) -> None:
        session = self._session
        self._ticks_asked += 1
        if session.signs != self._signs:
            self._signs, self._quiet = session.signs, 0
        elif session.asked or session.streams:
            self._quiet += 1
        if self._quiet > TICKS:
            self._patient.fell_silent()
        elif self._quiet == TICKS:
            self._watch_in(0)
        else:
            self._ask_if_due()
            waits = session.asked or session.streams
            self._watch_in(self._tick_s if waits else KEEP_ALIVE_S)

    def _ask_if_due(self) -> None:
        """Send a PING when a sign is overdue, after a rest, and regularly to measure the path."""
        late = self._quiet == DOUBT_AFTER_TICKS and not self.doubtful
        due = self._resting or self._clock.seconds() - self._asked_at >= KEEP_ALIVE_S
        if (late or due) and not self._session.asked:
            self._ask()
            self._patient.flush()
        if late:
            self.doubtful = True
            self._patient.doubt()
