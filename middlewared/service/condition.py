"""How the daemon and what it depends on are at this moment."""

from __future__ import annotations

from typing import Any, Protocol

from middlewared.accounts.interface import AccountBackend
from middlewared.calls.overload import Overload
from middlewared.calls.ringing import Ringing
from middlewared.clock import Clock
from middlewared.rendezvous.interface import Rendezvous
from middlewared.service.readiness import Readiness
from middlewared.web.health import Health


class Reached(Protocol):
    """The registry of devices, as far as this room needs it."""

    @property
    def up(self) -> bool | None:
        """Whether the database was reached when it was last asked; None: not yet."""


class Condition:
    """Asks the parts of the daemon; keeps nothing but whether the start is over."""

    def __init__(
        self,
        *,
        clock: Clock,
        devices: Reached,
        rendezvous: Rendezvous,
        accounts: AccountBackend[Any],
        ringing: Ringing,
        overload: Overload,
    ) -> None:
        self._devices = devices
        self._rendezvous = rendezvous
        self._accounts = accounts
        self._ringing = ringing
        self._overload = overload
        self.readiness = Readiness(
            clock=clock, database_up=lambda: devices.up, redis_up=lambda: rendezvous.up
        )

    def health(self, *, draining: bool) -> Health:
        """As /health/ reports it."""
        return Health(
            database_up=self._devices.up is True,
            redis_up=self._rendezvous.up,
            waiting=self._ringing.waiting,
            lag_ms=round(self._overload.lag_s * 1000),
            draining=draining,
            started=self.readiness.started,
        )

    def dependencies(self) -> dict[str, bool]:
        """Which of those in use are up."""
        up = self._devices.up, self._rendezvous.up, self._accounts.up
        names = "database", "redis", "accounts"
        return {name: each for name, each in zip(names, up, strict=True) if each is not None}
