"""
Updating devices after a provider's verdict and after the end of a call.

Only a dead token, a canonical token and the other environment's acceptance change what is
stored, and only while the stored device is the one pushed to: the same account, platform, app
and token.
"""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from middlewared.devices.interface import DeviceRegistry
from middlewared.errors import DatabaseDown
from middlewared.model import Device, Outcome, Wakeup
from middlewared.push.interface import Accepted, PushResult, TokenDead

_log = Logger()


def taught(device: Device, accepted: Accepted) -> Device:
    """``device`` as the next push has to address it."""
    token = accepted.canonical_token or device.token
    sandbox = device.sandbox is not accepted.other_environment
    return attrs.evolve(device, token=token, sandbox=sandbox)


def wakeup(
    device: Device, outcome: Outcome | None, *, accepted: int, answered_at: float | None
) -> Wakeup | None:
    """
    How a call that has ended affects the silent streak of its device.

    :param outcome: None: the PBX hung up.
    :param accepted: how many pushes the provider accepted.
    :param answered_at: when the phone answered, yes or no, in epoch seconds.
    :return: None when it has no effect: the phone may not have been woken, or may not have
        had enough time to answer.
    """
    silent = outcome is Outcome.TIMEOUT and accepted > 0
    return Wakeup(device, answered_at) if silent or answered_at is not None else None


def correct(registry: DeviceRegistry, device: Device, result: PushResult) -> Deferred[None]:
    """
    Begin to store what ``result`` taught. Starts at once, so that a look-up made after
    it sees the change; a database that is away loses it, which the next push mends.
    """
    return Deferred.fromCoroutine(_correct(registry, device, result))


async def _correct(registry: DeviceRegistry, device: Device, result: PushResult) -> None:
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
