"""When all garbage is collected."""

from __future__ import annotations

import gc
import weakref

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.service.garbage_collector import CHECK_EVERY_S, LONGEST_S, FullCollections


class Cyclic:
    """An object that only the collector can free."""

    def __init__(self) -> None:
        self.me = self


def old_garbage() -> weakref.ref[Cyclic]:
    """Garbage that was in use while new objects were collected."""
    cyclic = Cyclic()
    gc.collect(0)
    return weakref.ref(cyclic)


class FullCollectionsTests(SynchronousTestCase):
    """Full collections wait while many calls do, but not for ever."""

    def setUp(self) -> None:
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.addCleanup(gc.unfreeze)
        self.clock = Clock()
        self.waiting = 0
        FullCollections(clock=self.clock, waiting=lambda: self.waiting).start()

    def test_few_calls_do_not_hold_up_a_collection(self) -> None:
        garbage = old_garbage()
        self.clock.advance(CHECK_EVERY_S)
        self.assertIsNone(garbage())

    def test_many_waiting_calls_put_it_off(self) -> None:
        self.waiting = 5000
        garbage = old_garbage()
        self.clock.advance(CHECK_EVERY_S)
        self.assertIsNotNone(garbage())

    def test_it_is_not_put_off_for_longer_than_an_hour(self) -> None:
        self.waiting = 5000
        garbage = old_garbage()
        self.clock.advance(LONGEST_S)
        self.assertIsNone(garbage())
