"""
Refusing new calls under overload, before they cost what a request costs.

To parse a request and to route it takes more than a tenth of what a whole call takes. At ten
times the capacity that alone would use up the daemon. So while the daemon is overloaded the
bytes of a request are looked at first: what is plainly one new call of a PBX is refused at
once. Anything unusual (chunked, pipelined, multipart, escaped, from elsewhere) goes the
usual way, where it is refused as well, at a higher price.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from urllib.parse import unquote_plus

import attrs

from middlewared.calls.interface import Calls
from middlewared.clock import Clock
from middlewared.model import IncomingCall, Outcome
from middlewared.web.calls import pbx_reply
from middlewared.web.networks import client_address, doubt, within
from middlewared.web.replies import head_of
from middlewared.web.settings import WebSettings

REQUEST_LINE = b"POST /api/incoming-call"
MOST_HEAD_BYTES = 8192
MOST_SENDERS = 1000

_HEAD_END = b"\r\n\r\n"
_TARGET = re.compile(rb"POST /api/incoming-call(?:/[^ ]*)? HTTP/1\.1\r\n")
# What changes how a body is framed or a request is answered; for the parser to deal with.
_UNUSUAL = re.compile(rb"(?i)\r\n(?:transfer-encoding|expect|upgrade|forwarded|[ \t])")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n)")
_FORWARDED_FOR = re.compile(rb"(?i)\r\nx-forwarded-for:([^\r\n]*)")
_CLOSE = re.compile(rb"(?i)\r\nconnection:[^\r\n]*close")
_FORM_ACCOUNT = re.compile(rb"(?:^|&)sip_user_id=([0-9]{1,18})(?=&|$)")
_FORM_CALL_ID = re.compile(rb"(?:^|&)call_id=([^&]*)")
_JSON_ACCOUNT = re.compile(rb'"sip_user_id"\s*:\s*"?([0-9]{1,18})"?\s*[,}]')
_JSON_CALL_ID = re.compile(rb'"call_id"\s*:\s*"?([^",}]*)')


class Early(enum.Enum):
    """What the bytes of a request allow to decide before they are parsed."""

    SERVE = "serve"
    """Parse and serve them."""
    WAIT = "wait"
    """They are the beginning of a request that may be refused once it is whole."""


@attrs.frozen
class Refused:
    """The bytes are one call, which was refused: ``reply`` is to be sent."""

    reply: bytes
    close: bool


class Shedding:
    """
    Recognises requests that are new calls, and refuses them.

    :param settings: gives the present settings.
    :param closing: whether each connection is to be closed with its next answer.
    :param http_request: notified of route, method, status and seconds of each refusal.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        calls: Calls,
        settings: Callable[[], WebSettings],
        closing: Callable[[], bool],
        http_request: Callable[[str, str, int, float], None],
    ) -> None:
        self._clock = clock
        self._calls = calls
        self._settings = settings
        self._closing = closing
        self._http_request = http_request
        self._senders: dict[tuple[str | None, bytes], bool] = {}
        self._senders_by: WebSettings | None = None

    @property
    def active(self) -> bool:
        """Whether new calls are refused now."""
        return self._calls.overloaded

    def early(self, data: bytes, peer: str | None) -> Refused | Early:
        """
        Refuse what ``data`` asks for, if it is a new call.

        :param data: what a connection received while no request was under way on it.
        :param peer: the connection's own address; None on a unix socket.
        """
        began_at = self._clock.seconds()
        head_end = data.find(_HEAD_END)
        if max(head_end, len(data) if head_end < 0 else 0) > MOST_HEAD_BYTES:
            return Early.SERVE
        if head_end < 0:
            return Early.WAIT
        head, body = data[: head_end + 2], data[head_end + 4 :]
        lengths = _LENGTH.findall(head)
        if len(lengths) != 1 or not _TARGET.match(head) or _UNUSUAL.search(head):
            return Early.SERVE
        missing = int(lengths[0]) - len(body)
        if missing > 0 and int(lengths[0]) <= self._settings().max_body_bytes:
            return Early.WAIT
        incoming = _incoming(body) if missing == 0 else None
        if incoming is None or not self._is_pbx(peer, head) or not self._calls.shed(incoming):
            return Early.SERVE
        close = self._closing() or _CLOSE.search(head) is not None
        took_s = self._clock.seconds() - began_at
        self._http_request("incoming-call", "POST", 503, took_s)
        reply = pbx_reply(503, Outcome.OVERLOADED, f"total;dur={took_s * 1000:.2f}")
        return Refused(head_of(reply, close=close) + reply.body, close)

    def _is_pbx(self, peer: str | None, head: bytes) -> bool:
        """Whether the sender is in pbx_networks; known ones cost one look-up."""
        settings = self._settings()
        if self._senders_by is not settings or len(self._senders) >= MOST_SENDERS:
            self._senders, self._senders_by = {}, settings
        forwarded_for = _FORWARDED_FOR.findall(head)
        sender = (peer, b",".join(forwarded_for))
        known = self._senders.get(sender)
        if known is None:
            texts = [value.decode("latin-1") for value in forwarded_for]
            trusted = settings.trusted_proxies
            address = client_address(peer, texts, trusted)
            known = within(address, settings.pbx_networks) and not doubt(peer, texts, (), trusted)
            self._senders[sender] = known
        return known


def _incoming(body: bytes) -> IncomingCall | None:
    """The account and call_id of a plain form or JSON object; None: it is not plain."""
    if body.startswith(b"{"):
        accounts, call_ids = _JSON_ACCOUNT.findall(body), _JSON_CALL_ID.findall(body)
        plain = b"\\" not in body and body.count(b"{") == 1
    else:
        accounts, call_ids = _FORM_ACCOUNT.findall(body), _FORM_CALL_ID.findall(body)
        plain = not body.startswith(b"--")
    if not plain or len(accounts) != 1 or len(call_ids) > 1:
        return None
    call_id = call_ids[0].decode("utf-8", "replace") if call_ids else ""
    if ("%" in call_id or "+" in call_id) and not body.startswith(b"{"):
        call_id = unquote_plus(call_id)
    return IncomingCall(int(accounts[0]), "", call_id=call_id)
