"""The rendezvous over TLS, through a TLS terminator in front of a real server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.ssl import Certificate, DefaultOpenSSLContextFactory, PrivateCertificate
from twisted.protocols.portforward import ProxyFactory

from middlewared.config import Config, RedisSettings
from middlewared.devices.interface import PeerHeartbeat
from middlewared.outgoing.tls import ClientTLS, load_trust
from middlewared.rendezvous.late import ignored
from middlewared.rendezvous.redis.redis_rendezvous import RedisRendezvous
from middlewared.service.implementations import choose_rendezvous
from middlewared.simulator.certificates import Authority
from tests.contracts.rendezvous import ACCEPTED, a_call, an_answer
from tests.redis_members import SharedRendezvousCase
from tests.servers.redis import shared_server


def _terminator(context: Any) -> Any:
    return SSL4ServerEndpoint(reactor, 0, context, interface="127.0.0.1")


def _front() -> ProxyFactory:
    front = ProxyFactory(*shared_server().node)
    front.noisy = False
    return front


class TlsTests(SharedRendezvousCase):
    """Two members at a server whose certificate an authority of our own has issued."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        os.makedirs(folder := self.mktemp())
        self.authority = Authority(folder=Path(folder))
        chain = str(self.authority.server())
        context = DefaultOpenSSLContextFactory(chain, chain, sslmethod=SSL.TLS_SERVER_METHOD)
        self.port: Any = await _terminator(context).listen(_front())
        self.addCleanup(self.port.stopListening)

    async def test_answer_reaches_its_call(self) -> None:
        """Commands and subscriptions go over TLS."""
        tls = ClientTLS(trust=load_trust(self.authority.certificate))
        node = ("127.0.0.1", self.port.getHost().port)
        here, there = [await self.member([node], tls=tls) for _ in range(2)]
        self.assertTrue(here.up)
        waiter = await here.join(a_call())
        self.assertIs(await there.answer(waiter.call.unique_key, an_answer()), ACCEPTED)
        await waiter.settled

    async def test_stranger_is_not_trusted(self) -> None:
        """A certificate of an unknown authority is no Redis of ours."""
        tls = ClientTLS(trust=load_trust(None))
        member = await self.member([("127.0.0.1", self.port.getHost().port)], tls=tls)
        self.assertFalse(member.up)


class Alone:
    """The table of daemons: there are no others."""

    async def report(self, daemon: str, *, redis_up: bool, waiting: int) -> list[PeerHeartbeat]:
        return []


class ClientCertificateTests(SharedRendezvousCase):
    """``[redis]`` at a server that asks for a certificate."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        os.makedirs(folder := self.mktemp())
        self.authority = Authority(folder=Path(folder))
        self.stranger = Authority(folder=Path(folder), name="stranger")
        shown = PrivateCertificate.loadPEM(self.authority.server().read_bytes())
        known = Certificate.loadPEM(self.authority.certificate.read_bytes())
        port: Any = await _terminator(shown.options(known)).listen(_front())
        self.addCleanup(port.stopListening)
        self.node = ("127.0.0.1", port.getHost().port)

    async def configured(self, **files: Any) -> RedisRendezvous:
        """The rendezvous of a daemon whose ``[redis]`` names ``files``; it is stopped later."""
        redis = RedisSettings(nodes=(self.node,), tls=True, **files)
        made = choose_rendezvous(Config(redis=redis), reactor=reactor, table=Alone(), late=ignored)
        assert isinstance(made, RedisRendezvous)
        self.addCleanup(made.stop)
        await made.start()
        return made

    async def test_own_certificate_is_accepted(self) -> None:
        """``certificate`` is shown, and ``ca_file`` vouches for the server."""
        files = {
            "ca_file": self.authority.certificate,
            "certificate": self.authority.apns_client(name="daemon"),
        }
        here, there = [await self.configured(**files) for _ in range(2)]
        self.assertTrue(here.up)
        waiter = await here.join(a_call())
        self.assertIs(await there.answer(waiter.call.unique_key, an_answer()), ACCEPTED)
        await waiter.settled

    async def test_server_refuses_who_shows_nothing_or_another_certificate(self) -> None:
        """Without ``certificate``, or with that of a stranger, Redis is away."""
        root = self.authority.certificate
        self.assertFalse((await self.configured(ca_file=root)).up)
        other = self.stranger.apns_client(name="other")
        self.assertFalse((await self.configured(ca_file=root, certificate=other)).up)
