"""The SQLite file: creating it, its pragmas, its schema."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from twisted.logger import Logger

from middlewared.database.migrations import (
    ADD,
    ADDITIONS,
    CREATE_ADDITIONS,
    MISSING_SCHEMA,
    SchemaState,
    pending,
)
from middlewared.errors import ConfigError, Problem

_RETRY_S = 0.01
_HAS_ADDITIONS = "select 1 from sqlite_master where name = 'schema_additions'"


class SqliteFile:
    """
    Implements :class:`~middlewared.database.sqlite_thread.ConnectionSource`.

    :param lock_wait_s: how long a statement waits for another process's lock.
    :param read_only: the file must exist then, with its schema.
    """

    _log = Logger()

    def __init__(self, path: Path, *, lock_wait_s: float, read_only: bool) -> None:
        self._path = path
        self._lock_wait_s = lock_wait_s
        self._read_only = read_only
        self._identity: tuple[int, int] | None = None
        self._reached = False
        """Whether the file was opened: from then on it must be there, with its schema."""

    def open(self) -> sqlite3.Connection:
        """:raises ConfigError: the file cannot be used, or a newer release used it."""
        if not self._read_only and not self._reached:
            self._create()
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._lock_wait_s,
            isolation_level=None,
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._identity = self._identify()
        self._reached = True
        return connection

    def replaced(self) -> bool:
        """Whether an operator replaced the file: what is written to the old one is lost."""
        return self._identify() != self._identity

    def _identify(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _create(self) -> None:
        """Push tokens are secrets: the file has mode 0600 from the first byte on."""
        try:
            if self._path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "")
            # A file that exists is not opened here: closing it again would release the locks of
            # the other threads' connections (https://www.sqlite.org/howtocorrupt.html, 2.2).
            if not self._path.exists():
                _create_private(self._path.resolve())
            elif not os.access(self._path, os.R_OK | os.W_OK):
                raise PermissionError(errno.EACCES, "")
        except OSError as error:
            raise _unusable(self._path, os.strerror(error.errno or 0)) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        try:
            if self._read_only:
                connection.execute("pragma query_only = on")
            else:
                self._use_wal(connection)
                connection.execute("pragma synchronous = full")
                self._upgrade(connection)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                raise _unusable(self._path, "not a SQLite database") from error
            raise

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """
        Switch to write-ahead logging, again and again while another process does the same.

        The switch upgrades a read lock, for which SQLite fails at once instead of waiting.
        """
        deadline = time.monotonic() + self._lock_wait_s
        while True:
            try:
                connection.execute("pragma journal_mode = wal")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)
            else:
                return

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        """Bring the schema up to date under the write lock: several daemons may start at once."""
        connection.execute("begin immediate")
        state = read_state(connection)
        missing = pending("sqlite", state.version, state.additions)
        if missing and self._reached:
            raise _unusable(self._path, MISSING_SCHEMA)
        if missing:
            connection.execute(CREATE_ADDITIONS)
        for number, script in missing:
            for statement in _statements(script):
                connection.execute(statement)
            state = state.after(number, script)
            connection.execute(f"pragma user_version = {state.version}")
            if number in state.additions:
                connection.execute(ADD, (number,))
            self._log.info("database schema {number} installed", number=number)
        connection.execute("commit")


def read_state(connection: sqlite3.Connection) -> SchemaState:
    """What the file has of the schema."""
    (version,) = connection.execute("pragma user_version").fetchone()
    if not connection.execute(_HAS_ADDITIONS).fetchone():
        return SchemaState(version)
    return SchemaState(version, frozenset(n for (n,) in connection.execute(ADDITIONS)))


def _create_private(path: Path) -> None:
    """
    Create a file for the owner of its directory alone, unless another process is faster.

    Where root runs a command the directory is the daemon's, which must be able to use the file.
    Nothing else can become its owner's: the file is new, and in this directory.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        with suppress(FileExistsError):
            file = os.open(path.name, flags, 0o600, dir_fd=folder)
            try:
                if os.geteuid() == 0:
                    owner = os.fstat(folder)
                    os.fchown(file, owner.st_uid, owner.st_gid)
            finally:
                os.close(file)
    finally:
        os.close(folder)


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError([Problem("database", "url", f"{path}: {why}")])


def _statements(script: str) -> Sequence[str]:
    """The statements of a script; ``executescript`` would end the transaction it runs in."""
    statements = [""]
    for line in script.splitlines(keepends=True):
        statements[-1] += line
        if sqlite3.complete_statement(statements[-1]):
            statements.append("")
    return [statement for statement in statements if statement.strip()]
