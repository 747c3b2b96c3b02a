"""
Updates of a device after the result of a push and after the end of a call.

Only a dead token, a canonical token and acceptance by the other environment change what is
stored, and only while the stored device is the one pushed to: the same account, platform, app
and token.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import attrs
from twisted.logger import Logger

from middlewared.devices.interface import DeviceRegistry
from middlewared.errors import DatabaseDown
from middlewared.history.interface import DeviceEvent, Recorder
from middlewared.model import Device, DeviceKind, LateAnswer, Outcome, Wakeup
from middlewared.push.interface import Accepted, PushResult, TokenDead, TokenSuspect
from middlewared.quoting import fingerprint

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


async def note_late_answer(
    late: LateAnswer,
    received_time: float,
    registry: DeviceRegistry,
    log_wakeup: Callable[[Wakeup], None],
) -> None:
    """A phone that answers late is not silent, although its call timed out."""
    with suppress(DatabaseDown):
        device = await registry.find(late.sip_user_id)
        if device is not None and DeviceKind(device.app, device.platform) == late.kind:
            log_wakeup(Wakeup(device, received_time))


async def store_update(
    registry: DeviceRegistry, recorder: Recorder, device: Device, result: PushResult
) -> None:
    """
    Store what the result of a push to ``device`` changes, and record it.

    While the database is away the change is lost; the result of the next push brings it again.
    """

    def record(event: str, why: str, reason: str) -> None:
        recorder.keep_device_event(DeviceEvent.of(device, event, why=why, reason=reason))

    try:
        match result:
            case TokenDead(reason=reason, since=since):
                removed = await registry.remove_dead(device, since)
                if removed:
                    record("removed", "token-dead", reason)
                else:
                    _log.info(
                        "dead push token of {sip_user_id}: device kept: registered again, or"
                        " removals paused",
                        sip_user_id=device.sip_user_id,
                    )
            case Accepted(canonical_token=str(token)):
                await registry.replace_token(device, token)
                record("replaced", "", f"the provider's canonical token {fingerprint(token)}")
            case Accepted(other_environment=True):
                await registry.set_sandbox(device, not device.sandbox)
            case TokenSuspect(reason=reason):
                record("token-suspect", "", reason)
            case _:
                pass
    except DatabaseDown as error:
        _log.warn(
            "push verdict about {sip_user_id} not stored: {error}",
            sip_user_id=device.sip_user_id,
            error=error,
        )
