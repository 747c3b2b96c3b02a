"""Devices that are cached for an outage of the database."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from middlewared.devices.cached_registry import MAX_DEVICES, CachedRegistry, CacheSettings
from middlewared.devices.interface import DeviceRegistry
from middlewared.errors import DatabaseDown
from middlewared.model import Device, Platform, SipUserId, Wakeup
from tests.contracts.devices import ACCOUNT, DeviceRegistryContract, a_device
from tests.memory_devices import MemoryDevices

T = TypeVar("T")


class SlowDevices(MemoryDevices):
    """A registry whose look-ups wait while ``held`` is set; quick ones fail then."""

    held: Deferred[None] | None = None

    async def find(self, sip_user_id: SipUserId, *, quickly: bool = False) -> Device | None:
        found = self.get(sip_user_id)
        if self.held is not None:
            if quickly:
                raise DatabaseDown("too slow")
            await self.held
        self._fail()
        return found


class CachedContractTests(DeviceRegistryContract, TestCase):
    """Two daemons, each with a cache, on one database: the contract holds as without."""

    def setUp(self) -> None:
        self.devices = MemoryDevices()
        self.here = self.cached()
        self.there = self.cached()

    def cached(self) -> DeviceRegistry:
        return CachedRegistry(
            devices=self.devices, clock=reactor, settings=CacheSettings(keep_s=600.0)
        )

    async def response_log(self) -> list[tuple[str, float, bool, str]]:
        return self.devices.response_log()

    def another(self) -> DeviceRegistry:
        return self.cached()


class OutageTests(SynchronousTestCase):
    """A database that goes away."""

    def setUp(self) -> None:
        self.devices = SlowDevices()
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.cache = CachedRegistry(
            devices=self.devices, clock=self.clock, settings=CacheSettings(keep_s=600.0)
        )

    def now(self, work: Awaitable[T]) -> T:
        """The result of ``work``, which does not wait."""
        return self.successResultOf(self.begin(work))

    def begin(self, work: Awaitable[T]) -> Deferred[T]:
        return Deferred.fromCoroutine(work)  # type: ignore[arg-type]

    def go_away(self) -> None:
        self.devices.failure = DatabaseDown("away")

    def assert_down(self, sip_user_id: int = ACCOUNT) -> None:
        self.failureResultOf(self.begin(self.cache.find(sip_user_id)), DatabaseDown)

    def test_device_that_was_found(self) -> None:
        """A call to a device that was called before goes on."""
        self.devices.put(a_device())
        self.now(self.cache.find(ACCOUNT))
        self.go_away()
        self.assertEqual(self.now(self.cache.find(ACCOUNT)), a_device())

    def test_device_that_was_registered(self) -> None:
        """A call to a device that registered here goes on."""
        self.now(self.cache.register(a_device()))
        self.go_away()
        self.assertEqual(self.now(self.cache.find(ACCOUNT)), a_device())

    def test_unknown_device(self) -> None:
        """A device that was never looked up cannot be served; the account may have one."""
        self.go_away()
        self.assert_down()

    def test_too_old(self) -> None:
        """A device is not served longer than the operator allows."""
        self.now(self.cache.register(a_device()))
        self.go_away()
        self.clock.advance(599.9)
        self.assertEqual(self.now(self.cache.find(ACCOUNT)), a_device())
        self.clock.advance(0.2)
        self.assert_down()

    def test_age_counts_from_the_last_answer_of_the_database(self) -> None:
        """A look-up in the database renews a cached device; serving it from the cache does not."""
        self.now(self.cache.register(a_device()))
        self.clock.advance(599)
        self.now(self.cache.find(ACCOUNT))
        self.go_away()
        self.clock.advance(599)
        self.assertEqual(self.now(self.cache.find(ACCOUNT)), a_device())
        self.clock.advance(2)
        self.assert_down()

    def test_switched_off(self) -> None:
        """With 0 nothing is served from the cache; the setting may change at any time."""
        self.now(self.cache.register(a_device()))
        self.go_away()
        self.cache.reconfigure(CacheSettings(keep_s=0.0))
        self.assert_down()

    def test_database_is_asked_while_it_works(self) -> None:
        """A device that another daemon registered or removed is seen at once."""
        self.now(self.cache.register(a_device()))
        self.devices.put(a_device(token="other"))
        found = self.now(self.cache.find(ACCOUNT))
        assert found is not None
        self.assertEqual(found.token, "other")

    def test_removed_devices_do_not_come_back(self) -> None:
        """Deleted and dead devices are not served in an outage, whichever daemon removed them."""
        device = a_device()
        self.now(self.cache.register(device))
        self.now(self.cache.delete(ACCOUNT, device.platform, device.app, device.token))
        self.now(self.cache.register(a_device(2)))
        self.now(self.cache.remove_dead(a_device(2), None))
        self.now(self.cache.register(a_device(3)))
        self.now(self.devices.delete(3, device.platform, device.app, device.token))
        self.assertIsNone(self.now(self.cache.find(3)))
        self.go_away()
        for sip_user_id in (ACCOUNT, 2, 3):
            self.assert_down(sip_user_id)

    def test_changed_devices_are_not_served_as_they_were(self) -> None:
        """A token or environment that proved wrong is not used again."""
        self.now(self.cache.register(a_device(1)))
        self.now(self.cache.replace_token(a_device(1), "canonical"))
        self.now(self.cache.register(a_device(2)))
        self.now(self.cache.set_sandbox(a_device(2), False))
        self.go_away()
        self.assert_down(1)
        self.assert_down(2)

    def test_devices_that_a_registration_removed_are_not_served(self) -> None:
        """A phone that has moved to another account rings only for the new one."""
        self.now(self.cache.register(a_device(1)))
        self.now(self.cache.register(a_device(2), exclusive=True))
        self.go_away()
        self.assert_down(1)
        self.assertEqual(self.now(self.cache.find(2)), a_device(2))

    def test_streak_in_an_outage(self) -> None:
        """A silent phone that registers the same token stays silent, also in an outage."""
        self.now(self.cache.register(a_device()))
        self.now(self.cache.log_wakeups([Wakeup(a_device(), None)]))
        self.now(self.cache.register(a_device()))
        self.go_away()
        found = self.now(self.cache.find(ACCOUNT))
        assert found is not None
        self.assertEqual(found.silent_streak, 1)

    def test_dead_devices_that_are_kept(self) -> None:
        """While removals of its app are paused a dead device stays, in the database too."""
        kept = {("com.example.phone", Platform.APNS)}
        self.cache = CachedRegistry(
            devices=self.devices,
            clock=self.clock,
            settings=CacheSettings(keep_s=600.0),
            keeps_dead=lambda app, platform: (app, platform) in kept,
        )
        self.now(self.cache.register(a_device()))
        self.assertFalse(self.now(self.cache.remove_dead(a_device(), None)))
        self.assertEqual(self.now(self.devices.find(ACCOUNT)), a_device())
        kept.clear()
        self.assertTrue(self.now(self.cache.remove_dead(a_device(), None)))

    def test_hanging_database_delays_a_cached_device_for_a_moment_only(self) -> None:
        """A call does not wait for the database's whole deadline."""
        self.now(self.cache.register(a_device()))
        self.devices.held = Deferred()
        self.assertEqual(self.now(self.cache.find(ACCOUNT)), a_device())

    def test_unknown_device_waits_for_a_slow_database(self) -> None:
        """Where nothing is cached, a late result is better than none."""
        self.devices.put(a_device())
        held: Deferred[None] = Deferred()
        self.devices.held = held
        found = self.begin(self.cache.find(ACCOUNT))
        self.clock.advance(1)
        held.callback(None)
        self.assertEqual(self.successResultOf(found), a_device())

    def test_answer_that_was_overtaken_by_a_registration(self) -> None:
        """A look-up that began before a registration does not bring the old device back."""
        self.devices.put(a_device(token="old"))
        held: Deferred[None] = Deferred()
        self.devices.held = held
        found = self.begin(self.cache.find(ACCOUNT))
        self.now(self.cache.register(a_device(token="new")))
        held.callback(None)
        self.successResultOf(found)
        self.devices.held = None
        self.go_away()
        served = self.now(self.cache.find(ACCOUNT))
        assert served is not None
        self.assertEqual(served.token, "new")

    def test_bound(self) -> None:
        """The cache is bounded: the least recently used devices are dropped."""
        for number in range(1, MAX_DEVICES + 1):
            self.now(self.cache.register(a_device(number)))
        self.now(self.cache.find(1))
        self.now(self.cache.register(a_device(MAX_DEVICES + 1)))
        self.go_away()
        self.assert_down(2)
        self.assertEqual(self.now(self.cache.find(1)), a_device(1))
        self.assertEqual(self.now(self.cache.find(3)), a_device(3))
