"""
One call, from the PBX's request to its outcome.

The one invariant: every request gets exactly one outcome, at the call's deadline at
the latest, and nothing stands between a phone's answer and that outcome.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import attrs
from twisted.internet.defer import CancelledError

from middlewared.background import Background
from middlewared.calls.trace import Trace
from middlewared.calls.waking import Waking, WakingSettings
from middlewared.clock import Clock
from middlewared.devices.interface import DeviceRegistry
from middlewared.errors import RendezvousDown
from middlewared.model import Answer, Call, Device, IncomingCall, Outcome, Settlement
from middlewared.push.interface import Routes
from middlewared.rendezvous.interface import Place, Rendezvous


@attrs.frozen
class RingingSettings:
    """How calls are treated from now on; those that wait keep what they began with."""

    wait_s: float
    max_waiting: int
    waking: WakingSettings


@attrs.frozen
class EndedCall:
    """
    A request for a call that has ended.

    ``joined``: it repeated a call that was known. ``device``: None when none was found,
    or when this place had joined. ``settlement``: None when the PBX gave up.
    """

    call: Call
    trace: Trace
    joined: bool
    device: Device | None
    settlement: Settlement | None


class Ringing:
    """
    Rings devices; implements :class:`~.interface.Calls`.

    :param ended: hears of every request that ended, right before its reply is written,
        so it must put off all work.
    :param new_key: gives a fresh unguessable unique_key.
    :ivar draining: set it to refuse new calls.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        registry: DeviceRegistry,
        rendezvous: Rendezvous,
        routes: Routes,
        background: Background,
        ended: Callable[[EndedCall], None],
        new_key: Callable[[], str],
        settings: RingingSettings,
    ) -> None:
        self._clock = clock
        self._registry = registry
        self._rendezvous = rendezvous
        self._routes = routes
        self._background = background
        self._ended = ended
        self._new_key = new_key
        self.settings = settings
        self.draining = False

    async def ring(self, incoming: IncomingCall, trace: Trace) -> Outcome:
        """See :meth:`.interface.Calls.ring`."""
        if self.draining:
            return Outcome.DRAINING
        if self._rendezvous.waiting >= self.settings.max_waiting:
            return Outcome.OVERLOADED
        try:
            place = await self._rendezvous.join(self._call(incoming))
        except RendezvousDown:
            return Outcome.SERVICE_DOWN
        waking = self._wake(place, trace) if place.first else None
        settlement = None
        try:
            settlement = await place.settled
        except CancelledError:
            trace.mark("hung-up")
            raise
        finally:
            place.leave()
            if settlement is not None and settlement.answer is not None:
                trace.mark("answer", settlement.answer.received_at)
            device = waking.device if waking is not None else None
            self._ended(EndedCall(place.call, trace, waking is None, device, settlement))
        return settlement.outcome

    async def answer(self, unique_key: str, answer: Answer) -> bool:
        """See :meth:`.interface.Calls.answer`."""
        return await self._rendezvous.answer(unique_key, answer)

    def _call(self, incoming: IncomingCall) -> Call:
        """
        Open a new call. Deployed iOS apps make a UUID of its key, and whoever guesses a
        key could answer: so a call_id serves as key only when it is a UUID.
        """
        key = incoming.call_id if is_uuid(incoming.call_id) else self._new_key()
        started_at = self._clock.seconds()
        return Call(key, incoming, started_at, started_at + self.settings.wait_s)

    def _wake(self, place: Place, trace: Trace) -> Waking:
        """Begin to wake the device of the call that ``place`` has opened."""
        waking = Waking(
            clock=self._clock,
            registry=self._registry,
            rendezvous=self._rendezvous,
            routes=self._routes,
            background=self._background,
            settings=self.settings.waking,
            place=place,
            trace=trace,
        )
        self._background.run(waking.run())
        return waking


def is_uuid(text: str) -> bool:
    """Whether ``text`` is a UUID of 32 hex digits, dashed (RFC 9562 section 4) or not."""
    if len(text) not in (32, 36):
        return False
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return False
    return text.lower() in (parsed.hex, str(parsed))
