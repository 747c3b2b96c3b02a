"""Daemons' ends of a shared rendezvous, for tests: each can be cut off from Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from middlewared.model import LateAnswer
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.rendezvous.redis.redis_rendezvous import RedisRendezvous
from tests.servers.redis import Redis

T = TypeVar("T")


class Cable:
    """Carries a daemon's connections; ``cut`` ends them as the daemon's death would."""

    def __init__(self, first_after_s: float = 0.0) -> None:
        """:param first_after_s: how long the first connection takes."""
        self._delay_s = first_after_s
        self._endpoints = DirectEndpoints(reactor)
        self._protocols: list[Any] = []
        self.is_cut = False

    def __call__(self, host: str, port: int) -> IStreamClientEndpoint:
        return cast(IStreamClientEndpoint, _Plug(self, self._endpoints(host, port)))

    def connect(
        self, endpoint: IStreamClientEndpoint, factory: IProtocolFactory
    ) -> Deferred[IProtocol]:
        if self.is_cut:
            return fail(ConnectError(string="the cable is cut"))
        delay_s, self._delay_s = self._delay_s, 0.0
        connecting: Deferred[Any] = deferLater(reactor, delay_s) if delay_s else succeed(None)
        connecting.addCallback(lambda _: cast(Any, endpoint).connect(factory))
        return connecting.addCallback(self._connected)

    def _connected(self, protocol: Any) -> Any:
        self._protocols.append(protocol)
        return protocol

    def cut(self) -> None:
        """Abort all connections, and let no new one be made."""
        self.is_cut = True
        for protocol in self._protocols:
            protocol.transport.abortConnection()

    def restore(self) -> None:
        self.is_cut = False


@implementer(IStreamClientEndpoint)
class _Plug:
    def __init__(self, cable: Cable, endpoint: IStreamClientEndpoint) -> None:
        self._cable = cable
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._cable.connect(self._endpoint, protocolFactory)


class SharedRendezvousCase(TestCase):
    """A test with daemons at a shared rendezvous."""

    server: Redis

    def __init__(self, methodName: str = "runTest") -> None:
        super().__init__(methodName)  # type: ignore[no-untyped-call]
        self.late: list[LateAnswer] = []

    def records(self) -> Sequence[str]:
        """The keys of calls in ``server``."""
        keys: Sequence[str] = self.server.run("KEYS", "middlewared:{*")
        return keys

    async def member(
        self, nodes: Sequence[tuple[str, int]], *, cable: Cable | None = None, **options: Any
    ) -> RedisRendezvous:
        """A daemon's end; it is stopped after the test."""
        options = {"endpoints": cable or Cable(), "late": self.late.append, **options}
        member = RedisRendezvous(clock=reactor, nodes=nodes, **options)
        self.addCleanup(member.stop)
        await member.start()
        return member

    async def until(self, true: Callable[[], bool], seconds: float = 100.0) -> None:
        """Wait for what happens without a notice; the limit only guards against hanging."""
        give_up = time.monotonic() + seconds
        while not true():
            self.assertLess(time.monotonic(), give_up, "waited in vain")
            await deferLater(reactor, 0.01)

    async def moment_after(self, deadline: float) -> None:
        await deferLater(reactor, max(0.0, deadline - time.time()) + 0.05)

    async def in_time(self, work: Coroutine[Any, Any, T], seconds: float = 2.0) -> T:
        """The result, which must come before a caller would give up."""
        return await Deferred.fromCoroutine(work).addTimeout(seconds, reactor)


class OwnServerCase(SharedRendezvousCase):
    """One member, ``here``, at a server of its own."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        self.server = Redis()
        self.addCleanup(self.server.remove)
        self.here = await self.member([self.server.node])

    def connections(self) -> Sequence[str]:
        """The member's connections, as the server names them."""
        lines = self.server.run("CLIENT", "LIST").splitlines()
        return sorted(line.split()[0] for line in lines if "cmd=client|list" not in line)
