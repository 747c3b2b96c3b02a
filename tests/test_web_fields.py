"""The field rules: named texts in, a model value or BadRequest out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from middlewared.errors import BadRequest
from middlewared.model import Platform, SipUserId
from middlewared.quoting import quoted
from middlewared.web import fields
from middlewared.web.bodies import RawFields
from middlewared.web.settings import WebSettings

SETTINGS = WebSettings()
NOW = 1_700_000_000.0
CALL: RawFields = {"sip_user_id": "260010001", "phonenumber": "+31 (0)6-12"}
ANSWER: RawFields = {"unique_key": "k", "message_start_time": "1.5"}
DEVICE: RawFields = {"sip_user_id": "260010001", "token": "t", "app": "a"}

READERS: list[Callable[[RawFields], object]] = [
    lambda raw: fields.incoming_call(raw, SETTINGS),
    lambda raw: fields.phone_answer(raw, NOW),
    lambda raw: fields.device(raw, Platform.APNS, SETTINGS, NOW),
    lambda raw: fields.device_id(raw, SETTINGS),
    lambda raw: fields.hangup(raw, SETTINGS),
    fields.report,
]
NAMES = [*CALL, *ANSWER, *DEVICE, "caller_id", "available", "sandbox", "push_profile", "reason",
         "remote_notification_token", "hangup_reason", "os", "other\ud800"]  # fmt: skip
values = (
    st.none()
    | st.text()
    | st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from([value for raw in (CALL, ANSWER, DEVICE) for value in raw.values()])
)


class AnyFieldsTests(SynchronousTestCase):
    @given(st.sampled_from(READERS), st.dictionaries(st.sampled_from(NAMES), values))
    def test_any_fields_are_taken_or_refused(
        self, read: Callable[[RawFields], object], raw: RawFields
    ) -> None:
        """Accepted texts contain nothing that a database or a peer rejects."""
        try:
            value = read(raw)
        except BadRequest as refusal:
            self.assertLess(len(str(refusal)), 100)
            return
        repr(value).encode("utf-8")


class RulesCase(SynchronousTestCase):
    def assertRefused(
        self, read: Callable[[RawFields], object], raw: RawFields, **changed: str | None
    ) -> None:
        self.assertRaises(BadRequest, read, raw | changed)


class IncomingCallTests(RulesCase):
    @staticmethod
    def _read(raw: RawFields) -> object:
        return fields.incoming_call(raw, SETTINGS)

    def test_numbers_are_passed_on_as_received(self) -> None:
        """Digits with the usual marks, or a word for a withheld number; outer blanks go."""
        for sent in ("+31 (0)6-12–34.5/6", " 31612345678", "0x12X", "Anonymous", "supressed", "0"):
            call = fields.incoming_call(CALL | {"phonenumber": sent}, SETTINGS)
            self.assertEqual(call.phonenumber, sent.strip())

    def test_other_numbers_are_refused(self) -> None:
        """No digits at all, other letters, digits of other scripts, more than 32."""
        for sent in ("", " ", "+", "12a", "none", "٣", "1" * 33, "1\0", "1\n2", None):
            self.assertRefused(self._read, CALL, phonenumber=sent)

    def test_texts_are_bounded(self) -> None:
        """255 characters, of which none is NUL or a surrogate."""
        call = fields.incoming_call(CALL | {"caller_id": "ü" * 255, "call_id": ""}, SETTINGS)
        self.assertEqual((call.caller_id, call.call_id), ("ü" * 255, ""))
        for sent in ("x" * 256, "a\0", "\ud800", None):
            self.assertRefused(self._read, CALL, caller_id=sent)

    def test_account_is_an_integer_in_range(self) -> None:
        """In the digits of ASCII alone, however many there are."""
        # A JSON library may well print the same number with a dot.
        self.assertEqual(fields.sip_user_id({"sip_user_id": "260010001.0"}, SETTINGS), 260010001)
        for sent in ("", "1", "1000000000", "260010001.1", "2.6e8", "٢٦٠٠١٠٠٠١", "260_010_001", " ",
                     "9" * 10_000, "true", "-260010001", None):  # fmt: skip
            self.assertRefused(self._read, CALL, sip_user_id=sent)


class PhoneAnswerTests(RulesCase):
    @staticmethod
    def _read(raw: RawFields) -> object:
        return fields.phone_answer(raw, NOW)

    def test_booleans_in_all_forms(self) -> None:
        """As sent by ten years of apps; absent and empty mean available."""
        for sent, available in (
            ("true", True), ("True", True), ("t", True), ("1", True), ("yes", True), ("", True),
            ("false", False), ("False", False), ("f", False), ("0", False), ("no", False),
        ):  # fmt: skip
            answer = fields.phone_answer(ANSWER | {"available": sent}, NOW).answer
            self.assertEqual((sent, answer.available), (sent, available))
        self.assertTrue(fields.phone_answer(ANSWER, NOW).answer.available)
        for wrong in ("2", "maybe", "yesno", None):
            self.assertRefused(self._read, ANSWER, available=wrong)

    def test_start_time_in_all_forms(self) -> None:
        """Fixed or scientific; legacy Firebase turned the one into the other."""
        for sent, seconds in (
            ("1575988800.1234567", 1575988800.1234567), ("1.517230273029763E9", 1517230273.029763),
            ("5", 5.0), ("1e3", 1000.0), ("-.5", -0.5), ("+1.", 1.0),
        ):  # fmt: skip
            answer = fields.phone_answer(ANSWER | {"message_start_time": sent}, NOW).answer
            self.assertEqual(answer.message_start_time, seconds)
        for wrong in ("", "nan", "inf", "-Infinity", "1e999", "1_0", "0x1p3", "٣", "1e", ".", None):
            self.assertRefused(self._read, ANSWER, message_start_time=wrong)

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_any_float_is_read_back(self, seconds: float) -> None:
        """Whatever a JSON library prints."""
        answer = fields.phone_answer(ANSWER | {"message_start_time": repr(seconds)}, NOW).answer
        self.assertTrue(math.isclose(answer.message_start_time, seconds, rel_tol=0, abs_tol=0))


class DeviceTests(RulesCase):
    @staticmethod
    def _read(raw: RawFields) -> object:
        return fields.device(raw, Platform.APNS, SETTINGS, NOW)

    def test_everything_an_app_sends_is_kept(self) -> None:
        """Under the names of the model."""
        sent: RawFields = {
            "name": "n", "os_version": "o", "client_version": "c", "remote_logging_id": "r",
            "sandbox": "1", "push_profile": "once", "dnd": "true", "remote_notification_token": "x",
            "app_startup_timestamp": "ignored",
        }  # fmt: skip
        device = fields.device(DEVICE | sent, Platform.APNS, SETTINGS, NOW)
        for name in ("name", "os_version", "client_version", "remote_logging_id", "push_profile"):
            self.assertEqual(getattr(device, name), sent[name])
        self.assertTrue(device.sandbox)
        self.assertTrue(device.dnd)
        self.assertEqual(device.remote_notification_token, "x")
        self.assertEqual((device.registered_at, device.last_seen), (NOW, NOW))

    def test_wrong_fields_are_refused(self) -> None:
        """Missing ones, white space in tokens, texts too long, unknown choices."""
        wrong: list[dict[str, str | None]] = [
            {"token": ""}, {"token": "a b"}, {"token": "a\n"}, {"token": "t" * 4097}, {"app": ""},
            {"app": "a" * 256}, {"name": "n" * 256}, {"push_profile": "twice"},
            {"remote_notification_token": "a b"}, {"dnd": None}, {"name": "\0"},
            {"sandbox": "maybe"},
        ]  # fmt: skip
        for changed in wrong:
            self.assertRefused(self._read, DEVICE, **changed)

    def test_odd_tokens_of_google_are_refused(self) -> None:
        """Those of Apple are stored: their pushes fail, and the app can be found."""
        for odd in ("../../", "%2e", "é", "a/b", "a+b"):
            raw = DEVICE | {"token": odd}
            for platform in (Platform.ANDROID, Platform.GCM):
                self.assertRaises(BadRequest, fields.device, raw, platform, SETTINGS, NOW)
            self.assertEqual(fields.device(raw, Platform.APNS, SETTINGS, NOW).token, odd)
        raw = DEVICE | {"token": "aZ_09:-"}
        self.assertEqual(fields.device(raw, Platform.GCM, SETTINGS, NOW).token, "aZ_09:-")

    def test_refusals_do_not_show_the_token(self) -> None:
        """They go to the log."""
        with self.assertRaises(BadRequest) as refused:
            self._read(DEVICE | {"token": "se cret"})
        self.assertNotIn("cret", str(refused.exception))


class ReportTests(RulesCase):
    def test_all_texts_are_kept(self) -> None:
        """Unknown ones too; empty texts and unknown lists are left out."""
        raw: RawFields = {"sip_user_id": "1", "os": "x", "new": "y", "codec": "", "odd": None}
        self.assertEqual(fields.report(raw), {"os": "x", "new": "y"})

    def test_lists_where_a_text_is_known_are_refused(self) -> None:
        """As in every text field."""
        self.assertRefused(fields.report, {}, os=None)

    def test_names_that_the_client_chose_are_cut_and_quoted(self) -> None:
        """In what is logged of a refused report."""
        name = "token=x\n" + "y" * 10_000
        with self.assertRaises(BadRequest) as caught:
            fields.report({name: "\0"})
        self.assertEqual(str(caught.exception), f"{quoted(name)}: NUL")
        self.assertLess(len(str(caught.exception)), 100)

    def test_either_name_of_a_hangup_reason_will_do(self) -> None:
        """The one known client sends hangup_reason."""
        raw: RawFields = {"sip_user_id": "260010001", "unique_key": "k"}
        for name in ("reason", "hangup_reason"):
            self.assertEqual(fields.hangup(raw | {name: "user"}, SETTINGS).reason, "user")
        self.assertRefused(lambda raw: fields.hangup(raw, SETTINGS), raw)


class TextAccountTests(RulesCase):
    settings = WebSettings(sip_user_id_pattern=re.compile(r".*@pbx|[0-9]+"))

    def account(self, raw: RawFields) -> SipUserId:
        return fields.sip_user_id(raw, self.settings)

    def test_texts_that_match_as_a_whole(self) -> None:
        """Compared exactly, so nothing about them is changed; a number is its text."""
        for text in ("100@pbx", "Ä:%@pbx", "0100", "x" * 124 + "@pbx"):
            self.assertEqual(self.account({"sip_user_id": text}), text)

    def test_others_are_refused(self) -> None:
        """Longer ones, and those that are not one printable word, whatever the pattern."""
        for text in (
            *("", None, "100@pbxx", "1.0", "x" * 125 + "@pbx", "a b@pbx", "a\tb@pbx", 'a"@pbx'),
            *("'@pbx", "a\u202e@pbx", "\ud800@pbx", "a\0@pbx", "100@pbx\n", "\u00a0@pbx"),
        ):
            self.assertRaises(BadRequest, self.account, {"sip_user_id": text})
