"""
``middlewared migrate``: creates or upgrades the database's schema.
"""

from __future__ import annotations

from typing import Any

from middlewared.cli.reactor import run_in_reactor
from middlewared.config import Config
from middlewared.service.implementations import Registry, make_registry


def migrate(config: Config) -> int:
    """
    Bring the schema up to date, as each start of the daemon does.

    :return: 0.
    :raises ConfigError: the database cannot be used, or a newer release has used it.
    :raises DatabaseDown: it cannot be reached.
    """

    async def work(reactor: Any) -> int:
        registry: Registry = make_registry(config, reactor=reactor)
        try:
            await registry.start()
        finally:
            await registry.stop()
        return 0

    return run_in_reactor(work)
