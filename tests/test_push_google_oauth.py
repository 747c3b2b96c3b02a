"""Access tokens: who waits for them, who does not, and what a refusal means."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers

from middlewared.outgoing.interface import AnswerTimes, HttpResponse, OutgoingFailed, Progress
from middlewared.push.google.oauth import AccessToken, AccessTokens
from middlewared.push.google.service_account import ServiceAccount, load_service_account
from middlewared.push.interface import ConfigFault, Temporary
from middlewared.simulator.certificates import IssuedServiceAccount as Made
from middlewared.simulator.certificates import write_service_account

NOW = 1_700_000_000.0
URI = "https://token.example/token"


class ScriptedClient:
    """An HTTP client whose answers the test gives by hand."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.answers: list[Deferred[HttpResponse]] = []

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str | bytes],
        body: bytes | None = None,
        timeout_s: float,
        turn_s: float | None = None,
        wanted: Callable[[], bool] | None = None,
        answer: AnswerTimes | None = None,
        progress: Progress | None = None,
    ) -> HttpResponse:
        """Wait for the test."""
        assert (method, url) == ("POST", URI)
        self.bodies.append(body or b"")
        self.answers.append(Deferred())
        return await self.answers[-1]

    async def close(self) -> None:
        """Nothing to close."""


def grant(text: str = "ya29.one", expires_in: object = 3599) -> HttpResponse:
    document = {"access_token": text, "expires_in": expires_in, "token_type": "Bearer"}
    return HttpResponse(200, Headers(), json.dumps(document).encode())


def refusal(status: int, body: bytes = b"", **headers: bytes) -> HttpResponse:
    named = Headers()
    for name, value in headers.items():
        named.setRawHeaders(name.replace("_", "-").encode(), [value])
    return HttpResponse(status, named, body)


@functools.cache
def service_account() -> tuple[Made, ServiceAccount]:
    """One for all tests, as a key takes long to make: what Google knows, and what we read."""
    with tempfile.TemporaryDirectory() as folder:
        made = write_service_account(Path(folder), token_uri=URI)
        return made, load_service_account(made.path)


INVALID_GRANT = b'{"error": "invalid_grant", "error_description": "Invalid JWT"}'


class AccessTokensTests(SynchronousTestCase):
    """AccessTokens on a clock and a token server that the test moves."""

    def setUp(self) -> None:
        """No token yet."""
        self.clock = Clock()
        self.wall_s = float(NOW)
        self.http = ScriptedClient()
        self.made, self.account = service_account()
        self.tokens = AccessTokens(
            account=self.account, http=self.http, clock=self.clock, wall=lambda: self.wall_s
        )

    def get(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.tokens.get())

    def text_of(self, getting: Deferred[Any]) -> str:
        token = self.successResultOf(getting)
        assert isinstance(token, AccessToken), token
        return token.text

    def answer(self, reply: HttpResponse) -> None:
        self.http.answers[-1].callback(reply)

    def with_token(self) -> AccessToken:
        getting = self.get()
        self.answer(grant())
        token = self.successResultOf(getting)
        assert isinstance(token, AccessToken)
        return token

    def test_assertion_is_what_google_asks_for(self) -> None:
        """RS256 with the key's id, for our scope and the token server, for an hour."""
        self.get()
        form = parse_qs(self.http.bodies[0].decode(), strict_parsing=True)
        self.assertEqual(form["grant_type"], ["urn:ietf:params:oauth:grant-type:jwt-bearer"])
        assertion = form["assertion"][0]
        claims = jwt.decode(
            assertion,
            self.made.public_key_pem,
            algorithms=["RS256"],
            audience=URI,
            options={"verify_exp": False},
        )
        self.assertEqual(
            claims,
            {
                "iss": self.made.client_email,
                "scope": "https://www.googleapis.com/auth/firebase.messaging",
                "aud": URI,
                "iat": int(NOW),
                "exp": int(NOW) + 3600,
            },
        )
        header = jwt.get_unverified_header(assertion)
        expected = {"alg": "RS256", "typ": "JWT", "kid": self.made.private_key_id}
        self.assertEqual(header, expected)

    def test_one_renewal_serves_all_waiters(self) -> None:
        """Pushes that need a token at the same time share one request."""
        waiting = [self.get() for _ in range(100)]
        self.assertEqual(len(self.http.answers), 1)
        self.answer(grant())
        self.assertEqual({self.text_of(each) for each in waiting}, {"ya29.one"})

    def test_cancelled_waiter_leaves_the_renewal_to_the_others(self) -> None:
        """A push that gave up does not cost the others their token."""
        first, second = self.get(), self.get()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.answer(grant())
        self.assertEqual(self.text_of(second), "ya29.one")

    def test_token_is_kept(self) -> None:
        """Later pushes cause no request."""
        self.with_token()
        self.clock.advance(3000)
        self.assertEqual(self.text_of(self.get()), "ya29.one")
        self.assertEqual(len(self.http.answers), 1)

    def test_early_renewal_delays_no_one(self) -> None:
        """In the last five minutes a renewal runs while the old token serves."""
        self.with_token()
        self.clock.advance(3300)
        self.assertEqual([self.text_of(self.get()) for _ in range(3)], ["ya29.one"] * 3)
        self.assertEqual(len(self.http.answers), 2)
        self.answer(grant("ya29.two"))
        self.assertEqual(self.text_of(self.get()), "ya29.two")

    def test_outage_is_not_noticed_while_a_token_is_kept(self) -> None:
        """The token server is down from the early renewal to the token's last second."""
        self.with_token()
        self.clock.advance(3300)
        for _ in range(298):
            self.assertEqual(self.text_of(self.get()), "ya29.one")
            if not self.http.answers[-1].called:
                self.http.answers[-1].errback(OutgoingFailed("refused"))
            self.clock.advance(1)
        self.assertLess(len(self.http.answers), 25)

    def test_renewal_is_urgent_once_the_token_has_expired(self) -> None:
        """The long pause between early renewals does not outlast the token."""
        self.test_outage_is_not_noticed_while_a_token_is_kept()
        self.clock.advance(2.5)
        waiting = self.get()
        self.answer(grant("ya29.two"))
        self.assertEqual(self.text_of(waiting), "ya29.two")

    def test_clock_renews_the_token(self) -> None:
        """After any time without calls, a call finds a valid token and does not wait."""
        self.tokens.start()
        self.answer(grant("ya29.0"))
        for hour in range(1, 4):
            self.clock.advance(3300)
            self.assertEqual(len(self.http.answers), hour + 1)
            self.answer(grant(f"ya29.{hour}"))
            self.assertEqual(self.text_of(self.get()), f"ya29.{hour}")

    def test_clock_tries_again_while_the_token_server_is_away(self) -> None:
        """With pauses, and without a call; calls use the token there is."""
        self.tokens.start()
        self.answer(grant("ya29.one", 3600))
        with capturedLogs() as events:
            for _ in range(3590):
                if not self.http.answers[-1].called:
                    self.http.answers[-1].errback(OutgoingFailed("refused"))
                self.clock.advance(1)
        self.assertEqual(self.text_of(self.get()), "ya29.one")
        self.assertTrue(5 < len(self.http.answers) < 25, len(self.http.answers))
        self.assertTrue(all(event["log_level"] is LogLevel.error for event in events))
        self.assertTrue(2 < len(events) < 7, len(events))
        self.assertTrue(all(0 < event["left_s"] <= 300 for event in events))
        self.clock.advance(40)
        self.answer(grant("ya29.two"))
        self.assertEqual(self.text_of(self.get()), "ya29.two")

    def test_clock_gets_the_first_token_after_an_outage(self) -> None:
        """The token server was down at the start; the first call comes when it is back."""
        self.tokens.start()
        self.answer(refusal(503))
        while self.http.answers[-1].called:
            self.clock.advance(1)
        self.answer(grant())
        self.assertEqual(self.text_of(self.get()), "ya29.one")

    def test_token_server_is_not_asked_busily(self) -> None:
        """A removed account is retried twice a minute, and logged once."""
        with capturedLogs() as events:
            self.tokens.start()
            for _ in range(600):
                if not self.http.answers[-1].called:
                    self.answer(refusal(400, INVALID_GRANT))
                self.clock.advance(1)
        self.assertTrue(15 < len(self.http.answers) < 35, len(self.http.answers))
        self.assertTrue(8 < len(events) < 13, len(events))

    def test_nothing_is_asked_after_the_stop(self) -> None:
        """Neither by the timer nor by a call."""
        self.with_token()
        self.successResultOf(Deferred.fromCoroutine(self.tokens.stop()))
        self.clock.advance(10_000)
        self.assertIsInstance(self.successResultOf(self.get()), Temporary)
        self.assertEqual(len(self.http.answers), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failure_reaches_all_waiters_and_is_not_repeated_at_once(self) -> None:
        """While the server is down, pushes fail fast and the server is asked seldom."""
        waiting = [self.get(), self.get()]
        self.http.answers[0].errback(OutgoingFailed("refused"))
        waiting += [self.get() for _ in range(50)]
        for each in waiting:
            self.assertIsInstance(self.successResultOf(each), Temporary)
        self.assertEqual(len(self.http.answers), 1)
        self.clock.advance(0.5)
        self.get()
        self.assertEqual(len(self.http.answers), 2)

    def test_temporary_answers(self) -> None:
        """5xx, 429, and answers that hold no usable token."""
        for reply in (
            refusal(500),
            refusal(503, b"<html>"),
            refusal(429, b"{}"),
            refusal(302),
            refusal(200, b"not json"),
            refusal(200, b"{}"),
            grant(expires_in=None),
            grant(expires_in=0),
            grant(expires_in=float("nan")),
            grant("white space\r\nInjected: header"),
            grant(""),
        ):
            self.setUp()
            waiting = self.get()
            self.answer(reply)
            self.assertIsInstance(self.successResultOf(waiting), Temporary)

    def test_retry_after_of_the_token_server_is_honoured(self) -> None:
        """It is not asked again before the time it named."""
        self.get()
        self.answer(refusal(503, Retry_After=b"7"))
        self.clock.advance(6.9)
        self.assertEqual(self.successResultOf(self.get()), Temporary("token-503", 7.0))
        self.clock.advance(0.2)
        self.get()
        self.assertEqual(len(self.http.answers), 2)

    def test_refused_account_is_a_configuration_fault(self) -> None:
        """invalid_grant with the right time: the key or the account is gone."""
        with capturedLogs() as events:
            waiting = self.get()
            self.answer(refusal(400, INVALID_GRANT, Date=datetimeToString(NOW)))
        self.assertEqual(self.successResultOf(waiting), ConfigFault("invalid_grant"))
        self.assertEqual([event["log_level"] for event in events], [LogLevel.error])
        self.assertNotIn("skew_s", events[0])

    def test_wrong_clock_is_distinguished(self) -> None:
        """invalid_grant from a server whose time is another: our clock is wrong."""
        with capturedLogs() as events:
            waiting = self.get()
            self.answer(refusal(400, INVALID_GRANT, Date=datetimeToString(NOW - 7200)))
        self.assertEqual(self.successResultOf(waiting), ConfigFault("invalid_grant"))
        self.assertEqual(round(events[0]["skew_s"]), 7200)

    def test_wall_clock_that_steps_ends_no_token(self) -> None:
        """The lifetime of a token is a duration."""
        token = self.with_token()
        for step_s in (-3600, 7200):
            self.wall_s += step_s
            self.assertIs(self.successResultOf(self.get()), token)
        self.assertEqual(len(self.http.answers), 1)

    def test_up_is_whether_there_is_a_token(self) -> None:
        """None until the first renewal has ended."""
        self.tokens.start()
        self.assertIsNone(self.tokens.up)
        self.answer(refusal(503))
        self.assertIs(self.tokens.up, False)
        self.clock.advance(1)
        self.answer(grant())
        self.assertIs(self.tokens.up, True)
        self.clock.advance(3599)
        self.assertIs(self.tokens.up, False)

    def test_discarded_token_is_renewed(self) -> None:
        """Pushes refused with the same token share one renewal."""
        old = self.with_token()
        self.assertEqual([self.tokens.discard(old) for _ in range(3)], [True] * 3)
        waiting = [self.get() for _ in range(3)]
        self.assertEqual(len(self.http.answers), 2)
        self.answer(grant("ya29.two"))
        self.assertEqual({self.text_of(each) for each in waiting}, {"ya29.two"})

    def test_tokens_refused_as_fast_as_they_are_made_are_not_renewed(self) -> None:
        """A project without the right does not make every push ask for a token."""
        self.tokens.discard(self.with_token())
        waiting = self.get()
        self.answer(grant("ya29.two"))
        second = self.successResultOf(waiting)
        self.assertFalse(self.tokens.discard(second))
        self.assertIs(self.successResultOf(self.get()), second)
        self.clock.advance(1.1)
        self.assertTrue(self.tokens.discard(second))

    def test_stop_ends_the_renewal(self) -> None:
        """Its waiters get a result."""
        waiting = self.get()
        self.successResultOf(Deferred.fromCoroutine(self.tokens.stop()))
        self.assertIsInstance(self.successResultOf(waiting), Temporary)

    def test_token_stays_out_of_texts_and_logs(self) -> None:
        """An access token is a secret."""
        with capturedLogs() as events:
            token = self.with_token()
        self.assertNotIn("ya29", repr(token) + str(events))
