"""
What every device registry must do, whatever database it stands on.

``DeviceRegistryContract`` is mixed into a TestCase that gives two members: two
registries (two daemons) that stand on the same, at first empty, database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from middlewared import __version__
from middlewared.devices.interface import DaemonTable, DeviceRegistry
from middlewared.model import Device, Platform, ResponseRecord

ACCOUNT = 123456789

if TYPE_CHECKING:
    _Case = TestCase
else:
    _Case = object  # a contract alone is no test, so no runner may collect it


def a_device(sip_user_id: int = ACCOUNT, token: str = "token-1") -> Device:
    """A device with a value in every field."""
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


class DeviceRegistryContract(_Case):
    """The behaviour of a registry with the members ``here`` and ``there``."""

    here: DeviceRegistry
    there: DeviceRegistry

    async def test_nobody_registered(self) -> None:
        """An account without a device has none to find, to change or to remove."""
        self.assertIsNone(await self.here.find(ACCOUNT))
        self.assertFalse(await self.here.delete(ACCOUNT, Platform.APNS, "app", "token"))
        self.assertFalse(await self.here.remove_dead(ACCOUNT, "token", None))
        self.assertFalse(await self.here.replace_token(ACCOUNT, "token", "new"))
        self.assertFalse(await self.here.set_sandbox(ACCOUNT, "token", True))
        self.assertFalse(await self.here.touch(ACCOUNT, 1.0))
        self.assertEqual(await self.here.list(), [])

    async def test_account_beyond_the_range_of_the_database(self) -> None:
        """A PBX may ask for any integer: one no database can keep has no device."""
        self.assertIsNone(await self.here.find(2**63))
        self.assertIsNone(await self.here.find(10**40))

    async def test_registered_device_is_found_everywhere(self) -> None:
        """Every field comes back as it was given, at the other daemon too, at once."""
        device = a_device()
        self.assertIsNone(await self.here.register(device))
        self.assertEqual(await self.here.find(ACCOUNT), device)
        self.assertEqual(await self.there.find(ACCOUNT), device)

    async def test_device_with_the_required_fields_alone(self) -> None:
        """The texts an app did not send stay empty, the switches off."""
        device = Device(sip_user_id=1, platform=Platform.GCM, app="a", token="t")
        await self.here.register(device)
        self.assertEqual(await self.here.find(1), device)

    async def test_new_registration_replaces_the_old(self) -> None:
        """One device an account: the old one is returned and gone, on any platform."""
        old = a_device()
        new = attrs.evolve(old, platform=Platform.ANDROID, app="com.example.other", token="t2")
        await self.here.register(old)
        self.assertEqual(await self.there.register(new), old)
        self.assertEqual(await self.here.find(ACCOUNT), new)
        self.assertEqual(await self.here.list(), [new])

    async def test_repeated_registration_returns_the_same_device(self) -> None:
        """An app that registers again replaces itself."""
        device = a_device()
        await self.here.register(device)
        self.assertEqual(await self.here.register(device), device)

    async def test_registrations_race_for_one_account(self) -> None:
        """Each of many simultaneous registrations replaced exactly one other, but the first."""
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
        tokens = sorted([*(old.token for old in replaced if old is not None), left.token])
        self.assertEqual(tokens, sorted(device.token for device in devices))

    async def test_delete_needs_all_four_to_match(self) -> None:
        """Another account, platform, app or token leaves the device alone."""
        device = a_device()
        await self.here.register(device)
        right = (device.sip_user_id, device.platform, device.app, device.token)
        for wrong in (
            (1, *right[1:]),
            (right[0], Platform.GCM, *right[2:]),
            (*right[:2], "com.example.other", right[3]),
            (*right[:3], "token-2"),
        ):
            self.assertFalse(await self.here.delete(*wrong))
        self.assertEqual(await self.here.find(ACCOUNT), device)
        self.assertTrue(await self.here.delete(*right))
        self.assertIsNone(await self.there.find(ACCOUNT))

    async def test_dead_token_is_removed_only_from_its_device(self) -> None:
        """A device that has another token by now is not the one that died."""
        await self.here.register(a_device(token="new"))
        self.assertFalse(await self.here.remove_dead(ACCOUNT, "old", None))
        self.assertTrue(await self.here.remove_dead(ACCOUNT, "new", None))
        self.assertIsNone(await self.here.find(ACCOUNT))

    async def test_registration_after_the_death_of_its_token_stays(self) -> None:
        """APNs 410: a registration after the timestamp revived the token."""
        device = a_device()
        await self.here.register(device)
        at = device.registered_at
        self.assertFalse(await self.here.remove_dead(ACCOUNT, device.token, at - 0.001))
        self.assertTrue(await self.here.remove_dead(ACCOUNT, device.token, at))

    async def test_canonical_token_replaces_the_token_it_was_given_for(self) -> None:
        """A device that registered a new token meanwhile keeps that."""
        device = a_device()
        await self.here.register(device)
        self.assertFalse(await self.here.replace_token(ACCOUNT, "other", "canonical"))
        self.assertTrue(await self.here.replace_token(ACCOUNT, device.token, "canonical"))
        changed = attrs.evolve(device, token="canonical")
        self.assertEqual(await self.here.find(ACCOUNT), changed)

    async def test_environment_is_kept_for_its_token(self) -> None:
        """The environment that accepted a push is stored with the token that was pushed to."""
        device = a_device()
        await self.here.register(device)
        self.assertFalse(await self.here.set_sandbox(ACCOUNT, "other", False))
        self.assertTrue(await self.here.set_sandbox(ACCOUNT, device.token, False))
        self.assertEqual(await self.here.find(ACCOUNT), attrs.evolve(device, sandbox=False))

    async def test_touch_sets_last_seen_alone(self) -> None:
        """A check-in leaves the time of the registration as it was."""
        device = a_device()
        await self.here.register(device)
        self.assertTrue(await self.here.touch(ACCOUNT, 1700000000.25))
        seen = attrs.evolve(device, last_seen=1700000000.25)
        self.assertEqual(await self.here.find(ACCOUNT), seen)

    async def test_list_goes_through_all_devices_page_by_page(self) -> None:
        """Pages are in order of the account and do not overlap."""
        devices = [a_device(sip_user_id=n) for n in (7, 3, 9, 5)]
        for device in devices:
            await self.here.register(device)
        first = await self.here.list(limit=3)
        self.assertEqual([device.sip_user_id for device in first], [3, 5, 7])
        rest = await self.there.list(after=7, limit=3)
        self.assertEqual([device.sip_user_id for device in rest], [9])

    async def test_many_registrations_at_once(self) -> None:
        """A burst is stored wholly."""
        devices = [a_device(sip_user_id=n, token=f"token-{n}") for n in range(1, 301)]
        await gatherResults([Deferred.fromCoroutine(self.here.register(d)) for d in devices])
        self.assertEqual(await self.there.list(), devices)

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

    async def test_one_start_among_others_finds_the_schema(self) -> None:
        """What is stored stays when another daemon starts on the same database."""
        await self.here.register(a_device())
        another = await self.start_another()
        self.assertEqual(await another.find(ACCOUNT), a_device())

    async def start_another(self) -> DeviceRegistry:
        """One more member on the same database, started; the test case stops it."""
        raise NotImplementedError


class DaemonTableContract(_Case):
    """The behaviour of the table of daemons, seen by the members ``here`` and ``there``."""

    here: DaemonTable
    there: DaemonTable

    async def test_a_daemon_hears_of_the_others(self) -> None:
        """Not of itself; of each its last report, and how old that is."""
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
        """Each time, from everywhere."""
        names = [str(number) for number in range(10)]
        reports = [
            Deferred.fromCoroutine(member.report(name, redis_up=True, waiting=0))
            for member in (self.here, self.there)
            for name in names
        ]
        await gatherResults(reports)
        heard = await self.here.report("0", redis_up=True, waiting=0)
        self.assertEqual({peer.daemon for peer in heard}, set(names[1:]))

    async def test_a_silent_daemon_is_not_heard_of(self) -> None:
        """After three seconds; after a minute it is forgotten."""
        for name in ("recent", "silent", "gone"):
            await self.here.report(name, redis_up=True, waiting=0)
        await self.make_older("silent", 4)
        await self.make_older("gone", 61)
        heard = await self.there.report("this", redis_up=True, waiting=0)
        self.assertEqual([peer.daemon for peer in heard], ["recent"])
        self.assertEqual(await self.daemons(), {"recent", "silent", "this"})

    async def make_older(self, daemon: str, seconds: int) -> None:
        """Let a daemon's last report be ``seconds`` older; the concrete case knows its SQL."""
        raise NotImplementedError

    async def daemons(self) -> set[str]:
        """Who is in the table."""
        raise NotImplementedError
