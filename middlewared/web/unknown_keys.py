"""
Answers to calls that are not held here: how many of them an address may send.

The key of a call is unguessable, and whoever sends made-up ones gets nothing but a 404; yet
each may cost a look-up in Redis. So an address that sends many is refused without one, and
during a flood by the bytes of its requests, before they are parsed.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import partial
from typing import Unpack

from middlewared.calls.interface import Calls
from middlewared.web.fields import PhoneAnswer
from middlewared.web.filters import FilterParts, Plain, PlainFilter, Refusal
from middlewared.web.networks import Address, counted_as
from middlewared.web.replies import NotFound, TooManyRequests, json_refusal, refusal_of
from middlewared.web.token_buckets import Buckets

FLOOD_PER_S = 20
"""So many unknown keys a second, from all addresses, are a flood."""

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


class UnknownKeys(PlainFilter):
    """Passes answers on to calls that may be unknown, and refuses a flood of them."""

    route = "call-response"

    def __init__(self, *, calls: Calls, **parts: Unpack[FilterParts]) -> None:
        super().__init__(**parts)
        self._calls = calls
        self._unknown = Buckets("unknown keys")
        # Apart, so that made-up keys do not shut out the phones behind the same address.
        self._elsewhere = Buckets("keys of calls that are over")
        self._second_began_at = self._clock.seconds()
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

    def _refusal(self, plain: Plain, peer: str | None) -> Refusal | None:
        found = (_JSON if plain.is_json else _FORM).fullmatch(plain.body)
        if found is None or _TYPE.search(plain.head) is None:
            return None
        key = found[1].decode("ascii")
        if self._calls.recognises(key):
            return None
        error = self._error(key, counted_as(self._address(plain, peer)))
        if error is None:
            return None
        self._count()
        return partial(json_refusal, refusal_of(error))

    def _error(self, key: str, client: Hashable) -> Exception | None:
        """Why the key is refused without a look-up; None: it has to be looked up."""
        rate = self._settings().unknown_keys
        try:
            self._unknown.take(client, rate, self._clock.seconds())
        except TooManyRequests as error:
            return error
        if self._calls.surely_unknown(key):
            return NotFound("no such call")
        self._unknown.give_back(client, rate)  # to be taken by the look-up
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
