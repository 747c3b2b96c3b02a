"""
Runs the demo: starts the stage, plays the scenes and, with ``--serve``, stays up to play with.

The exit code is 0 only if every scene ended as announced.
"""

from __future__ import annotations

import secrets
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import treq
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.web.client import Agent, HTTPConnectionPool

from middlewared.cli.reactor import run_in_reactor
from middlewared.demo.interrupts import first_interrupt
from middlewared.demo.scenes import DRAINING, HELD, SCENES, Scene
from middlewared.demo.screen import Screen, Style
from middlewared.demo.serving import ACCOUNTS, Serving
from middlewared.demo.stage import Stage
from middlewared.demo.steps import Played, Registration
from middlewared.demo.summary import Ending, show_summary
from middlewared.demo.texts import INTRODUCTION, LEGEND, PICTURE, show_next_steps
from middlewared.demo.timeline import Event, show_timeline
from middlewared.simulator.accounts_server import basic
from middlewared.simulator.daemon_process import DaemonFailed
from middlewared.simulator.pbx import PBX, CallResult
from middlewared.simulator.phone import Phone
from middlewared.simulator.record import AnyPush

CALLS = "roundtrip_wait_ms = 2000\nresend_interval_ms = 500\n"
PUSH_S = 5.0
FIRST_ACCOUNT = 100_000_001
CALL_ID = "0f8fad5b-d9cb-469f-a165-708677289{:03d}"


def run_demo(*, serve: bool) -> int:
    """
    Show every kind of call.

    :param serve: stay up afterwards, until interrupted.
    :return: the exit code.
    """
    with tempfile.TemporaryDirectory(prefix="middlewared-demo-") as folder:
        return run_in_reactor(
            lambda reactor: Demo(reactor, Path(folder), Screen(sys.stdout), serve=serve).play()
        )


class Demo:
    """One performance."""

    def __init__(self, reactor: Any, folder: Path, screen: Screen, *, serve: bool) -> None:
        self._reactor = reactor
        self._screen = screen
        password = secrets.token_urlsafe(9) if serve else ""
        self._stage = Stage(
            reactor=reactor,
            folder=folder,
            listener=self._pushed,
            calls=CALLS,
            accounts=ACCOUNTS if serve else "",
            console_password=password,
        )
        self._pool = HTTPConnectionPool(reactor)
        agent: Any = Agent(reactor, pool=self._pool)
        http = treq.client.HTTPClient(agent)
        self._pbx = PBX(http=http, base_url=self._stage.url, seconds=reactor.seconds)
        self._serving = None
        if serve:
            self._serving = Serving(reactor, screen, self._stage, password)
        self._phones: dict[str, Phone] = {}
        self._pushes: list[AnyPush] = []
        self._next_push: Deferred[None] = Deferred()
        self._held: list[Deferred[CallResult]] = []
        self._endings: list[Ending] = []
        self._is_serving = False
        self._is_interrupted: Callable[[], bool] = lambda: False
        self._drained = True

    async def play(self) -> int:
        """All scenes; the exit code. SIGINT and SIGTERM end it, and its daemon with it."""
        playing = Deferred.fromCoroutine(self._play())
        with first_interrupt(self._reactor, playing.cancel) as self._is_interrupted:
            try:
                return await playing
            except Exception:  # what was cancelled fails in many ways
                if not self._is_interrupted():
                    raise
                return 0 if self._is_serving else 130

    async def _play(self) -> int:
        try:
            await self._open()
            for number, scene in enumerate(SCENES):
                await self._show(number, scene)
            if self._serving is None:
                await self._show_drain()
            good = self._conclude()
            if self._serving is not None:
                self._is_serving = good
                await self._serving.serve()
        except DaemonFailed as error:
            self._screen.line(f"the daemon did not start:\n{error}", Style.RED)
            return 1
        finally:
            for held in self._held:  # not awaited any more, if the demo was interrupted
                held.addErrback(lambda _: None).cancel()
            if self._serving is not None:
                await self._serving.stop()
            for phone in self._phones.values():
                await phone.stop()
            await self._pool.closeCachedConnections()
            await self._stage.stop()
        return 0 if good else 1

    async def _open(self) -> None:
        """Print what the demo is, and start the daemon and its peers."""
        self._screen.line("middlewared demo", Style.BOLD)
        self._screen.text(INTRODUCTION)
        self._screen.line(PICTURE)
        began = self._reactor.seconds()
        await self._stage.start()
        took = self._reactor.seconds() - began
        self._screen.text(f"The daemon and its peers are up after {took:.1f} s. {LEGEND}")
        self._screen.line()

    async def _show(self, number: int, scene: Scene) -> None:
        """Play a scene and print it."""
        account = FIRST_ACCOUNT + number
        began_at = self._reactor.seconds()
        phone, registration = await self._register(account, scene)
        call_id = CALL_ID.format(number)
        self._pushes.clear()
        self._next_push = Deferred()
        self._held = [
            self._pbx.place(
                account, phonenumber=scene.phonenumber, caller_id="Alice", call_id=call_id
            )
            for _ in range(scene.calls)
        ]
        cancelled = await self._give_up(account, call_id) if scene.gives_up else None
        results = await gatherResults(self._held, consumeErrors=True)
        if phone is not None:
            await phone.finish()
        received = self._stage.apple.record.received
        played = Played(
            scene=scene,
            results=results,
            phone=phone,
            registration=registration,
            pushes=list(self._pushes),
            refused=[push for push in received if scene.fault and push.received_at >= began_at],
            cancelled=cancelled,
        )
        self._print_title(number, scene)
        show_timeline(self._screen, played.events(), began_at=played.began_at)
        self._report(str(number + 1), played)

    async def _give_up(self, account: int, call_id: str) -> CallResult:
        """The caller gives up once the phone has its push."""
        await self._next_push.addTimeout(PUSH_S, self._reactor)
        return await self._pbx.cancel(account, call_id)

    def _print_title(self, number: int, scene: Scene) -> None:
        if self._is_interrupted():  # a phone takes a cancelled request for a failed one
            raise CancelledError
        self._screen.line(f"{number + 1}. {scene.title}", Style.BOLD)
        self._screen.text(scene.note, Style.FAINT, indent=3)

    def _report(self, number: str, *all_played: Played) -> None:
        """Print and keep whether what was played ended as announced."""
        for played in all_played:
            for complaint in played.phone.complaints if played.phone is not None else ():
                self._screen.text(f"the app complains: {complaint}", Style.RED, indent=3)
            self._endings.append(played.ending(number))
            number = ""
        good = all(played.ended_as_announced for played in all_played)
        outcomes = ", ".join(played.scene.outcome for played in all_played)
        text = f"as expected: {outcomes}" if good else f"expected: {outcomes}"
        self._screen.text(text, Style.GREEN if good else Style.RED, indent=3)
        self._screen.line()

    async def _register(
        self, account: int, scene: Scene
    ) -> tuple[Phone, Registration] | tuple[None, None]:
        if scene.generation is None:
            return None, None
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
        at = self._reactor.seconds()
        status = await phone.register()
        registration = Registration(at, self._reactor.seconds() - at, status)
        if scene.fault is not None:
            self._stage.apple.scripts.for_token(token, scene.fault)
        return phone, registration

    def _pushed(self, push: AnyPush) -> None:
        self._pushes.append(push)
        if not self._next_push.called:
            self._next_push.callback(None)
        phone = self._phones.get(push.token)
        if phone is not None:
            phone.receive(push)
        elif self._serving is not None:
            self._serving.receive(push)

    async def _show_drain(self) -> None:
        """SIGTERM while a call is held: it is answered, a new one is not taken."""
        number = len(SCENES)
        account = FIRST_ACCOUNT + number
        phone, registration = await self._register(account, HELD)
        self._pushes.clear()
        self._next_push = Deferred()
        self._held = [self._pbx.place(account)]
        await self._next_push.addTimeout(PUSH_S, self._reactor)
        terminated_at = self._reactor.seconds()
        self._stage.daemon.signal(signal.SIGTERM)
        await deferLater(self._reactor, 0.1)
        refused = Played(DRAINING, [await self._pbx.place(account + 1)])
        result = await self._held[0]
        code = await self._stage.daemon.ended()
        self._drained = code == 0
        held = Played(HELD, [result], phone, registration, list(self._pushes))
        events = [
            *held.events(),
            *refused.events(),
            Event(terminated_at, "daemon", "gets SIGTERM"),
            Event(self._reactor.seconds(), "daemon", f"has ended with exit code {code}"),
        ]
        self._print_title(number, HELD)
        show_timeline(self._screen, events, began_at=held.began_at)
        self._report(str(number + 1), held, refused)

    def _conclude(self) -> bool:
        """Print the table and what to do next; whether every scene ended as announced."""
        self._screen.line("Summary", Style.BOLD)
        show_summary(self._screen, self._endings)
        failed = [ending.title for ending in self._endings if not ending.expected]
        if not self._drained:
            failed.append("the daemon's exit code")
        self._screen.line()
        if failed:
            self._screen.text(f"Not as expected: {'; '.join(failed)}.", Style.RED)
        else:
            self._screen.text("Every call ended as it should.", Style.GREEN)
        self._screen.line()
        if self._serving is None:
            show_next_steps(self._screen)
        return not failed
