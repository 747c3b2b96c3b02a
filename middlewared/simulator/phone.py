"""
Simulator: a phone with an app of some generation.

The one invariant: a phone reacts only to pushes that its app could read; what it could
not read stands in ``complaints``. After ``stop`` it has nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import attrs
import treq
from treq.client import HTTPClient
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.task import deferLater
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from middlewared.background import Background
from middlewared.simulator.apple.push import ReceivedPush
from middlewared.simulator.generations import Generation
from middlewared.simulator.google_rules import GooglePush

AnyPush: TypeAlias = ReceivedPush | GooglePush

# No app tries again; its status is 0.
_UNREACHED = (ConnectError, ConnectionClosed, ResponseFailed, ResponseNeverReceived)


@attrs.frozen
class Reaction:
    """
    What the phone does with a call push.

    ``available`` None: it never answers. ``from_attempt``: it sleeps through earlier
    pushes. ``repeats``: how often it posts its answer again. ``scientific``: the start
    time goes back as legacy FCM turned it, 1.5E9. ``refuses_repeats``: a further push
    for the same call is answered "not available", as native Android does.
    """

    delay_s: float = 0.0
    available: bool | None = True
    from_attempt: int = 1
    repeats: int = 0
    scientific: bool = False
    refuses_repeats: bool = False


@attrs.frozen
class SentAnswer:
    """One call-response and the daemon's status for it (0: not reached), by the reactor's clock."""

    unique_key: str
    available: bool
    status: int
    sent_at: float
    answered_at: float


class Phone:
    """
    Registers, gets pushes, answers them.

    :param http: with the connection pool of the caller.
    :param base_url: the daemon, without a trailing slash.
    :param authorization: the Authorization header of the app's user.
    :ivar pushes: call pushes it could read; ``notices`` the texts it was shown.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        http: HTTPClient,
        base_url: str,
        generation: Generation,
        sip_user_id: int,
        token: str,
        app: str,
        authorization: str | None = None,
        reaction: Reaction | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        self.token = token
        self.reaction = reaction or Reaction()
        self.pushes: list[AnyPush] = []
        self.notices: list[str] = []
        self.complaints: list[str] = []
        self.answers: list[SentAnswer] = []
        self._reactor = reactor
        self._http = http
        self._base_url = base_url
        self._generation = generation
        self._identity = {"sip_user_id": str(sip_user_id), "token": token, "app": app}
        self._authorization = authorization
        self._fields = {**generation.extra, **(fields or {})}
        self._background = Background()

    async def register(self) -> int:
        """Register and give the status; 0: the daemon was not reached."""
        return await self._device("POST", {**self._identity, **self._fields})

    async def unregister(self) -> int:
        """Unregister and give the status."""
        return await self._device("DELETE", self._identity)

    def receive(self, push: AnyPush) -> None:
        """Get a push: read it as the app does, and react in the background."""
        data = push.payload if isinstance(push, ReceivedPush) else push.data
        if self._is_notice(push, data):
            return
        complaint = self._generation.complaint(data)
        if complaint is not None:
            self.complaints.append(complaint)
            return
        again = any(_data(each)["unique_key"] == data["unique_key"] for each in self.pushes)
        self.pushes.append(push)
        available = self.reaction.available
        if again and self.reaction.refuses_repeats:
            available = False
        if available is not None and int(data["attempt"]) >= self.reaction.from_attempt:
            self._background.run(self._answer(data, available))

    async def stop(self) -> None:
        """Give up what is still to be answered."""
        self._background.cancel()
        await self._background.finish()

    async def answer(self, data: Mapping[str, Any], *, available: bool) -> int:
        """Post one call-response for a push and give the status."""
        sent_at = self._reactor.seconds()
        start = data["message_start_time"]
        fields = {
            "unique_key": data["unique_key"],
            "message_start_time": f"{float(start):.15E}" if self.reaction.scientific else start,
            "available": self._generation.words[available],
        }
        if self._generation.response_has_account:
            fields["sip_user_id"] = self._identity["sip_user_id"]
        url = self._response_url(data["response_api"])
        signed = self._generation.response_has_credentials
        form = self._generation.response_form
        status = await self._send("POST", url, fields, form=form, signed=signed)
        done_at = self._reactor.seconds()
        self.answers.append(SentAnswer(data["unique_key"], available, status, sent_at, done_at))
        return status

    async def _answer(self, data: Mapping[str, Any], available: bool) -> None:
        if self.reaction.delay_s:
            await deferLater(self._reactor, self.reaction.delay_s)
        for _ in range(1 + self.reaction.repeats):
            await self.answer(data, available=available)

    def _is_notice(self, push: AnyPush, data: Mapping[str, Any]) -> bool:
        """Take an alert (Apple) or a message (Google); True when it was one."""
        if isinstance(push, ReceivedPush):
            text = push.payload.get("aps", {}).get("alert")
            if push.headers.get("apns-push-type") == "voip":
                return False
            text = text.get("body") if isinstance(text, dict) else text
        elif data.get("type") == "message":
            text = data.get("message")
        else:
            if data.get("type") != "call":
                self.complaints.append("unknown type")
            return data.get("type") != "call"
        self.notices.append(str(text or ""))
        return True

    def _response_url(self, response_api: str) -> str:
        path = self._generation.response_path
        if path is None:
            return response_api
        parts = urlsplit(response_api)
        return f"{parts.scheme}://{parts.netloc}{path}"

    async def _device(self, method: str, fields: Mapping[str, Any]) -> int:
        slash = "/" if self._generation.slash else ""
        url = f"{self._base_url}/api/{self._generation.platform}-device{slash}"
        if method == "DELETE" and self._generation.delete_by_query:
            return await self._send(method, url, fields, form=True, signed=True, query=True)
        return await self._send(method, url, fields, form=self._generation.form, signed=True)

    async def _send(
        self,
        method: str,
        url: str,
        fields: Mapping[str, Any],
        *,
        form: bool,
        signed: bool,
        query: bool = False,
    ) -> int:
        headers: dict[Any, Any] = {
            "User-Agent": "Vialer/1.0 (simulated)",
            "Accept": "application/json",
        }
        if signed and self._authorization is not None:
            headers["Authorization"] = self._authorization
        if form:
            # A null form field is left out.
            texts = {name: str(value) for name, value in fields.items() if value is not None}
            body: dict[str, Any] = {"params": texts} if query else {"data": texts}
        else:
            body = {"json": dict(fields)}
        try:
            response = await self._http.request(method, url, headers=headers, **body)
            await treq.content(response)
        except _UNREACHED:
            return 0
        return int(response.code)


class Phones:
    """The phones behind a simulated provider: its listener, which finds each by token."""

    def __init__(self) -> None:
        self._by_token: dict[str, Callable[[AnyPush], None]] = {}

    def __call__(self, push: AnyPush) -> None:
        """Hand a push to the phone whose token it names, if there is one."""
        receive = self._by_token.get(push.token)
        if receive is not None:
            receive(push)

    def add(self, phone: Phone) -> None:
        """Switch a phone on."""
        self._by_token[phone.token] = phone.receive

    def remove(self, phone: Phone) -> None:
        """Switch a phone off."""
        self._by_token.pop(phone.token, None)


def _data(push: AnyPush) -> Mapping[str, Any]:
    return push.payload if isinstance(push, ReceivedPush) else push.data
