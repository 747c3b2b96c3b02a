"""
What the demo explains before and after its scenes.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from middlewared.demo.screen import Screen, Style

INTRODUCTION = (
    "A phone sleeps, and a PBX has a call for it. middlewared holds the PBX's request, wakes the"
    " phone by a push, and answers the PBX when the phone has answered. Here a real daemon does"
    " so on this machine, without any account; the PBX, Apple, Google and the phones are simulated."
)
PICTURE = """
   PBX  --- call, held --->  middlewared  --- push --->  Apple, Google
    ^                           |   ^                         |
    '--- ACK or NAK ------------'   '--- answer ---  phone <--'
"""
LEGEND = (
    "Each scene is a call. Its times are those since the PBX's request and since the line above."
    " All are measured; only how long a phone takes is made up."
)


def show_next_steps(screen: Screen) -> None:
    """Print what to do after the demo."""
    command = invocation()
    screen.line("What next", Style.BOLD)
    for text, line in (
        ("Be the phone: place calls, answer them, look at them in the console.", "demo --serve"),
        ("Set it up for your app: etc/middlewared.ini explains every key.", "check --config FILE"),
    ):
        screen.text(text, indent=2)
        screen.command(f"{command} {line}", indent=4)
    screen.text(
        "README.md has the way from here; docs/install.md and docs/credentials.md lead into"
        " production, and docs/ has recipes for Kamailio, Asterisk, FreeSWITCH and OpenSIPS.",
        indent=2,
    )


def invocation() -> str:
    """How the user has called ``middlewared``, for commands to copy."""
    called = Path(sys.argv[0])
    if called.name != "middlewared":
        return "middlewared"
    known = shutil.which("middlewared")
    if known is not None and Path(known).absolute() == called.absolute():
        return "middlewared"
    return sys.argv[0]
