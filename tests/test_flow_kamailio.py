"""Calls of Kamailios over evapi, through a real daemon and a stand-in for Kamailio."""

from __future__ import annotations

import signal
from typing import Any
from urllib.parse import quote_from_bytes

from twisted.internet.defer import Deferred

from middlewared.simulator.generations import ANDROID_6
from middlewared.simulator.phone import Reaction
from tests.kamailio import EvapiServer
from tests.test_flow_calls import FIRST_ACCOUNT, SILENT, FlowTestCase

NOBODY = 299_999_999


class KamailioTestCase(FlowTestCase):
    calls = f"{FlowTestCase.calls}answer_by_registration = yes\n"
    keys = ""

    async def start(self, sections: str = "") -> None:
        self.kamailio = await self.started_kamailio()
        await super().start(f"{self.section('edge', self.kamailio)}{self.keys}\n{sections}")
        await self.kamailio.until_ready()

    async def started_kamailio(self, port: int = 0) -> EvapiServer:
        """A Kamailio to which a daemon may connect."""
        kamailio = EvapiServer()
        await kamailio.start(port)
        self.addCleanup(lambda: Deferred.fromCoroutine(kamailio.stop()))
        return kamailio

    async def reload(self) -> None:
        """Let the daemon read its configuration again."""
        before = self.stage.daemon.log.count("configuration reloaded")
        self.stage.daemon.signal(signal.SIGHUP)
        await self.has_logged(self.stage.daemon, "configuration reloaded", before + 1)

    @staticmethod
    def section(name: str, kamailio: EvapiServer) -> str:
        """Its section."""
        return f"[kamailio:{name}]\nevapi = 127.0.0.1:{kamailio.port}\n"

    async def waiting_call(self, transaction: str, call_id: str = "", **given: Any) -> None:
        """A call that waits for a phone which has had its push."""
        phone = await self.phone(ANDROID_6, reaction=SILENT, **given)
        pushed = self.push_to(phone)
        self.kamailio.call(transaction, phone.sip_user_id, call_id=call_id)
        await pushed


class CallTests(KamailioTestCase):
    """What a call may come to."""

    async def test_phone_that_answers_gets_the_call(self) -> None:
        """Every text arrives whole; name and outcome are in log and metrics."""
        await self.start()
        phone = await self.phone(ANDROID_6)
        pushed = self.push_to(phone)
        name = "Smith & Sons, Zoë + Co; 100%"
        self.kamailio.call("7:1", FIRST_ACCOUNT, caller_id=name, call_id="kamailio-a")
        self.assertEqual((await pushed).data["caller_id"], name)
        self.assertEqual(await self.kamailio.outcome("7:1"), "answered")
        await self.until_metric('middlewared_pbx_requests_total{outcome="answered",pbx="edge"} 1.0')
        await self.until_metric('middlewared_kamailio_connected{kamailio="edge"} 1.0')
        await self.has_logged(self.stage.daemon, "call answered")
        self.assertRegex(self.stage.daemon.log, r"call answered .*call_id=kamailio-a .* pbx=edge ")

    async def test_refusals(self) -> None:
        """No device, a refusal, and what is malformed: an outcome for each, on one connection."""
        await self.start()
        self.kamailio.call("7:1", NOBODY)
        self.assertEqual(await self.kamailio.outcome("7:1"), "no-device")
        await self.phone(ANDROID_6, reaction=Reaction(available=False))
        self.kamailio.call("7:2", FIRST_ACCOUNT)
        self.assertEqual(await self.kamailio.outcome("7:2"), "unavailable")
        self.kamailio.call("7:3", "nonsense")
        self.assertEqual(await self.kamailio.outcome("7:3"), "malformed")
        self.assertEqual(len(self.kamailio.peers), 1)

    async def test_name_that_is_not_utf8_is_no_reason_to_refuse(self) -> None:
        """Its odd bytes are replaced."""
        await self.start()
        phone = await self.phone(ANDROID_6)
        pushed = self.push_to(phone)
        fields = f"sip_user_id={FIRST_ACCOUNT}&phonenumber=1&caller_id="
        self.kamailio.peers[0].send(
            event="call", id="7:1", fields=fields + quote_from_bytes("Zoë".encode("latin-1"))
        )
        self.assertEqual((await pushed).data["caller_id"], "Zo\N{REPLACEMENT CHARACTER}")
        self.assertEqual(await self.kamailio.outcome("7:1"), "answered")

    async def test_caller_gives_up(self) -> None:
        """The call is cancelled, and its phone may not answer any more."""
        await self.start()
        phone = await self.phone(ANDROID_6, reaction=SILENT)
        pushed = self.push_to(phone)
        self.kamailio.call("7:1", FIRST_ACCOUNT, call_id="kamailio-a")
        push = await pushed
        self.kamailio.send("cancel", sip_user_id=FIRST_ACCOUNT, call_id="kamailio-a")
        self.assertEqual(await self.kamailio.outcome("7:1"), "cancelled")
        self.assertEqual(await phone.answer(push.data, available=True), 404)

    async def test_registration_answers(self) -> None:
        """A SIP app answers by registering, and its push parameters are its device."""
        await self.start()
        await self.waiting_call("7:1")
        self.kamailio.send("registered", sip_user_id=FIRST_ACCOUNT)
        self.assertEqual(await self.kamailio.outcome("7:1"), "answered")
        self.kamailio.send("registered", sip_user_id=FIRST_ACCOUNT, expires="soon")
        self.kamailio.call("7:2", NOBODY)
        self.assertEqual(await self.kamailio.outcome("7:2"), "no-device")

    async def test_repeat_joins(self) -> None:
        """Asked again for the same transaction, or for the same call: one push."""
        await self.start()
        await self.waiting_call("7:1", "kamailio-a")
        self.kamailio.call("7:1", FIRST_ACCOUNT, call_id="kamailio-a")
        self.kamailio.call("7:2", FIRST_ACCOUNT, call_id="kamailio-a")
        self.kamailio.call("7:3", NOBODY)
        await self.kamailio.outcome("7:3")
        self.kamailio.send("registered", sip_user_id=FIRST_ACCOUNT)
        self.assertEqual(await self.kamailio.outcome("7:1"), "answered")
        self.assertEqual(await self.kamailio.outcome("7:2"), "answered")
        self.assertEqual(sorted(m["id"] for m in self.kamailio.messages), ["7:1", "7:2", "7:3"])

    async def test_outcome_is_repeated_until_it_is_confirmed(self) -> None:
        """evapi may lose what it has read; nothing else waits for that."""
        await self.start()
        self.kamailio.confirms = False
        self.kamailio.call("7:1", NOBODY)
        await self.kamailio.until(lambda: len(self.kamailio.messages) == 2)
        self.assertEqual(self.kamailio.messages[0], self.kamailio.messages[1])
        self.kamailio.peers[0].send(event="done", id="7:1")
        self.kamailio.peers[0].send(event="done", id="unknown")
        self.kamailio.confirms = True
        for number in range(200):  # in turn: all at once may be too many for a busy machine
            self.kamailio.call(f"8:{number}", NOBODY)
            self.assertEqual(await self.kamailio.outcome(f"8:{number}"), "no-device")


class RateTests(KamailioTestCase):
    keys = "max_calls_per_s = 3\nroundtrip_wait_ms = 300\n"

    async def test_wait_and_rate_of_its_own(self) -> None:
        """As those of a [pbx:NAME]."""
        await self.start()
        await self.waiting_call("7:1")
        self.assertEqual(await self.kamailio.outcome("7:1"), "timeout")
        for number in range(20):
            self.kamailio.call(f"8:{number}", NOBODY)
        outcomes = {await self.kamailio.outcome(f"8:{number}") for number in range(20)}
        self.assertEqual(outcomes, {"no-device", "overloaded"})
        (retry,) = {
            m["retry_after"] for m in self.kamailio.messages if m["outcome"] == "overloaded"
        }
        self.assertGreater(retry, 0)


class ConnectionTests(KamailioTestCase):
    """Connections that are lost, and Kamailios that misbehave."""

    async def test_lost_connection_ends_its_calls_and_is_made_again(self) -> None:
        """Kamailio asks again on the next one."""
        await self.start()
        await self.waiting_call("7:1", "kamailio-a")
        self.kamailio.peers[0].transport.abortConnection()  # type: ignore[union-attr]
        await self.kamailio.until_ready(2)
        self.assertEqual(len(self.kamailio.peers), 2)
        self.kamailio.call("7:2", NOBODY)
        self.assertEqual(await self.kamailio.outcome("7:2"), "no-device")
        await self.until_metric("middlewared_calls_waiting 0.0")

    async def test_what_is_no_netstring_ends_the_connection(self) -> None:
        """So does a length beyond the bound; other odd messages are counted."""
        await self.start()
        for odd in (b"[1,", b"[" * 60_000, b"{}", b'{"event": []}', b'{"event":"call"}', b"7"):
            self.kamailio.peers[0].sendString(odd)
        self.kamailio.call("7:1", NOBODY)
        self.assertEqual(await self.kamailio.outcome("7:1"), "no-device")
        for number, odd in enumerate((b"nonsense", b"99999999:"), 2):
            self.kamailio.peers[-1].write(odd)
            await self.kamailio.until_ready(number)
        self.assertIn("what is no netstring", self.stage.daemon.log)

    async def test_kamailio_that_does_not_respond_is_disconnected(self) -> None:
        """After some seconds; its calls end."""
        await self.start()
        self.kamailio.responsive = False
        await self.kamailio.peers[0].closed
        self.kamailio.responsive = True
        await self.kamailio.until(lambda: len(self.kamailio.peers) == 2)
        self.assertIn("it does not respond", self.stage.daemon.log)

    async def test_kamailio_that_has_no_place_is_reported_once(self) -> None:
        """It closes each connection at once, as evapi does beyond max_clients."""
        await self.start()
        full = await self.started_kamailio()
        full.responsive = False
        config = self.directory / "middlewared.ini"
        config.write_text(config.read_text() + self.section("full", full))
        await self.reload()
        for number in range(3):
            await full.until_ready(number + 1)
            full.peers[number].close()
        await self.until_metric('middlewared_kamailio_connected{kamailio="full"} 0.0')
        log = self.stage.daemon.log
        self.assertNotIn("connected to kamailio full", log)
        self.assertEqual(log.count("kamailio full at"), 1)

    async def test_several_kamailios_and_a_reload(self) -> None:
        """Each has its own connection; a reload adds and removes them, and touches no other."""
        await self.start()
        other = await self.started_kamailio()
        sections = self.section("edge", self.kamailio)
        config = self.directory / "middlewared.ini"
        text = config.read_text()
        config.write_text(text + self.section("other", other))
        await self.reload()
        await other.until_ready()
        other.call("7:1", NOBODY)
        self.assertEqual(await other.outcome("7:1"), "no-device")
        config.write_text(text.replace(sections, self.section("other", other)))
        await self.reload()
        await self.kamailio.peers[0].closed
        self.assertEqual((len(self.kamailio.peers), len(other.peers)), (1, 1))

    async def test_drain_is_announced(self) -> None:
        """New calls go elsewhere, and those that remain get an outcome."""
        await self.start()
        await self.waiting_call("7:1")
        stopping = Deferred.fromCoroutine(self.stage.daemon.stop())
        await self.kamailio.until(lambda: "draining" in self.kamailio.states)
        self.kamailio.send("registered", sip_user_id=FIRST_ACCOUNT)
        self.assertEqual(await self.kamailio.outcome("7:1"), "answered")
        await stopping
