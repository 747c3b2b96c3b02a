"""Apple's extensions of push certificates, in every form."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import SynchronousTestCase

from middlewared.push.apns.certificate_scope import Environment, Scope, scope_of
from middlewared.simulator.certificates import Authority, apple_extensions
from tests.checks import made_folder

APP = "com.example.phone"
TOPICS = [APP, f"{APP}.voip", f"{APP}.complication"]
BOTH: frozenset[Environment] = frozenset(("sandbox", "production"))


def self_signed(subject: str) -> x509.Certificate:
    """A certificate without extensions."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name.from_rfc4514_string(subject), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
    return builder.sign(key, hashes.SHA256())


class ScopeTests(SynchronousTestCase):
    """Topics and environments of one certificate."""

    def setUp(self) -> None:
        self.authority = Authority(folder=made_folder(self))

    def scope(self, *extensions: tuple[int, bytes], topic: str = f"{APP}.voip") -> Scope:
        """The scope of a certificate with these extensions under Apple's push arc."""
        path = self.authority.apns_client(
            topic=topic,
            extensions=[
                x509.UnrecognizedExtension(
                    x509.ObjectIdentifier(f"1.2.840.113635.100.6.3.{number}"), value
                )
                for number, value in extensions
            ],
        )
        return scope_of(x509.load_pem_x509_certificate(path.read_bytes()))

    def listed(self) -> bytes:
        """A list of topics, as encoded in a certificate."""
        return apple_extensions(TOPICS, ())[0].value

    def test_form_of_the_list(self) -> None:
        """Each topic is a UTF8String, followed by its kind in a SEQUENCE."""
        self.assertEqual(
            apple_extensions(["a.b", "a.b.voip"], ())[0].value,
            b"\x30\x1e\x0c\x03a.b\x30\x05\x0c\x03app\x0c\x08a.b.voip\x30\x06\x0c\x04voip",
        )

    def test_universal(self) -> None:
        """All its topics, and both environments."""
        null = b"\x05\x00"
        scope = self.scope((6, self.listed()), (1, null), (2, null), topic=APP)
        self.assertEqual(scope, Scope(frozenset(TOPICS), BOTH, is_apples=True))

    def test_list_of_voip_topics(self) -> None:
        """Apple documents a second extension for them."""
        self.assertEqual(self.scope((4, self.listed())).topics, set(TOPICS))

    def test_older_certificate(self) -> None:
        """Only its subject names what it is for: the app, or its calls."""
        scope = self.scope((2, b"\x05\x00"))
        self.assertEqual((scope.topics, scope.environments), ({f"{APP}.voip"}, {"production"}))
        scope = self.scope((1, b"\x05\x00"), topic=APP)
        self.assertEqual((scope.topics, scope.environments), ({APP, f"{APP}.voip"}, {"sandbox"}))

    def test_not_apples(self) -> None:
        """Without Apple's extensions only the subject names the app, and a relay may ignore it."""
        self.assertEqual(self.scope(), Scope(frozenset({f"{APP}.voip"})))
        self.assertFalse(self.scope().is_known)

    def test_subjects(self) -> None:
        """The UID, else the common name, if it is written as Apple writes it."""
        voip = {APP, f"{APP}.voip"}
        for subject, topics in (
            (f"CN=VoIP Services: {APP}", voip),
            (f"CN=Apple Development IOS Push Services: {APP}", voip),
            (f"CN=Pass Type ID: {APP}", set()),
            (f"CN={APP}.voip", {f"{APP}.voip"}),
            (f"UID={APP}.voip,CN=VoIP Services: com.example.other", {f"{APP}.voip"}),
            ("CN=push.example.com", set()),
        ):
            found = scope_of(self_signed(subject)).topics
            self.assertEqual((subject, set(found)), (subject, topics))

    def test_what_is_no_der(self) -> None:
        """Reading ends without an error, whatever the content."""
        chance = random.Random(7)
        good = self.listed()
        broken = [b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x0c\xff" + b"\xff" * 40, good[:9]]
        broken += [b"\x30\x80" * 50, chance.randbytes(200)]
        for _ in range(20):
            spoilt = bytearray(good)
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
            broken.append(bytes(spoilt))
        for value in broken:
            self.assertIn(f"{APP}.voip", self.scope((6, value)).topics)
