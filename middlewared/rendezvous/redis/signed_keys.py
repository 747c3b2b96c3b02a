"""
Keys that each daemon recognises as made by one of them, without asking anyone.

A fresh key has 8 random bytes, a signature of 6 bytes, and 2 bytes that give it the tag of its
call_id (:mod:`.records`). The signature covers the random bytes and the tag, under a secret
that all daemons share through Redis. Until the secret is known those 6 bytes are random, too.
"""

from __future__ import annotations

import hmac
import secrets
import uuid

import attrs

from middlewared.model import Call
from middlewared.rendezvous.redis.records import is_key, tag_of, tag_of_number

RANDOM_BYTES = 8
SIGNATURE_BYTES = 6


class SignedKeys:
    """Makes fresh keys and recognises them."""

    def __init__(self) -> None:
        self._secret: str | None = None

    @property
    def secret_to_offer(self) -> str:
        """The secret to be shared unless there is one in Redis: ours, or a new one."""
        return self._secret or secrets.token_hex(32)

    def use_secret(self, secret: str) -> None:
        """Use the secret that all daemons share."""
        self._secret = secret

    def with_suitable_key(self, call: Call) -> Call:
        """The call with a key of the same tag as its call_id: its own, or else a fresh one."""
        call_id = call.incoming.call_id
        if call_id:
            suitable = is_key(call.unique_key) and tag_of(call.unique_key) == tag_of(call_id)
        else:
            suitable = is_key(call.unique_key) and self._secret is None
        return call if suitable else self.with_fresh_key(call)

    def with_fresh_key(self, call: Call) -> Call:
        """The call with another, unguessable key of the same tag."""
        tag = tag_of(call.incoming.call_id or call.unique_key)
        start = secrets.token_bytes(RANDOM_BYTES)
        start += self._signature(start, tag) or secrets.token_bytes(SIGNATURE_BYTES)
        last = tag ^ tag_of_number(int.from_bytes(start + b"\0\0", "big"))
        return attrs.evolve(call, unique_key=f"{start.hex()}{last:04x}")

    def is_signed(self, unique_key: str) -> bool:
        """Whether a daemon with our secret made this key; False for a call_id."""
        try:
            key = uuid.UUID(unique_key)
        except ValueError:
            return False
        signature = self._signature(key.bytes[:RANDOM_BYTES], tag_of_number(key.int))
        given = key.bytes[RANDOM_BYTES : RANDOM_BYTES + SIGNATURE_BYTES]
        return bool(signature) and hmac.compare_digest(signature, given)

    def _signature(self, start: bytes, tag: int) -> bytes:
        """The keyed hash; empty while there is no secret."""
        if self._secret is None:
            return b""
        signed = start + tag.to_bytes(2, "big")
        return hmac.digest(self._secret.encode(), signed, "sha256")[:SIGNATURE_BYTES]
