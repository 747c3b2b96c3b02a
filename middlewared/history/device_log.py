"""The log lines of devices that are registered, replaced and removed, for whatever reason."""

from __future__ import annotations

from twisted.logger import Logger

from middlewared.history.interface import DeviceEvent
from middlewared.quoting import quoted, word

_LOGGED = frozenset(("registered", "replaced", "removed"))
_LONGEST = 255
_log = Logger()


def log_device_event(event: DeviceEvent) -> None:
    """Log ``event``, unless the line of its push has it; the token is a fingerprint."""
    if event.event not in _LOGGED:
        return
    _log.info(
        "device {event}: sip_user_id={sip_user_id} app={app} platform={platform}"
        " token_fingerprint={token_fingerprint}"
        + (" cause={cause}" if event.why else "")
        + (" reason={reason}" if event.reason else ""),
        event=event.event,
        sip_user_id=event.sip_user_id,
        app=word(event.app),
        platform=event.platform,
        token_fingerprint=event.token,
        **({"cause": event.why} if event.why else {}),
        **({"reason": quoted(event.reason, _LONGEST)} if event.reason else {}),
    )
