"""
Calls through the real Kamailio with the shipped files: many that wait, and how fast they go on.

    python bench/kamailio.py                         # over evapi: 2,000 INVITEs at 200/s
    python bench/kamailio.py --calls 200 --rate 50   # a small one
    python bench/kamailio.py --http 2000             # over HTTP with so many workers

Needs Debian's kamailio packages (docs/kamailio.md). Caller, phones, Apple and the other peers
are this process, the daemon and Kamailio their own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode
from urllib.request import urlopen

CHECKOUT = Path(__file__).parent.parent
sys.path[:0] = [str(CHECKOUT)]

from twisted.internet.defer import Deferred  # noqa: E402
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol  # noqa: E402
from twisted.internet.protocol import DatagramProtocol, Protocol  # noqa: E402
from twisted.internet.task import deferLater, react  # noqa: E402
from twisted.internet.threads import deferToThread  # noqa: E402

from middlewared.clock import measure_monotonically  # noqa: E402
from middlewared.demo.stage import IOS_APP, Stage, free_port  # noqa: E402
from middlewared.simulator.record import AnyPush  # noqa: E402

PROXY, PHONES, CALLERS = "127.0.0.1", "127.0.0.3", "127.0.0.4"
FIRST = 200_000_000
AWAKE_S = 6.2
SINGLE_CALLS = 100
CANCEL_DELAYS_S = (0.005, 0.01, 0.02, 0.05)


class SipSocket(DatagramProtocol):
    """Sends messages to the proxy, and notes when each kind of answer came."""

    def __init__(self, host: str, proxy: int) -> None:
        self.host = host
        self._proxy = proxy
        self.first: dict[tuple[str, str], float] = {}
        self.requests: dict[str, float] = {}
        self.waiters: dict[tuple[str, str], Deferred[float]] = {}

    @property
    def port(self) -> int:
        """Our port."""
        return int(cast(Any, self.transport).getHost().port)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Called by Twisted."""
        now = time.monotonic()
        lines = datagram.decode().split("\r\n")
        call = header(lines, "call-id")
        if lines[0].startswith("SIP/2.0 "):
            status = lines[0][8:11]
            self._note(call, status, now)
            if status >= "200" and "INVITE" in header(lines, "cseq"):
                self._note(call, "final", now)
                self._acknowledge(lines, call)
        elif lines[0].startswith("INVITE "):
            self._note(call, "INVITE", now)
            self._refuse(lines)

    def _note(self, call: str, what: str, now: float) -> None:
        self.first.setdefault((call, what), now)
        waiter = self.waiters.pop((call, what), None)
        if waiter is not None:
            waiter.callback(now)

    def when(self, call: str, what: str) -> Deferred[float]:
        """When ``what`` comes for the first time: a status, final, or INVITE."""
        waiter: Deferred[float] = Deferred()
        if (call, what) in self.first:
            waiter.callback(self.first[call, what])
        else:
            self.waiters[call, what] = waiter
        return waiter

    def _acknowledge(self, lines: list[str], call: str) -> None:
        account = call.partition("-")[0]
        self.send("ACK", account, call, to=header(lines, "to"))

    def _refuse(self, lines: list[str]) -> None:
        same = ("via:", "from:", "to:", "call-id:", "cseq:", "record-route:")
        copied = [line for line in lines if line.lower().startswith(same)]
        self._write(["SIP/2.0 486 Busy Here", *copied])

    def send(
        self, method: str, account: str, call: str, *, to: str = "", contact: str = ""
    ) -> float:
        """Send a request; when."""
        own = f"{self.host}:{self.port}"
        caller = account if method == "REGISTER" else "+31501234567"
        target = f"sip:{PROXY}:{self._proxy}" if method == "REGISTER" else aor(account, self._proxy)
        cseq = "INVITE" if method == "CANCEL" else method
        lines = [
            f"{method} {target} SIP/2.0",
            f"Via: SIP/2.0/UDP {own};branch=z9hG4bK{call}",
            f'From: "Smith & Sons" <sip:{caller}@{PROXY}>;tag=1',
            f"To: {to or f'<{aor(account, self._proxy)}>'}",
            f"Call-ID: {call}",
            f"CSeq: 1 {method if method in ('ACK', 'CANCEL') else cseq}",
            "Max-Forwards: 70",
            f"Contact: {contact or f'<sip:caller@{own}>'}",
        ]
        self._write(lines)
        return time.monotonic()

    def _write(self, lines: list[str]) -> None:
        data = "\r\n".join([*lines, "Content-Length: 0", "", ""]).encode()
        cast(Any, self.transport).write(data, (PROXY, self._proxy))


def header(lines: Iterable[str], name: str) -> str:
    """The first header of a name."""
    prefix = f"{name}:"
    return next(
        (each[len(prefix) :].strip() for each in lines if each.lower().startswith(prefix)), ""
    )


def aor(account: str, port: int) -> str:
    """An account's address."""
    return f"sip:{account}@{PROXY}:{port}"


class AppConnection(Protocol):
    """A kept HTTP connection; what an HTTP client library takes is no part of the figures."""

    def connectionMade(self) -> None:
        """Called by Twisted."""
        self._received = b""
        self._waiter: Deferred[int] = Deferred()
        cast(Any, self.transport).setTcpNoDelay(True)

    def post(self, path: str, form: bytes) -> Deferred[int]:
        """POST; the status. One at a time."""
        self._waiter = Deferred()
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(form)}\r\n"
        content_type = "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        cast(Any, self.transport).write((head + content_type).encode() + form)
        return self._waiter

    def dataReceived(self, data: bytes) -> None:
        """Called by Twisted."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = int(header(head.decode().split("\r\n"), "content-length") or 0)
        if end and len(body) >= length:
            self._received = b""
            self._waiter.callback(int(head[9:12]))


class Bench:
    """The site and its measurements."""

    def __init__(self, reactor: Any, options: argparse.Namespace, folder: Path) -> None:
        self._reactor = reactor
        self._options = options
        self._folder = folder
        self._sip, self._evapi = free_port(), free_port()
        self._waits_s = options.calls / options.rate + 5
        self._pushed: dict[str, Deferred[AnyPush]] = {}
        self._kamailio: subprocess.Popen[bytes] | None = None
        self._serial = 0
        self._calls = (
            f"roundtrip_wait_ms = {round(self._waits_s * 1000)}\n"
            f"resend_interval_ms = {round(self._waits_s * 1000)}\nanswer_by_registration = yes\n"
        )
        section = "" if options.http else f"[kamailio:edge]\nevapi = {PROXY}:{self._evapi}\n"
        self._stage = Stage(
            reactor=reactor,
            folder=folder,
            listener=self._push,
            calls=self._calls,
            sections=section,
        )
        self._caller = SipSocket(CALLERS, self._sip)
        self._phone = SipSocket(PHONES, self._sip)
        self._app = AppConnection()

    async def run(self) -> None:
        """Everything, and the table."""
        try:
            await self._stage.start()
            self._start_kamailio()
            for each in (self._caller, self._phone):
                self._reactor.listenUDP(0, each, interface=each.host, maxPacketSize=65_535)
            await self._until_up()
            await self._register_all()
            await self._flood()
            port = int(self._stage.url.rpartition(":")[2])
            endpoint: Any = TCP4ClientEndpoint(self._reactor, PROXY, port)
            await connectProtocol(endpoint, self._app)
            await self._answers()
            await self._registrations()
            if not self._options.http:
                await self._cancellations()
        finally:
            if self._kamailio is not None:
                self._kamailio.terminate()
                self._kamailio.wait()
            await self._stage.stop()

    def _start_kamailio(self) -> None:
        shutil.copy(CHECKOUT / "etc/kamailio/middlewared.cfg", self._folder)
        wait_ms = round(self._waits_s * 1000) + 4000
        defines = [f"#!define MIDDLEWARED_WAIT_MS {wait_ms}"]
        workers = self._options.http
        if workers:
            defines += [f'#!define MIDDLEWARED_HTTP "{self._stage.url}"']
            defines += [f"#!define MIDDLEWARED_WORKERS {workers}"]
        else:
            defines += [f'#!define MIDDLEWARED_EVAPI "{PROXY}:{self._evapi}"']
        text = (CHECKOUT / "etc/kamailio/kamailio.cfg").read_text()
        text = text.replace("10.0.0.6:5060", f"{PROXY}:{self._sip}")
        text = text.replace("#!define WITH_TLS", "\n".join(defines))
        text = text.replace("async_workers=64", f"async_workers={workers}")
        (self._folder / "kamailio.cfg").write_text(text)
        include = self._folder / "middlewared.cfg"
        shipped = include.read_text()
        shipped = shipped.replace(
            '"connection_timeout", 8)', f'"connection_timeout", {wait_ms // 1000})'
        )
        include.write_text(shipped.replace("t_set_fr(0, 12000)", f"t_set_fr(0, {wait_ms + 4000})"))
        command = ["kamailio", "-DD", "-E", "-m", "128", "-f", str(self._folder / "kamailio.cfg")]
        with (self._folder / "kamailio.log").open("wb") as log:
            self._kamailio = subprocess.Popen(command, stdout=log, stderr=log)

    async def _until_up(self) -> None:
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            call = self._new_call(str(FIRST))
            self._phone.send("REGISTER", str(FIRST), call)
            await deferLater(self._reactor, 0.5)
            connected = self._options.http or "connected to kamailio" in self._stage.daemon.log
            if (call, "200") in self._phone.first and connected:
                return
        raise SystemExit("Kamailio does not start: " + (self._folder / "kamailio.log").read_text())

    async def _register_all(self) -> None:
        """All phones, with their push parameters, until they sleep again."""
        count = self._options.calls + 3 * SINGLE_CALLS
        pending = {str(FIRST + 1 + number) for number in range(count)}
        while pending:
            calls = {account: self._new_call(account) for account in pending}
            for account, call in calls.items():
                self._phone.send("REGISTER", account, call, contact=self._contact(account))
                await deferLater(self._reactor, 0.003)
            await deferLater(self._reactor, 0.5)
            pending = {a for a, call in calls.items() if (call, "200") not in self._phone.first}
        await deferLater(self._reactor, AWAKE_S)
        self._accounts = (str(FIRST + 1 + number) for number in range(count))

    def _contact(self, account: str) -> str:
        pn = f";pn-provider=apns;pn-param=TEAM123456.{IOS_APP}.voip;pn-prid={int(account):064x}"
        return f"<sip:{account}@{PHONES}:{self._phone.port}{pn}>;expires=600"

    async def _flood(self) -> None:
        """Calls to silent phones that all wait at once, and registrations beside them."""
        placed: dict[str, float] = {}
        registered: dict[str, float] = {}
        began_at = time.monotonic()
        while len(placed) < self._options.calls:
            due = round((time.monotonic() - began_at) * self._options.rate) + 1
            while len(placed) < min(due, self._options.calls):
                account = next(self._accounts)
                call = self._new_call(account)
                placed[call] = self._caller.send("INVITE", account, call)
                if len(placed) % 4 == 0:
                    other = str(FIRST + 50_000_000 + len(placed))
                    call = self._new_call(other)
                    registered[call] = self._phone.send("REGISTER", other, call)
            await deferLater(self._reactor, 0.002)
        await deferLater(self._reactor, 1.0)
        health = await deferToThread(lambda: urlopen(f"{self._stage.url}/health/").read())
        waiting = json.loads(health)["waiting"]
        memory = proportional_memory_mib(cast(Any, self._kamailio).pid)
        await deferLater(self._reactor, self._waits_s + 4)
        trying = [self._after(self._caller, call, "100", at) for call, at in placed.items()]
        final = [self._after(self._caller, call, "final", at) for call, at in placed.items()]
        late = [each - self._waits_s for each in final if each is not None and each > 1]
        lost = sum((call, "200") not in self._phone.first for call in registered)
        show("INVITEs, waiting at once", f"{len(placed)}, {waiting}")
        show("100 Trying, p50 / p99", milliseconds(trying))
        show("final reply after its deadline, p50 / p99", milliseconds(late))
        early = sum(each is not None and each < self._waits_s - 1 for each in final)
        show("without a final reply, refused early", f"{final.count(None)}, {early}")
        show("REGISTERs, lost", f"{len(registered)}, {lost}")
        show("Kamailio's memory", f"{memory:.0f} MiB")

    @staticmethod
    def _after(sip: SipSocket, call: str, what: str, since: float) -> float | None:
        at = sip.first.get((call, what))
        return None if at is None else at - since

    async def _answers(self) -> None:
        """From the phone's answer until it has the INVITE."""
        took = []
        for _ in range(SINGLE_CALLS):
            call, push = await self._pushed_call()
            began_at = time.monotonic()
            status = self._respond(push)
            took.append(await self._phone.when(call, "INVITE") - began_at)
            await status
            await self._caller.when(call, "final")
        show("answer to relayed INVITE, p50 / p99", milliseconds(took))

    async def _registrations(self) -> None:
        """From the 200 of the phone's REGISTER until it has the INVITE."""
        took = []
        for _ in range(SINGLE_CALLS):
            call, _ = await self._pushed_call()
            account = call.partition("-")[0]
            registration = self._new_call(account)
            self._phone.send("REGISTER", account, registration, contact=self._contact(account))
            registered_at = await self._phone.when(registration, "200")
            took.append(await self._phone.when(call, "INVITE") - registered_at)
            await self._caller.when(call, "final")
        show("200 of REGISTER to relayed INVITE, p50 / p99", milliseconds(took))

    async def _cancellations(self) -> None:
        """How many phones get 404 so long after the CANCEL was sent."""
        for delay_s in CANCEL_DELAYS_S:
            gone = []
            for _ in range(SINGLE_CALLS // len(CANCEL_DELAYS_S)):
                call, push = await self._pushed_call()
                self._caller.send("CANCEL", call.partition("-")[0], call)
                await deferLater(self._reactor, delay_s)
                gone.append(await self._respond(push) == 404)
                await self._caller.when(call, "final")
            show(f"404 {delay_s * 1000:.0f} ms after CANCEL", f"{sum(gone)} of {len(gone)}")

    async def _pushed_call(self) -> tuple[str, AnyPush]:
        """A call whose phone has had its push."""
        account = next(self._accounts)
        pushed = self._pushed[f"{int(account):064x}"] = Deferred()
        call = self._new_call(account)
        self._caller.send("INVITE", account, call)
        push = await pushed
        await deferLater(self._reactor, 0.01)
        return call, push

    def _respond(self, push: AnyPush) -> Deferred[int]:
        """The phone answers; the status."""
        fields = {
            "unique_key": push.data["unique_key"],
            "message_start_time": push.data["message_start_time"],
        }
        return self._app.post("/api/call-response/", urlencode(fields).encode())

    def _push(self, push: AnyPush) -> None:
        waiter = self._pushed.pop(push.token, None)
        if waiter is not None:
            waiter.callback(push)

    def _new_call(self, account: str) -> str:
        self._serial += 1
        return f"{account}-{self._serial}-{os.getpid()}"


def proportional_memory_mib(parent: int) -> float:
    """What a process and its children use, shared pages by their parts (PSS)."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(process.name) != parent and int(fields[1]) != parent:
                continue
            lines = (process / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def milliseconds(seconds: Iterable[float | None]) -> str:
    """The median and the 99th percentile."""
    known = sorted(each * 1000 for each in seconds if each is not None)
    if not known:
        return "none"
    return f"{statistics.median(known):.1f} / {known[int(len(known) * 0.99)]:.1f} ms"


def show(what: str, value: str) -> None:
    """One line of the table."""
    sys.stdout.write(f"| {what} | {value} |\n")
    sys.stdout.flush()


def main(reactor: Any) -> Deferred[None]:
    """Called by Twisted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rate", type=int, default=200, help="INVITEs a second")
    parser.add_argument("--http", type=int, default=0, metavar="WORKERS", help="HTTP, not evapi")
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin"
    measure_monotonically(reactor)
    folder = Path(tempfile.mkdtemp(prefix="kamailio-bench-"))
    done = Deferred.fromCoroutine(Bench(reactor, options, folder).run())
    return done.addBoth(remove_if_good(folder))


def remove_if_good(folder: Path) -> Callable[[Any], Any]:
    """Keeps the logs of a run that failed."""

    def ended(result: Any) -> Any:
        if result is None:
            shutil.rmtree(folder)
        else:
            sys.stderr.write(f"logs are in {folder}\n")
        return result

    return ended


if __name__ == "__main__":
    react(main)
