"""
The stage: Apple's two environments, Google, their credentials, and a daemon set up for them.

Everything listens on loopback at ports the system chose, and all
files are in one folder of the caller's.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import bcrypt

from middlewared.simulator.accounts_server import AccountsServer
from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.certificates import Authority, write_provider_key, write_service_account
from middlewared.simulator.daemon_process import DaemonProcess
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.record import AnyPush


def free_port() -> int:
    """
    A port at which no one listens now; the daemon's own URL must be known beforehand.

    It is below the range from which systems choose ports, so that none of the peers which
    start meanwhile is given the same.
    """
    while True:
        port = random.randrange(10_000, 30_000)  # noqa: S311
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


IOS_APP = "com.example.ios"
ANDROID_APP = "com.example.android"
RELAY_APP = "com.example.relay"
OPERATOR = "demo"


class Stage:
    """
    All peers, and the configuration that leads a daemon to them.

    :param listener: notified of each push that reaches a phone.
    :param calls: lines for ``[calls]``.
    :param accounts: lines for ``[accounts]``.
    :param sections: further sections.
    :param console_password: of the operator :data:`OPERATOR`; "": there is no console.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        folder: Path,
        listener: Callable[[AnyPush], None],
        calls: str = "",
        accounts: str = "",
        sections: str = "",
        console_password: str = "",
    ) -> None:
        self._folder = folder
        self._calls = calls
        self._account_lines = accounts
        self._sections = sections
        if console_password:
            self._sections += self._console(console_password)
        self._authority = Authority(folder=folder)
        self._key = write_provider_key(folder)
        topics = [IOS_APP, f"{IOS_APP}.voip"]
        self.apple, self.apple_sandbox = (
            AppleServer(
                reactor=reactor,
                certificate=self._authority.server(name=environment),
                client_authority=self._authority.certificate,
                provider_keys=[self._key],
                topics=topics,
                environment=environment,
                listener=listener,
            )
            for environment in ("production", "sandbox")
        )
        self.google = GoogleServer(
            reactor=reactor,
            certificate=self._authority.server(name="google"),
            api_keys=["relay-key"],
            listener=listener,
        )
        self.accounts = AccountsServer(reactor=reactor, numbers_are_accounts=True)
        self._servers = (self.apple, self.apple_sandbox, self.google, self.accounts)
        self._port = free_port()
        self.daemon = DaemonProcess(reactor=reactor, config=folder / "middlewared.ini")

    @property
    def url(self) -> str:
        """The daemon's base URL."""
        return f"http://127.0.0.1:{self._port}"

    def _console(self, password: str) -> str:
        """A section for the console, whose file of users is made."""
        hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(6)).decode("ascii")
        (self._folder / "console-users").write_text(f"{OPERATOR}:{hashed}\n")
        return (
            "[admin]\nlisten = tcp:0:interface=127.0.0.1\nhtpasswd = console-users\n"
            f"operators = {OPERATOR}\n"
        )

    async def start(self) -> None:
        """Start the peers, write the configuration, and start the daemon."""
        for server in self._servers:
            await server.start()
        account = write_service_account(self._folder, token_uri=self.google.token_uri)
        self.google.trust(account)
        self.write_config()
        await self.daemon.start()

    async def stop(self) -> int:
        """Stop everything; the daemon's exit code."""
        code = await self.daemon.stop()
        for server in self._servers:
            await server.stop()
        return code

    def write_config(self, calls: str | None = None) -> None:
        """Write the daemon's configuration, perhaps with other lines in ``[calls]``."""
        self._calls = self._calls if calls is None else calls
        certificate = self._authority.apns_client(topic=f"{IOS_APP}.voip")
        (self._folder / "middlewared.ini").write_text(
            f"""\
[http]
listen = tcp:{self._port}:interface=127.0.0.1
[metrics]
listen = tcp:0:interface=127.0.0.1
[accounts]
backend = voipgrid
base_url = {self.accounts.url}
{self._account_lines}
[calls]
response_api = {self.url}/api/call-response/
{self._calls}
{self._sections}
[app:{IOS_APP}:apns]
certificate = {certificate.name}
production_url = {self.apple.url}
sandbox_url = {self.apple_sandbox.url}
ca_file = ca.pem
[app:{ANDROID_APP}:android]
service_account = service-account.json
url = {self.google.url}
ca_file = ca.pem
[app:{RELAY_APP}:gcm]
api_key = relay-key
url = {self.google.url}/gcm/send
ca_file = ca.pem
"""
        )
