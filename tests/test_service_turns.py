"""The turns of the reactor that twistd runs us on can be watched."""

from __future__ import annotations

from twisted.internet.epollreactor import EPollReactor
from twisted.trial.unittest import SynchronousTestCase

from middlewared.service.reactor_turns import watch_turns


class TurnTests(SynchronousTestCase):
    """What is observed around each wait for sockets."""

    def test_each_wait_is_seen(self) -> None:
        """The end of a turn before the wait for sockets, the beginning of the next after it."""
        reactor = EPollReactor()
        seen: list[str] = []
        watch_turns(
            reactor,
            turn_began=lambda idle: seen.append(f"began {idle}"),
            turn_ended=lambda: seen.append("ended"),
        )
        reactor.callLater(0, seen.append, "timer")
        reactor.doIteration(0)
        reactor.runUntilCurrent()
        reactor.wakeUp()
        reactor.doIteration(0)
        self.assertEqual(seen, ["ended", "began True", "timer", "ended", "began False"])
        reactor._poller.close()

    def test_other_reactors_are_left_alone(self) -> None:
        """There overload is not noticed, and a warning is logged."""
        watch_turns(object(), turn_began=lambda _: self.fail(), turn_ended=self.fail)
