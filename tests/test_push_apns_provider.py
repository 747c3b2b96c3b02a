"""The APNs provider against the simulated Apple, over real TLS and HTTP/2."""

from __future__ import annotations

from middlewared.push.interface import Accepted
from tests.apns import TOKEN, AppleTestCase, call_push


class SendingTests(AppleTestCase):
    """One push on its way."""

    async def test_a_call_is_pushed_with_a_certificate(self) -> None:
        """The push carries what a VoIP push needs."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url))
        push = call_push()
        self.assertEqual(await provider.send(push), Accepted())
        (received,) = apple.record.delivered
        self.assertEqual(received.token, TOKEN)
        self.assertEqual(received.headers["apns-push-type"], "voip")
        self.assertEqual(received.headers["apns-topic"], "com.voipgrid.vialer.voip")
        self.assertEqual(received.headers["apns-expiration"], str(int(push.deadline)))
        self.assertEqual(received.payload["unique_key"], push.call.unique_key)

    async def test_a_call_is_pushed_with_a_provider_token(self) -> None:
        """A team's key serves as well as a certificate."""
        apple = await self.serve()
        provider = self.provide(self.settings(apple.url, credentials=self.by_key()))
        self.assertEqual(await provider.send(call_push()), Accepted())
        self.assertEqual(list(apple.record.refused), [])
