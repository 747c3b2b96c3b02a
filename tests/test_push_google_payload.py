"""What Android apps read in a push."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from middlewared.model import Call, Device, IncomingCall, Platform
from middlewared.push.google.google_payload import MAX_DATA_BYTES, google_data
from middlewared.push.interface import CallPush, NoticePush

DEVICE = Device(sip_user_id=123456789, platform=Platform.ANDROID, app="app", token="token")


def call_push(incoming: IncomingCall, started_at: float = 1575988800.25) -> CallPush:
    call = Call("0123456789abcdef0123456789abcdef", incoming, 0.0, 4.0, started_at)
    return CallPush(DEVICE, call, 2, "https://middleware.example/api/call-response/")


class CallDataTests(SynchronousTestCase):
    """The data of a call."""

    def test_all_keys_are_there_as_text(self) -> None:
        """The apps need each of these keys, and Google takes texts alone."""
        incoming = IncomingCall(123456789, "+31612345678", "Jan", "call-1")
        self.assertEqual(
            google_data(call_push(incoming)),
            {
                "type": "call",
                "unique_key": "0123456789abcdef0123456789abcdef",
                "phonenumber": "+31612345678",
                "caller_id": "Jan",
                "response_api": "https://middleware.example/api/call-response/",
                "message_start_time": "1575988800.2500000",
                "attempt": "2",
                "vg_cid": "call-1",
            },
        )

    def test_unique_key_stands_for_a_missing_call_id(self) -> None:
        """An app without ``vg_cid`` never answers."""
        data = google_data(call_push(IncomingCall(123456789, "112")))
        self.assertEqual(data["vg_cid"], data["unique_key"])

    @given(st.floats(min_value=1, max_value=4e9))
    def test_start_time_has_seven_decimals(self, started_at: float) -> None:
        """Never fewer digits, never an exponent."""
        data = google_data(call_push(IncomingCall(123456789, "112"), started_at))
        self.assertIsNotNone(re.fullmatch(r"\d+\.\d{7}", data["message_start_time"]))

    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=6000))
    def test_only_caller_id_is_shortened_and_no_more_than_needed(self, caller_id: str) -> None:
        """Keys and values fit into 4,096 bytes; what is left of the name is its beginning."""
        push = call_push(IncomingCall(123456789, "112", caller_id))
        data = google_data(push)
        size = sum(len(text.encode()) for pair in data.items() for text in pair)
        self.assertLessEqual(size, MAX_DATA_BYTES)
        self.assertTrue(caller_id.startswith(data["caller_id"]))
        if data["caller_id"] != caller_id:
            self.assertGreater(size + 4, MAX_DATA_BYTES)

    def test_long_name_is_cut_between_characters(self) -> None:
        """No half character is sent."""
        data = google_data(call_push(IncomingCall(123456789, "112", "é" * 5000)))
        self.assertEqual(set(data["caller_id"]), {"é"})


class NoticeDataTests(SynchronousTestCase):
    """The data of a notice."""

    def test_notice_is_a_message(self) -> None:
        """Apps show the text of type "message"."""
        notice = NoticePush(DEVICE, "An other device", 10.0)
        self.assertEqual(google_data(notice), {"type": "message", "message": "An other device"})
