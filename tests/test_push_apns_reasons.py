"""The table of Apple's reasons."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.push.apns.mass_refusal import MASS, PERIOD_S, MassRefusal
from middlewared.push.apns.reasons import interpret
from middlewared.push.http2.exchange import OK, Response
from middlewared.push.interface import (
    Accepted,
    ConfigFault,
    Rejected,
    Temporary,
    TokenDead,
    TokenSuspect,
)
from middlewared.simulator.apple.faults import STATUS_OF_REASON

DEAD = {"Unregistered", "ExpiredToken"}
SUSPECT = {"BadDeviceToken", "DeviceTokenNotForTopic"}
CONFIGURATION = {
    "BadTopic",
    "MissingTopic",
    "TopicDisallowed",
    "BadCertificate",
    "BadCertificateEnvironment",
    "ExpiredProviderToken",
    "InvalidProviderToken",
    "MissingProviderToken",
    "UnrelatedKeyIdInToken",
    "BadEnvironmentKeyInToken",
    "Forbidden",
}
TEMPORARY = {
    "IdleTimeout",
    "TooManyRequests",
    "TooManyProviderTokenUpdates",
    "InternalServerError",
    "ServiceUnavailable",
    "Shutdown",
}

NOW = 1_700_000_000.0


class InterpretationTests(SynchronousTestCase):
    """What each answer means."""

    def test_every_documented_reason(self) -> None:
        """Only what Apple calls dead is dead; what is not listed here is our bug."""
        for reason, status in STATUS_OF_REASON.items():
            result = interpret(Response(status, b'{"reason":"%s"}' % reason.encode()), NOW)
            kinds = ((DEAD, TokenDead), (SUSPECT, TokenSuspect), (CONFIGURATION, ConfigFault))
            wanted = next((kind for some, kind in kinds if reason in some), Rejected)
            self.assertIs(type(result), Temporary if reason in TEMPORARY else wanted, reason)
            self.assertEqual(result.reason, reason)

    def test_accepted(self) -> None:
        """200 has no body."""
        self.assertEqual(interpret(OK, NOW), Accepted())

    def test_when_a_token_died(self) -> None:
        """Apple counts in milliseconds; without a sane time there is none."""
        for timestamp, since in (
            (b"1700000000500", 1_700_000_000.5),
            (b"null", None),
            (b'"soon"', None),
            (b"true", None),
            (b"-1", None),
            (b"1e300", None),
        ):
            body = b'{"reason":"Unregistered","timestamp":%s}' % timestamp
            self.assertEqual(interpret(Response(410, body), NOW), TokenDead("Unregistered", since))

    def test_what_is_meant_for_one_connection_may_be_retried_at_once(self) -> None:
        """Another connection can take the push."""
        for reason in ("Shutdown", "IdleTimeout"):
            body = b'{"reason":"%s"}' % reason.encode()
            self.assertEqual(
                interpret(Response(503, body), NOW), Temporary(reason, retry_after_s=0)
            )

    def test_retry_after(self) -> None:
        """Seconds or a date, kept within reason; anything else is none."""
        for text, seconds in (
            ("3", 3.0),
            ("9" * 9, 3600.0),
            ("9" * 99, 3600.0),
            ("Tue, 14 Nov 2023 22:13:22 GMT", 2.0),
            ("Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
            ("soon", None),
        ):
            headers = [(b"retry-after", text.encode())]
            result = interpret(Response(503, b'{"reason":"ServiceUnavailable"}', headers), NOW)
            self.assertEqual(result, Temporary("ServiceUnavailable", retry_after_s=seconds))

    def test_answers_without_a_known_reason(self) -> None:
        """The status decides, and a bare 410 kills nothing."""
        for status, body, result in (
            (410, b"", Rejected("HTTP 410")),
            (403, b"{}", ConfigFault("HTTP 403")),
            (429, b"[]", Temporary("HTTP 429")),
            (502, b"<html>", Temporary("HTTP 502")),
            (302, b"", Rejected("HTTP 302")),
            (400, b'{"reason":"NewReason"}', Rejected("NewReason")),
            (400, b'{"reason":"a token: 12ab"}', Rejected("HTTP 400")),
            (400, b'{"reason":["x"]}', Rejected("HTTP 400")),
        ):
            self.assertEqual(interpret(Response(status, body), NOW), result)

    @given(status=st.integers(100, 599), body=st.binary(max_size=60), retry_after=st.binary())
    def test_any_response_is_interpreted(
        self, status: int, body: bytes, retry_after: bytes
    ) -> None:
        """Never an exception, and the reason is short."""
        response = Response(status, body, [(b"retry-after", retry_after)])
        self.assertLessEqual(len(interpret(response, NOW).reason), 64)


class MassRefusalTests(SynchronousTestCase):
    """When many devices are refused alike."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.alarm = MassRefusal(app="app", kind="calls", clock=self.clock)

    def refuse(self, count: int, *, first: int = 0) -> list[bool]:
        """Whether the refusals of so many different devices were too many."""
        return [self.alarm.refused("BadTopic", str(first + number)) for number in range(count)]

    def test_many_devices_raise_it(self) -> None:
        """From the tenth on."""
        self.assertEqual(self.refuse(MASS + 2), [False] * (MASS - 1) + [True] * 3)

    def test_one_device_does_not(self) -> None:
        """However often it is refused."""
        self.assertFalse(any(self.alarm.refused("BadTopic", "same") for _ in range(100)))

    def test_not_when_others_are_accepted(self) -> None:
        """Then the app is configured well."""
        self.refuse(1)
        for _ in range(MASS + 1):
            self.alarm.accepted()
        self.assertFalse(any(self.refuse(MASS * 2)))

    def test_not_over_a_long_time(self) -> None:
        """Old tokens are refused now and then."""
        results = []
        for number in range(3 * MASS):
            results += self.refuse(1, first=number)
            self.clock.advance(PERIOD_S / 5)
        self.assertFalse(any(results))
