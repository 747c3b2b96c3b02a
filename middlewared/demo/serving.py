"""
``demo --serve``: the daemon stays up, and a person plays with it.

A person is the phone :data:`ME`. What its pushes and calls do is printed as it happens.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from middlewared.demo.handset import Handset
from middlewared.demo.screen import Screen, Style
from middlewared.demo.stage import IOS_APP, OPERATOR, RELAY_APP, Stage
from middlewared.demo.steps import delivered_by
from middlewared.demo.timeline import show_event
from middlewared.simulator.accounts_server import basic
from middlewared.simulator.generations import IOS_6
from middlewared.simulator.phone import Phone, Reaction, SentAnswer
from middlewared.simulator.record import AnyPush

ME = "me"
ACCOUNTS = f"sip_user_id_pattern = {ME}|[0-9]{{9}}"
"""Accounts are texts: the scenes' numbers, and :data:`ME`."""
WAIT_S = 60
_CALLS = f"roundtrip_wait_ms = {WAIT_S * 1000}\nresend_interval_ms = 10000\n"
_TOKEN = "ae" * 32
_OWN_ACCOUNT = 123456789
_OF_CALLS = ("call ", "late answer ")
_TITLES = {
    "call": "Call it, from another terminal. The request is held, as a PBX sees it:",
    "answer": "Answer it, or refuse it (/refuse), within {wait_s} s:",
    "console": "See all these calls, and why a phone did not ring; place test calls to {me}:",
    "own": "Register a phone of your own, as an app does; accounts have any password:",
    "more": "How it is, its metrics, its API:",
}


class Serving:
    """
    The daemon for a person to try.

    :param password: of the console's operator.
    """

    def __init__(self, reactor: Any, screen: Screen, stage: Stage, password: str) -> None:
        self._reactor = reactor
        self._screen = screen
        self._stage = stage
        self._password = password
        authorization = basic(ME, "secret")
        stage.accounts.accounts[authorization] = ME
        self._phone = Phone(
            reactor=reactor,
            base_url=stage.url,
            generation=IOS_6,
            sip_user_id=ME,
            token=_TOKEN,
            app=IOS_APP,
            authorization=authorization,
            reaction=Reaction(available=None),
            fields={"name": "my iPhone"},
        )
        self._handset = Handset(
            reactor=reactor, phone=self._phone, rings_s=WAIT_S, answered=self._show_answer
        )

    async def serve(self) -> None:
        """Print what to try, and what happens, until cancelled."""
        await self._give_time()
        self._handset.start()
        await self._phone.register()
        self._stage.daemon.follow(self._show_log)
        self._show_commands()
        await Deferred()

    async def stop(self) -> None:
        """Switch the phone off."""
        await self._handset.stop()

    def receive(self, push: AnyPush) -> None:
        """A push has reached a phone that is no scene's."""
        data = push.data
        caller = " ".join(str(data[key]) for key in ("caller_id", "phonenumber") if data[key])
        who = ME if push.token == _TOKEN else push.token
        what = f"delivers push {data['attempt']} to {who}: {caller} calls"
        self._show(delivered_by(push), what)
        if int(data["attempt"]) > 1:
            return
        if push.token == _TOKEN:
            self._handset.receive(push)
            self._screen.command(f"curl -X POST {self._handset.url}/answer", indent=4)
            self._screen.text("or what an app sends:", Style.FAINT, indent=4)
        self._screen.command(
            f"curl -i {data['response_api']} -d unique_key={data['unique_key']}"
            f" -d message_start_time={data['message_start_time']}",
            indent=4,
        )

    async def _give_time(self) -> None:
        """Let calls wait long enough for a person, from now on."""
        self._stage.write_config(_CALLS)
        self._stage.daemon.signal(signal.SIGHUP)
        while "configuration reloaded" not in self._stage.daemon.log:
            await deferLater(self._reactor, 0.05)

    def _show(self, who: str, what: str) -> None:
        show_event(self._screen, time.strftime("%H:%M:%S"), who, what)

    def _show_answer(self, sent: SentAnswer) -> None:
        available = str(sent.available).lower()
        self._show("phone", f"POST /api/call-response/ available={available}: {sent.status}")

    def _show_log(self, line: str) -> None:
        """Print the daemon's line on each call, without its time and namespace."""
        message = line.split(" ", 3)[-1]
        if message.startswith(_OF_CALLS):
            self._show("daemon", message)

    def _show_commands(self) -> None:
        screen, url = self._screen, self._stage.url
        addresses = self._stage.daemon.addresses
        screen.line("Now you", Style.BOLD)
        screen.text(f'The daemon stays up. "{ME}" is an iPhone that you answer.')
        screen.line()
        screen.text(_TITLES["call"], indent=2)
        call = f"curl -i {url}/api/incoming-call/ -d sip_user_id={ME} -d phonenumber=0123456789"
        screen.command(call, indent=4)
        screen.text(_TITLES["answer"].format(wait_s=WAIT_S), indent=2)
        screen.command(f"curl -X POST {self._handset.url}/answer", indent=4)
        screen.text(f"or press the buttons of its page: {self._handset.url}/", indent=4)
        screen.text(_TITLES["console"].format(me=ME), indent=2)
        screen.line(f"    the console   http://{addresses['admin']}/")
        screen.line(f"                  user {OPERATOR}, password {self._password}")
        screen.line(f"    {ME}            http://{addresses['admin']}/accounts/{ME}")
        screen.text(_TITLES["own"], indent=2)
        screen.command(
            f"curl -u {_OWN_ACCOUNT}:secret {url}/api/gcm-device/ -d sip_user_id={_OWN_ACCOUNT}"
            f" -d token=my-phone -d app={RELAY_APP}",
            indent=4,
        )
        screen.text(_TITLES["more"], indent=2)
        for address in (
            f"{url}/health/",
            f"http://{addresses['metrics']}/metrics",
            f"{url}/api/openapi.json",
        ):
            screen.command(f"curl {address}", indent=4)
        screen.line()
        screen.line("Ctrl-C ends it.")
