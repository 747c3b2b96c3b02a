"""What the app reads."""

from __future__ import annotations

import json

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from middlewared.push.apns.apns_payload import (
    MAX_CALL_BYTES,
    apple_call_payload,
    apple_notice_payload,
)
from middlewared.push.interface import NoticePush
from tests import EXAMPLES
from tests.apns import call_push, device, evolve_call

PUSH = call_push(now=1_700_000_000.25)


class CallPayloadTests(SynchronousTestCase):
    """The payload of a VoIP push."""

    def test_all_that_the_apps_need(self) -> None:
        """At the top level beside an empty ``aps``; numbers are numbers."""
        self.assertEqual(
            json.loads(apple_call_payload(PUSH)),
            {
                "aps": {},
                "type": "call",
                "unique_key": PUSH.call.unique_key,
                "phonenumber": "+31612345678",
                "caller_id": "Alice",
                "response_api": "https://pbx.example/api/call-response/",
                "message_start_time": 1_700_000_000.25,
                "attempt": 1,
                "vg_cid": "call-1",
            },
        )

    def test_without_a_call_id_the_key_stands_for_it(self) -> None:
        """Flutter apps on Android die without it; no platform goes without."""
        payload = json.loads(apple_call_payload(evolve_call(PUSH, call_id="")))
        self.assertEqual(payload["vg_cid"], PUSH.call.unique_key)

    @settings(max_examples=2 * EXAMPLES)
    @given(caller_id=st.text(max_size=255), padding=st.integers(0, 5_200))
    def test_only_the_caller_id_is_shortened(self, caller_id: str, padding: int) -> None:
        """As little as must be, at a character, and the JSON stays whole."""
        push = evolve_call(PUSH, caller_id=caller_id)
        push = attrs.evolve(push, response_api="https://pbx.example/" + "p" * padding)
        payload = apple_call_payload(push)
        read = json.loads(payload)
        kept = read["caller_id"]
        whole = "".join(c if not 0xD800 <= ord(c) < 0xE000 else "?" for c in caller_id)
        self.assertTrue(whole.startswith(kept))
        self.assertEqual(read["response_api"], push.response_api)
        if kept != whole:
            longer = evolve_call(push, caller_id=caller_id[: len(kept) + 1])
            unlimited = json.dumps(
                {**read, "caller_id": longer.call.incoming.caller_id},
                ensure_ascii=False,
                separators=(",", ":"),
            )
            size = len(unlimited.encode("utf-8", "replace"))
            self.assertGreater(size, MAX_CALL_BYTES)
        if kept:
            self.assertLessEqual(len(payload), MAX_CALL_BYTES)


class NoticePayloadTests(SynchronousTestCase):
    """The payload of an alert."""

    def test_it_shows_the_message(self) -> None:
        """With a sound, so that the user notices it."""
        payload = apple_notice_payload(NoticePush(device(), "Gone", 0.0))
        self.assertEqual(
            json.loads(payload), {"aps": {"alert": {"body": "Gone"}, "sound": "default"}}
        )
