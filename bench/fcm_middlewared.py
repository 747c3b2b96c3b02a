"""
The FCM benchmark's own client: the provider as the daemon uses it.

Usage: fcm_middlewared.py KIND PORT CA PUSHES IN_FLIGHT ; prints one JSON object. KIND is
``provider`` or ``pool``, which leaves the provider out.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from providers import BareFcm, fcm_provider, make_push, together
from pushes import measure
from twisted.internet.task import react

from middlewared.model import Platform
from middlewared.outgoing.tls import load_trust
from middlewared.push.google.service_account import ServiceAccount, load_service_account
from middlewared.push.interface import Accepted
from middlewared.simulator.certificates import write_service_account

KINDS = {"provider": fcm_provider, "pool": BareFcm}


def make_account(url: str) -> ServiceAccount:
    """An account whose access tokens the peer issues."""
    with tempfile.TemporaryDirectory() as folder:
        issued = write_service_account(Path(folder), token_uri=f"{url}/token", project_id="p")
        return load_service_account(issued.path)


async def main(_: object, kind: str, port: str, ca: str, count: str, in_flight: str) -> None:
    """Push to the peer at ``port``."""
    url = f"https://localhost:{port}"
    provider = KINDS[kind](make_account(url), url, load_trust(ca))
    await provider.start()

    async def send(number: int) -> bool:
        push = make_push(number, Platform.ANDROID, f"{number:022}:APA91b{'a' * 134}")
        return isinstance(await provider.send(push), Accepted)

    await measure(send, int(count), int(in_flight), together)
    await provider.stop()


if __name__ == "__main__":
    react(main, sys.argv[1:])
