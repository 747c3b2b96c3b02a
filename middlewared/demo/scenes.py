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

    ``generation`` None: no phone is registered. ``fault``: Apple's answer to the push.
    ``calls``: how often the PBX places the call, the repeats while the first waits.
    ``gives_up``: the caller gives up as soon as the phone has its push.
    """

    title: str
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
    Scene("An iPhone answers", "answered", generation=IOS_6, reaction=Reaction(0.3)),
    Scene(
        "An Android phone wakes at the second push",
        "answered",
        generation=FLUTTER_ANDROID,
        app=ANDROID_APP,
        reaction=Reaction(0.1, from_attempt=2),
    ),
    Scene(
        "The PBX repeats itself: the second request joins the call",
        "answered",
        generation=GCM_3,
        app=RELAY_APP,
        reaction=Reaction(0.2),
        calls=2,
    ),
    Scene(
        "A phone that is busy",
        "unavailable",
        generation=ANDROID_6,
        app=ANDROID_APP,
        reaction=Reaction(0.1, available=False),
    ),
    Scene(
        "A phone that stays silent",
        "timeout",
        generation=ANDROID_6,
        app=ANDROID_APP,
        reaction=Reaction(available=None),
    ),
    Scene(
        "The caller gives up while the phone wakes",
        "cancelled",
        generation=ANDROID_6,
        app=ANDROID_APP,
        reaction=Reaction(available=None),
        gives_up=True,
    ),
    Scene("No phone is registered", "no-device"),
    Scene("A phone that wants no calls", "no-device", generation=FLUTTER_IOS, fields={"dnd": True}),
    Scene(
        "The app was removed from the phone",
        "token-dead",
        generation=IOS_6,
        fault=rejection("Unregistered"),
    ),
    Scene(
        "A push token of another app",
        "push-failed",
        generation=IOS_6,
        fault=rejection("DeviceTokenNotForTopic"),
    ),
    Scene("The PBX sends nonsense", "malformed", status=400, phonenumber="no number"),
)
