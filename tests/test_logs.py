"""The format of events in the log, which are written, and what is kept out of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import Logger, LogPublisher, globalLogPublisher
from twisted.python import log as old_log
from twisted.trial.unittest import SynchronousTestCase

from middlewared.logs import LogOutput, ReportFile, bounded, redacted
from middlewared.logs.formats import format_json, format_text

# A process of its own, which can be killed.
HOSTILE = """
from middlewared.logs import redacted

BEGINNINGS = ("", "authorization:", "key=", "'key'", "bearer", "://a:", "eyJ", "-----BEGIN ")
REPEATED = (
    "a-", "eyJ-", "eyJa-", "eyJaaaaaaaa.-", "key='", "'key':", "key ", "authorization:a",
    "authorization ", "basic ", "://", "://a:", ":", "a@", "-----BEGIN A", "0a", "0-",
    "a-:APA91-", " ", '"', "(",
)
for beginning in BEGINNINGS:
    for repeated in REPEATED:
        text = beginning + repeated * (200_000 // 8 // len(repeated)) + "! token"
        redacted(text)
for repeated in REPEATED:
    redacted(repeated * (200_000 // len(repeated)) + "! token")
"""


def logger(namespace: str, observer: Any) -> Logger:
    """A logger with ``observer`` alone."""
    publisher: Any = LogPublisher(observer)
    return Logger(namespace=namespace, observer=publisher)


class FileCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "log"


class RedactionTests(SynchronousTestCase):
    def test_credentials_are_hidden(self) -> None:
        """Headers, assignments, dicts, URLs, keys and whole tokens."""
        for line in (
            "Authorization: Basic dXNlcjpnZWhlaW0=",
            "authorization: Token user@x:geheim",
            "{b'authorization': b'Bearer geheimgeheim'}",
            "[('Authorization', 'key=geheim')]",
            "sent bearer geheimgeheim",
            "key=geheim",
            "api_key = geheim",
            "{'password': 'geheim'}",
            "private_key = geheim",
            '{"token": "geheim", "x": 1}',
            "password=geheim&x=1",
            "postgresql://u:geheim@h/d",
            "http://:geheim@h",
            "-----BEGIN EC PRIVATE KEY-----\ngeheim\n-----END EC PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\ngeheim",
            "eyJhbGciOiJFUzI1NiJ9.geheim.sig",
            f"geheim{'0a' * 32}".removeprefix("geheim"),
            "dGVzdA:APA91bgeheim-x_",
        ):
            shown = redacted(f"x {line} y")
            self.assertNotIn("geheim", shown)
            self.assertNotIn("0a0a", shown)
            self.assertIn("***", shown)

    def test_what_is_no_secret_stays(self) -> None:
        """Call keys, ids, problems and words that only look like names of secrets."""
        for line in (
            "unique_key=0123456789abcdef0123456789abcdef call_id=1-2",
            "FILE: [redis] password: must be set beside username",
            "[app:x:gcm] api_key: must be set",
            "the token is dead: key_id ABC",
            "http://h:80/x@y",
            "basic",
            "monkey=banana",
        ):
            self.assertEqual(line, redacted(line))

    @given(st.text())
    def test_any_text_is_taken(self, text: str) -> None:
        """The redaction never fails a line."""
        redacted(text)

    def test_a_token_inside_a_longer_word_is_hidden(self) -> None:
        """What precedes it stays."""
        self.assertEqual("id-***", redacted("id-eyJhbGciOiJFUzI1NiJ9.geheim.sig"))

    def test_hostile_texts_take_linear_time(self) -> None:
        """
        What any part of a pattern could begin or go on with, 200,000 characters of it.

        All of them take some seconds; patterns that take quadratic time would need many
        minutes, and the process that is given a minute is killed.
        """
        subprocess.run(
            [sys.executable, "-c", HOSTILE],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            check=True,
            timeout=60,
        )


class FormatTests(SynchronousTestCase):
    def events(self) -> tuple[Logger, list[Any]]:
        found: list[Any] = []
        return logger("middlewared.x", found.append), found

    def test_text_has_time_level_namespace_and_message(self) -> None:
        """In this order, the time in UTC."""
        log, events = self.events()
        log.warn("a {b}", b=1)
        events[0]["log_time"] = 1.5
        self.assertEqual("1970-01-01T00:00:01.500Z warn middlewared.x a 1", format_text(events[0]))

    def test_json_has_the_fields(self) -> None:
        """Each named field under its name; numbers stay numbers, and lists and mappings as well."""
        log, events = self.events()
        f = [1, {"step": "sent", "ms": 1.5}]
        log.info("a {b}", b=1, c="x\ny", d=None, e=2.5, f=f, g=float("nan"))
        events[0]["log_time"] = 0.0
        self.assertEqual(
            {
                "time": "1970-01-01T00:00:00.000Z",
                "level": "info",
                "namespace": "middlewared.x",
                "message": "a 1",
                "daemon": "host:1",
                "b": 1,
                "c": "x\ny",
                "d": None,
                "e": 2.5,
                "f": [1, {"step": "sent", "ms": 1.5}],
                "g": "nan",
            },
            json.loads(format_json(events[0], "host:1")),
        )

    def test_a_traceback_is_one_field_or_indented(self) -> None:
        """With the exception's type and text."""
        log, events = self.events()
        try:
            raise ValueError("boom password=geheim")
        except ValueError:
            log.failure("it failed")
        written = json.loads(format_json(events[0], "host:1"))
        self.assertEqual(("critical", "it failed"), (written["level"], written["message"]))
        self.assertIn("ValueError: boom", written["traceback"])
        head, *rest = format_text(events[0]).splitlines()
        self.assertTrue(head.endswith("it failed"))
        self.assertTrue(rest and all(row.startswith("    ") for row in rest))
        self.assertNotIn("geheim", format_json(events[0], "host:1") + format_text(events[0]))

    def test_a_field_cannot_forge_a_line(self) -> None:
        """Line ends and control characters are written escaped."""
        log, events = self.events()
        log.info("{name}", name="a\r\n2026 info x\x1b[2J\u2028\x85b")
        for line in (format_text(events[0]), format_json(events[0], "host:1")):
            self.assertEqual(1, len(line.splitlines()))
            self.assertNotIn("\x1b", line)

    def test_a_field_cannot_look_like_another(self) -> None:
        """What turns the direction of writing or takes no room is written escaped."""
        log, events = self.events()
        try:
            raise ValueError("\u202eyas \x1b[2J")
        except ValueError:
            log.failure("{name}", name="a\u202eb\u200bc\ufeffd\x7fé")
        for line in (format_text(events[0]), format_json(events[0], "host:1")):
            for hidden in "\u202e\u200b\ufeff\x7f\x1b":
                self.assertNotIn(hidden, line)
        self.assertIn("a\\u202eb\\u200bc\\ufeffd\\x7fé", format_text(events[0]))

    def test_secrets_in_fields_are_hidden(self) -> None:
        """By the field's name or by what it looks like."""
        log, events = self.events()
        log.info("sent", password="geheim", header="Authorization: Basic geheimgeheim")
        self.assertNotIn("geheim", format_json(events[0], "host:1"))

    def test_long_fields_are_cut(self) -> None:
        """A line has a bound."""
        log, events = self.events()
        log.info("{x}", x="x" * 10**6)
        self.assertLess(len(format_text(events[0])), 11_000)
        self.assertLess(len(format_json(events[0], "host:1")), 21_000)

    def test_events_of_the_old_log_are_written(self) -> None:
        """Libraries that know only twisted.python.log, formats that are wrong."""
        log, events = self.events()
        everything: Any = globalLogPublisher
        everything.addObserver(events.append)
        old_log.msg("an old", "message")
        everything.removeObserver(events.append)
        log.info("{nowhere}")
        log.info("{x()}", x=lambda: "called")
        self.assertIn("an old message", format_text(events[0]))
        self.assertIn("nowhere", format_text(events[1]))
        self.assertTrue(format_text(events[2]).endswith("called"))
        self.assertEqual("an old message", json.loads(format_json(events[0], "host:1"))["message"])


class OutputTests(FileCase):
    def setUp(self) -> None:
        super().setUp()
        self.output = LogOutput(daemon="host:1")
        self.addCleanup(self.output.close)
        self.output.reload(level="info", format="text", file=self.path)
        self.ours = logger("middlewared.calls", self.output)
        self.theirs = logger("twisted.internet", self.output)

    def written(self) -> str:
        return self.path.read_text()

    def test_events_below_the_level_are_left_out(self) -> None:
        """At info: no debug."""
        self.ours.debug("one")
        self.ours.info("two")
        self.assertNotIn("one", self.written())
        self.assertIn("two", self.written())

    def test_the_level_and_format_change_while_running(self) -> None:
        """As SIGHUP asks for."""
        self.output.reload(level="debug", format="json", file=self.path)
        self.ours.debug("one")
        self.assertEqual("one", json.loads(self.written())["message"])
        self.output.reload(level="error", format="text", file=self.path)
        self.ours.warn("two")
        self.assertNotIn("two", self.written())

    def test_what_libraries_log_at_info_counts_as_debug(self) -> None:
        """Access logs and starting factories; their warnings are written."""
        self.theirs.info("chatter")
        self.ours.info("Starting factory {factory!r}", factory=self)
        self.theirs.warn("trouble")
        self.assertNotIn("chatter", self.written())
        self.assertNotIn("factory", self.written())
        self.assertIn("trouble", self.written())
        self.output.reload(level="debug", format="text", file=self.path)
        self.theirs.info("chatter")
        self.assertIn("chatter", self.written())

    def test_a_renamed_file_is_opened_again(self) -> None:
        """Log rotation: rename, then SIGHUP."""
        self.ours.info("one")
        old = self.path.rename(self.path.with_suffix(".1"))
        self.output.reload(level="info", format="text", file=self.path)
        self.ours.info("two")
        self.assertIn("one", old.read_text())
        self.assertNotIn("one", self.written())
        self.assertIn("two", self.written())

    def test_a_file_that_cannot_be_opened_changes_nothing(self) -> None:
        """The old file, level and format stay in use."""
        missing = self.path.parent / "no" / "log"
        with self.assertRaises(OSError):
            self.output.reload(level="debug", format="json", file=missing)
        self.ours.debug("one")
        self.ours.info("two")
        self.assertTrue(self.written().endswith("middlewared.calls two\n"))

    def test_an_event_that_cannot_be_written_is_reported(self) -> None:
        """An object whose text fails costs its own line only."""

        class Broken:
            def __str__(self) -> str:
                raise RuntimeError("no")

        self.output.reload(level="info", format="json", file=self.path)
        self.ours.info("x", broken=Broken())
        self.ours.info("two")
        first, second = map(json.loads, self.written().splitlines())
        self.assertEqual("error", first["level"])
        self.assertEqual("two", second["message"])


class ReportTests(FileCase):
    def test_reports_are_json_lines(self) -> None:
        """With time and account, which a report cannot set itself."""
        clock = Clock()
        clock.advance(1.5)
        reports = ReportFile(wall=clock.seconds)
        reports.reload(file=self.path)
        self.addCleanup(reports.reload, file=None)
        reports.write(7, {"os": "\ud800\n", "time": "x", "sip_user_id": "y"})
        self.assertEqual(
            {"os": "\ud800\n", "time": "1970-01-01T00:00:01.500Z", "sip_user_id": 7},
            json.loads(self.path.read_text()),
        )

    def test_a_report_is_bounded(self) -> None:
        """Its client chose the names, the values and how many there are."""
        kept = bounded({"n" * 10_000 + str(number): "v" * 10_000 for number in range(1000)})
        self.assertEqual({"n" * 64: "v" * 1000}, kept)
        self.assertEqual(64, len(bounded({str(number): "v" for number in range(1000)})))

    def test_it_is_rotated_and_switched_off(self) -> None:
        """By a reload with the same file, and with none."""
        reports = ReportFile(wall=Clock().seconds)
        reports.write(1, {})
        reports.reload(file=self.path)
        reports.write(2, {})
        old = self.path.rename(self.path.with_suffix(".1"))
        reports.reload(file=self.path)
        reports.write(3, {})
        reports.reload(file=None)
        reports.write(4, {})
        accounts = [json.loads(p.read_text())["sip_user_id"] for p in (old, self.path)]
        self.assertEqual([2, 3], accounts)

    def test_it_batches_between_start_and_stop(self) -> None:
        """Also when it is switched on later."""
        turns: list[Any] = []
        reports = ReportFile(wall=Clock().seconds)
        reports.start(turns.append)
        reports.reload(file=self.path)
        self.addCleanup(reports.reload, file=None)
        reports.write(1, {})
        self.assertEqual("", self.path.read_text())
        reports.stop()
        self.assertEqual(1, len(self.path.read_text().splitlines()))
