"""Payloads of an app's own, and those that are shipped."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from middlewared.config import read_config
from middlewared.errors import ConfigError
from middlewared.model import IncomingCall, Platform
from middlewared.push.apns.apns_payload import apple_call_payload
from middlewared.push.google.google_payload import google_data
from middlewared.push.interface import CallPush
from middlewared.push.payload_template import (
    MAX_APPLE_BYTES,
    MAX_GOOGLE_BYTES,
    data_size,
    load_template,
)
from middlewared.service.apps import payload_warnings
from tests import EXAMPLES
from tests.test_push_google_payload import call_push

SHIPPED = Path(__file__).parent.parent / "etc" / "payloads"
URL = "https://middleware.example/api/call-response/"
CALL = IncomingCall(123456789, "+31612345678", 'Älice "A" {attempt}\\', "call-1")
PLATFORMS = {"apns": Platform.APNS, "android": Platform.ANDROID}


class TemplateCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def push(
        self, document: object, platform: Platform = Platform.APNS, incoming: IncomingCall = CALL
    ) -> CallPush:
        """A push with the template of this document, or text."""
        self.path.write_text(document if isinstance(document, str) else json.dumps(document))
        template = load_template(self.path, platform, URL)
        return attrs.evolve(call_push(incoming), template=template)

    def problems(self, document: object, platform: Platform = Platform.APNS) -> list[str]:
        error = self.assertRaises(ConfigError, self.push, document, platform)
        for problem in error.problems:
            self.assertEqual((problem.key, problem.what.split(" ")[0]), ("payload", str(self.path)))
        return [problem.what.partition(" ")[2] for problem in error.problems]


class RenderingTests(TemplateCase):
    def test_a_placeholder_alone_keeps_its_type(self) -> None:
        """For Apple, anywhere in the document; within a text it is a text."""
        push = self.push(
            {
                "aps": {"n": ["{attempt}", 1, True, None, {}, []]},
                "start": "{message_start_time}",
                "account": "{sip_user_id}",
                "text": "{attempt}/{sip_user_id} {message_start_time} {caller_id}",
            }
        )
        self.assertEqual(
            json.loads(apple_call_payload(push)),
            {
                "aps": {"n": [2, 1, True, None, {}, []]},
                "start": 1575988800.25,
                "account": 123456789,
                "text": f"2/123456789 1575988800.2500000 {CALL.caller_id}",
            },
        )

    def test_google_gets_texts(self) -> None:
        """The start time with 7 decimals, as in the payload of Vialer's apps."""
        document = {
            "start": "{message_start_time}",
            "n": "{attempt}",
            "who": "{caller_id} ({phonenumber})",
            "custom": "{}",
        }
        self.assertEqual(
            google_data(self.push(document, Platform.GCM)),
            {
                "start": "1575988800.2500000",
                "n": "2",
                "who": f"{CALL.caller_id} (+31612345678)",
                "custom": "{}",
            },
        )

    def test_call_id_is_never_empty(self) -> None:
        """The key stands for a missing one, as in vg_cid."""
        push = self.push({"id": "{call_id}"}, incoming=IncomingCall(123456789, "112"))
        self.assertEqual(json.loads(apple_call_payload(push)), {"id": push.call.unique_key})

    @settings(max_examples=2 * EXAMPLES)
    @given(st.text(max_size=255), st.text(max_size=64))
    def test_any_texts_stay_whole(self, caller_id: str, literal: str) -> None:
        """Quotes, control characters and braces in the template and in what it carries."""
        self.path = Path(self.mktemp())
        literal = literal.replace("{", "(")
        incoming = attrs.evolve(CALL, caller_id=caller_id)
        document = {f"k{literal}": f"{literal}{{caller_id}}{literal}", "x": "{caller_id}"}
        payload = json.loads(apple_call_payload(self.push(document, incoming=incoming)))
        expected = caller_id.encode("utf-8", "replace").decode()
        self.assertEqual(payload["x"], expected)
        self.assertEqual(payload[f"k{literal}"], f"{literal}{expected}{literal}")

    def test_only_the_callers_name_is_shortened(self) -> None:
        """To the limits of Apple and Google, wherever and how often it occurs."""
        filler = {"a": "x" * 3_500}
        incoming = attrs.evolve(CALL, caller_id="é" * 255)
        names = dict.fromkeys(("b", "c", "d", "e"), "{caller_id}")
        payload = apple_call_payload(self.push(filler | names, incoming=incoming))
        self.assertLessEqual(len(payload), MAX_APPLE_BYTES)
        self.assertGreater(len(payload), MAX_APPLE_BYTES - 20)
        data = google_data(self.push(filler | names, Platform.ANDROID, incoming))
        self.assertLessEqual(data_size(data), MAX_GOOGLE_BYTES)
        self.assertGreater(data_size(data), MAX_GOOGLE_BYTES - 20)
        self.assertEqual(data["a"], filler["a"])


class ProblemTests(TemplateCase):
    def test_files_that_are_no_template(self) -> None:
        """Each with its reason."""
        self.assertEqual(self.problems("{"), ["is not JSON"])
        self.assertEqual(self.problems("[" * 50_000), ["is not JSON"])
        self.assertEqual(self.problems("[1]"), ["is not a JSON object"])
        self.assertEqual(self.problems('"' + "x" * 70_000), ["is larger than 65536 bytes"])
        self.path.unlink()
        error = self.assertRaises(ConfigError, load_template, self.path, Platform.APNS, URL)
        self.assertIn("no such file", error.problems[0].what)

    def test_unknown_placeholders(self) -> None:
        """The nearest known one is named, for each of them."""
        self.assertEqual(
            self.problems({"a": "{uniqe_key} {attempt}", "b": [{"c": "{callerid}"}]}),
            [
                "has the unknown placeholder {uniqe_key}; the nearest is {unique_key}",
                "has the unknown placeholder {callerid}; the nearest is {caller_id}",
            ],
        )

    def test_what_google_refuses(self) -> None:
        """Values that are no texts, and reserved keys."""
        found = self.problems({"a": 1, "aps": {}, "from": "x", "google.x": "y"}, Platform.ANDROID)
        self.assertEqual(len(found), 4)
        self.assertIn("'aps'", found[1])
        self.assertIn("'from', which Google reserves", found[2])

    def test_too_large(self) -> None:
        """Without the caller's name, and with the longest of everything else."""
        (found,) = self.problems({"a": "x" * 5_120})
        self.assertIn("may become 5128 bytes without the caller's name; the most are 5120", found)
        (found,) = self.problems({"a": "x" * 3_900, "b": "{call_id}"}, Platform.ANDROID)
        self.assertIn("may become 4157 bytes without the caller's name; the most are 4096", found)


class WarningTests(TemplateCase):
    def test_app_that_cannot_answer(self) -> None:
        """Its payload has no key, and registrations do not answer."""
        ini = Path(self.mktemp())
        for document, calls, warned in (
            ({"a": "{call_id}"}, "", 1),
            ({"a": ["x {unique_key}"]}, "", 0),
            ({"a": "{call_id}"}, "[calls]\nanswer_by_registration = yes\n", 0),
        ):
            self.push(document)
            ini.write_text(
                f"{calls}[app:a:apns]\ncertificate = x\npayload = {self.path.absolute()}\n"
                "[app:b:apns]\ncertificate = x\n"
            )
            found = list(payload_warnings(read_config(ini, {})))
            self.assertEqual(len(found), warned)
            for problem in found:
                self.assertEqual((problem.section, problem.key), ("app:a:apns", "payload"))
                self.assertIn("has no {unique_key}", problem.what)


class ShippedTests(SynchronousTestCase):
    def shipped(self, name: str) -> CallPush:
        platform = PLATFORMS[name.rpartition("-")[2]]
        template = load_template(SHIPPED / f"{name}.json", platform, URL)
        return attrs.evolve(call_push(CALL), template=template)

    def test_vialers_are_those_that_are_built_in(self) -> None:
        """To the byte."""
        plain = call_push(CALL)
        self.assertEqual(apple_call_payload(self.shipped("vialer-apns")), apple_call_payload(plain))
        self.assertEqual(google_data(self.shipped("vialer-android")), google_data(plain))

    def test_linphones(self) -> None:
        """What its apps read to show a call before the INVITE has come."""
        payload = json.loads(apple_call_payload(self.shipped("linphone-apns")))
        self.assertEqual(
            (payload["aps"]["call-id"], payload["aps"]["loc-key"]), ("call-1", "IC_MSG")
        )
        self.assertEqual(payload["aps"]["loc-args"], [CALL.caller_id])
        data = google_data(self.shipped("linphone-android"))
        for each in (payload, data):
            self.assertEqual(each["display-name"], CALL.caller_id)
            self.assertEqual(each["from-uri"], "sip:+31612345678@anonymous.invalid")
        self.assertEqual((data["call-id"], data["loc-key"]), ("call-1", "IC_MSG"))
        self.assertEqual(data["custom-payload"], "{}")

    def test_each_is_tested(self) -> None:
        """And named after its platform."""
        names = {path.stem for path in SHIPPED.iterdir()}
        apps = ("linphone", "vialer")
        self.assertEqual(names, {f"{app}-{platform}" for app in apps for platform in PLATFORMS})
