"""The parts of the console that need no daemon: markup, drawings, parameters, reports, streams."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import attrs
from markupsafe import Markup
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.calls.interface import OpenCall
from middlewared.console.access import _is_at as is_at  # the rule that keeps foreign pages out
from middlewared.console.daemon_reports import INTERVAL_S, LOST_S, DaemonReports
from middlewared.console.drawings import histogram, time_line
from middlewared.console.links import error_page
from middlewared.console.live_streams import ALIVE_S, LiveStreams
from middlewared.console.markup import element, joined, page, state
from middlewared.console.overview import OverviewReader, median_wakeup, overview_json
from middlewared.console.search_parameters import call_search, query_texts
from middlewared.console.sources import DaemonReport, OverviewSources
from middlewared.devices.interface import DaemonState, DaemonStates
from middlewared.errors import BadRequest, DatabaseDown
from middlewared.history.call_story import Moment, duration, kept_story, steps_story
from middlewared.history.interface import (
    CallFigures,
    HistoryReader,
    KeptAnswer,
    KeptCall,
    KeptPush,
    KeptReport,
)
from middlewared.history.json_forms import JsonForms
from middlewared.model import Platform
from middlewared.web.request import Request
from tests.contracts.history import NOW, a_call

HELD = OpenCall(
    unique_key="key",
    call_id="\ud800\0",
    sip_user_id="123456789",
    app="com.example",
    platform="apns",
    start=NOW,
    wait_ms=4000.0,
    steps=[("device", 0.5), ("sent", 0.1), ("push(accepted)", 40.0)],
)
OWN = DaemonReport(daemon="a:1", version="1", health="ok", waiting=1, held=[HELD])


class MarkupTests(SynchronousTestCase):
    """Elements."""

    def test_texts_are_escaped(self) -> None:
        """For HTML, and what would not be visible; markup is left as it is."""
        hostile = "<b>&'\"\u202e\0\n\x7f\u200b\ud800"
        shown = "&lt;b&gt;&amp;&#39;&#34;\\u202e\\x00\\n\\x7f\\u200b\\ud800"
        made = element("p", hostile, Markup("<i>"), 5, None, title=hostile)
        self.assertEqual(made, f'<p title="{shown}">{shown}<i>5</p>')
        self.assertEqual(joined(hostile, Markup("<br>")), f"{shown}<br>")
        self.assertIn(f"<title>{shown} ", page(hostile, "text").decode())

    def test_attributes(self) -> None:
        """None and False are left out, True has no value, underscores are hyphens."""
        made = element("input", class_="x", aria_label="y", required=True, hidden=False, id=None)
        self.assertEqual(made, '<input class="x" aria-label="y" required>')
        self.assertEqual(element("rect", x=1), '<rect x="1"/>')

    def test_states_have_a_shape_and_a_word(self) -> None:
        """Colour is never alone; a word that is not known is shown, too."""
        for word in ("answered", "timeout", "token-dead", "<new>"):
            made = state(word)
            self.assertIn('aria-hidden="true"', made)
            self.assertIn(word.replace("<", "&lt;").replace(">", "&gt;"), made)


class ErrorPageTests(SynchronousTestCase):
    """Pages that say what is wrong."""

    def test_what_to_do(self) -> None:
        """A heading, the detail and the next step; the search box for users who are known."""
        for status, step in ((404, "Search for"), (503, "Load the page again"), (418, "try again")):
            made = error_page(status, "<detail>.", "alice").decode()
            for part in (step, "<p>&lt;detail&gt;.</p>", f"HTTP status {status}", 'type="search"'):
                self.assertIn(part, made)
        stranger = error_page(401, "Credentials are needed.").decode()
        self.assertIn("<h1>Log in</h1>", stranger)
        self.assertNotIn('type="search"', stranger)


class DrawingTests(SynchronousTestCase):
    """Drawings and their texts."""

    def test_time_line(self) -> None:
        """Its label has all of it in words; nothing is drawn outside, whatever the times are."""
        moments = [
            Moment(-5.0, 1.0, "before"),
            Moment(10.0, 8.0, "<push>", "good"),
            Moment(1e9, 1e10, "very late " * 10),
        ]
        made = time_line(moments, 4000.0)
        self.assertIn("10 ms: &lt;push&gt;", made)
        self.assertNotIn('="-', made)
        self.assertIn("Nothing has happened yet", time_line([], 0.0))

    def test_time_line_of_the_call_alone(self) -> None:
        """What the app reports later is in the words only, and leaves the scale as it is."""
        took = Moment(2000.0, 8.0, "the phone took the call", "good")
        late = Moment(60_000.0, 0.0, "the app reported its figures", "report")
        made = time_line([took, late], 4000.0)
        self.assertEqual(made.count("<rect"), 1)
        self.assertIn("60.0 s: the app reported its figures", made)
        self.assertIn(">4.0 s</text>", made)
        self.assertIn('class="limit"', made)
        self.assertNotIn('class="limit"', time_line([took], 0.0))

    def test_histogram(self) -> None:
        """A bar for each value that occurred."""
        self.assertEqual(histogram("Words", [("a", 0), ("b", 2)]).count("<rect"), 1)
        self.assertIn("None yet", histogram("None yet", []))

    def test_numbers_of_a_histogram(self) -> None:
        """Above each bar if there is room for them, else above the highest alone."""
        self.assertEqual(histogram("", [("", 7), ("", 8)]).count("</text>"), 2)
        made = histogram("", [("", number) for number in range(40)])
        self.assertEqual((made.count("</text>"), made.count(">39<")), (1, 1))

    def test_story_of_a_call(self) -> None:
        """Pushes and answers with what is known best, in order; the wait of the phone is a bar."""
        record = a_call(
            pushes=[
                KeptPush(1, NOW, "accepted", "", 100.0, False, "id"),
                KeptPush(2, NOW + 1, "temporary", "Shutdown", 5.0, False, ""),
                KeptPush(3, NOW + 2, "temporary", "", 5.0, True, ""),
            ],
            answer=None,
        )
        answers = [
            KeptAnswer(NOW + 0.5, False, False),
            KeptAnswer(NOW + 5, True, False, 1000.0),
            KeptAnswer(NOW + 0.6, True, True),
        ]
        report = KeptReport(NOW + 9, "hangup-reason", {})
        call = KeptCall(
            record=record, daemon="d", answers=answers, joined=[NOW + 0.2], reports=[report]
        )
        story = kept_story(call)
        self.assertEqual([m.after_ms for m in story], sorted(m.after_ms for m in story))
        texts = [moment.what for moment in story]
        for text in (
            "push 1: accepted by Apple after 100 ms",
            "push 2: not accepted by Apple for now (Shutdown) after 5.0 ms",
            "push 3: sent, but Apple did not confirm it after 5.0 ms",
            *("the device was looked up", "the PBX repeated the call"),
            *("the phone refused the call; this did not decide it", "the phone took the call"),
            *("the phone took the call, 1.0 s too late", "the app reported why it ended"),
        ):
            self.assertIn(text, texts)
        answered = next(m for m in story if m.what == "the phone took the call")
        self.assertAlmostEqual(answered.took_ms, 500.0, places=2)

    def test_pushes_without_a_connection(self) -> None:
        """A push that was dropped with its call is in the story, and its end in words."""
        steps = "device=1.0 sent=0.1 sent2=1000.0 timeout=3000.0"
        record = a_call(pushes=(), answer=None, steps=steps)
        self.assertEqual(
            [moment.what for moment in kept_story(KeptCall(record=record, daemon="d"))],
            [
                "the device was looked up",
                "push 1: waited for a connection to Apple",
                "push 2: waited for a connection to Apple",
                "the call timed out",
            ],
        )

    def test_story_of_a_held_call(self) -> None:
        """The steps so far."""
        story = steps_story(HELD.steps, HELD.platform)
        self.assertEqual(
            [(round(each.after_ms, 1), each.what) for each in story],
            [
                (0.5, "the device was looked up"),
                (0.6, "push 1: sent"),
                (40.6, "push 1: accepted by Apple"),
            ],
        )
        durations = [duration(ms) for ms in (0.44, 250, 999.6, 12345)]
        self.assertEqual(durations, ["0.4 ms", "250 ms", "1.0 s", "12.3 s"])


class ParameterTests(SynchronousTestCase):
    """The query of a search."""

    def test_times(self) -> None:
        """ISO 8601 with or without an offset; a + that became a blank is understood."""
        for text in (
            *("2023-11-14T22:13:20Z", "2023-11-14T22:13:20", "2023-11-14T23:13:20+01:00"),
            *("2023-11-14T23:13:20 01:00", "20231114T221320Z"),
        ):
            self.assertEqual(call_search({"since": text}).since, NOW, text)

    def test_forms(self) -> None:
        """Fields that were not filled in are left out; q is for forms only."""
        wanted = call_search({"q": " 1 ", "outcome": "", "since": "", "limit": ""}, lenient=True)
        self.assertEqual((wanted.text, wanted.or_number, wanted.outcome), ("1", True, ""))
        self.assertRaises(BadRequest, call_search, {"q": "1"})
        self.assertRaises(BadRequest, call_search, {"text": "1"}, lenient=True)

    def test_repeated_and_broken(self) -> None:
        """The last value of a parameter counts; bytes that are no UTF-8 are refused."""
        self.assertEqual(query_texts(b"a=1&a=2&b=%C3%A5&c="), {"a": "2", "b": "å", "c": ""})
        for query in (b"a=%ff", b"\xff=1", b"&".join(b"%d=1" % n for n in range(21))):
            self.assertRaises(BadRequest, query_texts, query)


class OriginTests(SynchronousTestCase):
    """Which origins are the console's own."""

    def test_own(self) -> None:
        """The same host and port, whatever the scheme: a proxy may end TLS."""
        for origin, host in (
            ("http://h:81", "h:81"),
            ("https://h", "h"),
            ("https://H:443", "h"),
            ("http://[::1]:81", "[::1]:81"),
        ):
            self.assertTrue(is_at(origin, host), origin)

    def test_foreign(self) -> None:
        """Everything else."""
        for origin in (
            "null",
            "",
            "http://x:81",
            "http://h:82",
            "http://h:81/",
            "h:81",
            "http://[",
        ):
            self.assertFalse(is_at(origin, "h:81"), origin)


class Table:
    """The states of the daemons at a database."""

    def __init__(self) -> None:
        self.states: dict[str, DaemonState] = {}
        self.fault: Exception | None = None

    async def report_state(self, daemon: str, state: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.states[daemon] = DaemonState(daemon, state, 0.0)

    async def withdraw_state(self, daemon: str) -> None:
        self.states.pop(daemon, None)

    async def daemon_states(self) -> Sequence[DaemonState]:
        if self.fault is not None:
            raise self.fault
        return list(self.states.values())


class DaemonReportTests(SynchronousTestCase):
    """What daemons report to each other."""

    def setUp(self) -> None:
        self.clock, self.table = Clock(), Table()
        self.reports = DaemonReports(
            clock=self.clock, table=cast(DaemonStates, self.table), own=lambda: OWN
        )

    def all(self) -> Sequence[DaemonReport]:
        return self.successResultOf(Deferred.fromCoroutine(self.reports.all()))

    def test_reports_come_back_whole(self) -> None:
        """With held calls and their steps, whatever texts they have."""
        self.reports.start()
        stored = self.table.states.pop("a:1")
        self.table.states["b:2"] = attrs.evolve(stored, daemon="b:2")
        self.assertEqual(self.all(), [OWN, attrs.evolve(OWN, daemon="b:2")])

    def test_lost_and_foreign_reports(self) -> None:
        """A daemon that is silent is lost and holds nothing; other releases are understood."""
        self.reports.start()
        state = self.table.states["a:1"].state
        later = json.dumps({**json.loads(state), "more": 1, "health": "new-word"})
        self.table.states["b:2"] = DaemonState("b:2", state, LOST_S + 1)
        self.table.states["c:3"] = DaemonState("c:3", later, 0.0)
        self.table.states["d:4"] = DaemonState("d:4", '{"version": 2}', 0.0)
        self.assertEqual(
            [(each.health, len(each.held)) for each in self.all()],
            [("ok", 1), ("lost", 0), ("new-word", 1), ("unknown", 0)],
        )

    def test_database_that_is_away(self) -> None:
        """It reports again when the database is back, and withdraws at its stop."""
        self.table.fault = DatabaseDown("away")
        self.reports.start()
        self.failureResultOf(Deferred.fromCoroutine(self.reports.all()), DatabaseDown)
        self.table.fault = None
        self.clock.advance(INTERVAL_S)
        self.assertEqual(set(self.table.states), {"a:1"})
        self.successResultOf(Deferred.fromCoroutine(self.reports.stop()))
        self.assertEqual((self.table.states, self.clock.getDelayedCalls()), ({}, []))

    def test_one_daemon_alone(self) -> None:
        """With SQLite nothing is stored or timed."""
        self.reports = DaemonReports(clock=self.clock, table=None, own=lambda: OWN)
        self.reports.start()
        self.assertEqual(self.all(), [OWN])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(Deferred.fromCoroutine(self.reports.stop()))


def some_figures(minutes_ago: int, daemon: str = "a", **outcomes: int) -> CallFigures:
    return CallFigures(
        at=NOW - NOW % 60 - 60 * minutes_ago,
        daemon=daemon,
        app="app",
        platform="apns",
        outcomes=outcomes,
        wakeups={"0.5": outcomes.get("answered", 0)},
    )


class OverviewTests(SynchronousTestCase):
    """The figures of the last hours."""

    def test_minutes_that_are_over_are_read_once(self) -> None:
        """
        The next overview asks for the last ones only. Old ones are forgotten, and those that the
        daemon still knows count once.
        """
        asked: list[float] = []
        stored = [some_figures(300, answered=1), some_figures(2, answered=2, timeout=1)]
        now = NOW

        class History:
            async def call_figures(self, since: float) -> Sequence[CallFigures]:
                asked.append(since)
                return [each for each in stored if each.at >= since]

        sources = OverviewSources(
            report=lambda: OWN,
            expiry=lambda: {("app", Platform.APNS): None},
            figures=lambda: [stored[1], some_figures(0, answered=4), some_figures(400, answered=9)],
        )
        reader = OverviewReader(
            wall=lambda: now,
            history=cast(HistoryReader, History()),
            reports=DaemonReports(clock=Clock(), table=None, own=lambda: OWN),
            sources=sources,
        )
        found = self.successResultOf(Deferred.fromCoroutine(reader.read()))
        (app,) = found.apps
        self.assertEqual(app.outcomes, {"answered": 7, "timeout": 1})
        self.assertEqual(app.recent, {"answered": 4})
        self.assertEqual(sum(calls for _, calls, _ in found.slots), 8)
        self.assertEqual(
            overview_json(found, JsonForms(text_accounts=False))["credentials"][0]["expires"], None
        )
        now = NOW + 120 * 60
        found = self.successResultOf(Deferred.fromCoroutine(reader.read()))
        self.assertGreater(asked[1], asked[0] + 5 * 3600)
        self.assertEqual(found.apps[0].outcomes, {"answered": 6, "timeout": 1})

    def test_median(self) -> None:
        """The bound below which half of the phones answered."""
        self.assertIsNone(median_wakeup({}))
        self.assertEqual(median_wakeup({"0.5": 1, "1.0": 1, "inf": 1}), "1.0")


class Response:
    """A request as a stream needs it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.channel: object | None = self
        self.gone: Deferred[None] = Deferred()
        self.reader: Any = None
        self.finished = False

    def notifyFinish(self) -> Deferred[None]:
        return self.gone

    def setResponseCode(self, code: int) -> None: ...

    def setHeader(self, name: bytes, value: bytes) -> None: ...

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.reader = producer

    def unregisterProducer(self) -> None: ...

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def finish(self) -> None:
        self.finished = True


class StreamTests(SynchronousTestCase):
    """What a stream sends to a page."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.busy = False
        self.parts: dict[str, str] | None = {"a": "1", "b": "1"}
        self.fault: Exception | None = None
        self.streams = LiveStreams(clock=self.clock, busy=lambda: self.busy)
        self.response = Response()
        request = cast(Request, self.response)
        self.serving = Deferred.fromCoroutine(self.streams.serve(request, 1.0, self.read))

    async def read(self) -> dict[str, str] | None:
        await succeed(None)
        if self.fault is not None:
            raise self.fault
        return self.parts

    def sent(self) -> list[bytes]:
        sent, self.response.written = self.response.written, []
        return sent

    def test_only_what_changed_is_sent(self) -> None:
        """At first everything, then the parts that differ; at times a sign of life."""
        self.assertEqual(len(self.sent()), 3)  # the time to connect again, and both parts
        self.parts = {"a": "1", "b": "<2>"}
        self.clock.advance(1)
        self.assertEqual(self.sent(), [b'event: part\ndata: {"id": "b", "html": "<2>"}\n\n'])
        self.clock.pump([1.0] * int(ALIVE_S))
        self.assertEqual(self.sent(), [b": alive\n\n"])

    def test_slow_readers_miss_states(self) -> None:
        """Nothing is queued for them: they get the state of the time when they read again."""
        self.sent()
        self.response.reader.pauseProducing()
        for number in range(10):
            self.parts = {"a": str(number)}
            self.clock.advance(1)
        self.assertEqual(self.sent(), [])
        self.response.reader.resumeProducing()
        self.clock.advance(1)
        self.assertEqual(self.sent(), [b'event: part\ndata: {"id": "a", "html": "9"}\n\n'])

    def test_calls_go_first(self) -> None:
        """While the event loop is late nothing is read or sent."""
        self.sent()
        self.busy, self.parts = True, {"a": "2"}
        self.clock.advance(5)
        self.assertEqual(self.sent(), [])

    def test_the_end(self) -> None:
        """When there is nothing more to show the page is notified, and the stream ends."""
        self.parts = None
        self.clock.advance(1)
        self.assertEqual(self.sent()[-1], b"event: over\ndata: \n\n")
        self.successResultOf(self.serving)
        self.assertTrue(self.response.finished)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_database_that_is_away(self) -> None:
        """The page stays as it is until it is back."""
        self.sent()
        self.fault = DatabaseDown("away")
        self.clock.advance(1)
        self.fault, self.parts = None, {"a": "2"}
        self.clock.advance(1)
        self.assertEqual(len(self.sent()), 1)

    def test_a_page_that_is_closed(self) -> None:
        """Its stream ends at once."""
        self.response.channel = None
        self.response.gone.errback(ConnectionError())
        self.successResultOf(self.serving)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(self.response.finished)

    def test_stop(self) -> None:
        """A stop ends all streams."""
        self.streams.stop()
        self.successResultOf(self.serving)
        self.assertTrue(self.response.finished)
