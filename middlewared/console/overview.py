"""
What goes on now and went on in the last hours, at all daemons.

The figures of minutes that are over never change, so each is read from the database once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import attrs

from middlewared.clock import WallClock
from middlewared.console.daemon_reports import DaemonReports
from middlewared.console.sources import DaemonReport, OverviewSources
from middlewared.errors import DatabaseDown
from middlewared.history.interface import WAKEUP_BOUNDS_S, CallFigures, HistoryReader
from middlewared.history.json_forms import JsonForms
from middlewared.model import Platform

HOURS_S = 6 * 3600.0
SLOT_S = 600.0
_OVERLAP_S = 180.0
"""How late a daemon may write its minute."""
FiguresKey: TypeAlias = tuple[float, str, str, str]
"""Minute, daemon, app and platform."""
WAKEUP_LABELS = (*map(str, WAKEUP_BOUNDS_S), "inf")


@attrs.frozen(kw_only=True)
class AppFigures:
    """
    One app on one platform.

    ``connections``: by environment and state. ``recent`` and ``outcomes``: calls by outcome in
    the last minutes and hours. ``wakeups``: answered calls by wake-up time. ``expires``: None:
    its credential does not expire, or it is not configured here.
    """

    app: str
    platform: str
    configured: bool
    devices: int
    connections: Mapping[tuple[str, str], int]
    expires: float | None
    recent: Mapping[str, int]
    outcomes: Mapping[str, int]
    wakeups: Mapping[str, int]


@attrs.frozen(kw_only=True)
class Overview:
    """
    ``complete``: whether the other daemons and the last hours are known; they are not while the
    database is away. ``slots``: calls and those answered, by the start of each ten minutes.
    """

    daemons: Sequence[DaemonReport]
    complete: bool
    dependencies: Mapping[str, bool]
    apps: Sequence[AppFigures]
    calls_per_second: float
    slots: Sequence[tuple[float, int, int]]
    silent_devices: int | None


class Totals:
    """The sums of figures: by app and platform, and by ten minutes."""

    def __init__(self, figures: Iterable[CallFigures] = ()) -> None:
        self.outcomes: dict[tuple[str, str], Counter[str]] = {}
        self.wakeups: dict[tuple[str, str], Counter[str]] = {}
        self.calls: Counter[float] = Counter()
        self.answered: Counter[float] = Counter()
        self.add(figures)

    def add(self, figures: Iterable[CallFigures]) -> None:
        """Add more figures."""
        for each in figures:
            key, slot = (each.app, each.platform), each.at - each.at % SLOT_S
            self.outcomes.setdefault(key, Counter()).update(each.outcomes)
            self.wakeups.setdefault(key, Counter()).update(each.wakeups)
            self.calls[slot] += sum(each.outcomes.values())
            self.answered[slot] += each.outcomes.get("answered", 0)

    def plus(self, figures: Iterable[CallFigures]) -> Totals:
        """The sums with more figures; these stay as they are."""
        copy = Totals()
        copy.outcomes = {key: Counter(counts) for key, counts in self.outcomes.items()}
        copy.wakeups = {key: Counter(counts) for key, counts in self.wakeups.items()}
        copy.calls, copy.answered = Counter(self.calls), Counter(self.answered)
        copy.add(figures)
        return copy

    def slots(self, now: float) -> Sequence[tuple[float, int, int]]:
        """Calls and those answered, for each ten minutes of the last hours."""
        last = now - now % SLOT_S
        starts = [last - number * SLOT_S for number in reversed(range(int(HOURS_S / SLOT_S)))]
        return [(start, self.calls[start], self.answered[start]) for start in starts]


class OverviewReader:
    """Puts an overview together."""

    def __init__(
        self,
        *,
        wall: WallClock,
        history: HistoryReader,
        reports: DaemonReports,
        sources: OverviewSources,
    ) -> None:
        self._wall = wall
        self._history = history
        self._reports = reports
        self._sources = sources
        self._known: dict[FiguresKey, CallFigures] = {}
        self._totals = Totals()
        self._read_until = 0.0

    async def read(self) -> Overview:
        """The state now; without the database, what this daemon knows."""
        now, complete = self._wall(), True
        try:
            daemons = await self._reports.all()
            await self._read_figures(now)
        except DatabaseDown:
            daemons, complete = [self._sources.report()], False
        # Some may have been written meanwhile.
        unwritten = [each for each in self._sources.figures() if _key(each) not in self._known]
        current = [each for each in unwritten if each.at >= now - HOURS_S]
        totals, minute = self._totals.plus(current), now - now % 60
        recent = [each for each in (*self._known.values(), *current) if each.at >= minute - 60]
        calls = sum(sum(each.outcomes.values()) for each in recent)
        return Overview(
            daemons=daemons,
            complete=complete,
            dependencies=self._sources.dependencies(),
            apps=self._apps(totals, Totals(recent)),
            calls_per_second=calls / (now - minute + 60),
            slots=totals.slots(now),
            silent_devices=self._sources.silent_devices(),
        )

    async def _read_figures(self, now: float) -> None:
        before, oldest = dict(self._known), now - HOURS_S
        for figures in await self._history.call_figures(max(oldest, self._read_until)):
            self._known[_key(figures)] = figures
        self._read_until = now - _OVERLAP_S
        for key in [key for key in self._known if key[0] < oldest]:
            del self._known[key]
        if self._known != before:  # once a minute
            self._totals = Totals(self._known.values())

    def _apps(self, totals: Totals, recent: Totals) -> Sequence[AppFigures]:
        sources = self._sources
        expiry, devices = sources.expiry(), sources.devices()
        connections: dict[str, dict[tuple[str, str], int]] = {}
        for (app, environment, state), count in sources.connections().items():
            connections.setdefault(app, {})[environment, state] = count
        outcomes, wakeups, lately = totals.outcomes, totals.wakeups, recent.outcomes
        configured = {(app, platform.value) for app, platform in expiry}
        registered = {(app, platform.value) for app, platform in devices}
        found = []
        for app, platform in sorted(configured | registered | outcomes.keys()):
            key = None if platform == "none" else (app, Platform(platform))
            found.append(
                AppFigures(
                    app=app,
                    platform=platform,
                    configured=(app, platform) in configured,
                    devices=0 if key is None else devices.get(key, 0),
                    connections=connections.get(app, {}),
                    expires=None if key is None else expiry.get(key),
                    recent=lately.get((app, platform), {}),
                    outcomes=outcomes.get((app, platform), {}),
                    wakeups=wakeups.get((app, platform), {}),
                )
            )
        return found


def _key(figures: CallFigures) -> FiguresKey:
    return figures.at, figures.daemon, figures.app, figures.platform


def median_wakeup(wakeups: Mapping[str, int]) -> str | None:
    """The bound below which half of the answered calls were; None: there were none."""
    whole = sum(wakeups.values())
    counted = 0
    for label in WAKEUP_LABELS if whole else ():
        counted += wakeups.get(label, 0)
        if 2 * counted >= whole:
            return label
    return None


def overview_json(overview: Overview, forms: JsonForms) -> dict[str, Any]:
    """The overview as ``/api/overview`` has it."""
    return {
        "daemons": [
            {
                "daemon": report.daemon,
                "version": report.version,
                "health": report.health,
                "waiting": report.waiting,
                "held_calls": [
                    {
                        "sip_user_id": forms.account(call.sip_user_id),
                        "unique_key": call.unique_key,
                        "call_id": call.call_id,
                        "app": call.app,
                        "platform": call.platform,
                        "start": time_text(call.start),
                    }
                    for call in report.held
                ],
            }
            for report in overview.daemons
        ],
        "complete": overview.complete,
        "dependencies": {
            name: "up" if up else "down" for name, up in overview.dependencies.items()
        },
        "credentials": [
            {
                "app": app.app,
                "platform": app.platform,
                "expires": None if app.expires is None else time_text(app.expires),
            }
            for app in overview.apps
            if app.configured
        ],
        "calls_per_second": round(overview.calls_per_second, 3),
        "calls": [
            {"start": time_text(start), "calls": calls, "answered": answered}
            for start, calls, answered in overview.slots
        ],
        "silent_devices": overview.silent_devices,
        "apps": [_app_json(app) for app in overview.apps],
    }


def _app_json(app: AppFigures) -> dict[str, Any]:
    return {
        "app": app.app,
        "platform": app.platform,
        "configured": app.configured,
        "devices": app.devices,
        "connections": [
            {"environment": environment, "state": state, "count": count}
            for (environment, state), count in app.connections.items()
        ],
        "outcomes_now": dict(app.recent),
        "outcomes": dict(app.outcomes),
        "wakeup_seconds": [
            {"at_most": None if label == "inf" else float(label), "calls": app.wakeups[label]}
            for label in WAKEUP_LABELS
            if app.wakeups.get(label)
        ],
    }


def time_text(epoch_s: float) -> str:
    """ISO 8601 in UTC; whole seconds."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
