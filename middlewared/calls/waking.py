"""
Waking the device of one call: its pushes, from the first to the last.

Nothing is sent once the call is over; a verdict that arrives later still takes effect.
``waiter.pushes`` is the number of pushes that may have reached the phone so far.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from middlewared.background import Background
from middlewared.calls.corrections import correct, taught
from middlewared.calls.resend import UNCERTAIN_PAUSE_S, Series, backoff_s, is_pushed_once
from middlewared.calls.trace import Trace
from middlewared.clock import Clock
from middlewared.devices.interface import DeviceRegistry, is_silent
from middlewared.errors import DatabaseDown
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

PATIENCE_S = 0.25


@attrs.frozen
class WakingSettings:
    """
    How a device is woken; ``interval_s`` is the time between two pushes of a call.

    A device that did not answer its last ``silent_calls`` calls is silent (0: none is): it
    gets one push and has ``silent_wait_s`` to answer.
    """

    response_api: str
    interval_s: float
    silent_calls: int = 0
    silent_wait_s: float = 1.5


@attrs.define(eq=False)
class _Flight:
    """One push; ``counted``: it is counted as one that may have reached the phone."""

    counted: bool = False


class Waking:
    """
    Finds the device of a call and pushes to it until the call is over.

    Attempts start at their times; each is tried again, as the same attempt, while the
    provider has only temporary trouble. A time that falls into such a back-off is not
    used for another attempt: the retry stands for it. Nor is one at which this process is
    late: its own repeats must not keep an overload alive.

    A device that gets one push per call gets another only if the first certainly did not
    reach it, or is uncertain and was not answered within :data:`UNCERTAIN_PAUSE_S`.

    :param late: whether the event loop has more to do than it can do.
    :ivar accepted: how many pushes the provider accepted, including those of a daemon that died.
    :ivar accepted_at: when it first accepted a push of this daemon; None: it has not.
    :ivar device: the one being woken; None: none was found.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        registry: DeviceRegistry,
        rendezvous: Rendezvous,
        routes: Routes,
        background: Background,
        settings: WakingSettings,
        late: Callable[[], bool],
        waiter: Waiter,
        trace: Trace,
    ) -> None:
        self._clock = clock
        self._registry = registry
        self._rendezvous = rendezvous
        self._routes = routes
        self._background = background
        self._settings = settings
        self._late = late
        self._waiter = waiter
        self._call = waiter.call
        self._key = waiter.call.unique_key
        self._trace = trace
        self._over = False
        self._latest = self.accepted = waiter.pushes
        if waiter.took_over:
            waiter.pushes += 1  # it may have sent one that it had not counted yet
        self._once = False
        self._backing_off = False
        self._sleeping: set[Deferred[None]] = set()
        self.device: Device | None = None
        self.accepted_at: float | None = None

    async def run(self) -> None:
        """Wake the device; ends when the last attempt has started or the call is over."""
        await self._guarded(self._wake())

    def stop(self) -> None:
        """Send nothing more, wait for nothing more: the call is over, or cannot be woken."""
        self._over = True
        for sleep in list(self._sleeping):
            sleep.cancel()

    async def _guarded(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """A bug, wherever it is, is logged and does not keep the caller waiting."""
        try:
            await work
        except Exception:
            _log.failure("waking for call {fingerprint} failed", fingerprint=fingerprint(self._key))
            if not self.accepted:
                self.stop()
                await self._fail(Outcome.SERVICE_DOWN)

    async def _wake(self) -> None:
        """Find the device and the way to it, and push."""
        try:
            device = await self._registry.find(self._call.incoming.sip_user_id)
        except DatabaseDown:
            await self._fail(Outcome.SERVICE_DOWN)
            return
        self._trace.mark("device")
        if device is None or device.dnd:
            await self._fail(Outcome.NO_DEVICE)
            return
        self.device = device
        self._waiter.kind = DeviceKind(device.app, device.platform)
        route = self._routes.find(device.app, device.platform)
        if route is None:
            self._log_no_route(device)
            await self._fail(Outcome.PUSH_FAILED)
            return
        await self._push_in_time(device, route)

    async def _push_in_time(self, device: Device, route: Route) -> None:
        """Start each attempt at its time."""
        call, sent = self._call, self._latest
        silent = is_silent(device, self._settings.silent_calls)
        if silent:
            self._background.run(self._guarded(self._give_up()))
        self._once = silent or is_pushed_once(device, route.resend)
        series = Series(
            once=self._once,
            started_at=call.started_at,
            wait_s=call.deadline - call.started_at,
            interval_s=self._settings.interval_s,
        )
        now = self._clock.seconds()
        if self._waiter.took_over and not self._over and sent >= series.due(now):
            self._waiter.pushes -= 1  # all that were due are counted
        for at in series.times(now, sent=sent):
            await self._sleep(at - self._clock.seconds())
            if self._over:
                return
            # An answer may have come that this process has had no time to read.
            repeats_late = self._latest > sent and self._late()
            if not (self._backing_off or repeats_late):
                self._latest += 1
                self._background.run(self._guarded(self._attempt(self._latest)))

    async def _give_up(self) -> None:
        """End the call of a silent device early: the PBX has other ways to reach its owner."""
        ends_at = self._call.started_at + self._settings.silent_wait_s
        await self._sleep(ends_at - self._clock.seconds())
        if not self._over:
            await self._rendezvous.settle(self._key, Outcome.TIMEOUT)

    async def _attempt(self, attempt: int) -> None:
        """One attempt, repeated until the provider's answer is final or it is not wanted."""
        failures = 0
        while self.device is not None and self._is_wanted(attempt):
            result = await self._send(self.device, attempt)
            if not isinstance(result, Temporary | Uncertain):
                await self._judge(self.device, result)
                return
            failures += 1
            if self._is_wanted(attempt):
                await self._back_off(self._pause_s(result, failures))

    async def _send(self, device: Device, attempt: int) -> PushResult:
        """Send one push and record when it went and what came of it."""
        route = self._routes.find(device.app, device.platform)  # a reload may have changed it
        if route is None:
            return ConfigFault("app-removed")
        flight = _Flight()
        departs = partial(self._departs, attempt, flight)
        push = CallPush(
            device,
            self._call,
            attempt,
            self._settings.response_api,
            departs,
            repeat_after_s=UNCERTAIN_PAUSE_S if self._once else 0.0,
        )
        number = "" if attempt == 1 else str(attempt)
        self._trace.mark(f"sent{number}")
        result = await route.provider.send(push)
        self._count(flight, isinstance(result, Accepted | Uncertain))
        uncertain = isinstance(result, Uncertain)
        self._trace.mark(f"push{number}", note="uncertain" if uncertain else result.label)
        if isinstance(result, Accepted | Uncertain) and result.provider_id:
            self._trace.provider_ids.append(result.provider_id)
        if not isinstance(result, Accepted):
            _log.info(
                "push {attempt} for {sip_user_id} (call {fingerprint}) to {app} on {platform}:"
                " {result} {reason}",
                attempt=attempt,
                sip_user_id=device.sip_user_id,
                fingerprint=fingerprint(self._key),
                app=device.app,
                platform=device.platform.value,
                result="uncertain" if uncertain else result.label,
                reason=result.reason,
            )
        return result

    def _departs(self, attempt: int, flight: _Flight) -> bool:
        """Whether a push is still wanted; if so, it is about to be sent and is counted."""
        wanted = self._is_wanted(attempt)
        if wanted:
            self._count(flight, True)
        return wanted

    def _count(self, flight: _Flight, may_arrive: bool) -> None:
        if flight.counted is not may_arrive and not self._waiter.ended.called:
            flight.counted = may_arrive
            self._waiter.pushes += 1 if may_arrive else -1

    def _pause_s(self, result: Temporary | Uncertain, failures: int) -> float:
        """How long the next try of the same attempt has to wait."""
        if isinstance(result, Temporary):
            return _delay_s(failures, result.retry_after_s)
        if self._once:
            return result.sent_at + UNCERTAIN_PAUSE_S - self._clock.seconds()
        return _delay_s(failures, None)

    def _log_no_route(self, device: Device) -> None:
        _log.error(
            "no configuration for app {app} on {platform}: call {fingerprint}"
            " of {sip_user_id} fails",
            app=word(device.app),
            platform=device.platform.value,
            fingerprint=fingerprint(self._key),
            sip_user_id=device.sip_user_id,
        )

    async def _judge(self, device: Device, result: PushResult) -> None:
        """A final verdict: keep what it teaches about the device, end the call on a bad one."""
        if isinstance(result, Accepted):
            self.accepted += 1
            if self.accepted_at is None:
                self.accepted_at = self._clock.seconds()
            self.device = taught(device, result)
        else:
            self.stop()
        correction = correct(self._registry, device, result)
        dead = isinstance(result, TokenDead)
        # An uncertain push may still be answered, unless the device no longer exists.
        if not (isinstance(result, Accepted) or self.accepted) and (
            dead or not self._waiter.pushes
        ):
            await self._patiently(correction)
            await self._fail(Outcome.TOKEN_DEAD if dead else Outcome.PUSH_FAILED)
        await correction

    async def _patiently(self, correction: Deferred[None]) -> None:
        """
        Wait for ``correction``, but not long: whoever reads our refusal and looks again
        at once should find the device gone, and a slow database must not hold it up.
        """
        waited: Deferred[None] = Deferred()

        def enough(result: None = None) -> None:
            if not waited.called:
                waited.callback(None)
            return result

        timer = self._clock.callLater(PATIENCE_S, enough)
        correction.addBoth(enough)
        await waited
        if timer.active():
            timer.cancel()

    async def _fail(self, outcome: Outcome) -> None:
        """End the call, unless a push of a daemon that died may still be answered."""
        # The PBX may have placed the call again since, with the same UUID for its key.
        if not (self.accepted or self._waiter.ended.called):
            await self._rendezvous.settle(self._key, outcome)

    def _is_wanted(self, attempt: int) -> bool:
        """A push is of use while the call waits and no later attempt has taken its place."""
        return not self._over and attempt == self._latest

    async def _back_off(self, delay_s: float) -> None:
        self._backing_off = True
        await self._sleep(delay_s)
        self._backing_off = False

    async def _sleep(self, delay_s: float) -> None:
        """Wait, but no longer than the call lasts."""
        if delay_s <= 0 or self._over:
            return
        sleep: Deferred[None] = Deferred()
        timer = self._clock.callLater(delay_s, sleep.callback, None)
        self._sleeping.add(sleep)
        try:
            await sleep
        except CancelledError:
            timer.cancel()
        finally:
            self._sleeping.discard(sleep)


def _delay_s(failures: int, retry_after_s: float | None) -> float:
    """The provider's wish, or ours; "at once" is granted once, so that nothing spins."""
    own = backoff_s(failures, random.random())  # noqa: S311  (jitter, not a secret)
    if retry_after_s is None:
        return own
    return retry_after_s if failures == 1 else max(retry_after_s, own)


# Not of the class: an event would hold its call for as long as an observer keeps it.
_log = Logger()
