"""``check --online`` with Apple: each fault is named, with what to do."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol

from middlewared.cli.check import apple_checks
from middlewared.demo.stage import free_port
from middlewared.simulator.apple.faults import Behaviour, GoAway, Greeting, rejection
from middlewared.simulator.certificates import EXPIRED, Authority, write_provider_key
from middlewared.simulator.listening import ListeningSocket, ServerTLS
from middlewared.simulator.scripts import Stall
from tests.checks import APP, AppleCheckCase, reactor

PRODUCTION = f"[app:{APP}:apns] production"
SANDBOX = f"[app:{APP}:apns] sandbox"


class WebServer(Protocol):
    """Refuses every request, in HTTP/1.1."""

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")


class AppleTests(AppleCheckCase):
    """A real HTTP/2 server over TLS answers."""

    async def asked(self, server: Any, more: str = "") -> str:
        """The result for ``server``."""
        return await self.check_one(self.with_key(server.url, server.url, more), PRODUCTION)

    async def test_all_is_well(self) -> None:
        """Both environments are ok, the root is named, and no phone got a push."""
        production, sandbox = await self.apple(), await self.apple(environment="sandbox")
        found = await self.check_all(self.with_key(production.url, sandbox.url))
        for title, server in ((PRODUCTION, production), (SANDBOX, sandbox)):
            place = server.url.removeprefix("https://")
            self.assertEqual(
                found[title],
                f"ok {place}, TLS root middlewared simulator ca, h2, made-up token refused"
                " (BadDeviceToken)",
            )
            self.assertEqual(server.record.delivered_count, 0)

    async def test_certificate_instead_of_a_key(self) -> None:
        """The certificate is presented in the handshake."""
        server = await self.apple(provider_keys=())
        text = (
            f"[app:{APP}:apns]\ncertificate = {self.authority.apns_client()}\n"
            f"ca_file = {self.authority.certificate}\nproduction_url = {server.url}\n"
            f"sandbox_url = {server.url}\n"
        )
        self.assertRegex(await self.check_one(text, PRODUCTION), "^ok ")

    async def test_refused_certificate(self) -> None:
        """TLS fails because of ours: the key is named."""
        server = await self.apple()
        stranger = Authority(folder=self.folder, name="stranger")
        text = (
            f"[app:{APP}:apns]\ncertificate = {stranger.apns_client()}\n"
            f"ca_file = {self.authority.certificate}\nproduction_url = {server.url}\n"
            f"sandbox_url = {server.url}\n"
        )
        found = await self.check_one(text, PRODUCTION)
        self.assertRegex(found, "^wrong .*client certificate refused: certificate: is it")

    async def test_wrong_topic(self) -> None:
        """topic is the key to change."""
        server = await self.apple(topics=["com.example.other.voip"])
        self.assertRegex(
            await self.asked(server),
            rf"^wrong TopicDisallowed: topic {APP}.voip is not one of team SIMTEAM001.*set topic",
        )

    async def test_wrong_key(self) -> None:
        """Apple does not know the key: key id and team are shown."""
        other = write_provider_key(self.folder, key_id="OTHERKEY01")
        found = await self.asked(await self.apple(provider_keys=[other]))
        self.assertRegex(found, "^wrong InvalidProviderToken: key_file, its key id and team_id")
        self.assertIn("compare key SIMKEY0001 and team SIMTEAM001", found)

    async def test_key_of_the_sandbox(self) -> None:
        """If the sandbox has its own key, that one is used and named there."""
        own = write_provider_key(self.folder, key_id="SANDBOXKEY")
        more = f"sandbox_key_file = {own.path}\nsandbox_key_id = {own.key_id}\n"
        production, sandbox = await self.apple(), await self.apple(provider_keys=[own])
        found = await self.check_all(self.with_key(production.url, sandbox.url, more))
        self.assertRegex(found[PRODUCTION], "^ok ")
        self.assertRegex(found[SANDBOX], "^ok ")
        found = await self.check_all(self.with_key(production.url, production.url, more))
        self.assertRegex(found[SANDBOX], "^wrong Inv.*: sandbox_key_file, its .* key SANDBOXKEY a")

    async def test_every_refusal_names_a_key(self) -> None:
        """Including those that depend on the environment or a wrong clock."""
        server = await self.apple(tokens=None)
        for reason, what in (
            ("DeviceTokenNotForTopic", "set topic"),
            ("BadTopic", "set topic"),
            ("ExpiredProviderToken", "our clock is wrong"),
            ("UnrelatedKeyIdInToken", "key_file, its key id and team_id"),
            ("BadEnvironmentKeyInToken", "key_file: key SIMKEY0001 is not for the production"),
            ("BadCertificateEnvironment", "BadCertificateEnvironment"),
            ("Forbidden", "check it on"),
            ("InternalServerError", "Apple has a temporary problem"),
            ("PayloadEmpty", "Apple refuses the push: PayloadEmpty"),
        ):
            server.scripts.clear()
            server.scripts.for_all(rejection(reason))
            found = await self.asked(server)
            self.assertRegex(found, f"^wrong .*{reason}")
            self.assertIn(what, found)
        server.scripts.for_all(rejection("BadEnvironmentKeyInToken"))
        found = await self.check_one(self.with_key(server.url, server.url), SANDBOX)
        self.assertIn("set sandbox_key_file and sandbox_key_id, or leave", found)

    async def test_too_many_tokens_is_a_warning(self) -> None:
        """The key is valid; the check was run too often."""
        server = await self.apple(tokens=None)
        server.scripts.for_all(rejection("TooManyProviderTokenUpdates"))
        self.assertRegex(await self.asked(server), "^warning .*try again in 20 minutes")

    async def test_accepted_push_is_odd(self) -> None:
        """A peer that accepts a push to a made-up token is not Apple."""
        found = await self.asked(await self.apple(tokens=None))
        self.assertRegex(found, "^wrong .*made-up token was accepted.*simulator ca")

    async def test_closed_port(self) -> None:
        """Host and port are named, and Apple's other port."""
        url = f"https://127.0.0.1:{(port := free_port())}"
        found = await self.check_one(self.with_key(url, url), PRODUCTION)
        self.assertEqual(
            found,
            f"wrong 127.0.0.1:{port}: the connection is refused: does a firewall block it? Apple"
            " also listens on port 2197 (production_url)",
        )

    async def test_unknown_host(self) -> None:
        """A name that does not exist."""
        url = "https://apple.invalid"
        found = await self.check_one(self.with_key(url, url), PRODUCTION)
        self.assertRegex(found, "^wrong apple.invalid:443: the name server does not know the name")

    async def test_unknown_root(self) -> None:
        """The missing root and ca_file are named."""
        stranger = Authority(folder=self.folder, name="stranger")
        server = await self.apple(certificate=stranger.server(name="strange"))
        found = await self.asked(server)
        self.assertRegex(found, "^wrong .*signed by middlewared simulator stranger, which.*ca_file")

    async def test_expired_server_certificate(self) -> None:
        """Or our clock."""
        server = await self.apple(certificate=self.authority.server(name="old", validity=EXPIRED))
        self.assertRegex(await self.asked(server), "^wrong .*has expired, or our clock is wrong")

    async def test_other_host_name(self) -> None:
        """A certificate that is trusted, for another host."""
        server = await self.apple(
            certificate=self.authority.server(name="else", hosts=["elsewhere.example"])
        )
        self.assertRegex(
            await self.asked(server), "^wrong .*is for another host name, signed by mi"
        )

    async def test_no_h2(self) -> None:
        """A proxy that intercepts TLS speaks HTTP/1.1; its root identifies it."""
        tls = ServerTLS(self.authority.server(name="web"))
        socket = ListeningSocket(reactor=reactor)
        socket.open(tls.wrap(Factory.forProtocol(WebServer)))
        self.later(socket.close)
        url = f"https://{socket.address}"
        found = await self.check_one(self.with_key(url, url), PRODUCTION)
        self.assertRegex(found, "^wrong .*no HTTP/2 .*signed by middlewared simulator ca")

    async def test_no_settings(self) -> None:
        """TLS works, and then nothing comes."""
        self.patch_limits()
        server = await self.apple(behaviour=Behaviour(greeting=Greeting.NO_SETTINGS))
        self.assertRegex(await self.asked(server), "^wrong .*no HTTP/2 SETTINGS came")

    async def test_no_tls(self) -> None:
        """A port that accepts everything and never replies."""
        self.patch_limits()
        server = await self.apple(behaviour=Behaviour(greeting=Greeting.SILENT))
        self.assertRegex(await self.asked(server), "^wrong .*no TLS: ")

    async def test_no_answer(self) -> None:
        """A push that is never answered does not delay the check."""
        self.patch_limits()
        server = await self.apple(tokens=None)
        server.scripts.for_all(Stall())
        self.assertRegex(await self.asked(server), "^wrong .*no answer to a push within")

    async def test_goaway_names_the_fault(self) -> None:
        """Apple may give the reason in its GOAWAY."""
        server = await self.apple(tokens=None)
        server.scripts.for_all(GoAway(unprocessed=1, reason="BadCertificate", close=True))
        self.assertRegex(await self.asked(server), "^wrong .*BadCertificate")

    def patch_limits(self) -> None:
        """Shorten the limits."""
        for name in ("READY_S", "ANSWER_S"):
            self.patch(apple_checks, name, 0.3)

    async def test_through_the_proxy(self) -> None:
        """[http_proxy] is used; a proxy that refuses is named."""
        port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            Factory.forProtocol(WebServer)
        )
        self.addCleanup(port.stopListening)
        proxy = f"[http_proxy]\nurl = http://user:geheim@127.0.0.1:{port.getHost().port}\n"
        server = await self.apple()
        found = await self.asked(server, proxy)
        self.assertRegex(found, r"^wrong .*the proxy of \[http_proxy\] refuses \(403\)$")
