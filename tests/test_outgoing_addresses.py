"""Connections to a name with several addresses."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError
from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from middlewared.outgoing.tcp_endpoints import DirectEndpoint, ShufflingReactor

FOUR = [IPv4Address("TCP", f"192.0.2.{number}", 443) for number in range(1, 9)]
SIX = [IPv6Address("TCP", f"2001:db8::{number}", 443) for number in range(1, 9)]


class FixedResolver:
    """Knows one name."""

    def resolveHostName(self, receiver: Any, hostName: str, *_: object, **__: object) -> None:
        receiver.resolutionBegan(None)
        for address in [*SIX, *FOUR]:
            receiver.addressResolved(address)
        receiver.resolutionComplete()


@implementer(IResolutionReceiver)
class Receiver:
    """Collects what a resolver finds."""

    def __init__(self) -> None:
        self.found: list[IAddress] = []
        self.complete = False

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None: ...

    def addressResolved(self, address: IAddress) -> None:
        self.found.append(address)

    def resolutionComplete(self) -> None:
        self.complete = True


class ShufflingTests(SynchronousTestCase):
    """The order of addresses."""

    def test_every_address_comes_first_at_times(self) -> None:
        """All are present each time, alternating between families, the preferred one first."""
        firsts = set()
        memory = cast(Any, MemoryReactorClock())
        memory.nameResolver = FixedResolver()
        for _ in range(300):
            receiver = Receiver()
            ShufflingReactor(memory).resolveHostName(receiver, "push.example")
            self.assertTrue(receiver.complete)
            self.assertEqual(set(receiver.found[::2]), set(SIX))
            self.assertEqual(set(receiver.found[1::2]), set(FOUR))
            firsts.add(receiver.found[0])
        self.assertEqual(firsts, set(SIX))

    def test_connects_go_to_different_addresses(self) -> None:
        """An endpoint begins with another address at each connect."""
        memory: Any = MemoryReactorClock()
        memory.nameResolver = FixedResolver()
        for _ in range(100):
            connecting = DirectEndpoint(memory, "push.example", 443).connect(cast(Any, None))
            connecting.addErrback(lambda _: None)
            connecting.cancel()
        self.assertGreater(len({host for host, *_ in memory.tcpClients}), 4)


class ConnectTests(SynchronousTestCase):
    """A connect to addresses that do not reply."""

    def setUp(self) -> None:
        """Start to connect."""
        self.memory = cast(Any, MemoryReactorClock())
        self.memory.nameResolver = FixedResolver()
        endpoint = DirectEndpoint(self.memory, "push.example", 443, timeout_s=5.0)
        self.connecting = endpoint.connect(cast(Any, None))

    def test_time_out_is_that_of_a_tcp_endpoint(self) -> None:
        """Its text is for operators."""
        self.memory.pump([0.5] * 20)
        failure = self.failureResultOf(self.connecting, TimeoutError)
        self.assertIn("timeout", str(failure.value))

    def test_cancelled_connect_is_not_a_time_out(self) -> None:
        """The caller gave up."""
        self.connecting.cancel()
        self.failureResultOf(self.connecting, CancelledError)


class RealResolverTests(TestCase):
    """The reactor's own resolver behind it."""

    async def test_what_the_reactor_does_is_left_alone(self) -> None:
        """All but the look-up of names is the reactor's."""
        shuffling = ShufflingReactor(reactor)
        self.assertEqual(shuffling.callLater, reactor.callLater)
