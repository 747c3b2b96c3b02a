"""
SIP calls through the shipped Kamailio configuration with HTTP, the simple way.

The caller's INVITE waits in one of Kamailio's workers for the daemon; the phone is woken,
registers at Kamailio, answers the daemon, and gets the INVITE. A call to an unknown account is
refused at once, a caller may hang up while the phone is woken, and a call that the daemon
cannot be asked for goes to the contact. Usage: sip.py WORK_DIRECTORY
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "bench"), str(CHECKOUT / "checks")]

from rolling import (  # type: ignore[import-not-found]  # noqa: E402
    HOST,
    TWISTD,
    Process,
    free_ports,
)

ACCOUNT = "123456789"
NOBODY = "123456780"
NAME = "Smith & Sons, Zoë + Co; 100%"
NUMBER = "+31501234567"
CALL_ID = "0f8fad5b-d9cb-469f-a165-708677289501"
ANSWER_MS = 1000  # the phone registers meanwhile


def post(url: str, **fields: str) -> int:
    """POST a form; the status."""
    with urllib.request.urlopen(url, urllib.parse.urlencode(fields).encode()) as reply:
        return int(reply.status)


def waiting(url: str) -> int:
    """How many calls wait at the daemon."""
    with urllib.request.urlopen(f"{url}/health/") as reply:
        return int(json.load(reply)["waiting"])


def register(port: int, contact: int) -> None:
    """The phone registers at Kamailio."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.bind((HOST, 0))
        phone.settimeout(5)
        lines = (
            f"REGISTER sip:{HOST}:{port} SIP/2.0",
            f"Via: SIP/2.0/UDP {HOST}:{phone.getsockname()[1]};branch=z9hG4bKphone",
            f"From: <sip:{ACCOUNT}@{HOST}:{port}>;tag=phone",
            f"To: <sip:{ACCOUNT}@{HOST}:{port}>",
            "Call-ID: registration",
            "CSeq: 1 REGISTER",
            f"Contact: <sip:{ACCOUNT}@{HOST}:{contact}>;expires=60",
            "Content-Length: 0",
        )
        phone.sendto(("\r\n".join(lines) + "\r\n\r\n").encode(), (HOST, port))
        reply = phone.recv(4096)
        assert reply.startswith(b"SIP/2.0 200"), reply


async def run(work: Path) -> None:
    """Both calls; raises when one does not end as it should."""
    api, sip, phone, caller, tap = free_ports(5)
    asked: list[dict[str, str]] = []
    tapping = await asyncio.start_server(
        lambda reader, writer: _tap(reader, writer, api, asked), HOST, tap
    )
    url = f"http://{HOST}:{api}"
    processes: list[Process] = []

    def start(name: str, *command: str) -> Process:
        processes.append(Process(work, name, *command))
        return processes[-1]

    def sipp(scenario: str, account: str, call_id: str) -> Process:
        return start(
            *(scenario, "sipp", f"{HOST}:{sip}", "-i", HOST, "-p", str(caller), "-m", "1"),
            *("-sf", str(CHECKOUT / f"tests/operations/{scenario}.xml"), "-s", account),
            *("-cid_str", call_id, "-timeout", "15", "-timeout_error", "-nostdin"),
            *("-default_behaviors", "all,-abortunexp"),
        )

    kamailio: Process | None = None
    try:
        simulator = start(
            *("simulator", sys.executable, "-m", "middlewared.simulator"),
            *("--answer-ms", str(ANSWER_MS)),
        )
        known = json.loads((await simulator.wait_for("\n")).splitlines()[0])
        config = work / "sip.ini"
        config.write_text(
            f"[http]\nlisten = tcp:{api}:interface={HOST}\n[metrics]\nlisten =\n"
            f"[calls]\nresponse_api = {url}/api/call-response/\n"
            f"[accounts]\nbackend = open\n[database]\nurl = sqlite:sip-{time.time_ns()}.sqlite3\n"
            f"[app:app:android]\nservice_account = {known['service_account']}\n"
            f"url = {known['google_url']}\n"
        )
        daemon = start(
            *("sip-daemon", sys.executable, "-c", TWISTD, "-n", "--pidfile="),
            *("middlewared", "--config", str(config)),
        )
        await daemon.wait_for("middlewared ready ")
        text = (CHECKOUT / "etc/kamailio/kamailio.cfg").read_text()
        shutil.copy(CHECKOUT / "etc/kamailio/middlewared.cfg", work)
        for old, new in (
            ("10.0.0.6:5060", f"{HOST}:{sip}"),
            ("#!define WITH_TLS", f'#!define MIDDLEWARED_HTTP "http://{HOST}:{tap}"'),
            ("log_stderror=no", "log_stderror=yes"),
        ):
            assert old in text, old
            text = text.replace(old, new)
        (work / "kamailio.cfg").write_text(text)
        kamailio = start(
            "kamailio", "kamailio", "-DD", "-E", "-m", "64", "-f", str(work / "kamailio.cfg")
        )
        scenario = str(CHECKOUT / "tests/operations/phone.xml")
        start("phone", "sipp", "-sf", scenario, *("-i", HOST, "-p", str(phone), "-nostdin"))
        post(f"{url}/api/android-device/", sip_user_id=ACCOUNT, token="phone", app="app")
        await _rings(url, sip, phone, sipp("caller", ACCOUNT, CALL_ID))
        assert asked[0]["caller_id"] == NAME, asked
        assert asked[0]["phonenumber"] == NUMBER, asked
        # A Call-ID that is a UUID must not be the key of the call.
        line = f'call answered .*call_id="?kamailio-{CALL_ID}"? .*sip_user_id={ACCOUNT}'
        answered = await daemon.wait_for(line)
        assert f"unique_key={CALL_ID}" not in answered, answered
        refused = sipp("refused", NOBODY, "refused")
        assert await refused.ended() == 0, "the call to an unknown account was not refused"
        # A phone that registered within the last 5 s is taken for awake.
        await asyncio.sleep(6.1)
        cancelled = sipp("cancelled", ACCOUNT, "cancelled")
        assert await cancelled.ended() == 0, "the caller could not hang up"
        # Neither a balancer nor the daemon: the phone may be registered all the same.
        tapping.close()
        await tapping.wait_closed()
        unasked = sipp("caller", ACCOUNT, "unasked")
        assert await unasked.ended() == 0, "without the daemon, a registered phone was not called"
    finally:
        tapping.close()
        if kamailio is not None:
            await kamailio.end()  # it ends its children, which outlive a SIGKILL
        for process in reversed(processes):
            process.kill()


async def _tap(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    port: int,
    asked: list[dict[str, str]],
) -> None:
    """Pass what Kamailio asks on to the daemon, and keep its fields."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    body = await reader.readexactly(length)
    asked.append(dict(urllib.parse.parse_qsl(body.decode(), strict_parsing=False)))
    answers, requests = await asyncio.open_connection(HOST, port)
    requests.write(head + body)
    gone = asyncio.ensure_future(reader.read())
    answer = asyncio.ensure_future(_response(answers))
    await asyncio.wait([gone, answer], return_when=asyncio.FIRST_COMPLETED)
    if answer.done() and answer.exception() is None:
        writer.write(answer.result())
        await writer.drain()
    for task, transport in ((gone, writer), (answer, requests)):
        task.cancel()
        transport.close()


async def _response(reader: asyncio.StreamReader) -> bytes:
    """One HTTP response."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    return head + await reader.readexactly(length)


async def _rings(url: str, sip: int, phone: int, caller: Process) -> None:
    """The phone sleeps until its call waits; then it registers, and answers."""
    give_up = time.monotonic() + 10
    while not waiting(url):
        assert time.monotonic() < give_up, "Kamailio did not ask the daemon"
        await asyncio.sleep(0.05)
    register(sip, phone)
    assert await caller.ended() == 0, "the call did not reach the phone"


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]).absolute()))
    sys.stdout.write(
        "a call waited for its phone and reached it; others were refused and cancelled\n"
    )
