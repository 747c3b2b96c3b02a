"""
The numbered schema files, and which programs may use the schema that they make.

A schema file that was released never changes; a change gets the next number. Most files only
add tables, columns or indexes, which an older program does not notice. Such a file begins with
the line ``-- compatible since N``: programs that know the files up to N can go on using the
database, so daemons can be upgraded in turn. A file without that line stops all
programs that do not know it.

A database records the lowest number that a program must know (``schema_version``, in SQLite
``user_version``), and in ``schema_additions`` the files above it that it has, too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from importlib.resources import files

import attrs

from middlewared.errors import ConfigError, Problem

CREATE_ADDITIONS = "create table if not exists schema_additions (number integer primary key)"
ADDITIONS = "select number from schema_additions"
ADD = "insert into schema_additions (number) values (?)"

MISSING_SCHEMA = (
    "the database has no schema, or an older one; restore it, or run middlewared migrate"
)
"""
Of a database that was replaced while the daemon runs. The daemon makes the schema at its start
only: otherwise it would do so in a database that is about to be restored.
"""

_COMPATIBLE = re.compile(r"-- compatible since ([0-9]+)\n")


@attrs.frozen
class SchemaState:
    """
    What a database has of the schema.

    :ivar version: the number of the last file that a program must know to use the database; it
        has all files up to this one. 0: it is empty.
    :ivar additions: the numbers of the files above it that the database has, too.
    """

    version: int
    additions: frozenset[int] = frozenset()

    @property
    def newest(self) -> int:
        """The number of the last file that it has."""
        return max(self.version, *self.additions, 0)

    def after(self, number: int, script: str) -> SchemaState:
        """The state when the file ``number`` has been executed as well."""
        match = _COMPATIBLE.match(script)
        since = int(match[1]) if match else number
        version = max(self.version, since)
        added = self.additions | {number} if number > version else frozenset[int]()
        return SchemaState(version, added)


def pending(
    dialect: str, version: int, additions: Collection[int] = ()
) -> Sequence[tuple[int, str]]:
    """
    The schema files a database still needs, in order, with their numbers.

    :param dialect: the folder of the files, "sqlite" or "postgres".
    :param version: see :class:`SchemaState`, as for ``additions``.
    :raises ConfigError: a program must know files that this one does not have.
    """
    folder = files(__package__) / "schema" / dialect
    scripts = sorted(
        (int(entry.name.removesuffix(".sql")), entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    )
    newest = scripts[-1][0]
    if version > newest:
        what = (
            f"the database has schema {version}, this program knows up to {newest}: it was used"
            " by a newer release"
        )
        raise ConfigError([Problem("database", "url", what)])
    return [script for script in scripts if script[0] > version and script[0] not in additions]
