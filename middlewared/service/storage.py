"""
The database: the devices and the history of calls, on SQLite or PostgreSQL.

Commands use it as well, without the rest of the daemon.
"""

from __future__ import annotations

from typing import Any, Protocol

import attrs

from middlewared.config import Config
from middlewared.database.postgres_database import PostgresDatabase
from middlewared.database.sqlite_database import SqliteDatabase
from middlewared.devices.interface import DaemonHeartbeats, DaemonStates, DeviceRegistry
from middlewared.devices.postgres.postgres_registry import PostgresRegistry
from middlewared.devices.sqlite.sqlite_registry import SqliteRegistry
from middlewared.history.interface import HistoryStore, Retention
from middlewared.history.postgres_history import PostgresHistory
from middlewared.history.sqlite_history import SqliteHistory


class Database(DeviceRegistry, DaemonHeartbeats, DaemonStates, Protocol):
    """A device registry, with what the daemons that share its database report."""


@attrs.frozen
class Storage:
    """Both rooms of one database; ``devices`` starts and stops it."""

    devices: Database
    history: HistoryStore


def choose_storage(config: Config, *, reactor: Any) -> Storage:
    """The database of ``[database]``."""
    path, kept = config.database.sqlite_file, retention(config)
    text = config.accounts.are_texts
    if path is not None:
        file = SqliteDatabase(path=path, reactor=reactor)
        return Storage(
            SqliteRegistry(database=file, text_accounts=text),
            SqliteHistory(database=file, settings=kept),
        )
    database = PostgresDatabase(
        url=config.database.url, reactor=reactor, pool_size=config.database.pool_size
    )
    return Storage(
        PostgresRegistry(database=database, text_accounts=text),
        PostgresHistory(database=database, settings=kept),
    )


def retention(config: Config) -> Retention:
    """What the history room takes from the configuration."""
    history = config.history
    return Retention(days=history.days, max_calls=history.max_calls, numbers=history.numbers)
