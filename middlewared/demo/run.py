"""
Runs the demo: starts the stage, plays the scenes and, with ``--serve``, stays up to play with.

The exit code is 0 only if every scene ended as announced.
"""

from __future__ import annotations

import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import treq
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.web.client import Agent, HTTPConnectionPool

from middlewared.cli.reactor import run_in_reactor
from middlewared.demo.scenes import SCENES, Scene
from middlewared.demo.stage import OPERATOR, RELAY_APP, Stage
from middlewared.demo.timeline import Event, Timelines
from middlewared.simulator.accounts_server import basic
from middlewared.simulator.apple.faults import Reject
from middlewared.simulator.daemon_process import DaemonFailed
from middlewared.simulator.pbx import PBX, CallResult
from middlewared.simulator.phone import Phone
from middlewared.simulator.record import AnyPush, ReceivedPush

CALLS = "roundtrip_wait_ms = 2000\nresend_interval_ms = 500\n"
SERVED_CALLS = "roundtrip_wait_ms = 30000\nresend_interval_ms = 5000\n"
"""With ``--serve`` a person answers, by a command that has to be copied."""
PUSH_S = 5.0
FIRST_ACCOUNT = 100_000_001
CALL_ID = "0f8fad5b-d9cb-469f-a165-708677289{:03d}"
FREE_ACCOUNT = 123456789
# It can be pasted into a shell as it is.
_COMMANDS = """\
The daemon stays up at {url}. Accounts answer to any password. Things to try:

  the console            {console}/
                           user {user}, password {password}: why a phone did not ring, test calls
  register a phone       curl -u {account}:secret {url}/api/gcm-device/ \\
                           -d sip_user_id={account} -d token=my-phone -d app={app}
  place a call           curl -i {url}/api/incoming-call/ \\
                           -d sip_user_id={account} -d phonenumber=0123456789
  (its push is printed here with the command that answers it)
  how it is              curl {url}/health/
  its metrics            curl {metrics}/metrics
  its API                curl {url}/api/openapi.json

Ctrl-C ends it.
"""


def run_demo(*, serve: bool) -> int:
    """
    Show every kind of call.

    :param serve: stay up afterwards, until interrupted.
    :return: the exit code.
    """
    with tempfile.TemporaryDirectory(prefix="middlewared-demo-") as folder:
        return run_in_reactor(
            lambda reactor: Demo(reactor, Path(folder), sys.stdout, console=serve).play(serve)
        )


class Demo:
    """One performance."""

    def __init__(self, reactor: Any, folder: Path, out: Any, *, console: bool = False) -> None:
        self._reactor = reactor
        self._timelines = Timelines(out)
        self._password = secrets.token_urlsafe(9) if console else ""
        self._stage = Stage(
            reactor=reactor,
            folder=folder,
            listener=self._pushed,
            calls=CALLS,
            console_password=self._password,
        )
        self._pool = HTTPConnectionPool(reactor)
        agent: Any = Agent(reactor, pool=self._pool)
        http = treq.client.HTTPClient(agent)
        self._pbx = PBX(http=http, base_url=self._stage.url, seconds=reactor.seconds)
        self._phones: dict[str, Phone] = {}
        self._faults: dict[str, Reject] = {}
        self._pushes: list[AnyPush] = []
        self._next_push: Deferred[None] = Deferred()

    async def play(self, stay: bool) -> int:
        """All scenes; the exit code."""
        began = self._reactor.seconds()
        try:
            await self._stage.start()
            took = self._reactor.seconds() - began
            self._timelines.print(f"daemon and peers are up after {took:.1f} s\n")
            failed = [scene for n, scene in enumerate(SCENES) if not await self._show(n, scene)]
            if stay:
                await self._give_time()
                # A terminal's Ctrl-C reaches the daemon too: there is nothing left to drain.
                await _serve(self._reactor, self._stage, self._timelines, self._password)
            drained = stay or await self._show_drain()
        except DaemonFailed as error:
            self._timelines.print(f"the daemon did not start:\n{error}", good=False)
            return 1
        finally:
            for phone in self._phones.values():
                await phone.stop()
            await self._pool.closeCachedConnections()
            await self._stage.stop()
        return self._conclude(failed, drained)

    async def _give_time(self) -> None:
        """Let calls wait longer from now on."""
        self._stage.write_config(SERVED_CALLS)
        self._stage.daemon.signal(signal.SIGHUP)
        while "configuration reloaded" not in self._stage.daemon.log:
            await deferLater(self._reactor, 0.05)

    async def _show(self, number: int, scene: Scene) -> bool:
        """Play a scene and print its time-lines; whether it ended as announced."""
        account = FIRST_ACCOUNT + number
        phone = await self._register(account, scene)
        call_id = CALL_ID.format(number)
        self._next_push = Deferred()
        held = [
            self._pbx.place(
                account, phonenumber=scene.phonenumber, caller_id="Alice", call_id=call_id
            )
            for _ in range(scene.calls)
        ]
        events = await self._give_up(account, call_id) if scene.gives_up else []
        results = await gatherResults(held)
        complaints = [] if phone is None else phone.complaints
        good = all(r.outcome == scene.outcome and r.status == scene.status for r in results)
        self._timelines.show(scene.title, [*self._events(results, phone), *events])
        for complaint in complaints:
            self._timelines.print(f"  the app complains: {complaint}", good=False)
        return self._report(good and not complaints, scene.outcome)

    async def _give_up(self, account: int, call_id: str) -> list[Event]:
        """The caller gives up once the phone has its push."""
        await self._next_push.addTimeout(PUSH_S, self._reactor)
        cancelled = await self._pbx.cancel(account, call_id)
        return [Event(cancelled.placed_at, "PBX", "DELETE /api/incoming-call/")]

    def _report(self, good: bool, outcome: str) -> bool:
        """Print whether a scene ended as announced, which is given back."""
        text = f"  {'as expected' if good else 'expected'}: {outcome}\n"
        self._timelines.print(text, good=good)
        return good

    async def _register(self, account: int, scene: Scene) -> Phone | None:
        if scene.generation is None:
            return None
        token = f"{account:064x}"
        phone = self._phones[token] = Phone(
            reactor=self._reactor,
            base_url=self._stage.url,
            generation=scene.generation,
            sip_user_id=account,
            token=token,
            app=scene.app,
            authorization=basic(str(account), "secret"),
            reaction=scene.reaction,
            fields=scene.fields,
        )
        await phone.register()
        if scene.fault is not None:
            self._faults[token] = scene.fault
            self._stage.apple.scripts.for_token(token, scene.fault)
        return phone

    def _pushed(self, push: AnyPush) -> None:
        self._pushes.append(push)
        if not self._next_push.called:
            self._next_push.callback(None)
        phone = self._phones.get(push.token)
        if phone is not None:
            phone.receive(push)

    def _events(self, results: Sequence[CallResult], phone: Phone | None) -> list[Event]:
        events = []
        for result in results:
            events.append(Event(result.placed_at, "PBX", "POST /api/incoming-call/"))
            answer = f"{result.status} {result.body}, {result.outcome}"
            events.append(Event(result.answered_at, "PBX", f"gets {answer}"))
        first = results[0]
        if "device" in first.server_timing_ms:
            took = first.server_timing_ms["device"]
            events.append(
                Event(first.placed_at + took / 1000, "daemon", f"device looked up in {took:.1f} ms")
            )
        for push in self._pushes:
            if first.placed_at <= push.received_at <= first.answered_at:
                events.append(_push_event(push))
        for refused in self._stage.apple.record.received:
            fault = self._faults.get(refused.token)
            if fault is not None and first.placed_at <= refused.received_at:
                what = f"refuses the push: {fault.status} {fault.reason}"
                events.append(Event(refused.received_at, "Apple", what))
        for sent in phone.answers if phone is not None else []:
            what = f"POST /api/call-response/ available={sent.available}: {sent.status}"
            events.append(Event(sent.sent_at, "phone", what))
        return events

    async def _show_drain(self) -> bool:
        """SIGTERM while a call is held: it is answered, a new one is not taken."""
        scene = SCENES[0]
        account = FIRST_ACCOUNT + len(SCENES)
        phone = await self._register(account, scene)
        self._next_push = Deferred()
        held = self._pbx.place(account)
        await self._next_push.addTimeout(PUSH_S, self._reactor)
        terminated_at = self._reactor.seconds()
        self._stage.daemon.signal(signal.SIGTERM)
        await deferLater(self._reactor, 0.1)
        refused = await self._pbx.place(account + 1)
        answered = await held
        code = await self._stage.daemon.ended()
        good = (answered.outcome, refused.outcome, code) == ("answered", "draining", 0)
        self._timelines.show(
            "SIGTERM while a call is held: it is answered, a new one is refused",
            [
                *self._events([answered, refused], phone),
                Event(terminated_at, "daemon", "gets SIGTERM"),
                Event(self._reactor.seconds(), "daemon", f"has ended with exit code {code}"),
            ],
        )
        return self._report(good, "answered, draining")

    def _conclude(self, failed: Sequence[Scene], drained: bool) -> int:
        titles = [scene.title for scene in failed] + ([] if drained else ["SIGTERM"])
        if titles:
            self._timelines.print(f"not as expected: {'; '.join(titles)}", good=False)
            return 1
        self._timelines.print("every call ended as it should", good=True)
        return 0


def _push_event(push: AnyPush) -> Event:
    who = "Apple" if isinstance(push, ReceivedPush) else "Google"
    return Event(push.received_at, who, f"delivers push {push.data.get('attempt')} to the phone")


async def _serve(reactor: Any, stage: Stage, timelines: Timelines, password: str) -> None:
    """Print the commands, and each push that arrives, until SIGINT or SIGTERM."""
    commands = _COMMANDS.format(
        url=stage.url,
        metrics=f"http://{stage.daemon.addresses['metrics']}",
        console=f"http://{stage.daemon.addresses['admin']}",
        user=OPERATOR,
        password=password,
        account=FREE_ACCOUNT,
        app=RELAY_APP,
    )
    timelines.print(commands)

    def show(push: AnyPush) -> None:
        data = push.data
        if push.token == "my-phone":
            timelines.print(
                f"push {data.get('attempt')} to {push.token}; to answer:\n"
                f"  curl -i {data.get('response_api')} -d unique_key={data.get('unique_key')}"
                f" -d message_start_time={data.get('message_start_time')}\n"
            )

    stage.google.record.listener = show
    interrupted: Deferred[None] = Deferred()

    def interrupt(*_: object) -> None:
        if not interrupted.called:
            reactor.callFromThread(interrupted.callback, None)

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    await interrupted
    for number, handler in before.items():
        signal.signal(number, handler)
