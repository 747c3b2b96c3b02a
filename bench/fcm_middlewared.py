"""
The FCM benchmark's own client: the provider as the daemon uses it.

Usage: fcm_middlewared.py PROTOCOL ACCOUNT PORT CA PUSHES IN_FLIGHT ; prints one JSON object.
PROTOCOL is ``h2``, or ``http/1.1``, as to a relay that does not speak HTTP/2.
"""

from __future__ import annotations

import sys

import attrs
from providers import fcm_provider, make_push, together
from pushes import measure
from twisted.internet.task import react

from middlewared.model import Platform
from middlewared.outgoing.tls import load_trust
from middlewared.push.google.service_account import load_service_account
from middlewared.push.interface import Accepted


async def main(
    _: object, protocol: str, account: str, port: str, ca: str, count: str, in_flight: str
) -> None:
    """Push to the peer at ``port``, which issues the access tokens too."""
    url = f"https://localhost:{port}"
    at_peer = attrs.evolve(load_service_account(account), token_uri=f"{url}/token")
    provider = fcm_provider(
        at_peer, url, load_trust(ca), connections=1, protocols=(protocol.encode(),)
    )
    await provider.start()

    async def send(number: int) -> bool:
        push = make_push(number, Platform.ANDROID, f"{number:022}:APA91b{'a' * 134}")
        return isinstance(await provider.send(push), Accepted)

    await measure(send, int(count), int(in_flight), together)
    await provider.stop()


if __name__ == "__main__":
    react(main, sys.argv[1:])
