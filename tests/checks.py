"""For tests of ``check --online`` against real peers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from middlewared.cli.check.online import online_checks, run_all
from middlewared.service.configuration import read_all
from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.certificates import Authority, write_provider_key

reactor: Any = _reactor
APP = "com.voipgrid.vialer"


def made_folder(test: SynchronousTestCase) -> Path:
    """A temporary folder for a test."""
    folder = Path(test.mktemp()).absolute()
    folder.mkdir(parents=True)
    return folder


class OnlineTestCase(TestCase):
    """Writes a configuration and runs its checks."""

    def setUp(self) -> None:
        self.folder = made_folder(self)

    def later(self, stop: Any) -> None:
        """Run the coroutine function ``stop`` as a clean-up."""
        self.addCleanup(lambda: Deferred.fromCoroutine(stop()))

    async def check_all(self, text: str) -> dict[str, str]:
        """The result of each check, by title: status, space, text."""
        path = self.folder / "middlewared.ini"
        path.write_text(text)
        lines: list[str] = []
        checks = list(online_checks(read_all(path), reactor))
        await run_all(checks, reactor, lines.append)
        self.assertEqual(len(lines), len(checks))
        results = {}
        for line, check in zip(lines, checks, strict=True):
            self.assertTrue(line.startswith(check.title), line)
            status, _, text = line.removeprefix(check.title).strip().partition(" ")
            results[check.title] = f"{status} {text.strip()}"
        return results

    async def check_one(self, text: str, title: str) -> str:
        """The result of one check."""
        return (await self.check_all(text))[title]


class AppleCheckCase(OnlineTestCase):
    """An authority, a key, and simulated Apples that accept them."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority(folder=self.folder)
        self.key = write_provider_key(self.folder)

    async def apple(self, **options: Any) -> AppleServer:
        """Start an Apple that knows no made-up token."""
        options.setdefault("client_authority", self.authority.certificate)
        options.setdefault("provider_keys", [self.key])
        options.setdefault("tokens", ())
        options.setdefault("certificate", self.authority.server(name=uuid4().hex))
        server = AppleServer(reactor=reactor, **options)
        await server.start()
        self.later(server.stop)
        return server

    def with_key(self, production: str, sandbox: str, more: str = "", app: str = APP) -> str:
        """An app with the provider key."""
        return (
            f"[app:{app}:apns]\nkey_file = {self.key.path}\nkey_id = {self.key.key_id}\n"
            f"team_id = {self.key.team_id}\nca_file = {self.authority.certificate}\n"
            f"production_url = {production}\nsandbox_url = {sandbox}\n{more}"
        )
