"""
Answers to calls that are not held here: how many of them an address may send.

The key of a call is unguessable, and whoever sends made-up ones gets nothing but a 404; yet
each may cost a look-up in Redis. So an address that sends many is refused without one, and
during a flood by the bytes of its requests, before they are parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from middlewared.calls.interface import Calls
from middlewared.clock import Clock
from middlewared.web.fields import PhoneAnswer
from middlewared.web.networks import Address, client_address, counted_as
from middlewared.web.plain import Early, Plain, Refused, read_plain
from middlewared.web.replies import NotFound, TooManyRequests, json_refusal, refusal_of
from middlewared.web.settings import WebSettings
from middlewared.web.throttle import Buckets

FLOOD_PER_S = 20
"""So many unknown keys a second, from all addresses, are a flood."""

_TARGET = re.compile(rb"POST /api/call-response(?:/[^ ]*)? HTTP/1\.1\r\n")
_TYPE = re.compile(
    rb"(?i)\r\ncontent-type:[ \t]*application/(?:json|x-www-form-urlencoded)[ \t]*[;\r]"
)
_FORM = re.compile(
    rb"unique_key=([0-9A-Fa-f-]{32,36})&message_start_time=[0-9]{1,15}(?:\.[0-9]{1,15})?"
    rb"(?:&available=(?:[Tt]rue|[Ff]alse))?"
)
_JSON = re.compile(
    rb'\{\s*"unique_key"\s*:\s*"([0-9A-Fa-f-]{32,36})"\s*,'
    rb'\s*"message_start_time"\s*:\s*"?[0-9]{1,15}(?:\.[0-9]{1,15})?"?\s*'
    rb'(?:,\s*"available"\s*:\s*(?:true|false|"[Tt]rue"|"[Ff]alse")\s*)?\}'
)


class UnknownKeys:
    """
    Passes answers on to calls that may be unknown; a :class:`~.plain.Judge` during a flood.

    :param settings: gives the present settings.
    :param http_request: notified of route, method, status and seconds of each refusal.
    :ivar closing: whether each connection is to be closed with its next answer.
    """

    request_line = b"POST /api/call-response"

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
        self._unknown = Buckets("unknown keys")
        # Apart, so that made-up keys do not shut out the phones behind the same address.
        self._elsewhere = Buckets("keys of calls that are over")
        self._second_began_at = clock.seconds()
        self._this_second = self._last_second = 0

    async def answer(self, said: PhoneAnswer, address: Address | None) -> bool:
        """
        Answer a call that is not held here; whether it is known.

        :raises TooManyRequests: ``address`` has asked for too many unknown ones.
        """
        settings, client = self._settings(), counted_as(address)
        ours = self._calls.recognises(said.unique_key)
        buckets = self._elsewhere if ours else self._unknown
        self._count()
        buckets.take(client, settings.unknown_keys, self._clock.seconds())
        known = await self._calls.answer(said.unique_key, said.answer)
        if known:
            buckets.give_back(client, settings.unknown_keys)
        return known

    @property
    def active(self) -> bool:
        """Whether there is a flood."""
        self._turn_second()
        return max(self._this_second, self._last_second) >= FLOOD_PER_S

    def early(self, data: bytes, peer: str | None) -> Refused | Early:
        """See :meth:`.plain.Judge.early`."""
        began_at = self._clock.seconds()
        plain = read_plain(data, _TARGET, self._settings().max_body_bytes)
        if not isinstance(plain, Plain):
            return plain
        found = (_JSON if plain.is_json else _FORM).fullmatch(plain.body)
        if found is None or _TYPE.search(plain.head) is None:
            return Early.SERVE
        key = found[1].decode("ascii")
        if self._calls.holds_key(key) or self._calls.recognises(key):
            return Early.SERVE
        error = self._refusal(key, peer, plain)
        if error is None:
            return Early.SERVE
        self._count()
        refusal = refusal_of(error)
        took_s = self._clock.seconds() - began_at
        self._http_request("call-response", "POST", refusal.status, took_s)
        return plain.refused(json_refusal(refusal, took_s * 1000), closing=self._closing())

    def _refusal(self, key: str, peer: str | None, plain: Plain) -> Exception | None:
        """Why the key is refused without a look-up; None: it has to be looked up."""
        settings = self._settings()
        texts = [value.decode("latin-1") for value in plain.forwarded_for]
        client = counted_as(client_address(peer, texts, settings.trusted_proxies))
        try:
            self._unknown.take(client, settings.unknown_keys, self._clock.seconds())
        except TooManyRequests as error:
            return error
        if self._calls.surely_unknown(key):
            return NotFound("no such call")
        self._unknown.give_back(client, settings.unknown_keys)  # to be taken by the look-up
        return None

    def _count(self) -> None:
        self._turn_second()
        self._this_second += 1

    def _turn_second(self) -> None:
        passed_s = self._clock.seconds() - self._second_began_at
        if passed_s >= 1.0:
            self._last_second = self._this_second if passed_s < 2.0 else 0
            self._this_second = 0
            self._second_began_at += passed_s
