"""How texts from outside are shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from middlewared.quoting import MOST_SHOWN, escaped, fingerprint, quoted


class QuotingTests(SynchronousTestCase):
    def test_a_text_is_quoted_and_cut(self) -> None:
        """Long ones show that something is missing."""
        self.assertEqual("'a'", quoted("a"))
        self.assertEqual("'aa'...", quoted("aaa", 2))

    @given(st.text())
    def test_nothing_is_shown_that_cannot_be_printed(self, text: str) -> None:
        """Whatever the text is, it is short and on one line."""
        self.assertTrue(quoted(text).isprintable())
        self.assertTrue(escaped(text).isprintable())
        self.assertLessEqual(len(quoted(text)), 10 * MOST_SHOWN + 5)

    def test_printable_texts_stay(self) -> None:
        """In any script."""
        self.assertEqual("Jürgen 李", escaped("Jürgen 李"))

    def test_a_fingerprint_is_short_and_stable(self) -> None:
        """Enough to distinguish two tokens, not to use one."""
        self.assertEqual(fingerprint("a"), fingerprint("a"))
        self.assertNotEqual(fingerprint("a"), fingerprint("b"))
        self.assertEqual(8, len(fingerprint("\ud800" * 9999)))
