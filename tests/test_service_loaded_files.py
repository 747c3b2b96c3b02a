"""What a reload loads again, and what it reports as changed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SynchronousTestCase

from middlewared.clock import wall_clock
from middlewared.config import Config, read_config
from middlewared.errors import ConfigError
from middlewared.model import Platform
from middlewared.push.apns.apple_credentials import CertificateCredentials
from middlewared.push.google.service_account import ServiceAccount
from middlewared.push.private_keys import load_private_key
from middlewared.service.apps import AppKey, LoadedApp, file_problems, load_apps
from middlewared.service.config_changes import describe_changes
from middlewared.service.loaded_files import LoadedFiles
from middlewared.simulator.certificates import (
    Authority,
    write_provider_key,
    write_service_account,
)

APPLE = ("a", Platform.APNS)
GOOGLE = ("a", Platform.ANDROID)


class LoadedFilesTests(SynchronousTestCase):
    """One iOS app with a certificate and one Android app, loaded again and again."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.authority = Authority(folder=self.folder)
        self.certificate = self.authority.apns_client(topic="a.voip")
        self.account = write_service_account(self.folder, token_uri="https://t.example/token").path
        self.text = (
            f"[app:a:apns]\ncertificate = {self.certificate}\n"
            f"ca_file = {self.authority.certificate}\n"
            f"[app:a:android]\nservice_account = {self.account}\n"
        )
        self.files = LoadedFiles()
        self.before = self.load(self.text)

    def load(self, text: str, now: float | None = None) -> tuple[Config, dict[AppKey, LoadedApp]]:
        """As the daemon does."""
        ini = self.folder / "middlewared.ini"
        ini.write_text(text)
        now = now or wall_clock()
        config = read_config(
            ini, {}, lambda config: file_problems(config, now=now, files=self.files)
        )
        return config, load_apps(config, now=now, files=self.files)

    def changes(self, text: str, devices: dict[AppKey, int] | None = None) -> str:
        """What a reload of ``text`` reports."""
        return describe_changes(self.before, self.load(text), devices or {})

    def test_the_same_files(self) -> None:
        """Nothing is parsed again, and nothing has changed."""
        config, apps = self.load(self.text)
        for key, app in apps.items():
            self.assertIs(app.credentials, self.before[1][key].credentials)
            self.assertIs(app.trust, self.before[1][APPLE].trust if key == APPLE else app.trust)
        changes = describe_changes(self.before, (config, apps), {})
        self.assertEqual(changes, "nothing has changed")

    def test_a_certificate_with_another_content(self) -> None:
        """It is loaded, and named with its serial number and its expiry; the other app is not."""
        self.certificate.write_bytes(self.authority.apns_client(topic="a.voip").read_bytes())
        _, apps = self.load(self.text)
        self.assertIs(apps[GOOGLE].credentials, self.before[1][GOOGLE].credentials)
        credentials = apps[APPLE].credentials
        assert isinstance(credentials, CertificateCredentials)
        self.assertNotEqual(credentials, self.before[1][APPLE].credentials)
        serial = credentials.certificate.serialNumber()
        self.assertRegex(
            self.changes(self.text), rf"^a apns certificate {serial:X}, expires \d{{4}}-\d\d-\d\d$"
        )

    def test_a_certificate_that_has_expired_since(self) -> None:
        """An unchanged file is a problem from then on."""
        credentials = self.before[1][APPLE].credentials
        assert isinstance(credentials, CertificateCredentials)
        error = self.assertRaises(ConfigError, self.load, self.text, credentials.not_after + 1)
        self.assertIn("expired on", error.lines[0])

    def test_a_file_that_is_gone(self) -> None:
        """What was loaded from it does not hide this."""
        self.account.unlink()
        error = self.assertRaises(ConfigError, self.load, self.text)
        self.assertIn("[app:a:android] service_account: cannot read", error.lines[0])

    def test_apps_and_settings(self) -> None:
        """New and gone apps, changed keys without their values, and what they leave behind."""
        key = write_provider_key(self.folder)
        text = (
            f"[app:b:apns]\nkey_file = {key.path}\nkey_id = {key.key_id}\nteam_id = {key.team_id}\n"
            f"[app:a:android]\nservice_account = {self.account}\nresend = never\n"
            "[calls]\nroundtrip_wait_ms = 5000\n[redis]\npassword = geheim\n"
        )
        self.assertEqual(
            self.changes(text, {APPLE: 312}),
            "[calls] roundtrip_wait_ms; [redis] password;"
            f" b apns new, key {key.key_id} of team {key.team_id};"
            " a android resend; a apns gone, 312 devices have no section any more",
        )

    def test_another_service_account(self) -> None:
        """Its key is named, not shown."""
        other = write_service_account(
            self.folder, project_id="other", token_uri="https://t.example/token", name="other"
        )
        changes = self.changes(self.text.replace(str(self.account), str(other.path)))
        account = self.load(self.text)[1][GOOGLE].credentials
        assert isinstance(account, ServiceAccount)
        self.assertRegex(changes, r"^a android key \S+ of \S+@\S+, service_account$")
        self.assertNotIn("PRIVATE", changes)

    def test_very_many_changes(self) -> None:
        """The line stays readable."""
        texts = [f"[app:{n}:gcm]\napi_key = k\n" for n in range(100)]
        changes = self.changes(self.text + "".join(texts))
        self.assertEqual((changes.count(";"), changes[-9:]), (20, "; 80 more"))

    def test_what_is_configured_no_more_is_forgotten(self) -> None:
        """Memory is bounded by the configuration."""
        loads: list[Any] = []
        self.load("")
        self.files.load(self.account, lambda: loads.append(1))
        self.assertEqual(loads, [1])


class RsaKeyTests(SynchronousTestCase):
    """Keys are validated by a signature."""

    def test_parts_that_do_not_belong_together(self) -> None:
        """The file has the form of a key, and cannot sign."""
        good, other = (rsa.generate_private_key(65537, 2048).private_numbers() for _ in range(2))
        wrong = changed(good, d=other.d, dmp1=other.dmp1)
        key = wrong.private_key(unsafe_skip_rsa_key_validation=True)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.assertRaises(ValueError, load_private_key, pem)


def changed(numbers: Any, **parts: int) -> Any:
    """``numbers`` with other parts."""
    old = {name: getattr(numbers, name) for name in ("p", "q", "d", "dmp1", "dmq1", "iqmp")}
    return type(numbers)(**old | parts, public_numbers=numbers.public_numbers)
