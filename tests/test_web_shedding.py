"""Which requests are refused before they are parsed, and which are not."""

from __future__ import annotations

import json
import re
from ipaddress import ip_network
from urllib.parse import urlencode

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.model import IncomingCall, Outcome
from middlewared.web.filters import EarlyRefusal, NotRefused
from middlewared.web.settings import LiveSettings, Pbx, WebSettings
from middlewared.web.shedding import Shedding
from tests.web_stand_ins import StandInCalls, basic

PBX = "192.0.2.7"
FIELDS = {"sip_user_id": "123456789", "phonenumber": "+31501234567", "call_id": "a call/1"}
FORM = "Content-Type: application/x-www-form-urlencoded"
JSON = "Content-Type: application/json"


def request(
    body: str, *headers: str, line: str = "POST /api/incoming-call/ HTTP/1.1", length: int = -1
) -> bytes:
    """The bytes of a request."""
    head = [line, "Host: pbx", f"Content-Length: {len(body) if length < 0 else length}", *headers]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


class SheddingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls = StandInCalls()
        self.observed: list[tuple[str, Outcome]] = []
        self.settings = LiveSettings(
            WebSettings(
                pbx_networks=(ip_network("192.0.2.0/24"),),
                trusted_proxies=(ip_network("198.51.100.1/32"),),
            )
        )
        self.shedding = Shedding(
            clock=Clock(),
            calls=self.calls,
            settings=self.settings,
            observe_request=lambda *_: None,
            observe_pbx=lambda *request: self.observed.append(request),
        )

    def assert_served(self, data: bytes, peer: str | None = PBX) -> None:
        self.assertIs(self.shedding.filter(data, peer), NotRefused.SERVE)
        self.assertEqual(self.calls.shedded, [])

    def refused(self, data: bytes, peer: str | None = PBX) -> EarlyRefusal:
        found = self.shedding.filter(data, peer)
        assert isinstance(found, EarlyRefusal)
        return found

    def test_a_new_call_is_refused(self) -> None:
        """Forms and JSON alike, in the one form in which a PBX is answered."""
        texts = {**FIELDS, "sip_user_id": 123456789}
        for data in (
            request(urlencode(FIELDS), FORM),
            request(json.dumps(FIELDS), JSON),
            request(json.dumps(texts), JSON),
            request(urlencode(FIELDS), FORM, line="POST /api/incoming-call HTTP/1.1"),
        ):
            found = self.refused(data)
            head, _, body = found.reply.partition(b"\r\n\r\n")
            self.assertEqual(body, b"status=NAK")
            self.assertTrue(head.startswith(b"HTTP/1.1 503 "))
            self.assertIn(b"\r\nX-Outcome: overloaded\r\n", head)
            self.assertIn(b"\r\nRetry-After: ", head)
            self.assertFalse(found.close)
        expected = IncomingCall(123456789, "", call_id="a call/1")
        self.assertEqual(self.calls.shedded, [expected] * 4)

    def test_a_repeat_of_a_held_call_is_served(self) -> None:
        """Whatever is held is finished."""
        self.calls.held = {"a call/1"}
        self.assert_served(request(urlencode(FIELDS), FORM))
        self.assert_served(request(json.dumps(FIELDS), JSON))

    def test_a_request_in_pieces_is_waited_for(self) -> None:
        """Until its head and body are there; one that never will be is for the parser."""
        whole = request(urlencode(FIELDS), FORM)
        for size in range(len(whole)):
            self.assertIs(self.shedding.filter(whole[:size], PBX), NotRefused.WAIT)
        self.refused(whole)
        self.calls.shedded.clear()
        self.assert_served(b"POST /api/incoming-call/ HTTP/1.1\r\n" + b"X: y\r\n" * 5000)
        self.assert_served(request("x", FORM, length=self.settings.current.max_body_bytes + 1))

    def test_what_is_unusual_is_served(self) -> None:
        """The parser applies all the rules."""
        form = urlencode(FIELDS)
        for data in (
            request(form, FORM) + b"GET",
            request(form, FORM, "Transfer-Encoding: chunked"),
            request(form, FORM, "Expect: 100-continue"),
            request(form, FORM, "Content-Length: 7"),
            request(form, FORM, line="POST /api/incoming-callX/ HTTP/1.1"),
            request(form, FORM, line="POST /api/incoming-call/ HTTP/1.0"),
            request("--x\r\n", "Content-Type: multipart/form-data; boundary=x"),
            request(form + "&sip_user_id=1", FORM),
            request(form + "&call_id=2", FORM),
            request("sip_user_id=12x&phonenumber=1", FORM),
            request('{"sip_user_id": "123456789", "call_id": "a\\u0020b"}', JSON),
            request("phonenumber=1", FORM),
        ):
            self.assert_served(data)

    def test_strangers_are_served(self) -> None:
        """They get their 403 from the rules; only trusted proxies can speak for a PBX."""
        form = urlencode(FIELDS)
        self.assert_served(request(form, FORM), "203.0.113.5")
        self.assert_served(request(form, FORM, f"X-Forwarded-For: {PBX}"), "203.0.113.5")
        self.assert_served(request(form, FORM, "X-Forwarded-For: 203.0.113.5"), "198.51.100.1")
        self.assert_served(request(form, FORM, "X-Forwarded-For: 203.0.113.5"), PBX)
        self.refused(request(form, FORM, f"X-Forwarded-For: {PBX}"), "198.51.100.1")

    def test_pbxs_are_recognised(self) -> None:
        """By network and by password; a wrong one gets its 401 from the rules."""
        near = Pbx(name="near", networks=(ip_network("192.0.2.0/24"),))
        cloud = Pbx(name="cloud", networks=None, password="geheim")
        self.settings.current = WebSettings(pbxs=(near, cloud))
        form = urlencode(FIELDS)
        right = f"AUTHORIZATION:  {basic('cloud', b'geheim')['Authorization']} "
        wrong = f"Authorization: {basic('cloud', b'wrong')['Authorization']}"
        self.assert_served(request(form, FORM), "203.0.113.5")
        self.assert_served(request(form, FORM, wrong), "203.0.113.5")
        for _ in range(2):
            self.refused(request(form, FORM, right), "203.0.113.5")
            self.refused(request(form, FORM), PBX)
        cloud_and_near = [("cloud", Outcome.OVERLOADED), ("near", Outcome.OVERLOADED)]
        self.assertEqual(self.observed, cloud_and_near * 2)

    def test_texts_as_accounts(self) -> None:
        """As the parser reads them; what does not match is left to it."""
        near = (ip_network("192.0.2.0/24"),)
        pattern = re.compile("[a-z0-9 +é]+@pbx")
        self.settings.current = WebSettings(pbx_networks=near, sip_user_id_pattern=pattern)
        fields = {**FIELDS, "sip_user_id": "1+é@pbx"}
        self.refused(request(urlencode(fields), FORM))
        fields["sip_user_id"] = "1+a@pbx"
        self.refused(request(json.dumps(fields), JSON))
        shedded = [each.sip_user_id for each in self.calls.shedded]
        self.assertEqual(shedded, ["1+é@pbx", "1+a@pbx"])
        self.calls.shedded.clear()
        for wrong in ("1@other", "1 2@pbx", 123456789):
            fields["sip_user_id"] = wrong  # type: ignore[assignment]
            self.assert_served(request(urlencode(fields), FORM))
            self.assert_served(request(json.dumps(fields), JSON))

    def test_a_connection_is_closed_when_it_is_asked_for(self) -> None:
        """When the client asks for it; the reply then announces it."""
        data = request(urlencode(FIELDS), FORM, "Connection: close")
        found = self.refused(data)
        self.assertTrue(found.close)
        self.assertIn(b"\r\nConnection: close\r\n", found.reply)

    def test_new_settings_apply_to_known_senders(self) -> None:
        """What was known of a sender is forgotten with the settings that it came from."""
        data = request(urlencode(FIELDS), FORM)
        self.refused(data)
        self.calls.shedded.clear()
        self.settings.current = WebSettings()
        self.assert_served(data)
