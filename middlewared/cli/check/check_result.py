"""
The result of one check, and how it is shown.

It is one line for an operator: ``ok`` with what was seen, or what is wrong and what to
do. It contains no secrets, and text from peers only in quotes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import attrs
from twisted.internet import error as internet
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as WaitedTooLong

from middlewared.outgoing.proxy import ProxyFailed
from middlewared.quoting import quoted

NO_NAME = "the name server does not know the name, or does not answer"
NOTABLE_SKEW_S = 5.0
"""A clock this far off is not synchronised."""


class CheckStatus(enum.Enum):
    """The word after the title; a warning does not make the command fail."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@attrs.frozen
class CheckResult:
    """What an operator should know about one service."""

    status: CheckStatus
    text: str


def ok(text: str, warnings: Sequence[str] = ()) -> CheckResult:
    """Nothing is wrong; ``warnings``, if any, come first."""
    status = CheckStatus.WARNING if warnings else CheckStatus.OK
    return CheckResult(status, "; ".join([*warnings, text]))


def warning(text: str) -> CheckResult:
    """It works, but is probably not intended."""
    return CheckResult(CheckStatus.WARNING, text)


def wrong(text: str) -> CheckResult:
    """What is wrong, and what to do."""
    return CheckResult(CheckStatus.WRONG, text)


@attrs.frozen
class OnlineCheck:
    """``title`` names the section that is checked; ``run`` ends in bounded time."""

    title: str
    run: Callable[[], Coroutine[Deferred[Any], Any, CheckResult]]


def unreachable(error: BaseException) -> str:
    """Why there is no TCP connection, in words; ``error`` is that of an endpoint."""
    match error:
        case ProxyFailed(__cause__=BaseException() as cause):
            return f"cannot reach the proxy of [http_proxy]: {unreachable(cause)}"
        case ProxyFailed():
            return f"the proxy of [http_proxy] {error.args[0]}"
        case internet.DNSLookupError():
            return NO_NAME
        case internet.ConnectionRefusedError():
            return "the connection is refused"
        case internet.NoRouteError():
            return "there is no route to it"
        case internet.TimeoutError() | internet.TCPTimedOutError() | WaitedTooLong():
            return "no connection within a few seconds"
        case internet.ConnectionLost() | internet.ConnectionDone():
            return "the connection was closed"
    return quoted(str(error).partition("\n")[0] or type(error).__name__, 120)


def agreeing(seconds: float) -> str:
    """How well another clock agrees with ours."""
    return f"clock within {max(0.1, abs(seconds)):.1f} s of ours"


def skew(seconds: float) -> str:
    """``seconds`` by which another clock is ahead of ours, in words."""
    size = abs(seconds)
    shown = f"{size:.0f} s" if size < 120 else f"{size / 60:.0f} min"
    return f"{shown} {'ahead of' if seconds > 0 else 'behind'} ours"
