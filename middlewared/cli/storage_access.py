"""
Running a command's work on the configured database.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred

from middlewared.cli.reactor import run_in_reactor
from middlewared.config import Config
from middlewared.errors import ConfigError, Problem
from middlewared.service.storage import Storage, choose_storage

StorageWork: TypeAlias = Callable[[Storage], Coroutine[Deferred[Any], Any, int]]


def with_storage(config: Config, work: StorageWork, *, create: bool = False) -> int:
    """
    Run ``work`` on the database of ``config``; its result.

    :param create: create a SQLite file that does not exist, instead of refusing it.
    :raises ConfigError: the database cannot be used.
    :raises DatabaseDown: it cannot be reached.
    """
    path = config.database.sqlite_file
    if path is not None and not create and not path.exists():
        raise ConfigError([Problem("database", "url", f"{path} does not exist")])

    async def opened(reactor: Any) -> int:
        storage = choose_storage(config, reactor=reactor)
        try:
            await storage.devices.start()
            return await work(storage)
        finally:
            await storage.devices.stop()

    return run_in_reactor(opened)
