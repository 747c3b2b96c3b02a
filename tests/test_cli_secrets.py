"""Commands read the secrets of the configuration where the daemon does."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from middlewared.demo.stage import free_port
from middlewared.simulator.daemon_process import DaemonProcess
from tests.test_cli_commands import CommandTestCase

COMMANDS = (("check",), ("migrate",), ("devices", "list"), ("calls", "list"), ("push",))


class SecretsTests(CommandTestCase):
    """A file, a variable, and a directory of credentials as systemd makes it."""

    async def test_commands_and_daemon_read_the_same(self) -> None:
        """With the daemon's variables all work; without, each names the one that is not set."""
        for folder, name in (("secrets", "gcm"), ("credentials", "pbx")):
            (self.directory / folder).mkdir()
            (self.directory / folder / name).write_text(f"the {name} secret\n")
        port = free_port()
        path = self.write_config(
            f"[http]\nlisten = tcp:{port}:interface=127.0.0.1\n[metrics]\nlisten =\n"
            "[accounts]\nbackend = open\n"
            "[database]\nurl = sqlite:%(ENV:DEVICES)s.sqlite3\n"
            "[pbx:office]\npassword = %(FILE:%(ENV:CREDENTIALS_DIRECTORY)s/pbx)s\n"
            "[app:com.example:gcm]\napi_key = %(FILE:secrets/gcm)s\nurl = https://relay.example\n"
        )
        given = {
            "CREDENTIALS_DIRECTORY": str(self.directory / "credentials"),
            "DEVICES": "devices",
        }
        ran = await self.command("migrate", "-c", path, environ=given)
        self.assertEqual((ran.code, ran.err), (0, ""))
        daemon = DaemonProcess(reactor=self.spawner, config=path, environ=given)
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.stop()))
        await daemon.start()
        for command in COMMANDS:
            account = ("123456789",) if command == ("push",) else ()
            ran = await self.command(*command, "-c", path, *account, environ=given)
            # The account has no device; the password of the PBX was accepted.
            wanted = (1, "no-device") if account else (0, "")
            self.assertEqual((ran.code, ran.err), (wanted[0], ""), (command, ran.out))
            self.assertIn(wanted[1], ran.out)
            ran = await self.command(*command, "-c", path, *account)
            self.assertEqual(ran.code, 1, command)
            shown = ran.out + ran.err
            self.assertIn("the environment variable CREDENTIALS_DIRECTORY is not set", shown)
            self.assertIn("the environment variable DEVICES is not set", shown)
            self.assertNotIn("secret\n", shown)
