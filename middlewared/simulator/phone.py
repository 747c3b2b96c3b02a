"""
Simulator: a phone with an app of some generation.

Pushes and replies affect a phone as they affect its generation; phones
share nothing, neither connections nor queues. After ``stop`` nothing is left running.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import attrs
import treq
from treq.client import HTTPClient
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.task import deferLater
from twisted.web.client import Agent, ResponseFailed, ResponseNeverReceived

from middlewared.background import Background
from middlewared.simulator.generations import AnswersTo, Body, Effect, Generation, Repeat
from middlewared.simulator.record import AnyPush, ReceivedPush

RESPONSE_PATH = "/api/call-response/"
# No app tries again; its status is 0.
_UNREACHED = (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    ResponseFailed,
    ResponseNeverReceived,
)


@attrs.frozen
class Reaction:
    """
    How the phone reacts to a call push.

    ``delay_s``: from the push to the answer: the app starts and registers at the SIP
    proxy. ``available`` None: it never answers; False: it is busy. ``from_attempt``: it
    misses earlier pushes. ``data_from_attempt``: before that attempt it has no usable mobile
    data. ``repeats``: how often it repeats its answer. ``scientific``: the start time is
    echoed in the notation of legacy FCM, 1.5E9.
    """

    delay_s: float = 0.0
    available: bool | None = True
    from_attempt: int = 1
    data_from_attempt: int = 1
    repeats: int = 0
    scientific: bool = False


@attrs.frozen
class SentAnswer:
    """One call-response and the daemon's status for it (0: not reached), by the reactor's clock."""

    unique_key: str
    available: bool
    status: int
    sent_at: float
    answered_at: float


@attrs.define(kw_only=True, eq=False, repr=False)
class Phone:
    """
    Registers, gets pushes, answers them.

    :param base_url: the daemon, without a trailing slash.
    :param authorization: the Authorization header of the app's user.
    :ivar pushes: call pushes it could read; ``notices``: texts it showed; ``complaints``:
        what it could not read properly; ``effects``: what happened to the app.
    """

    _reactor: Any
    _base_url: str
    _generation: Generation
    sip_user_id: int | str
    token: str
    _app: str
    _authorization: str | None = None
    reaction: Reaction = attrs.field(factory=Reaction)
    _fields: Mapping[str, Any] = attrs.field(factory=dict)
    pushes: list[AnyPush] = attrs.field(factory=list, init=False)
    notices: list[str] = attrs.field(factory=list, init=False)
    complaints: list[str] = attrs.field(factory=list, init=False)
    effects: list[Effect] = attrs.field(factory=list, init=False)
    answers: list[SentAnswer] = attrs.field(factory=list, init=False)
    _handled: set[str] = attrs.field(factory=set, init=False)
    _is_on: bool = attrs.field(default=True, init=False)
    _background: Background = attrs.field(factory=Background, init=False)

    @property
    def platform(self) -> str:
        """How its pushes come."""
        return self._generation.platform

    async def register(self) -> int:
        """Register and give the status; 0: the daemon was not reached."""
        generation = self._generation
        fields = {**self._identity(), **generation.extra, **self._fields}
        status = await self._send(
            "POST", self._device_url(), fields, generation.registers, signed=True
        )
        if status not in (200, 201):
            self._suffer(generation.on_lost_registration)
        return status

    async def unregister(self) -> int:
        """Unregister and give the status."""
        url = self._device_url()
        if not self._generation.delete_slash:
            url = url.removesuffix("/")
        body = self._generation.unregisters
        return await self._send("DELETE", url, self._identity(), body, signed=True)

    def receive(self, push: AnyPush) -> None:
        """Get a push: read it as the app does, and react in the background."""
        if Effect.LOGGED_OUT in self.effects:
            return
        if isinstance(push, ReceivedPush) and push.headers.get("apns-push-type") != "voip":
            self._show_alert(push.payload)
        elif push.data.get("type") == "message":
            self._get_message(push.data)
        else:
            self._get_call(push)

    async def finish(self) -> None:
        """Wait until all answers are sent and have their statuses."""
        await self._background.finish()

    async def stop(self) -> None:
        """Give up what is still to be answered."""
        self._is_on = False
        self._background.cancel()
        await self._background.finish()

    async def answer(self, data: Mapping[str, Any], *, available: bool, at: str = "") -> int:
        """
        Post one call-response for a push and return the status.

        :param at: another address than the app's own.
        """
        generation = self._generation
        sent_at = self._reactor.seconds()
        start = data["message_start_time"]
        fields = {
            "unique_key": data["unique_key"],
            "message_start_time": f"{float(start):.15E}" if self.reaction.scientific else start,
            "available": generation.words[available],
        }
        if generation.answers_for:
            fields["sip_user_id"] = str(self.sip_user_id)
        url = at or self._response_url(data)
        signed = generation.answers_signed
        status = await self._send("POST", url, fields, generation.answers, signed=signed)
        done_at = self._reactor.seconds()
        self.answers.append(SentAnswer(data["unique_key"], available, status, sent_at, done_at))
        if status not in (0, 401) and not 200 <= status < 300:
            self._suffer(generation.on_refusal)
        return status

    def _show_alert(self, payload: Mapping[str, Any]) -> None:
        alert = payload.get("aps", {}).get("alert")
        text = alert.get("body") if isinstance(alert, dict) else alert
        self.notices.append(str(text or ""))

    def _get_message(self, data: Mapping[str, Any]) -> None:
        text, generation = data.get("message") or "", self._generation
        if generation.platform == "apns":
            self.complaints.append("a message by VoIP push")
        elif not text or not text.startswith(generation.message_start):
            self.complaints.append("a message that the app does not know")
            self._suffer(Effect.IGNORED)
            return
        else:
            self.notices.append(text)
        self._suffer(generation.on_message)

    def _get_call(self, push: AnyPush) -> None:
        data = push.data
        unmet = self._generation.unmet(data)
        for need in unmet:
            self.complaints.append(f"{need.key}: {need.otherwise.value}")
            self._suffer(need.otherwise)
        if all(need.otherwise is Effect.MISREAD for need in unmet):
            self.pushes.append(push)
            reaction = self.reaction
            if reaction.available is not None and int(data["attempt"]) >= reaction.from_attempt:
                self._react(data)

    def _react(self, data: Mapping[str, Any]) -> None:
        """The app runs now: answer, or wait for the next attempt."""
        generation, key = self._generation, data["unique_key"]
        if key in self._handled:
            if generation.rings_first and generation.platform == "apns":
                self._suffer(Effect.GHOST_CALL)  # iOS shows every VoIP push as a call
            if generation.repeat is Repeat.REFUSED:
                self._background.run(self._answer(data, False, 0.0))
            if generation.repeat is not Repeat.HANDLED:
                return
        available = self._decide(int(data["attempt"]))
        if available or generation.rings_first:
            self._handled.add(key)
        if available is not None:
            self._background.run(self._answer(data, available, self.reaction.delay_s))

    def _decide(self, attempt: int) -> bool | None:
        """Whether the phone can take a call; None: it does not answer this attempt."""
        if Effect.VOIP_OFF in self.effects:
            return False
        has_data = attempt >= self.reaction.data_from_attempt
        if has_data and self.reaction.available:
            return True
        first_no = self._generation.first_no
        # Without mobile data no app answers, except old iOS at its last attempt.
        refuses = attempt >= first_no and (has_data or first_no > 1)
        return False if refuses else None

    async def _answer(self, data: Mapping[str, Any], available: bool, delay_s: float) -> None:
        if delay_s:
            await deferLater(self._reactor, delay_s)
        for _ in range(1 + self.reaction.repeats):
            if self._is_on:  # a cancelled request looks like an unreachable daemon
                await self.answer(data, available=available)

    def _suffer(self, effect: Effect | None) -> None:
        if effect is not None:
            self.effects.append(effect)

    def _response_url(self, data: Mapping[str, Any]) -> str:
        response_api = str(data.get("response_api", ""))
        match self._generation.answers_to:
            case AnswersTo.RESPONSE_API:
                return response_api
            case AnswersTo.APPENDED:
                return response_api.removesuffix("/") + RESPONSE_PATH
            case AnswersTo.ITS_HOST:
                parts = urlsplit(response_api)
                return f"{parts.scheme}://{parts.netloc}{RESPONSE_PATH}"
            case AnswersTo.OWN_HOST:
                return self._base_url + RESPONSE_PATH

    def _identity(self) -> dict[str, str]:
        return {"sip_user_id": str(self.sip_user_id), "token": self.token, "app": self._app}

    def _device_url(self) -> str:
        return f"{self._base_url}/api/{self._generation.platform}-device/"

    async def _send(
        self, method: str, url: str, fields: Mapping[str, Any], body: Body, *, signed: bool
    ) -> int:
        headers: dict[Any, Any] = dict(self._generation.headers)
        if signed and self._authorization is not None:
            headers["Authorization"] = self._authorization
        url, content = _written(url, fields, body)
        if content:
            form = body is Body.FORM
            headers["Content-Type"] = f"application/{'x-www-form-urlencoded' if form else 'json'}"
        patience_s = self._generation.patience_s
        # Without a pool each request has a connection of its own.
        agent: Any = Agent(self._reactor, connectTimeout=patience_s)
        try:
            response = await HTTPClient(agent).request(
                method, url, headers=headers, data=content, timeout=patience_s
            )
            await treq.content(response)
        except _UNREACHED:
            return 0
        if response.code == 401:
            self._suffer(self._generation.on_401)
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


def _written(url: str, fields: Mapping[str, Any], body: Body) -> tuple[str, bytes | None]:
    """URL and body of a request."""
    if body is Body.JSON:
        return url, json.dumps(dict(fields)).encode()
    # A null form field is left out; OkHttp writes a blank as %20.
    texts = {name: str(value) for name, value in fields.items() if value is not None}
    if body is Body.TEXTS:
        return url, json.dumps(texts).encode()
    form = urlencode(texts, quote_via=quote, safe="")
    return (f"{url}?{form}", None) if body is Body.QUERY else (url, form.encode())
