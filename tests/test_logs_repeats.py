"""Lines that anyone can provoke at will are counted."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from middlewared.logs import Repeats
from middlewared.logs.repeats import MOST_FIRST, MOST_KINDS


class RepeatsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.repeats = Repeats(clock=self.clock)
        events: list[LogEvent] = []
        publisher: Any = globalLogPublisher
        publisher.addObserver(events.append)
        self.addCleanup(publisher.removeObserver, events.append)
        self.events = events

    def lines(self) -> list[str]:
        """What was logged since this was asked last."""
        lines = [str(formatEvent(event)) for event in self.events]
        self.events.clear()
        return lines

    def test_first_is_logged_at_once(self) -> None:
        """Each kind has a line of its own."""
        self.repeats.count("a")
        self.repeats.count("b")
        self.assertEqual(["a", "b"], self.lines())

    def test_more_are_one_line_a_second(self) -> None:
        """As long as they come."""
        for _ in range(3):
            for _ in range(100):
                self.repeats.count("a")
            self.clock.advance(1)
        self.assertEqual(
            [
                "a",
                "99 more in the last second: 99 a",
                "100 more in the last second: 100 a",
                "100 more in the last second: 100 a",
            ],
            self.lines(),
        )

    def test_it_is_news_after_a_second_of_rest(self) -> None:
        """The next one is logged at once again."""
        for _ in range(2):
            self.repeats.count("a")
            self.clock.advance(1)
        self.assertEqual(["a", "a"], self.lines())

    def test_kinds_share_the_line(self) -> None:
        """The most frequent one comes first."""
        for kind in "abb" * 2:
            self.repeats.count(kind)
        self.lines()
        self.clock.advance(1)
        self.assertEqual(["4 more in the last second: 3 b; 1 a"], self.lines())

    def test_made_up_kinds_are_bounded(self) -> None:
        """A thousand kinds are a few lines, and nothing is left uncounted."""
        for number in range(1000):
            self.repeats.count(f"kind {number}")
        self.assertEqual(MOST_FIRST, len(self.lines()))
        self.clock.advance(1)
        (line,) = self.lines()
        self.assertTrue(line.startswith(f"{1000 - MOST_FIRST} more in the last second: 1 kind "))
        self.assertTrue(line.endswith(f"; {1000 - MOST_FIRST - 10} of other kinds"))
        self.assertLess(len(line), 1000)
        self.assertLessEqual(len(self.repeats._counts), MOST_KINDS)

    def test_a_caller_may_log_a_line_of_its_own(self) -> None:
        """The first of a kind; the others are counted."""
        self.assertEqual([True, False], [self.repeats.is_first("a") for _ in range(2)])
        self.clock.advance(1)
        self.assertEqual(["1 more in the last second: 1 a"], self.lines())

    def test_nothing_runs_while_nothing_is_counted(self) -> None:
        """No timer before the first line, and none a second after the last."""
        self.assertEqual([], self.clock.getDelayedCalls())
        self.repeats.count("a")
        self.clock.advance(1)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_stop_reports_and_leaves_no_timer(self) -> None:
        """Not even when something is counted later."""
        self.repeats.count("a")
        self.repeats.count("a")
        self.repeats.stop()
        self.repeats.count("b")
        self.assertEqual(["a", "1 more in the last second: 1 a", "b"], self.lines())
        self.assertEqual([], self.clock.getDelayedCalls())
