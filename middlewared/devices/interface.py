"""
The contract of the device registry: which app rings for which account.

An account has at most one device. A device is changed or removed only if it is still the
one that the caller means: the same account, platform, app and token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from middlewared.model import Device, Platform, ResponseRecord, SipUserId, Wakeup


def is_silent(device: Device, silent_calls: int) -> bool:
    """Whether it did not answer its last ``silent_calls`` pushed calls; 0: none is silent."""
    return 0 < silent_calls <= device.silent_streak


@attrs.frozen
class Registered:
    """
    What a registration replaced.

    ``replaced``: the former device of the account, which may equal the new one; None if
    the account had none. ``removed``: the devices of other accounts on the same phone, which
    an exclusive registration removes.
    """

    replaced: Device | None
    removed: Sequence[Device] = attrs.field(default=(), converter=tuple[Device, ...])


@attrs.frozen
class DeviceFilter:
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
    A part of a listing, ordered by sip_user_id.

    ``last``: the ``after`` of the next page, even if no device of this one matched; None at
    the end of the listing.
    """

    devices: Sequence[Device] = attrs.field(converter=tuple[Device, ...])
    last: SipUserId | None


@attrs.frozen
class DeviceCounts:
    """The number of devices by app and platform, and of those that are silent."""

    devices: Mapping[tuple[str, Platform], int]
    silent: int


class DeviceRegistry(Protocol):
    """
    The registry, used between :meth:`start` and :meth:`stop`.

    All methods raise :class:`~middlewared.errors.DatabaseDown` when the database cannot
    answer in time; a write that returned is committed.
    """

    @property
    def up(self) -> bool | None:
        """Whether the last :meth:`start` or :meth:`ping` succeeded; None before the first."""

    async def start(self) -> None:
        """
        Connect to the database and bring its schema up to date.

        :raises ConfigError: it cannot be used as configured, or a newer release used it.
        :raises DatabaseDown: it cannot be used now; the registry may be used nevertheless, and
            works as soon as the database does.
        """

    async def stop(self) -> None:
        """Finish the requests in progress, then disconnect; later requests fail."""

    async def ping(self) -> None:
        """Verify that the database can be read and written, else raise DatabaseDown."""

    async def find(self, sip_user_id: SipUserId, *, quickly: bool = False) -> Device | None:
        """
        The device of this account; None if it has none.

        :param quickly: raise DatabaseDown soon, since the caller knows what to do without it.
        """

    async def register(self, device: Device, *, exclusive: bool = False) -> Registered:
        """
        Make ``device`` the one of its account.

        Its ``silent_streak`` and ``last_answered`` continue those of the replaced device if
        platform, app and token are the same, and are reset otherwise; the values in
        ``device`` are ignored.

        :param exclusive: remove the devices of other accounts with the same platform, app and
            installation, in the same transaction: if several accounts register one phone
            at once, at any daemons, only the last one remains.
        """

    async def delete(
        self, sip_user_id: SipUserId, platform: Platform, app: str, token: str
    ) -> bool:
        """Remove the device that matches all four; False if there is none."""

    async def remove_dead(self, device: Device, registered_before: float | None) -> bool:
        """
        Remove a device whose push token is dead, if it is still the same.

        :param registered_before: if not None, only a device registered at or before
            this time is removed (APNs 410: a later registration revived the token).
        """

    async def replace_token(self, device: Device, new_token: str) -> bool:
        """Store the provider's canonical token, if the device is still the same."""

    async def set_sandbox(self, device: Device, sandbox: bool) -> bool:
        """Store the environment that accepted a push, if the device is still the same."""

    async def touch(self, sip_user_id: SipUserId, seen_at: float) -> bool:
        """Set ``last_seen``, in epoch seconds; False if the account has no device."""

    async def page(
        self,
        after: SipUserId | None = None,
        limit: int = 1000,
        matching: DeviceFilter | None = None,
    ) -> Page:
        """
        Those of the next ``limit`` devices after the account ``after`` that match.

        :param after: None: from the first.
        """

    async def shares_phone(self, device: Device) -> bool:
        """Whether other accounts have the phone of ``device``: the same installation of its app."""

    async def count(self, silent_calls: int) -> DeviceCounts:
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


@attrs.frozen
class PeerHeartbeat:
    """
    The last heartbeat of another daemon at the same database.

    ``age_s``: how old it is, by the database's clock. ``redis_up``: whether Redis knew every
    call that the daemon held. ``waiting``: how many requests it held.
    """

    daemon: str
    redis_up: bool
    version: str
    waiting: int
    age_s: float


@attrs.frozen
class DaemonState:
    """What a daemon last reported of itself; ``age_s``: how long ago, by the database's clock."""

    daemon: str
    state: str
    age_s: float


class DaemonStates(Protocol):
    """
    What the daemons at one database report of themselves, for their consoles.

    All methods raise :class:`~middlewared.errors.DatabaseDown` when the database cannot answer
    in time.
    """

    async def report_state(self, daemon: str, state: str) -> None:
        """Replace what ``daemon`` reported before."""

    async def withdraw_state(self, daemon: str) -> None:
        """Forget ``daemon``, which stops, and those that have not reported for a minute."""

    async def daemon_states(self) -> Sequence[DaemonState]:
        """The states that are at most a minute old, by the daemons' names."""


class DaemonHeartbeats(Protocol):
    """The heartbeats that the daemons at one database exchange."""

    async def report(self, daemon: str, *, redis_up: bool, waiting: int) -> Sequence[PeerHeartbeat]:
        """
        Store the heartbeat of ``daemon``, and delete those older than a minute.

        :return: the heartbeats of the other daemons that are at most three seconds old.
        :raises DatabaseDown: the database cannot answer in time.
        """
