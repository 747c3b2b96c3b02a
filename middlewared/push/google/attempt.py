"""
One attempt to push: its deadline, its troubles, its line in the log.

The one invariant: an attempt ends with a verdict no later than the push's deadline. Its
own time-out applies to the peer only: waiting for a connection costs nothing, while giving up
and retrying would keep the daemon busy just when it is overloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import Deferred

from middlewared.clock import Clock
from middlewared.outgoing.interface import (
    AnswerTimes,
    Dropped,
    HttpClient,
    HttpResponse,
    OutgoingFailed,
    Progress,
    TimedOut,
    Unwanted,
)
from middlewared.push.interface import (
    CallPush,
    ConfigFault,
    Push,
    PushResult,
    Rejected,
    Temporary,
    Uncertain,
)
from middlewared.push.troubles import Troubles
from middlewared.waiting import with_fair_timeout

ATTEMPT_TIMEOUT_S = 2.0
"""For connecting to Google, and again for its answer once it has the push."""

Judge: TypeAlias = Callable[[HttpResponse], PushResult | None]
"""Returns what an answer means; None: its status alone is not enough."""


@attrs.frozen
class Attempt:
    """One push in flight; ``progress`` is that of its latest request."""

    push: Push
    judge: Judge
    http: HttpClient
    clock: Clock
    timeout_s: float
    progress: Progress = attrs.field(factory=Progress)

    async def post(self, url: str, headers: Mapping[str, str | bytes], body: bytes) -> HttpResponse:
        """
        Send the push and return the answer as far as it arrived: a status that was read stands.

        :raises OutgoingFailed: no status came.
        """
        push = self.push
        wanted, patience_s = None, 0.0
        if isinstance(push, CallPush):
            wanted, patience_s = push.wanted, push.repeat_after_s
        try:
            return await self.http.request(
                "POST",
                url,
                headers=headers,
                body=body,
                timeout_s=self.timeout_s,
                turn_s=push.deadline - self.clock.seconds(),
                wanted=wanted,
                answer=AnswerTimes(self.timeout_s, patience_s),
                progress=self.progress,
            )
        except OutgoingFailed:
            if self.progress.partial is None:
                raise
            return self.progress.partial

    def verdict(self, reply: HttpResponse) -> PushResult:
        """What the answer means for the push."""
        result = self.judge(reply)
        if result is None:
            return Uncertain("broken-answer", self.progress.sent_at or self.clock.seconds())
        return result

    def without_answer(self, reason: str, retry_after_s: float | None = None) -> PushResult:
        """The verdict on a push that ended without a complete answer."""
        if self.progress.partial is not None:
            return self.verdict(self.progress.partial)
        if self.progress.sent_at is not None:
            return Uncertain(reason, self.progress.sent_at)
        return Temporary(reason, retry_after_s)


class Attempts:
    """
    Runs the attempts of one app's provider and reports their troubles to the operator.

    :param timeout_s: for connecting, and again for the answer.
    """

    def __init__(
        self, *, app: str, http: HttpClient, clock: Clock, timeout_s: float = ATTEMPT_TIMEOUT_S
    ) -> None:
        self._http = http
        self._clock = clock
        self._timeout_s = timeout_s
        self._troubles = Troubles(provider="Google", app=app, clock=clock)

    async def run(
        self,
        push: Push,
        send: Callable[[Attempt], Coroutine[Deferred[Any], Any, PushResult]],
        judge: Judge,
    ) -> PushResult:
        """Return the verdict of ``send``, or what is known when its time is up."""
        left_s = push.deadline - self._clock.seconds()
        if left_s <= 0:
            return Temporary("deadline")
        attempt = Attempt(push, judge, self._http, self._clock, self._timeout_s)
        running = Deferred.fromCoroutine(self._judged(attempt, send(attempt)))
        # The call's end, which waits for no one; but a verdict that has arrived is read.
        result = await with_fair_timeout(
            running, left_s, self._clock, partial(attempt.without_answer, "deadline"), slices=1
        )
        if isinstance(result, ConfigFault | Rejected):
            self._troubles.refused(result.reason)
        return result

    async def _judged(
        self, attempt: Attempt, sending: Coroutine[Deferred[Any], Any, PushResult]
    ) -> PushResult:
        try:
            return await sending
        except Unwanted:
            return Temporary("unwanted")
        except OutgoingFailed as error:
            self._troubles.failed(str(error))
            reason = "timeout" if isinstance(error, TimedOut) else "transport"
            return attempt.without_answer(reason, 0.0 if isinstance(error, Dropped) else None)
