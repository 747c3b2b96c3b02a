"""
Limits the answers that an address may send to calls that are not held here.

The key of a call cannot be guessed, and made-up ones get a 404; yet each may cost a look-up
in Redis. So an address that sends many is refused without a look-up, and during a flood by
the bytes of its requests, before they are parsed.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import partial

from middlewared.model import AnswerResult
from middlewared.web.client_address import Address, rate_limit_key
from middlewared.web.fields import PhoneAnswer
from middlewared.web.filters import MakeReply, PlainRequest, RequestFilter
from middlewared.web.replies import NotFound, TooManyRequests, json_refusal, refusal_of
from middlewared.web.settings import Rate, WebSettings
from middlewared.web.token_buckets import TokenBuckets

FLOOD_PER_S = 20
"""This many unknown keys a second, from all addresses, are a flood."""

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


class UnknownKeys(RequestFilter):
    """Passes answers on to calls that may be unknown, and refuses a flood of them."""

    route = "call-response"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._unknown = TokenBuckets("unknown keys")
        # Apart, so that made-up keys do not shut out the phones behind the same address.
        self._elsewhere = TokenBuckets("keys of calls that are over")
        self._second_began_at = self._clock.seconds()
        self._this_second = self._last_second = 0

    async def answer(
        self, answer: PhoneAnswer, address: Address | None, rate: Rate
    ) -> AnswerResult:
        """
        Answer a call that is not held here.

        :raises TooManyRequests: ``address`` has sent more unknown keys than ``rate`` allows.
        """
        client = rate_limit_key(address)
        ours = self._calls.knows_key(answer.unique_key)
        buckets = self._elsewhere if ours else self._unknown
        self._count()
        buckets.take(client, rate, self._clock.seconds())
        result = await self._calls.answer(answer.unique_key, answer.answer)
        if result is AnswerResult.ACCEPTED:
            buckets.refund(client, rate)
        return result

    @property
    def active(self) -> bool:
        """Whether there is a flood."""
        self._turn_second()
        return max(self._this_second, self._last_second) >= FLOOD_PER_S

    def _refusal(
        self, plain: PlainRequest, peer: str | None, settings: WebSettings
    ) -> MakeReply | None:
        found = (_JSON if plain.is_json else _FORM).fullmatch(plain.body)
        if found is None or _TYPE.search(plain.head) is None:
            return None
        key = found[1].decode("ascii")
        if self._calls.knows_key(key):
            return None
        client = rate_limit_key(plain.address(peer, settings))
        error = self._error(key, client, settings.unknown_keys)
        if error is None:
            return None
        self._count()
        return partial(json_refusal, refusal_of(error))

    def _error(self, key: str, client: Hashable, rate: Rate) -> Exception | None:
        """Why the key is refused without a look-up; None: it needs one."""
        try:
            self._unknown.take(client, rate, self._clock.seconds())
        except TooManyRequests as error:
            return error
        if self._calls.rules_out_key(key):
            return NotFound("no such call")
        self._unknown.refund(client, rate)  # the look-up takes it
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
