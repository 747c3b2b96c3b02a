"""
Two daemons behind the shipped HAProxy configuration, one of them full or paused, and phones
that flood their frontend. HAProxy is no longer root then, and can be watched.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import signal
import socket
import stat
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "bench"), str(CHECKOUT / "checks")]

import rolling  # type: ignore[import-not-found]  # noqa: E402
from generator import Client, form_request  # type: ignore[import-not-found]  # noqa: E402

MOST_OF_A_PHONE = 64  # more than the simulated phones keep open, each with its own connection
ACK = "200 status=ACK"


class Deployment(rolling.Deployment):  # type: ignore[misc]
    """Its first daemon takes one call at a time; HAProxy logs; an address has few connections."""

    def _config(self, number: int) -> str:
        text = str(super()._config(number))
        return text.replace("[calls]\n", "[calls]\nmax_waiting = 1\n") if number == 0 else text

    def _haproxy_config(self) -> str:
        text = str(super()._haproxy_config())
        for old, new in (
            ("global\n", "global\n    log stdout format raw local0\n"),
            ("defaults middlewared\n", "defaults middlewared\n    log global\n"),
            ("sc0_conn_cur gt 1000", f"sc0_conn_cur gt {MOST_OF_A_PHONE}"),
            ("maxconn 20000", "maxconn 100"),
        ):
            assert old in text, old
            text = text.replace(old, new, 1)
        return text


async def ring(port: int, count: int) -> list[str]:
    """Place so many calls at once."""
    client = Client([(rolling.HOST, port)])
    requests = [
        form_request(
            "/api/incoming-call/",
            {
                "sip_user_id": str(rolling.FIRST_ACCOUNT + number),
                "phonenumber": "+31501234567",
                "call_id": f"call-{port}-{number}",
            },
        )
        for number in range(count)
    ]
    answers = await asyncio.gather(*map(client.ask, requests))
    client.close()
    return [f"{answer.status} {answer.body.decode()}" for answer in answers]


def status(url: str | urllib.request.Request) -> int:
    """The status of a request."""
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def answer_at(port: int, name: str) -> int:
    """The status of an answer to a call that no daemon holds, sent to the name of one."""
    request = urllib.request.Request(
        f"http://{rolling.HOST}:{port}/api/call-response/",
        data=b"unique_key=6f1e0ed6e0c44bd1a0e3f6d7c2b1a090&message_start_time=1&available=true",
        headers={"Host": name},
    )
    return status(request)


def check_process(deployment: Deployment) -> None:
    """It runs as the user and in the directory of Debian's package."""
    process = deployment.others[-1]._process.pid
    users = re.search(r"^Uid:\t(\d+)\t(\d+)", Path(f"/proc/{process}/status").read_text(), re.M)
    assert users is not None
    assert "0" not in users.groups(), f"HAProxy runs as root: {users[0]}"
    if os.geteuid() == 0:
        assert users[1] == str(pwd.getpwnam("haproxy").pw_uid), users[0]
        root = os.readlink(f"/proc/{process}/root")
        assert root == "/var/lib/haproxy", f"HAProxy is not in its chroot: {root}"


def check_watched(deployment: Deployment) -> None:
    """Its stats socket and its exporter show the servers; the exporter has no other page."""
    path = deployment.folder / "stats.sock"
    mode = stat.S_IMODE(path.stat().st_mode)
    assert mode == 0o660, f"the stats socket has mode {mode:o}"
    shown = _ask(path, b"show stat\n")
    for row in ("pbx,daemon1,", "pbx,daemon2,", "answers,daemon1,", "phones,FRONTEND,"):
        assert f"\n{row}" in shown, (row, shown)
    metrics = _scrape(deployment)
    for name in ("daemon1", "daemon2"):
        line = f'haproxy_server_status{{proxy="pbx",server="{name}",state="UP"}} 1'
        assert line in metrics, line
    assert status(f"http://{rolling.HOST}:{deployment.exporter}/") == 404


async def until_scraped(deployment: Deployment, line: str) -> None:
    """Wait until the exporter has this line, as the alerts expect it."""
    give_up = time.monotonic() + 30
    while line not in await asyncio.to_thread(_scrape, deployment):
        assert time.monotonic() < give_up, line
        await asyncio.sleep(0.2)


def _scrape(deployment: Deployment) -> str:
    url = f"http://{rolling.HOST}:{deployment.exporter}/metrics"
    with urllib.request.urlopen(url, timeout=10) as reply:
        return str(reply.read().decode())


def _ask(path: Path, command: bytes) -> str:
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(path))
        admin.sendall(command)
        return admin.makefile().read()


async def check(deployment: Deployment) -> None:
    """Raises when one of the requirements does not hold."""
    check_process(deployment)
    check_watched(deployment)
    await rolling.Calls(deployment, 1).register()
    answers = await ring(deployment.pbx, 20)
    assert set(answers) == {ACK}, f"a full daemon's calls were not taken elsewhere: {answers}"
    await deployment.others[-1].wait_for(r"pbx pbx/daemon2 .* 200 .*/\+1 ")
    text = await deployment.others[-1].wait_for(r"(?s)(?: answers/daemon\d [^\n]* 202 .*?){20}")
    held = Counter(re.findall(r" pbx/(daemon\d) .* 200 ", text))
    answered = Counter(re.findall(r" answers/(daemon\d) .* 202 ", text))
    assert answered == held, f"answers did not go where their calls were held: {answered}, {held}"

    stopped = deployment.daemons[0]._process
    stopped.send_signal(signal.SIGSTOP)
    try:
        # Before and after HAProxy has noticed.
        given = [await asyncio.to_thread(answer_at, deployment.phones, "push1.example.com")]
        answers = await ring(deployment.ports[1][1], 10)
        for line in (
            'haproxy_server_status{proxy="pbx",server="daemon1",state="DOWN"} 1',
            'haproxy_server_status{proxy="phones",server="daemon1",state="DOWN"} 1',
            'haproxy_backend_active_servers{proxy="answers"} 1',
        ):
            await until_scraped(deployment, line)
        given.append(await asyncio.to_thread(answer_at, deployment.phones, "push1.example.com"))
    finally:
        stopped.send_signal(signal.SIGCONT)
    assert set(answers) == {ACK}, f"a paused daemon cost answers: {answers}"
    assert given == [404, 404], f"answers to the name of a paused daemon: {given}"

    phones = f"http://{rolling.HOST}:{deployment.phones}"
    for path in ("/health/", "/api/openapi.json", "/api/incoming-call/"):
        assert status(phones + path) == 404, path
    status(f"{phones}/api/check-in/?password=hunter2")
    text = await deployment.others[-1].wait_for("/api/check-in/")
    assert "hunter2" not in text, "HAProxy logs query strings"

    flood = []
    for source in range(2, 12):
        for _ in range(15):
            flood.append(await asyncio.to_thread(_connect, f"127.0.0.{source}", deployment.phones))
    answers = await asyncio.wait_for(ring(deployment.pbx, 1), 3)
    assert len(answers) == 1, answers
    assert answers[0].startswith("200 "), f"phones lock PBXs out: {answers}"
    for each in flood:
        each.close()


def _connect(source: str, port: int) -> socket.socket:
    return socket.create_connection((rolling.HOST, port), 5, source_address=(source, 0))


async def run() -> None:
    """Start everything, check, stop everything."""
    with tempfile.TemporaryDirectory(prefix="middlewared-balancer-") as folder:
        deployment = Deployment(Path(folder))
        try:
            await deployment.start()
            await check(deployment)
        finally:
            deployment.stop()


if __name__ == "__main__":
    os.environ["PATH"] += ":/usr/sbin"
    asyncio.run(run())
    sys.stdout.write(
        "HAProxy is not root, can be watched, repeats what may be repeated, and phones lock no"
        " PBX out\n"
    )
