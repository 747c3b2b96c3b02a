"""The connection to a Kamailio, without one."""

# Twisted's protocols have no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import json

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from middlewared.kamailio.evapi_connection import EvapiConnection
from middlewared.kamailio.interface import Fields, Rung


class Tcp(StringTransport):
    """A transport with TCP's options."""

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    def setTcpKeepAlive(self, enabled: bool) -> None: ...


class Silence:
    """Serves requests by waiting."""

    async def ring(self, fields: Fields, name: str) -> Rung:
        waiting: Deferred[Rung] = Deferred()
        return await waiting

    async def cancel(self, fields: Fields, name: str) -> None: ...

    async def register(self, fields: Fields, name: str, received_at: float) -> None: ...


class LossTests(SynchronousTestCase):
    def test_nothing_goes_on_for_the_calls_of_a_lost_connection(self) -> None:
        """They are cancelled; no outcome is kept, sent or repeated."""
        clock, lost, tcp = Clock(), list[str](), Tcp()
        connection = EvapiConnection(
            name="edge",
            clock=clock,
            requests=Silence(),
            repeats=None,  # type: ignore[arg-type]  # nothing is counted
            draining=lambda: False,
            up=lambda: None,
            lost=lost.append,
        )
        connection.makeConnection(tcp)
        call = {"event": "call", "id": "7:1", "fields": "sip_user_id=1"}
        connection.stringReceived(json.dumps(call).encode())
        tcp.clear()
        connection.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(clock.getDelayedCalls(), [])
        self.assertEqual(tcp.value(), b"")
        self.assertEqual(len(lost), 1)
