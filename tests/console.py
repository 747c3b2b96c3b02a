"""A daemon with a console, the simulated peers around it, and a client for the console."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import bcrypt
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from middlewared.basic_auth import encode_basic
from tests.daemons import Answered, DaemonTestCase
from tests.fleet import clock
from tests.test_flow_calls import FIRST_ACCOUNT, FlowTestCase

PASSWORDS = {"op": "of the operator", "viewer": "of the viewer"}
ADMIN = "[admin]\nlisten = tcp:0:interface=127.0.0.1\nhtpasswd = console-users\noperators = op\n"
ACCOUNT = str(FIRST_ACCOUNT)


def users_file() -> str:
    """The lines of a file of the console's users."""
    return "".join(
        f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"
        for user, password in PASSWORDS.items()
    )


class ConsoleClient(DaemonTestCase):
    """Requests to consoles; ``admin`` is the address of the one that is asked."""

    admin: str

    async def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        user: str | None = "op",
        password: str | None = None,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Answered:
        """The console's answer; redirects are not followed."""
        sent: dict[bytes | str, bytes | str] = dict((headers or {}).items())
        if user is not None:
            secret = PASSWORDS.get(user, "") if password is None else password
            sent["Authorization"] = encode_basic(user, secret).decode()
        request: Deferred[Any] = self.client.request(
            method,
            f"{self.admin}{path}",
            headers=sent,
            data=None if form is None else dict(form),
            allow_redirects=False,
        )
        return await self._answered(request)

    async def document(self, path: str, method: str = "GET", *, user: str = "op") -> Any:
        """A JSON document, which there is."""
        answered = await self.ask(path, method, user=user)
        self.assertEqual(answered.status, 200, answered.text)
        return json.loads(answered.text)

    async def until_document(self, path: str, complete: Any) -> Any:
        """A JSON document, once ``complete`` is true of it."""
        while True:
            answered = await self.ask(path)
            if answered.status == 200 and complete(found := json.loads(answered.text)):
                return found
            await deferLater(clock, 0.05)


class ConsoleTestCase(ConsoleClient, FlowTestCase):
    """
    A stage whose daemon has a console.

    :cvar history: lines for ``[history]``.
    """

    history = ""

    async def start(self, sections: str = "") -> None:
        (self.directory / "console-users").write_text(users_file())
        await super().start(f"{ADMIN}[history]\n{self.history}\n{sections}")
        self.admin = self.stage.daemon.url("", "admin")

    async def kept(self, **wanted: str) -> dict[str, Any]:
        """The newest call that matches, once it is kept."""
        query = "&".join(f"{name}={value}" for name, value in wanted.items())
        page = await self.until_document(f"/api/calls?{query}", lambda page: page["calls"])
        call: dict[str, Any] = page["calls"][0]
        return call
