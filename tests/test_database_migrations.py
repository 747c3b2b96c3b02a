"""Which schema files a database needs, and which programs may use it afterwards."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from middlewared.database.migrations import SchemaState, pending
from middlewared.errors import ConfigError


class MigrationTests(SynchronousTestCase):
    """The files that are shipped, and the state that they leave."""

    def test_both_databases_have_the_same_files(self) -> None:
        """One number means the same change in both."""
        sqlite, postgres = pending("sqlite", 0), pending("postgres", 0)
        self.assertEqual([n for n, _ in sqlite], [n for n, _ in postgres])
        states = []
        for scripts in (sqlite, postgres):
            state = SchemaState(0)
            for number, script in scripts:
                state = state.after(number, script)
            states.append(state)
        self.assertEqual(states[0], states[1])

    def test_a_breaking_file_raises_the_version(self) -> None:
        """Programs that do not know it must stop; what it follows is implied."""
        self.assertEqual(SchemaState(3, frozenset({4})).after(5, "drop table x;"), SchemaState(5))

    def test_an_addition_leaves_the_version(self) -> None:
        """Programs that know the named number go on."""
        state = SchemaState(3).after(4, "-- compatible since 3\ncreate table x (y integer);")
        self.assertEqual(state, SchemaState(3, frozenset({4})))
        self.assertEqual(state.newest, 4)
        after = state.after(5, "-- compatible since 4\ncreate table z (y integer);")
        self.assertEqual(after, SchemaState(4, frozenset({4, 5})))

    def test_additions_are_not_repeated(self) -> None:
        """A file is pending until the database has it, whatever the version."""
        newest = pending("sqlite", 0)[-1][0]
        self.assertEqual(pending("sqlite", newest - 1, {newest}), [])
        self.assertEqual([n for n, _ in pending("sqlite", newest - 1)], [newest])

    def test_unknown_additions_are_fine(self) -> None:
        """They are a newer release's; a version that is not known is not."""
        newest = pending("sqlite", 0)[-1][0]
        self.assertEqual(pending("sqlite", newest, {1000}), [])
        self.assertRaises(ConfigError, pending, "sqlite", 1000)
