"""
``middlewared check --online``: checks every external service that the daemon needs.

All checks run concurrently, each ends in bounded time whatever its peer does, and each prints
one line, in the order of the configuration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError

from middlewared.cli.check.account_api_checks import check_account_api
from middlewared.cli.check.apple_checks import AppleCheck
from middlewared.cli.check.check_result import CheckResult, CheckStatus, OnlineCheck, wrong
from middlewared.cli.check.database_checks import check_database
from middlewared.cli.check.google_checks import GoogleCheck
from middlewared.cli.check.redis_checks import check_redis
from middlewared.cli.check.response_api_checks import check_response_api
from middlewared.cli.reactor import run_in_reactor
from middlewared.clock import wall_clock
from middlewared.config import AppleApp, Config
from middlewared.config.exposure import response_apis
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.push.apns.provider_tokens import ProviderTokens
from middlewared.service.apps import LoadedApp, load_apps
from middlewared.service.implementations import choose_endpoints
from middlewared.waiting import with_fair_timeout

LONGEST_S = 20.0
"""For one check; each of its steps has its own limit of a few seconds."""


def check_online(config: Config) -> int:
    """
    Run all checks, and print a line for each.

    :return: 0 when nothing is wrong; warnings do not count.
    """

    async def work(reactor: Any) -> int:
        statuses = await run_all(list(online_checks(config, reactor)), reactor, _print)
        code = 1 if CheckStatus.WRONG in statuses else 0
        _exit_despite_stuck_threads(reactor, code)
        return code

    return run_in_reactor(work)


def online_checks(config: Config, reactor: Any) -> Iterator[OnlineCheck]:
    """The checks to run. :raises ConfigError: a file has changed since it was checked."""
    endpoints = choose_endpoints(config, reactor=reactor)
    apps = load_apps(config, now=wall_clock())
    for section, url in response_apis(config).items():
        yield OnlineCheck(f"[{section}] response_api", partial(check_response_api, url, reactor))
    if config.accounts.backend == "voipgrid":
        run = partial(check_account_api, config.accounts, endpoints, reactor)
        yield OnlineCheck("[accounts]", run)
    yield OnlineCheck("[database]", partial(check_database, config.database, reactor))
    if config.redis.nodes:
        direct = DirectEndpoints(reactor)
        yield OnlineCheck("[redis]", partial(check_redis, config.redis, direct, reactor))
    apple = AppleCheck(reactor, endpoints, ProviderTokens(clock=reactor))
    google = GoogleCheck(reactor, endpoints)
    for loaded in apps.values():
        yield from _app_checks(loaded, apple, google)


def _app_checks(loaded: LoadedApp, apple: AppleCheck, google: GoogleCheck) -> Iterator[OnlineCheck]:
    app = loaded.app
    title = f"[{app.section}]"
    if not isinstance(app, AppleApp):
        yield OnlineCheck(title, partial(google, loaded))
        return
    yield OnlineCheck(f"{title} production", partial(apple, loaded, "production"))
    if app.sandbox_url:
        yield OnlineCheck(f"{title} sandbox", partial(apple, loaded, "sandbox"))


async def run_all(
    checks: Sequence[OnlineCheck], reactor: Any, show: Callable[[str], None]
) -> set[CheckStatus]:
    """Run all checks at once; ``show`` gets each line as soon as those before it are known."""
    width = max(len(check.title) for check in checks)
    running = [Deferred.fromCoroutine(_bounded(check, reactor)) for check in checks]
    statuses = set()
    for check, ending in zip(checks, running, strict=True):
        result = await ending
        statuses.add(result.status)
        show(f"{check.title:<{width}}  {result.status.value:<7}  {result.text}")
    return statuses


async def _bounded(check: OnlineCheck, reactor: Any) -> CheckResult:
    """The result of one check; an unexpected failure does not affect the others."""
    running = Deferred.fromCoroutine(check.run())
    try:
        return await with_fair_timeout(running, LONGEST_S, reactor)
    except TimeoutError:
        return wrong(f"no answer within {LONGEST_S:.0f} s")
    except Exception as error:
        return wrong(f"the check itself failed: {type(error).__name__}")


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _exit_despite_stuck_threads(reactor: Any, code: int) -> None:
    """
    Exit now if a name look-up still waits for a silent name server: its thread cannot be
    stopped, and the reactor would wait for it.
    """
    if reactor.getThreadPool().working:
        sys.stdout.flush()
        os._exit(code)
