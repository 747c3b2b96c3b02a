"""
What the providers of FCM HTTP v1 and of the legacy protocol share.

An attempt ends no later than the push's deadline. Its own time-out applies to the peer only:
waiting for a connection costs nothing, while giving up and trying again would keep the
daemon busy just when it is overloaded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import attrs
from twisted.internet.defer import Deferred

from middlewared.clock import Clock, WallClock, wall_clock
from middlewared.model import GOOGLE_TOKEN
from middlewared.outgoing.interface import (
    AnswerTimes,
    Dropped,
    HttpResponse,
    OutgoingFailed,
    Progress,
    TimedOut,
    Unwanted,
    WarmHttpClient,
)
from middlewared.push.interface import (
    MALFORMED_TOKEN,
    CallPush,
    ConfigFault,
    Push,
    PushProvider,
    PushResult,
    Rejected,
    Temporary,
    TokenSuspect,
    Uncertain,
)
from middlewared.push.problem_log import ProblemLog
from middlewared.waiting import with_fair_timeout

ATTEMPT_TIMEOUT_S = 2.0
"""For connecting to Google, and again for its response once it has the push."""

CONTENT_TYPE = {"Content-Type": "application/json; charset=UTF-8"}

Interpret: TypeAlias = Callable[[HttpResponse], PushResult | None]
"""Returns what a response means; None: its status alone is not enough."""


@attrs.frozen
class Attempt:
    """One push in flight; ``progress`` is that of its latest request."""

    push: Push
    http: WarmHttpClient
    clock: Clock
    timeout_s: float
    interpret: Interpret
    progress: Progress = attrs.field(factory=Progress)

    async def post(self, url: str, headers: Mapping[str, str | bytes], body: bytes) -> HttpResponse:
        """
        Send the push; return the response, or the part of it that arrived with its status.

        :raises OutgoingFailed: no status came.
        """
        push = self.push
        wanted, first_byte_s = None, 0.0
        if isinstance(push, CallPush):
            wanted, first_byte_s = push.wanted, push.repeat_after_s
        try:
            return await self.http.request(
                "POST",
                url,
                headers=headers,
                body=body,
                timeout_s=self.timeout_s,
                turn_s=push.deadline - self.clock.seconds(),
                wanted=wanted,
                answer=AnswerTimes(self.timeout_s, first_byte_s),
                progress=self.progress,
            )
        except OutgoingFailed:
            if self.progress.partial is None:
                raise
            return self.progress.partial

    def result(self, reply: HttpResponse) -> PushResult:
        """What the response means for the push."""
        result = self.interpret(reply)
        if result is None:
            return Uncertain("broken-answer", self.progress.sent_at or self.clock.seconds())
        return result

    def result_if_lost(self, reason: str, retry_after_s: float | None = None) -> PushResult:
        """The result of a push that ended without a complete response."""
        if self.progress.partial is not None:
            return self.result(self.progress.partial)
        if self.progress.sent_at is not None:
            return Uncertain(reason, self.progress.sent_at)
        return Temporary(reason, retry_after_s)


class GoogleProvider(PushProvider):
    """
    Pushes of one app by HTTP requests.

    ``http`` is this provider's own and is closed with it: a provider that stalls then delays
    no other provider's requests.

    :param url: where to POST.
    :param attempt_timeout_s: for connecting, and again for the response.
    """

    def __init__(
        self,
        *,
        app: str,
        url: str,
        http: WarmHttpClient,
        clock: Clock,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        wall: WallClock = wall_clock,
    ) -> None:
        self._url = url
        self._http = http
        self._clock = clock
        self._wall = wall
        self._attempt_timeout_s = attempt_timeout_s
        self._problems = ProblemLog(provider="Google", app=app, clock=clock)

    async def stop(self) -> None:
        """See :meth:`~.interface.PushProvider.stop`."""
        await self._http.close()

    def connection_states(self) -> Mapping[tuple[str, str], int]:
        """Connections by environment, which is always production, and state."""
        states = self._http.connection_states(self._url)
        return {("production", state): count for state, count in states.items()}

    async def send(self, push: Push) -> PushResult:
        """See :meth:`~.interface.PushProvider.send`."""
        token = push.device.token
        if not self._can_address(token):
            return MALFORMED_TOKEN
        left_s = push.deadline - self._clock.seconds()
        if left_s <= 0:
            return Temporary("deadline")
        interpret = partial(self._interpret, token)
        attempt = Attempt(push, self._http, self._clock, self._attempt_timeout_s, interpret)
        running = Deferred.fromCoroutine(self._try(attempt))
        # The deadline holds whatever happens here; but a response that has arrived is read.
        result = await with_fair_timeout(
            running, left_s, self._clock, partial(attempt.result_if_lost, "deadline"), slices=1
        )
        if isinstance(result, ConfigFault | Rejected):
            self._problems.refused(result.reason)
        elif isinstance(result, TokenSuspect):
            self._problems.suspected(result.reason)
        return result

    async def _try(self, attempt: Attempt) -> PushResult:
        try:
            return await self._attempt(attempt)
        except Unwanted:
            return Temporary("unwanted")
        except OutgoingFailed as error:
            self._problems.failed(str(error))
            reason = "timeout" if isinstance(error, TimedOut) else "transport"
            return attempt.result_if_lost(reason, 0.0 if isinstance(error, Dropped) else None)

    def _can_address(self, token: str) -> bool:
        """Whether a device with this token can be pushed to."""
        return GOOGLE_TOKEN.fullmatch(token) is not None

    @abstractmethod
    async def _attempt(self, attempt: Attempt) -> PushResult:
        """
        Send the push.

        :raises OutgoingFailed: no status came.
        """

    @abstractmethod
    def _interpret(self, token: str, reply: HttpResponse, /) -> PushResult | None:
        """What a response means for the push to ``token``; None: the status is not enough."""
