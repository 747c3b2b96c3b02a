"""The brake on mass removals of devices with dead push tokens."""

from __future__ import annotations

from typing import cast

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from middlewared.model import Platform
from middlewared.push.interface import (
    Accepted,
    ConfigFault,
    PushResult,
    Rejected,
    Temporary,
    TokenDead,
    TokenSuspect,
    Uncertain,
)
from middlewared.push.removal_brake import MAX_DEATHS, RemovalBrake

APP = "com.example"
DEAD = TokenDead("Unregistered")


class BrakeTests(SynchronousTestCase):
    """Results and a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.5)
        self.brake = RemovalBrake(clock=self.clock)
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def record(
        self,
        result: PushResult,
        count: int = 1,
        app: str = APP,
        platform: Platform = Platform.APNS,
    ) -> None:
        for _ in range(count):
            self.brake.record(app, platform, result)

    def die(self, count: int = 1) -> None:
        self.record(DEAD, count)

    def paused(self, app: str = APP, platform: Platform = Platform.APNS) -> bool:
        return self.brake.paused(app, platform)

    def lines(self, level: LogLevel) -> list[str]:
        return [formatEvent(event) for event in self.events if event["log_level"] is level]

    def test_from_the_eleventh_death_on(self) -> None:
        """Ten in a minute are normal; one error line names the app."""
        self.die(MAX_DEATHS)
        self.assertFalse(self.paused())
        self.die(5)
        self.assertTrue(self.paused())
        (line,) = self.lines(LogLevel.error)
        self.assertIn("com.example on apns", line)

    def test_half_of_the_verdicts(self) -> None:
        """As many live or suspect tokens keep it off; one more death turns it on."""
        self.record(Accepted(), 10)
        self.record(TokenSuspect("BadDeviceToken"), 1)
        self.die(11)
        self.assertFalse(self.paused())
        self.die()
        self.assertTrue(self.paused())

    def test_what_does_not_concern_tokens(self) -> None:
        """Temporary failures and configuration faults do not concern tokens."""
        for result in (Temporary("x"), Uncertain("x", 1.0), ConfigFault("x"), Rejected("x")):
            self.record(result, 50)
        self.die(11)
        self.assertTrue(self.paused())

    def test_apps_and_platforms_are_apart(self) -> None:
        """Other apps' devices are still removed."""
        self.die(20)
        self.assertFalse(self.paused(platform=Platform.ANDROID))
        self.assertFalse(self.paused(app="com.example.other"))
        self.record(DEAD, 11, platform=Platform.GCM)
        self.assertTrue(self.paused(platform=Platform.GCM))

    def test_deaths_spread_over_more_than_a_minute(self) -> None:
        """Those are normal."""
        for _ in range(100):
            self.die()
            self.clock.advance(6)
        self.assertFalse(self.paused())
        self.die()
        self.clock.advance(5)
        self.die()
        self.assertTrue(self.paused())

    def test_until_a_minute_without_too_many(self) -> None:
        """As long as more than ten a minute die, among few that live."""
        self.die(11)
        for _ in range(30):
            self.clock.advance(5)
            self.die()
            self.assertTrue(self.paused())

    def test_a_large_app_loses_a_token_every_minute(self) -> None:
        """One death among many live tokens does not restart the minute."""
        self.die(11)
        self.clock.advance(30)
        self.record(Accepted(), 100)  # the first few of them do not outweigh the deaths
        self.clock.advance(15)
        self.die()
        self.clock.advance(44.9)
        self.assertTrue(self.paused())
        self.clock.advance(0.2)
        self.assertFalse(self.paused())

    def test_until_a_minute_without_a_death(self) -> None:
        """It ends without an operator; one line is logged at the next death."""
        self.die(12)
        self.clock.advance(59.9)
        self.assertTrue(self.paused())
        self.clock.advance(0.1)
        self.assertFalse(self.paused())
        self.die()
        self.assertFalse(self.paused())
        (line,) = self.lines(LogLevel.warn)
        self.assertIn("2 verdicts were ignored", line)
        self.die(10)
        self.assertTrue(self.paused())

    def test_memory_is_bounded(self) -> None:
        """Apps without a result in the last minute are forgotten, others are not."""
        self.die(11)
        for number in range(100):
            self.record(Accepted(), app=f"app{number}")
        self.assertTrue(self.paused())
        self.clock.advance(61)
        self.record(Accepted(), app="last")
        self.assertEqual(len(self.brake._apps), 1)
        for _ in range(1000):
            self.clock.advance(0.5)
            self.record(Accepted())
        self.assertLessEqual(len(self.brake._apps[APP, Platform.APNS]._seconds), 61)
