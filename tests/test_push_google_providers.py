"""The Google providers, over real connections, against the simulated Google."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import CancelledError, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs

from middlewared.push.google.legacy import fcm_send_url
from middlewared.push.interface import (
    MALFORMED_TOKEN,
    Accepted,
    ConfigFault,
    NoticePush,
    PushProvider,
    Rejected,
    Temporary,
    TokenDead,
    TokenSuspect,
)
from middlewared.simulator.certificates import Authority
from middlewared.simulator.google_errors import (
    bare_error,
    fcm_error,
    invalid_fid,
    invalid_token,
    legacy_error,
    legacy_success,
)
from middlewared.simulator.google_oauth import oauth_error
from middlewared.simulator.http1_server import HttpReply, html_reply
from middlewared.simulator.record import GooglePush
from middlewared.simulator.scripts import Stall
from tests.google import API_KEY, TOKEN, GoogleTestCase, call_push, device, reactor


class Common:
    """The contract of both protocols; ``protocol`` is the simulator's name for it."""

    protocol = ""

    async def test_call_reaches_the_phone(self: Any) -> None:
        """High priority, for the rest of the wait, with the data of the call."""
        self.assertEqual(await self.send(), Accepted())
        pushed: GooglePush = self.google.record.delivered[0]
        self.assertEqual((pushed.protocol, pushed.token), (self.protocol, TOKEN))
        self.assertEqual(pushed.priority.lower(), "high")
        self.assertEqual(pushed.data["type"], "call")
        self.assertEqual(pushed.data["vg_cid"], "call-1")
        assert pushed.ttl_s is not None
        self.assertTrue(0 < pushed.ttl_s <= 4, pushed.ttl_s)

    async def test_malformed_token_is_not_pushed_to(self: Any) -> None:
        """The device is kept; no push is made."""
        for odd in ("", " ", "a b", "../../", "%2e", "a\r\n", "a\n", "é", "a/b"):
            self.assertEqual(await self.send(call_push(token=odd)), MALFORMED_TOKEN)
            notice = NoticePush(device(odd), "x", reactor.seconds() + 60)
            self.assertEqual(await self.send(notice), MALFORMED_TOKEN)
        self.assertEqual(self.google.record.received_count, 0)

    async def test_notice_reaches_the_phone(self: Any) -> None:
        """A text of type "message"."""
        notice = NoticePush(device(), "An other device", reactor.seconds() + 60)
        self.assertEqual(await self.send(notice), Accepted())
        data = self.google.record.delivered[0].data
        self.assertEqual(data, {"type": "message", "message": "An other device"})

    async def test_longest_data_is_accepted(self: Any) -> None:
        """A name that is too long does not cost the call."""
        push = call_push()
        incoming = attrs.evolve(push.call.incoming, caller_id="é" * 5000)
        push = attrs.evolve(push, call=attrs.evolve(push.call, incoming=incoming))
        self.assertEqual(await self.send(push), Accepted())

    async def test_connections_are_reused(self: Any) -> None:
        """Two hundred pushes, ten at a time, need ten connections."""
        await self.send()
        opened = self.google.connections_opened
        for _ in range(20):
            await gatherResults([self.sending() for _ in range(10)])
        self.assertLessEqual(self.google.connections_opened - opened, 10)
        self.assertEqual(self.google.record.delivered_count, 201)

    async def test_provider_that_never_answers_is_left(self: Any) -> None:
        """The attempt's own time-out ends it, so that another can be made in the wait."""
        self.google.scripts.for_token(TOKEN, Stall())
        self.attempt_timeout_s = 1.0  # enough to connect
        self.provider = self.new_provider()
        self.assert_uncertain(await self.send(), "timeout")

    async def test_push_ends_at_its_deadline(self: Any) -> None:
        """No result comes later than the end of the call's wait."""
        self.google.scripts.for_token(TOKEN, Stall())
        await self.send(call_push(token="other"))  # connects
        self.assert_uncertain(await self.send(call_push(wait_s=0.6)), "deadline")

    async def test_push_after_its_deadline_is_not_sent(self: Any) -> None:
        """No one waits for it any more."""
        self.assertEqual(await self.send(call_push(wait_s=-1)), Temporary("deadline"))
        self.assertEqual(self.google.request_count, 0)

    async def test_unwanted_push_is_not_sent(self: Any) -> None:
        """The call is over before a connection was free."""
        push = call_push(wanted=lambda: False)
        self.assertEqual(await self.send(push), Temporary("unwanted"))
        self.assertEqual(self.google.record.received_count, 0)

    async def test_untrusted_provider_gets_nothing(self: Any) -> None:
        """Neither push nor key is shown to a server without a good certificate."""
        self.authority = Authority(folder=self.folder, name="other")
        self.provider = self.new_provider()
        self.assertIsInstance(await self.send(), Temporary)
        self.assertEqual(self.google.request_count, 0)

    async def test_error_pages_are_interpreted_by_their_status(self: Any) -> None:
        """HTML, nothing at all, and far too much."""
        for body in (html_reply().body, b"", b"x" * 1_000_000):
            self.google.scripts.for_next(1, HttpReply(502, body))
            self.assertEqual(await self.send(), Temporary("http-502"))

    async def test_cancelled_push_is_given_up(self: Any) -> None:
        """Its caller does not need the result any more."""
        sending, arrived = self.stalled_push()
        await arrived
        sending.cancel()
        await self.assertFailure(sending, CancelledError)

    async def test_troubles_are_logged_once_and_without_secrets(self: Any) -> None:
        """One line for many pushes; no push token, key or access token in it."""
        self.google.scripts.for_token(TOKEN, bare_error(403, "PERMISSION_DENIED"))
        with capturedLogs() as events:
            for _ in range(5):
                await self.send()
        ours = [e for e in events if e["log_level"] > LogLevel.info]
        self.assertEqual(len(ours), 1)
        for secret in (TOKEN, API_KEY, "ya29", "PRIVATE"):
            self.assertNotIn(secret, str(events) + repr(self.provider))


class OverHttp1:
    """The transport's ends, over HTTP/1.1."""

    async def test_outage_is_temporary(self: Any) -> None:
        """Nothing listens at the provider's address; it comes back."""
        await self.send()
        await self.google.stop()
        self.assertIsInstance(await self.send(), Temporary)
        self.assertEqual(await self.send(), Temporary("transport"))
        await self.google.start()
        self.assertEqual(await self.send(), Accepted())

    async def test_stop_ends_pushes_in_flight(self: Any) -> None:
        """What was sent is Uncertain, what was not Temporary; no connection is left."""
        sending, arrived = self.stalled_push()
        await arrived
        await self.provider.stop()
        self.assert_uncertain(await sending, "transport")
        self.assertIsInstance(await self.send(), Temporary)


class FcmProviderTests(Common, GoogleTestCase):
    """FCM HTTP v1, over HTTP/2."""

    protocol = "v1"

    def new_provider(self) -> PushProvider:
        """FCM HTTP v1."""
        return self.new_fcm()

    async def test_documented_errors(self) -> None:
        """A few rows of the table, over the wire."""
        for reply, expected in (
            (fcm_error("UNREGISTERED"), TokenDead("UNREGISTERED")),
            (invalid_token(), TokenDead("INVALID_ARGUMENT")),
            (fcm_error("SENDER_ID_MISMATCH"), TokenSuspect("SENDER_ID_MISMATCH")),
            (fcm_error("THIRD_PARTY_AUTH_ERROR"), ConfigFault("THIRD_PARTY_AUTH_ERROR")),
            (bare_error(404, "NOT_FOUND"), ConfigFault("NOT_FOUND")),
            (bare_error(400, "INVALID_ARGUMENT"), Rejected("INVALID_ARGUMENT")),
            (fcm_error("UNAVAILABLE", retry_after="3"), Temporary("UNAVAILABLE", 3.0)),
        ):
            self.google.scripts.for_next(1, reply)
            self.assertEqual(await self.send(), expected)

    async def test_start_prepares_the_first_push(self: Any) -> None:
        """It has to wait neither for the token server nor for a connection."""
        await self.provider.start()
        while self.provider.connection_states()["production", "ready"] < 2:
            await deferLater(reactor, 0.02)  # one of them for the access token
        opened = self.google.connections_opened
        self.assertEqual(await self.send(), Accepted())
        self.assertEqual(self.google.oauth.issued_count, 1)
        self.assertEqual(self.google.connections_opened, opened)

    async def test_addresses(self) -> None:
        """A value without a colon is sent as an installation id, unless configured otherwise."""
        fid = TOKEN.partition(":")[0]
        for address, token, expected in (
            ("auto", TOKEN, (TOKEN, False)),
            ("auto", fid, (fid, True)),
            ("token", fid, (fid, False)),
            ("fid", TOKEN, (fid, True)),
            ("fid", fid, (fid, True)),
        ):
            self.provider = self.new_fcm(address=address)
            self.assertEqual(await self.send(call_push(token=token)), Accepted())
            pushed = self.google.record.delivered[-1]
            self.assertEqual((pushed.token, pushed.is_fid), expected)
        self.assertEqual(await self.send(call_push(token=":no-installation")), MALFORMED_TOKEN)

    async def test_dead_installation(self) -> None:
        """It counts as a dead token."""
        self.google.scripts.for_next(1, invalid_fid())
        self.assertEqual(await self.send(call_push(token="x" * 22)), TokenDead("INVALID_ARGUMENT"))

    async def test_label_for_delivery_reports(self) -> None:
        """Calls and notices are counted under it."""
        await self.send()
        self.assertEqual(self.google.record.delivered[-1].analytics_label, "")
        self.provider = self.new_fcm(analytics_label="calls")
        await self.send()
        self.assertEqual(self.google.record.delivered[-1].analytics_label, "calls")

    async def test_name_of_the_message_is_for_the_log(self) -> None:
        """Google's support asks for it."""
        result = await self.send()
        assert isinstance(result, Accepted)
        self.assertTrue(result.provider_id.startswith("projects/"), result)

    async def test_revoked_access_token_is_renewed_once(self) -> None:
        """All pushes in flight come through with one renewal."""
        await self.send()
        self.google.oauth.revoke_all()
        results = await gatherResults([self.sending() for _ in range(20)])
        self.assertEqual(results, [Accepted()] * 20)
        self.assertEqual(self.google.oauth.issued_count, 2)

    async def test_access_token_that_is_always_refused(self) -> None:
        """The renewal is not repeated: it is a fault of the configuration."""
        self.google.scripts.for_token(TOKEN, bare_error(401, "UNAUTHENTICATED"))
        self.assertEqual(await self.send(), ConfigFault("UNAUTHENTICATED"))
        self.assertEqual(self.google.oauth.issued_count, 2)

    async def test_outage_of_the_token_server_is_not_noticed(self) -> None:
        """While a token is kept, pushes go on."""
        self.google.oauth.expires_in_s = 60
        await self.send()
        self.google.oauth_scripts.for_token(self.account.client_email, HttpReply(503))
        self.assertEqual(await self.send(), Accepted())

    async def test_without_any_token_the_push_is_temporary(self) -> None:
        """The token server is down from the start."""
        self.google.oauth_scripts.for_token(self.account.client_email, HttpReply(503))
        self.assertEqual(await self.send(), Temporary("token-503"))

    async def test_stalled_token_server_does_not_hold_the_push(self) -> None:
        """The deadline of the push holds for the token too."""
        self.google.oauth_scripts.for_token(self.account.client_email, Stall())
        self.assertEqual(await self.send(call_push(wait_s=0.3)), Temporary("deadline"))

    async def test_refused_account_is_a_configuration_fault(self) -> None:
        """Its key was revoked."""
        self.google.oauth_scripts.for_token(self.account.client_email, oauth_error("invalid_grant"))
        self.assertEqual(await self.send(), ConfigFault("invalid_grant"))


class FcmOverHttp1Tests(OverHttp1, Common, GoogleTestCase):
    """FCM HTTP v1 with a server that does not choose HTTP/2."""

    protocol = "v1"
    google_options: ClassVar[Mapping[str, Any]] = {"http2": False}

    def new_provider(self) -> PushProvider:
        """FCM HTTP v1."""
        return self.new_fcm()

    async def test_no_line_calls_it_a_fault(self) -> None:
        """It works."""
        with capturedLogs() as events:
            await self.send()
        self.assertEqual([e for e in events if e["log_level"] > LogLevel.info], [])


class FcmWithoutAlpnTests(FcmOverHttp1Tests):
    """The server ignores ALPN, as simple relays do."""

    google_options: ClassVar[Mapping[str, Any]] = {"alpn": False}


class FcmOverPlainTcpTests(OverHttp1, GoogleTestCase):
    """An ``http://`` relay."""

    certified = False

    def new_provider(self) -> PushProvider:
        """FCM HTTP v1."""
        return self.new_fcm()

    async def test_start_prepares_the_first_push(self) -> None:
        """A connection is kept ready."""
        while self.provider.connection_states()["production", "ready"] < 1:
            await deferLater(reactor, 0.02)
        self.assertEqual(await self.send(), Accepted())


class LegacyProviderTests(OverHttp1, Common, GoogleTestCase):
    """The legacy protocol at FCM's address."""

    protocol = "fcm"

    def new_provider(self, api_key: str = API_KEY) -> PushProvider:
        """A provider with a server key."""
        return self.new_legacy(api_key, self.send_url())

    def send_url(self) -> str:
        return fcm_send_url(self.google.url)

    async def test_documented_errors(self) -> None:
        """A few rows of the table, over the wire."""
        for reply, expected in (
            (legacy_error("NotRegistered"), TokenDead("NotRegistered")),
            (legacy_error("MismatchSenderId"), TokenSuspect("MismatchSenderId")),
            (legacy_error("MessageTooBig"), Rejected("MessageTooBig")),
            (legacy_error("Unavailable", retry_after="3"), Temporary("Unavailable", 3.0)),
            (HttpReply(200), Temporary("http-200")),
        ):
            self.google.scripts.for_next(1, reply)
            self.assertEqual(await self.send(), expected)

    async def test_canonical_token_is_passed_on(self) -> None:
        """The registry stores it; the log has the id of the message."""
        self.google.scripts.for_next(1, legacy_success("0:1", "canonical"))
        result = await self.send()
        self.assertEqual(result, Accepted(canonical_token="canonical"))
        assert isinstance(result, Accepted)
        self.assertEqual(result.provider_id, "0:1")

    async def test_wrong_server_key_is_a_configuration_fault(self) -> None:
        """No device is to blame."""
        self.provider = self.new_provider("AIza-wrong")
        self.assertEqual(await self.send(), ConfigFault("http-401"))


class GcmProviderTests(LegacyProviderTests):
    """The legacy protocol at GCM's address."""

    protocol = "gcm"

    def send_url(self) -> str:
        """GCM apps name the whole address."""
        return f"{self.google.url}/gcm/send"
