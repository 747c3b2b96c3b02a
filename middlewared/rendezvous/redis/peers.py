"""
What the other daemons say of their Redis, by way of the database that all of them share.

A daemon that has lost Redis refuses new calls while another one has it: the phones' answers
would reach the others, which know nothing of its calls. Only when all have lost it, or no
one can be asked, does it go on alone. Nothing here is waited for by a daemon that has Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.clock import Clock
from middlewared.devices.interface import DaemonHeartbeats, PeerHeartbeat
from middlewared.errors import DatabaseDown
from middlewared.waiting import FairCall

INTERVAL_S = 1.0
INTERVAL_IN_DOUBT_S = 0.15
INTERVAL_IN_TROUBLE_S = 0.5
DOUBT_S = 0.7
"""So long other daemons are given to notice that they, too, have lost Redis."""
FAST_S = 5.0
REPORTS_LAST_S = 1.5


class NoPeers:
    """A daemon that shares its Redis with no other, or knows none."""

    def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    def hurry(self) -> None:
        """Nothing to do."""

    async def may_go_alone(self) -> bool:
        """There is no one else."""
        return True

    def all_have_redis(self, since: float | None) -> bool:  # noqa: ARG002
        """There is no one else."""
        return True


@attrs.frozen
class _Reports:
    """What was read, and when it was asked for."""

    peers: Sequence[PeerHeartbeat]
    asked_at: float

    @property
    def some_has_redis(self) -> bool:
        return any(peer.redis_up for peer in self.peers)


class Peers:
    """
    Reports this daemon, and reads the others' reports.

    :param has_redis: whether Redis knows every call that is held here.
    :param waiting: how many requests are held here.
    """

    log = Logger()

    def __init__(
        self,
        *,
        clock: Clock,
        daemon: str,
        table: DaemonHeartbeats,
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
        self._hurried = False
        self._next: FairCall | None = None
        self._reports: _Reports | None = None
        self._lost_at: float | None = None
        self._held_up: set[Deferred[None]] = set()

    def start(self) -> None:
        """Report now, and from then on."""
        self._stopped = False
        self._report_soon()

    async def stop(self) -> None:
        """Report no more; a report under way is waited for."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()
        await self._background.finish()

    def hurry(self) -> None:
        """Redis is in trouble here: report at once."""
        if self._lost_at is None and not self._has_redis():
            self._lost_at = self._clock.seconds()
            self._report_soon()

    async def may_go_alone(self) -> bool:
        """
        Whether a call may be taken though Redis is away here; known within :data:`DOUBT_S`.

        False: another daemon has Redis.
        """
        if self._lost_at is None:
            self._lost_at = self._clock.seconds()
            self._report_soon()
        verdict = self._verdict()
        if verdict is None:
            verdict = await self._in_time_verdict()
        return verdict

    def all_have_redis(self, since: float | None) -> bool:
        """
        Whether no other daemon is known to be without Redis.

        :param since: when this daemon got Redis back; each of the others must have reported
            after that. None: that was long ago.
        """
        reports = self._reports
        if reports is None or self._clock.seconds() - reports.asked_at > REPORTS_LAST_S:
            return since is None
        if not all(peer.redis_up for peer in reports.peers):
            return False
        return since is None or (
            reports.asked_at > since
            and all(reports.asked_at - peer.age_s > since for peer in reports.peers)
        )

    async def _in_time_verdict(self) -> bool:
        held_up: Deferred[None] = Deferred()
        self._held_up.add(held_up)
        patience = FairCall(self._clock, DOUBT_S, held_up.callback, None)
        try:
            await held_up
        finally:
            patience.cancel()
            self._held_up.discard(held_up)
        verdict = self._verdict()
        if verdict is None:
            known = self._known()
            return known is None or not known.some_has_redis
        return verdict

    def _verdict(self) -> bool | None:
        """May a call be taken? None: that is not known yet."""
        in_doubt = self._lasted_s() < DOUBT_S
        known = self._known()
        if known is not None and not known.some_has_redis:
            return True
        if in_doubt:
            return None
        return known is None

    def _known(self) -> _Reports | None:
        """The reports that were read after Redis was lost and not long ago; None: unknown."""
        reports, now = self._reports, self._clock.seconds()
        if reports is None or now - reports.asked_at > REPORTS_LAST_S:
            return None
        if self._lost_at is not None and reports.asked_at < self._lost_at:
            return None
        return reports

    def _lasted_s(self) -> float:
        """How long Redis has been away."""
        return 0.0 if self._lost_at is None else self._clock.seconds() - self._lost_at

    # Reporting

    def _report_soon(self) -> None:
        if self._stopped:
            return
        if self._reporting:
            self._hurried = True
            return
        if self._next is not None:
            self._next.cancel()
        self._reporting = True
        self._background.run(self._report())

    async def _report(self) -> None:
        asked_at, up = self._clock.seconds(), self._has_redis()
        self._lost_at = None if up else asked_at if self._lost_at is None else self._lost_at
        try:
            peers = await self._table.report(self._daemon, redis_up=up, waiting=self._waiting())
            self._reports = _Reports(peers, asked_at)
        except DatabaseDown:  # the reports that were read get old
            pass
        except Exception:
            self.log.failure("the report to other daemons failed")
        self._reporting = False
        if self._verdict() is not None:
            for held_up in list(self._held_up):
                held_up.callback(None)
        self._report_again()

    def _report_again(self) -> None:
        if self._stopped:
            return
        hurried, self._hurried = self._hurried, False
        self._next = FairCall(self._clock, 0 if hurried else self._interval_s(), self._report_soon)

    def _interval_s(self) -> float:
        if self._lost_at is None:
            return INTERVAL_S
        return INTERVAL_IN_DOUBT_S if self._lasted_s() < FAST_S else INTERVAL_IN_TROUBLE_S


AnyPeers: TypeAlias = NoPeers | Peers
