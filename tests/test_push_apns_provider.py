"""The APNs provider against the simulated Apple, over real TLS and HTTP/2."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs, formatEvent

from middlewared.push.apns.mass_refusal import MASS
from middlewared.push.apns.provider import ApnsProvider
from middlewared.push.interface import (
    MALFORMED_TOKEN,
    Accepted,
    ConfigFault,
    NoticePush,
    Rejected,
    Temporary,
    TokenDead,
    TokenSuspect,
)
from middlewared.simulator.apple.faults import (
    Behaviour,
    ExtraHeaders,
    GoAway,
    Greeting,
    Interim,
    Padding,
    Reject,
    ResetStream,
    StreamLimit,
    Trailers,
    rejection,
)
from middlewared.simulator.apple.server import AppleServer
from middlewared.simulator.certificates import Authority
from middlewared.simulator.scripts import Delay, ResetConnection, Stall
from tests.apns import APP, OTHER_TOKEN, TOKEN, AppleTestCase, call_push, device, reactor
from tests.waiting import until

ODD_TOKENS = (
    "a",
    "a" * 201,
    "../../ab",
    "%2e%2e",
    "ab cd",
    " ",
    "ab\r\n",
    "abc\n",
    "not-hex",
    "٣٣",
    "é",
)


def tokens(count: int) -> list[str]:
    """Different device tokens."""
    return [f"{number:064x}" for number in range(count)]


class SendingTests(AppleTestCase):
    """Pushes and their results."""

    async def test_a_call_is_pushed_with_a_certificate(self) -> None:
        """The push carries what a VoIP push needs."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        push = call_push()
        self.assertEqual(await provider.send(push), Accepted())
        (received,) = apple.record.delivered
        self.assertEqual(received.token, TOKEN)
        self.assertEqual(received.headers["apns-push-type"], "voip")
        self.assertEqual(received.headers["apns-topic"], "com.voipgrid.vialer.voip")
        self.assertEqual(received.payload["unique_key"], push.call.unique_key)

    async def test_the_expiration_is_the_deadline_by_the_wall_clock(self) -> None:
        """Apple knows nothing of the clock that deadlines are measured by."""
        apple = await self.serve()
        ahead_s = 5000
        provider = self.provide(self.settings(apple.url), wall=lambda: reactor.seconds() + ahead_s)
        push = call_push()
        await provider.send(push)
        (received,) = apple.record.delivered
        expiration = int(received.headers["apns-expiration"])
        self.assertLess(abs(expiration - push.deadline - ahead_s), 2)

    async def test_a_call_is_pushed_with_a_provider_token(self) -> None:
        """A team's key works as well as a certificate."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, credentials=self.by_key()))
        self.assertEqual(await provider.send(call_push()), Accepted())
        self.assertEqual(list(apple.record.refused), [])

    async def test_each_push_has_an_id_of_its_own(self) -> None:
        """Apple drops a repeat of the same apns-id."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        push = call_push()
        for _ in range(2):
            await provider.send(push)
        first, second = apple.record.delivered
        self.assertNotEqual(first.headers["apns-id"], second.headers["apns-id"])

    async def test_the_device_chooses_the_environment(self) -> None:
        """A sandbox device's token lives in the sandbox."""
        production, sandbox = await self.serve(), await self.serve(environment="sandbox")
        provider = self.provide(self.settings(production.url, sandbox.url))
        self.assertEqual(await provider.send(call_push(sandbox=True)), Accepted())
        self.assertEqual(len(sandbox.record.delivered), 1)
        self.assertEqual(len(production.record.delivered), 0)

    async def test_a_notice_is_an_alert_to_the_other_token(self) -> None:
        """A VoIP push without a call would get the app killed."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        push = NoticePush(device(notices=OTHER_TOKEN), "An other device", reactor.seconds() + 4)
        self.assertEqual(await provider.send(push), Accepted())
        (received,) = apple.record.delivered
        self.assertEqual(received.token, OTHER_TOKEN)
        self.assertEqual(received.headers["apns-push-type"], "alert")
        self.assertEqual(received.headers["apns-topic"], "com.voipgrid.vialer")
        self.assertEqual(received.payload["aps"]["alert"]["body"], "An other device")

    async def test_no_notice_without_a_token_for_it(self) -> None:
        """Nothing is sent then."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        push = NoticePush(device(), "An other device", reactor.seconds() + 4)
        self.assertEqual(await provider.send(push), Rejected("no notification token"))
        self.assertEqual(apple.record.received_count, 0)

    async def test_a_malformed_token_is_not_pushed_to(self) -> None:
        """Neither of a call nor of a notice: it would become a part of the path."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, apple.url))
        deadline = reactor.seconds() + 4
        for odd in ODD_TOKENS:
            self.assertEqual(await provider.send(call_push(odd)), MALFORMED_TOKEN)
            notice = NoticePush(device(notices=odd), "x", deadline)
            self.assertEqual(await provider.send(notice), MALFORMED_TOKEN)
        for good in ("aB" * 32, "0" * 200):
            self.assertEqual(await provider.send(call_push(good)), Accepted())
        self.assertEqual(apple.record.received_count, 2)

    async def test_too_large_is_sent_again_without_the_name(self) -> None:
        """Only the caller's name can be spared; refused again it is our bug."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        for refused, result in ((1, Accepted()), (2, Rejected("PayloadTooLarge"))):
            apple.scripts.for_next(refused, rejection("PayloadTooLarge"))
            self.assertEqual(await provider.send(call_push()), result)
            first, second = list(apple.record.received)[-2:]
            self.assertNotEqual(first.payload["caller_id"], "")
            self.assertEqual(second.payload, {**first.payload, "caller_id": ""})
            self.assertNotEqual(second.headers["apns-id"], first.headers["apns-id"])

    async def test_retries_prefer_another_connection(self) -> None:
        """A temporary refusal, 429 too: the next push goes over a connection that gave none."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        await until(lambda: provider.connection_states()["production", "ready"] == 2)
        for reason in ("TooManyRequests", "InternalServerError"):
            apple.scripts.for_next(1, rejection(reason))
            self.assertIsInstance(await provider.send(call_push()), Temporary)
            self.assertEqual(await provider.send(call_push()), Accepted())
            first, second = list(apple.record.received)[-2:]
            self.assertNotEqual(second.connection, first.connection)
            await self.replace_connections(apple, provider)

    async def replace_connections(self, apple: AppleServer, provider: ApnsProvider) -> None:
        """New connections, of which nothing bad is known."""
        seen = apple.record.connection_count
        apple.drop_connections()
        await until(
            lambda: (
                apple.record.connection_count >= seen + 2
                and provider.connection_states()["production", "ready"] == 2
            )
        )

    async def test_refusals(self) -> None:
        """Each is interpreted by the table, with its details."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        for step, result in (
            (
                rejection("Unregistered", timestamp_ms=1_700_000_000_500),
                TokenDead("Unregistered", since=1_700_000_000.5),
            ),
            (rejection("DeviceTokenNotForTopic"), TokenSuspect("DeviceTokenNotForTopic")),
            (rejection("TopicDisallowed"), ConfigFault("TopicDisallowed")),
            (rejection("TooManyRequests", retry_after="2"), Temporary("TooManyRequests", 2.0)),
            (rejection("InternalServerError"), Temporary("InternalServerError")),
            (rejection("TooManyProviderTokenUpdates"), Temporary("TooManyProviderTokenUpdates")),
            (Reject(500, "", body=b"<html>"), Temporary("HTTP 500")),
            (Reject(418, "", body=b"x" * 16_000), Rejected("HTTP 418")),
        ):
            apple.scripts.for_next(1, step)
            self.assertEqual(await provider.send(call_push()), result)

    async def test_answers_in_every_legal_form(self) -> None:
        """Interim answers, long headers, padding and trailers."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        headers = tuple((f"x-{number}", "v" * 200) for number in range(100))
        apple.scripts.for_next(
            1, Interim(), ExtraHeaders(headers), Padding(), Trailers(), rejection("BadTopic")
        )
        self.assertEqual(await provider.send(call_push()), ConfigFault("BadTopic"))

    async def test_many_pushes_at_once(self) -> None:
        """All of them arrive, each once."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        results = await gatherResults(
            [self.sending(provider, call_push(token, wait_s=60)) for token in tokens(300)]
        )
        self.assertEqual(results, [Accepted()] * 300)
        self.assertEqual(sorted(p.token for p in apple.record.delivered), tokens(300))


class EnvironmentTests(AppleTestCase):
    """A token of the environment that the device did not name."""

    async def serve_both(self, **options: Any) -> tuple[AppleServer, AppleServer, ApnsProvider]:
        """Production, sandbox, and a provider of both."""
        production = await self.serve(tokens=[TOKEN])
        sandbox = await self.serve(environment="sandbox", tokens=[OTHER_TOKEN], **options)
        return production, sandbox, self.provide(self.settings(production.url, sandbox.url))

    async def test_the_other_environment_is_tried_once(self) -> None:
        """That it accepted the push is passed on, to be stored with the device."""
        production, sandbox, provider = await self.serve_both()
        result = await provider.send(call_push(OTHER_TOKEN))
        self.assertEqual(result, Accepted(other_environment=True))
        self.assertEqual(list(production.record.refused), ["BadDeviceToken"])
        self.assertEqual(len(sandbox.record.delivered), 1)

    async def test_a_token_of_neither_is_suspect(self) -> None:
        """One request to each, and the device is kept."""
        production, sandbox, provider = await self.serve_both()
        result = await provider.send(call_push("ef" * 32))
        self.assertEqual(result, TokenSuspect("BadDeviceToken"))
        self.assertEqual(list(production.record.refused), ["BadDeviceToken"])
        self.assertEqual(list(sandbox.record.refused), ["BadDeviceToken"])

    async def test_dead_in_the_other_environment_is_dead(self) -> None:
        """Apple knows the token there."""
        _, sandbox, provider = await self.serve_both()
        sandbox.scripts.for_next(1, rejection("Unregistered", timestamp_ms=1000))
        result = await provider.send(call_push(OTHER_TOKEN))
        self.assertEqual(result, TokenDead("Unregistered", since=1.0))

    async def test_an_unreachable_other_environment_does_not_delay_the_result(self) -> None:
        """A failed call ends long before its deadline."""
        production = await self.serve(tokens=[TOKEN])
        down = await self.serve()
        await down.stop()
        provider = self.provide(self.settings(production.url, down.url))
        result = await provider.send(call_push(OTHER_TOKEN, wait_s=60))
        self.assertEqual(result, TokenSuspect("BadDeviceToken"))

    async def test_the_same_refusal_of_many_devices_is_a_fault_of_ours(self) -> None:
        """It is reported as one, and the alarm is logged once."""
        _, _, provider = await self.serve_both()
        with capturedLogs() as events:
            results = [await provider.send(call_push(token)) for token in tokens(MASS + 1)]
        self.assertEqual(results[MASS - 2], TokenSuspect("BadDeviceToken"))
        self.assertEqual(results[MASS - 1 :], [ConfigFault("BadDeviceToken")] * 2)
        (alarm,) = (event for event in events if event["log_level"] is LogLevel.critical)
        self.assertIn("refuses many devices with BadDeviceToken", str(formatEvent(alarm)))

    async def test_a_wrong_topic_is_a_warning_from_the_first_device_on(self) -> None:
        """Once a minute; a token that is bad in both environments may be the app's own mistake."""
        apple, _, provider = await self.serve_both()
        with capturedLogs() as events:
            for reason in ("DeviceTokenNotForTopic", "DeviceTokenNotForTopic", "BadDeviceToken"):
                apple.scripts.for_next(1, rejection(reason))
                self.assertEqual(await provider.send(call_push()), TokenSuspect(reason))
        warned = [str(formatEvent(each)) for each in events if each["log_level"] > LogLevel.info]
        self.assertEqual(
            warned, [f"Apple refuses push tokens of {APP}: DeviceTokenNotForTopic (production)"]
        )

    async def test_a_refused_certificate_is_no_line_for_each_push(self) -> None:
        """An error and a warning, although each refusal ends its connection."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, "", connections=1))
        apple.scripts.for_next(4, rejection("BadCertificate"))
        with capturedLogs() as events:
            for _ in range(4):
                self.assertEqual(await provider.send(call_push()), ConfigFault("BadCertificate"))
            self.assertEqual(await provider.send(call_push()), Accepted())
        shown = [
            (each["log_level"], str(formatEvent(each)))
            for each in events
            if each["log_level"] >= LogLevel.info and "BadCertificate" in str(formatEvent(each))
        ]
        self.assertCountEqual(
            shown,
            [
                (LogLevel.error, f"Apple refuses pushes of {APP}: BadCertificate (production)"),
                (
                    LogLevel.warn,
                    f"{APP} production: Apple responded BadCertificate; connecting again",
                ),
            ],
        )
        self.assertEqual(apple.record.connection_count, 5)

    async def test_notices_raise_no_alarm_for_calls(self) -> None:
        """Their tokens and topic are others; and calls that arrive excuse no notice."""
        _, _, provider = await self.serve_both()
        with capturedLogs() as events:
            notices = [
                await provider.send(NoticePush(device(notices=token), "x", reactor.seconds() + 4))
                for token in tokens(MASS)
            ]
            for _ in range(MASS + 1):
                self.assertEqual(await provider.send(call_push()), Accepted())
            call = await provider.send(call_push(tokens(1)[0]))
        self.assertEqual(notices[-1], ConfigFault("BadDeviceToken"))
        self.assertEqual(call, TokenSuspect("BadDeviceToken"))
        (alarm,) = (event for event in events if event["log_level"] is LogLevel.critical)
        self.assertIn("BadDeviceToken (notices)", str(formatEvent(alarm)))

    async def test_notices_that_arrive_excuse_no_refused_calls(self) -> None:
        """The calls' topic may be wrong all the same."""
        _, _, provider = await self.serve_both()
        for _ in range(MASS + 1):
            notice = NoticePush(device(notices=TOKEN), "x", reactor.seconds() + 4)
            self.assertEqual(await provider.send(notice), Accepted())
        results = [await provider.send(call_push(token)) for token in tokens(MASS)]
        self.assertEqual(results[-1], ConfigFault("BadDeviceToken"))


class ProviderTokenTests(AppleTestCase):
    """Pushes with a key."""

    async def test_an_expired_token_is_renewed_and_the_push_resent_once(self) -> None:
        """The caller does not notice."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, credentials=self.by_key()))
        apple.scripts.for_next(1, rejection("ExpiredProviderToken"))
        self.assertEqual(await provider.send(call_push()), Accepted())
        first, second = apple.record.received
        self.assertNotEqual(first.headers["authorization"], second.headers["authorization"])

    async def test_a_second_expiry_is_a_fault(self) -> None:
        """Two requests, no more: our clock or key is wrong."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, credentials=self.by_key()))
        apple.scripts.for_next(2, rejection("ExpiredProviderToken"))
        self.assertEqual(await provider.send(call_push()), ConfigFault("ExpiredProviderToken"))
        self.assertEqual(apple.record.received_count, 2)

    async def test_many_expired_at_once_make_one_new_token(self) -> None:
        """Pushes that are refused later use the token that was made."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, credentials=self.by_key(), connections=1))
        self.assertEqual(await provider.send(call_push()), Accepted())
        apple.scripts.for_next(20, rejection("ExpiredProviderToken"))
        results = await gatherResults(
            [self.sending(provider, call_push(token)) for token in tokens(20)]
        )
        self.assertEqual(results, [Accepted()] * 20)
        self.assertEqual(len({p.headers["authorization"] for p in apple.record.received}), 2)

    async def test_too_many_updates_keep_the_token(self) -> None:
        """A new one would only make it worse."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, credentials=self.by_key()))
        apple.scripts.for_next(1, rejection("TooManyProviderTokenUpdates"))
        for result in (Temporary("TooManyProviderTokenUpdates"), Accepted()):
            self.assertEqual(await provider.send(call_push()), result)
        self.assertEqual(len({p.headers["authorization"] for p in apple.record.received}), 1)

    async def test_one_stream_until_the_first_success(self) -> None:
        """Apple's limit with provider tokens; nothing is refused because of it."""
        apple = await self.serve(behaviour=Behaviour(one_until_success=True))
        provider = self.provide(self.settings(apple.url, credentials=self.by_key()))
        results = await gatherResults(
            [self.sending(provider, call_push(token)) for token in tokens(50)]
        )
        self.assertEqual(results, [Accepted()] * 50)
        self.assertEqual(list(apple.record.violations), [])

    async def test_two_apps_of_a_team_share_their_token(self) -> None:
        """One for each team and key in the process."""
        apple = await self.serve()
        for _ in range(2):
            provider = self.provide(self.settings(apple.url, credentials=self.by_key()))
            self.assertEqual(await provider.send(call_push()), Accepted())
        first, second = apple.record.received
        self.assertEqual(first.headers["authorization"], second.headers["authorization"])


class TroubleTests(AppleTestCase):
    """Connections that fail; nothing is lost, nothing is pushed twice."""

    connections = 1

    async def send_all(self, provider: ApnsProvider, count: int) -> list[Any]:
        """Send to so many devices at once."""
        return await gatherResults(
            [self.sending(provider, call_push(token, wait_s=60)) for token in tokens(count)]
        )

    def assert_delivered_once(self, apple: AppleServer, count: int) -> None:
        """Each of them got its push, once."""
        self.assertEqual(sorted(p.token for p in apple.record.delivered), tokens(count))

    async def test_goaway_after_some_pushes_loses_none(self) -> None:
        """The unprocessed ones go to the next connection."""
        apple = await self.serve(behaviour=Behaviour(goaway_after=50))
        provider = self.provide(self.settings(apple.url))
        self.assertEqual(await self.send_all(provider, 220), [Accepted()] * 220)
        self.assert_delivered_once(apple, 220)
        self.assertGreater(apple.record.connection_count, 4)

    async def test_goaway_at_every_point(self) -> None:
        """However few pushes a connection takes, all get through, in the end and once."""
        for taken in (1, 2, 3, 7):
            apple = await self.serve(behaviour=Behaviour(goaway_after=taken))
            provider = self.provide(self.settings(apple.url))
            self.assertEqual(await self.send_all(provider, 20), [Accepted()] * 20)
            self.assert_delivered_once(apple, 20)

    async def test_goaway_that_leaves_out_streams(self) -> None:
        """Those above the last id are replayed, those below finish."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        await provider.send(call_push())
        apple.record.delivered.clear()
        apple.scripts.for_next(15)
        apple.scripts.for_next(1, GoAway(unprocessed=4))
        result = await self.send_all(provider, 20)
        self.assertEqual(result, [Accepted()] * 20)
        self.assert_delivered_once(apple, 20)

    async def test_refused_streams_are_replayed(self) -> None:
        """The same request, for it was not processed."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        apple.scripts.for_next(5, ResetStream(7))
        self.assertEqual(await self.send_all(provider, 20), [Accepted()] * 20)
        self.assert_delivered_once(apple, 20)

    async def test_a_peer_that_refuses_for_ever(self) -> None:
        """In the end its refusal is the result; the layer above backs off."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        apple.scripts.for_token(TOKEN, ResetStream(7))
        self.assertEqual(await provider.send(call_push()), Temporary("refused unprocessed"))

    async def test_a_slow_answer_keeps_its_connection(self) -> None:
        """PINGs are answered, so the push waits."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        apple.scripts.for_next(1, Delay(1.3))
        self.assertEqual(await provider.send(call_push()), Accepted())
        self.assertEqual(apple.record.connection_count, 2)  # one in each environment

    async def test_a_push_ends_at_its_deadline(self) -> None:
        """Whatever the peer does."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        await provider.send(call_push())  # it is connected: the next one is sent at once
        apple.scripts.for_next(1, Stall())
        since = reactor.seconds()
        result = await provider.send(call_push(wait_s=0.1))
        self.assert_uncertain(result, "deadline", since=since)
        self.assertEqual(await provider.send(call_push()), Accepted())

    async def test_a_push_whose_call_is_over_is_not_sent(self) -> None:
        """Neither from the queue nor as a new one."""
        apple = await self.serve(behaviour=Behaviour(greeting=Greeting.NO_SETTINGS))
        provider = self.provide(self.settings(apple.url))
        self.assertEqual(await provider.send(call_push(wait_s=0.1)), Temporary("deadline"))
        self.assertEqual(await provider.send(call_push(wait_s=-1)), Temporary("deadline"))
        self.assertEqual(apple.record.received_count, 0)

    async def test_a_withdrawn_push_is_not_sent(self) -> None:
        """When the PBX hung up before a connection was there."""
        apple = await self.serve(behaviour=Behaviour(max_concurrent_streams=1))
        provider = self.provide(self.settings(apple.url))
        await provider.send(call_push(OTHER_TOKEN))
        apple.scripts.for_next(1, Delay(0.05))
        first = self.sending(provider, call_push(tokens(3)[0]))
        second = self.sending(provider, call_push(tokens(3)[1]))
        third = self.sending(provider, call_push(tokens(3)[2]))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual([await first, await third], [Accepted(), Accepted()])
        self.assertNotIn(tokens(3)[1], [p.token for p in apple.record.received])

    async def test_a_push_waits_for_a_provider_that_comes_back(self) -> None:
        """A restart of the server delays the push, but does not lose it."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        self.assertEqual(await provider.send(call_push()), Accepted())
        await apple.stop()
        await until(lambda: provider.connection_states()["production", "ready"] == 0)
        waiting = self.sending(provider, call_push())
        await deferLater(reactor, 0.1)
        await apple.start()
        self.assertEqual(await waiting, Accepted())

    async def test_shutdown_moves_to_another_connection(self) -> None:
        """The connection on which it came gets no more pushes."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        apple.scripts.for_next(1, rejection("Shutdown"))
        self.assertEqual(await provider.send(call_push()), Temporary("Shutdown", 0))
        self.assertEqual(await provider.send(call_push()), Accepted())
        first, second = apple.record.received
        self.assertNotEqual(first.connection, second.connection)

    async def test_a_limit_that_drops_under_load(self) -> None:
        """What is above it waits."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        await provider.send(call_push(OTHER_TOKEN))
        apple.record.delivered.clear()
        apple.scripts.for_token(tokens(60)[10], StreamLimit(1))
        self.assertEqual(await self.send_all(provider, 60), [Accepted()] * 60)
        self.assertEqual(list(apple.record.violations), [])

    async def test_no_header_table(self) -> None:
        """The update of the table's size is sent; the peer requires it."""
        apple = await self.serve(behaviour=Behaviour(header_table_size=0))
        provider = self.provide(self.settings(apple.url))
        self.assertEqual(await self.send_all(provider, 30), [Accepted()] * 30)
        self.assertEqual(list(apple.record.violations), [])

    async def test_tiny_windows(self) -> None:
        """Bodies trickle, and all arrive."""
        apple = await self.serve(behaviour=Behaviour(initial_window=7))
        provider = self.provide(self.settings(apple.url))
        self.assertEqual(await self.send_all(provider, 30), [Accepted()] * 30)
        self.assertEqual(list(apple.record.violations), [])


class RefusedConnectionTests(AppleTestCase):
    """No connection, for a reason that only an operator can remove: reported at once."""

    connections = 1

    async def test_a_refused_client_certificate(self) -> None:
        """No call has to wait for the result."""
        other = Authority(folder=self.folder, name="other")
        apple = await self.serve(client_authority=other.certificate)
        provider = self.provide(self.settings(apple.url))
        self.assertEqual(
            await provider.send(call_push(wait_s=60)), ConfigFault("client certificate refused")
        )
        self.assertEqual(
            await provider.send(call_push(wait_s=60)), ConfigFault("client certificate refused")
        )

    async def test_a_lasting_refusal_is_logged_once_and_not_hammered(self) -> None:
        """
        The log names the cause, once for all connections; pushes do not make the attempts
        more frequent.
        """
        self.connections = 2
        other = Authority(folder=self.folder, name="other")
        apple = await self.serve(client_authority=other.certificate)
        with capturedLogs() as events:
            provider = self.provide(self.settings(apple.url))
            await until(lambda: len(apple.record.violations) >= 6)
            for _ in range(50):
                await provider.send(call_push())
        errors = [event for event in events if event["log_level"] is LogLevel.error]
        self.assertEqual(
            sorted(str(formatEvent(event)) for event in errors),
            [
                f"Apple refuses pushes of {APP}: client certificate refused (production)",
                f"{APP} production: not connected: client certificate refused",
                f"{APP} sandbox: not connected: client certificate refused",
            ],
        )
        self.assertLess(len(apple.record.violations), 12)

    async def test_an_untrusted_server(self) -> None:
        """Its authority is not ours."""
        other = Authority(folder=self.folder, name="other")
        apple = AppleServer(reactor=reactor, certificate=other.server(name="untrusted"))
        await apple.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(apple.stop()))
        provider = self.provide(self.settings(apple.url))
        self.assertEqual(
            await provider.send(call_push(wait_s=60)),
            ConfigFault("server certificate not trusted"),
        )

    async def test_a_server_of_another_name(self) -> None:
        """Trusted, but not the one we meant."""
        certificate = self.authority.server(name="elsewhere", hosts=["elsewhere.example"])
        apple = AppleServer(reactor=reactor, certificate=certificate)
        await apple.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(apple.stop()))
        provider = self.provide(self.settings(apple.url))
        self.assertEqual(
            await provider.send(call_push(wait_s=60)),
            ConfigFault("wrong host name in the server's certificate"),
        )

    async def test_goaway_with_a_reason(self) -> None:
        """Apple may report the fault in a GOAWAY, too."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        apple.scripts.for_next(1, GoAway(unprocessed=1, reason="BadCertificate", close=True))
        self.assertEqual(await provider.send(call_push()), ConfigFault("BadCertificate"))

    async def test_connections_that_come_to_nothing(self) -> None:
        """They are tried again until the push is served."""
        apple = await self.serve()
        for greeting in (Greeting.CLOSE, Greeting.RESET):
            apple.next_behaviours.append(Behaviour(greeting=greeting))
        provider = self.provide(self.settings(apple.url))
        self.assertEqual(await provider.send(call_push()), Accepted())


class LifeTests(AppleTestCase):
    """Start, reload, states and stop."""

    async def test_states_and_expiry_are_reported(self) -> None:
        """For the metrics."""
        apple = await self.serve()
        credentials = self.by_certificate()
        provider = self.provide(self.settings(apple.url, credentials=credentials))
        self.assertEqual(provider.connection_states()["production", "connecting"], 2)
        await until(lambda: provider.connection_states()["sandbox", "ready"] == 2)
        self.assertEqual(provider.credential_expiry, credentials.not_after)

    async def test_up_is_whether_production_is_connected(self) -> None:
        """None until the first attempt has ended."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        self.assertIsNone(provider.up)
        await until(lambda: provider.up is True)
        await apple.stop()
        await until(lambda: provider.up is False)

    async def test_a_key_does_not_expire(self) -> None:
        """There is no date to report."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, credentials=self.by_key()))
        self.assertIsNone(provider.credential_expiry)

    async def test_stopping_ends_what_is_in_flight_or_queued(self) -> None:
        """Those that were sent are uncertain."""
        apple = await self.serve(behaviour=Behaviour(max_concurrent_streams=1))
        provider = self.provide(self.settings(apple.url, connections=1))
        apple.scripts.for_token(TOKEN, Stall())
        since = reactor.seconds()
        sending = [self.sending(provider, call_push()) for _ in range(5)]
        await until(lambda: apple.record.received_count > 0)
        await provider.stop()
        sent, *queued = await gatherResults(sending)
        self.assert_uncertain(sent, "stopped", since=since)
        self.assertEqual(queued, [Temporary("stopped")] * 4)
        self.assertEqual(await provider.send(call_push()), Temporary("stopped"))

    async def test_no_secret_is_logged(self) -> None:
        """Whatever happens to a push."""
        apple = await self.serve()
        steps = (rejection("BadDeviceToken"), rejection("ExpiredProviderToken"), ResetConnection())
        for step in steps:
            apple.scripts.for_next(1, step)
        with capturedLogs() as events:
            provider = self.provide(self.settings(apple.url, credentials=self.by_key()))
            for _ in range(4):
                await provider.send(call_push())
        text = repr(events) + "".join(str(formatEvent(event)) for event in events)
        self.assertIn("connected", text)
        self.assertNotIn(TOKEN, text)
        self.assertNotIn("bearer", text)

    async def test_secrets_are_not_shown(self) -> None:
        """Not by the text form of anything an operator may see."""
        settings = self.settings("https://localhost:1", credentials=self.by_key())
        text = repr(settings) + repr(call_push()) + repr(attrs.evolve(settings, app=APP))
        token = self.tokens.current(settings.credentials)  # type: ignore[arg-type]
        self.assertNotIn(TOKEN, text + repr(token))
        self.assertNotIn(token.text, text + repr(token))
