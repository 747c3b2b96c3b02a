"""The simulated Google validates tokens and messages, and causes the faults ordered."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import attrs
import jwt
import treq
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    ResponseFailed,
    ResponseNeverReceived,
)

from middlewared.simulator.certificates import (
    Authority,
    IssuedServiceAccount,
    write_service_account,
)
from middlewared.simulator.google_errors import (
    FCM_ERRORS,
    MULTICAST_ID,
    bare_error,
    fcm_error,
    invalid_token,
    legacy_error,
    legacy_success,
    legacy_text,
)
from middlewared.simulator.google_oauth import GRANT_TYPE, SCOPE, oauth_error
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.http1_server import BreakOff, HttpReply, html_reply
from middlewared.simulator.record import GooglePush
from middlewared.simulator.scripts import Delay, Deliver, HangUp, ResetConnection, Stall

TOKEN = "phone-1"
SERVER_KEY = "legacy-key"
LEGACY_ERRORS = (
    "MissingRegistration",
    "InvalidRegistration",
    "NotRegistered",
    "InvalidPackageName",
    "MismatchSenderId",
    "InvalidParameters",
    "MessageTooBig",
    "InvalidDataKey",
    "InvalidTtl",
    "Unavailable",
    "InternalServerError",
    "DeviceMessageRateExceeded",
    "TopicsMessageRateExceeded",
    "InvalidApnsCredential",
)


@attrs.frozen
class Answer:
    """A response with its body read."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class GoogleTestCase(TestCase):
    """A running server and an independent HTTP client."""

    def setUp(self) -> Any:
        return Deferred.fromCoroutine(self.prepare())

    async def prepare(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.pushed: list[GooglePush] = []
        self.server = GoogleServer(
            reactor=reactor, api_keys=[SERVER_KEY], listener=self.pushed.append
        )
        await self.server.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.server.stop()))
        self.pool = HTTPConnectionPool(reactor)
        self.pool.retryAutomatically = False
        self.addCleanup(self.pool.closeCachedConnections)
        self.http = HTTPClient(cast(Any, Agent(reactor, pool=self.pool)))

    async def post(self, path: str, **request: Any) -> Answer:
        response = await self.http.post(self.server.url + path, **request)
        fields = {
            name.decode().lower(): values[0].decode()
            for name, values in response.headers.getAllRawHeaders()
        }
        return Answer(response.code, await treq.text_content(response), fields)

    def account(self, **options: Any) -> IssuedServiceAccount:
        return write_service_account(self.folder, token_uri=self.server.token_uri, **options)

    async def ask_token(self, account: IssuedServiceAccount, **claims: object) -> Answer:
        document = json.loads(account.path.read_text())
        now = int(time.time())
        content = {
            "iss": account.client_email,
            "scope": SCOPE,
            "aud": account.token_uri,
            "iat": now,
            "exp": now + 3600,
            **claims,
        }
        headers = {"kid": account.private_key_id}
        secret = document["private_key"]
        assertion = jwt.encode(content, secret, algorithm="RS256", headers=headers)
        return await self.post("/token", data={"grant_type": GRANT_TYPE, "assertion": assertion})


class OAuthTests(GoogleTestCase):
    """The token endpoint validates the assertion."""

    async def test_issues_a_token(self) -> None:
        """A good assertion gets an access token with the lifetime that was set."""
        account = self.account()
        self.server.trust(account)
        self.server.oauth.expires_in_s = 7
        answer = await self.ask_token(account)
        self.assertEqual((answer.status, answer.json["expires_in"]), (200, 7))
        self.assertEqual(answer.json["token_type"], "Bearer")

    async def test_validates_the_assertion(self) -> None:
        """Signer, audience, scope and times of an assertion must be right."""
        account = self.account()
        stranger = self.account(name="stranger")
        self.server.trust(account)
        now = int(time.time())
        for claims in (
            {"aud": "https://oauth2.googleapis.com/token"},
            {"iat": now + 600, "exp": now + 1200},
            {"iat": now - 7200, "exp": now - 3600},
            {"exp": now + 4000},
            {"iss": "unknown@example.org"},
        ):
            answer = await self.ask_token(account, **claims)
            self.assertEqual((answer.status, answer.json["error"]), (400, "invalid_grant"))
        self.assertEqual((await self.ask_token(account, scope="x")).json["error"], "invalid_scope")
        self.assertEqual((await self.ask_token(stranger)).json["error"], "invalid_grant")
        other = await self.post("/token", data={"grant_type": "password"})
        self.assertEqual(other.json["error"], "unsupported_grant_type")

    async def test_faults(self) -> None:
        """Token requests can fail in every way, in turn."""
        account = self.account()
        self.server.trust(account)
        orders = self.server.oauth_scripts
        orders.for_next(1, oauth_error("invalid_grant", status=401))
        orders.for_next(1, HttpReply(503))
        orders.for_next(1, HttpReply(200, b"not JSON"))
        self.assertEqual((await self.ask_token(account)).status, 401)
        self.assertEqual((await self.ask_token(account)).status, 503)
        self.assertEqual((await self.ask_token(account)).text, "not JSON")
        orders.for_next(1, ResetConnection())
        with self.assertRaises(ResponseNeverReceived):
            await self.ask_token(account)
        self.assertEqual((await self.ask_token(account)).status, 200)


class MessageTests(GoogleTestCase):
    """FCM HTTP v1: messages:send."""

    async def prepare(self) -> None:
        await super().prepare()
        account = self.account()
        self.server.trust(account)
        self.access_token = (await self.ask_token(account)).json["access_token"]
        self.path = f"/v1/projects/{account.project_id}/messages:send"

    async def send(self, *, message: Any = None, path: str = "", **more: Any) -> Answer:
        body = {
            "token": TOKEN,
            "data": {"type": "call", "attempt": "1"},
            "android": {"priority": "HIGH", "ttl": "3.5s"},
            **more,
        }
        return await self.post(
            path or self.path,
            headers={"Authorization": f"Bearer {self.access_token}"},
            json={"message": body if message is None else message},
        )

    async def test_accepts_records_and_reports(self) -> None:
        """A good message gets its name, and the listener is notified."""
        answer = await self.send()
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.json["name"].startswith("projects/simulated-project/messages/"))
        (push,) = self.pushed
        self.assertEqual((push.token, push.priority, push.ttl_s), (TOKEN, "HIGH", 3.5))
        self.assertEqual(push.data, {"type": "call", "attempt": "1"})
        self.assertEqual(list(self.server.record.delivered), [push])

    async def test_validates_the_access_token(self) -> None:
        """A wrong, expired or revoked access token is 401 without an FcmError."""
        self.server.oauth.revoke_all()
        answer = await self.send()
        self.assertEqual((answer.status, answer.json["error"]["status"]), (401, "UNAUTHENTICATED"))
        self.assertNotIn("details", answer.json["error"])

    async def test_validates_the_project(self) -> None:
        """An unknown project is 404, another account's project 403, both without FcmError."""
        unknown = await self.send(path="/v1/projects/nothing/messages:send")
        self.assertEqual((unknown.status, unknown.json["error"]["status"]), (404, "NOT_FOUND"))
        self.server.trust(self.account(project_id="other", name="other"))
        foreign = await self.send(path="/v1/projects/other/messages:send")
        self.assertEqual(foreign.json["error"]["status"], "PERMISSION_DENIED")

    async def test_validates_the_message(self) -> None:
        """What the reference forbids is INVALID_ARGUMENT and reaches no one."""
        for wrong in (
            {"data": {"attempt": 1}},
            {"data": {"google.x": "y"}},
            {"data": {"from": "y"}},
            {"data": {"x": "y" * 4096}},
            {"android": {"ttl": "4"}},
            {"android": {"ttl": 4}},
            {"android": {"ttl": "2419201s"}},
            {"android": {"priority": "high"}},
            {"token": ""},
            {"tokens": ["x"]},
        ):
            answer = await self.send(**wrong)
            self.assertEqual(answer.status, 400, wrong)
            self.assertEqual(answer.json["error"]["status"], "INVALID_ARGUMENT")
        self.assertEqual(self.pushed, [])
        self.assertEqual(len(self.server.record.refused), 10)

    async def test_installation_ids(self) -> None:
        """A device may be addressed by message.fid instead of message.token."""
        good = {"data": {}, "fid": "fEsV1-installation_id0"}
        self.assertEqual((await self.send(message=good)).status, 200)
        (push,) = self.pushed
        self.assertEqual((push.token, push.is_fid), ("fEsV1-installation_id0", True))
        for fid in ("with:colon", "", 7):
            answer = await self.send(message={"fid": fid})
            self.assertEqual(answer.status, 400)
            self.assertIn('"field": "message.fid"', answer.text)
        both = await self.send(message={"fid": "x", "token": "y"})
        self.assertIn("already set", both.text)

    async def test_analytics_label(self) -> None:
        """A label of the documented characters is kept."""
        self.assertEqual((await self.send(fcm_options={"analytics_label": "calls-1"})).status, 200)
        self.assertEqual(self.pushed[0].analytics_label, "calls-1")
        wrong: tuple[Any, ...] = ({"analytics_label": "two words"}, {"label": "x"}, [])
        for options in wrong:
            self.assertEqual((await self.send(fcm_options=options)).status, 400)

    async def test_answers_that_break_off(self) -> None:
        """A clean close instead of an answer, and a reset in the middle of one."""
        self.server.scripts.for_next(1, HangUp())
        with self.assertRaises(ResponseNeverReceived):
            await self.send()
        self.server.scripts.for_next(1, BreakOff(HttpReply(200, b"x" * 100)))
        with self.assertRaises(ResponseFailed):
            await self.send()

    async def test_every_documented_error(self) -> None:
        """A scripted error has its statuses and names its code in the details."""
        for code, (http_status, status) in FCM_ERRORS.items():
            self.server.scripts.for_next(1, fcm_error(code, retry_after="3"))
            answer = await self.send()
            error = answer.json["error"]
            self.assertEqual((answer.status, error["status"]), (http_status, status))
            self.assertEqual(error["details"][-1]["errorCode"], code)
            self.assertEqual(answer.headers["retry-after"], "3")
        self.server.scripts.for_token(TOKEN, invalid_token())
        self.assertIn('"field": "message.token"', (await self.send()).text)
        self.server.scripts.for_token(TOKEN, bare_error(404, "NOT_FOUND"))
        self.assertNotIn("details", (await self.send()).json["error"])
        self.assertEqual(self.pushed, [])

    async def test_other_faults(self) -> None:
        """HTML, a delay after delivery, silence and a reset happen on the wire."""
        self.server.scripts.for_next(1, html_reply(502))
        answer = await self.send()
        self.assertEqual((answer.status, answer.headers["content-type"][:9]), (502, "text/html"))
        self.server.scripts.for_next(1, Deliver(), Delay(0.01), HttpReply(503))
        self.assertEqual((await self.send()).status, 503)
        self.assertEqual(len(self.pushed), 1)
        self.server.scripts.for_next(1, ResetConnection())
        with self.assertRaises(ResponseNeverReceived):
            await self.send()
        self.server.scripts.for_token("slow", Delay(60))
        self.server.scripts.for_token("silent", Stall())
        waiting = [Deferred.fromCoroutine(self.send(token=each)) for each in ("slow", "silent")]
        while not {"slow", "silent"} <= {push.token for push in self.server.record.received}:
            await deferLater(reactor, 0.01)
        self.assertEqual((await self.send()).status, 200)
        self.assertFalse(any(each.called for each in waiting))
        await self.server.stop()
        for each in waiting:
            with self.assertRaises(ResponseNeverReceived):
                await each

    async def test_speaks_https(self) -> None:
        """With a certificate the server speaks TLS, and its URLs begin with https."""
        authority = Authority(folder=self.folder)
        server = GoogleServer(reactor=reactor, certificate=authority.server())
        await server.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        self.assertTrue(server.token_uri.startswith("https://127.0.0.1:"))
        trusted = trustRootFromCertificates(
            [Certificate.loadPEM(authority.certificate.read_bytes())]
        )
        agent = Agent(reactor, BrowserLikePolicyForHTTPS(trustRoot=trusted), pool=self.pool)
        response = await HTTPClient(cast(Any, agent)).get(server.token_uri)
        self.assertEqual(response.code, 405)
        self.assertIn("invalid_request", await treq.text_content(response))

    async def test_counts_connections(self) -> None:
        """Pushes over a kept connection open no other."""
        for _ in range(5):
            await self.send()
        self.assertEqual(self.server.connections_opened, 1)


class LegacyTests(GoogleTestCase):
    """The legacy protocol at its two addresses."""

    async def send(self, *, path: str = "/fcm/send", key: str = SERVER_KEY, **more: Any) -> Answer:
        body = {"to": TOKEN, "data": {"type": "call"}, "priority": "high", **more}
        return await self.post(path, headers={"Authorization": f"key={key}"}, json=body)

    async def test_accepts(self) -> None:
        """Both addresses answer with a result list whose multicast_id no double holds."""
        for path, protocol in (("/fcm/send", "fcm"), ("/gcm/send", "gcm")):
            answer = await self.send(path=path, time_to_live=4)
            self.assertEqual(answer.json["success"], 1)
            self.assertEqual(answer.json["multicast_id"], MULTICAST_ID)
            self.assertEqual((self.pushed[-1].protocol, self.pushed[-1].ttl_s), (protocol, 4))

    async def test_validates(self) -> None:
        """Key, token, data and time to live are validated."""
        self.assertEqual((await self.send(key="other")).status, 401)
        self.assertEqual((await self.send(data={"start": 1.5})).status, 400)
        self.assertIn("MissingRegistration", (await self.send(to="")).text)
        self.assertIn("InvalidTtl", (await self.send(time_to_live="4s")).text)
        self.assertIn("InvalidDataKey", (await self.send(data={"gcm_x": "y"})).text)
        self.assertIn("MessageTooBig", (await self.send(data={"x": "y" * 4097})).text)
        self.assertEqual(self.pushed, [])

    async def test_every_documented_error(self) -> None:
        """A scripted error comes as the one result of a 200."""
        for name in LEGACY_ERRORS:
            self.server.scripts.for_next(1, legacy_error(name))
            answer = await self.send()
            self.assertEqual(answer.json["results"], [{"error": name}])
            self.assertEqual((answer.status, answer.json["failure"]), (200, 1))

    async def test_canonical_id(self) -> None:
        """A canonical id comes with a success, and the phone gets the push."""
        self.server.scripts.for_next(1, legacy_success("0:1", canonical="phone-2"))
        answer = await self.send()
        self.assertEqual(answer.json["results"][0]["registration_id"], "phone-2")
        self.assertEqual(answer.json["canonical_ids"], 1)
        self.assertEqual(len(self.pushed), 1)

    async def test_empty_body(self) -> None:
        """A 200 without a body, as libraries have seen it."""
        self.server.scripts.for_next(1, legacy_text(200))
        answer = await self.send()
        self.assertEqual((answer.status, answer.text), (200, ""))
