"""
The mass refusal: when many devices get the same 400, the app is configured wrongly.

Of the refused tokens only hashes are kept, at most :data:`MASS` for each reason.
"""

from __future__ import annotations

from twisted.logger import Logger

from middlewared.clock import Clock

PERIOD_S = 60.0
MASS = 10
"""Refusals of so many devices in a period with no more accepted pushes are too many."""


class MassRefusal:
    """
    Counts the refusals of one app's pushes of one kind in periods of a minute.

    Calls and notices are counted apart: they have different tokens and topics.

    :param app: for the log, as is ``kind``: ``calls`` or ``notices``.
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
        """A push was accepted: the configuration may be right."""
        self._accepted += 1

    def refused(self, reason: str, token: str) -> bool:
        """Count a refusal; True when it is one of too many."""
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
