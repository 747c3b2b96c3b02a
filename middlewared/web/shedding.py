"""
Refusing new calls under overload, before they cost what a request costs.

At ten times the capacity nine of ten calls are refused, and to parse each of them would use
up the daemon. Anything unusual (chunked, pipelined, multipart, escaped, from elsewhere) goes
the usual way, where it is refused as well, at a higher price.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote_plus

from middlewared.calls.interface import Calls
from middlewared.clock import Clock
from middlewared.model import IncomingCall, Outcome
from middlewared.web.calls import pbx_reply
from middlewared.web.networks import client_address, doubt, within
from middlewared.web.plain import Early, Plain, Refused, read_plain
from middlewared.web.settings import WebSettings

MOST_SENDERS = 1000

_TARGET = re.compile(rb"POST /api/incoming-call(?:/[^ ]*)? HTTP/1\.1\r\n")
_FORM_ACCOUNT = re.compile(rb"(?:^|&)sip_user_id=([0-9]{1,18})(?=&|$)")
_FORM_CALL_ID = re.compile(rb"(?:^|&)call_id=([^&]*)")
_JSON_ACCOUNT = re.compile(rb'"sip_user_id"\s*:\s*"?([0-9]{1,18})"?\s*[,}]')
_JSON_CALL_ID = re.compile(rb'"call_id"\s*:\s*"?([^",}]*)')


class Shedding:
    """
    Recognises requests that are new calls, and refuses them; a :class:`~.plain.Judge`.

    :param settings: gives the present settings.
    :param closing: whether each connection is to be closed with its next answer.
    :param http_request: notified of route, method, status and seconds of each refusal.
    """

    request_line = b"POST /api/incoming-call"

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
        """See :meth:`.plain.Judge.early`."""
        began_at = self._clock.seconds()
        plain = read_plain(data, _TARGET, self._settings().max_body_bytes)
        if not isinstance(plain, Plain):
            return plain
        incoming = _incoming(plain)
        if incoming is None or not self._is_pbx(peer, plain) or not self._calls.shed(incoming):
            return Early.SERVE
        took_s = self._clock.seconds() - began_at
        self._http_request("incoming-call", "POST", 503, took_s)
        reply = pbx_reply(503, Outcome.OVERLOADED, f"total;dur={took_s * 1000:.2f}")
        return plain.refused(reply, closing=self._closing())

    def _is_pbx(self, peer: str | None, plain: Plain) -> bool:
        """Whether the sender is in pbx_networks; known ones cost one look-up."""
        settings = self._settings()
        if self._senders_by is not settings or len(self._senders) >= MOST_SENDERS:
            self._senders, self._senders_by = {}, settings
        forwarded_for = plain.forwarded_for
        sender = (peer, b",".join(forwarded_for))
        known = self._senders.get(sender)
        if known is None:
            texts = [value.decode("latin-1") for value in forwarded_for]
            trusted = settings.trusted_proxies
            address = client_address(peer, texts, trusted)
            known = within(address, settings.pbx_networks) and not doubt(peer, texts, (), trusted)
            self._senders[sender] = known
        return known


def _incoming(plain: Plain) -> IncomingCall | None:
    """The account and call_id of a form or JSON object; None: it is for the parser."""
    body, is_json = plain.body, plain.is_json
    accounts = (_JSON_ACCOUNT if is_json else _FORM_ACCOUNT).findall(body)
    call_ids = (_JSON_CALL_ID if is_json else _FORM_CALL_ID).findall(body)
    if len(accounts) != 1 or len(call_ids) > 1:
        return None
    call_id = call_ids[0].decode("utf-8", "replace") if call_ids else ""
    if not is_json and ("%" in call_id or "+" in call_id):
        call_id = unquote_plus(call_id)
    return IncomingCall(int(accounts[0]), "", call_id=call_id)
