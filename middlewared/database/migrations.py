"""
The numbered schema files.

A schema file that was released never changes; a change gets the next number.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from middlewared.errors import ConfigError, Problem


def pending(dialect: str, version: int) -> Sequence[tuple[int, str]]:
    """
    The schema files a database still needs, in order, with their numbers.

    :param dialect: the folder of the files, "sqlite" or "postgres".
    :param version: the number of the last file the database has, 0 when it is empty.
    :raises ConfigError: the database is newer than this program.
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
    return [script for script in scripts if script[0] > version]
