"""Certificates, keys, and the tokens that keys sign."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from middlewared.errors import ConfigError
from middlewared.push.apns.apple_credentials import KeyCredentials, load_certificate, load_key
from middlewared.push.apns.provider_tokens import (
    BACKDATED_S,
    MAX_FORCED,
    RENEW_AFTER_S,
    ProviderTokens,
)
from middlewared.simulator.certificates import EXPIRED, Authority, write_provider_key
from tests.apns import reactor

NO_ENCRYPTION = NoEncryption()


def key_pem(key: Any, encryption: KeySerializationEncryption = NO_ENCRYPTION) -> bytes:
    """A private key as a file has it."""
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return pem


class CredentialsTestCase(SynchronousTestCase):
    """Has a folder, an authority and a key."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.authority = Authority(folder=self.folder)
        self.key = write_provider_key(self.folder)

    def write(self, content: bytes) -> Path:
        """A file."""
        path = self.folder / "file.pem"
        path.write_bytes(content)
        return path

    def assert_problem(self, path: Path, problem: str, load: Any) -> None:
        """Loading fails with this one line."""
        error = self.assertRaises(ConfigError, load, path)
        self.assertEqual(error.lines, [f"{path}: {problem}"])


class CertificateTests(CredentialsTestCase):
    """A PEM file with certificate and key."""

    def load(self, path: Path) -> Any:
        """As of now."""
        return load_certificate(path, now=reactor.seconds())

    def test_a_good_one(self) -> None:
        """In any order, with others besides; the end of its life is known."""
        pem = self.authority.apns_client().read_bytes()
        start = pem.index(b"-----BEGIN PRIVATE KEY")
        others = self.authority.certificate.read_bytes()
        credentials = self.load(self.write(others + pem[start:] + pem[:start]))
        self.assertEqual(credentials, self.load(self.write(pem)))
        self.assertGreater(credentials.not_after, reactor.seconds())

    def test_renewed_is_another(self) -> None:
        """A reload must notice it."""
        first = self.load(self.authority.apns_client())
        self.assertNotEqual(first, self.load(self.authority.apns_client()))

    def test_problems_are_named(self) -> None:
        """In one line each, and never with a secret."""
        good = self.authority.apns_client().read_bytes()
        start = good.index(b"-----BEGIN PRIVATE KEY")
        locked = BestAvailableEncryption(b"secret")
        key = ec.generate_private_key(ec.SECP256R1())
        no_key = "no usable private key in PEM form found"
        for content, problem in (
            (b"", no_key),
            (b"\xff\xfe", no_key),
            (good[:start], no_key),
            (good[start:], "no certificate in PEM form found"),
            (good[:start] + key_pem(key), "the key does not belong to the certificate"),
            (
                good[:start] + key_pem(key, locked),
                "the key has a pass phrase; store it without",
            ),
        ):
            self.assert_problem(self.write(content), problem, self.load)

    def test_files_that_cannot_be_read(self) -> None:
        """Missing, or no file at all."""
        missing = self.folder / "missing.pem"
        self.assert_problem(missing, "no such file or directory", self.load)
        self.assert_problem(self.folder, "is a directory", self.load)

    def test_an_expired_one(self) -> None:
        """Apple would refuse it."""
        path = self.authority.apns_client(validity=EXPIRED)
        error = self.assertRaises(ConfigError, self.load, path)
        self.assertRegex(error.lines[0], r": the certificate expired on \d{4}-\d\d-\d\d$")


class KeyTests(CredentialsTestCase):
    """A .p8 file."""

    def load(self, path: Path) -> KeyCredentials:
        """With the ids of our key."""
        return load_key(path, team_id=self.key.team_id, key_id=self.key.key_id)

    def test_a_good_one(self) -> None:
        """Read again it is the same, and its text form has no secret."""
        credentials = self.load(self.key.path)
        self.assertEqual(credentials, self.load(self.key.path))
        self.assertNotIn("EllipticCurve", repr(credentials))

    def test_another_kind_of_key(self) -> None:
        """Apple signs with P-256 only."""
        for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
            path = self.write(key_pem(key))
            self.assert_problem(path, "not an APNs key (P-256 expected)", self.load)


class ProviderTokenTests(KeyTests):
    """One token for each key."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.wall_s = 1_700_000_000.0
        self.tokens = ProviderTokens(clock=self.clock, wall=lambda: self.wall_s)

    def test_what_apple_reads(self) -> None:
        """ES256, the key's id, the team and the time."""
        token = self.tokens.current(self.load(self.key.path))
        header = jwt.get_unverified_header(token.text)
        self.assertEqual((header["alg"], header["kid"]), ("ES256", self.key.key_id))
        claims = jwt.decode(
            token.text, self.key.public_key_pem, ["ES256"], options={"verify_iat": False}
        )
        self.assertEqual(claims, {"iss": self.key.team_id, "iat": 1_700_000_000 - 30})

    def test_renewed_at_fifty_minutes(self) -> None:
        """Not before, and the same for all that have read the key."""
        first = self.tokens.current(self.load(self.key.path))
        self.clock.advance(RENEW_AFTER_S - 1)
        self.assertIs(self.tokens.current(self.load(self.key.path)), first)
        self.clock.advance(1)
        self.assertIsNot(self.tokens.current(self.load(self.key.path)), first)

    def test_a_wall_clock_that_steps(self) -> None:
        """A token that was good stays in use; Apple would refuse too many new ones."""
        credentials = self.load(self.key.path)
        first = self.tokens.current(credentials)
        for step_s in (-3600, 7200, -5):
            self.wall_s += step_s
            self.assertIs(self.tokens.current(credentials), first)

    def test_the_time_in_a_token_is_the_wall_clocks(self) -> None:
        """Minus some seconds: Apple compares it with its own clock, and refuses the future."""
        self.clock.advance(12345)
        token = self.tokens.current(self.load(self.key.path))
        claims = jwt.decode(token.text, options={"verify_signature": False})
        self.assertEqual(claims["iat"], int(self.wall_s) - BACKDATED_S)

    def test_a_token_is_never_an_hour_old(self) -> None:
        """By Apple's clock, although it is backdated and our clock may be slow."""
        self.assertLess(RENEW_AFTER_S + BACKDATED_S, 3600 - 5 * 60)

    def test_tokens_called_expired_are_not_renewed_for_ever(self) -> None:
        """Apple would answer TooManyProviderTokenUpdates; after a while there is hope again."""
        credentials = self.load(self.key.path)
        token = self.tokens.current(credentials)
        for _ in range(MAX_FORCED):
            newer = self.tokens.expired(credentials, token)
            assert newer is not None
            self.assertIsNot(newer, token)
            self.assertIs(self.tokens.expired(credentials, token), newer)
            token = newer
        self.assertIsNone(self.tokens.expired(credentials, token))
        self.clock.advance(20 * 60)
        self.assertIsNotNone(self.tokens.expired(credentials, token))
