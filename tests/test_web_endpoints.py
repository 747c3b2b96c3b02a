"""The API of the web, endpoint by endpoint, over real sockets."""

from __future__ import annotations

import json

from middlewared.model import Outcome
from tests.web_stand_ins import APP, SIP_USER_ID, WebCase, basic, http_message

CALL = b"sip_user_id=260010001&phonenumber=%2B31+6-1234&caller_id=Jane&call_id=c1"
DEVICE = {"sip_user_id": str(SIP_USER_ID), "token": "t" * 64, "app": APP}


class IncomingCallTests(WebCase):
    async def test_is_held_until_the_call_ends(self) -> None:
        """An answered call is ACK, with its outcome and its steps in the headers."""
        client = await self.connect()
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        client.send(http_message("POST", "/api/incoming-call/", CALL, form))
        await self.calls.until(rung=1)
        self.calls.ringing[0].callback(Outcome.ANSWERED)
        response = await client.response()
        self.assertEqual((response.status, response.body), (200, b"status=ACK"))
        self.assertEqual(response.headers["x-outcome"], "answered")
        self.assertIn("device;dur=", response.headers["server-timing"])
        self.assertTrue(response.headers["content-type"].startswith("text/plain"))

    async def test_pbx_that_hangs_up_ends_the_call(self) -> None:
        """Closing the connection cancels the call."""
        client = await self.connect()
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        client.send(http_message("POST", "/api/incoming-call/", CALL, form))
        await self.calls.until(rung=1)
        await client.close()
        await self.calls.until(rung=1, hung_up=1)


class CallResponseTests(WebCase):
    async def test_answer_of_a_waiting_call_is_accepted(self) -> None:
        """202 when the key is known, and the answer is passed on as sent."""
        self.calls.known_keys.add("k")
        response = await self.post_json(
            "/api/call-response/",
            {"unique_key": "k", "message_start_time": 1.5, "available": "False"},
        )
        self.assertEqual(response.status, 202)
        ((key, answer),) = self.calls.answers
        self.assertEqual((key, answer.available, answer.message_start_time), ("k", False, 1.5))


class DeviceTests(WebCase):
    async def test_registers_then_replaces_then_deletes(self) -> None:
        """201, 200, 200, 404."""
        for status in (201, 200):
            response = await self.post_json("/api/apns-device/", DEVICE, basic())
            self.assertEqual(response.status, status)
        for status in (200, 404):
            response = await self.request(
                "DELETE",
                "/api/apns-device",
                json.dumps(DEVICE).encode(),
                basic() | {"Content-Type": "application/json"},
            )
            self.assertEqual(response.status, status)
