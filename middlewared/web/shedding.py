"""
Refuses new calls under overload, before they cost what a request costs.

At ten times the capacity nine of ten calls are refused, and to parse each of them would use
up the daemon. Anything unusual (chunked, pipelined, multipart, escaped, from elsewhere) is
parsed, and then refused as well, at a higher cost.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

import attrs

from middlewared.model import IncomingCall, Outcome, SipUserId, is_text_account
from middlewared.web.calls import pbx_reply
from middlewared.web.filters import MakeReply, ObservePbx, PlainRequest, RequestFilter
from middlewared.web.pbx_access import recognise
from middlewared.web.replies import Reply
from middlewared.web.settings import Pbx, WebSettings

MAX_SENDERS = 1000
MAX_REPLIES = 100

_FORM_ACCOUNT = re.compile(rb"(?:^|&)sip_user_id=([0-9]{1,18})(?=&|$)")
_FORM_TEXT_ACCOUNT = re.compile(rb"(?:^|&)sip_user_id=([^&]*)")
_JSON_TEXT_ACCOUNT = re.compile(rb'"sip_user_id"\s*:\s*"([^"]*)"\s*[,}]')
_FORM_CALL_ID = re.compile(rb"(?:^|&)call_id=([^&]*)")
_JSON_ACCOUNT = re.compile(rb'"sip_user_id"\s*:\s*"?([0-9]{1,18})"?\s*[,}]')
_JSON_CALL_ID = re.compile(rb'"call_id"\s*:\s*"?([^",}]*)')


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class Shedding(RequestFilter):
    """Recognises requests that are new calls, and refuses them under overload."""

    route = "incoming-call"
    _observe_pbx: ObservePbx

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        # The PBX at a peer, with these X-Forwarded-For headers and this Authorization, by
        # ``_senders_settings``; None: it is no PBX.
        self._senders: dict[tuple[str | None, tuple[str, ...], bytes], Pbx | None] = {}
        self._senders_settings: WebSettings | None = None
        # Encoded in ``_replies_second``, by hundredths of a millisecond and whether they close.
        self._replies: dict[tuple[int, bool], tuple[int, bytes]] = {}
        self._replies_second = 0

    @property
    def active(self) -> bool:
        """Whether new calls are refused now."""
        return self._calls.overloaded

    def _refusal(
        self, plain: PlainRequest, peer: str | None, settings: WebSettings
    ) -> MakeReply | None:
        incoming = _incoming(plain, settings)
        pbx = None if incoming is None else self._pbx(plain, peer, settings)
        if incoming is None or pbx is None or not self._calls.refuse_if_new(incoming):
            return None
        self._observe_pbx(pbx.name, Outcome.OVERLOADED)
        return _overloaded

    def _pbx(self, plain: PlainRequest, peer: str | None, settings: WebSettings) -> Pbx | None:
        """The PBX that sends; a known sender costs one look-up."""
        if self._senders_settings is not settings or len(self._senders) >= MAX_SENDERS:
            self._senders, self._senders_settings = {}, settings
        sender = (peer, plain.forwarded_for, plain.authorization)
        if sender not in self._senders:
            self._senders[sender] = recognise(*sender, settings)
        return self._senders[sender]

    def _encode(self, make_reply: MakeReply, took_s: float, close: bool) -> tuple[int, bytes]:
        """
        A reply that was encoded before in the same second (because of its Date), or a new one.

        To encode it costs as much as everything else here. Few replies differ, since a
        refusal takes some hundredths of a millisecond.
        """
        second, hundredths = int(self._clock.seconds()), round(took_s * 100_000)
        if second != self._replies_second or len(self._replies) >= MAX_REPLIES:
            self._replies_second, self._replies = second, {}
        key = (hundredths, close)
        encoded = self._replies.get(key)
        if encoded is None:
            encoded = self._replies[key] = super()._encode(make_reply, took_s, close)
        return encoded


def _overloaded(took_ms: float) -> Reply:
    return pbx_reply(503, Outcome.OVERLOADED, f"total;dur={took_ms:.2f}")


def _incoming(plain: PlainRequest, settings: WebSettings) -> IncomingCall | None:
    """The account and call_id of a form or JSON object; None: they need the parser."""
    body, is_json = plain.body, plain.is_json
    account = _account(plain, settings.sip_user_id_pattern)
    call_ids = (_JSON_CALL_ID if is_json else _FORM_CALL_ID).findall(body)
    if account is None or len(call_ids) > 1:
        return None
    return IncomingCall(account, "", call_id=_text(call_ids[0], is_json) if call_ids else "")


def _account(plain: PlainRequest, pattern: re.Pattern[str] | None) -> SipUserId | None:
    body, is_json = plain.body, plain.is_json
    if pattern is None:
        numbers = (_JSON_ACCOUNT if is_json else _FORM_ACCOUNT).findall(body)
        return int(numbers[0]) if len(numbers) == 1 else None
    texts = (_JSON_TEXT_ACCOUNT if is_json else _FORM_TEXT_ACCOUNT).findall(body)
    account = _text(texts[0], is_json) if len(texts) == 1 else ""
    return account if is_text_account(account, pattern) else None


def _text(written: bytes, is_json: bool) -> str:
    text = written.decode("utf-8", "replace")
    return unquote_plus(text) if not is_json and ("%" in text or "+" in text) else text
