"""
The APNs benchmark's own client: the provider as the daemon uses it.

Usage: apns_middlewared.py PORT CERTIFICATE CA PUSHES IN_FLIGHT ; prints one JSON object.
"""

from __future__ import annotations

import sys
from pathlib import Path

from providers import APP, make_push, reactor, together
from pushes import measure
from twisted.internet.task import react

from middlewared.model import Platform
from middlewared.outgoing.tcp_endpoints import DirectEndpoints
from middlewared.outgoing.tls import ClientTLS, load_trust
from middlewared.push.apns.apple_credentials import load_certificate
from middlewared.push.apns.provider import ApnsProvider, ApnsSettings
from middlewared.push.apns.provider_tokens import ProviderTokens
from middlewared.push.interface import Accepted


async def main(_: object, port: str, pem: str, ca: str, count: str, in_flight: str) -> None:
    """Push to the peer at ``port``."""
    credentials = load_certificate(Path(pem), now=reactor.seconds())
    tls = ClientTLS(trust=load_trust(ca), certificate=credentials.certificate, protocols=[b"h2"])
    url = f"https://localhost:{port}"
    provider = ApnsProvider(
        clock=reactor,
        endpoint=DirectEndpoints(reactor),
        tokens=ProviderTokens(clock=reactor),
        settings=ApnsSettings(
            app=APP,
            topic=f"{APP}.voip",
            credentials=credentials,
            tls=tls,
            production_url=url,
            sandbox_url="",
            connections=1,
        ),
    )
    await provider.start()

    async def send(number: int) -> bool:
        push = make_push(number, Platform.APNS, f"{number:064x}")
        return isinstance(await provider.send(push), Accepted)

    await measure(send, int(count), int(in_flight), together)
    await provider.stop()


if __name__ == "__main__":
    react(main, sys.argv[1:])
