"""
The device registry: which app rings for which account.

The one invariant: at most one device per ``sip_user_id``, and a device changes only
if it is still the one the caller means: the same account, platform, app and token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from middlewared.model import Device, Platform, ResponseRecord, Wakeup


def is_silent(device: Device, silent_calls: int) -> bool:
    """Whether it did not answer its last ``silent_calls`` pushed calls; 0: none is silent."""
    return 0 < silent_calls <= device.silent_streak


@attrs.frozen
class Registered:
    """
    What a registration replaced.

    ``replaced``: the former device of the account, which may equal the new one; None when
    the account had none. ``displaced``: devices of other accounts on the same phone.
    """

    replaced: Device | None
    displaced: Sequence[Device] = attrs.field(default=(), converter=tuple[Device, ...])


@attrs.frozen
class Wanted:
    """
    The filters of a listing; a device must match all of them.

    ``silent_streak``: at least this streak. ``unseen_since``: neither seen nor answered since
    then, in epoch seconds. ``shared``: on a phone that has other accounts too (the same
    platform, app and installation).
    """

    silent_streak: int = 0
    unseen_since: float | None = None
    shared: bool = False


@attrs.frozen
class Page:
    """
    A part of a listing, in order of sip_user_id.

    ``last``: where the next part starts, even if no device of this one matched; None at
    the end.
    """

    devices: Sequence[Device] = attrs.field(converter=tuple[Device, ...])
    last: int | None


@attrs.frozen
class Counts:
    """How many devices there are of each app and platform, and how many are silent."""

    devices: Mapping[tuple[str, Platform], int]
    silent: int


class DeviceRegistry(Protocol):
    """
    All methods raise :class:`~middlewared.errors.DatabaseDown` when the database cannot
    answer in time; a write that returned is committed.
    """

    async def find(self, sip_user_id: int) -> Device | None:
        """The device of this account, or None."""

    async def register(self, device: Device, *, alone: bool = False) -> Registered:
        """
        Make ``device`` the one of its account.

        Its ``silent_streak`` and ``last_answered`` continue those of the replaced device if
        platform, app and token are the same, and are reset otherwise; the values in
        ``device`` are ignored.

        :param alone: remove the devices of other accounts with the same platform, app and
            installation, in the same transaction: if several accounts register one phone
            at once, at any daemons, only the last one remains.
        """

    async def delete(self, sip_user_id: int, platform: Platform, app: str, token: str) -> bool:
        """Remove the device that matches all four; False when there is none."""

    async def remove_dead(self, device: Device, registered_before: float | None) -> bool:
        """
        Remove a device whose push token is dead, if it is still the same.

        :param registered_before: when not None, only a device registered at or before
            this time is removed (APNs 410: a later registration revived the token).
        """

    async def replace_token(self, device: Device, new_token: str) -> bool:
        """Store the provider's canonical token, if the device is still the same."""

    async def set_sandbox(self, device: Device, sandbox: bool) -> bool:
        """Store the environment that accepted a push, if the device is still the same."""

    async def touch(self, sip_user_id: int, seen_at: float) -> bool:
        """Set ``last_seen``; False when the account has no device."""

    async def page(self, after: int = 0, limit: int = 1000, wanted: Wanted | None = None) -> Page:
        """Those of the next ``limit`` devices after the account ``after`` that match."""

    async def count(self, silent_calls: int) -> Counts:
        """
        Count the devices.

        :param silent_calls: see :func:`is_silent`.
        """

    async def log_responses(self, records: Sequence[ResponseRecord]) -> None:
        """Append rows to response_log in one transaction."""

    async def log_wakeups(self, wakeups: Sequence[Wakeup]) -> None:
        """
        Update the streaks of the devices that were woken, in order, in one transaction.

        A device that has changed since is left as it is.
        """

    async def ping(self) -> None:
        """Prove that the database can be read and written, else DatabaseDown."""


@attrs.frozen
class PeerState:
    """
    What another daemon at the same database reported last.

    ``age_s``: how long ago, by the database's clock. ``redis_up``: whether Redis knew every
    call that the daemon held. ``waiting``: how many requests it held.
    """

    daemon: str
    redis_up: bool
    version: str
    waiting: int
    age_s: float


class DaemonTable(Protocol):
    """Where the daemons at one database report themselves to each other."""

    async def report(self, daemon: str, *, redis_up: bool, waiting: int) -> Sequence[PeerState]:
        """
        Report ``daemon``, forget those that were silent for a minute.

        :return: the other daemons that reported within the last three seconds.
        :raises DatabaseDown: the database cannot answer in time.
        """
