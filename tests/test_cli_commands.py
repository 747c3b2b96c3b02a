"""The commands beside the daemon, run as an operator runs them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue

from middlewared.demo.stage import free_port
from middlewared.simulator.certificates import Authority, write_provider_key
from middlewared.simulator.google_server import GoogleServer
from middlewared.simulator.record import GooglePush
from tests.daemons import PORTS, DaemonTestCase

MAIN = ["-c", "import sys; from middlewared.cli.main import main; sys.exit(main())"]
ROOT = Path(__file__).parent.parent
TOKEN = "a-push-token-that-no-one-may-see"
CSV = "sip_user_id,platform,app,token,last_seen\n"


@attrs.frozen
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


class CommandTestCase(DaemonTestCase):
    """Runs ``middlewared`` in a process of its own."""

    async def command(self, *arguments: object, environ: Mapping[str, str] | None = None) -> Ran:
        """Run a command, with more variables in its environment."""
        out, err, code = await getProcessOutputAndValue(
            sys.executable,
            [*MAIN, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
            path=str(self.directory),
            reactor=self.spawner,
        )
        self.assertNotIn("Traceback", err.decode())
        return Ran(code, out.decode(), err.decode())


CLEAR = "[redis]\nnodes = 0.0.0.0:1\npassword = geheim\n"  # refused at once, and no loopback


class CheckTests(CommandTestCase):
    """``middlewared check``."""

    async def test_warnings_leave_the_exit_code_0(self) -> None:
        """A password without TLS, which a start logs too."""
        path = self.write_config(CLEAR)
        ran = await self.command("check", "--config", path)
        warned = (
            f"{path}: [redis] tls: the password goes over the network in clear text; set tls = yes"
        )
        self.assertEqual(ran, Ran(0, f"warning: {warned}\n", ""))
        daemon = await self.start_daemon(PORTS + CLEAR)
        self.assertIn(warned, daemon.log)
        self.assertNotIn("geheim", daemon.log)


class PushTests(CommandTestCase):
    """``middlewared push`` places a call as a PBX does, and prints the outcome."""

    available: str | None = "true"

    def setUp(self) -> None:
        super().setUp()
        self.answers: list[Deferred[object]] = []
        self.google = GoogleServer(reactor=reactor, api_keys=["key"], listener=self._pushed)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.google.stop()))

    def _pushed(self, push: GooglePush) -> None:
        if self.available is None:
            return
        answer = self.post(
            self.url,
            unique_key=str(push.data["unique_key"]),
            message_start_time=str(push.data["message_start_time"]),
            available=self.available,
        )
        self.answers.append(Deferred.fromCoroutine(answer))

    async def start(self, listen: str, extra: str = "") -> None:
        """A daemon with one phone registered; its phones answer at a port of their own."""
        await self.google.start()
        await self.start_daemon(
            f"[http]\nlisten =\n  {listen}\n  tcp:0:interface=127.0.0.1\n{extra}"
            "[metrics]\nlisten =\n[accounts]\nbackend = open\n[calls]\nroundtrip_wait_ms = 1500\n"
            f"[app:com.example:gcm]\napi_key = key\nurl = {self.google.url}/gcm/send\n"
            "resend = never\n"
        )

    async def register(self, url: str, **more: str) -> None:
        """Register the phone through the daemon's last address."""
        self.url = f"{url}/api/call-response/"
        registered = await self.post(
            f"{url}/api/gcm-device/",
            sip_user_id="123456789",
            token=TOKEN,
            app="com.example",
            **more,
        )
        self.assertEqual(registered.status, 201)

    async def push(self, *more: str) -> Ran:
        """Run the command."""
        return await self.command("push", "--config", "middlewared.ini", *more, "123456789")

    async def answered_over(self, listen: str, more: str = "") -> None:
        port = free_port()
        await self.start(listen, f"  tcp:{port}:interface=127.0.0.1\n{more}")
        await self.register(f"http://127.0.0.1:{port}")
        ran = await self.push()
        self.assertEqual((ran.code, ran.err), (0, ""), ran.out)
        self.assertTrue(ran.out.startswith("answered: "), ran.out)
        for step in ("device ", "push (accepted) ", "answer ", "total "):
            self.assertRegex(ran.out, rf"(?m)^{step.replace('(', '.').replace(')', '.')} *\d.* ms$")

    async def test_answered_over_tcp(self) -> None:
        """The outcome and each step's time are printed; exit code 0."""
        await self.answered_over(f"tcp:{free_port()}")

    async def test_answered_over_ipv6(self) -> None:
        """The daemon is reached at the interface it listens at."""
        await self.answered_over(f"tcp6:{free_port()}:interface=\\:\\:1")

    async def test_answered_over_unix(self) -> None:
        """A unix socket's peers place calls when pbx_networks names them."""
        folder = tempfile.mkdtemp()  # the path of a socket has at most 107 bytes
        self.addCleanup(shutil.rmtree, folder)
        await self.answered_over(f"unix:{folder}/http.sock", "pbx_networks = unix\n")

    async def test_answered_over_tls(self) -> None:
        """The daemon's certificate is not for the address it is reached at here."""
        pem = Authority(folder=self.directory).server(hosts=["push.example.com"])
        await self.answered_over(f"ssl:{free_port()}:privateKey={pem.name}:certKey={pem.name}")

    async def test_unavailable_is_an_answer(self) -> None:
        """Exit code 0 when the phone answered either way."""
        self.available = "false"
        port = free_port()
        await self.start(f"tcp:{port}")
        await self.register(f"http://127.0.0.1:{port}")
        ran = await self.push()
        self.assertEqual(ran.code, 0)
        self.assertIn("unavailable: ", ran.out)

    async def test_silent_phone(self) -> None:
        """Exit code 1 when no answer came."""
        self.available = None
        port = free_port()
        await self.start(f"tcp:{port}")
        await self.register(f"http://127.0.0.1:{port}")
        ran = await self.push()
        self.assertEqual(ran.code, 1)
        self.assertIn("timeout: ", ran.out)

    async def test_no_device(self) -> None:
        """Exit code 1, and the reason in words, which do-not-disturb has of its own."""
        port = free_port()
        await self.start(f"tcp:{port}")
        ran = await self.push()
        self.assertEqual(ran.code, 1)
        self.assertIn("no-device: no device is registered", ran.out)
        self.assertIn("device (not-registered) ", ran.out)
        await self.register(f"http://127.0.0.1:{port}", dnd="true")
        ran = await self.push()
        self.assertEqual(ran.code, 1)
        self.assertIn("no-device: the account's device is set to do not disturb", ran.out)

    async def test_host_outside_pbx_networks(self) -> None:
        """A refusal names the key that decides."""
        await self.start(f"tcp:{free_port()}", "pbx_networks = 192.0.2.0/24\n")
        ran = await self.push()
        self.assertEqual(ran.code, 1)
        self.assertIn("this host is not in [http] pbx_networks", ran.out)

    async def test_pbx_with_a_password(self) -> None:
        """Its credentials are sent; the one that may be anywhere is preferred."""
        port = free_port()
        sections = "[pbx:a]\nnetworks = 192.0.2.0/24\npassword = x\n[pbx:b]\npassword = geheim\n"
        await self.start(f"tcp:{port}", sections)
        await self.register(f"http://127.0.0.1:{port}")
        self.assertEqual((await self.push()).code, 0)

    async def test_pbx_listen_is_where_calls_go(self) -> None:
        """With pbx_listen the public listener has no incoming-call, and push finds the other."""
        port, pbx = free_port(), free_port()
        await self.start(f"tcp:{port}", f"pbx_listen = tcp:{pbx}:interface=127.0.0.1\n")
        public = await self.post(f"http://127.0.0.1:{port}/api/incoming-call/", sip_user_id="1")
        self.assertEqual((public.status, public.text), (404, "status=NAK"))
        await self.register(f"http://127.0.0.1:{port}")
        other = await self.post(f"http://127.0.0.1:{pbx}/api/check-in/", sip_user_id="1")
        self.assertEqual(other.status, 404)
        self.assertEqual((await self.push()).code, 0)
        refused = await self.push("--url", f"http://127.0.0.1:{port}")
        self.assertEqual(refused.code, 1)
        self.assertIn("answered 404: no calls are taken there", refused.err)

    async def test_no_daemon(self) -> None:
        """The address is named when no daemon listens there."""
        port = free_port()
        self.write_config(f"[http]\nlisten = tcp:{port}:interface=127.0.0.1\n")
        ran = await self.push()
        self.assertEqual(ran.code, 1)
        self.assertIn(f"no daemon answers at tcp:{port}:interface=127.0.0.1", ran.err)
        self.assertIn("refused", ran.err)

    async def test_unknown_address(self) -> None:
        """Where systemd passes the socket, the URL must be given."""
        self.write_config("[http]\nlisten = systemd:domain=INET:index=0\n")
        ran = await self.push()
        self.assertEqual(ran.code, 1)
        self.assertIn("[http] listen: has no address to connect to", ran.err)


class DeviceTests(CommandTestCase):
    """``middlewared devices`` and ``import-devices`` on an SQLite registry."""

    def setUp(self) -> None:
        super().setUp()
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        key = write_provider_key(folder)
        self.config = self.write_config(
            f"[app:com.example.ios:apns]\nkey_file = {key.path}\nkey_id = {key.key_id}\n"
            f"team_id = {key.team_id}\n[app:com.example.android:android]\napi_key = k\n"
        )

    async def imported(self, *rows: str) -> Ran:
        """Import devices."""
        export = self.directory / "export.csv"
        export.write_text(CSV + "".join(f"{row}\n" for row in rows))
        return await self.command("import-devices", "-c", self.config, export.name)

    async def two(self) -> None:
        ran = await self.imported(
            f"123456789,apns,com.example.ios,{TOKEN},2024-05-01 10:00:00+00",
            f"123456790,android,com.example.android,{TOKEN}2,2024-05-02 10:00:00+00",
        )
        self.assertEqual((ran.code, ran.err), (0, ""))
        self.assertIn("2 stored, 0 newer here and kept, 0 refused", ran.out)

    async def devices(self, *arguments: object) -> Ran:
        name, *more = arguments
        ran = await self.command("devices", name, "-c", self.config, *more)
        self.assertNotIn(TOKEN, ran.out + ran.err)
        return ran

    async def test_list(self) -> None:
        """A line for each device, in order, tokens as fingerprints."""
        await self.two()
        ran = await self.devices("list")
        self.assertEqual(ran.code, 0)
        head, first, second = ran.out.splitlines()
        self.assertTrue(head.startswith("sip_user_id "))
        self.assertRegex(first, r"^123456789 +apns +com.example.ios +[0-9a-f]{8} +2024-05-01T10")
        self.assertTrue(second.startswith("123456790 "))

    async def test_list_as_json(self) -> None:
        """One JSON object a line."""
        await self.two()
        ran = await self.devices("list", "--json")
        devices = [json.loads(line) for line in ran.out.splitlines()]
        self.assertEqual([d["sip_user_id"] for d in devices], [123456789, 123456790])
        self.assertEqual(devices[0]["last_seen"], "2024-05-01T10:00:00+00:00")

    async def test_show(self) -> None:
        """All that is known of one device; exit code 1 when there is none."""
        await self.two()
        ran = await self.devices("show", 123456789)
        self.assertEqual(ran.code, 0)
        self.assertIn("app: com.example.ios\n", ran.out)
        shown = json.loads((await self.devices("show", "--json", 123456789)).out)
        self.assertIs(shown["sandbox"], False)
        missing = await self.devices("show", 1)
        self.assertEqual((missing.code, missing.out), (1, ""))
        self.assertEqual(missing.err, "1 has no device\n")

    async def test_delete(self) -> None:
        """The device is gone; a second time there is none."""
        await self.two()
        ran = await self.devices("delete", 123456789)
        self.assertEqual(ran.code, 0)
        self.assertTrue(ran.out.startswith("deleted 123456789 "))
        self.assertEqual((await self.devices("delete", 123456789)).code, 1)
        self.assertEqual((await self.devices("show", 123456790)).code, 0)

    async def test_no_database(self) -> None:
        """A read does not create a database."""
        ran = await self.devices("list")
        self.assertEqual(ran.code, 1)
        self.assertIn("does not exist", ran.err)
        self.assertEqual([path.name for path in self.directory.iterdir()], [self.config.name])

    async def test_import_names_refused_lines(self) -> None:
        """The good lines are stored; each other is named with its number; exit code 1."""
        ran = await self.imported(
            f"123456789,apns,com.example.ios,{TOKEN},",
            f"twelve,apns,com.example.ios,{TOKEN},",
        )
        self.assertEqual(ran.code, 1)
        self.assertEqual(ran.err, "export.csv: line 3: sip_user_id is not a number\n")
        self.assertIn("1 stored, 0 newer here and kept, 1 refused", ran.out)

    async def test_import_refuses_what_no_call_can_reach(self) -> None:
        """Accounts outside the configured range, and apps without a section."""
        ran = await self.imported(
            f"1234,apns,com.example.ios,{TOKEN},",
            f"123456789,apns,com.example.android,{TOKEN},",
            f"123456790,android,com.example.android,{TOKEN},",
        )
        self.assertEqual(
            (ran.code, ran.err.splitlines()),
            (
                1,
                [
                    "export.csv: line 2: sip_user_id is not between [accounts] sip_user_id_min"
                    " and sip_user_id_max",
                    "export.csv: line 3: there is no section [app:com.example.android:apns]",
                ],
            ),
        )
        self.assertIn("1 stored, 0 newer here and kept, 2 refused", ran.out)

    async def test_import_may_be_repeated(self) -> None:
        """The second import finds all as it is."""
        await self.two()
        again = await self.imported(
            f"123456789,apns,com.example.ios,{TOKEN},2024-05-01 10:00:00+00",
        )
        self.assertIn("0 stored, 1 newer here and kept, 0 refused", again.out)

    async def test_import_of_a_missing_file(self) -> None:
        """The file is named."""
        ran = await self.command("import-devices", "-c", self.config, "nowhere.csv")
        self.assertEqual((ran.code, ran.err), (1, "nowhere.csv: No such file or directory\n"))
