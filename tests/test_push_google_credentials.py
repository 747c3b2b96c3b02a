"""The key file of a Google service account."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SynchronousTestCase

from middlewared.errors import ConfigError
from middlewared.push.google.service_account import load_service_account
from middlewared.simulator.certificates import write_service_account


class ServiceAccountTests(SynchronousTestCase):
    """load_service_account."""

    def setUp(self) -> None:
        """A folder, and a good key file in it."""
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.good = write_service_account(self.folder, token_uri="https://token.example/token")

    def problems(self, content: bytes | None) -> list[str]:
        path = self.folder / "faulty.json"
        if content is not None:
            path.write_bytes(content)
        problems: list[str] = self.assertRaises(ConfigError, load_service_account, path).lines
        for problem in problems:
            self.assertTrue(problem.startswith("service_account: "), problem)
            self.assertIn("faulty.json", problem)
            self.assertNotIn("\n", problem)
            self.assertNotIn("PRIVATE KEY", problem)
        return problems

    def changed(self, **fields: Any) -> bytes:
        return json.dumps(json.loads(self.good.path.read_bytes()) | fields).encode()

    def test_good_file_is_read(self) -> None:
        """All that a push needs, and no key in the text form."""
        account = load_service_account(self.good.path)
        self.assertEqual(account.project_id, self.good.project_id)
        self.assertEqual(account.client_email, self.good.client_email)
        self.assertEqual(account.private_key_id, self.good.private_key_id)
        self.assertEqual(account.token_uri, "https://token.example/token")
        self.assertNotIn("key=", repr(account))

    def test_missing_or_unreadable_file_is_one_problem(self) -> None:
        """No file; not JSON; JSON of another shape; another kind of Google file."""
        self.assertEqual(len(self.problems(None)), 1)
        for content in (b"", b"\xff\xfe", b"<html>", b"[" * 100_000, b"[]", b"null", b"{}"):
            self.assertEqual(len(self.problems(content)), 1)
        self.assertEqual(len(self.problems(self.changed(type="authorized_user"))), 1)

    def test_each_missing_field_is_a_problem(self) -> None:
        """All are listed, not the first alone."""
        found = self.problems(self.changed(project_id="", client_email=None, token_uri=1))
        self.assertEqual(len(found), 3)

    def test_unusable_key_is_a_problem(self) -> None:
        """Not PEM; broken; of a kind that cannot sign RS256."""
        other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
        for key in ("nonsense", broken, other.decode()):
            self.assertEqual(len(self.problems(self.changed(private_key=key))), 1)

    def test_unusable_token_uri_is_a_problem(self) -> None:
        """It must be a web address."""
        for uri in ("token.example", "ftp://token.example/", "https://", "https://[::1"):
            self.assertEqual(len(self.problems(self.changed(token_uri=uri))), 1)
