"""The simulated phones: each generation of the deployed apps, on the wire."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from middlewared.simulator import generations
from middlewared.simulator.generations import Effect, Generation
from middlewared.simulator.http1_server import HttpReply
from middlewared.simulator.phone import Phone, Phones, Reaction
from middlewared.simulator.record import AnyPush, GooglePush, ReceivedPush
from middlewared.simulator.scripts import ResetConnection, Stall
from tests.test_simulator_clients import KEY, SocketTestCase


def start_of(generation: Generation) -> object:
    """The start time in a push to this generation."""
    return 1575988800.1234567 if generation.platform == "apns" else "1575988800.1234567"


class PhoneTestCase(SocketTestCase):
    """Phones, a daemon with scripted replies, and pushes."""

    def phone(self, generation: Generation, **options: Any) -> Phone:
        phone = Phone(
            reactor=reactor,
            base_url=self.daemon.url,
            generation=generation,
            sip_user_id=123456789,
            token="t" * 8,
            app="com.voipgrid.vialer",
            authorization="Token user:abc",
            **options,
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(phone.stop()))
        return phone

    def payload(self, **changed: Any) -> dict[str, Any]:
        return {
            "type": "call",
            "unique_key": KEY,
            "phonenumber": "0501234567",
            "caller_id": "",
            "response_api": f"{self.daemon.url}/api/call-response/",
            "message_start_time": "1575988800.1234567",
            "attempt": "1",
            "vg_cid": KEY,
            **changed,
        }

    def android(self, **changed: Any) -> GooglePush:
        return GooglePush("v1", "t" * 8, self.payload(**changed), "HIGH", 4.0, 0.0)

    def ios(self, **changed: Any) -> ReceivedPush:
        numbers = {"message_start_time": 1575988800.1234567, "attempt": 1}
        payload = {"aps": {}, **self.payload(**{**numbers, **changed})}
        headers = {"apns-push-type": "voip"}
        return ReceivedPush("t" * 8, headers, payload, "production", 1, 1, 0.0)

    def push(self, generation: Generation, attempt: int = 1, **changed: Any) -> AnyPush:
        """A push for a phone of this generation."""
        if generation.platform == "apns":
            return self.ios(attempt=attempt, **changed)
        return self.android(attempt=str(attempt), **changed)

    def fields(self, at: int = -1) -> dict[str, Any]:
        """The fields of a request to the daemon."""
        request = self.daemon.requests[at]
        if "json" in request.headers["content-type"]:
            fields: dict[str, Any] = json.loads(request.body)
            return fields
        return dict(parse_qsl(request.body.decode(), keep_blank_values=True))

    def availability(self) -> list[object]:
        """The field ``available`` of all requests, in order."""
        return [self.fields(at)["available"] for at in range(len(self.daemon.requests))]


class PhoneRequestTests(PhoneTestCase):
    """Phones send the requests of their generation."""

    async def test_registration(self) -> None:
        """Every generation registers with its fields, body form and credentials."""
        self.daemon.steps = [HttpReply(201)]
        for generation in generations.GENERATIONS:
            self.assertEqual(await self.phone(generation).register(), 201)
            request = self.daemon.requests[-1]
            self.assertEqual(request.path, f"/api/{generation.platform}-device/")
            is_json = generation.registers is generations.Body.JSON
            self.assertEqual("json" in request.headers["content-type"], is_json)
            self.assertEqual(request.headers["authorization"], "Token user:abc")
            fields = self.fields()
            self.assertEqual(fields["sip_user_id"], "123456789")
            sent = {key for key, value in generation.extra.items() if value is not None}
            self.assertLessEqual(sent, fields.keys())
        self.assertIn(b"name=maker%20product", self.daemon.requests[0].body)

    async def test_unregistration(self) -> None:
        """A DELETE has a body; one generation puts its fields into the query instead."""
        await self.phone(generations.IOS_6).unregister()
        self.assertEqual(self.fields()["token"], "t" * 8)
        await self.phone(generations.FLUTTER_IOS).unregister()
        self.assertEqual(self.daemon.requests[-1].path, "/api/apns-device")
        await self.phone(generations.PIL_IOS).unregister()
        last = self.daemon.requests[-1]
        self.assertEqual((last.method, last.body), ("DELETE", b""))
        self.assertIn("/api/apns-device/?sip_user_id=123456789&", last.path)

    async def test_answers(self) -> None:
        """Each generation answers in its own format at its own path."""
        usual, number = "/api/call-response/", 1575988800.1234567
        for generation, path, available, start in (
            (generations.ANDROID_3, usual + usual[1:], "true", str(number)),
            (generations.ANDROID_6, usual, "true", str(number)),
            (generations.IOS_4, usual, "True", number),
            (generations.FLUTTER_DART_ANDROID, usual, "true", str(number)),
            (generations.FLUTTER_IOS, usual, "true", number),
            (generations.PIL_IOS, usual, "true", str(number)),
        ):
            phone = self.phone(generation)
            count = len(self.daemon.requests)
            phone.receive(self.push(generation, message_start_time=start_of(generation)))
            await self.daemon.got(count + 1)
            fields = self.fields()
            self.assertEqual(self.daemon.requests[-1].path, path)
            self.assertEqual((fields["unique_key"], fields["available"]), (KEY, available))
            self.assertEqual(fields["message_start_time"], start)
            self.assertEqual(phone.complaints, [])

    async def test_hosts_of_answers(self) -> None:
        """Android 5.4 posts to the host it was built with, iOS to that of the push."""
        elsewhere = "http://127.0.0.1:1/elsewhere/"
        self.phone(generations.ANDROID_6).receive(self.android(response_api=elsewhere))
        await self.daemon.got(1)
        self.assertEqual(self.daemon.requests[0].path, "/api/call-response/")
        phone = self.phone(generations.IOS_4)
        phone.receive(self.ios(response_api=f"{self.daemon.url}/elsewhere/"))
        await self.daemon.got(2)
        self.assertEqual(self.daemon.requests[1].path, "/api/call-response/")

    async def test_connections_are_not_shared(self) -> None:
        """Phones do not wait for each other: each request has its own connection."""
        self.daemon.steps = [Stall()]
        for number in range(20):
            phone = self.phone(generations.IOS_6)
            phone.receive(self.ios(unique_key=f"{number:032x}"))
        await self.daemon.got(20)
        self.assertEqual(self.daemon.connections_opened, 20)

    async def test_a_lost_daemon_is_status_0(self) -> None:
        """No app retries: a lost connection is recorded."""
        self.daemon.steps = [ResetConnection()]
        self.assertEqual(await self.phone(generations.ANDROID_6).register(), 0)

    async def test_refused_answers(self) -> None:
        """What an app does on 404 and on 401 to its call-response, and on a lost registration."""
        for generation, on_404, on_401 in (
            (generations.ANDROID_6, [Effect.SIP_STOPPED], [Effect.LOGGED_OUT]),
            (generations.IOS_4, [], [Effect.LOGGED_OUT]),
            (generations.IOS_6, [Effect.CALL_FAILED], [Effect.LOGGED_OUT]),
            (generations.FLUTTER_DART_ANDROID, [], [Effect.LOGGED_OUT]),
            (generations.FLUTTER_IOS, [], []),
        ):
            for status, effects in ((202, []), (404, on_404), (401, on_401)):
                self.daemon.steps = [HttpReply(status)]
                phone = self.phone(generation)
                data = self.payload(message_start_time=start_of(generation))
                self.assertEqual(await phone.answer(data, available=True), status)
                self.assertEqual((generation.name, phone.effects), (generation.name, effects))
        self.daemon.steps = [HttpReply(503)]
        for generation, effects in (
            (generations.ANDROID_3_0, [Effect.VOIP_OFF]),
            (generations.ANDROID_3, []),
        ):
            phone = self.phone(generation)
            await phone.register()
            self.assertEqual(phone.effects, effects)

    async def test_a_user_who_was_logged_out(self) -> None:
        """The app has lost its account: pushes no longer wake it."""
        self.daemon.steps = [HttpReply(401)]
        phone = self.phone(generations.ANDROID_6)
        await phone.register()
        phone.receive(self.android())
        self.assertEqual((phone.effects, phone.pushes), ([Effect.LOGGED_OUT], []))


class PhonePushTests(PhoneTestCase):
    """Phones read and answer pushes as their generation does."""

    async def test_reactions(self) -> None:
        """A phone can repeat answers, write 1.5E9, be slow, miss pushes, or not answer."""
        phone = self.phone(generations.ANDROID_6)
        phone.reaction = Reaction(delay_s=0.01, repeats=1, scientific=True)
        phone.receive(self.android())
        await self.daemon.got(2)
        self.assertIn("E+09", self.fields()["message_start_time"])
        phone.reaction = Reaction(from_attempt=2)
        phone.receive(self.android(unique_key="other"))
        phone.reaction = Reaction(available=None)
        phone.receive(self.android(unique_key="third"))
        await phone.stop()
        self.assertEqual(len(self.daemon.requests), 2)

    async def test_repeated_pushes(self) -> None:
        """
        Native Android and Flutter iOS answer false to a repeat, and true to the first push when
        they are ready; Flutter Android knows the key; old iOS handles each.
        """
        for generation, answers, effects in (
            (generations.ANDROID_6, ["false", "false", "true"], []),
            (generations.FLUTTER_IOS, ["false", "false", "true"], [Effect.GHOST_CALL] * 2),
            (generations.FLUTTER_ANDROID, ["true"], []),
            (generations.IOS_4, ["True"] * 3, []),
        ):
            self.daemon.requests.clear()
            phone = self.phone(generation, reaction=Reaction(0.1))
            for attempt in (1, 2, 3):
                phone.receive(self.push(generation, attempt))
            await self.daemon.got(len(answers))
            self.assertEqual((generation.name, self.availability()), (generation.name, answers))
            self.assertEqual(phone.effects, effects)

    async def test_busy_phones(self) -> None:
        """They answer false at once, except old iOS, only at the eighth attempt."""
        for generation, answers in ((generations.ANDROID_6, "false"), (generations.IOS_6, "False")):
            phone = self.phone(generation, reaction=Reaction(available=False))
            count = len(self.daemon.requests)
            phone.receive(self.push(generation))
            await self.daemon.got(count + 1)
            self.assertEqual(self.availability()[-1], answers)
        phone = self.phone(generations.IOS_4, reaction=Reaction(available=False))
        for attempt in range(1, 9):
            phone.receive(self.ios(attempt=attempt))
        await self.daemon.got(3)
        await phone.stop()
        self.assertEqual(self.availability()[2:], ["False"])

    async def test_phones_without_usable_data(self) -> None:
        """Native apps wait for the next attempt; those that ring first have no further one."""
        for generation, answers in (
            (generations.ANDROID_6, ["true"]),
            (generations.IOS_4, ["True"]),
            (generations.FLUTTER_ANDROID, []),
            (generations.FLUTTER_IOS, ["false"]),
        ):
            self.daemon.requests.clear()
            phone = self.phone(generation, reaction=Reaction(data_from_attempt=2))
            phone.receive(self.push(generation, 1))
            phone.receive(self.push(generation, 2))
            await self.daemon.got(len(answers))
            await phone.stop()
            self.assertEqual((generation.name, self.availability()), (generation.name, answers))

    async def test_unreadable_pushes(self) -> None:
        """The effect on an app of a push it cannot read, and which it does not answer."""
        for generation, wrong, effect in (
            (generations.ANDROID_3, {"message_start_time": ""}, Effect.CRASHED),
            (generations.ANDROID_6, {"attempt": "1.0"}, Effect.CRASHED),
            (generations.ANDROID_6, {"type": "checkin"}, Effect.IGNORED),
            (generations.ANDROID_6, {"type": None}, Effect.IGNORED),
            (generations.FLUTTER_ANDROID, {"vg_cid": None}, Effect.CRASHED),
            (generations.IOS_4, {"type": "checkin"}, Effect.IGNORED),
            (generations.IOS_6, {"unique_key": "1234"}, Effect.KILLED),
            (generations.IOS_6, {"phonenumber": ""}, Effect.KILLED),
            (generations.FLUTTER_IOS, {"response_api": None}, Effect.CRASHED),
        ):
            phone = self.phone(generation)
            push = self.ios(**wrong) if generation.platform == "apns" else self.android(**wrong)
            phone.receive(push)
            (key,) = wrong
            self.assertEqual(phone.complaints, [f"{key}: {effect.value}"], generation.name)
            self.assertEqual((phone.effects, phone.pushes), ([effect], []), generation.name)
        self.assertEqual(self.daemon.requests, [])

    async def test_misread_pushes(self) -> None:
        """Misread values are recorded, and the call is handled anyway."""
        for generation, wrong in (
            (generations.ANDROID_6, {"message_start_time": "1575988800.12"}),
            (generations.IOS_6, {"message_start_time": "1575988800.1234567"}),
            (generations.IOS_6, {"caller_id": None}),
        ):
            phone = self.phone(generation)
            count = len(self.daemon.requests)
            phone.receive(
                self.ios(**wrong) if generation.platform == "apns" else self.android(**wrong)
            )
            await self.daemon.got(count + 1)
            self.assertEqual((phone.effects, len(phone.complaints)), ([Effect.MISREAD], 1))

    async def test_what_each_needs_is_enough_for_it(self) -> None:
        """Apps ignore vg_cid and type if they do not know them."""
        for generation, changed in (
            (generations.ANDROID_6, {"vg_cid": None, "response_api": None}),
            (generations.FLUTTER_DART_ANDROID, {"vg_cid": None}),
            (generations.IOS_6, {"type": "whatever", "vg_cid": None}),
            (generations.FLUTTER_IOS, {"type": None}),
        ):
            phone = self.phone(generation, reaction=Reaction(available=None))
            push = self.ios(**changed) if generation.platform == "apns" else self.android(**changed)
            phone.receive(push)
            self.assertEqual((phone.complaints, phone.effects, len(phone.pushes)), ([], [], 1))

    async def test_notices(self) -> None:
        """A message to Android, or an alert, is shown; phones are found by token."""
        android, ios = self.phone(generations.ANDROID_6), self.phone(generations.IOS_6)
        phones = Phones()
        phones.add(android)
        phones(self.android(type="message", message="An other device"))
        self.assertEqual(android.notices, ["An other device"])
        self.assertEqual(android.effects, [Effect.VOIP_OFF])
        phones.remove(android)
        phones(self.android())
        self.assertEqual(android.pushes, [])
        payload = {"aps": {"alert": {"body": "An other device"}}}
        headers = {"apns-push-type": "alert"}
        ios.receive(ReceivedPush("t" * 8, headers, payload, "production", 1, 1, 0.0))
        self.assertEqual((ios.notices, ios.effects), (["An other device"], []))

    async def test_messages_that_do_harm(self) -> None:
        """By VoIP push to iOS; to Flutter, one with an unknown text."""
        message: dict[str, Any] = {"type": "message", "message": "A other device has registered"}
        for generation, effect in (
            (generations.IOS_4, Effect.VOIP_OFF),
            (generations.IOS_6, Effect.KILLED),
            (generations.FLUTTER_IOS, Effect.GHOST_CALL),
            (generations.FLUTTER_ANDROID, Effect.IGNORED),
        ):
            phone = self.phone(generation)
            phone.receive(self.push(generation, **message))
            self.assertEqual((phone.effects, len(phone.complaints)), ([effect], 1))

    async def test_voip_switched_off(self) -> None:
        """An app with VoIP switched off answers false."""
        phone = self.phone(generations.IOS_4)
        phone.receive(self.ios(type="message", message="An other device"))
        phone.receive(self.ios())
        await self.daemon.got(1)
        self.assertEqual(self.availability(), ["False"])
