"""
Updates of a device after the result of a push and after the end of a call.

Only a dead token, a canonical token and acceptance by the other environment change what is
stored, and only while the stored device is the one pushed to: the same account, platform, app
and token.
"""

from __future__ import annotations

import attrs
from twisted.logger import Logger

from middlewared.devices.interface import DeviceRegistry
from middlewared.errors import DatabaseDown
from middlewared.model import Device, Outcome, Wakeup
from middlewared.push.interface import Accepted, PushResult, TokenDead

_log = Logger()


def updated(device: Device, accepted: Accepted) -> Device:
    """``device`` as the next push must address it."""
    if accepted.canonical_token is None and not accepted.other_environment:
        return device
    token = accepted.canonical_token or device.token
    sandbox = device.sandbox is not accepted.other_environment
    return attrs.evolve(device, token=token, sandbox=sandbox)


def wakeup(
    device: Device, outcome: Outcome | None, *, accepted: int, answered_at: float | None
) -> Wakeup | None:
    """
    The effect of a call that has ended on the silent streak of its device.

    :param outcome: None: the PBX hung up.
    :param accepted: how many pushes the provider accepted.
    :param answered_at: when the phone answered, yes or no, in epoch seconds.
    :return: None: it has no effect, because the phone may not have been woken, or may not
        have had enough time to answer.
    """
    silent = outcome is Outcome.TIMEOUT and accepted > 0
    return Wakeup(device, answered_at) if silent or answered_at is not None else None


async def store_update(registry: DeviceRegistry, device: Device, result: PushResult) -> None:
    """
    Store what the result of a push to ``device`` changes.

    While the database is away the change is lost; the result of the next push brings it again.
    """
    try:
        match result:
            case TokenDead(since=since):
                removed = await registry.remove_dead(device, since)
                _log.info(
                    "dead push token of {sip_user_id}: device {what}",
                    sip_user_id=device.sip_user_id,
                    what="removed" if removed else "kept: registered again, or removals paused",
                )
            case Accepted(canonical_token=str(token)):
                await registry.replace_token(device, token)
            case Accepted(other_environment=True):
                await registry.set_sandbox(device, not device.sandbox)
            case _:
                pass
    except DatabaseDown as error:
        _log.warn(
            "push verdict about {sip_user_id} not stored: {error}",
            sip_user_id=device.sip_user_id,
            error=error,
        )
