"""The console over HTTP: who may use it, its documents, its pages, and what operators do."""

from __future__ import annotations

import json
import re
import signal
import sys
import tempfile
import uuid
from pathlib import Path
from urllib.parse import quote

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue

from middlewared.console.live_streams import MOST
from middlewared.quoting import fingerprint
from middlewared.simulator.generations import ANDROID_6, IOS_6
from middlewared.simulator.phone import Reaction
from tests import EXAMPLES
from tests.console import ACCOUNT, PASSWORDS, ConsoleTestCase
from tests.fleet import clock
from tests.test_demo import DEMO, ROOT

PATHS = (
    *("/", "/calls", "/calls/x", "/apps", f"/accounts/{ACCOUNT}", "/static/console.css"),
    *("/static/console.js", "/live/overview", "/live/calls/x", "/nowhere", "/api/nowhere"),
    *("/api/overview", "/api/calls", "/api/calls/x", f"/api/devices/{ACCOUNT}"),
    "/api/openapi.json",
)
PAGES = ("/", "/calls", "/apps", f"/accounts/{ACCOUNT}", "/nowhere")
SILENT = Reaction(available=None)
HOSTILE = "<img src=x onerror=alert(1)>\u202e'\"\u2066%s"
SHOWN = "&lt;img src=x onerror=alert(1)&gt;\\u202e&#39;&#34;\\u2066%s"
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


class AccessTests(ConsoleTestCase):
    """Who may see the console, and who may act."""

    async def test_everything_needs_credentials(self) -> None:
        """Every page, file, stream and document: 401 without credentials or with wrong ones."""
        await self.start()
        for path in PATHS:
            answered = await self.ask(path, user=None)
            self.assertEqual((path, answered.status), (path, 401))
            self.assertEqual(answered.header("WWW-Authenticate"), 'Basic realm="middlewared"')
        for user, password in (("op", "wrong"), ("nobody", "of the operator"), ("op", "")):
            self.assertEqual((await self.ask("/", user=user, password=password)).status, 401)

    async def test_guesses_are_throttled(self) -> None:
        """After ten wrong passwords of a user 429, also with the right one; others get in."""
        await self.start()
        for _ in range(10):
            self.assertEqual((await self.ask("/", password="guess")).status, 401)
        self.assertEqual((await self.ask("/", password="guess")).status, 429)
        answered = await self.ask("/api/calls")
        self.assertEqual(answered.status, 429)
        self.assertTrue(answered.header("Retry-After"))
        self.assertEqual((await self.ask("/", user="viewer")).status, 200)

    async def test_viewers_only_look(self) -> None:
        """They see everything; removal and test calls are 403, and their pages have no forms."""
        await self.start()
        await self.phone(ANDROID_6)
        self.assertEqual((await self.ask(f"/api/devices/{ACCOUNT}", user="viewer")).status, 200)
        for path, method in (
            (f"/api/devices/{ACCOUNT}", "DELETE"),
            (f"/api/devices/{ACCOUNT}/test-call", "POST"),
            (f"/accounts/{ACCOUNT}/test-call", "POST"),
            (f"/accounts/{ACCOUNT}/remove", "POST"),
        ):
            origin = {"Origin": self.admin}
            answered = await self.ask(path, method, user="viewer", headers=origin)
            self.assertEqual((path, answered.status), (path, 403))
        self.assertNotIn("Test call", (await self.ask(f"/accounts/{ACCOUNT}", user="viewer")).text)
        self.assertIn("Test call", (await self.ask(f"/accounts/{ACCOUNT}")).text)

    async def test_foreign_origins(self) -> None:
        """A foreign or null Origin is 403 for every method; the console's own is accepted."""
        await self.start()
        port = self.admin.rpartition(":")[2]
        for origin in (
            *("null", "https://evil.example", f"http://127.0.0.1.evil.example:{port}"),
            *("http://127.0.0.1:1", "http://127.0.0.1", "garbage", f"ftp://127.0.0.1:{port}"),
            f"http://evil.example@127.0.0.1:{port}/x",
        ):
            for path, method in (("/api/calls", "GET"), (f"/api/devices/{ACCOUNT}", "DELETE")):
                answered = await self.ask(path, method, headers={"Origin": origin})
                self.assertEqual((origin, answered.status), (origin, 403))
        own = await self.ask(f"/api/devices/{ACCOUNT}", "DELETE", headers={"Origin": self.admin})
        self.assertEqual(own.status, 404)
        cross = {"Sec-Fetch-Site": "cross-site"}
        answered = await self.ask(f"/api/devices/{ACCOUNT}/test-call", "POST", headers=cross)
        self.assertEqual(answered.status, 403)

    async def test_forms_need_an_origin_or_a_proof(self) -> None:
        """A form without both is 403; programs that send no form need neither."""
        await self.start()
        path = f"/accounts/{ACCOUNT}/test-call"
        page = (await self.ask(f"/accounts/{ACCOUNT}")).text
        (proof,) = set(re.findall('name="proof" value="([0-9a-f]+)"', page))
        for form in ({"x": "y"}, {"proof": ""}, {"proof": "0" * 64}, {"proof": "é"}):
            self.assertEqual((await self.ask(path, "POST", form=form)).status, 403)
            api = await self.ask(f"/api/devices/{ACCOUNT}/test-call", "POST", form=form)
            self.assertEqual(api.status, 403)
        self.assertEqual((await self.ask(path, "POST", form={"proof": proof})).status, 303)
        own = await self.ask(path, "POST", form={"x": "y"}, headers={"Origin": self.admin})
        self.assertEqual(own.status, 303)
        program = await self.ask(f"/api/devices/{ACCOUNT}/test-call", "POST")
        self.assertEqual(json.loads(program.text)["outcome"], "no-device")

    async def test_pages_are_shut_off(self) -> None:
        """A strict policy on every reply; no inline script or style; no address elsewhere."""
        await self.start()
        await self.phone(ANDROID_6)
        await self.call()
        call = await self.kept(sip_user_id=ACCOUNT)
        for path in (*PAGES, f"/calls/{call['unique_key']}"):
            page = await self.ask(path)
            policy = page.header("Content-Security-Policy")
            for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"):
                self.assertIn(part, policy)
            self.assertNotIn("unsafe", policy)
            self.assertEqual(page.header("X-Content-Type-Options"), "nosniff")
            self.assertEqual(page.header("Cache-Control"), "no-store")
            self.assertEqual(re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", page.text), [])
            self.assertEqual(re.findall(r"<script(?! src=\"/static/)", page.text), [])
            addresses = re.findall(r'(?:src|href|action|data-live)="([^"]*)"', page.text)
            self.assertEqual([each for each in addresses if not re.match("/(?!/)|#", each)], [])

    async def test_reload_changes_users_and_operators(self) -> None:
        """SIGHUP reads both again; a broken file keeps the ones there are."""
        await self.start()
        users = self.directory / "console-users"
        config = self.directory / "middlewared.ini"
        good = users.read_text()
        users.write_text("nonsense\n")
        await self.reloaded("configuration not reloaded")
        self.assertIn("console-users line 1: must be USER:bcrypt hash", self.stage.daemon.log)
        self.assertEqual((await self.ask("/", user="viewer")).status, 200)
        users.write_text(good.splitlines()[1] + "\n")
        config.write_text(config.read_text().replace("operators = op", "operators = viewer"))
        await self.reloaded("configuration reloaded")
        self.assertEqual((await self.ask("/")).status, 401)
        path = f"/api/devices/{ACCOUNT}/test-call"
        self.assertEqual((await self.ask(path, "POST", user="viewer")).status, 200)

    async def reloaded(self, words: str) -> None:
        before = self.stage.daemon.log.count(words)
        self.stage.daemon.signal(signal.SIGHUP)
        while self.stage.daemon.log.count(words) == before:
            await deferLater(clock, 0.02)

    async def test_no_console_without_listen(self) -> None:
        """Off by default; with listen, a file of users is needed."""
        daemon = await self.start_daemon()
        self.assertNotIn("admin", daemon.addresses)
        await daemon.stop()
        text = "[admin]\nlisten = tcp:0:interface=127.0.0.1\n"
        code, output = await self.refused_start(text)
        self.assertEqual(code, 1)
        self.assertIn("[admin] htpasswd: must name a file while listen is set", output)
        code, output = await self.refused_start(f"{text}htpasswd = missing\n")
        self.assertIn("[admin] htpasswd:", output)


class DocumentTests(ConsoleTestCase):
    """The documents below ``/api/``."""

    history = "numbers = all"

    async def test_search(self) -> None:
        """Each parameter, all of them together, and pages by opaque values."""
        await self.start()
        await self.phone(ANDROID_6, number=0)
        await gatherResults([self.call(number, f"id-{number}") for number in range(5)])
        await self.until_document("/api/calls", lambda page: len(page["calls"]) == 5)
        answered = await self.kept(outcome="answered")
        key = answered["unique_key"]
        for query, count in (
            (f"sip_user_id={ACCOUNT}", 1),
            ("call_id=id-3", 1),
            (f"unique_key={key}", 1),
            ("outcome=no-device", 4),
            ("app=com.example.android", 1),
            ("platform=none", 4),
            ("since=2020-01-01T00:00:00Z", 5),
            ("since=2020-01-01T00:00:00+02:00&until=2020-01-02", 0),
            (f"since={answered['start']}&unique_key={key}", 1),
            (f"until={answered['start']}&unique_key={key}", 0),
            (f"outcome=answered&platform=android&call_id=id-0&sip_user_id={ACCOUNT}", 1),
            ("call_id=", 5),
        ):
            page = await self.document(f"/api/calls?{query}")
            self.assertEqual((query, len(page["calls"])), (query, count))
        seen, before = [], ""
        while True:
            page = await self.document(f"/api/calls?limit=2{before}")
            seen += [call["call_id"] for call in page["calls"]]
            if page["next"] is None:
                break
            before = f"&before={page['next']}"
        self.assertEqual(sorted(seen), [f"id-{number}" for number in range(5)])

    async def test_unknown_and_broken_parameters(self) -> None:
        """400 with what is wrong, in JSON."""
        await self.start()
        for query in (
            *("x=1", "q=1", "limit=0", "limit=501", "limit=x", "limit=", "limit=-1", "limit=1.5"),
            *("since=yesterday", "since=", "until=99999-01-01", "outcome=sunny", "platform=nokia"),
            *("before=!", "before=e30", f"app={'x' * 256}", "app=%00", "app=%ff"),
            "&".join(f"p{number}=1" for number in range(30)),
        ):
            answered = await self.ask(f"/api/calls?{query}")
            self.assertEqual((query[:30], answered.status), (query[:30], 400))
            self.assertTrue(json.loads(answered.text)["detail"])
        for path in ("/api/overview", "/api/calls/x", f"/api/devices/{ACCOUNT}"):
            self.assertEqual((await self.ask(f"{path}?x=1")).status, 400)
        self.assertEqual((await self.ask("/api/calls/no-such-key")).status, 404)
        self.assertEqual((await self.ask("/api/calls", "POST")).status, 405)
        self.assertEqual((await self.ask("/api/calls", "POST")).header("Allow"), "GET, HEAD")
        self.assertEqual((await self.ask("/api/calls/", "GET")).status, 200)

    async def test_a_call_is_the_one_of_the_command(self) -> None:
        """GET calls/KEY and ``calls show --json`` are the same object."""
        await self.start()
        await self.phone(ANDROID_6)
        await self.call(0, "the-call")
        kept = await self.kept(call_id="the-call")
        call = await self.document(f"/api/calls/{kept['unique_key']}")
        arguments = ["calls", "show", "--json", "--config", "middlewared.ini", "the-call"]
        out, errors, code = await getProcessOutputAndValue(
            DEMO[0],
            [*DEMO[1:], *arguments],
            env={"PYTHONPATH": str(ROOT)},
            path=str(self.directory),
        )
        self.assertEqual((code, errors), (0, b""))
        self.assertEqual(json.loads(out), call)
        self.assertEqual(call["sip_user_id"], int(ACCOUNT))
        self.assertIn("The phone was woken", call["verdict"])

    async def test_a_device_and_its_events(self) -> None:
        """404 only when nothing is known; events outlive the device; tokens are fingerprints."""
        await self.start()
        path = f"/api/devices/{ACCOUNT}"
        self.assertEqual((await self.ask(path)).status, 404)
        phone = await self.phone(ANDROID_6, name="Åsa's")
        await self.call()
        found = await self.until_document(path, lambda found: found["last_answered"])
        self.assertEqual(
            {key: found["device"][key] for key in ("platform", "app", "token")},
            {
                "platform": "android",
                "app": "com.example.android",
                "token": fingerprint(phone.token),
            },
        )
        self.assertEqual(found["silent_streak"], 0)
        removed = await self.document(path, "DELETE")
        self.assertEqual(removed["removed"]["platform"], "android")
        self.assertEqual((await self.ask(path, "DELETE")).status, 404)
        found = await self.until_document(path, lambda found: len(found["events"]) == 2)
        self.assertIsNone(found["device"])
        events = [(event["event"], event["why"]) for event in found["events"]]
        self.assertEqual(events, [("removed", "operator"), ("registered", "")])
        self.assertEqual((await self.call()).outcome, "no-device")
        self.assertNotIn(phone.token, json.dumps(found))

    async def test_a_test_call(self) -> None:
        """It wakes the phone, and returns when it is over; it is kept as a call."""
        await self.start()
        await self.phone(IOS_6, reaction=Reaction(0.1))
        done = await self.document(f"/api/devices/{ACCOUNT}/test-call", "POST")
        self.assertEqual(done["outcome"], "answered")
        steps = [step["step"] for step in done["steps"]]
        self.assertEqual(steps, ["device", "sent", "push(accepted)", "answer"])
        call = await self.kept(unique_key=done["unique_key"])
        self.assertEqual((call["outcome"], call["phonenumber"]), ("answered", "anonymous"))
        for account in ("1", "x", "0400000001", "99999999999999999999"):
            path = f"/api/devices/{account}/test-call"
            self.assertEqual((await self.ask(path, "POST")).status, 404)

    async def test_overview(self) -> None:
        """The daemon, what it depends on, credentials, held calls, the figures of each app."""
        await self.start()
        await self.phone(IOS_6, reaction=Reaction(0.1))
        await self.call()
        phone = await self.phone(ANDROID_6, number=1, reaction=SILENT)
        await self.kept(outcome="answered")
        pushed = self.push_to(phone)
        held = self.call(1, "held-one")
        await pushed
        overview = await self.document("/api/overview")
        (daemon,) = overview["daemons"]
        self.assertEqual((daemon["health"], daemon["waiting"]), ("ok", 1))
        (waiting,) = daemon["held_calls"]
        self.assertEqual(waiting["sip_user_id"], phone.sip_user_id)
        self.assertEqual(waiting["call_id"], "held-one")
        self.assertEqual(overview["dependencies"]["database"], "up")
        expires = {each["platform"]: each["expires"] for each in overview["credentials"]}
        self.assertEqual(set(expires), {"apns", "android", "gcm"})
        self.assertTrue(expires["apns"])
        self.assertIsNone(expires["android"])
        apple = next(app for app in overview["apps"] if app["platform"] == "apns")
        self.assertEqual(apple["outcomes"], {"answered": 1})
        self.assertEqual(sum(each["calls"] for each in apple["wakeup_seconds"]), 1)
        self.assertEqual(overview["calls"][-1]["answered"], 1)
        self.assertGreater(overview["calls_per_second"], 0)
        self.assertEqual((await held).outcome, "timeout")

    async def test_the_description_is_true(self) -> None:
        """A generator drives the console by ``/api/openapi.json`` and checks each answer."""
        await self.start()
        await self.phone(ANDROID_6)
        await self.call()
        await self.kept(outcome="answered")
        with tempfile.TemporaryDirectory() as folder:
            out, errors, code = await getProcessOutputAndValue(
                str(SCHEMATHESIS),
                [
                    "run",
                    f"{self.admin}/api/openapi.json",
                    "--auth",
                    f"op:{PASSWORDS['op']}",
                    f"--header=Origin: {self.admin}",
                    f"--max-examples={EXAMPLES // 10}",
                    "--phases=examples,coverage,fuzzing",
                    "--exclude-checks=unsupported_method,positive_data_acceptance",
                    "--no-color",
                ],
                env={"HOME": folder, "PATH": str(SCHEMATHESIS.parent)},
                path=folder,
            )
        self.assertEqual(code, 0, (out + errors).decode()[-6000:])


class PageTests(ConsoleTestCase):
    """The pages, without a browser."""

    history = "numbers = all"

    async def found_at(self, text: str) -> str:
        """Where the search box leads."""
        answered = await self.ask(f"/?q={quote(text)}")
        self.assertEqual(answered.status, 303, text)
        return answered.header("Location")

    async def test_search_box(self) -> None:
        """An account, a key, a call_id and a number lead to what they name, or no call matches."""
        await self.start()
        await self.phone(ANDROID_6)
        await self.call(0, "call/id 1")
        key = (await self.kept(sip_user_id=ACCOUNT))["unique_key"]
        self.assertEqual(await self.found_at(ACCOUNT), f"/accounts/{ACCOUNT}")
        self.assertEqual(await self.found_at(f" {key} "), f"/calls/{key}")
        self.assertEqual(await self.found_at("call/id 1"), f"/calls/{key}")
        number = await self.ask("/?q=31501234567")
        self.assertIn(f"/calls/{key}", number.text)
        nothing = await self.ask("/?q=nothing%20here")
        self.assertIn("No kept call matches", nothing.text)
        home = (await self.ask("/")).text
        self.assertRegex(home, r'<form[^>]*action="/"[^>]*><input type="search" name="q"')
        self.assertEqual((await self.ask("/calls?outcome=sunny")).status, 400)

    async def test_account_and_call_pages(self) -> None:
        """What is known of both, with the verdict, the drawing and its text."""
        await self.start()
        await self.phone(ANDROID_6, reaction=Reaction(0.1))
        await self.call()
        call = await self.kept(sip_user_id=ACCOUNT)
        page = (await self.ask(f"/calls/{call['unique_key']}")).text
        for text in (
            *("The phone was woken and took the call", '<svg viewBox="0 0 360', 'role="img"'),
            *("push 1: accepted by Google", "the phone took the call", "Open it in the API"),
            f'href="/accounts/{ACCOUNT}"',
        ):
            self.assertIn(text, page)
        account = (await self.ask(f"/accounts/{ACCOUNT}")).text
        for text in (
            "com.example.android (android)",
            call["unique_key"],
            "registered",
            "Test call",
        ):
            self.assertIn(text, account)
        self.assertEqual((await self.ask("/accounts/nonsense")).status, 404)
        self.assertEqual((await self.ask("/calls/nonsense")).status, 404)
        self.assertIn("com.example.ios (apns)", (await self.ask("/apps")).text)

    async def test_hostile_texts(self) -> None:
        """Markup, control and bidi characters are visible escapes wherever a text is shown."""
        await self.start()
        await self.phone(ANDROID_6, name=HOSTILE + "x" * 100)
        call_id = HOSTILE + "y" * 200
        held = Deferred.fromCoroutine(
            self.post(
                f"{self.stage.url}/api/incoming-call/",
                sip_user_id=ACCOUNT,
                phonenumber="anonymous",
                caller_id=HOSTILE,
                call_id=call_id,
            )
        )
        await held
        call = await self.kept(sip_user_id=ACCOUNT)
        self.assertEqual((call["call_id"], call["caller_id"]), (call_id, HOSTILE))
        for path in (
            f"/calls/{call['unique_key']}",
            f"/accounts/{ACCOUNT}",
            f"/calls?q={quote(HOSTILE)}",
            f"/?q={quote(HOSTILE)}",
        ):
            page = (await self.ask(path)).text
            self.assertIn(SHOWN, page, path)
            self.assertNotIn("<img", page)
            self.assertEqual([one for one in page if not one.isprintable() and one != "\n"], [])

    async def test_test_call_by_form(self) -> None:
        """The form shows the call while it waits; without JavaScript the page comes again."""
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=SILENT)
        pushed = self.push_to(phone)
        answered = await self.ask(
            f"/accounts/{ACCOUNT}/test-call", "POST", headers={"Origin": self.admin}
        )
        self.assertEqual(answered.status, 303)
        path = answered.header("Location")
        await pushed
        page = (await self.ask(path)).text
        self.assertIn("waiting", page)
        self.assertIn("push 1: sent", page)
        self.assertIn('<noscript><meta http-equiv="refresh" content="3"></noscript>', page)
        await self.kept(unique_key=path.rpartition("/")[2])
        self.assertIn("did not answer within", (await self.ask(path)).text)

    async def test_removal_by_form(self) -> None:
        """It removes the device that the page showed, and no other."""
        await self.start()
        await self.phone(ANDROID_6)
        page = (await self.ask(f"/accounts/{ACCOUNT}")).text
        (token,) = re.findall('name="token" value="([0-9a-f]+)"', page)
        await self.phone(ANDROID_6, token="another:token")
        path, own = f"/accounts/{ACCOUNT}/remove", {"Origin": self.admin}
        for form in ({"token": token}, {"token": fingerprint("another:token")}):
            answered = await self.ask(path, "POST", form=form, headers=own)
            self.assertEqual(answered.status, 303)
            page = (await self.ask(f"/accounts/{ACCOUNT}")).text
            gone = "No phone is registered for this account" in page
            self.assertEqual(gone, form["token"] != token)
        self.assertEqual((await self.ask(path, "POST", headers=own)).status, 400)


class LiveTests(ConsoleTestCase):
    """Server-sent events."""

    async def stream(self, path: str, until: str) -> str:
        """What a stream sends, up to a text."""
        seen: Deferred[None] = Deferred()
        received: list[bytes] = []

        def collect(data: bytes) -> None:
            received.append(data)
            if until.encode() in b"".join(received) and not seen.called:
                seen.callback(None)

        user = ("op", PASSWORDS["op"])
        response = await self.client.get(f"{self.admin}{path}", auth=user, unbuffered=True)
        self.assertEqual(response.code, 200)
        (content_type,) = response.headers.getRawHeaders("content-type")
        self.assertEqual(content_type, "text/event-stream; charset=utf-8")
        reading = response.collect(collect)
        await seen
        reading.addErrback(lambda _: None)
        response.original._transport.loseConnection()
        return b"".join(received).decode()

    async def test_a_held_call_from_push_to_answer(self) -> None:
        """Its steps appear while it waits; when it is over and kept, the stream reports it."""
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=SILENT)
        pushed, key = self.push_to(phone), str(uuid.uuid4())
        held = self.call(0, key)
        await pushed
        self.assertIn(f"/calls/{key}", await self.stream("/live/overview", key))
        first = await self.stream(f"/live/calls/{key}", "push 1: accepted")
        self.assertIn("event: part\ndata: {", first)
        await phone.answer(phone.pushes[-1].data, available=True)
        await held
        await self.stream(f"/live/calls/{key}", "event: over")
        self.assertIn("took the call", (await self.ask(f"/calls/{key}")).text)

    async def test_an_account(self) -> None:
        """Its page follows registrations and calls."""
        await self.start()
        waiting = Deferred.fromCoroutine(
            self.stream(f"/live/accounts/{ACCOUNT}", "com.example.android (android)")
        )
        await self.phone(ANDROID_6)
        await waiting

    async def test_streams_are_bounded(self) -> None:
        """One more than the bound is refused; a page that is closed makes room."""
        await self.start()
        user = ("op", PASSWORDS["op"])
        url = f"{self.admin}/live/overview"
        opened = [await self.client.get(url, auth=user, unbuffered=True) for _ in range(MOST)]
        self.assertEqual((await self.ask("/live/overview")).status, 429)
        readers = [response.collect(lambda _: None) for response in opened]
        for reader in readers:
            reader.addErrback(lambda _: None)
        opened[0].original._transport.loseConnection()
        await self.stream_is_free()
        for response in opened[1:]:
            response.original._transport.loseConnection()

    async def stream_is_free(self) -> None:
        while True:
            response = await self.client.get(
                f"{self.admin}/live/overview", auth=("op", PASSWORDS["op"]), unbuffered=True
            )
            if response.code == 200:
                response.collect(lambda _: None).addErrback(lambda _: None)
                response.original._transport.loseConnection()
                return
            await response.text()

    async def test_the_daemon_stops_with_pages_open(self) -> None:
        """Open pages hold up no stop."""
        await self.start()
        user = ("op", PASSWORDS["op"])
        response = await self.client.get(f"{self.admin}/live/overview", auth=user, unbuffered=True)
        reading = response.collect(lambda _: None)
        self.assertEqual(await self.stage.daemon.stop(), 0)
        reading.addErrback(lambda _: None)


class NoHistoryTests(ConsoleTestCase):
    """``[history] days = 0``."""

    history = "days = 0"

    async def test_a_test_call_shows_its_outcome(self) -> None:
        """What is not kept is not found, but the outcome of a test call is shown."""
        await self.start()
        await self.phone(ANDROID_6)
        done = await self.document(f"/api/devices/{ACCOUNT}/test-call", "POST")
        page = (await self.ask(f"/calls/{done['unique_key']}")).text
        self.assertIn("answered", page)
        self.assertIn("No history is kept", page)
        self.assertEqual(await self.document("/api/calls"), {"calls": [], "next": None})
        self.assertEqual((await self.ask(f"/api/calls/{done['unique_key']}")).status, 404)
