"""
Apps that Kamailio wakes: its shipped configuration with evapi, the daemon, simulated Apple and
Google, and as phones real SIP user agents that know nothing of middlewared.

A phone was registered yesterday from another network; a push starts it, it registers where it
is now, and the call reaches it there. Usage: waking.py WORK_DIRECTORY
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

CHECKOUT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(CHECKOUT)]

from twisted.internet.defer import Deferred  # noqa: E402
from twisted.internet.task import deferLater, react  # noqa: E402
from twisted.internet.threads import deferToThread  # noqa: E402

from middlewared.demo.stage import ANDROID_APP, IOS_APP, Stage, free_port  # noqa: E402
from middlewared.simulator.accounts_server import basic  # noqa: E402
from middlewared.simulator.daemon_process import DaemonProcess  # noqa: E402
from middlewared.simulator.record import AnyPush  # noqa: E402
from tests.servers.redis import Redis  # noqa: E402

PROXY = "127.0.0.1"
YESTERDAY, TODAY, CALLERS = "127.0.0.2", "127.0.0.3", "127.0.0.4"
SIPP_PHONE, BARESIP, VIALER, NOBODY = 200_000_001, 200_000_002, 200_000_003, 200_000_009
TOKENS = {SIPP_PHONE: "a1" * 32, BARESIP: "b2" * 32}
SCENARIOS = CHECKOUT / "tests" / "operations"
NAME, NUMBER = "Smith & Sons, Zoë + Co; 100%", "+31501234567"
LONGEST_S = 30.0
CONNECTED = "connected to kamailio edge"


class Program:
    """A program with its output in a file."""

    def __init__(self, folder: Path, name: str, *command: str) -> None:
        self.name = name
        self._output = folder / f"{name}.log"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(errors="replace")

    @property
    def runs(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    async def ended(self) -> int:
        """Its exit code."""
        return int(await deferToThread(self._process.wait, LONGEST_S))

    def end(self) -> None:
        """End it, and wait."""
        if self.runs:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Site:
    """Everything that runs, and how phones and callers are started on it."""

    def __init__(self, reactor: Any, work: Path) -> None:
        self._reactor = reactor
        self._work = work
        self._programs: list[Program] = []
        self._numbers: dict[str, int] = {}
        self.pushes: list[AnyPush] = []
        self.wakes: dict[str, Callable[[AnyPush], None]] = {}
        self.sip, self.tls, self.evapi = (free_port() for _ in range(3))
        self.redis = Redis()
        self._daemons: list[DaemonProcess] = []
        self.stage = Stage(
            reactor=reactor,
            folder=work,
            listener=self._pushed,
            calls="roundtrip_wait_ms = 4000\nanswer_by_registration = yes\n",
            sections=f"[kamailio:edge]\nevapi = {PROXY}:{self.evapi}\n"
            f"[redis]\nnodes = 127.0.0.1:{self.redis.port}\n",
        )
        self.daemon = self.stage.daemon
        self._kamailio: Program | None = None

    async def start(self) -> None:
        """Start the stage and Kamailio, and wait until they are connected."""
        await self.stage.start()
        self.start_kamailio()
        await self.until(lambda: CONNECTED in self.stage.daemon.log)

    async def stop(self) -> None:
        """Stop everything."""
        for program in reversed(self._programs):
            program.end()
        for daemon in self._daemons:
            await daemon.stop()
        await self.stage.stop()
        self.redis.remove()

    async def start_daemon(self) -> DaemonProcess:
        """Another one, with the same Redis and database."""
        config = self._work / f"daemon-{len(self._daemons)}.ini"
        text = (self._work / "middlewared.ini").read_text()
        first, own = self.stage.url.rpartition(":")[2], free_port()
        config.write_text(text.replace(f"listen = tcp:{first}:", f"listen = tcp:{own}:"))
        daemon = DaemonProcess(reactor=self._reactor, config=config)
        self._daemons.append(daemon)
        await daemon.start()
        await self.until(lambda: CONNECTED in daemon.log)
        return daemon

    async def waiting(self, daemon: DaemonProcess) -> int:
        """How many calls wait at a daemon."""
        health = await deferToThread(lambda: urlopen(daemon.url("/health/")).read())
        return int(json.loads(health)["waiting"])

    def start_kamailio(self) -> None:
        """With the shipped files, in which only addresses are replaced."""
        folder = self._work / "kamailio"
        folder.mkdir(exist_ok=True)
        shutil.copy(CHECKOUT / "etc/kamailio/middlewared.cfg", folder)
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
                *("-subj", f"/CN={PROXY}", "-addext", f"subjectAltName=IP:{PROXY}"),
                *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
            ],
            check=True,
            capture_output=True,
        )
        evapi = f"{PROXY}:{self.evapi}"
        text = (CHECKOUT / "etc/kamailio/kamailio.cfg").read_text()
        for old, new in (
            ("10.0.0.6:5060", f"{PROXY}:{self.sip}"),
            ("10.0.0.6:5061", f"{PROXY}:{self.tls}"),
            ("/etc/kamailio/sip.example.com.key", str(folder / "key.pem")),
            ("/etc/kamailio/sip.example.com.pem", str(folder / "cert.pem")),
            ("#!define WITH_TLS", f'#!define WITH_TLS\n#!define MIDDLEWARED_EVAPI "{evapi}"'),
            ('##!define MIDDLEWARED_RINGBACK "180"', '#!define MIDDLEWARED_RINGBACK "180"'),
            ("log_stderror=no", "log_stderror=yes"),
        ):
            assert old in text, old
            text = text.replace(old, new)
        (folder / "kamailio.cfg").write_text(text)
        config = str(folder / "kamailio.cfg")
        self._kamailio = self.run("kamailio", "kamailio", "-DD", "-E", "-m", "64", "-f", config)

    def run(self, name: str, *command: str) -> Program:
        """Start a program."""
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        program = Program(self._work, f"{name}-{number}", *command)
        self._programs.append(program)
        return program

    async def until(self, met: Callable[[], object]) -> None:
        """Wait until ``met()`` is true."""
        give_up = time.monotonic() + LONGEST_S
        while not met():
            assert time.monotonic() < give_up, "it takes too long"
            assert self._kamailio is None or self._kamailio.runs, self._kamailio.output
            await deferLater(self._reactor, 0.02)

    def _pushed(self, push: AnyPush) -> None:
        self.pushes.append(push)
        wake = self.wakes.pop(push.token, None)
        if wake is not None:
            wake(push)

    def register(
        self, account: int, host: str, port: int, *, pn: bool = False, expires: int = 60
    ) -> None:
        """A phone registers: one REGISTER, from ``host``."""
        parameters = push_parameters(account) if pn else ""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
            phone.bind((host, 0))
            phone.settimeout(5)
            lines = (
                f"REGISTER sip:{PROXY}:{self.sip} SIP/2.0",
                f"Via: SIP/2.0/UDP {host}:{phone.getsockname()[1]};branch=z9hG4bK{time.time_ns()}",
                f"From: <sip:{account}@{PROXY}>;tag=phone",
                f"To: <sip:{account}@{PROXY}>",
                f"Call-ID: registration-{time.time_ns()}",
                "CSeq: 1 REGISTER",
                "Max-Forwards: 70",
                f"Contact: <sip:{account}@{host}:{port}{parameters}>;expires={expires}",
                "Content-Length: 0",
            )
            phone.sendto(("\r\n".join(lines) + "\r\n\r\n").encode(), (PROXY, self.sip))
            reply = phone.recv(4096)
            assert reply.startswith(b"SIP/2.0 200"), reply

    def sipp_phone(self, account: int) -> Program:
        """A SIPp that registers with its push parameters and takes a call."""
        scenario = (SCENARIOS / "woken.xml").read_text()
        path = self._work / f"woken-{account}.xml"
        path.write_text(scenario.replace("$PN", push_parameters(account)))
        return self.run(
            *("sipp-phone", "sipp", f"{PROXY}:{self.sip}", "-sf", str(path)),
            *("-oocsf", str(SCENARIOS / "phone.xml"), "-s", str(account), "-i", TODAY),
            *("-p", str(free_port()), "-m", "1", "-nostdin"),
        )

    def sipp_contact(self, host: str) -> tuple[Program, int]:
        """A SIPp that takes calls at a port, and does not register."""
        port = free_port()
        scenario = str(SCENARIOS / "phone.xml")
        phone = self.run(
            *("sipp-contact", "sipp", "-sf", scenario, "-i", host, "-p", str(port), "-nostdin")
        )
        return phone, port

    def baresip(self, account: int) -> Program:
        """A baresip that registers over TLS and takes any call."""
        folder = self._work / "baresip"
        folder.mkdir(exist_ok=True)
        (folder / "config").write_text(
            "module_path /usr/lib/baresip/modules\nmodule g711.so\nmodule_app account.so\n"
            f"module_app menu.so\nmodule ausine.so\nmodule aufile.so\nsip_listen {TODAY}:0\n"
            f"net_interface {TODAY}\naudio_source ausine,400\naudio_player aufile,{folder}/out\n"
        )
        (folder / "accounts").write_text(
            f"<sip:{account}@{PROXY}:{self.tls};transport=tls>;regint=60;answermode=auto;auth_pass=\n"
        )
        (folder / "contacts").write_text("")
        return self.run("baresip", "baresip", "-f", str(folder), "-t", "25")

    def caller(self, scenario: str, account: int) -> Program:
        """A SIPp that calls."""
        return self.run(
            *("caller", "sipp", f"{PROXY}:{self.sip}", "-i", CALLERS, "-p", str(free_port())),
            *("-sf", str(SCENARIOS / f"{scenario}.xml"), "-s", str(account), "-m", "1"),
            *("-cid_str", f"{scenario}-{time.time_ns()}@%s", "-timeout", "20", "-timeout_error"),
            *("-nostdin", "-default_behaviors", "all,-abortunexp"),
        )

    async def call(self, scenario: str, account: int) -> None:
        """Place a call that must end as its scenario expects."""
        caller = self.caller(scenario, account)
        code = await caller.ended()
        assert code == 0, f"{scenario} to {account}: {caller.name} ended with {code}"

    async def respond(
        self, push: AnyPush, *, available: bool, at: DaemonProcess | None = None
    ) -> int:
        """A Vialer app answers, at one of the daemons; the status."""
        return await deferToThread(
            post,
            (at or self.daemon).url("/api/call-response/"),
            unique_key=push.data["unique_key"],
            message_start_time=str(push.data["message_start_time"]),
            available=str(available),
        )

    def pushed_to(self, token: str) -> Deferred[AnyPush]:
        """The next push to ``token``."""
        pushed: Deferred[AnyPush] = Deferred()
        self.wakes[token] = pushed.callback
        return pushed


def push_parameters(account: int) -> str:
    """Those of a contact of an iOS app (RFC 8599)."""
    return f";pn-provider=apns;pn-param=TEAM123456.{IOS_APP}.voip;pn-prid={TOKENS[account]}"


def post(url: str, authorization: str = "", **fields: str) -> int:
    """POST a form; the status."""
    headers = {"Authorization": authorization} if authorization else {}
    try:
        with urlopen(Request(url, urlencode(fields).encode(), headers)) as reply:
            return int(reply.status)
    except HTTPError as error:
        return int(error.code)


async def wakes_a_phone_elsewhere(site: Site) -> None:
    """Registered yesterday with its push parameters; woken, it registers from another address."""
    for account in (SIPP_PHONE, BARESIP):
        site.register(account, YESTERDAY, free_port(), pn=True)
    await sleep_in(site)
    phones: list[Program] = []
    site.wakes[TOKENS[SIPP_PHONE]] = lambda _: phones.append(site.sipp_phone(SIPP_PHONE))
    await site.call("caller", SIPP_PHONE)
    phones[0].end()
    data = site.pushes[-1].data
    assert (data["caller_id"], data["phonenumber"]) == (NAME, NUMBER), data


async def wakes_baresip_over_tls(site: Site) -> None:
    """Another kind of user agent, over another transport."""
    phones: list[Program] = []
    site.wakes[TOKENS[BARESIP]] = lambda _: phones.append(site.baresip(BARESIP))
    await site.call("caller", BARESIP)
    phones[0].end()


async def calls_an_awake_phone_at_once(site: Site) -> None:
    """It registered a moment ago: no push. One that does not respond is woken after all."""
    phone, port = site.sipp_contact(TODAY)
    site.register(SIPP_PHONE, TODAY, port)
    before = len(site.pushes)
    await site.call("caller", SIPP_PHONE)
    assert len(site.pushes) == before, "an awake phone was woken"
    phone.end()
    site.register(SIPP_PHONE, YESTERDAY, free_port())
    phones: list[Program] = []
    site.wakes[TOKENS[SIPP_PHONE]] = lambda _: phones.append(site.sipp_phone(SIPP_PHONE))
    await site.call("caller", SIPP_PHONE)
    phones[0].end()


async def vialer_app_beside_it(site: Site) -> None:
    """It registers at the daemon and answers there, yes or no; its caller hears ringing."""
    status = await deferToThread(
        post,
        site.daemon.url("/api/android-device/"),
        basic(str(VIALER), "secret"),
        sip_user_id=str(VIALER),
        token="vialer",
        app=ANDROID_APP,
    )
    assert status == 201, status
    phone, port = site.sipp_contact(TODAY)
    site.register(VIALER, TODAY, port)
    await sleep_in(site)
    pushed = site.pushed_to("vialer")
    caller = site.caller("caller", VIALER)
    assert await site.respond(await pushed, available=True) == 202
    assert await caller.ended() == 0, "the call did not reach the app"
    pushed = site.pushed_to("vialer")
    caller = site.caller("busy", VIALER)
    assert await site.respond(await pushed, available=False) == 202
    assert await caller.ended() == 0, "a refusal is not 486"
    phone.end()


async def caller_hangs_up(site: Site) -> None:
    """While the phone wakes: its answer is 404, and nothing rings."""
    pushed = site.pushed_to("vialer")
    caller = site.caller("cancelled", VIALER)
    push = await pushed
    assert await caller.ended() == 0, "the caller could not hang up"
    await site.until(lambda: "call cancelled " in site.daemon.log)
    assert await site.respond(push, available=True) == 404


async def refuses_an_account_without_an_app(site: Site) -> None:
    """At once."""
    await site.call("refused", NOBODY)


async def a_phone_leaves(site: Site) -> None:
    """Its last REGISTER removes its contact, and its device with it."""
    site.register(SIPP_PHONE, TODAY, free_port(), pn=True, expires=0)
    before = len(site.pushes)
    await site.call("refused", SIPP_PHONE)
    assert len(site.pushes) == before, "a phone that has left was woken"


async def another_daemon_takes_over(site: Site) -> None:
    """Two daemons at one Kamailio: the one that holds a call is killed, the other goes on."""
    phone, port = site.sipp_contact(TODAY)
    site.register(VIALER, TODAY, port)
    another = await site.start_daemon()
    await sleep_in(site)
    pushed = site.pushed_to("vialer")
    caller = site.caller("caller", VIALER)
    push = await pushed
    holder, other = site.daemon, another
    if await site.waiting(another):
        holder, other = other, holder
    assert (await site.waiting(holder), await site.waiting(other)) == (1, 0)
    holder.signal(signal.SIGKILL)
    await holder.exited()
    assert await site.respond(push, available=True, at=other) == 202
    assert await caller.ended() == 0, "the call was lost with its daemon"
    site.daemon = other
    phone.end()


async def goes_on_without_the_daemon(site: Site) -> None:
    """
    It is killed while a call waits: that call, and those after it, go to the contact as it is.

    When the daemon is back, phones are woken again.
    """
    phone, port = site.sipp_contact(TODAY)
    site.register(VIALER, TODAY, port)
    await sleep_in(site)
    pushed = site.pushed_to("vialer")
    caller = site.caller("caller", VIALER)
    await pushed
    began_at = time.monotonic()
    site.daemon.signal(signal.SIGKILL)
    assert await caller.ended() == 0, "the call that waited was lost"
    assert time.monotonic() - began_at < 3, "the call that waited went on waiting"
    await site.daemon.exited()
    await site.call("caller", VIALER)
    site.daemon = await site.start_daemon()
    pushed = site.pushed_to("vialer")
    caller = site.caller("caller", VIALER)
    assert await site.respond(await pushed, available=True) == 202
    assert await caller.ended() == 0, "the daemon that came back is not asked"
    phone.end()


async def sleep_in(site: Site) -> None:
    """Until phones that registered a moment ago are no longer taken for awake."""
    await deferLater(site._reactor, 6.1)


SCENES = (
    wakes_a_phone_elsewhere,
    wakes_baresip_over_tls,
    calls_an_awake_phone_at_once,
    vialer_app_beside_it,
    caller_hangs_up,
    refuses_an_account_without_an_app,
    a_phone_leaves,
    another_daemon_takes_over,
    goes_on_without_the_daemon,
)


async def play(reactor: Any, work: Path) -> None:
    """All scenes."""
    os.environ["PATH"] += ":/usr/sbin"
    site = Site(reactor, work)
    try:
        await site.start()
        for scene in SCENES:
            await scene(site)
            sys.stdout.write(f"{scene.__name__}\n")
    except BaseException:
        sys.stdout.write(site.daemon.log)
        raise
    finally:
        await site.stop()


def main(reactor: Any) -> Deferred[None]:
    """Called by Twisted."""
    work = Path(sys.argv[1]).absolute() / f"waking-{time.time_ns()}"
    work.mkdir(parents=True)
    return Deferred.fromCoroutine(play(reactor, work))


if __name__ == "__main__":
    react(main)
