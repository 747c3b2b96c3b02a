"""The device registry while PostgreSQL servers die, hang, change their roles, and return."""

from __future__ import annotations

import os
import socket
from collections.abc import Coroutine
from contextlib import closing
from resource import RLIM_INFINITY
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from middlewared.database.postgres_database import PostgresDatabase
from middlewared.devices.cached_registry import CachedRegistry, CacheSettings
from middlewared.devices.postgres.postgres_registry import PostgresRegistry
from middlewared.errors import DatabaseDown
from tests.contracts.devices import ACCOUNT, a_device, start, until_done
from tests.servers.postgres import PostgresServer

SYNCHRONOUS = "select pid from pg_stat_replication where sync_state = 'sync'"


class FaultCase(TestCase):
    """A test with servers of its own."""

    def server(self, file_limit: int = RLIM_INFINITY, **options: str) -> PostgresServer:
        server = PostgresServer()
        self.addCleanup(server.stop)
        server.start(file_limit=file_limit, **options)
        return server

    async def install(self, server: PostgresServer) -> None:
        """Make the schema, as replication from another server would."""
        registry = self.registry(self.address(server))
        await start(registry)
        await registry.stop()

    def standby(self, primary: PostgresServer) -> PostgresServer:
        server = PostgresServer(standby_of=primary)
        self.addCleanup(server.stop)
        server.start()
        return server

    def registry(self, *hosts: str, timeout_s: float = 60.0) -> PostgresRegistry:
        """A registry on the database ``postgres`` of ``hosts``; not started."""
        database = PostgresDatabase(
            url=f"postgresql://postgres@{','.join(hosts)}/postgres",
            reactor=reactor,
            pool_size=3,
            timeout_s=timeout_s,
        )
        made = PostgresRegistry(database=database)
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        return made

    def address(self, server: PostgresServer) -> str:
        return f"127.0.0.1:{server.port}"

    def silent_host(self) -> str:
        """A host that accepts connections and never sends anything."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.addCleanup(listener.close)
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def refusing_host(self) -> str:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            return f"127.0.0.1:{listener.getsockname()[1]}"

    async def down(self, work: Coroutine[Any, Any, object]) -> None:
        with self.assertRaises(DatabaseDown):
            await work

    def make_standby_like(self, server: PostgresServer, read_only: str) -> None:
        server.sql(
            "postgres",
            f"alter system set default_transaction_read_only = {read_only}",
            "select pg_reload_conf()",
        )


class PostgresFaultTests(FaultCase):
    """One server."""

    async def test_killed_and_started_again(self) -> None:
        """While the server is dead requests fail; after its return they work."""
        server = self.server(synchronous_commit="on")
        registry = self.registry(self.address(server))
        await start(registry)
        await registry.register(a_device())
        server.kill()
        for _ in range(3):
            await self.down(registry.find(ACCOUNT))
            await self.down(registry.ping())
        server.start()
        await until_done(registry.ping)
        await registry.register(a_device(2))
        self.assertEqual(await registry.find(2), a_device(2))

    async def test_stopped_and_continued(self) -> None:
        """While the server hangs requests fail in time; afterwards they work."""
        server = self.server()
        registry = self.registry(self.address(server), timeout_s=0.6)
        await start(registry)
        await until_done(lambda: registry.register(a_device()))
        server.pause()
        asked = [Deferred.fromCoroutine(self.down(registry.find(ACCOUNT))) for _ in range(20)]
        await gatherResults(asked)
        await self.down(registry.ping())
        self.assertFalse(registry.up)
        server.resume()
        await until_done(registry.ping)
        self.assertTrue(registry.up)
        self.assertEqual(await until_done(lambda: registry.find(ACCOUNT)), a_device())

    async def test_calls_to_cached_devices_continue(self) -> None:
        """A cached device is served whether the server hangs or is dead."""
        server = self.server()
        registry = self.registry(self.address(server))
        await start(registry)
        cached = CachedRegistry(
            devices=registry, clock=reactor, settings=CacheSettings(keep_s=600.0)
        )
        await cached.register(a_device())
        server.pause()
        self.assertEqual(await cached.find(ACCOUNT), a_device())
        server.kill()
        self.assertEqual(await cached.find(ACCOUNT), a_device())
        await self.down(cached.find(2))

    async def test_stop_while_the_server_hangs(self) -> None:
        """A daemon can end although its database does not answer."""
        server = self.server()
        registry = self.registry(self.address(server), timeout_s=0.6)
        await start(registry)
        server.pause()
        asked = Deferred.fromCoroutine(self.down(registry.find(ACCOUNT)))
        await registry.stop()
        await asked

    async def test_server_away_at_the_start(self) -> None:
        """The start fails; the server is used as soon as it is up."""
        server = self.server()
        server.kill()
        registry = self.registry(self.address(server))
        await self.down(registry.start())
        server.start()
        await until_done(registry.ping)

    async def test_full_disk(self) -> None:
        """A registration without room is not confirmed; one that fits still is."""
        server = self.server(file_limit=17 * 1024 * 1024)
        registry = self.registry(self.address(server), timeout_s=20)
        await start(registry)
        await registry.register(a_device())
        too_large = attrs.evolve(a_device(), token=os.urandom(12 * 1024 * 1024).hex())
        await self.down(registry.register(too_large))
        self.assertEqual(await registry.find(ACCOUNT), a_device())
        await registry.register(a_device(2))


class PostgresHostsTests(FaultCase):
    """Several hosts, of which one accepts writes."""

    async def test_hosts_that_do_not_answer_are_passed_over(self) -> None:
        """A silent, a refusing and an unknown first host cost a start no more than their time."""
        server = self.server()
        silent, refusing = self.silent_host(), self.refusing_host()
        registry = self.registry(silent, refusing, self.address(server))
        await registry.start()
        await registry.ping()

    async def test_host_by_name(self) -> None:
        """A name is resolved; an unknown one is passed over."""
        server = self.server()
        registry = self.registry("unknown.invalid:1", f"localhost:{server.port}")
        await start(registry)
        await registry.ping()

    async def test_standby_is_passed_over(self) -> None:
        """A host that does not accept writes is not used, though it is the first."""
        standby, primary = self.server(), self.server()
        self.make_standby_like(standby, "on")
        registry = self.registry(self.address(standby), self.address(primary))
        await start(registry)
        await registry.register(a_device())
        self.assertEqual(primary.sql("postgres", "select count(*) from devices"), [(1,)])

    async def test_other_host_takes_over(self) -> None:
        """When the primary dies and the other is promoted, requests go there."""
        first, second = self.server(), self.server()
        await self.install(second)
        self.make_standby_like(second, "on")
        registry = self.registry(self.address(first), self.address(second))
        await start(registry)
        await registry.register(a_device())
        first.kill()
        await self.down(registry.ping())
        self.make_standby_like(second, "off")
        await until_done(registry.ping)
        await registry.register(a_device(2))
        self.assertEqual(second.sql("postgres", "select sip_user_id from devices"), [(2,)])

    async def test_primary_hangs_and_the_other_takes_over(self) -> None:
        """Requests leave a primary that is silent for the host that answers."""
        first, second = self.server(), self.server()
        await self.install(second)
        registry = self.registry(self.address(first), self.address(second), timeout_s=2.0)
        await start(registry)
        await until_done(lambda: registry.register(a_device()))
        first.pause()
        await until_done(registry.ping)
        self.assertIsNone(await until_done(lambda: registry.find(ACCOUNT)))

    async def test_primary_becomes_a_standby(self) -> None:
        """Connections to a host that no longer accepts writes are closed for the new primary."""
        first, second = self.server(), self.server()
        await self.install(second)
        registry = self.registry(self.address(first), self.address(second))
        await start(registry)
        self.make_standby_like(first, "on")
        # A server process reads its new settings some time later.
        while not second.sql("postgres", "select sip_user_id from devices"):
            await registry.register(a_device())


class PostgresReplicationTests(FaultCase):
    """A primary and its streaming standby."""

    def make_synchronous(self, primary: PostgresServer, standbys: str) -> None:
        primary.sql(
            "postgres",
            f"alter system set synchronous_standby_names = '{standbys}'",
            "select pg_reload_conf()",
        )

    async def _replicated(
        self, timeout_s: float = 60.0
    ) -> tuple[PostgresServer, PostgresServer, PostgresRegistry]:
        # The standby has what the primary has confirmed.
        primary = self.server(synchronous_commit="remote_apply")
        standby = self.standby(primary)
        self.make_synchronous(primary, "*")
        while not primary.sql("postgres", SYNCHRONOUS):
            await deferLater(reactor, 0.02)
        registry = self.registry(self.address(standby), self.address(primary), timeout_s=timeout_s)
        await start(registry)
        return primary, standby, registry

    async def test_standby_is_promoted(self) -> None:
        """Devices of the dead primary are found at the new one, which takes registrations."""
        primary, standby, registry = await self._replicated()
        await registry.register(a_device())
        primary.kill()
        await self.down(registry.ping())
        standby.promote()
        await until_done(registry.ping)
        self.assertEqual(await registry.find(ACCOUNT), a_device())
        await registry.register(a_device(2))

    async def test_primary_hangs_while_the_standby_is_promoted(self) -> None:
        """Requests leave a primary that is silent as they leave a dead one."""
        primary, standby, registry = await self._replicated(timeout_s=2.0)
        await until_done(lambda: registry.register(a_device()))
        primary.pause()
        await self.down(registry.ping())
        standby.promote()
        await until_done(registry.ping)
        self.assertEqual(await until_done(lambda: registry.find(ACCOUNT)), a_device())

    async def test_standby_dies(self) -> None:
        """A dead standby costs no call its device; with asynchronous replication nothing at all."""
        primary, standby, registry = await self._replicated()
        await registry.register(a_device())
        standby.kill()
        self.assertEqual(await registry.find(ACCOUNT), a_device())
        self.make_synchronous(primary, "")
        await until_done(registry.ping)
        await registry.register(a_device(2))
