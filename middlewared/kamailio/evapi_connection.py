"""
One TCP connection to a Kamailio's evapi: netstrings (D. J. Bernstein, 1997) of JSON objects.

=============  ==============  ====================================================
event          from            members
=============  ==============  ====================================================
``call``       Kamailio        ``id`` of the suspended transaction, ``fields``
``cancel``     Kamailio        ``fields``
``registered`` Kamailio        ``fields``
``done``       Kamailio        ``id``: it has the outcome
``seen``       Kamailio        it has our last ``state``
``outcome``    this daemon     ``id``, ``outcome``, ``retry_after`` in seconds or 0
``state``      this daemon     ``state``: ready or draining
=============  ==============  ====================================================

``fields`` is one text, form-encoded: Kamailio's script can escape for a URL but not for JSON.
"""

# Twisted's protocols have no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.basic import NetstringReceiver
from twisted.python.failure import Failure

from middlewared.clock import Clock, DelayedCall
from middlewared.immediate_writes import write_immediately
from middlewared.kamailio.interface import Fields, Requests, Rung
from middlewared.kamailio.outcome_window import OutcomeWindow
from middlewared.logs.interface import RepeatCounter
from middlewared.model import Outcome

MAX_MESSAGE_BYTES = 65_536
MAX_FIELDS = 50
MAX_REGISTRATIONS = 2_000
"""That are being stored at a time; a database that stalls must not fill the memory."""
BEAT_S = 1.0
MOST_BEATS_UNSEEN = 5
RETRY_AFTER_S = 2

# evapi sends with Nagle's algorithm: a message waits until the one before it is acknowledged,
# which Linux delays by 40 ms. The option holds until the next acknowledgement only (tcp(7)).
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)

_RETRY = frozenset((Outcome.OVERLOADED, Outcome.DRAINING, Outcome.SERVICE_DOWN))


class EvapiConnection(NetstringReceiver):
    """
    Takes what Kamailio asks and sends the outcomes.

    Each call that Kamailio asked for and that has no outcome yet is in ``_held``, so that the
    loss of the connection ends all of them.

    :param up: called once when Kamailio has responded.
    :param lost: called once with the reason in words.
    """

    MAX_LENGTH = MAX_MESSAGE_BYTES
    log = Logger()

    def __init__(
        self,
        *,
        name: str,
        clock: Clock,
        requests: Requests,
        repeats: RepeatCounter,
        draining: Callable[[], bool],
        up: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self._name = name
        self._clock = clock
        self._requests = requests
        self._repeats = repeats
        self._draining = draining
        self._up = up
        self._lost = lost
        self._responded = False
        self._held: dict[str, Deferred[Any]] = {}
        self._registering: set[Deferred[Any]] = set()
        self._unseen = 0
        self._beating: DelayedCall | None = None
        self._fault = ""
        self._outcomes = OutcomeWindow(clock=clock, send=self._send)
        self._events: dict[str, Callable[[dict[str, Any]], None]] = {
            "call": self._call,
            "cancel": self._cancel,
            "registered": self._registered,
            "done": self._done,
            "seen": self._seen,
        }

    def connectionMade(self) -> None:
        """Called by Twisted."""
        super().connectionMade()
        self._tcp.setTcpNoDelay(True)
        self._tcp.setTcpKeepAlive(True)
        self._beat()

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008
        """Called by Twisted: its calls end, as those of a PBX that closed its connection."""
        self.connected = 0  # Twisted leaves it as it was
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None
        self._outcomes.stop()
        for each in [*self._held.values(), *self._registering]:
            each.cancel()
        if not self._fault and self.brokenPeer:
            self._fault = "it sent what is no netstring, or one that is too long"
        self._lost(self._fault or reason.getErrorMessage())

    def dataReceived(self, data: bytes) -> None:
        """Called by Twisted."""
        if _QUICK_ACK is not None:
            self._tcp.getHandle().setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
        super().dataReceived(data)

    def close(self, fault: str = "") -> None:
        """End the connection: at once for a ``fault``, else when all outcomes are written."""
        self._fault = self._fault or fault
        if fault:
            self._tcp.abortConnection()
        else:
            self._tcp.loseConnection()

    def report_state(self) -> None:
        """Let Kamailio know whether new calls are taken here."""
        state = "draining" if self._draining() else "ready"
        self._send([_message(event="state", state=state)])

    def stringReceived(self, string: bytes) -> None:
        """Called by Twisted with each netstring."""
        try:
            message = json.loads(string)
        except (ValueError, RecursionError):
            message = None
        event = message.get("event") if isinstance(message, dict) else None
        take = self._events.get(event) if isinstance(event, str) else None
        if take is None:
            self._repeats.count(f"kamailio {self._name}: a message that is not understood")
        else:
            take(message)

    @property
    def _tcp(self) -> Any:
        return self.transport

    def _beat(self) -> None:
        if self._unseen >= MOST_BEATS_UNSEEN:
            self._beating = None
            self.close("it does not respond")
            return
        self._unseen += 1
        self.report_state()
        self._beating = self._clock.callLater(BEAT_S, self._beat)

    def _seen(self, _: dict[str, Any]) -> None:
        self._unseen = 0
        if not self._responded:
            self._responded = True
            self._up()

    def _call(self, message: dict[str, Any]) -> None:
        call, fields = message.get("id"), _fields(message)
        if not isinstance(call, str) or not 0 < len(call) <= 40 or fields is None:
            self._repeats.count(f"kamailio {self._name}: a call without id or fields")
            return
        if call in self._held:
            return  # asked again; the answer will do for both
        ringing = Deferred.fromCoroutine(self._requests.ring(fields, self._name))
        self._held[call] = ringing
        ringing.addCallback(partial(self._reply, call))
        ringing.addErrback(self._failed, call)

    def _reply(self, call: str, rung: Rung) -> None:
        del self._held[call]
        outcome = rung.outcome
        retry_after = RETRY_AFTER_S if outcome in _RETRY else 0
        message = _message(event="outcome", id=call, outcome=outcome.value, retry_after=retry_after)
        self._outcomes.add(call, message)
        rung.replied()

    def _failed(self, failure: Failure, call: str) -> None:
        if failure.check(CancelledError) and not self.connected:
            self._held.pop(call, None)
            return
        if not failure.check(CancelledError):
            self.log.failure("a call of kamailio {name} failed", failure, name=self._name)
        if call in self._held:
            self._reply(call, Rung(Outcome.SERVICE_DOWN))

    def _cancel(self, message: dict[str, Any]) -> None:
        fields = _fields(message)
        if fields is not None:
            self._run(self._requests.cancel(fields, self._name))

    def _registered(self, message: dict[str, Any]) -> None:
        fields, received_at = _fields(message), self._clock.seconds()
        if fields is not None:
            self._run(self._requests.register(fields, self._name, received_at))

    def _run(self, work: Any) -> None:
        if len(self._registering) >= MAX_REGISTRATIONS:
            work.close()
            self._repeats.count(f"kamailio {self._name}: too many registrations at a time")
            return
        running = Deferred.fromCoroutine(work)
        running.addErrback(self._run_failed)
        if not running.called:
            self._registering.add(running)
            running.addBoth(lambda _: self._registering.discard(running))

    def _run_failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("a request of kamailio {name} failed", failure, name=self._name)

    def _done(self, message: dict[str, Any]) -> None:
        call = message.get("id")
        if isinstance(call, str):
            self._outcomes.confirmed(call)

    def _send(self, messages: list[bytes]) -> None:
        if self.connected:
            data = b"".join(b"%d:%b," % (len(each), each) for each in messages)
            write_immediately(self.transport, data)


class ConnectionFactory(Factory):
    """Makes connections with the arguments of :class:`EvapiConnection`."""

    noisy = False

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments

    def buildProtocol(self, addr: IAddress | None) -> EvapiConnection:  # noqa: ARG002
        """Called by Twisted."""
        return EvapiConnection(**self._arguments)


def _message(**members: object) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def _fields(message: dict[str, Any]) -> Fields | None:
    """The named texts; what is not UTF-8 (a name in Latin-1) is replaced, and the call goes on."""
    encoded = message.get("fields")
    if not isinstance(encoded, str):
        return None
    try:
        pairs = parse_qsl(
            encoded, keep_blank_values=True, errors="replace", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        return None
    return dict(pairs)
