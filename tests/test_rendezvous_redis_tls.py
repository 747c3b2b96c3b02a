"""The rendezvous over TLS, through a TLS terminator in front of a real server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.protocols.portforward import ProxyFactory

from middlewared.outgoing.tls import ClientTLS, load_trust
from middlewared.simulator.certificates import Authority
from tests.contracts.rendezvous import a_call, an_answer
from tests.redis_members import SharedRendezvousCase
from tests.servers.redis import shared_server


class TlsTests(SharedRendezvousCase):
    """Two members at a server whose certificate an authority of our own has issued."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        os.makedirs(folder := self.mktemp())
        self.authority = Authority(folder=Path(folder))
        chain = str(self.authority.server())
        context = DefaultOpenSSLContextFactory(chain, chain, sslmethod=SSL.TLS_SERVER_METHOD)
        front = ProxyFactory(*shared_server().node)
        front.noisy = False
        endpoint = SSL4ServerEndpoint(reactor, 0, context, interface="127.0.0.1")
        self.port: Any = await endpoint.listen(front)
        self.addCleanup(self.port.stopListening)

    async def test_answer_reaches_its_call(self) -> None:
        """Commands and subscriptions go over TLS."""
        tls = ClientTLS(trust=load_trust(self.authority.certificate))
        node = ("127.0.0.1", self.port.getHost().port)
        here, there = [await self.member([node], tls=tls) for _ in range(2)]
        self.assertTrue(here.up)
        place = await here.join(a_call())
        self.assertTrue(await there.answer(place.call.unique_key, an_answer()))
        await place.settled

    async def test_stranger_is_not_trusted(self) -> None:
        """A certificate of an unknown authority is no Redis of ours."""
        tls = ClientTLS(trust=load_trust(None))
        member = await self.member([("127.0.0.1", self.port.getHost().port)], tls=tls)
        self.assertFalse(member.up)
