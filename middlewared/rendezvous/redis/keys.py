"""
Keys that daemons can recognise as their own without asking anybody.

A fresh key has 8 random bytes, 6 bytes of a keyed check, and 2 that give it the tag of its
call_id (:mod:`.records`). The check covers the random bytes and the tag, under a secret
that all daemons share through Redis. Until the secret is known those bytes are random, too.
"""

from __future__ import annotations

import hmac
import secrets
import uuid

import attrs

from middlewared.model import Call
from middlewared.rendezvous.redis.records import folded, is_key, tag_of

RANDOM_BYTES = 8
CHECK_BYTES = 6


class Keys:
    """Makes fresh keys and recognises them."""

    def __init__(self) -> None:
        self._secret: str | None = None

    @property
    def known(self) -> bool:
        """Whether the secret is known."""
        return self._secret is not None

    def offer(self) -> str:
        """The secret to be shared unless another one is: ours, or a new one."""
        return self._secret or secrets.token_hex(32)

    def learn(self, secret: str) -> None:
        """Use the secret that all daemons share."""
        self._secret = secret

    def aimed(self, call: Call) -> Call:
        """The call, with a fresh key unless its key is its call_id."""
        call_id = call.incoming.call_id
        if call_id:
            stays = is_key(call.unique_key) and tag_of(call.unique_key) == tag_of(call_id)
        else:
            stays = is_key(call.unique_key) and not self.known
        return call if stays else self.with_fresh_key(call)

    def with_fresh_key(self, call: Call) -> Call:
        """The call under another, unguessable key of the same tag."""
        tag = tag_of(call.incoming.call_id or call.unique_key)
        start = secrets.token_bytes(RANDOM_BYTES)
        start += self._check(start, tag) or secrets.token_bytes(CHECK_BYTES)
        last = tag ^ folded(int.from_bytes(start + b"\0\0", "big"))
        return attrs.evolve(call, unique_key=f"{start.hex()}{last:04x}")

    def recognises(self, unique_key: str) -> bool:
        """Whether a daemon with our secret has made this key; False for a call_id."""
        try:
            key = uuid.UUID(unique_key)
        except ValueError:
            return False
        check = self._check(key.bytes[:RANDOM_BYTES], folded(key.int))
        given = key.bytes[RANDOM_BYTES : RANDOM_BYTES + CHECK_BYTES]
        return bool(check) and hmac.compare_digest(check, given)

    def _check(self, start: bytes, tag: int) -> bytes:
        """The keyed check; empty while there is no secret."""
        if self._secret is None:
            return b""
        covered = start + tag.to_bytes(2, "big")
        return hmac.digest(self._secret.encode(), covered, "sha256")[:CHECK_BYTES]
