"""The configuration file that is shipped."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

from middlewared.config import (
    AndroidApp,
    AppleApp,
    GcmApp,
    KamailioSettings,
    PbxSettings,
    read_config,
)
from middlewared.config.reader import SECTIONS, keyed_settings
from middlewared.model import Platform
from middlewared.service.room_settings import web_settings
from middlewared.web.settings import WebSettings
from tests.test_config_reader import ConfigCase

SHIPPED = Path(__file__).parent.parent / "etc" / "middlewared.ini"
EXAMPLE_CREDENTIALS = {"certificate", "service_account", "api_key"}

NAMED = (PbxSettings, KamailioSettings, AppleApp, AndroidApp, GcmApp)
"""Sections of which there may be several."""


class ShippedFileTests(ConfigCase):
    def setUp(self) -> None:
        super().setUp()
        self.text = SHIPPED.read_text("utf-8")

    def test_it_passes_the_reader_without_warnings(self) -> None:
        """A daemon started with the shipped file starts."""
        config = read_config(SHIPPED, {})
        self.assertEqual(((), {}), (config.warnings, config.apps))

    def test_its_values_are_the_defaults(self) -> None:
        """What the file shows as default is what leaving the key out gives."""
        defaults = self.read("")
        shipped = read_config(SHIPPED, {})
        default, file = defaults.database.sqlite_file, shipped.database.sqlite_file
        assert default is not None
        assert file is not None
        self.assertEqual(SHIPPED.parent / default.name, file)
        database = attrs.evolve(defaults.database, url=shipped.database.url)
        self.assertEqual(attrs.evolve(defaults, database=database), shipped)

    def test_the_webs_own_defaults_are_these(self) -> None:
        """A room that repeats defaults, for its tests, has the same ones."""
        self.assertEqual(web_settings(self.read(""), {}), WebSettings())

    def test_every_key_is_documented(self) -> None:
        """The file has each section and key that the reader knows, after a comment."""
        for kind in (*SECTIONS.values(), *NAMED):
            for key in keyed_settings(kind):
                self.assertRegex(self.text, rf"(?m)^;?{key} =")

    def test_the_example_apps_pass_when_their_comments_are_taken_off(self) -> None:
        """The commented sections are right, and show the defaults of all but credentials."""
        text = re.sub(r"(?m)^;(?=[\[a-z])", "", self.text)
        text = re.sub(r"(\[pbx:office\][^\[]*?\npassword =)", r"\1 secret", text)
        config = self.read(text, GCM_API_KEY="k")
        self.assertEqual(config.pbxs, (PbxSettings("office", password="secret"),))
        self.assertEqual(config.kamailios, (KamailioSettings("edge", ("127.0.0.1", 8448)),))
        apps = config.apps
        self.assertEqual(
            [(app, p) for app, p in apps], [("com.example.phone", p) for p in Platform]
        )
        for app in apps.values():
            for field in attrs.fields(type(app)):
                if field.name not in EXAMPLE_CREDENTIALS:
                    self.assertEqual(
                        getattr(type(app)(app=app.app), field.name), getattr(app, field.name)
                    )
