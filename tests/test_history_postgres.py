"""The history in PostgreSQL: its contract, and that it leaves connections for calls."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from middlewared.database.postgres_database import PostgresDatabase
from middlewared.devices.postgres.postgres_registry import PostgresRegistry
from middlewared.history.interface import CallSearch
from middlewared.history.postgres_history import PostgresHistory
from middlewared.model import Platform, ResponseRecord
from tests.contracts.devices import ACCOUNT, a_device
from tests.contracts.history import NOW, HistoryContract, a_call, row_of
from tests.servers.postgres import PostgresServer, shared_server

SETTINGS = HistoryContract.settings


class TwoDaemonsCase(TestCase):
    """Two daemons at one database."""

    here: Any
    there: Any

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        self.server: PostgresServer = shared_server()
        self.name = self.server.database_for(self)
        self.now = NOW
        self.here, self.there = await self.history(), await self.history()

    async def history(self) -> PostgresHistory:
        url = self.server.url(self.name)
        database = PostgresDatabase(url=url, reactor=reactor, pool_size=2, timeout_s=60.0)
        self.registry = PostgresRegistry(database=database)
        registry = self.registry
        self.addCleanup(lambda: Deferred.fromCoroutine(registry.stop()))
        await registry.start()
        return PostgresHistory(database=database, settings=SETTINGS, wall=lambda: self.now)

    def number(self, statement: str) -> int:
        ((number,),) = self.server.sql(self.name, statement)
        return int(number)

    async def age(self, now: float) -> None:
        self.now = now

    async def responses(self) -> int:
        return self.number("select count(*) from response_log")

    async def fact_count(self) -> int:
        return self.number("select count(*) from call_facts")

    async def add_responses(self, *times: float) -> None:
        records = [ResponseRecord(Platform.APNS, 0.5, True, time) for time in times]
        await self.registry.log_responses(records)


class PostgresHistoryTests(TwoDaemonsCase, HistoryContract):
    """The contract, and how the connections are shared."""

    async def test_older_programs_may_use_the_database(self) -> None:
        """A program that knows schema 3 compares this number only."""
        self.assertEqual(self.number("select max(version) from schema_version"), 3)
        self.assertEqual(self.number("select max(number) from schema_additions"), 6)

    async def test_a_history_that_must_wait_leaves_connections_for_calls(self) -> None:
        """While an operator's statement locks the calls, devices are found at once."""
        await self.registry.register(a_device())
        with self.server.locked(self.name, "calls"):
            waiting = [
                Deferred.fromCoroutine(self.there.add_calls([row_of(a_call(n))])) for n in range(9)
            ]
            self.assertEqual(await self.registry.find(ACCOUNT), a_device())
            for each in waiting:
                self.assertNoResult(each)
        for each in waiting:
            await each
        page = await self.here.search(CallSearch())
        self.assertEqual(len(page.calls), 9)
