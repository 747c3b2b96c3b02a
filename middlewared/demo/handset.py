"""
A phone that a person answers: by a command, or by the buttons of its page.

It rings from a push until it is answered, or until the call cannot wait any longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from klein import Klein
from markupsafe import Markup
from twisted.web.server import Request, Site

from middlewared.simulator.listening import ListeningSocket
from middlewared.simulator.phone import Phone, SentAnswer
from middlewared.simulator.record import AnyPush

_PAGE = Markup("""\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{refresh_s}">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark }}
  body {{ font: 1.25rem/1.5 system-ui, sans-serif; max-width: 24rem; margin: 3rem auto;
    padding: 0 1rem; text-align: center }}
  button {{ font: inherit; padding: .75rem 2rem; margin: .5rem; color: #fff; border: 0;
    border-radius: 2rem }}
  .answer {{ background: #12683a }} .refuse {{ background: #a3201d }}
</style>
<h1>{title}</h1>
{content}
<p>{last}</p>
""")
_BUTTONS = Markup("""\
<form method="post">
  <button class="answer" formaction="/answer">Answer</button>
  <button class="refuse" formaction="/refuse">Refuse</button>
</form>
""")
_MEANINGS = {202: "the daemon took the answer", 404: "the call is over", 0: "no daemon there"}
# A page must not be loaded again below the finger that presses a button.
_IDLE_REFRESH_S, _RINGING_REFRESH_S = 1, 10


class Handset:
    """
    The phone in a person's hands.

    :param phone: does not answer by itself.
    :param rings_s: how long a call rings at most.
    :param answered: gets what was answered.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        phone: Phone,
        rings_s: float,
        answered: Callable[[SentAnswer], None],
    ) -> None:
        self._reactor = reactor
        self._phone = phone
        self._rings_s = rings_s
        self._answered = answered
        self._ringing: dict[str, AnyPush] = {}
        self._last = ""
        self._socket = ListeningSocket(reactor=reactor)

    @property
    def url(self) -> str:
        """The address of its page, without a trailing slash, once started."""
        return f"http://{self._socket.address}"

    def start(self) -> None:
        """Listen on loopback."""
        app = Klein()
        app.route("/", methods=["GET"])(self._show)
        app.route("/answer", methods=["POST"])(self._answer)
        app.route("/refuse", methods=["POST"])(self._refuse)
        site: Any = Site(app.resource(), reactor=self._reactor)
        site.noisy = False
        site.log = lambda _request: None
        self._socket.open(site)

    async def stop(self) -> None:
        """Stop listening, and give up what is not answered."""
        await self._socket.close()
        await self._phone.stop()

    def receive(self, push: AnyPush) -> None:
        """Get a push, and ring."""
        self._phone.receive(push)
        self._ringing[push.data["unique_key"]] = push

    def _newest(self) -> AnyPush | None:
        """The call that rings; None: there is none."""
        since = self._reactor.seconds() - self._rings_s
        self._ringing = {k: push for k, push in self._ringing.items() if push.received_at > since}
        return next(reversed(self._ringing.values()), None)

    def _show(self, request: Request) -> bytes:
        push = self._newest()
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        content = Markup("<p>No call.</p>")
        if push is not None:
            caller = " ".join(str(push.data[key]) for key in ("caller_id", "phonenumber"))
            content = Markup("<p>{} calls.</p>").format(caller.strip()) + _BUTTONS
        page = _PAGE.format(
            title=f'The phone "{self._phone.sip_user_id}"',
            content=content,
            last=self._last,
            refresh_s=_IDLE_REFRESH_S if push is None else _RINGING_REFRESH_S,
        )
        return page.encode()

    async def _answer(self, request: Request) -> bytes:
        return await self._reply(request, True)

    async def _refuse(self, request: Request) -> bytes:
        return await self._reply(request, False)

    async def _reply(self, request: Request, available: bool) -> bytes:
        """Answer the newest call; the reply has what became of it."""
        push = self._newest()
        if push is None:
            request.setResponseCode(409)
            self._last = "No call rings."
        else:
            self._ringing.pop(push.data["unique_key"])
            status = await self._phone.answer(push.data, available=available)
            verb = "Answered" if available else "Refused"
            self._last = f"{verb}: {status}, {_MEANINGS.get(status, 'unexpected')}."
            self._answered(self._phone.answers[-1])
        if b"text/html" in b"".join(request.requestHeaders.getRawHeaders(b"Accept", [])):
            request.setResponseCode(303)
            request.setHeader(b"Location", b"/")
            return b""
        return f"{self._last}\n".encode()
