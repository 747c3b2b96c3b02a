"""
The mass refusal: when many devices get the same 400, the app is configured wrongly.

The one invariant: it remembers only fingerprints, and no more than it needs to judge.
"""

from __future__ import annotations

from twisted.logger import Logger

from middlewared.clock import Clock

PERIOD_S = 60.0
MASS = 10
"""So many different devices in one period, and more of them than accepted pushes."""


class MassRefusal:
    """
    Counts the refusals of one app's pushes of one kind in periods of a minute.

    Calls and notices go to other tokens and another topic, so that what happens to one
    kind is nothing to the other.

    :param app: for the log; :param kind: likewise, ``calls`` or ``notices``.
    """

    log = Logger()

    def __init__(self, *, app: str, kind: str, clock: Clock) -> None:
        self._app = app
        self._kind = kind
        self._clock = clock
        self._ends = 0.0
        self._accepted = 0
        self._refused: dict[str, set[int]] = {}

    def accepted(self) -> None:
        """A push was accepted: refusals of some others may be theirs alone."""
        self._accepted += 1

    def refused(self, reason: str, token: str) -> bool:
        """Note a refusal; True when it is one of too many."""
        now = self._clock.seconds()
        if now >= self._ends:
            self._ends, self._accepted, self._refused = now + PERIOD_S, 0, {}
        devices = self._refused.setdefault(reason, set())
        known = len(devices)
        if known < MASS:
            devices.add(hash(token))
        if len(devices) < MASS or self._accepted > MASS:
            return False
        if known < MASS:
            self.log.critical(
                "{app}: Apple refuses many devices with {reason} ({kind}): is the topic, the"
                " certificate or the environment wrong? Nothing is removed",
                app=self._app,
                reason=reason,
                kind=self._kind,
            )
        return True
