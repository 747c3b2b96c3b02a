"""
What every history must do, whatever its database.

The contract is mixed into a TestCase with two members: the histories of two daemons at the
same database, which is empty at first.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import attrs
from twisted.trial.unittest import TestCase

from middlewared.errors import BadRequest
from middlewared.history import history_rows
from middlewared.history.interface import (
    PURGED,
    CallFigures,
    CallRecord,
    CallSearch,
    DeviceEvent,
    Hindrance,
    HistoryRow,
    HistoryStore,
    KeptAnswer,
    KeptPush,
    KeptReport,
    Numbers,
    Retention,
)
from middlewared.history.searches import PageMark

NOW = 1_700_000_000.0
DAY = 86_400.0
HOSTILE = "</script>\u202e'\"%s\\\u200f{f.app}\U0001f4f1é" + "x" * 200

if TYPE_CHECKING:
    _Case = TestCase
else:
    _Case = object


def a_call(number: int = 0, **changes: Any) -> CallRecord:
    """An answered call with every fact, ``number`` seconds after NOW."""
    start = NOW + number
    call = CallRecord(
        unique_key=f"key-{number}",
        call_id=f"id-{number}",
        sip_user_id="123456789",
        app="com.example.phone",
        platform="apns",
        start=start,
        outcome="answered",
        phonenumber="+31 6 1234-5678",
        caller_id="Åsa",
        steps="device=0.4 sent=0.1 push(accepted)=41.2 answer=802.5",
        pushes=[KeptPush(1, start + 0.001, "accepted", "", 41.25, False, "apns-id-1")],
        answer=KeptAnswer(start + 0.8, True, True, None, "aa"),
        wait_ms=4000.0,
        hindrance=Hindrance.NONE,
        token="0123abcd",
        pbx="berlin",
    )
    return attrs.evolve(call, **changes)


def row_of(call: CallRecord, numbers: Numbers = "all", daemon: str = "daemon-1") -> HistoryRow:
    return history_rows.call_row(call, daemon, numbers)


class HistoryContract(_Case):
    """The behaviour of a history with the members ``here`` and ``there``."""

    here: HistoryStore
    there: HistoryStore
    settings = Retention(days=14, max_calls=1_000_000, numbers="all")

    async def keep(self, *calls: CallRecord) -> None:
        await self.here.add_calls([row_of(call) for call in calls])

    async def keys(self, **wanted: Any) -> list[str]:
        page = await self.there.search(CallSearch(**wanted))
        return [call.record.unique_key for call in page.calls]

    def use(self, **changes: Any) -> None:
        for member in (self.here, self.there):
            member.reconfigure(attrs.evolve(self.settings, **changes))

    async def age(self, now: float) -> None:
        """Let the clocks of both daemons show ``now``."""
        raise NotImplementedError

    async def responses(self) -> int:
        """How many rows response_log has."""
        raise NotImplementedError

    async def add_responses(self, *times: float) -> None:
        """Add a row to response_log for each time."""
        raise NotImplementedError

    async def test_nothing_is_kept(self) -> None:
        """An empty history finds nothing."""
        self.assertEqual(await self.keys(), [])
        self.assertIsNone(await self.here.find_call("key-0"))
        self.assertEqual(list(await self.here.device_events("1")), [])
        self.assertIsNone(await self.here.last_answered("1"))

    async def test_call_comes_back_whole(self) -> None:
        """Every fact is found by the other daemon, with a verdict."""
        await self.keep(a_call())
        found = await self.there.find_call("key-0")
        assert found is not None
        self.assertEqual(found.record, a_call())
        self.assertEqual(found.daemon, "daemon-1")
        self.assertEqual(list(found.answers), [a_call().answer])
        self.assertIn("took the call", found.verdict)

    async def test_hostile_texts_come_back_as_they_are(self) -> None:
        """Markup, directions of text, quotes, placeholders and emojis, in every field."""
        call = a_call(
            unique_key=HOSTILE,
            call_id=HOSTILE,
            sip_user_id="1",
            app=HOSTILE,
            phonenumber=HOSTILE,
            caller_id=HOSTILE,
            pushes=[KeptPush(1, NOW, "temporary", HOSTILE, 1.0, True, HOSTILE)],
        )
        await self.keep(call)
        report = KeptReport(NOW + 9, "log-metrics", {HOSTILE: HOSTILE})
        await self.here.add_facts([history_rows.report_row(HOSTILE, "1", report)])
        found = await self.there.find_call(HOSTILE)
        assert found is not None
        self.assertEqual(found.record, call)
        self.assertEqual(list(found.reports), [report])
        for wanted in ({"text": HOSTILE}, {"call_id": HOSTILE}, {"app": HOSTILE}):
            self.assertEqual(await self.keys(**wanted), [HOSTILE])

    async def test_texts_that_no_database_takes_are_corrected(self) -> None:
        """A provider's reason cannot keep a batch from being written."""
        push = KeptPush(1, NOW, "temporary", "a\0b\ud800c", 1.0, False, "x" * 999)
        await self.keep(a_call(0, pushes=[push]), a_call(1))
        found = await self.there.find_call("key-0")
        assert found is not None
        kept = found.record.pushes[0]
        self.assertEqual((kept.reason, len(kept.provider_id)), ("ab?c", 255))
        self.assertEqual(await self.keys(), ["key-1", "key-0"])

    async def test_a_batch_that_is_written_twice_adds_nothing(self) -> None:
        """The connection may break when the database has it already."""
        await self.keep(a_call())
        await self.keep(a_call(), a_call(1))
        fact = history_rows.joined_row("key-0", "123456789", NOW + 1)
        await self.here.add_facts([fact])
        await self.here.add_facts([fact])
        self.assertEqual(await self.keys(), ["key-1", "key-0"])
        found = await self.there.find_call("key-0")
        assert found is not None
        self.assertEqual(list(found.joined), [NOW + 1])

    async def test_each_search(self) -> None:
        """By account, call_id, unique_key, number, outcome, app, platform and time."""
        other = a_call(
            5,
            sip_user_id="100@pbx.example",
            call_id="",
            app="com.example.other",
            platform="android",
            outcome="timeout",
            phonenumber="101",
            answer=None,
        )
        await self.keep(a_call(), other)
        for wanted in (
            {"sip_user_id": "100@pbx.example"},
            {"unique_key": "key-5"},
            {"number": "101"},
            {"outcome": "timeout"},
            {"app": "com.example.other"},
            {"platform": "android"},
            {"app": "com.example.other", "platform": "android", "outcome": "timeout"},
            {"since": NOW + 5},
            {"text": "100@pbx.example"},
            {"text": "key-5"},
            {"text": "101", "or_number": True},
        ):
            self.assertEqual(await self.keys(**wanted), ["key-5"], wanted)
        for wanted in (
            {"call_id": "id-0"},
            {"number": "+31612345678"},
            {"outcome": "answered"},
            {"until": NOW + 5},
            {"text": "id-0"},
            {"text": "+31612345678", "or_number": True},
        ):
            self.assertEqual(await self.keys(**wanted), ["key-0"], wanted)
        for wanted in (
            {"sip_user_id": "1"},
            {"text": "nothing", "or_number": True},
            {"text": "101"},
            {"number": "5678"},
        ):
            self.assertEqual(await self.keys(**wanted), [], wanted)

    async def test_search_for_a_call_id_that_is_the_key(self) -> None:
        """A UUID is both; it is found as either, and once."""
        uuid = "0c9b1d2e3f40516273849506a7b8c9da"
        await self.keep(
            a_call(1, unique_key=uuid, call_id=uuid),
            a_call(2, call_id=uuid),
            a_call(3, unique_key=uuid),
        )
        searches: Sequence[tuple[dict[str, Any], list[float]]] = (
            ({"call_id": uuid}, [NOW + 2, NOW + 1]),
            ({"unique_key": uuid}, [NOW + 3, NOW + 1]),
            ({"text": uuid}, [NOW + 3, NOW + 2, NOW + 1]),
        )
        for wanted, starts in searches:
            page = await self.there.search(CallSearch(**wanted))
            self.assertEqual([call.record.start for call in page.calls], starts, wanted)

    async def test_numbers_are_found_as_far_as_they_are_kept(self) -> None:
        """By three digits with last3, and not at all with none."""
        self.use(numbers="last3")
        await self.here.add_calls([row_of(a_call(), "last3"), row_of(a_call(1), "none")])
        for number in ("+31 6 1234-5678", "678", "0612345678"):
            self.assertEqual(await self.keys(number=number), ["key-0"])
            self.assertEqual(await self.keys(text=number, or_number=True), ["key-0"])
        kept = await self.there.find_call("key-0")
        assert kept is not None
        self.assertEqual((kept.record.phonenumber, kept.record.caller_id), ("678", ""))
        self.use(numbers="none")
        self.assertEqual(await self.keys(number="678"), [])
        self.assertEqual(await self.keys(text="678", or_number=True), [])

    async def test_pages(self) -> None:
        """Newest first, each call once, also where many began at the same moment."""
        calls = [a_call(n // 3, unique_key=f"k{n}", sip_user_id="7") for n in range(10)]
        await self.keep(*calls, a_call(99))
        for wanted in ({"sip_user_id": "7"}, {"text": "7"}, {"until": NOW + 50}):
            seen: list[str] = []
            before = ""
            while True:
                page = await self.there.search(CallSearch(limit=3, before=before, **wanted))
                self.assertLessEqual(len(page.calls), 3)
                seen += [call.record.unique_key for call in page.calls]
                if page.next is None:
                    break
                before = page.next
            self.assertEqual(seen, [f"k{n}" for n in reversed(range(10))], wanted)

    async def test_pages_of_a_number_that_was_given_as_text(self) -> None:
        """The second page is found by number as well, even where an account has that number."""
        calls = [a_call(n, phonenumber="101") for n in range(5)]
        await self.keep(*calls)
        page = await self.here.search(CallSearch(text="101", or_number=True, limit=3))
        assert page.next is not None
        rest = await self.keys(text="101", or_number=True, limit=3, before=page.next)
        self.assertEqual(rest, ["key-1", "key-0"])

    async def test_broken_page_marks(self) -> None:
        """They are the client's fault."""
        odd = [PageMark(inf, 1).opaque(), PageMark(1.0, 2**63).opaque(), PageMark(1.0, -1).opaque()]
        for before in ("x", "%%%", "e30", "WzEsMl0", "W251bGwsMSwwXQ", "\ud800", "é", *odd):
            with self.assertRaises(BadRequest):
                await self.here.search(CallSearch(before=before))

    async def facts(self, key: str) -> tuple[Sequence[KeptAnswer], Sequence[KeptReport]]:
        found = await self.there.find_call(key)
        assert found is not None
        return found.answers, found.reports

    async def test_facts_are_joined_by_key(self) -> None:
        """From any daemon, before and after the call's own row, in the order of time."""
        early = KeptAnswer(NOW + 0.5, False, False, None, "bb")
        late = KeptAnswer(NOW + 6, True, False, 2000.0, "cc")
        repeated = a_call().answer
        assert repeated is not None
        report = KeptReport(NOW + 60, "hangup-reason", {"reason": "busy"})
        await self.there.add_facts(
            [
                history_rows.answer_row("key-0", "", early),
                history_rows.report_row("key-0", "123456789", report),
            ]
        )
        await self.keep(a_call())
        await self.here.add_facts(
            [
                history_rows.answer_row("key-0", "123456789", late),
                history_rows.answer_row("key-0", "", repeated),
                history_rows.joined_row("key-0", "123456789", NOW + 0.2),
            ]
        )
        answers, reports = await self.facts("key-0")
        self.assertEqual(list(answers), [early, repeated, late])
        self.assertEqual(list(reports), [report])

    async def test_acceptances_have_no_id(self) -> None:
        """The first that another daemon has received is the one that decided."""
        await self.keep(a_call(answer=KeptAnswer(NOW + 0.8, True, True)))
        refusal = KeptAnswer(NOW + 0.5, False, False, None, "bb")
        received = KeptAnswer(NOW + 0.7, True, False)
        repeated = KeptAnswer(NOW + 1.7, True, False)
        late = KeptAnswer(NOW + 6, True, False, 2000.0)
        for answer in (late, repeated, received, refusal):
            await self.there.add_facts([history_rows.answer_row("key-0", "", answer)])
        answers, _ = await self.facts("key-0")
        decided = KeptAnswer(NOW + 0.8, True, True)
        self.assertEqual(list(answers), [refusal, decided, repeated, late])

    async def test_foreign_reports_are_not_attached(self) -> None:
        """An account that has learned a key cannot put words into another one's call."""
        await self.keep(a_call())
        report = KeptReport(NOW + 1, "log-metrics", {"failed_reason": "forged"})
        await self.here.add_facts([history_rows.report_row("key-0", "999999999", report)])
        _, reports = await self.facts("key-0")
        self.assertEqual(list(reports), [])

    async def test_a_key_that_is_used_again(self) -> None:
        """Each of its calls has its own facts; the newest is found by the key."""
        await self.keep(a_call(0), a_call(1000, unique_key="key-0", call_id="again"))
        for at in (5.0, 1005.0):
            report = KeptReport(NOW + at, "hangup-reason", {"reason": str(at)})
            await self.here.add_facts([history_rows.report_row("key-0", "123456789", report)])
        found = await self.there.find_call("key-0")
        assert found is not None
        self.assertEqual(found.record.call_id, "again")
        self.assertEqual([r.fields["reason"] for r in found.reports], ["1005.0"])
        page = await self.there.search(CallSearch(unique_key="key-0"))
        reasons = [[r.fields["reason"] for r in call.reports] for call in page.calls]
        self.assertEqual(reasons, [["1005.0"], ["5.0"]])

    async def test_device_events(self) -> None:
        """Those of the account, newest first, as many as wanted."""
        events = [
            DeviceEvent(
                time=NOW + n,
                sip_user_id="123456789",
                event="removed",
                why="token-dead",
                reason=HOSTILE[:255],
                platform="apns",
                app=HOSTILE,
                token="0123abcd",
            )
            for n in range(3)
        ]
        other = DeviceEvent(time=NOW, sip_user_id="1", event="registered")
        rows = [history_rows.device_event_row(event, "d") for event in (*events, other)]
        await self.here.add_device_events(rows)
        found = await self.there.device_events("123456789", 2)
        self.assertEqual(list(found), [events[2], events[1]])

    async def test_call_figures(self) -> None:
        """Of all daemons, since a time; a batch that was written twice counts once."""
        figures = [
            CallFigures(
                at=NOW + 60 * minute,
                daemon=daemon,
                app="com.example.phone",
                platform="apns",
                outcomes={"answered": 2, "timeout": minute},
                wakeups={"0.5": 1, "inf": 1},
            )
            for minute in (0, 1)
            for daemon in ("daemon-1", "daemon-2")
        ]
        rows = [history_rows.figures_row(each) for each in figures]
        await self.here.add_call_figures(rows[:2])
        await self.there.add_call_figures(rows[2:])
        await self.there.add_call_figures(rows[2:])
        self.assertEqual(await self.there.call_figures(NOW), figures)
        self.assertEqual(await self.here.call_figures(NOW + 1), figures[2:])
        await self.age(NOW + 15 * DAY)
        self.assertEqual(await self.here.purge_step("call_figures", 100), 6)

    async def test_last_answered(self) -> None:
        """A refusal is an answer; a call that timed out is not."""
        refused = a_call(1, outcome="unavailable")
        await self.keep(a_call(0), refused, a_call(2, outcome="timeout", answer=None))
        self.assertEqual(await self.there.last_answered("123456789"), refused.start)

    async def purge(self) -> int:
        """Purge to the end, at both daemons in turn; returns how many steps it took."""
        steps = 0
        for table in PURGED:
            while await (self.here, self.there)[steps % 2].purge_step(table, 2):
                steps += 1
        return steps

    async def test_purge_by_age(self) -> None:
        """Calls, their facts, events of devices and response_log, a few rows at a time."""
        await self.keep(*[a_call(n) for n in range(5)], a_call(864_000))
        for call in ("key-0", "key-864000"):
            at = NOW + float(call.removeprefix("key-"))
            fact = history_rows.joined_row(call, "123456789", at)
            await self.here.add_facts([fact])
            event = DeviceEvent(time=at, sip_user_id="123456789", event="registered")
            await self.here.add_device_events([history_rows.device_event_row(event, "d")])
        await self.add_responses(NOW, NOW + 10 * DAY)
        self.assertEqual(await self.purge(), 0)
        await self.age(NOW + 20 * DAY)
        self.assertEqual(await self.purge(), 3 + 1 + 1 + 1)
        self.assertEqual(await self.keys(), ["key-864000"])
        self.assertEqual(len(await self.there.device_events("123456789")), 1)
        self.assertEqual(await self.responses(), 1)

    async def test_old_calls_are_not_found_before_they_are_purged(self) -> None:
        """The operator's promise holds to the second."""
        await self.keep(a_call())
        await self.age(NOW + 15 * DAY)
        self.assertEqual(await self.keys(), [])
        self.assertIsNone(await self.here.find_call("key-0"))

    async def test_purge_by_number(self) -> None:
        """The oldest go first, and facts that belong to no kept call with them."""
        await self.keep(*[a_call(n * 10_000) for n in range(10)])
        await self.here.add_facts(
            [history_rows.joined_row(f"key-{n * 10_000}", "1", NOW + n * 10_000) for n in range(10)]
        )
        await self.add_responses(*[NOW + n for n in range(10)])
        self.use(max_calls=3)
        await self.age(NOW + DAY)
        await self.purge()
        self.assertEqual(await self.keys(), ["key-90000", "key-80000", "key-70000"])
        self.assertEqual(await self.responses(), 3)
        self.assertEqual(await self.fact_count(), 3)

    async def fact_count(self) -> int:
        """How many rows call_facts has."""
        raise NotImplementedError

    async def test_history_that_is_off(self) -> None:
        """With days = 0 nothing is found, and what was kept before is deleted."""
        await self.keep(a_call())
        event = DeviceEvent(time=NOW, sip_user_id="123456789", event="registered")
        await self.here.add_device_events([history_rows.device_event_row(event, "d")])
        await self.add_responses(NOW)
        self.use(days=0)
        await self.age(NOW + 60)
        self.assertEqual(await self.keys(), [])
        self.assertIsNone(await self.here.find_call("key-0"))
        self.assertEqual(list(await self.here.device_events("123456789")), [])
        self.assertIsNone(await self.here.last_answered("123456789"))
        self.assertEqual(list(await self.here.call_figures(0.0)), [])
        await self.purge()
        self.assertEqual(await self.responses(), 1)
        self.use(days=14)
        self.assertEqual(await self.keys(), [])
        self.assertEqual(list(await self.here.device_events("123456789")), [])
