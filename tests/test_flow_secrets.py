"""Nothing that is secret reaches the log: all kinds of calls and faults, at level debug."""

from __future__ import annotations

import base64
import json
import re
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater
from twisted.web.http_headers import Headers

from middlewared.demo.stage import IOS_APP
from middlewared.simulator.accounts_server import basic
from middlewared.simulator.apple.faults import rejection
from middlewared.simulator.daemon_process import LOG_LIMIT
from middlewared.simulator.generations import ANDROID_6, FLUTTER_IOS, GCM_3, IOS_6
from middlewared.simulator.google_errors import fcm_error, invalid_token, legacy_error
from tests.console import ADMIN, PASSWORDS, users_file
from tests.fleet import clock
from tests.test_flow_calls import FIRST_ACCOUNT, FlowTestCase

PASSWORD = "correct-horse-battery"
ALERT_TOKEN = "a" * 12 + "alert-token-of-a-phone"
KEY_APP = "com.example.key"
PLACED = 13
"""Calls in all."""
PEM_LINE = re.compile(r"^[A-Za-z0-9+/=]{40,}$", re.MULTILINE)


def headers(authorization: str, content_type: str = "") -> Headers:
    """Of a request by an app."""
    made = Headers({"Authorization": [authorization]})
    if content_type:
        made.addRawHeader("Content-Type", content_type)
    return made


class SecretTests(FlowTestCase):
    """
    The whole flow in text and in JSON.

    What is looked for is taken from what the peers were shown, not from our idea of it.
    """

    calls = "roundtrip_wait_ms = 300\nresend_interval_ms = 100\n"

    async def test_text(self) -> None:
        """Text at debug."""
        await self.log_of("text")

    async def test_json(self) -> None:
        """JSON at debug: every line is an object, too."""
        for line in (await self.log_of("json")).splitlines():
            json.loads(line)

    async def log_of(self, form: str) -> str:
        """Play everything; the log, in which no secret was found."""
        (self.directory / "console-users").write_text(users_file())
        await self.start(
            f"{ADMIN}[log]\nlevel = debug\nformat = {form}\nmetrics_file = reports.jsonl\n"
            "[database]\nurl = sqlite:devices.sqlite3\n"
        )
        self.tokens: list[str] = []
        await self.good_calls()
        await self.call_with_a_provider_token()
        await self.refused_pushes()
        await self.wrong_requests()
        await self.assert_console_is_clean()
        await self.reload_with_a_fault()
        await self.stage.stop()
        log = self.stage.daemon.log
        self.assertIn("call answered" if form == "text" else '"call ', log)
        self.assertIn("debug", log)
        self.assertLess(len(log), LOG_LIMIT, "the beginning of the log is lost")
        for secret in self.secrets():
            self.assertNotIn(secret, log)
        reports = (self.directory / "reports.jsonl").read_text()
        self.assertNotIn(PASSWORD, reports)
        self.assert_history_is_clean()
        return log

    async def assert_console_is_clean(self) -> None:
        """No page and no document of the console has a secret, and the log not its passwords."""
        admin = self.stage.daemon.url("", "admin")
        user = ("op", PASSWORDS["op"])
        calls: list[Any] = []
        while len(calls) < PLACED:  # they are kept a moment after they have ended
            page = await self.client.get(f"{admin}/api/calls?limit=500", auth=user)
            calls = (await page.json())["calls"]
            await deferLater(clock, 0.05)
        accounts = {call["sip_user_id"] for call in calls}
        paths = ["/", "/apps", "/calls", "/api/calls?limit=500", "/api/overview"]
        paths += [f"/calls/{call['unique_key']}" for call in calls]
        paths += [f"/{kind}/{one}" for one in accounts for kind in ("accounts", "api/devices")]
        for path in paths:
            answered = await self.client.get(f"{admin}{path}", auth=user)
            text = await answered.text()
            self.assertEqual((path, answered.code), (path, 200))
            for secret in self.secrets():
                self.assertNotIn(secret, text, path)
        refused = await self.client.get(f"{admin}/?q={PASSWORD}", auth=("op", PASSWORD))
        self.assertEqual(refused.code, 401)
        await refused.text()

    def assert_history_is_clean(self) -> None:
        """The history has no secret either, though it has calls, reports and events."""
        with closing(sqlite3.connect(self.directory / "devices.sqlite3")) as connection:
            for table in ("calls", "call_facts", "device_events"):
                rows = connection.execute(f"select * from {table}").fetchall()
                self.assertTrue(rows, table)
                for secret in self.secrets():
                    self.assertNotIn(secret, repr(rows))

    def token(self, number: int) -> str:
        """A push token such as the platform's own."""
        self.tokens.append(f"{FIRST_ACCOUNT + number:x}{'c0ffee' * 12}"[:64])
        return self.tokens[-1]

    async def good_calls(self) -> None:
        """Each platform; a device that replaces another; an account that loses its phone."""
        for number, generation in enumerate((ANDROID_6, GCM_3, IOS_6, FLUTTER_IOS)):
            await self.phone(
                generation,
                number=number,
                token=self.token(number),
                remote_notification_token=ALERT_TOKEN,
            )
            await self.call(number)
        await self.phone(ANDROID_6, number=0, token=self.token(10))
        await self.phone(IOS_6, number=3, token=self.token(13))
        for path in ("hangup-reason", "log-metrics", "check-in"):
            await self.post_as_app(path, unique_key="x", reason="y", hangup_reason="z")
        await self.post_as_app(
            "log-metrics",
            middleware_unique_key="x",
            token=self.token(11),
            authorization=basic(str(FIRST_ACCOUNT), PASSWORD),
        )

    async def call_with_a_provider_token(self) -> None:
        """An app that has a key in place of a certificate."""
        config = self.directory / "middlewared.ini"
        config.write_text(
            f"{config.read_text()}[app:{KEY_APP}:apns]\nkey_file = AuthKey_SIMKEY0001.p8\n"
            f"key_id = SIMKEY0001\nteam_id = SIMTEAM001\ntopic = {IOS_APP}.voip\n"
            f"production_url = {self.stage.apple.url}\nca_file = ca.pem\n"
        )
        await self.reloaded("configuration reloaded")
        await self.post_as_app("apns-device", token=self.token(14), app=KEY_APP)
        await self.call(0)
        self.assertIn("bearer ey", self.stage.apple.record.received[-1].headers["authorization"])

    async def refused_pushes(self) -> None:
        """Refusals of tokens by providers, and providers that fail."""
        apple = [rejection(r) for r in ("BadDeviceToken", "DeviceTokenNotForTopic", "Unregistered")]
        for number, fault in enumerate(apple, 20):
            token = self.token(number)
            await self.phone(IOS_6, number=number, token=token)
            for server in (self.stage.apple, self.stage.apple_sandbox):
                server.scripts.for_token(token, fault)
            await self.call(number)
        google = [
            invalid_token(),
            fcm_error("UNREGISTERED"),
            fcm_error("SENDER_ID_MISMATCH"),
            fcm_error("UNAVAILABLE"),
        ]
        for number, reply in enumerate(google, 30):
            token = self.token(number)
            await self.phone(ANDROID_6, number=number, token=token)
            self.stage.google.scripts.for_token(token, reply)
            await self.call(number)
        token = self.token(40)
        await self.phone(GCM_3, number=40, token=token)
        self.stage.google.scripts.for_token(token, legacy_error("NotRegistered"))
        await self.call(40)

    async def wrong_requests(self) -> None:
        """Secrets where they do not belong, credentials that are refused, broken bodies."""
        await self.post_as_app("apns-device", token=self.token(50), app="com.example.unknown")
        await self.post_as_app("apns-device", token=self.token(51), sandbox=self.token(52))
        await self.post_as_app("android-device", token=f"{self.token(53)} {PASSWORD}", app="x")
        await self.post_as_app("check-in", password=PASSWORD, token=self.token(54))
        url = f"{self.stage.url}/api/apns-device/"
        for body in (f'{{"token": "{self.token(55)}"', f'["{self.token(56)}"]', self.token(57)):
            response = await self.client.post(
                url,
                data=body.encode(),
                headers=headers(self.authorization, "application/json"),
            )
            await response.text()
        for authorization in (basic("unknown", PASSWORD), f"Token unknown:{PASSWORD}", PASSWORD):
            response = await self.client.post(
                url, data={"token": self.token(58)}, headers=headers(authorization)
            )
            await response.text()
        response = await self.client.delete(
            f"{url}?sip_user_id={FIRST_ACCOUNT}&token={self.token(59)}&app=x",
            headers=headers(self.authorization),
        )
        await response.text()
        await self.get(f"{self.stage.url}/nowhere/?token={self.token(60)}&password={PASSWORD}")

    @property
    def authorization(self) -> str:
        return basic(str(FIRST_ACCOUNT), PASSWORD)

    async def post_as_app(self, path: str, **fields: str) -> None:
        """POST as the app of the first account."""
        response = await self.client.post(
            f"{self.stage.url}/api/{path}/",
            data={"sip_user_id": str(FIRST_ACCOUNT), **fields},
            headers=headers(self.authorization),
        )
        await response.text()

    async def reload_with_a_fault(self) -> None:
        """A new configuration whose secrets are in wrong places, then the old one."""
        good = (self.directory / "middlewared.ini").read_text()
        for fault in (
            f"[app:x:gcm]\napi_key = {PASSWORD}\nurl = ftp://user:{PASSWORD}@host/\n",
            f"[redis]\nnodes = h:1\npassword = {PASSWORD}\ncluster = perhaps\n",
            f"[http_proxy]\nurl = socks://user:{PASSWORD}@proxy:1080\n",
        ):
            (self.directory / "middlewared.ini").write_text(f"{good}{fault}")
            await self.reloaded("configuration not reloaded")
        (self.directory / "middlewared.ini").write_text(
            f"{good}[http_proxy]\nurl = http://user:{PASSWORD}@127.0.0.1:1\n"
        )
        await self.reloaded("configuration reloaded")

    async def reloaded(self, words: str) -> None:
        """SIGHUP, and wait for one more line with ``words``."""
        before = self.stage.daemon.log.count(words)
        self.stage.daemon.signal(signal.SIGHUP)
        await self.has_logged(self.stage.daemon, words, before + 1)

    def secrets(self) -> set[str]:
        """Everything that no log may have: what was sent, and what the files hold."""
        found = {
            PASSWORD,
            ALERT_TOKEN,
            "relay-key",
            *PASSWORDS.values(),
            *self.tokens,
            *self.stage.google.oauth.tokens,
        }
        found.add(base64.b64encode(f"{FIRST_ACCOUNT}:{PASSWORD}".encode()).decode())
        for server in (self.stage.apple, self.stage.apple_sandbox):
            headers = [push.headers.get("authorization", "") for push in server.record.received]
            found |= {value.rpartition(" ")[2] for value in headers}
        for path in self.directory.iterdir():
            if path.suffix in (".pem", ".p8", ".json"):
                found |= set(PEM_LINE.findall(_pem_text(path)))
        self.assertTrue(self.stage.google.oauth.tokens)
        self.assertGreater(len(found), 50)
        return found - {""}


def _pem_text(path: Path) -> str:
    return path.read_text().replace("\\n", "\n")
