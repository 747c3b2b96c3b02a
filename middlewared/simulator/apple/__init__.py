"""
Simulator: Apple's push service, strict about every rule of its pages.

``server`` is the whole, ``apple_connection`` one HTTP/2 connection, ``validation`` checks a push,
``faults`` are the troubles that a test can order.
"""

from middlewared.simulator.apple.faults import (
    Behaviour,
    Delay,
    Deliver,
    ExtraHeaders,
    GoAway,
    Greeting,
    HangUp,
    Head,
    Interim,
    Padding,
    RawFrames,
    Reject,
    ResetConnection,
    ResetStream,
    Stall,
    Step,
    StreamLimit,
    Trailers,
    rejection,
)
from middlewared.simulator.apple.received_push import ReceivedPush
from middlewared.simulator.apple.server import AppleServer

__all__ = [
    "AppleServer",
    "Behaviour",
    "Delay",
    "Deliver",
    "ExtraHeaders",
    "GoAway",
    "Greeting",
    "HangUp",
    "Head",
    "Interim",
    "Padding",
    "RawFrames",
    "ReceivedPush",
    "Reject",
    "ResetConnection",
    "ResetStream",
    "Stall",
    "Step",
    "StreamLimit",
    "Trailers",
    "rejection",
]
