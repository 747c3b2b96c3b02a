"""
What every device registry must do, whatever its database.

The contracts are mixed into a TestCase with two members: the registries of two daemons at
the same database, which is empty at first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from middlewared import __version__
from middlewared.devices.interface import (
    DaemonHeartbeats,
    DaemonStates,
    DeviceCounts,
    DeviceFilter,
    DeviceRegistry,
    Page,
    Registered,
    is_silent,
)
from middlewared.devices.queries import COLUMNS, to_row
from middlewared.errors import DatabaseDown
from middlewared.model import Device, Platform, ResponseRecord, Wakeup

T = TypeVar("T")
ACCOUNT = 123456789

if TYPE_CHECKING:
    _Case = TestCase
else:
    _Case = object  # a contract without a registry is no test, so no runner may collect it


async def until_done(work: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> T:
    """Repeat ``work`` until the database is up; the test's own time-out bounds it."""
    while True:
        try:
            return await work()
        except DatabaseDown:
            await deferLater(reactor, 0.05)


async def start(registry: DeviceRegistry) -> None:
    """Start a registry; on a busy machine its database may come up later."""
    with suppress(DatabaseDown):
        await registry.start()
    await until_done(registry.ping)


def a_device(sip_user_id: int = ACCOUNT, token: str = "token-1") -> Device:
    """A device with every field that a registration can set."""
    return Device(
        sip_user_id=sip_user_id,
        platform=Platform.APNS,
        app="com.example.phone",
        token=token,
        name="Åsa's phone 📱",
        os_version="17.5",
        client_version="7.61",
        remote_logging_id="abc-123",
        sandbox=True,
        push_profile="once",
        dnd=True,
        remote_notification_token="alert-token",
        registered_at=1575988800.1234567,
        last_seen=1575988801.7654321,
    )


def older_device(columns: Iterable[str]) -> tuple[Device, tuple[Any, ...]]:
    """:func:`a_device` where the table has only these columns, and its row."""
    names = set(columns)
    later: dict[str, Any] = {f.name: f.default for f in attrs.fields(Device) if f.name not in names}
    values = dict(zip(COLUMNS, to_row(a_device()), strict=True))
    return attrs.evolve(a_device(), **later), tuple(values[name] for name in columns)


def an_android(sip_user_id: int = ACCOUNT, token: str = "installation:1") -> Device:
    """An Android device."""
    return attrs.evolve(a_device(sip_user_id, token), platform=Platform.ANDROID)


def others(device: Device) -> list[Device]:
    """Devices that each differ from ``device`` in one part of its identity."""
    return [
        attrs.evolve(device, sip_user_id=1),
        attrs.evolve(device, platform=Platform.GCM),
        attrs.evolve(device, app="com.example.other"),
        attrs.evolve(device, token="token-2"),
    ]


class DeviceRegistryContract(_Case):
    """The behaviour of a registry with the members ``here`` and ``there``."""

    here: DeviceRegistry
    there: DeviceRegistry

    async def all(self, matching: DeviceFilter | None = None) -> list[Device]:
        """All devices that match."""
        return list((await self.here.page(matching=matching)).devices)

    async def wake(self, device: Device, *answered: float | None) -> None:
        """One batch of calls to ``device``: when each was answered, or None."""
        await self.here.log_wakeups([Wakeup(device, at) for at in answered])

    async def assert_streak(self, streak: int, last_answered: float | None) -> None:
        """The account's device has this streak at every daemon."""
        for member in (self.here, self.there):
            found = await member.find(ACCOUNT)
            assert found is not None
            self.assertEqual((found.silent_streak, found.last_answered), (streak, last_answered))

    async def test_account_without_a_device(self) -> None:
        """It has none to find, to change or to remove."""
        self.assertIsNone(await self.here.find(ACCOUNT))
        self.assertFalse(await self.here.delete(ACCOUNT, Platform.APNS, "app", "token"))
        self.assertFalse(await self.here.remove_dead(a_device(), None))
        self.assertFalse(await self.here.replace_token(a_device(), "new"))
        self.assertFalse(await self.here.set_sandbox(a_device(), True))
        self.assertFalse(await self.here.touch(ACCOUNT, 1.0))
        self.assertEqual(await self.here.page(), Page([], None))
        self.assertEqual(await self.here.count(1), DeviceCounts({}, 0))

    async def test_account_beyond_the_range_of_the_database(self) -> None:
        """A PBX may send any integer: one that no database can store has no device."""
        self.assertIsNone(await self.here.find(2**63))
        self.assertIsNone(await self.here.find(10**40))

    async def test_registered_device_is_found_everywhere(self) -> None:
        """Every field comes back as it was registered, at once, at the other daemon too."""
        device = a_device()
        self.assertEqual(await self.here.register(device), Registered(None))
        self.assertEqual(await self.here.find(ACCOUNT), device)
        self.assertEqual(await self.there.find(ACCOUNT), device)

    async def test_device_with_required_fields_only(self) -> None:
        """The texts that an app did not send stay empty, the booleans false."""
        device = Device(sip_user_id=1, platform=Platform.GCM, app="a", token="t")
        await self.here.register(device)
        self.assertEqual(await self.here.find(1), device)

    async def test_new_registration_replaces_the_old(self) -> None:
        """An account has one device: the old one is returned and removed, on any platform."""
        old = a_device()
        new = attrs.evolve(old, platform=Platform.ANDROID, app="com.example.other", token="t2")
        await self.here.register(old)
        self.assertEqual(await self.there.register(new), Registered(old))
        self.assertEqual(await self.here.find(ACCOUNT), new)
        self.assertEqual(await self.all(), [new])

    async def test_repeated_registration_returns_the_same_device(self) -> None:
        """An app that registers again replaces itself."""
        device = a_device()
        await self.here.register(device)
        self.assertEqual(await self.here.register(device, exclusive=True), Registered(device))

    async def test_registrations_race_for_one_account(self) -> None:
        """Each of many simultaneous registrations but the first replaced exactly one other."""
        devices = [a_device(token=f"token-{n}") for n in range(40)]
        members = [self.here, self.there] * 20
        replaced = await gatherResults(
            [
                Deferred.fromCoroutine(member.register(device))
                for member, device in zip(members, devices, strict=True)
            ]
        )
        left = await self.here.find(ACCOUNT)
        assert left is not None
        before = [each.replaced for each in replaced]
        tokens = sorted([*(old.token for old in before if old is not None), left.token])
        self.assertEqual(tokens, sorted(device.token for device in devices))

    async def test_one_account_per_phone(self) -> None:
        """Devices of other accounts on the same phone are removed and returned; others stay."""
        phone = an_android(2, "installation:2")
        same = [an_android(3, "installation:3"), an_android(4, "installation")]
        other = [
            an_android(5, "installations:2"),
            an_android(6, "other:installation"),
            attrs.evolve(phone, sip_user_id=7, platform=Platform.GCM),
            attrs.evolve(phone, sip_user_id=8, app="com.example.other"),
            attrs.evolve(phone, sip_user_id=9, platform=Platform.APNS),
        ]
        for device in (*same, *other):
            await self.here.register(device)
        self.assertEqual(await self.there.register(phone, exclusive=True), Registered(None, same))
        self.assertEqual(await self.all(), [phone, *other])
        moved = attrs.evolve(phone, sip_user_id=5)
        self.assertEqual(
            await self.here.register(moved, exclusive=True), Registered(other[0], [phone])
        )

    async def test_several_accounts_per_phone(self) -> None:
        """Unless a registration is exclusive, the other devices on its phone stay."""
        devices = [an_android(number) for number in (1, 2, 3)]
        for device in devices:
            self.assertEqual(await self.here.register(device), Registered(None))
        self.assertEqual(await self.all(), devices)

    async def test_what_is_the_same_phone(self) -> None:
        """Apple's tokens, and Google's with nothing before the colon, are compared as a whole."""
        for alike, other in (
            (a_device(1, "aa:1"), a_device(2, "aa:2")),
            (an_android(1, ":1"), an_android(2, ":2")),
            (an_android(1, "i" * 4000 + "1:x"), an_android(2, "i" * 4000 + "2:x")),
        ):
            self.assertEqual(await self.here.register(alike, exclusive=True), Registered(None))
            self.assertEqual(await self.here.register(other, exclusive=True), Registered(None))
            third = attrs.evolve(alike, sip_user_id=3)
            self.assertEqual((await self.here.register(third, exclusive=True)).removed, (alike,))
            for device in (other, third):
                await self.here.remove_dead(device, None)

    async def test_one_phone_registers_for_several_accounts_at_once(self) -> None:
        """At any daemons: only the last one remains, and every other is removed once."""
        devices = [an_android(number, f"installation:{number}") for number in range(1, 41)]
        members = [self.here, self.there] * 20
        registered = await gatherResults(
            [
                Deferred.fromCoroutine(member.register(device, exclusive=True))
                for member, device in zip(members, devices, strict=True)
            ]
        )
        removed = [device for each in registered for device in each.removed]
        left = await self.all()
        self.assertEqual(len(left), 1)
        accounts = sorted(device.sip_user_id for device in (*removed, *left))
        self.assertEqual(accounts, list(range(1, 41)))

    async def test_phones_that_exchange_their_accounts_at_once(self) -> None:
        """Registrations do not deadlock."""
        phones = ["a", "b", "c"]
        registering = [
            Deferred.fromCoroutine(
                member.register(an_android(account, f"{phone}:1"), exclusive=True)
            )
            for turn in range(10)
            for member in (self.here, self.there)
            for account in (1, 2, 3)
            for phone in [phones[(account + turn) % 3]]
        ]
        await gatherResults(registering)
        left = [device.installation for device in await self.all()]
        self.assertEqual(len(left), len(set(left)))

    async def test_delete_needs_all_four_to_match(self) -> None:
        """Another account, platform, app or token leaves the device alone."""
        device = a_device()
        await self.here.register(device)
        for wrong in (*others(device), device):
            matches = wrong is device
            four = (wrong.sip_user_id, wrong.platform, wrong.app, wrong.token)
            self.assertIs(await self.here.delete(*four), matches)
            self.assertEqual(await self.there.find(ACCOUNT), None if matches else device)

    async def test_dead_token_is_removed_only_from_its_device(self) -> None:
        """A device with another account, platform, app or token is kept."""
        device = a_device()
        await self.here.register(device)
        for other in others(device):
            self.assertFalse(await self.here.remove_dead(other, None))
        self.assertEqual(await self.here.find(ACCOUNT), device)
        self.assertTrue(await self.here.remove_dead(device, None))
        self.assertIsNone(await self.there.find(ACCOUNT))

    async def test_registration_after_the_death_of_its_token_stays(self) -> None:
        """APNs 410: a registration after the timestamp revived the token."""
        device = a_device()
        await self.here.register(device)
        at = device.registered_at
        self.assertFalse(await self.here.remove_dead(device, at - 0.001))
        self.assertTrue(await self.here.remove_dead(device, at))

    async def test_canonical_token_replaces_the_token_that_was_pushed_to(self) -> None:
        """A device that has registered another token meanwhile keeps that."""
        device = a_device()
        await self.here.register(device)
        for other in others(device):
            self.assertFalse(await self.here.replace_token(other, "canonical"))
        self.assertTrue(await self.here.replace_token(device, "canonical"))
        changed = attrs.evolve(device, token="canonical")
        self.assertEqual(await self.here.find(ACCOUNT), changed)

    async def test_environment_is_kept_for_its_token(self) -> None:
        """The environment that accepted a push is stored with the device that was pushed to."""
        device = a_device()
        await self.here.register(device)
        for other in others(device):
            self.assertFalse(await self.here.set_sandbox(other, False))
        self.assertTrue(await self.here.set_sandbox(device, False))
        self.assertEqual(await self.here.find(ACCOUNT), attrs.evolve(device, sandbox=False))

    async def test_calls_that_are_not_answered_in_a_row(self) -> None:
        """They are counted across batches and daemons; an answer resets the count."""
        await self.here.log_wakeups([])
        await self.here.register(a_device())
        await self.assert_streak(0, None)
        await self.wake(a_device(), None, None)
        await self.there.log_wakeups([Wakeup(a_device(), None)])
        await self.assert_streak(3, None)
        await self.wake(a_device(), None, 1700000000.25, None)
        await self.assert_streak(1, 1700000000.25)
        await self.wake(a_device(), 1700000001.25)
        await self.assert_streak(0, 1700000001.25)

    async def test_answer_that_is_stored_late(self) -> None:
        """The time of the last answer never decreases."""
        await self.here.register(a_device())
        await self.wake(a_device(), 1700000001.0)
        await self.wake(a_device(), 1700000000.0)
        await self.assert_streak(0, 1700000001.0)

    async def test_streaks_of_many_devices(self) -> None:
        """A batch changes only the devices in it, each by its own calls."""
        devices = [(a_device(number), number % 3) for number in range(1, 301)]
        for device, _ in devices:
            await self.here.register(device)
        woken = [device for device, count in devices for _ in range(count)]
        await self.here.log_wakeups([Wakeup(device, None) for device in woken])
        expected = [attrs.evolve(device, silent_streak=count) for device, count in devices]
        self.assertEqual(await self.all(), expected)

    async def test_batches_at_once(self) -> None:
        """From all daemons, in any order: no call is lost, and nothing deadlocks."""
        devices = [a_device(number) for number in range(1, 51)]
        for device in devices:
            await self.here.register(device)
        writing = [
            Deferred.fromCoroutine(member.log_wakeups([Wakeup(device, None) for device in order]))
            for _ in range(5)
            for member in (self.here, self.there)
            for order in (devices, devices[::-1])
        ]
        await gatherResults(writing)
        self.assertEqual({device.silent_streak for device in await self.all()}, {20})

    async def test_streak_is_of_the_device_that_was_woken(self) -> None:
        """A device that has changed since keeps its own streak."""
        await self.here.register(a_device())
        for other in others(a_device()):
            await self.wake(other, None, 1700000000.0)
        await self.assert_streak(0, None)

    async def test_registration_and_streak(self) -> None:
        """The same token continues the streak, another one resets it."""
        await self.here.register(attrs.evolve(a_device(), silent_streak=9, last_answered=1.0))
        await self.assert_streak(0, None)
        await self.wake(a_device(), 1700000000.0, None)
        registered = await self.here.register(attrs.evolve(a_device(), name="renamed"))
        assert registered.replaced is not None
        self.assertEqual(registered.replaced.silent_streak, 1)
        await self.assert_streak(1, 1700000000.0)
        for other in others(a_device())[1:]:
            await self.here.register(other)
            await self.assert_streak(0, None)
            await self.wake(other, None)

    async def test_what_is_silent(self) -> None:
        """A device with at least that streak; none if this is off."""
        device = attrs.evolve(a_device(), silent_streak=3)
        self.assertEqual(
            [is_silent(device, calls) for calls in (0, 1, 3, 4)], [False, True, True, False]
        )

    async def test_counts(self) -> None:
        """Devices by app and platform, and silent ones unless that is off."""
        for number in (1, 2):
            await self.here.register(a_device(number))
        await self.here.register(an_android(3))
        await self.wake(a_device(2), None, None)
        await self.wake(an_android(3), None)
        devices = {
            ("com.example.phone", Platform.APNS): 2,
            ("com.example.phone", Platform.ANDROID): 1,
        }
        for silent_calls, silent in ((0, 0), (1, 2), (2, 1), (3, 0)):
            self.assertEqual(await self.there.count(silent_calls), DeviceCounts(devices, silent))

    async def test_touch_sets_last_seen_alone(self) -> None:
        """A check-in leaves the time of the registration as it was."""
        device = a_device()
        await self.here.register(device)
        self.assertTrue(await self.here.touch(ACCOUNT, 1700000000.25))
        seen = attrs.evolve(device, last_seen=1700000000.25)
        self.assertEqual(await self.here.find(ACCOUNT), seen)

    async def test_pages_go_through_all_devices(self) -> None:
        """They are in order of the account and do not overlap."""
        devices = [a_device(sip_user_id=n) for n in (7, 3, 9, 5)]
        for device in devices:
            await self.here.register(device)
        first = await self.here.page(limit=3)
        self.assertEqual([device.sip_user_id for device in first.devices], [3, 5, 7])
        self.assertEqual(first.last, 7)
        rest = await self.there.page(after=7, limit=3)
        self.assertEqual([device.sip_user_id for device in rest.devices], [9])
        self.assertEqual(await self.there.page(after=9, limit=3), Page([], None))

    async def test_filters(self) -> None:
        """Silent, unseen and shared ones, and all filters combined."""
        shared = [an_android(1, "phone:1"), attrs.evolve(an_android(2, "phone:2"), last_seen=10.0)]
        single = [attrs.evolve(an_android(3, "other:1"), last_seen=10.0), an_android(4, "more:1")]
        for device in (*shared, *single):
            await self.here.register(device)
        await self.wake(shared[0], None)
        await self.wake(shared[1], None, None)
        await self.wake(single[0], 20.0)
        for matching, accounts in (
            (DeviceFilter(), [1, 2, 3, 4]),
            (DeviceFilter(silent_streak=1), [1, 2]),
            (DeviceFilter(silent_streak=2), [2]),
            (DeviceFilter(unseen_since=15.0), [2]),
            (DeviceFilter(unseen_since=25.0), [2, 3]),
            (DeviceFilter(shared=True), [1, 2]),
            (DeviceFilter(silent_streak=1, unseen_since=25.0, shared=True), [2]),
            (DeviceFilter(silent_streak=3), []),
        ):
            found = [device.sip_user_id for device in await self.all(matching)]
            self.assertEqual(found, accounts, matching)
        for device in (*shared, *single):
            self.assertEqual(await self.there.shares_phone(device), device in shared)

    async def test_page_without_a_matching_device(self) -> None:
        """The next page can still be found."""
        for number in range(1, 6):
            await self.here.register(a_device(number))
        await self.wake(a_device(4), None)
        first = await self.here.page(limit=2, matching=DeviceFilter(silent_streak=1))
        self.assertEqual(first, Page([], 2))
        second = await self.here.page(after=2, limit=2, matching=DeviceFilter(silent_streak=1))
        self.assertEqual([device.sip_user_id for device in second.devices], [4])

    async def test_many_registrations_at_once(self) -> None:
        """A burst is stored completely."""
        devices = [a_device(sip_user_id=n, token=f"token-{n}") for n in range(1, 301)]
        await gatherResults(
            [Deferred.fromCoroutine(self.here.register(d, exclusive=True)) for d in devices]
        )
        self.assertEqual(await self.all(), devices)

    async def test_answers_are_logged(self) -> None:
        """Rows of the response log have the platform, round-trip, answer and its date."""
        await self.here.log_responses([])
        await self.here.log_responses(
            [
                ResponseRecord(Platform.APNS, 0.75, True, 1700000000.25),
                ResponseRecord(Platform.GCM, 3.5, False, 1700000001.5),
            ]
        )
        expected = [
            ("apns", 0.75, True, "2023-11-14T22:13:20.250Z"),
            ("gcm", 3.5, False, "2023-11-14T22:13:21.500Z"),
        ]
        self.assertEqual(await self.response_log(), expected)

    async def response_log(self) -> list[tuple[str, float, bool, str]]:
        """All rows of response_log as the database has them, dates in UTC, ISO 8601."""
        raise NotImplementedError

    async def test_ping_of_a_database_that_works(self) -> None:
        """A database that can be read and written is up, again and again."""
        await self.here.ping()
        await self.there.ping()

    async def test_another_daemon_starts(self) -> None:
        """It is up after its start, and finds the schema and the devices."""
        await self.here.register(a_device())
        another = self.another()
        self.assertIsNone(another.up)
        await another.start()
        self.assertTrue(another.up)
        self.assertEqual(await another.find(ACCOUNT), a_device())

    def another(self) -> DeviceRegistry:
        """One more member at the same database, not started; the test case stops it."""
        raise NotImplementedError


class DaemonHeartbeatsContract(_Case):
    """The heartbeats that the members ``here`` and ``there`` exchange."""

    here: DaemonHeartbeats
    there: DaemonHeartbeats

    async def test_a_daemon_receives_the_heartbeats_of_the_others(self) -> None:
        """Not its own; the last one of each, and how old it is."""
        self.assertEqual(await self.here.report("a", redis_up=True, waiting=1), [])
        (peer,) = await self.there.report("b", redis_up=False, waiting=2)
        self.assertEqual((peer.daemon, peer.redis_up, peer.waiting), ("a", True, 1))
        self.assertEqual(peer.version, __version__)
        self.assertTrue(0 <= peer.age_s < 3, peer.age_s)
        (peer,) = await self.here.report("a", redis_up=False, waiting=0)
        self.assertEqual((peer.daemon, peer.redis_up, peer.waiting), ("b", False, 2))
        (peer,) = await self.there.report("b", redis_up=True, waiting=0)
        self.assertEqual((peer.redis_up, peer.waiting), (False, 0))

    async def test_daemons_may_report_at_once(self) -> None:
        """No heartbeat is lost."""
        names = [str(number) for number in range(10)]
        reports = [
            Deferred.fromCoroutine(member.report(name, redis_up=True, waiting=0))
            for member in (self.here, self.there)
            for name in names
        ]
        await gatherResults(reports)
        peers = await self.here.report("0", redis_up=True, waiting=0)
        self.assertEqual({peer.daemon for peer in peers}, set(names[1:]))

    async def test_a_silent_daemon_is_not_returned(self) -> None:
        """After three seconds; after a minute its heartbeat is deleted."""
        for name in ("recent", "silent", "gone"):
            await self.here.report(name, redis_up=True, waiting=0)
        await self.make_older("silent", 4)
        await self.make_older("gone", 61)
        peers = await self.there.report("this", redis_up=True, waiting=0)
        self.assertEqual([peer.daemon for peer in peers], ["recent"])
        self.assertEqual(await self.daemons(), {"recent", "silent", "this"})

    async def make_older(self, daemon: str, seconds: int) -> None:
        """Make a daemon's last heartbeat ``seconds`` older, in the SQL of its database."""
        raise NotImplementedError

    async def daemons(self) -> set[str]:
        """The daemons in the table."""
        raise NotImplementedError


class DaemonStatesContract(_Case):
    """What daemons report of themselves through the members ``here`` and ``there``."""

    here: DaemonStates
    there: DaemonStates

    async def test_each_daemon_has_its_last_state(self) -> None:
        """By name, at any daemon, with its age; any text that is JSON comes back."""
        text = json.dumps({"name": "\0\ud800\u202e' ? %s"})
        await self.there.report_state("b", "{}")
        await self.here.report_state("a", "{}")
        await self.here.report_state("a", text)
        for member in (self.here, self.there):
            states = await member.daemon_states()
            found = [(each.daemon, each.state) for each in states]
            self.assertEqual(found, [("a", text), ("b", "{}")])
            for each in states:
                self.assertTrue(0 <= each.age_s < 30, each.age_s)

    async def test_a_daemon_withdraws(self) -> None:
        """It takes those along that have not reported for a minute, which no one sees before."""
        for name in ("stops", "silent", "gone", "stays"):
            await self.here.report_state(name, "{}")
        await self.make_state_older("silent", 30)
        await self.make_state_older("gone", 61)
        states = {each.daemon: each.age_s for each in await self.there.daemon_states()}
        self.assertEqual(set(states), {"stops", "silent", "stays"})
        self.assertTrue(30 <= states["silent"] < 60)
        await self.there.withdraw_state("stops")
        self.assertEqual(await self.state_count(), 2)

    async def make_state_older(self, daemon: str, seconds: int) -> None:
        """Make a daemon's last state ``seconds`` older, in the SQL of its database."""
        raise NotImplementedError

    async def state_count(self) -> int:
        """How many states the table has."""
        raise NotImplementedError
