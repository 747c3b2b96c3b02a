"""The voipgrid backend against an account API on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import attrs
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from middlewared.accounts.interface import Account
from middlewared.accounts.voipgrid import MAX_LOOKUPS, VoipgridAccounts, VoipgridSettings
from middlewared.basic_auth import encode_basic
from middlewared.errors import AccessForbidden, AccountsDown, CredentialsRefused
from middlewared.outgoing.http_client import PooledHttpClient
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, TrustRoots
from tests.contracts.accounts import ACCOUNT, AccountBackendContract

PROFILE = "/base/profile/"
APP_ACCOUNT = "/api/phoneaccount/7/"


class AccountApi(Resource):
    """
    VoIPGRID's two resources, with faults to choose.

    :ivar answers: what each path answers: (status, body), or a function of the request.
    :ivar requests: path and headers of every request.
    """

    isLeaf = True

    def __init__(self, good: bytes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.good = good
        self.requests: list[tuple[str, dict[bytes, Sequence[bytes]]]] = []
        self.held: list[Request] = []
        self.answers: dict[str, tuple[int, bytes] | Callable[[Request], None]] = {
            PROFILE: (200, json.dumps({"id": 1, "app_account": APP_ACCOUNT}).encode()),
            f"/base{APP_ACCOUNT}": (200, json.dumps({"account_id": str(ACCOUNT)}).encode()),
        }

    def hold(self, request: Request) -> None:
        """Never answer."""
        self.held.append(request)

    def render(self, request: Request) -> int | bytes:
        path = request.path.decode("ascii")
        self.requests.append((path, dict(request.requestHeaders.getAllRawHeaders())))
        if request.requestHeaders.getRawHeaders(b"authorization") != [self.good]:
            request.setResponseCode(401)
            return b"{}"
        answer = self.answers.get(path, (404, b"{}"))
        if callable(answer):
            answer(request)
            return NOT_DONE_YET
        request.setResponseCode(answer[0])
        request.setHeader(b"Set-Cookie", b"sessionid=secret; Path=/")
        request.setHeader(b"Location", APP_ACCOUNT.encode())
        return answer[1]


class VoipgridCase(TestCase):
    """A backend and the account API it asks."""

    good = encode_basic("someone@example.com", "good-password")
    bad = encode_basic("someone@example.com", "bad-password")

    async def _listen(self) -> None:
        self.api = AccountApi(self.good)
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = await endpoint.listen(Site(self.api))
        self.addCleanup(port.stopListening)
        address = port.getHost()
        assert isinstance(address, IPv4Address)
        client = PooledHttpClient(
            reactor=reactor,
            endpoints=DirectEndpoints(reactor),
            tls=ClientTLS(trust=TrustRoots()),
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(client.close()))
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.settings = VoipgridSettings(
            f"http://127.0.0.1:{address.port}/base/", "/profile/", timeout_s=5.0, cache_s=0.0
        )
        self.backend = VoipgridAccounts(client=client, clock=self.clock, settings=self.settings)

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        return Deferred.fromCoroutine(self._listen())

    def change(self, **settings: object) -> None:
        self.settings = attrs.evolve(self.settings, **settings)  # type: ignore[arg-type]
        self.backend.reconfigure(self.settings)

    def profile(self, value: object) -> None:
        self.api.answers[PROFILE] = 200, json.dumps(value).encode()

    def account(self, value: object) -> None:
        self.api.answers[f"/base{APP_ACCOUNT}"] = 200, json.dumps(value).encode()

    async def down(self) -> str:
        with self.assertRaises(AccountsDown) as caught:
            await self.backend.authenticate(self.good)
        return str(caught.exception)


class VoipgridContractTests(AccountBackendContract, VoipgridCase):  # type: ignore[misc]
    """The contract."""


class VoipgridLookUpTests(VoipgridCase):
    """What is asked, and how each answer is understood."""

    async def test_asks_the_profile_and_its_app_account(self) -> None:
        """Two GETs below the base URL, each with the caller's own header."""
        await self.backend.authenticate(self.good)
        self.assertEqual([path for path, _ in self.api.requests], [PROFILE, f"/base{APP_ACCOUNT}"])
        for _, headers in self.api.requests:
            self.assertEqual(headers[b"Authorization"], [self.good])

    async def test_any_scheme_is_passed_on_unchanged(self) -> None:
        """The apps of today send Token, which the API understands."""
        self.api.good = b"Token  someone@example.com:a=b, c"
        await self.backend.authenticate(self.api.good)

    async def test_no_cookie_goes_to_the_next_user(self) -> None:
        """The API's session of one user must not be used for another."""
        await self.backend.authenticate(self.good)
        await self.backend.authenticate(self.good)
        for _, headers in self.api.requests:
            self.assertNotIn(b"Cookie", headers)

    async def test_account_id_as_number(self) -> None:
        """A JSON number stands for its text."""
        self.account({"account_id": ACCOUNT})
        self.assertEqual(await self.backend.authenticate(self.good), Account(ACCOUNT))

    async def test_user_without_app_account(self) -> None:
        """The credentials are good, but there is nothing to register."""
        self.profile({"app_account": None})
        with self.assertRaises(AccessForbidden):
            await self.backend.authenticate(self.good)

    async def test_account_id_as_any_text(self) -> None:
        """Where accounts are texts; a number is its text."""
        self.settings = attrs.evolve(self.settings, text_accounts=True)
        self.backend.reconfigure(self.settings)
        for value, text in (("100@pbx.example", "100@pbx.example"), (ACCOUNT, str(ACCOUNT))):
            self.account({"account_id": value})
            self.assertEqual(await self.backend.authenticate(self.good), Account(text))

    async def test_account_id_that_is_no_number(self) -> None:
        """It equals no sip_user_id as text."""
        for value in ("", "abc", "0123456789", " 123456789", "१२३", "9" * 400, -5):
            self.account({"account_id": value})
            with self.assertRaises(AccessForbidden):
                await self.backend.authenticate(self.good)

    async def test_refusals_are_passed_on_from_both_requests(self) -> None:
        """Only the API's own 401 and 403 are refusals."""
        for path in (PROFILE, f"/base{APP_ACCOUNT}"):
            kept = self.api.answers[path]
            self.api.answers[path] = 401, b"no"
            with self.assertRaises(CredentialsRefused):
                await self.backend.authenticate(self.good)
            self.api.answers[path] = 403, b"no"
            with self.assertRaises(AccessForbidden):
                await self.backend.authenticate(self.good)
            self.api.answers[path] = kept

    async def test_other_statuses_are_trouble(self) -> None:
        """A redirect is not followed; nothing but 200, 401 and 403 is an answer."""
        for path in (PROFILE, f"/base{APP_ACCOUNT}"):
            kept = self.api.answers[path]
            for status in (201, 204, 301, 302, 307, 400, 404, 407, 429, 500, 503):
                self.api.answers[path] = status, b"{}"
                self.assertIn(str(status), await self.down())
            self.api.answers[path] = kept
        await self.backend.authenticate(self.good)

    async def test_answers_of_a_wrong_shape_are_trouble(self) -> None:
        """Anything but the JSON agreed upon is no refusal."""
        bodies = [b"", b"<html>", b"[]", b"7", b"null", b"\xff", b"[" * 50_000, b" " * 70_000]
        for path in (PROFILE, f"/base{APP_ACCOUNT}"):
            kept = self.api.answers[path]
            for body in bodies:
                self.api.answers[path] = 200, body
                await self.down()
            self.api.answers[path] = kept
        self.profile({})
        await self.down()
        self.profile({"app_account": APP_ACCOUNT})
        values: list[object] = [None, True, 1.5, [], {}]
        for value in values:
            self.account({"account_id": value})
            await self.down()

    async def test_credentials_go_to_no_other_host(self) -> None:
        """An app_account that does not begin with exactly one slash is not asked."""
        for path in (
            "",
            "api/7/",
            "//evil.example/7/",
            "@evil.example/7/",
            ":1@evil.example/",
            "http://evil.example/7/",
            "/\\evil.example/",
            "/7/ HTTP/1.1\r\nHost: evil.example",
            "/7/é",
            7,
            ["/7/"],
        ):
            self.profile({"app_account": path})
            await self.down()
        self.assertEqual({path for path, _ in self.api.requests}, {PROFILE})


class VoipgridTroubleTests(VoipgridCase):
    """Deadlines, bounds, and recovery."""

    async def test_unreachable_api(self) -> None:
        """A refused connection is trouble, logged once and without the credentials."""
        events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        self.change(base_url="http://127.0.0.1:1")
        self.assertNotIn("good-password", await self.down())
        await self.down()
        self.assertFalse(self.backend.up)
        warnings = [event for event in events if "account API" in event.get("log_format", "")]
        self.assertEqual(len(warnings), 1)
        self.assertNotIn(self.good.decode(), repr(warnings))

    async def test_api_returns(self) -> None:
        """The next look-up finds the API as it is then."""
        kept = self.api.answers[PROFILE]
        self.api.answers[PROFILE] = 503, b""
        await self.down()
        self.api.answers[PROFILE] = kept
        await self.backend.authenticate(self.good)
        self.assertTrue(self.backend.up)

    async def test_trouble_of_one_user_is_not_logged_again_and_again(self) -> None:
        """One account that the API cannot give, in turn with good ones: two lines."""
        events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        kept = self.api.answers[PROFILE]
        for _ in range(5):
            self.api.answers[PROFILE] = 503, b""
            await self.down()
            self.api.answers[PROFILE] = kept
            await self.backend.authenticate(self.good)
        lines = [event for event in events if "account API" in event.get("log_format", "")]
        self.assertEqual(len(lines), 2)

    async def test_deadline_covers_both_requests(self) -> None:
        """An API that stops replying at the second request is given up in time."""
        self.change(timeout_s=0.2)
        self.api.answers[f"/base{APP_ACCOUNT}"] = self.api.hold
        self.assertIn("in time", await self.down())
        self.api.answers[PROFILE] = self.api.hold
        self.assertIn("in time", await self.down())

    async def test_kept_connection_closed_by_the_api(self) -> None:
        """A connection that breaks once before the answer costs the user nothing."""

        def break_once(request: Request) -> None:
            self.profile({"app_account": APP_ACCOUNT})
            request.transport.abortConnection()  # type: ignore[union-attr]

        self.api.answers[PROFILE] = break_once
        self.assertEqual(await self.backend.authenticate(self.good), Account(ACCOUNT))

    async def test_too_many_look_ups(self) -> None:
        """Above the bound a look-up fails at once; the bound is given back afterwards."""
        self.change(timeout_s=1.5)
        self.api.answers[PROFILE] = self.api.hold
        waiting = [Deferred.fromCoroutine(self.down()) for _ in range(MAX_LOOKUPS)]
        self.assertIn("wait", self.successResultOf(Deferred.fromCoroutine(self.down())))
        await gatherResults(waiting)
        self.profile({"app_account": APP_ACCOUNT})
        await self.backend.authenticate(self.good)


class VoipgridCacheTests(VoipgridCase):
    """Positive answers kept for a while."""

    async def asked(self, authorization: bytes) -> int:
        """How many requests one look-up cost."""
        before = len(self.api.requests)
        await self.backend.authenticate(authorization)
        return len(self.api.requests) - before

    async def test_off_by_default(self) -> None:
        """Every look-up asks the API."""
        self.assertEqual([await self.asked(self.good) for _ in range(2)], [2, 2])

    async def test_positive_answer_is_used_again_until_it_is_too_old(self) -> None:
        """The API is asked again after cache_s."""
        self.change(cache_s=10.0)
        self.assertEqual(await self.asked(self.good), 2)
        self.clock.advance(9.9)
        self.assertEqual(await self.asked(self.good), 0)
        self.clock.advance(0.2)
        self.assertEqual(await self.asked(self.good), 2)

    async def test_other_credentials_are_not_known(self) -> None:
        """An accepted password does not let another one in."""
        self.change(cache_s=10.0)
        await self.backend.authenticate(self.good)
        with self.assertRaises(CredentialsRefused):
            await self.backend.authenticate(self.bad)

    async def test_refusals_are_not_kept(self) -> None:
        """A password that was just corrected works at once."""
        self.change(cache_s=10.0)
        self.api.good = self.bad
        with self.assertRaises(CredentialsRefused):
            await self.backend.authenticate(self.good)
        self.api.good = self.good
        await self.backend.authenticate(self.good)

    async def test_new_settings_forget(self) -> None:
        """An answer of one API does not count for another."""
        self.change(cache_s=10.0)
        await self.backend.authenticate(self.good)
        self.change(timeout_s=4.0)
        self.assertEqual(await self.asked(self.good), 2)
