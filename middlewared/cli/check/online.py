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

from middlewared.cli.check.account_api import ask_accounts
from middlewared.cli.check.apple_checks import AskApple
from middlewared.cli.check.database_checks import ask_database
from middlewared.cli.check.finding import Finding, Question, Verdict, wrong
from middlewared.cli.check.google_checks import AskGoogle
from middlewared.cli.check.redis_checks import ask_redis
from middlewared.cli.check.response_api import ask_response_api
from middlewared.cli.reactor import run_in_reactor
from middlewared.clock import wall_clock
from middlewared.config import AppleApp, Config
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
        verdicts = await ask_all(list(questions(config, reactor)), reactor, _say)
        code = 1 if Verdict.WRONG in verdicts else 0
        _leave_stuck_threads(reactor, code)
        return code

    return run_in_reactor(work)


def questions(config: Config, reactor: Any) -> Iterator[Question]:
    """The checks to run. :raises ConfigError: a file has changed since it was checked."""
    endpoints = choose_endpoints(config, reactor=reactor)
    apps = load_apps(config, now=wall_clock())
    if apps:
        url = config.calls.response_api
        yield Question("[calls] response_api", partial(ask_response_api, url, reactor))
    if config.accounts.backend == "voipgrid":
        ask = partial(ask_accounts, config.accounts, endpoints, reactor)
        yield Question("[accounts]", ask)
    yield Question("[database]", partial(ask_database, config.database, reactor))
    if config.redis.nodes:
        direct = DirectEndpoints(reactor)
        yield Question("[redis]", partial(ask_redis, config.redis, direct, reactor))
    apple = AskApple(reactor, endpoints, ProviderTokens(clock=reactor))
    google = AskGoogle(reactor, endpoints)
    for loaded in apps.values():
        yield from _about(loaded, apple, google)


def _about(loaded: LoadedApp, apple: AskApple, google: AskGoogle) -> Iterator[Question]:
    app = loaded.app
    title = f"[app:{app.app}:{app.platform.value}]"
    if not isinstance(app, AppleApp):
        yield Question(title, partial(google, loaded))
        return
    yield Question(f"{title} production", partial(apple, loaded, "production"))
    if app.sandbox_url:
        yield Question(f"{title} sandbox", partial(apple, loaded, "sandbox"))


async def ask_all(
    asked: Sequence[Question], reactor: Any, say: Callable[[str], None]
) -> set[Verdict]:
    """Run all checks at once; ``say`` gets each line as soon as those before it are known."""
    width = max(len(question.title) for question in asked)
    running = [Deferred.fromCoroutine(_answered(question, reactor)) for question in asked]
    verdicts = set()
    for question, answer in zip(asked, running, strict=True):
        finding = await answer
        verdicts.add(finding.verdict)
        say(f"{question.title:<{width}}  {finding.verdict.value:<7}  {finding.text}")
    return verdicts


async def _answered(question: Question, reactor: Any) -> Finding:
    """The result of one check; an unexpected failure does not affect the others."""
    asking = Deferred.fromCoroutine(question.ask())
    try:
        return await with_fair_timeout(asking, LONGEST_S, reactor)
    except TimeoutError:
        return wrong(f"no answer within {LONGEST_S:.0f} s")
    except Exception as error:
        return wrong(f"the check itself failed: {type(error).__name__}")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _leave_stuck_threads(reactor: Any, code: int) -> None:
    """
    Exit now if a name look-up still waits for a silent name server: its thread cannot be
    stopped, and the reactor would wait for it.
    """
    if reactor.getThreadPool().working:
        sys.stdout.flush()
        os._exit(code)
