"""Redis Cluster's arithmetic, and how a call's keys are laid out over its slots."""

from __future__ import annotations

import string
import uuid

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from middlewared.model import Answer, Call, IncomingCall, Outcome, Settlement
from middlewared.rendezvous.redis.cluster_slots import (
    SLOTS,
    Redirect,
    SlotMap,
    redirect_from,
    slot_of,
)
from middlewared.rendezvous.redis.records import (
    call_from,
    call_text,
    identity_key,
    is_key,
    record_key,
    settlement_from,
    settlement_text,
)
from middlewared.rendezvous.redis.redis_connection import Login
from middlewared.rendezvous.redis.signed_keys import SignedKeys

HOST = ("10.0.0.1", 6379)
keys = st.one_of(st.uuids().map(str), st.uuids().map(lambda key: key.hex.upper()))
calls = st.builds(
    Call,
    unique_key=keys,
    incoming=st.builds(IncomingCall, st.integers(), st.text(), st.text(), st.text() | keys),
    started_at=st.floats(allow_nan=False),
    deadline=st.floats(allow_nan=False),
    start_time=st.floats(allow_nan=False),
)


class SlotTests(SynchronousTestCase):
    """Slots of keys, by the examples of the Redis Cluster specification."""

    def test_known_slots(self) -> None:
        """CRC16 of the key, modulo 16384; 31C3 is the CRC16 of the specification's example."""
        self.assertEqual(slot_of("123456789"), 0x31C3 % SLOTS)
        self.assertEqual(slot_of("foo"), 12182)

    def test_hash_tags(self) -> None:
        """The first non-empty {...} alone counts; an empty or open one does not."""
        self.assertEqual(slot_of("{user1000}.following"), slot_of("user1000"))
        self.assertEqual(slot_of("foo{bar}{zap}"), slot_of("bar"))
        self.assertEqual(slot_of("foo{{bar}}zap"), slot_of("{bar"))
        self.assertNotEqual(slot_of("foo{}{bar}"), slot_of("bar"))
        self.assertNotEqual(slot_of("foo{bar"), slot_of("bar"))

    @given(st.text())
    def test_each_key_has_a_slot(self, key: str) -> None:
        """Whatever the key's text is."""
        self.assertIn(slot_of(key), range(SLOTS))


secrets = st.none() | st.text(string.hexdigits, min_size=64)


class RedirectTests(SynchronousTestCase):
    """What a node replies when the key is elsewhere."""

    def test_moved_and_ask(self) -> None:
        """MOVED is permanent, ASK is for one command; IPv6 hosts have colons too."""
        moved = redirect_from("MOVED 3999 127.0.0.1:6381", HOST)
        self.assertEqual(moved, Redirect(3999, ("127.0.0.1", 6381), asking=False))
        ask = redirect_from("ASK 3999 ::1:6381", HOST)
        self.assertEqual(ask, Redirect(3999, ("::1", 6381), asking=True))

    def test_empty_host_is_the_one_asked(self) -> None:
        """A node that does not know its own name leaves it out."""
        redirect = redirect_from("MOVED 1 :7000", HOST)
        self.assertEqual(redirect, Redirect(1, ("10.0.0.1", 7000), asking=False))

    @given(st.text() | st.text(string.digits + ":. ASKMOVED"))
    def test_other_errors_are_none(self, error: str) -> None:
        """No text breaks it."""
        redirect = redirect_from(error, HOST)
        self.assertTrue(redirect is None or redirect.slot in range(SLOTS))


class SlotMapTests(SynchronousTestCase):
    """Which master has which slot."""

    def test_reply_of_cluster_slots(self) -> None:
        """Masters come first, replicas after; a host left out is the one asked."""
        slots = SlotMap()
        self.assertFalse(slots.complete)
        slots.replace(
            [
                [0, 99, ["", 1, "id"], ["10.0.0.3", 3, "id"]],
                [100, 16383, ["10.0.0.2", 2, "id", []]],
            ],
            HOST,
        )
        self.assertTrue(slots.complete)
        self.assertEqual(slots.master_of(99), ("10.0.0.1", 1))
        self.assertEqual(slots.master_of(100), ("10.0.0.2", 2))
        self.assertEqual(slots.masters, {("10.0.0.1", 1), ("10.0.0.2", 2)})
        self.assertIn(("10.0.0.3", 3), slots.nodes)

    def test_moved_slot(self) -> None:
        """A redirect moves one slot, to a node that may be new."""
        slots = SlotMap()
        slots.moved(7, ("10.0.0.9", 9))
        self.assertEqual(slots.master_of(7), ("10.0.0.9", 9))
        self.assertIsNone(slots.master_of(8))
        self.assertIn(("10.0.0.9", 9), slots.nodes)

    def test_empty_reply_changes_nothing(self) -> None:
        """A node that was just reset knows no slots."""
        slots = SlotMap()
        slots.moved(7, HOST)
        self.assertRaises(ValueError, slots.replace, [], HOST)
        self.assertEqual(slots.master_of(7), HOST)


def keys_with(secret: str | None) -> SignedKeys:
    """SignedKeys of a daemon that knows ``secret``."""
    made = SignedKeys()
    if secret is not None:
        made.use_secret(secret)
    return made


class KeyTests(SynchronousTestCase):
    """Fresh keys: their slots, and which daemons recognise them."""

    @given(calls, secrets)
    def test_keys_of_one_call_share_a_slot(self, call: Call, secret: str | None) -> None:
        """The record and the identity are on one node, whatever key the call has."""
        made = keys_with(secret)
        for each in (made.with_suitable_key(call), made.with_fresh_key(call)):
            self.assertTrue(is_key(each.unique_key))
            if identity := identity_key(each.incoming):
                self.assertEqual(slot_of(record_key(each.unique_key)), slot_of(identity))

    @given(calls, secrets)
    def test_a_call_id_that_is_a_uuid_stays_the_key(self, call: Call, secret: str | None) -> None:
        """Apps and PBX see one and the same."""
        incoming = attrs.evolve(call.incoming, call_id=call.unique_key)
        call = attrs.evolve(call, incoming=incoming)
        self.assertEqual(keys_with(secret).with_suitable_key(call).unique_key, call.unique_key)

    @given(calls, secrets)
    def test_fresh_keys_differ(self, call: Call, secret: str | None) -> None:
        """Two calls never get the same one."""
        made = keys_with(secret)
        one, other = made.with_fresh_key(call), made.with_fresh_key(call)
        self.assertNotEqual(one.unique_key, other.unique_key)

    @given(calls)
    def test_fresh_keys_are_recognised_by_all_who_share_the_secret(self, call: Call) -> None:
        """In each form of a UUID; not under another secret, nor before it is known."""
        key = keys_with("s3cret").with_fresh_key(call).unique_key
        for form in (key, key.upper(), str(uuid.UUID(key))):
            self.assertTrue(keys_with("s3cret").is_signed(form))
            self.assertFalse(keys_with("0ther").is_signed(form))
            self.assertFalse(keys_with(None).is_signed(form))

    @given(calls, st.integers(0, 31))
    def test_a_changed_digit_is_noticed(self, call: Call, at: int) -> None:
        """Random part, check and tag are all covered."""
        key = keys_with("s3cret").with_fresh_key(call).unique_key
        digit = "1" if key[at] == "0" else "0"
        self.assertFalse(keys_with("s3cret").is_signed(key[:at] + digit + key[at + 1 :]))

    @given(st.text())
    def test_strange_texts_are_not_recognised(self, text: str) -> None:
        """No text breaks it."""
        self.assertFalse(keys_with("s3cret").is_signed(text))

    @given(calls)
    def test_a_call_without_a_call_id_gets_a_key_with_a_check(self, call: Call) -> None:
        """The first key was made without the secret."""
        call = attrs.evolve(call, incoming=attrs.evolve(call.incoming, call_id=""))
        self.assertTrue(
            keys_with("s3cret").is_signed(keys_with("s3cret").with_suitable_key(call).unique_key)
        )


class RecordTests(SynchronousTestCase):
    """A call's keys and texts."""

    @given(calls)
    def test_calls_are_read_as_written(self, call: Call) -> None:
        """What another process reads is the call, but for times of its own clock."""
        call = attrs.evolve(call, started_at=10.0, deadline=14.0)
        self.assertEqual(
            call_from(call_text(call), deadline=1000.5),
            attrs.evolve(call, started_at=996.5, deadline=1000.5),
        )

    @given(
        st.sampled_from(Outcome),
        st.none() | st.builds(Answer, st.booleans(), st.floats(), st.floats()),
    )
    def test_settlements_are_read_as_written(self, outcome: Outcome, answer: Answer | None) -> None:
        """What another process reads is the settlement, received when it read it."""
        text = settlement_text(Settlement(outcome, answer))
        received = answer and attrs.evolve(answer, received_at=7.0)
        read = settlement_from(text, received_at=7.0)
        self.assertEqual(repr(read), repr(Settlement(outcome, received)))

    def test_login_does_not_show_its_password(self) -> None:
        """Not in a repr, where logs and tracebacks would find it."""
        self.assertNotIn("s3cret", repr(Login("daemon", "s3cret")))
