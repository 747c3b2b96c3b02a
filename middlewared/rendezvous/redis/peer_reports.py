"""
What the other daemons report about their Redis, through the database that all of them share.

A daemon that has lost Redis refuses new calls while another one has it: the phones' answers
would reach the others, which know nothing of its calls. It works alone only when all have
lost Redis, or when no one can be asked. A daemon that has Redis waits for nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.clock import Clock
from middlewared.devices.interface import DaemonHeartbeats, PeerHeartbeat
from middlewared.errors import DatabaseDown
from middlewared.waiting import FairCall, with_fair_timeout

INTERVAL_S = 1.0
INTERVAL_IN_DOUBT_S = 0.15
INTERVAL_IN_TROUBLE_S = 0.5
DOUBT_S = 0.7
"""How long other daemons get to notice that they have lost Redis, too."""
FAST_S = 5.0
REPORTS_LAST_S = 1.5


@attrs.frozen
class _Reports:
    """The reports that were read, and when they were asked for."""

    peers: Sequence[PeerHeartbeat]
    asked_at: float

    @property
    def some_has_redis(self) -> bool:
        return any(peer.redis_up for peer in self.peers)


class PeerReports:
    """
    Reports this daemon, and reads the others' reports.

    :param table: where daemons report; None: there are no others, and nothing to do.
    :param has_redis: whether Redis knows every call that is held here.
    :param waiting: how many requests are held here.
    """

    log = Logger()

    def __init__(
        self,
        *,
        clock: Clock,
        daemon: str,
        table: DaemonHeartbeats | None,
        has_redis: Callable[[], bool],
        waiting: Callable[[], int],
    ) -> None:
        self._clock = clock
        self._daemon = daemon
        self._table = table
        self._has_redis = has_redis
        self._waiting = waiting
        self._background = Background()
        self._stopped = True
        self._reporting = False
        self._again_at_once = False
        self._next: FairCall | None = None
        self._reports: _Reports | None = None
        self._lost_at: float | None = None
        self._undecided: set[Deferred[None]] = set()

    def start(self) -> None:
        """Report now, and from then on."""
        self._stopped = False
        self._report_now()

    async def stop(self) -> None:
        """Stop reporting; wait for a report in progress."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()
        await self._background.finish()

    def redis_troubled(self) -> None:
        """Redis is in trouble here: report it at once."""
        if self._lost_at is None and not self._has_redis():
            self._lost_at = self._clock.seconds()
            self._report_now()

    async def may_work_alone(self) -> bool:
        """
        Whether a call may be taken although Redis is away here; known within :data:`DOUBT_S`.

        False: another daemon has Redis.
        """
        if self._table is None:
            return True
        if self._lost_at is None:
            self._lost_at = self._clock.seconds()
            self._report_now()
        verdict = self._verdict()
        if verdict is None:
            verdict = await self._verdict_in_time()
        return verdict

    def all_have_redis(self, since: float | None) -> bool:
        """
        Whether no other daemon is known to be without Redis.

        :param since: when this daemon got Redis back; each of the others must have reported
            after that. None: that was long ago.
        """
        if self._table is None:
            return True
        reports = self._reports
        if reports is None or self._clock.seconds() - reports.asked_at > REPORTS_LAST_S:
            return since is None
        if not all(peer.redis_up for peer in reports.peers):
            return False
        return since is None or (
            reports.asked_at > since
            and all(reports.asked_at - peer.age_s > since for peer in reports.peers)
        )

    async def _verdict_in_time(self) -> bool:
        decided: Deferred[None] = Deferred()
        self._undecided.add(decided)
        try:
            await with_fair_timeout(decided, DOUBT_S, self._clock, late=lambda: None)
        finally:
            self._undecided.discard(decided)
        verdict = self._verdict()
        if verdict is None:
            reports = self._current_reports()
            return reports is None or not reports.some_has_redis
        return verdict

    def _verdict(self) -> bool | None:
        """Whether a call may be taken; None: not known yet."""
        in_doubt = self._lost_for_s() < DOUBT_S
        reports = self._current_reports()
        if reports is not None and not reports.some_has_redis:
            return True
        if in_doubt:
            return None
        return reports is None

    def _current_reports(self) -> _Reports | None:
        """The reports read since Redis was lost, unless they are old; None: there are none."""
        reports, now = self._reports, self._clock.seconds()
        if reports is None or now - reports.asked_at > REPORTS_LAST_S:
            return None
        if self._lost_at is not None and reports.asked_at < self._lost_at:
            return None
        return reports

    def _lost_for_s(self) -> float:
        """How long Redis has been away."""
        return 0.0 if self._lost_at is None else self._clock.seconds() - self._lost_at

    # Reporting

    def _report_now(self) -> None:
        if self._stopped or self._table is None:
            return
        if self._reporting:
            self._again_at_once = True
            return
        if self._next is not None:
            self._next.cancel()
        self._reporting = True
        self._background.run(self._report(self._table))

    async def _report(self, table: DaemonHeartbeats) -> None:
        asked_at, up = self._clock.seconds(), self._has_redis()
        self._lost_at = None if up else asked_at if self._lost_at is None else self._lost_at
        try:
            peers = await table.report(self._daemon, redis_up=up, waiting=self._waiting())
            self._reports = _Reports(peers, asked_at)
        except DatabaseDown:  # the reports that were read get old
            pass
        except Exception:
            self.log.failure("the report to other daemons failed")
        self._reporting = False
        if self._verdict() is not None:
            undecided, self._undecided = self._undecided, set()
            for decided in undecided:
                decided.callback(None)
        self._report_later()

    def _report_later(self) -> None:
        if self._stopped:
            return
        at_once, self._again_at_once = self._again_at_once, False
        self._next = FairCall(self._clock, 0 if at_once else self._interval_s(), self._report_now)

    def _interval_s(self) -> float:
        if self._lost_at is None:
            return INTERVAL_S
        return INTERVAL_IN_DOUBT_S if self._lost_for_s() < FAST_S else INTERVAL_IN_TROUBLE_S
