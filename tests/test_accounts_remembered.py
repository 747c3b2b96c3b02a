"""What account backends remember of accepted credentials."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from middlewared.accounts.remembered import MAX_REMEMBERED, Remembered


class RememberedTests(SynchronousTestCase):
    """Results by secret, each for a while."""

    def setUp(self) -> None:
        self.remembered: Remembered[int] = Remembered()

    def test_until_its_time_is_up(self) -> None:
        """A look-up alone does not prolong it."""
        self.remembered.put(b"word", 1, 1000.0, keep_s=10.0)
        self.assertEqual(self.remembered.get(b"word", 1009.0), 1)
        self.assertIsNone(self.remembered.get(b"word", 1010.0))
        self.assertIsNone(self.remembered.get(b"word", 1009.0))

    def test_as_long_as_it_is_used(self) -> None:
        """Each use may prolong it."""
        self.remembered.put(b"word", 1, 1000.0, keep_s=10.0)
        self.assertEqual(self.remembered.get(b"word", 1009.0, extend_s=10.0), 1)
        self.assertEqual(self.remembered.get(b"word", 1018.0, extend_s=10.0), 1)
        self.assertIsNone(self.remembered.get(b"word", 1028.0))

    def test_only_that_secret(self) -> None:
        """No other one, however similar."""
        self.remembered.put(b"word", 1, 1000.0, keep_s=10.0)
        for other in (b"wor", b"word ", b"Word", b""):
            self.assertIsNone(self.remembered.get(other, 1000.0))

    def test_bounded(self) -> None:
        """The one that was not used for the longest time goes."""
        for number in range(MAX_REMEMBERED):
            self.remembered.put(b"%d" % number, number, 1000.0, keep_s=10.0)
        self.remembered.get(b"0", 1000.0)
        self.remembered.put(b"more", 1, 1000.0, keep_s=10.0)
        self.assertEqual(self.remembered.get(b"0", 1000.0), 0)
        self.assertIsNone(self.remembered.get(b"1", 1000.0))
