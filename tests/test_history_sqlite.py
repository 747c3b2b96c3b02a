"""The history in a SQLite file: its contract, and that searches use their indexes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from middlewared.database.sqlite_database import SqliteDatabase
from middlewared.devices.sqlite.sqlite_registry import SqliteRegistry
from middlewared.history.interface import CallSearch
from middlewared.history.searches import EVENTS, facts_statement
from middlewared.history.sqlite_history import STATEMENTS, SqliteHistory
from middlewared.model import Platform, ResponseRecord
from tests.contracts.history import NOW, HistoryContract, a_call

SETTINGS = HistoryContract.settings


class TwoDaemonsCase(TestCase):
    """Two daemons on one file."""

    here: Any
    there: Any

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        self.path = Path(self.mktemp())
        self.now = NOW
        self.here, self.there = await self.history(), await self.history()

    async def history(self) -> SqliteHistory:
        database = SqliteDatabase(path=self.path, reactor=reactor, timeout_s=60.0)
        self.registry = SqliteRegistry(database=database)
        registry = self.registry
        self.addCleanup(lambda: Deferred.fromCoroutine(registry.stop()))
        await registry.start()
        return SqliteHistory(database=database, settings=SETTINGS, wall=lambda: self.now)

    def number(self, statement: str) -> int:
        with closing(sqlite3.connect(self.path)) as connection:
            (number,) = connection.execute(statement).fetchone()
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


class SqliteHistoryTests(TwoDaemonsCase, HistoryContract):
    """The contract, and the plans of the statements."""

    async def test_searches_use_indexes(self) -> None:
        """No search reads all calls; those sort that look into several lists or parts."""
        for wanted, index in (
            ({"outcome": "timeout"}, "calls_outcome (outcome=? AND"),
            ({"outcome": "answered"}, "calls_started (started_at>?"),
            ({"app": "x", "platform": "y"}, "calls_app (app=? AND platform=? AND"),
            ({"platform": "x"}, "calls_platform (platform=? AND"),
            ({"since": NOW}, "calls_started (started_at>?"),
            ({"outcome": "timeout", "app": "y", "platform": "z"}, "calls_outcome ("),
        ):
            plan = self.plan_of(CallSearch(**wanted))
            self.assertIn(f"USING INDEX {index}", plan)
            self.assertNotIn("B-TREE", plan)
        plan = self.plan_of(CallSearch(sip_user_id="x"))
        self.assertIn("USING COVERING INDEX calls_account (<expr>=? AND sip_user_id=? AND", plan)
        plan = self.plan_of(CallSearch(unique_key="x"))
        self.assertIn("USING COVERING INDEX calls_key (<expr>=? AND unique_key=? AND", plan)
        plan = self.plan_of(CallSearch(sip_user_id="x", outcome="timeout", app="y"))
        self.assertIn("USING INDEX calls_account (<expr>=? AND sip_user_id=? AND", plan)
        plan = self.plan_of(CallSearch(number="1", outcome="timeout"), "1")
        self.assertIn("USING INDEX calls_number (<expr>=? AND number=? AND", plan)
        plan = self.plan_of(CallSearch(app="x"))
        self.assertEqual(plan.count("USING INDEX calls_app (app=? AND platform=? AND"), 4)
        plan = self.plan_of(CallSearch(text="x", outcome="timeout"))
        for index in ("calls_account", "calls_call_id", "calls_key"):
            self.assertIn(f"INDEX {index} (", plan)
        plan = self.plan_of(CallSearch(call_id="x"))
        for index in ("calls_call_id", "calls_key"):
            self.assertIn(f"INDEX {index} (", plan)
        self.assertIn("USING INDEX calls_account", self.plan(STATEMENTS.last_answered))
        self.assertIn("USING INDEX call_facts_key", self.plan(facts_statement(3)))
        self.assertIn("USING INDEX device_events_account", self.plan(EVENTS))

    def plan_of(self, wanted: CallSearch, *numbers: str) -> str:
        return self.plan(STATEMENTS.page(wanted, None, numbers, 0.0)[0])

    def plan(self, statement: str) -> str:
        with closing(sqlite3.connect(self.path)) as connection:
            values = ["1"] * statement.count("?")
            rows = connection.execute(f"explain query plan {statement}", values)
            return "\n".join(row[3] for row in rows)

    async def test_calls_in_several_parts_of_the_indexes(self) -> None:
        """They are found in the order of their starts, each once."""
        await self.keep(a_call(3))
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("update calls set id = 2 * 1024 - 1")  # the last one of its part
            connection.commit()
        await self.keep(a_call(1), a_call(2), a_call(3))  # the last one was in a lost batch
        self.assertEqual(self.number("select max(id) >> 10 from calls"), 2)
        for wanted in (CallSearch(), CallSearch(sip_user_id="123456789")):
            page = await self.here.search(wanted)
            self.assertEqual(
                [call.record.unique_key for call in page.calls], ["key-3", "key-2", "key-1"]
            )

    async def test_older_programs_may_use_the_file(self) -> None:
        """A program that knows schema 3 compares this number only."""
        self.assertEqual(self.number("pragma user_version"), 3)
        self.assertEqual(self.number("select max(number) from schema_additions"), 6)
