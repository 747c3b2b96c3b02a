"""``check --online`` with Google and relays: each fault is named, with what to do."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

import attrs

from middlewared.cli.check import google_checks
from middlewared.demo.stage import free_port
from middlewared.simulator.certificates import (
    Authority,
    IssuedServiceAccount,
    write_service_account,
)
from middlewared.simulator.google_errors import bare_error, fcm_error, legacy_error
from middlewared.simulator.google_oauth import oauth_error
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.http1_server import HttpReply
from middlewared.simulator.scripts import Stall
from tests.checks import OnlineTestCase, reactor

APP = "com.example.phone"
ANDROID = f"[app:{APP}:android]"
GCM = f"[app:{APP}:gcm]"


class GoogleCheckCase(OnlineTestCase):
    """A Google that knows no made-up token."""

    account: IssuedServiceAccount

    async def google(self, **options: Any) -> GoogleServer:
        """Start it; it trusts an account."""
        server = GoogleServer(reactor=reactor, api_keys=["good-key"], tokens=(), **options)
        await server.start()
        self.later(server.stop)
        self.account = write_service_account(self.folder, token_uri=server.token_uri)
        server.trust(self.account)
        return server

    async def v1(self, server: GoogleServer) -> str:
        """The result for the account."""
        text = f"{ANDROID}\nservice_account = {self.account.path}\nurl = {server.url}\n"
        return await self.check_one(text, ANDROID)


class V1Tests(GoogleCheckCase):
    """FCM HTTP v1."""

    async def test_all_is_well(self) -> None:
        """The message was only validated: no phone got it, and no secret is shown."""
        server = await self.google()
        found = await self.v1(server)
        place = server.url.removeprefix("http://")
        self.assertEqual(
            found,
            f"ok {place}, project simulated-project, access token, made-up token refused"
            " (INVALID_ARGUMENT)",
        )
        self.assertEqual(server.record.delivered_count, 0)
        self.assertFalse(any(token in found for token in server.oauth.tokens))

    async def test_unregistered_is_well_too(self) -> None:
        """FCM may accept the form of the token, but not know it."""
        server = await self.google()
        server.tokens = None
        server.scripts.for_all(fcm_error("UNREGISTERED"))
        self.assertRegex(await self.v1(server), r"^ok .*\(UNREGISTERED\)")

    async def test_only_validated(self) -> None:
        """FCM is asked not to deliver."""
        server = await self.google()
        server.tokens = None
        self.assertRegex(await self.v1(server), "^warning .*a made-up token was accepted")
        self.assertEqual([push.dry for push in server.record.received], [True])
        self.assertEqual(server.record.delivered_count, 0)

    async def test_no_token(self) -> None:
        """A wrong clock, a revoked key, an account that is disabled or deleted."""
        server = await self.google()
        hour_ago = ("Date", formatdate(time.time() - 3600, usegmt=True))
        skewed = attrs.evolve(oauth_error("invalid_grant"), headers=(hour_ago,))
        for reply, what in (
            (skewed, r"is 60 min behind ours: correct the time"),
            (oauth_error("invalid_grant", "Invalid JWT Signature."), "the key of .* was revoked"),
            (oauth_error("invalid_grant", "Robot is disabled."), "is disabled: enable it"),
            (oauth_error("disabled_client", "The OAuth client was disabled."), "is disabled"),
            (oauth_error("invalid_grant", "Invalid grant: account not found"), "no longer exists"),
            (HttpReply(502, b"<html>"), "answers 502: is it failing"),
        ):
            server.oauth_scripts.for_all(reply)
            self.assertRegex(await self.v1(server), rf"^wrong no access token \(.*{what}")

    async def test_revoked_key(self) -> None:
        """Google sees the signature of another key."""
        server = await self.google()
        other = self.folder / "other"
        other.mkdir()
        stranger = write_service_account(other, token_uri=server.token_uri)
        document = json.loads(self.account.path.read_text())
        document["private_key"] = json.loads(stranger.path.read_text())["private_key"]
        self.account.path.write_text(json.dumps(document))
        found = await self.v1(server)
        self.assertRegex(found, r"^wrong no access token \(invalid_grant\): service_account: the k")
        self.assertNotIn("PRIVATE", found)

    async def test_refusals(self) -> None:
        """Of a message: the API, the role, the project, Google's own trouble."""
        server = await self.google()
        server.tokens = None
        disabled = {
            "error": {
                "code": 403,
                "status": "PERMISSION_DENIED",
                "message": "No.",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "SERVICE_DISABLED",
                    }
                ],
            }
        }
        for reply, what in (
            (HttpReply(403, json.dumps(disabled).encode()), "is not enabled in project simulated-"),
            (bare_error(403, "PERMISSION_DENIED"), "give it the role Firebase Cloud Messaging"),
            (bare_error(404, "NOT_FOUND"), "FCM does not know project simulated-project"),
            (bare_error(401, "UNAUTHENTICATED"), "does not accept the access token"),
            (fcm_error("SENDER_ID_MISMATCH"), "another Firebase project than simulated-project"),
            (fcm_error("THIRD_PARTY_AUTH_ERROR"), "credentials for Apple or web push"),
            (fcm_error("UNAVAILABLE"), "Google has a temporary problem"),
            (fcm_error("INVALID_ARGUMENT", message="No."), "does not understand the message"),
        ):
            server.scripts.for_all(reply)
            found = await self.v1(server)
            self.assertRegex(found, f"^wrong .*{what}")
        server.scripts.for_all(fcm_error("QUOTA_EXCEEDED"))
        self.assertRegex(await self.v1(server), "^warning .*over its quota")

    async def test_silent_server(self) -> None:
        """It does not delay the check."""
        self.patch(google_checks, "ANSWER_S", 0.3)
        server = await self.google()
        server.tokens = None
        server.scripts.for_all(Stall())
        self.assertRegex(await self.v1(server), "^wrong .*no answer within 0.3 s$")

    async def test_unknown_root(self) -> None:
        """As with a proxy that intercepts TLS; its signer is named."""
        authority = Authority(folder=self.folder)
        server = await self.google(certificate=authority.server())
        found = await self.v1(server)
        self.assertRegex(found, "^wrong no access token: .*signed by middlewared simulator ca, whi")
        text = f"{ANDROID}\napi_key = k\nurl = {server.url}\nca_file = {authority.certificate}\n"
        self.assertRegex(await self.check_one(text, ANDROID), "^wrong .*api_key is refused")

    async def test_proxy_that_is_away(self) -> None:
        """It is named, without its credentials."""
        server = await self.google()
        text = f"{ANDROID}\nservice_account = {self.account.path}\nurl = {server.url}\n"
        proxy = f"[http_proxy]\nurl = http://user:geheim@127.0.0.1:{free_port()}\n"
        found = await self.check_one(text + proxy, ANDROID)
        self.assertRegex(found, r"cannot reach the proxy of \[http_proxy\]: the connection is ref")

    async def test_no_one_listens(self) -> None:
        """The host of the access token is named."""
        server = await self.google()
        await server.stop()
        self.assertRegex(
            await self.v1(server),
            r"^wrong no access token: 127.0.0.1:\d+: the connection is refused",
        )


class LegacyTests(GoogleCheckCase):
    """The legacy protocol, and GCM, at a relay."""

    async def legacy(self, server: GoogleServer, key: str = "good-key", more: str = "") -> str:
        text = f"{GCM}\napi_key = {key}\nurl = {server.url}/gcm/send{more}\n"
        return await self.check_one(text, GCM)

    async def test_all_is_well(self) -> None:
        """A made-up registration id is refused, and was sent with dry_run."""
        server = await self.google()
        self.assertRegex(await self.legacy(server), r"^ok .*id refused \(InvalidRegistration\)$")
        text = f"{ANDROID}\napi_key = good-key\nurl = {server.url}\n"
        self.assertRegex(await self.check_one(text, ANDROID), "^ok ")

    async def test_relay_that_takes_everything(self) -> None:
        """This is a warning."""
        server = await self.google()
        server.tokens = None
        self.assertRegex(await self.legacy(server), "^warning .*was accepted")
        self.assertEqual([push.dry for push in server.record.received], [True])

    async def test_faults(self) -> None:
        """The key, the address, the sender."""
        server = await self.google()
        found = await self.legacy(server, key="bad-key-geheim")
        self.assertRegex(found, r"^wrong .*api_key is refused \(401\)")
        self.assertNotIn("geheim", found)
        self.assertRegex(await self.legacy(server, more="X"), "^wrong .*Google has shut it down")
        server.tokens = None
        server.scripts.for_all(legacy_error("MismatchSenderId"))
        self.assertRegex(
            await self.legacy(server), "^wrong .*api_key is not that of the app's sender"
        )
        server.scripts.for_all(legacy_error("InvalidTtl"))
        self.assertRegex(await self.legacy(server), r"^wrong .*refuses the message \(InvalidTtl\)")
