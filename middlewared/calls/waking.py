"""
Waking the device of one call: its pushes, from the first to the last.

A call goes through the methods of :class:`Waking` from top to bottom: find the device, start
each attempt at its time, send the push, act on the result. Once the call is over nothing is
sent, but a result that arrives later still updates the device. ``waiter.pushes`` is the
number of pushes that may have reached the phone so far.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.backoff import backoff_s
from middlewared.calls.device_updates import store_update, updated
from middlewared.calls.resend import PushSchedule, is_pushed_once
from middlewared.calls.sent_pushes import OutstandingPush, SentPushes
from middlewared.calls.trace import Trace
from middlewared.clock import Clock, DelayedCall
from middlewared.devices.interface import DeviceRegistry, is_silent
from middlewared.errors import DatabaseDown
from middlewared.history.interface import Hindrance, Recorder
from middlewared.model import Device, DeviceKind, Outcome
from middlewared.push.interface import (
    Accepted,
    CallPush,
    ConfigFault,
    PushResult,
    Route,
    Routes,
    Temporary,
    TokenDead,
    Uncertain,
)
from middlewared.quoting import fingerprint, word
from middlewared.rendezvous.interface import Rendezvous, Waiter

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.15, 2.0
UNCERTAIN_PAUSE_S = 1.5
"""How long a device that gets one push per call has to answer an uncertain one."""
STORING_WAIT_S = 0.25
"""How long a refused call waits for the update of its device."""


@attrs.frozen
class WakingSettings:
    """
    How a device is woken, unless its route has its own; ``interval_s`` is the time between two
    pushes of a call.

    A device that did not answer its last ``silent_calls`` calls is silent (0: none is): it
    gets one push and has ``silent_wait_s`` to answer.
    """

    response_api: str
    interval_s: float
    silent_calls: int
    silent_wait_s: float


@attrs.frozen(kw_only=True)
class Waker:
    """
    Wakes devices: what each :class:`Waking` needs, the same for all calls.

    ``overloaded``: whether the event loop has more to do than it can do.
    """

    clock: Clock
    registry: DeviceRegistry
    rendezvous: Rendezvous
    routes: Routes
    background: Background
    recorder: Recorder
    overloaded: Callable[[], bool]

    def waking(self, waiter: Waiter, trace: Trace, settings: WakingSettings) -> Waking:
        """For the call that ``waiter`` has opened; not started yet."""
        return Waking(self, waiter, trace, settings)


class Waking:
    """
    Finds the device of a call and pushes to it until the call is over.

    Attempts start at their times; each is tried again, as the same attempt, while the
    provider has only temporary trouble. A time that falls into such a back-off starts no
    attempt: the retry replaces it. Neither does one at which the event loop is overloaded,
    since repeats must not keep an overload alive.

    A device that gets one push per call gets another only if the first certainly did not
    reach it, or is uncertain and was not answered within :data:`UNCERTAIN_PAUSE_S`.

    :ivar accepted: how many pushes the provider accepted, including those of a daemon that died.
    :ivar accepted_at: when it first accepted a push of this daemon; None: it has not.
    :ivar inherited: how many pushes a daemon that died had sent.
    :ivar registered: the account's device, which may not want to be disturbed; None: it has none.
    :ivar device: the one being woken; None: none was found.
    :ivar hindrance: why it is not woken as usual.
    :ivar sent: its pushes, for the history.
    """

    def __init__(
        self, waker: Waker, waiter: Waiter, trace: Trace, settings: WakingSettings
    ) -> None:
        self._waker = waker
        self._settings = settings
        self._waiter = waiter
        self.call = waiter.call
        self._key = waiter.call.unique_key
        self.trace = trace
        self._over = False
        self._latest = self.accepted = waiter.pushes
        self.inherited = self._latest
        if waiter.took_over:
            waiter.pushes += 1  # the daemon that died may have sent one that it had not counted
        self._once = False
        self._backing_off = False
        self._sleeping: dict[Deferred[None], DelayedCall] = {}
        self.registered: Device | None = None
        self.device: Device | None = None
        self.accepted_at: float | None = None
        self.hindrance = Hindrance.NONE
        self.sent = SentPushes()

    @property
    def wait_s(self) -> float:
        """How long the device has to answer."""
        wait_s = self.call.deadline - self.call.started_at
        silent = self.hindrance is Hindrance.SILENT
        return min(wait_s, self._settings.silent_wait_s) if silent else wait_s

    def start(self) -> None:
        """Wake the device in the background."""
        self._run(self._wake())

    def stop(self) -> None:
        """Send no more pushes: the call is over, or its device cannot be woken."""
        self._over = True
        # Fired, not cancelled: an exception would cost time while the reply is written, and
        # from Python 3.12 on it keeps its frames, and so the call, in a reference cycle.
        sleeping, self._sleeping = self._sleeping, {}
        for sleep, timer in sleeping.items():
            timer.cancel()
            sleep.callback(None)

    def _run(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        self._waker.background.run(self._guarded(work))

    async def _guarded(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """Log a bug, wherever it is, and do not keep the caller waiting for it."""
        try:
            await work
        except Exception:
            _log.failure("waking for call {fingerprint} failed", fingerprint=fingerprint(self._key))
            if not self.accepted:
                self.stop()
                await self._fail(Outcome.SERVICE_DOWN)

    async def _wake(self) -> None:
        """Find the device and its route, and push."""
        try:
            device = await self._waker.registry.find(self.call.incoming.sip_user_id)
        except DatabaseDown:
            await self._fail(Outcome.SERVICE_DOWN)
            return
        self.registered = device
        self.hindrance = _hindrance(device)
        self.trace.mark("device", note=self.hindrance.value)
        if device is None or device.dnd:
            await self._fail(Outcome.NO_DEVICE)
            return
        self.device = device
        self._waiter.kind = DeviceKind(device.app, device.platform)
        route = self._waker.routes.find(device.app, device.platform)
        if route is None:
            self._log_no_route(device)
            self.hindrance = Hindrance.NO_SECTION
            await self._fail(Outcome.PUSH_FAILED)
            return
        await self._push_on_schedule(device, route)

    async def _push_on_schedule(self, device: Device, route: Route) -> None:
        """Start each attempt at its time."""
        clock, call, sent = self._waker.clock, self.call, self._latest
        silent = is_silent(device, self._settings.silent_calls)
        if silent:
            self.hindrance = Hindrance.SILENT
            self._run(self._end_early())
        self._once = silent or is_pushed_once(device, route.resend)
        schedule = PushSchedule(
            once=self._once,
            started_at=call.started_at,
            wait_s=call.deadline - call.started_at,
            interval_s=route.resend_interval_s or self._settings.interval_s,
        )
        now = clock.seconds()
        if self._waiter.took_over and not self._over and sent >= schedule.due(now):
            self._waiter.pushes -= 1  # it had counted all that were due, so it sent no other
        times = schedule.times(now, sent=sent)
        for at in times:
            await self._sleep(at - clock.seconds())
            if self._over:
                return
            # Under overload the phone's answer may have arrived, but not been read yet.
            skipped = self._latest > sent and self._waker.overloaded()
            if self._backing_off or skipped:
                continue
            self._latest += 1
            attempt = self._attempt(self._latest)
            if at == times[-1]:
                await attempt
            else:
                self._run(attempt)

    async def _end_early(self) -> None:
        """End the call of a silent device early: the PBX has other ways to reach its owner."""
        ends_at = self.call.started_at + self._settings.silent_wait_s
        await self._sleep(ends_at - self._waker.clock.seconds())
        if not self._over:
            await self._waker.rendezvous.settle(self._key, Outcome.TIMEOUT)

    async def _attempt(self, attempt: int) -> None:
        """One attempt, repeated until its result is final or the push is not wanted any more."""
        failures = 0
        while (device := self.device) is not None and self._is_wanted(attempt):
            result = await self._send(device, attempt)
            if not isinstance(result, Temporary | Uncertain):
                await self._finish(device, result)
                return
            failures += 1
            if self._is_wanted(attempt):
                await self._back_off(self._pause_s(result, failures))

    async def _send(self, device: Device, attempt: int) -> PushResult:
        """Send one push and record its result."""
        # A reload may have changed the route.
        route = self._waker.routes.find(device.app, device.platform)
        if route is None:
            return ConfigFault("app-removed")
        outstanding = OutstandingPush(self._waiter)
        push = CallPush(
            device,
            self.call,
            attempt,
            route.response_api or self._settings.response_api,
            wanted=partial(self._confirm, attempt, outstanding),
            repeat_after_s=UNCERTAIN_PAUSE_S if self._once else 0.0,
            template=route.template,
        )
        number = "" if attempt == 1 else str(attempt)
        self.trace.mark(f"sent{number}")
        result = await self.sent.send(push, route.provider, self._waker.clock)
        outstanding.count(isinstance(result, Accepted | Uncertain))
        self.trace.mark(f"push{number}", note=_label(result))
        if result.provider_id:
            self.trace.provider_ids.append(result.provider_id)
        if not isinstance(result, Accepted):
            self._log_failed_push(device, attempt, result)
        return result

    def _confirm(self, attempt: int, outstanding: OutstandingPush) -> bool:
        """Whether a push is still wanted; if so, it is about to be sent and is counted."""
        wanted = self._is_wanted(attempt)
        if wanted:
            outstanding.count(True)
        return wanted

    async def _finish(self, device: Device, result: PushResult) -> None:
        """Update the device after the final result of a push to it; end the call on a bad one."""
        if isinstance(result, Accepted):
            self.accepted += 1
            if self.accepted_at is None:
                self.accepted_at = self._waker.clock.seconds()
            self.device = updated(device, result)
            if self.device is device:
                return
        else:
            self.stop()
        # It starts at once, so that a look-up made after it sees the change.
        storing = Deferred.fromCoroutine(
            store_update(self._waker.registry, self._waker.recorder, device, result)
        )
        dead = isinstance(result, TokenDead)
        # An uncertain push may still be answered, unless the device no longer exists.
        if not self.accepted and (dead or not self._waiter.pushes):
            await self._wait_briefly(storing)
            await self._fail(Outcome.TOKEN_DEAD if dead else Outcome.PUSH_FAILED)
        await storing

    async def _wait_briefly(self, storing: Deferred[None]) -> None:
        """
        Wait for ``storing``, :data:`STORING_WAIT_S` at most: a PBX that calls again at once
        should find the device gone, but a slow database must not delay the refusal.
        """
        if storing.called:
            return
        pause: Deferred[None] = deferLater(self._waker.clock, STORING_WAIT_S)  # type: ignore[arg-type]

        def end_pause(result: None) -> None:
            pause.cancel()
            return result

        storing.addBoth(end_pause)
        with suppress(CancelledError):
            await pause

    async def _fail(self, outcome: Outcome) -> None:
        """End the call, unless a push of a daemon that died may still be answered."""
        # The PBX may have placed the call again since, with the same UUID as its key.
        if not (self.accepted or self._waiter.ended.called):
            await self._waker.rendezvous.settle(self._key, outcome)

    def _is_wanted(self, attempt: int) -> bool:
        """Whether the call still waits and no later attempt has replaced this one."""
        return not self._over and attempt == self._latest

    def _pause_s(self, result: Temporary | Uncertain, failures: int) -> float:
        """How long to wait before the next try of the same attempt."""
        if isinstance(result, Uncertain) and self._once:
            return result.sent_at + UNCERTAIN_PAUSE_S - self._waker.clock.seconds()
        pause_s = backoff_s(failures, first_s=FIRST_BACKOFF_S, longest_s=LONGEST_BACKOFF_S)
        if isinstance(result, Uncertain) or result.retry_after_s is None:
            return pause_s
        # "At once" (0) is granted once, so that nothing spins.
        return result.retry_after_s if failures == 1 else max(result.retry_after_s, pause_s)

    async def _back_off(self, delay_s: float) -> None:
        self._backing_off = True
        await self._sleep(delay_s)
        self._backing_off = False

    async def _sleep(self, delay_s: float) -> None:
        """Wait, but no longer than the call lasts."""
        if delay_s <= 0 or self._over:
            return
        sleep: Deferred[None] = Deferred()
        self._sleeping[sleep] = self._waker.clock.callLater(delay_s, sleep.callback, None)
        try:
            await sleep
        finally:
            timer = self._sleeping.pop(sleep, None)
            if timer is not None and timer.active():
                timer.cancel()

    def _log_no_route(self, device: Device) -> None:
        _log.error(
            "no configuration for app {app} on {platform}: call {fingerprint}"
            " of {sip_user_id} fails",
            app=word(device.app),
            platform=device.platform.value,
            fingerprint=fingerprint(self._key),
            sip_user_id=device.sip_user_id,
        )

    def _log_failed_push(self, device: Device, attempt: int, result: PushResult) -> None:
        pbx = self.call.incoming.pbx
        _log.info(
            "push {attempt} for {sip_user_id} (call {fingerprint}) to {app} on {platform}:"
            " {result} {reason}",
            attempt=attempt,
            sip_user_id=device.sip_user_id,
            fingerprint=fingerprint(self._key),
            app=device.app,
            platform=device.platform.value,
            result=_label(result),
            reason=result.reason,
            **({"pbx": pbx} if pbx else {}),
        )


def _hindrance(device: Device | None) -> Hindrance:
    """Why a device that was looked up is not to be woken."""
    if device is None:
        return Hindrance.NOT_REGISTERED
    return Hindrance.DO_NOT_DISTURB if device.dnd else Hindrance.NONE


def _label(result: PushResult) -> str:
    return "uncertain" if isinstance(result, Uncertain) else result.label


# Not of the class: an event would hold its call for as long as an observer keeps it.
_log = Logger()
