"""
Refusing new calls under overload, before they cost what a request costs.

At ten times the capacity nine of ten calls are refused, and to parse each of them would use
up the daemon. Anything unusual (chunked, pipelined, multipart, escaped, from elsewhere) goes
the usual way, where it is refused as well, at a higher price.
"""

from __future__ import annotations

import re
from typing import Unpack
from urllib.parse import unquote_plus

from middlewared.calls.interface import Calls
from middlewared.model import IncomingCall, Outcome
from middlewared.web.calls import pbx_reply
from middlewared.web.filters import FilterParts, Plain, PlainFilter, Refusal
from middlewared.web.networks import doubt, within
from middlewared.web.replies import Reply
from middlewared.web.settings import WebSettings

MOST_SENDERS = 1000
MOST_REPLIES = 100

_FORM_ACCOUNT = re.compile(rb"(?:^|&)sip_user_id=([0-9]{1,18})(?=&|$)")
_FORM_CALL_ID = re.compile(rb"(?:^|&)call_id=([^&]*)")
_JSON_ACCOUNT = re.compile(rb'"sip_user_id"\s*:\s*"?([0-9]{1,18})"?\s*[,}]')
_JSON_CALL_ID = re.compile(rb'"call_id"\s*:\s*"?([^",}]*)')


class Shedding(PlainFilter):
    """Recognises requests that are new calls, and refuses them under overload."""

    route = "incoming-call"

    def __init__(self, *, calls: Calls, **parts: Unpack[FilterParts]) -> None:
        super().__init__(**parts)
        self._calls = calls
        self._senders: dict[tuple[str | None, tuple[str, ...]], bool] = {}
        self._senders_by: WebSettings | None = None
        self._replies: dict[tuple[int, bool], tuple[int, bytes]] = {}
        self._replies_of = 0

    @property
    def active(self) -> bool:
        """Whether new calls are refused now."""
        return self._calls.overloaded

    def _refusal(self, plain: Plain, peer: str | None) -> Refusal | None:
        incoming = _incoming(plain)
        if (
            incoming is None
            or not self._is_pbx(plain, peer)
            or not self._calls.refuse_if_new(incoming)
        ):
            return None
        return _overloaded

    def _is_pbx(self, plain: Plain, peer: str | None) -> bool:
        """Whether the sender is in pbx_networks; known ones cost one look-up."""
        settings = self._settings()
        if self._senders_by is not settings or len(self._senders) >= MOST_SENDERS:
            self._senders, self._senders_by = {}, settings
        sender = (peer, plain.forwarded_for)
        known = self._senders.get(sender)
        if known is None:
            address = self._address(plain, peer)
            doubtful = doubt(peer, plain.forwarded_for, (), settings.trusted_proxies)
            known = within(address, settings.pbx_networks) and not doubtful
            self._senders[sender] = known
        return known

    def _written(self, refusal: Refusal, took_s: float, close: bool) -> tuple[int, bytes]:
        """
        As it was written before in the same second, for the Date.

        To write it costs as much as all else here; and there are few that differ, since a
        refusal takes some hundredths of a millisecond.
        """
        second, hundredths = int(self._clock.seconds()), round(took_s * 100_000)
        if second != self._replies_of or len(self._replies) >= MOST_REPLIES:
            self._replies_of, self._replies = second, {}
        key = (hundredths, close)
        written = self._replies.get(key)
        if written is None:
            written = self._replies[key] = super()._written(refusal, took_s, close)
        return written


def _overloaded(took_ms: float) -> Reply:
    return pbx_reply(503, Outcome.OVERLOADED, f"total;dur={took_ms:.2f}")


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
