"""
``middlewared migrate``: creates or upgrades the database's schema.
"""

from __future__ import annotations

from typing import Any

from middlewared.cli.reactor import run_in_reactor
from middlewared.config import Config
from middlewared.service.storage import choose_storage


def migrate(config: Config) -> int:
    """
    Bring the schema up to date, as each start of the daemon does.

    :return: 0.
    :raises ConfigError: the database cannot be used, or a newer release has used it.
    :raises DatabaseDown: it cannot be reached.
    """

    async def work(reactor: Any) -> int:
        database = choose_storage(config, reactor=reactor).devices
        try:
            await database.start()
        finally:
            await database.stop()
        return 0

    return run_in_reactor(work)
