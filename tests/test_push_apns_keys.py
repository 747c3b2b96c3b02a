"""Keys for each environment, temporary refusals, and the sandbox switched off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from middlewared.push.apns.apple_credentials import Credentials, load_key
from middlewared.push.apns.provider import SANDBOX_OFF
from middlewared.push.interface import (
    Accepted,
    ConfigFault,
    NoticePush,
    Temporary,
    TokenSuspect,
)
from middlewared.push.problem_log import SAME_LINE_EVERY_S, ProblemLog
from middlewared.simulator.apple.faults import rejection
from middlewared.simulator.certificates import write_provider_key
from tests.apns import APP, OTHER_TOKEN, TOKEN, AppleTestCase, call_push, device, reactor


class SandboxOffTests(AppleTestCase):
    """``sandbox_url`` is empty."""

    async def test_devices_of_the_sandbox_are_not_pushed_to(self) -> None:
        """The device is kept: it may register again with another build."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, ""))
        self.assertEqual(await provider.send(call_push(sandbox=True)), SANDBOX_OFF)
        notice = NoticePush(
            device(sandbox=True, notices=OTHER_TOKEN), "text", reactor.seconds() + 4
        )
        self.assertEqual(await provider.send(notice), SANDBOX_OFF)
        self.assertEqual(await provider.send(call_push()), Accepted())
        self.assertEqual((apple.record.received_count, list(apple.record.refused)), (1, []))
        self.assertEqual({name for name, _ in provider.connection_states()}, {"production"})

    async def test_a_bad_token_is_tried_nowhere_else(self) -> None:
        """There is no other environment."""
        apple = await self.serve(tokens=[TOKEN])
        provider = self.provide(self.settings(apple.url, ""))
        result = await provider.send(call_push(OTHER_TOKEN))
        self.assertEqual(result, TokenSuspect("BadDeviceToken"))
        self.assertEqual(list(apple.record.refused), ["BadDeviceToken"])


class KeysTests(AppleTestCase):
    """Keys that Apple binds to one environment."""

    def sandbox_key(self) -> Credentials:
        """A second key of the team."""
        key = self.other_key
        return load_key(key.path, team_id=key.team_id, key_id=key.key_id)

    def setUp(self) -> None:
        super().setUp()
        self.other_key = write_provider_key(self.folder, key_id="SANDBOXKEY")

    async def test_each_environment_gets_its_own(self) -> None:
        """Otherwise Apple would answer BadEnvironmentKeyInToken."""
        production = await self.serve(tokens=[TOKEN])
        sandbox = await self.serve(
            environment="sandbox", tokens=[OTHER_TOKEN], provider_keys=[self.other_key]
        )
        settings = self.settings(
            production.url,
            sandbox.url,
            credentials=self.by_key(),
            sandbox_credentials=self.sandbox_key(),
        )
        provider = self.provide(settings)
        self.assertEqual(await provider.send(call_push()), Accepted())
        self.assertEqual(await provider.send(call_push(OTHER_TOKEN, sandbox=True)), Accepted())
        tried = await provider.send(call_push(OTHER_TOKEN))
        self.assertEqual(tried, Accepted(other_environment=True))
        self.assertEqual(len({p.headers["authorization"] for p in sandbox.record.received}), 1)

    async def test_a_key_for_production_alone(self) -> None:
        """The sandbox's refusal of the key does not concern the device, but is logged."""
        production = await self.serve(tokens=[TOKEN])
        sandbox = await self.serve(environment="sandbox")
        sandbox.scripts.for_all(rejection("BadEnvironmentKeyInToken"))
        provider = self.provide(
            self.settings(production.url, sandbox.url, credentials=self.by_key())
        )
        with capturedLogs() as events:
            results = [await provider.send(call_push(OTHER_TOKEN)) for _ in range(2)]
        self.assertEqual(results, [TokenSuspect("BadDeviceToken")] * 2)
        self.assertEqual(
            errors(events), [f"Apple refuses pushes of {APP}: BadEnvironmentKeyInToken (sandbox)"]
        )


class RefusedTokenTests(AppleTestCase):
    """Valid provider tokens that Apple refuses for a while."""

    async def test_one_that_was_good_before_is_tried_on_another_connection(self) -> None:
        """Such refusals come in bursts and are temporary."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, "", credentials=self.by_key()))
        self.assertEqual(await provider.send(call_push()), Accepted())
        for _ in range(3):
            apple.scripts.for_next(1, rejection("InvalidProviderToken"))
            self.assertEqual(await provider.send(call_push()), Accepted())
            first, second = list(apple.record.received)[-2:]
            self.assertNotEqual(first.connection, second.connection)
            self.assertEqual(first.headers["authorization"], second.headers["authorization"])
            self.assertNotEqual(first.headers["apns-id"], second.headers["apns-id"])

    async def test_an_outbreak_makes_no_flood_of_connections(self) -> None:
        """However many are refused, only one connection is left in ten seconds."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, "", credentials=self.by_key()))
        self.assertEqual(await provider.send(call_push()), Accepted())
        for _ in range(20):
            apple.scripts.for_next(1, rejection("InvalidProviderToken"))
            self.assertEqual(await provider.send(call_push()), Accepted())
        self.assertLessEqual(apple.record.connection_count, 3)

    async def test_one_that_never_was_good_is_a_fault(self) -> None:
        """A wrong key, team or key id: one request for each push."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, "", credentials=self.by_key()))
        apple.scripts.for_all(rejection("InvalidProviderToken"))
        for _ in range(3):
            result = await provider.send(call_push())
            self.assertEqual(result, ConfigFault("InvalidProviderToken"))
        self.assertEqual(apple.record.received_count, 3)

    async def test_one_that_is_bad_for_good_is_a_fault_soon(self) -> None:
        """A revoked key: the first push is sent twice, each later one once."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, "", credentials=self.by_key()))
        self.assertEqual(await provider.send(call_push()), Accepted())
        apple.scripts.for_all(rejection("InvalidProviderToken"))
        for _ in range(3):
            result = await provider.send(call_push())
            self.assertEqual(result, ConfigFault("InvalidProviderToken"))
        self.assertEqual(apple.record.received_count, 1 + 2 + 1 + 1)
        apple.scripts.clear()
        self.assertEqual(await provider.send(call_push()), Accepted())


class IdleTimeoutTests(AppleTestCase):
    """Apple answers IdleTimeout."""

    async def test_it_is_sent_once_more_on_another_connection(self) -> None:
        """Within the same send; the idle connection is left."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, "", connections=1))
        apple.scripts.for_next(1, rejection("IdleTimeout"))
        self.assertEqual(await provider.send(call_push()), Accepted())
        first, second = apple.record.received
        self.assertNotEqual(first.connection, second.connection)

    async def test_a_second_one_is_temporary(self) -> None:
        """The layer above has a back-off."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, "", connections=1))
        apple.scripts.for_next(2, rejection("IdleTimeout"))
        self.assertEqual(await provider.send(call_push()), Temporary("IdleTimeout", 0))
        self.assertEqual(apple.record.received_count, 2)

    async def test_not_when_the_call_is_over(self) -> None:
        """``wanted`` is called again before the second request."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, "", connections=1))
        apple.scripts.for_next(1, rejection("IdleTimeout"))
        push = call_push(wanted=lambda: apple.record.received_count == 0)
        self.assertEqual(await provider.send(push), Temporary("unwanted"))
        self.assertEqual(apple.record.received_count, 1)


class TroublesTests(SynchronousTestCase):
    """Log lines for the operator."""

    def test_one_line_a_minute_for_each_trouble(self) -> None:
        """Not one for each push."""
        clock = Clock()
        problems = ProblemLog(provider="Apple", app="app", clock=clock)
        with capturedLogs() as events:
            for _ in range(2):
                for _ in range(100):
                    problems.refused("BadTopic")
                problems.refused("TopicDisallowed")
                clock.advance(SAME_LINE_EVERY_S)
        line = "Apple refuses pushes of app: "
        self.assertEqual(errors(events), [line + "BadTopic", line + "TopicDisallowed"] * 2)


class FaultLineTests(AppleTestCase):
    """Configuration faults of a provider."""

    async def test_a_configuration_fault_is_one_line(self) -> None:
        """As with Google."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, ""))
        apple.scripts.for_next(20, rejection("TopicDisallowed"))
        with capturedLogs() as events:
            await gatherResults([self.sending(provider, call_push()) for _ in range(20)])
        self.assertEqual(
            errors(events), [f"Apple refuses pushes of {APP}: TopicDisallowed (production)"]
        )


def errors(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines at error."""
    return [
        str(formatEvent(dict(event))) for event in events if event["log_level"] is LogLevel.error
    ]
