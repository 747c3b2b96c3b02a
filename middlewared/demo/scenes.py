"""
What the demo shows: one scene for each way a call can end.

A scene announces beforehand which outcome it is to have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from middlewared.demo.stage import ANDROID_APP, IOS_APP, RELAY_APP
from middlewared.simulator.apple.faults import Reject, rejection
from middlewared.simulator.generations import (
    ANDROID_6,
    FLUTTER_ANDROID,
    FLUTTER_IOS,
    GCM_3,
    IOS_6,
    Generation,
)
from middlewared.simulator.phone import Reaction


@attrs.frozen
class Scene:
    """
    One call.

    ``note``: what to look at. ``generation`` None: no phone is registered. ``fault``: Apple's
    answer to the push. ``calls``: how often the PBX places the call, the repeats while the
    first waits. ``gives_up``: the caller gives up as soon as the phone has its push.
    """

    title: str
    note: str
    outcome: str
    status: int = 200
    generation: Generation | None = None
    app: str = IOS_APP
    reaction: Reaction = attrs.field(factory=Reaction)
    fields: Mapping[str, Any] = attrs.field(factory=dict)
    fault: Reject | None = None
    calls: int = 1
    gives_up: bool = False
    phonenumber: str = "+31501234567"


SCENES: Sequence[Scene] = (
    Scene(
        "An iPhone answers",
        "The PBX's request is held until the phone has answered.",
        "answered",
        generation=IOS_6,
        reaction=Reaction(0.3),
    ),
    Scene(
        "An Android wakes at the second push",
        "A push can get lost, so the daemon sends another one while the call waits.",
        "answered",
        generation=FLUTTER_ANDROID,
        app=ANDROID_APP,
        reaction=Reaction(0.1, from_attempt=2),
    ),
    Scene(
        "The PBX repeats its request",
        "It joins the call that waits. The phone gets one push, and both requests its answer.",
        "answered",
        generation=GCM_3,
        app=RELAY_APP,
        reaction=Reaction(0.2),
        calls=2,
    ),
    Scene(
        "A phone that is busy",
        "A refusal is passed on at once: the PBX can try something else.",
        "unavailable",
        generation=ANDROID_6,
        app=ANDROID_APP,
        reaction=Reaction(0.1, available=False),
    ),
    Scene(
        "A phone that stays silent",
        "It is switched off, or has no network. Here calls wait 2 s ([calls] roundtrip_wait_ms).",
        "timeout",
        generation=ANDROID_6,
        app=ANDROID_APP,
        reaction=Reaction(available=None),
    ),
    Scene(
        "The caller gives up",
        "The PBX cancels the call: no more pushes, and an answer would come too late.",
        "cancelled",
        generation=ANDROID_6,
        app=ANDROID_APP,
        reaction=Reaction(available=None),
        gives_up=True,
    ),
    Scene("No phone is registered", "There is nothing to wait for.", "no-device"),
    Scene(
        "Do not disturb is on",
        "The app has registered with dnd=true, and gets no push.",
        "no-device",
        generation=FLUTTER_IOS,
        fields={"dnd": True},
    ),
    Scene(
        "The app was removed from the phone",
        "Apple reports the push token as dead: the device is removed, and the PBX need not wait.",
        "token-dead",
        generation=IOS_6,
        fault=rejection("Unregistered"),
    ),
    Scene(
        "A push token of another app",
        "Perhaps the configuration is wrong: the device is kept.",
        "push-failed",
        generation=IOS_6,
        fault=rejection("DeviceTokenNotForTopic"),
    ),
    Scene(
        "The PBX sends an invalid number",
        "The PBX always gets an outcome, whatever it sends.",
        "malformed",
        status=400,
        phonenumber="no number",
    ),
)
HELD = Scene(
    "SIGTERM while a call waits",
    "Calls that wait are answered, new ones are refused, then the daemon ends.",
    "answered",
    generation=IOS_6,
    reaction=Reaction(0.3),
)
DRAINING = Scene("  a new call meanwhile", "", "draining", status=503)
"""Of the last scene: what waits when the daemon gets SIGTERM, and what comes afterwards."""
