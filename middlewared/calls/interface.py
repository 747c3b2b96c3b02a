"""What the web asks of a call: to ring it, and to pass on a phone's answer."""

from __future__ import annotations

from typing import Protocol

from middlewared.calls.trace import Trace
from middlewared.model import Answer, IncomingCall, Outcome


class Calls(Protocol):
    """Implemented by :class:`middlewared.calls.ringing.Ringing`."""

    async def ring(self, incoming: IncomingCall, trace: Trace) -> Outcome:
        """
        Wake the device of ``incoming`` and wait for its answer, at most the call's wait.

        Cancelling the awaiting Deferred (the PBX hung up) ends the call, unless others
        have joined it. Expected troubles are outcomes, not exceptions: OVERLOADED,
        DRAINING and SERVICE_DOWN too.
        """

    @property
    def overloaded(self) -> bool:
        """Whether a new call would be refused as OVERLOADED now; cheap, asked before parsing."""

    def shed(self, incoming: IncomingCall) -> bool:
        """
        Refuse ``incoming``, unless it repeats a call that is held here.

        :return: whether it was refused, and counted as OVERLOADED.
        """

    def refused(self, outcome: Outcome) -> None:
        """A request of a PBX was refused before it was a call: it counts as ``outcome``."""

    def holds_key(self, unique_key: str) -> bool:
        """Whether the key is of a call that this daemon holds; asks no one."""

    def recognises(self, unique_key: str) -> bool:
        """Whether the key is held here or surely one that a daemon of ours made; asks no one."""

    def surely_unknown(self, unique_key: str) -> bool:
        """Whether no call has the key, as far as anyone could say; asks no one."""

    async def answer(self, unique_key: str, answer: Answer) -> bool:
        """
        A phone answered.

        :return: whether the call waits or was answered inside its wait (202), else 404.
        :raises RendezvousDown: it cannot be known now (503).
        """
