"""
What is known of an account, from the registry and the history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from middlewared.console.sources import ConsoleSettings
from middlewared.devices.interface import DeviceRegistry
from middlewared.history.interface import CallSearch, DeviceEvent, HistoryReader, KeptCall
from middlewared.model import Device


@attrs.frozen(kw_only=True)
class KnownAccount:
    """``shared``: other accounts are on the same phone. ``calls``: the newest ones."""

    device: Device | None
    shared: bool
    events: Sequence[DeviceEvent]
    last_answered: float | None
    calls: Sequence[KeptCall]

    @property
    def known(self) -> bool:
        """Whether anything is."""
        return bool(self.device or self.events or self.calls)


@attrs.frozen(kw_only=True)
class AccountReader:
    """:param settings: returns those that are in force."""

    devices: DeviceRegistry
    history: HistoryReader
    settings: Callable[[], ConsoleSettings]

    async def read(self, sip_user_id: str, *, calls: int) -> KnownAccount:
        """
        All that is known of ``sip_user_id``, with this many of its calls.

        :raises DatabaseDown: it cannot be known now.
        """
        device = await self.device(sip_user_id)
        shared = False
        if device is not None:
            shared = await self.devices.shares_phone(device)
        found = await self.history.search(CallSearch(sip_user_id=sip_user_id, limit=calls))
        return KnownAccount(
            device=device,
            shared=shared,
            events=await self.history.device_events(sip_user_id),
            last_answered=await self.history.last_answered(sip_user_id),
            calls=found.calls,
        )

    async def device(self, sip_user_id: str) -> Device | None:
        """The device of an account; None: it has none, or no account is written so."""
        account = self.settings().account(sip_user_id)
        return None if account is None else await self.devices.find(account)
