"""
The states of all daemons at one database: each reports its own, and a console reads them.

With SQLite there is one daemon, and nothing is stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.calls.interface import OpenCall
from middlewared.clock import Clock, DelayedCall
from middlewared.console.sources import DaemonReport
from middlewared.devices.interface import DaemonState, DaemonStates
from middlewared.errors import DatabaseDown

INTERVAL_S = 2.0
LOST_S = 7.0
"""A daemon that has not reported for so long is lost; a minute later it is forgotten."""
MOST_HELD = 20
"""Held calls that a daemon reports by account; of more, the newest."""


class DaemonReports:
    """
    :param table: where daemons report; None: there is only this one.
    :param own: the report of this daemon.
    """

    log = Logger()

    def __init__(
        self, *, clock: Clock, table: DaemonStates | None, own: Callable[[], DaemonReport]
    ) -> None:
        self._clock = clock
        self._table = table
        self._own = own
        self._work = Background()
        self._timer: DelayedCall | None = None
        self._stopped = False

    def start(self) -> None:
        """Report now, and then at intervals."""
        if self._table is not None:
            self._timer = None
            self._work.run(self._report(self._table))

    async def stop(self) -> None:
        """Withdraw the report, so that no console shows this daemon as lost."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        await self._work.finish()
        if self._table is not None:
            with suppress(DatabaseDown):
                await self._table.withdraw_state(self._own().daemon)

    async def all(self) -> Sequence[DaemonReport]:
        """
        This daemon as it is now, and the others as they reported last.

        :raises DatabaseDown: the others are not known now.
        """
        own = self._own()
        if self._table is None:
            return [own]
        states = await self._table.daemon_states()
        others = [_report_of(state) for state in states if state.daemon != own.daemon]
        return sorted([own, *others], key=lambda report: report.daemon)

    async def _report(self, table: DaemonStates) -> None:
        own = self._own()
        try:
            await table.report_state(own.daemon, _text(own))
        except DatabaseDown as error:
            self.log.debug("this daemon was not reported: {error}", error=error)
        except CancelledError:
            return
        if not self._stopped:
            self._timer = self._clock.callLater(INTERVAL_S, self.start)


def _text(report: DaemonReport) -> str:
    return json.dumps(attrs.asdict(report))  # ASCII, whatever PBXs send


def _report_of(state: DaemonState) -> DaemonReport:
    """What another daemon, perhaps of another release, has reported."""
    try:
        values = json.loads(state.state)
        report = DaemonReport(
            daemon=state.daemon,
            version=str(values["version"]),
            health=str(values["health"]),
            waiting=int(values["waiting"]),
            held=[_call_of(call) for call in values["held"]],
        )
    except (ValueError, TypeError, KeyError):
        return DaemonReport(daemon=state.daemon, version="", health="unknown", waiting=0)
    return attrs.evolve(report, health="lost", held=()) if state.age_s > LOST_S else report


def _call_of(values: Mapping[str, Any]) -> OpenCall:
    fields = {field.name: values[field.name] for field in attrs.fields(OpenCall)}
    steps = [(str(name), float(took_ms)) for name, took_ms in fields.pop("steps")]
    return OpenCall(**fields, steps=steps)
