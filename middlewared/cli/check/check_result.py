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
from twisted.internet.defer import Deferred


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
