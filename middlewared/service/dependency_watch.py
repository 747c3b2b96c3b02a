"""
Pings what we depend on, so that an outage is noticed within three seconds, and its end too.

A dependency keeps the result of its last ping itself.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger

from middlewared.clock import Clock, DelayedCall
from middlewared.errors import ServiceDown
from middlewared.waiting import with_fair_timeout

INTERVAL_S = 1.0
DEADLINE_S = 1.5

Ping = Callable[[], Coroutine[Deferred[Any], Any, None]]


class DependencyWatch:
    """
    Pings each dependency, one second after the previous ping has ended, and logs when it goes
    down and comes back. A ping that has not ended after :data:`DEADLINE_S` is cancelled, and
    its dependency is down.

    :param pings: by the dependency's name; each raises ServiceDown when the dependency is
        away.
    """

    log = Logger()

    def __init__(self, *, clock: Clock, pings: Mapping[str, Ping]) -> None:
        self._clock = clock
        self._pings = pings
        self._up: dict[str, bool | None] = dict.fromkeys(pings)
        self._timers: dict[str, DelayedCall] = {}
        self._running: dict[str, Deferred[None]] = {}
        self._stopped = False

    def start(self) -> None:
        """Begin to ping."""
        for name in self._pings:
            self._ping(name)

    async def stop(self) -> None:
        """Stop pinging; wait for the pings under way."""
        self._stopped = True
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        for running in list(self._running.values()):
            await running

    def _ping(self, name: str) -> None:
        running = self._running[name] = Deferred.fromCoroutine(self._check(name))
        running.addBoth(lambda _: self._schedule(name))

    def _schedule(self, name: str) -> None:
        self._running.pop(name, None)
        if not self._stopped:
            self._timers[name] = self._clock.callLater(INTERVAL_S, self._ping, name)

    async def _check(self, name: str) -> None:
        try:
            ping = Deferred.fromCoroutine(self._pings[name]())
            await with_fair_timeout(ping, DEADLINE_S, self._clock)
        except ServiceDown as error:
            self._note(name, False, str(error))
        except TimeoutError:
            self._note(name, False, f"no answer in {DEADLINE_S} s")
        except Exception:
            self.log.failure("ping of {name} failed", name=name)
            self._note(name, False, "its ping failed")
        else:
            self._note(name, True, "")

    def _note(self, name: str, up: bool, why: str) -> None:
        before, self._up[name] = self._up[name], up
        if up is before:
            return
        if up and before is not None:
            self.log.warn("{name} is back", name=name)
        elif not up:
            self.log.error("{name} is down: {why}", name=name, why=why)
