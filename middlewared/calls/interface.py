"""What the web asks of the calls: to ring a device, and to pass on a phone's answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from middlewared.calls.trace import Trace
from middlewared.model import Answer, AnswerResult, IncomingCall, Outcome, SipUserId


@attrs.frozen(kw_only=True)
class OpenCall:
    """
    A call whose device is being woken here.

    ``start``: epoch seconds. ``steps``: names with their milliseconds, as in ``Server-Timing``.
    """

    unique_key: str
    call_id: str
    sip_user_id: str
    app: str
    platform: str
    start: float
    wait_ms: float
    steps: Sequence[tuple[str, float]]


class OpenCalls(Protocol):
    """The calls that are held here, for those who watch them; no call waits for it."""

    def open_calls(self, most: int) -> Sequence[OpenCall]:
        """At most ``most`` of them, the newest first."""

    def open_call(self, unique_key: str) -> OpenCall | None:
        """The call of this key; None: none is held here."""


class Calls(Protocol):
    """Implemented by :class:`middlewared.calls.ringing.Ringing`."""

    async def ring(self, incoming: IncomingCall, trace: Trace) -> Outcome:
        """
        Wake the device of ``incoming`` and wait for its answer, at most the call's wait.

        Cancelling the awaiting Deferred (the PBX hung up) ends the call, unless others
        have joined it. Expected failures are outcomes, not exceptions: OVERLOADED, DRAINING
        and SERVICE_DOWN too.
        """

    @property
    def overloaded(self) -> bool:
        """Whether a new call would be refused as OVERLOADED now; cheap, for use before parsing."""

    def holds(self, incoming: IncomingCall) -> bool:
        """Whether it repeats a call that is held here; asks no one."""

    def refuse_if_new(self, incoming: IncomingCall) -> bool:
        """
        Refuse ``incoming`` as OVERLOADED, unless it repeats a call that is held here.

        :return: whether it was refused, and counted.
        """

    def refused(self, outcome: Outcome) -> None:
        """Count as ``outcome`` a PBX's request that was refused before it became a call."""

    async def registered(self, sip_user_id: SipUserId, call_id: str, received_at: float) -> int:
        """
        The account has registered at the SIP registrar, which answers its waiting calls.

        :param call_id: of the one call that it answers; "": all of the account.
        :param received_at: by the process's own clock.
        :return: how many calls it has answered; 0 unless ``answer_by_registration`` is set.
        :raises RendezvousDown: it cannot be known now (503).
        """

    async def cancel(self, incoming: IncomingCall) -> bool:
        """
        The caller gave up: end the call of this account and call_id as CANCELLED.

        :return: whether such a call waited, at any daemon.
        :raises RendezvousDown: it cannot be known now (503).
        """

    def holds_key(self, unique_key: str) -> bool:
        """Whether this daemon holds a call of this key; asks no one."""

    def knows_key(self, unique_key: str) -> bool:
        """Whether the key is held here or certainly made by a daemon of ours; asks no one."""

    def rules_out_key(self, unique_key: str) -> bool:
        """Whether :meth:`answer` would find no call of this key, without asking anyone."""

    async def answer(self, unique_key: str, answer: Answer) -> AnswerResult:
        """
        A phone answered.

        :return: ACCEPTED is a 202, the others are a 404.
        :raises RendezvousDown: it cannot be known now (503).
        """
