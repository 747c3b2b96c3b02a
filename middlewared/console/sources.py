"""
What the console needs of the daemon.

What it reads at once is in :class:`OverviewSources`; the rest are contracts of other rooms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs

from middlewared.accounts.interface import Account
from middlewared.calls.interface import OpenCall
from middlewared.history.interface import CallFigures
from middlewared.model import Platform, SipUserId

AppKey = tuple[str, Platform]


class Users(Protocol):
    """Validates the credentials of the console's users."""

    @property
    def at_once(self) -> int:
        """How many concurrent attempts are useful."""

    async def authenticate(self, authorization: bytes) -> Account:
        """
        The user whose Basic credentials these are; its name is in place of an account.

        :raises CredentialsRefused: no one's.
        :raises AccountsDown: they could not be checked in time.
        """


@attrs.frozen(kw_only=True)
class DaemonReport:
    """
    What a daemon reports of itself.

    ``health``: ok, degraded, draining, starting; lost: it has not reported for some seconds.
    ``waiting``: how many requests it holds; ``held``: its newest calls.
    """

    daemon: str
    version: str
    health: str
    waiting: int
    held: Sequence[OpenCall] = ()


@attrs.frozen
class OverviewSources:
    """
    What the overview reads of this daemon, in the reactor's thread, so it must be fast.

    ``dependencies``: up or down. ``connections``: by app, environment and state. ``expiry``: of
    credentials, in epoch seconds; None: they do not expire. ``devices``: registered ones.
    ``figures``: of the latest minutes, which may not be stored yet. ``busy``: whether calls need
    all the time.
    """

    report: Callable[[], DaemonReport]
    dependencies: Callable[[], Mapping[str, bool]] = dict
    connections: Callable[[], Mapping[tuple[str, str, str], int]] = dict
    expiry: Callable[[], Mapping[AppKey, float | None]] = dict
    devices: Callable[[], Mapping[AppKey, int]] = dict
    silent_devices: Callable[[], int | None] = lambda: None
    figures: Callable[[], Sequence[CallFigures]] = tuple
    busy: Callable[[], bool] = lambda: False


@attrs.frozen(kw_only=True)
class ConsoleSettings:
    """
    What a reload may change.

    ``account``: interprets a text as an account; None: no account is written so.
    """

    operators: frozenset[str]
    account: Callable[[str], SipUserId | None]
    history_days: int
