"""``middlewared check``: certificates and topics, and the command ``check --online``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase

from middlewared.cli.check.online import online_checks
from middlewared.demo.stage import free_port
from middlewared.errors import ConfigError
from middlewared.service.configuration import read_all
from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.certificates import Authority, apple_extensions
from tests.checks import APP, AppleCheckCase, made_folder
from tests.test_cli_commands import CLEAR, CommandTestCase, Ran

VOIP = f"{APP}.voip"


class CertificateTests(SynchronousTestCase):
    """Apple's certificate extensions, compared with the section."""

    def setUp(self) -> None:
        self.folder = made_folder(self)
        self.authority = Authority(folder=self.folder)

    def read(
        self, more: str = "", *, topics: Sequence[str] = (), topic: str = VOIP, **options: Any
    ) -> tuple[str, ...]:
        """The warnings of a configuration with a certificate for ``topics``."""
        path = self.folder / "middlewared.ini"
        extensions = apple_extensions(topics, **options) if topics else ()
        pem = self.authority.apns_client(topic=topic, extensions=extensions)
        path.write_text(f"[app:{APP}:apns]\ncertificate = {pem.name}\n{more}")
        return tuple(
            f"{each.key}: {each.what}"
            for each in read_all(path).warnings
            if each.section == f"app:{APP}:apns"
        )

    def problem(self, **certificate: Any) -> str:
        """The only problem of that configuration."""
        error = self.assertRaises(ConfigError, self.read, **certificate)
        (line,) = error.lines
        return str(line)

    def test_another_apps_certificate(self) -> None:
        """Both topics are named; no call could be pushed."""
        other = "com.example.other.voip"
        self.assertRegex(
            self.problem(topic=other, topics=[other]),
            rf"\[app:{APP}:apns\] certificate: .*voip.pem is for {other}, the topic of calls is"
            rf" {VOIP}: set the certificate of this app, or topic$",
        )

    def test_certificate_for_alerts_alone(self) -> None:
        """A universal certificate that has no VoIP topic."""
        self.assertIn(f"is for {APP}, the topic", self.problem(topic=APP, topics=[APP]))

    def test_topic_of_the_section(self) -> None:
        """The topic decides, not the section's name."""
        other = "com.example.other.voip"
        more = f"topic = {other}\nlost_account_notice = no\n"
        self.assertEqual(self.read(more, topic=other, topics=[other]), ())

    def test_universal_certificate(self) -> None:
        """It covers calls and alerts, among others."""
        topics = [APP, VOIP, f"{APP}.complication"]
        self.assertEqual(self.read(topic=APP, topics=topics), ())

    def test_certificate_for_calls_alone(self) -> None:
        """It cannot send the notice of a lost account."""
        (warned,) = self.read(topics=[VOIP])
        self.assertRegex(
            warned, rf"^lost_account_notice: the certificate is only for {VOIP} and cannot"
        )
        self.assertEqual(self.read("lost_account_notice = no\n", topics=[VOIP]), ())

    def test_certificate_for_one_environment(self) -> None:
        """Devices of the other one would not ring."""
        topics = [APP, VOIP]
        (warned,) = self.read(topics=topics, environments=["sandbox"])
        self.assertRegex(warned, "^certificate: is only for Apple's sandbox")
        (warned,) = self.read(topics=topics, environments=["production"])
        self.assertRegex(warned, "^certificate: is only for Apple's production servers")

    def test_certificate_without_apples_extensions(self) -> None:
        """At Apple its subject decides; a relay may accept any certificate."""
        other = "com.example.other.voip"
        self.assertEqual(self.read(), ())
        self.assertIn(f"voip.pem is for {other}, the topic", self.problem(topic=other))
        relay = "production_url = https://relay.example\n"
        (warned,) = self.read(relay, topic=other)
        self.assertIn(f"voip.pem is for {other}, the topic", warned)
        self.assertEqual(self.read(relay), ())


class OnlineCommandTests(AppleCheckCase, CommandTestCase):
    """``middlewared check --online`` as an operator runs it."""

    def setUp(self) -> None:
        CommandTestCase.setUp(self)
        AppleCheckCase.setUp(self)

    async def both(self, **options: Any) -> tuple[AppleServer, AppleServer]:
        return await self.apple(**options), await self.apple(**options)

    async def check(self, text: str) -> Ran:
        return await self.command("check", "--online", "--config", self.write_config(text))

    async def test_all_is_well(self) -> None:
        """Exit code 0; aligned lines in the order of the configuration, after the warnings."""
        production, sandbox = await self.both()
        ran = await self.check(CLEAR + self.with_key(production.url, sandbox.url))
        self.assertEqual((ran.code, ran.err), (1, ""))
        warning, *lines = [line for line in ran.out.splitlines() if "response_api" not in line]
        self.assertIn("[redis] tls: the password goes", warning)
        titles = [
            "[database]",
            "[redis]",
            f"[app:{APP}:apns] production",
            f"[app:{APP}:apns] sandbox",
        ]
        width = max(map(len, titles))
        self.assertEqual([line[:width].rstrip() for line in lines], titles)
        statuses = [line[width + 2 : width + 9].rstrip() for line in lines]
        self.assertEqual(statuses, ["ok", "wrong", "ok", "ok"])
        self.assertNotIn("geheim", ran.out)

    async def test_exit_codes(self) -> None:
        """0 when nothing is wrong, even with warnings; otherwise 1."""
        production, sandbox = await self.both()
        good = self.with_key(production.url, sandbox.url)
        self.assertEqual((await self.check(good)).code, 0)
        ran = await self.check(self.with_key(production.url, f"https://127.0.0.1:{free_port()}"))
        self.assertEqual(ran.code, 1)
        self.assertRegex(ran.out, r"(?m)production +ok .*\n.*sandbox +wrong ")

    def test_sandbox_that_is_off(self) -> None:
        """It is not checked."""
        url = "https://127.0.0.1:1"
        config = read_all(self.write_config(self.with_key(url, "")))
        checks = online_checks(config, reactor)
        self.assertEqual(
            [each.title for each in checks],
            ["[calls] response_api", "[database]", f"[app:{APP}:apns] production"],
        )

    async def test_broken_configuration_is_not_asked_about(self) -> None:
        """The offline check comes first."""
        production, sandbox = await self.both()
        ran = await self.check(self.with_key(production.url, sandbox.url, "topik = x\n"))
        self.assertEqual(ran.code, 1)
        self.assertRegex(ran.out, r"^.*topik: unknown key; the nearest known one is topic\n$")
        self.assertEqual(production.record.connection_count, 0)

    async def test_silent_name_server(self) -> None:
        """A look-up that never ends delays neither the other checks nor the exit."""
        blocked = (
            "import socket, sys, time\n"
            "def silent(*_, **__): time.sleep(90)\n"
            "socket.getaddrinfo = silent\n"
            "from middlewared.cli.main import main\n"
            "from middlewared.cli.check import online as command\n"
            "command.LONGEST_S = 1.0\n"
            "sys.exit(main())\n"
        )
        url = "https://apple.example"
        path = self.write_config(self.with_key(url, url))
        out, err, code = await Deferred.fromCoroutine(
            _run([sys.executable, "-c", blocked, "check", "--online", "--config", str(path)])
        )
        self.assertEqual((code, err), (1, b""))
        self.assertRegex(out.decode(), r"(?m)^\[database\] .* ok ")
        self.assertRegex(
            out.decode(), r"(?m)production +wrong +apple.example:443: the name server does"
        )


async def _run(command: list[str]) -> Any:
    program, *arguments = command
    return await getProcessOutputAndValue(program, arguments, env=dict(os.environ), reactor=reactor)
