"""Kamailios' requests over evapi, served by the code behind the PBXs' HTTP routes."""

from __future__ import annotations

from functools import partial

import attrs

from middlewared.calls.interface import Calls
from middlewared.calls.trace import Trace
from middlewared.clock import Clock
from middlewared.errors import MiddlewaredError
from middlewared.kamailio.interface import Fields, Rung
from middlewared.logs.interface import RepeatCounter
from middlewared.model import Outcome
from middlewared.web.filters import ObservePbx
from middlewared.web.replies import refusal_of
from middlewared.web.root import Web
from middlewared.web.settings import Pbx


@attrs.frozen(kw_only=True)
class KamailioRequests:
    """
    Implements :class:`~middlewared.kamailio.interface.Requests`.

    Faults are logged and counted as those of HTTP requests are.
    """

    clock: Clock
    calls: Calls
    web: Web
    repeats: RepeatCounter
    observe_pbx: ObservePbx

    async def ring(self, fields: Fields, name: str) -> Rung:
        trace = Trace(self.clock.seconds)
        settings = self.web.settings.current
        pbx = next(
            (each for each in settings.kamailios if each.name == name),
            Pbx(name=name, networks=None),
        )
        try:
            incoming = self.web.pbx_calls.admit(dict(fields), settings, pbx)
            del fields  # thousands of calls may wait
            outcome = Outcome.OVERLOADED
            if incoming is not None:
                outcome = await self.calls.ring(incoming, trace)
        except MiddlewaredError as error:
            outcome = self._refusal("a call", name, error)
            self.calls.refused(outcome)
        self.observe_pbx(name, outcome)
        return Rung(outcome, partial(trace.mark, "replied"))

    async def cancel(self, fields: Fields, name: str) -> None:
        settings = self.web.settings.current
        try:
            outcome = await self.web.pbx_calls.cancel(dict(fields), settings)
        except MiddlewaredError as error:
            outcome = self._refusal("a cancellation", name, error)
        self.observe_pbx(name, outcome)

    async def register(self, fields: Fields, name: str, received_at: float) -> None:
        settings = self.web.settings.current
        try:
            await self.web.pbx_registrations.report(dict(fields), settings, received_at)
        except MiddlewaredError as error:
            self._refusal("a registration", name, error)

    def _refusal(self, what: str, name: str, error: MiddlewaredError) -> Outcome:
        self.repeats.count(f"{what} of kamailio {name} refused: {error}")
        return refusal_of(error).outcome
