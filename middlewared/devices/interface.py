"""
The device registry: which app rings for which account.

The one invariant: at most one device per ``sip_user_id``, and a device changes only
if it still is the one the caller spoke about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from middlewared.model import Device, Platform, ResponseRecord


class DeviceRegistry(Protocol):
    """
    All methods raise :class:`~middlewared.errors.DatabaseDown` when the database cannot
    answer in time; a write that returned is committed.
    """

    async def find(self, sip_user_id: int) -> Device | None:
        """The device of this account, or None."""

    async def register(self, device: Device) -> Device | None:
        """
        Make ``device`` the one of its account.

        :return: the device that was replaced (it may equal the new one), None when the
            account had none.
        """

    async def delete(self, sip_user_id: int, platform: Platform, app: str, token: str) -> bool:
        """Remove the device that matches all four; False when there is none."""

    async def remove_dead(
        self, sip_user_id: int, token: str, registered_before: float | None
    ) -> bool:
        """
        Remove a device whose push token is dead, if it still has that token.

        :param registered_before: when not None, only a device registered at or before
            this time is removed (APNs 410: a later registration revived the token).
        """

    async def replace_token(self, sip_user_id: int, token: str, new_token: str) -> bool:
        """Store the provider's canonical token, if the device still has ``token``."""

    async def set_sandbox(self, sip_user_id: int, token: str, sandbox: bool) -> bool:
        """Keep the environment that accepted a push, if the device still has ``token``."""

    async def touch(self, sip_user_id: int, seen_at: float) -> bool:
        """Set ``last_seen``; False when the account has no device."""

    async def list(self, after: int = 0, limit: int = 1000) -> Sequence[Device]:
        """Devices in order of sip_user_id, those above ``after``, at most ``limit``."""

    async def log_responses(self, records: Sequence[ResponseRecord]) -> None:
        """Append rows to response_log in one transaction."""

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
