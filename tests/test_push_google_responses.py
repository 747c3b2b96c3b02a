"""How Google's responses are interpreted, row by row."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from middlewared.outgoing.interface import HttpResponse
from middlewared.push.google import fcm, legacy
from middlewared.push.interface import (
    Accepted,
    ConfigFault,
    PushResult,
    Rejected,
    Temporary,
    TokenDead,
    TokenSuspect,
)

NOW = 1_000_000_000.0
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"

FIELDS = [
    *("error", "details", "errorCode", "@type", "fieldViolations", "field", "status"),
    *("results", "message_id", "registration_id", "message", "name"),
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
        )
    ),
)


def reply(status: int, body: bytes, **headers: str) -> HttpResponse:
    named = {name.replace("_", "-"): [value] for name, value in headers.items()}
    return HttpResponse(status, Headers(named), body)


def fcm_error(http: int, code: str | None = None, /, **fields: Any) -> HttpResponse:
    details: list[Any] = [{"@type": "type.googleapis.com/google.rpc.Help"}]
    if code is not None:
        details.append({"@type": FCM_ERROR, "errorCode": code})
    error = {"code": http, "message": "text", "status": "GENERIC", "details": details} | fields
    return reply(http, json.dumps({"error": error}).encode())


def fcm_result(answer: HttpResponse) -> PushResult:
    return fcm.interpret(answer, NOW)


class FcmResponseTests(SynchronousTestCase):
    """FCM HTTP v1."""

    def test_every_documented_error(self) -> None:
        """The code in the details decides, anywhere in them and with any status."""
        for status, code, expected in (
            (404, "UNREGISTERED", TokenDead),
            (400, "INVALID_ARGUMENT", Rejected),
            (403, "SENDER_ID_MISMATCH", TokenSuspect),
            (401, "THIRD_PARTY_AUTH_ERROR", ConfigFault),
            (429, "QUOTA_EXCEEDED", Temporary),
            (503, "UNAVAILABLE", Temporary),
            (500, "INTERNAL", Temporary),
            (500, "UNSPECIFIED_ERROR", Rejected),
        ):
            self.assertEqual(fcm_result(fcm_error(status, code)), expected(code))

    def test_status_decides_without_an_error_code(self) -> None:
        """Above all a 404 without UNREGISTERED is a wrong project, never a dead token."""
        for status, expected in (
            (400, Rejected),
            (401, ConfigFault),
            (403, ConfigFault),
            (404, ConfigFault),
            (413, Rejected),
            (429, Temporary),
            (500, Temporary),
            (503, Temporary),
            (302, Rejected),
            (418, Rejected),
            (599, Temporary),
        ):
            self.assertEqual(fcm_result(fcm_error(status)), expected("GENERIC"))
            self.assertEqual(fcm_result(reply(status, b"<html>")), expected(f"http-{status}"))

    def test_invalid_argument_about_the_token_is_a_dead_token(self) -> None:
        """The details name message.token, or the text does."""
        violation = {"@type": BAD_REQUEST, "fieldViolations": [{"field": "message.token"}]}
        code = {"@type": FCM_ERROR, "errorCode": "INVALID_ARGUMENT"}
        for answer in (
            fcm_error(400, details=[violation, code]),
            fcm_error(400, details=[violation], status="INVALID_ARGUMENT"),
            fcm_error(
                400,
                "INVALID_ARGUMENT",
                message="The registration token is not a valid FCM registration token",
            ),
        ):
            self.assertEqual(fcm_result(answer), TokenDead("INVALID_ARGUMENT"))

    def test_invalid_argument_about_the_installation_is_a_dead_token(self) -> None:
        """The details name message.fid; a server that does not know the field is different."""
        for description, expected in (
            ("The Firebase installation ID is not valid", TokenDead),
            ("Unknown name \"fid\" at 'message': Cannot find field.", Rejected),
        ):
            fields = [{"field": "message.fid", "description": description}]
            violation = {"@type": BAD_REQUEST, "fieldViolations": fields}
            answer = fcm_error(400, details=[violation], status="INVALID_ARGUMENT", message="")
            self.assertEqual(fcm_result(answer), expected("INVALID_ARGUMENT"))

    def test_statuses_of_google_rpc_are_temporary(self) -> None:
        """ABORTED and CANCELLED (google.rpc.Code) may succeed later."""
        for status, name in ((409, "ABORTED"), (499, "CANCELLED")):
            self.assertEqual(fcm_result(fcm_error(status, status=name)), Temporary(name))

    def test_name_of_the_message_is_kept(self) -> None:
        """Google's support asks for it; a value that cannot be one is dropped."""
        for name, kept in (
            ("projects/p/messages/0:15%31bd", "projects/p/messages/0:15%31bd"),
            ("two\nlines", ""),
            ("x" * 300, ""),
            (7, ""),
        ):
            result = fcm_result(reply(200, json.dumps({"name": name}).encode()))
            assert isinstance(result, Accepted)
            self.assertEqual(result.provider_id, kept)

    def test_invalid_argument_about_the_rest_is_our_bug(self) -> None:
        """A wrong payload does not cost a device."""
        violation = {"@type": BAD_REQUEST, "fieldViolations": [{"field": "message.data[0].value"}]}
        code = {"@type": FCM_ERROR, "errorCode": "INVALID_ARGUMENT"}
        answer = fcm_error(
            400,
            details=[violation, code],
            message="Invalid value at 'message.data[0].value' (TYPE_STRING), 12",
        )
        self.assertEqual(fcm_result(answer), Rejected("INVALID_ARGUMENT"))

    def test_success_needs_a_message_name(self) -> None:
        """A 200 of something else than FCM is no success."""
        self.assertEqual(fcm_result(reply(200, b'{"name": "projects/p/messages/1"}')), Accepted())
        for body in (b"", b"<html>welcome</html>", b"{}", b"[]"):
            self.assertIsInstance(fcm_result(reply(200, body)), Temporary)

    def test_retry_after_is_passed_on(self) -> None:
        """Seconds, or a date seen from the server's own clock; nonsense is none."""
        for headers, expected in (
            ({"Retry_After": "7"}, 7.0),
            ({"Retry_After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.0),
            (
                {
                    "Date": "Sun, 06 Nov 1994 08:49:30 GMT",
                    "Retry_After": "Sun, 06 Nov 1994 08:49:37 GMT",
                },
                7.0,
            ),
            ({"Retry_After": "Sun, 09 Sep 2001 01:46:43 GMT"}, 3.0),
            ({"Retry_After": "soon"}, None),
            ({"Retry_After": "-1"}, None),
            ({"Retry_After": "²"}, None),
            ({}, None),
        ):
            result = fcm_result(reply(503, b"", **headers))
            assert isinstance(result, Temporary)
            self.assertEqual(result.retry_after_s, expected, headers)

    def test_reasons_are_plain_words(self) -> None:
        """What may quote a push token does not get into logs and metrics."""
        for code in ("cXY1:APA91bGh", "a b", "x" * 65, 'Label"', ""):
            self.assertEqual(fcm_result(fcm_error(418, code, status=code)).reason, "http-418")

    @given(st.integers(200, 599), json_values | st.just({"error": {"details": [{}]}}))
    def test_any_json_is_interpreted(self, status: int, document: Any) -> None:
        """No shape of an answer raises."""
        answer = reply(status, json.dumps(document).encode())
        self.assertIn(fcm_result(answer).label, ("accepted", "temporary", "config-fault"))
        legacy.interpret(answer, "token", NOW)

    @given(st.integers(200, 599), st.binary() | st.sampled_from([b"[" * 60_000, b"9" * 60_000]))
    def test_any_bytes_are_interpreted(self, status: int, body: bytes) -> None:
        """Nor do bytes that are not JSON."""
        fcm_result(reply(status, body))
        legacy.interpret(reply(status, body), "token", NOW)


class LegacyResponseTests(SynchronousTestCase):
    """The legacy protocol."""

    def interpret(self, status: int, result: object) -> PushResult | None:
        body = {"multicast_id": 2**60, "success": 0, "failure": 1, "results": [result]}
        return legacy.interpret(reply(status, json.dumps(body).encode()), "token", NOW)

    def test_every_documented_error(self) -> None:
        """The one result decides."""
        for error, expected in (
            ("NotRegistered", TokenDead),
            ("InvalidRegistration", TokenDead),
            ("MismatchSenderId", TokenSuspect),
            ("InvalidPackageName", ConfigFault),
            ("MissingRegistration", Rejected),
            ("MessageTooBig", Rejected),
            ("InvalidDataKey", Rejected),
            ("InvalidTtl", Rejected),
            ("InvalidParameters", Rejected),
            ("Unavailable", Temporary),
            ("InternalServerError", Temporary),
            ("DeviceMessageRateExceeded", Temporary),
            ("TopicsMessageRateExceeded", Temporary),
            ("SomethingNew", Rejected),
        ):
            self.assertEqual(self.interpret(200, {"error": error}), expected(error))

    def test_status_decides_without_a_result(self) -> None:
        """A 200 without a body is the server's fault; 401 and 404 are the configuration's."""
        for status, expected in (
            (200, Temporary),
            (400, Rejected),
            (401, ConfigFault),
            (403, ConfigFault),
            (404, ConfigFault),
            (429, Temporary),
            (500, Temporary),
            (502, Temporary),
        ):
            for body in (b"", b"<html>", b'{"results": []}', b'{"results": 1}'):
                result = legacy.interpret(reply(status, body), "token", NOW)
                self.assertEqual(result, expected(f"http-{status}"))

    def test_accepted(self) -> None:
        """A message id is enough."""
        self.assertEqual(self.interpret(200, {"message_id": "0:1"}), Accepted())

    def test_canonical_token_is_passed_on(self) -> None:
        """The token to store instead; not when it is the same or unusable."""
        for canonical, expected in (
            ("new-token", "new-token"),
            ("token", None),
            ("", None),
            ("white space", None),
            ("../../", None),
            ("%2e", None),
            ("x" * 4097, None),
            (7, None),
        ):
            result = self.interpret(200, {"message_id": "0:1", "registration_id": canonical})
            self.assertEqual(result, Accepted(canonical_token=expected))

    def test_canonical_token_stays_out_of_the_text_form(self) -> None:
        """A push token is a secret."""
        result = self.interpret(200, {"message_id": "0:1", "registration_id": "new-token"})
        self.assertNotIn("new-token", repr(result))
