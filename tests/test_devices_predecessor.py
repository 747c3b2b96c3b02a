"""Importing the predecessor's devices."""

from __future__ import annotations

import csv
import io
import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from middlewared.devices.predecessor import Imported, RefusedLine, import_devices, read_devices
from middlewared.errors import ConfigError, DatabaseDown
from middlewared.model import Device, Platform
from tests.memory_devices import MemoryDevices

HEADER = (
    "sip_user_id,platform,app,token,name,os_version,client_version,sandbox,"
    "last_seen,remote_logging_id"
)
LINE = "123456789,apns,com.example.phone,abc,Phone,10.1,5.7,t,2019-12-10 14:40:00.25+00,log-1"
DEVICE = Device(
    sip_user_id=123456789,
    platform=Platform.APNS,
    app="com.example.phone",
    token="abc",
    name="Phone",
    os_version="10.1",
    client_version="5.7",
    remote_logging_id="log-1",
    sandbox=True,
    registered_at=1575988800.25,
    last_seen=1575988800.25,
)


def read(*lines: str) -> list[Device | RefusedLine]:
    return list(read_devices([f"{line}\n" for line in (HEADER, *lines)]))


class ReadTests(SynchronousTestCase):
    """From lines to devices."""

    def test_whole_line(self) -> None:
        """Every column has its field; the device counts as registered when it was last seen."""
        self.assertEqual(read(LINE), [DEVICE])

    def test_columns_in_any_order_and_more_of_them(self) -> None:
        """Unknown columns (the id, use_apns2) are ignored."""
        lines = ["id,token,app,platform,use_apns2,sip_user_id\n", "7,abc,com.example,gcm,f,42\n"]
        device = Device(42, Platform.GCM, "com.example", "abc")
        self.assertEqual(list(read_devices(lines)), [device])

    def test_texts_as_accounts(self) -> None:
        """Where they are; one that does not match is refused."""
        lines = ["sip_user_id,token,app,platform\n", "1@pbx,t,a,gcm\n", "2,t,a,gcm\n"]
        device, refused = read_devices(lines, re.compile(".+@pbx"))
        self.assertEqual(device, Device("1@pbx", Platform.GCM, "a", "t"))
        self.assertEqual(refused, RefusedLine(3, "sip_user_id does not match sip_user_id_pattern"))

    def test_missing_columns_are_all_named(self) -> None:
        """The plain table has a number where the app should be."""
        error = self.assertRaises(ConfigError, list, read_devices(["sip_user_id,token\n"]))
        self.assertEqual(len(error.problems), 2)
        self.assertRaises(ConfigError, list, read_devices([]))

    def test_absent_values_as_databases_write_them(self) -> None:
        """NULL is an empty text, not one of four letters."""
        for null in ("", r"\N", "NULL"):
            (device,) = read(f"1,android,app,tok,{null},{null},{null},{null},{null},{null}")
            self.assertEqual(device, Device(1, Platform.ANDROID, "app", "tok"))

    def test_time_stamps(self) -> None:
        """With a zone or, as MySQL writes them, in UTC without one."""
        for text in (
            "2019-12-10 14:40:00",
            "2019-12-10 14:40:00+00",
            "2019-12-10T15:40:00+01:00",
            "2019-12-10T14:40:00Z",
        ):
            (device,) = read(f"1,gcm,app,tok,,,,0,{text},")
            assert isinstance(device, Device)
            self.assertEqual(device.last_seen, 1575988800.0)

    def test_refused_lines(self) -> None:
        """Each has its number and its reason; the lines between them are read."""
        bad = [
            "abc,gcm,app,tok,,,,f,,",
            "-1,gcm,app,tok,,,,f,,",
            "0,gcm,app,tok,,,,f,,",
            f"{2**63},gcm,app,tok,,,,f,,",
            "1,pushy,app,tok,,,,f,,",
            "1,gcm,,tok,,,,f,,",
            "1,gcm,app,,,,,f,,",
            "1,gcm,app,t ok,,,,f,,",
            f"1,gcm,app,{'t' * 4097},,,,f,,",
            f"1,gcm,app,tok,{'n' * 256},,,f,,",
            "1,gcm,app,tok,,,,maybe,,",
            "1,gcm,app,tok,,,,f,yesterday,",
            "1,gcm,app,tok",
            "1,gcm,app,tok,,,,f,,,more",
            "1,gcm,app,tok,a\0b,,,f,,",
        ]
        found = read(*[line for each in bad for line in (each, "")], LINE, LINE)
        self.assertEqual(found[-2], DEVICE)
        refused = [each for each in found if isinstance(each, RefusedLine)]
        self.assertEqual([each.line for each in refused[:-1]], list(range(2, 2 + 2 * len(bad), 2)))
        self.assertIn("before", refused[-1].why)
        for each in refused:
            self.assertNotIn("tok,", each.why)

    @given(st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=12), max_size=5))
    def test_any_text_is_read_or_refused(self, rows: list[list[str]]) -> None:
        """No content of a file raises anything else."""
        text = io.StringIO()
        csv.writer(text).writerows([HEADER.split(","), *rows])
        for each in read_devices(io.StringIO(text.getvalue(), newline="")):
            self.assertIsInstance(each, Device | RefusedLine)


class ImportTests(SynchronousTestCase):
    """From devices to the registry."""

    def setUp(self) -> None:
        self.devices = MemoryDevices()
        self.refused: list[RefusedLine] = []

    def run_import(self, *lines: str) -> Deferred[Imported]:
        text = [f"{line}\n" for line in (HEADER, *lines)]
        return Deferred.fromCoroutine(
            import_devices(devices=self.devices, lines=text, report=self.refused.append)
        )

    def test_repeat_changes_nothing(self) -> None:
        """The second import keeps every device."""
        lines = [f"{n},gcm,app,token-{n},,,,f,2019-12-10 14:40:00," for n in range(1, 1202)]
        self.assertEqual(self.successResultOf(self.run_import(*lines)), Imported(stored=1201))
        self.assertEqual(self.successResultOf(self.run_import(*lines)), Imported(kept=1201))
        self.assertEqual(self.refused, [])

    def test_registration_since_the_export_stays(self) -> None:
        """An app that has registered at the new server already keeps its device."""
        newer = Device(123456789, Platform.GCM, "app", "new", registered_at=1_700_000_000.0)
        self.devices.put(newer)
        self.assertEqual(self.successResultOf(self.run_import(LINE)), Imported(kept=1))
        self.assertEqual(self.devices.get(123456789), newer)

    def test_later_export_replaces_an_earlier_one(self) -> None:
        """A device that was seen with another token since is taken over."""
        self.successResultOf(self.run_import(LINE))
        later = LINE.replace("abc", "def").replace("2019", "2020")
        self.assertEqual(self.successResultOf(self.run_import(later)), Imported(stored=1))
        stored = self.devices.get(123456789)
        assert stored is not None
        self.assertEqual(stored.token, "def")

    def test_refused_lines_are_reported(self) -> None:
        """The others are stored."""
        result = self.successResultOf(self.run_import("x,gcm,app,tok,,,,f,,", LINE))
        self.assertEqual(result, Imported(stored=1, refused=1))
        self.assertEqual([each.line for each in self.refused], [2])

    def test_database_goes_away(self) -> None:
        """The import fails; it may be repeated."""
        self.devices.failure = DatabaseDown("away")
        self.failureResultOf(self.run_import(LINE), DatabaseDown)
