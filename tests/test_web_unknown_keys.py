"""A flood of made-up keys is refused by the bytes of its requests."""

from __future__ import annotations

from urllib.parse import urlencode

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.web.filters import EarlyRefusal, NotRefused
from middlewared.web.settings import LiveSettings, Rate, WebSettings
from middlewared.web.unknown_keys import FLOOD_PER_S, UnknownKeys
from tests.web_stand_ins import StandInCalls

KEY = "0123456789abcdef0123456789abcdef"
FORM = "application/x-www-form-urlencoded"


def request(body: str, content_type: str = FORM) -> bytes:
    """The bytes of an answer."""
    return (
        f"POST /api/call-response/ HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def answer(key: str = KEY, **more: str) -> bytes:
    """A phone's answer as a form."""
    return request(urlencode({"unique_key": key, "message_start_time": "1575988800.25", **more}))


class UnknownKeyFloodTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.calls = Clock(), StandInCalls()
        self.settings = LiveSettings(WebSettings(unknown_keys=Rate(burst=3, per_s=1e-6)))
        self.keys = UnknownKeys(
            clock=self.clock,
            calls=self.calls,
            settings=self.settings,
            observe_request=lambda *_: None,
        )

    def status(self, data: bytes, peer: str = "192.0.2.1") -> int | NotRefused:
        found = self.keys.filter(data, peer)
        return int(found.reply[9:12]) if isinstance(found, EarlyRefusal) else found

    def test_made_up_keys_are_404_and_then_429(self) -> None:
        """Each address has its own limit; forms and JSON alike."""
        json = f'{{"unique_key": "{KEY}", "message_start_time": 1.5, "available": true}}'
        requests = [answer(), answer(available="True"), request(json, "application/json")]
        statuses = [self.status(data) for data in requests * 2]
        self.assertEqual(statuses, [404] * 3 + [429] * 3)
        self.assertEqual(self.status(answer(), "192.0.2.2"), 404)
        self.assertEqual(self.calls.answers, [])

    def test_keys_of_calls_are_served(self) -> None:
        """Held here, made by a daemon of ours, or perhaps held elsewhere: never by bytes."""
        self.calls.held_keys.add(KEY)
        self.assertIs(self.status(answer()), NotRefused.SERVE)
        self.calls.held_keys.clear()
        self.calls.known_keys.add(KEY)
        for _ in range(10):
            self.assertIs(self.status(answer()), NotRefused.SERVE)

    def test_what_is_not_plain_is_served(self) -> None:
        """Whatever the parser might read differently."""
        whole = answer()
        self.assertIs(self.status(whole[:-1]), NotRefused.WAIT)
        for data in (
            request(f"unique_key={KEY}"),
            request(f"message_start_time=1&unique_key={KEY}"),
            request(f"unique_key={KEY}&message_start_time=x"),
            request(f"unique_key={KEY}&message_start_time=1", "text/plain"),
            answer(available="perhaps"),
            answer("short"),
            whole + b"POST",
        ):
            self.assertIs(self.status(data), NotRefused.SERVE, data)

    def test_it_is_active_during_a_flood_only(self) -> None:
        """Phones that answer calls which are over are no flood."""
        self.settings.current = attrs.evolve(self.settings.current, unknown_keys=Rate(1000, 1.0))
        for _ in range(FLOOD_PER_S - 1):
            self.status(answer())
        self.assertFalse(self.keys.active)
        self.status(answer())
        self.assertTrue(self.keys.active)
        self.clock.advance(1.5)
        self.assertTrue(self.keys.active)
        self.clock.advance(2.0)
        self.assertFalse(self.keys.active)
