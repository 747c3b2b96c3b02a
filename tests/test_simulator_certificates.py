"""The simulator's throw-away credentials are what real libraries accept."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import jwt
from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from middlewared.simulator.certificates import (
    EXPIRED,
    NOT_YET_VALID,
    VALID,
    Authority,
    Validity,
    write_provider_key,
    write_service_account,
)


class CertificateTests(SynchronousTestCase):
    """Certificates chain to the authority that issued them, and to no other."""

    def setUp(self) -> None:
        self.folder = temporary_folder(self)
        self.authority = Authority(folder=self.folder)

    def verify(self, pem: Path, authority: Authority) -> None:
        """Let OpenSSL verify the first certificate in ``pem``."""
        store = crypto.X509Store()
        store.load_locations(str(authority.certificate))
        certificate = crypto.X509.from_cryptography(x509.load_pem_x509_certificate(read(pem)))
        crypto.X509StoreContext(store, certificate).verify_certificate()

    def test_server_and_client_chain_to_their_authority(self) -> None:
        """OpenSSL accepts what the authority issued."""
        self.verify(self.authority.server(), self.authority)
        self.verify(self.authority.apns_client(), self.authority)

    def test_another_authority_is_no_issuer(self) -> None:
        """A certificate of another authority does not verify."""
        other = Authority(folder=self.folder, name="other-ca")
        client = other.apns_client(name="stranger")
        with self.assertRaises(crypto.X509StoreContextError):
            self.verify(client, self.authority)

    def test_validity(self) -> None:
        """Expired and not yet valid certificates are refused, valid ones are not."""
        self.assertEqual(self.refusal(VALID), None)
        self.assertIn("expired", str(self.refusal(EXPIRED)))
        self.assertIn("not yet valid", str(self.refusal(NOT_YET_VALID)))

    def refusal(self, validity: Validity) -> Exception | None:
        client = self.authority.apns_client(validity=validity)
        try:
            self.verify(client, self.authority)
        except crypto.X509StoreContextError as error:
            return error
        return None

    def test_pem_has_the_matching_key(self) -> None:
        """One PEM file holds a certificate and its key, readable by its owner only."""
        client = self.authority.apns_client()
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate_file(str(client))
        context.use_privatekey_file(str(client))
        context.check_privatekey()
        self.assertEqual(client.stat().st_mode & 0o077, 0)


class KeyTests(SynchronousTestCase):
    """Signing keys work with the library that the daemon uses."""

    def setUp(self) -> None:
        self.folder = temporary_folder(self)

    def test_provider_key_signs_es256(self) -> None:
        """A token signed by the .p8 file verifies with the public key."""
        key = write_provider_key(self.folder)
        token = jwt.encode({"iss": key.team_id}, key.path.read_text(), algorithm="ES256")
        claims = jwt.decode(token, key.public_key_pem, algorithms=["ES256"])
        self.assertEqual(claims["iss"], key.team_id)

    def test_service_account_signs_rs256(self) -> None:
        """The service-account file has Google's fields and a key that signs RS256."""
        account = write_service_account(self.folder, token_uri="http://127.0.0.1:1/token")
        document = json.loads(account.path.read_text())
        self.assertEqual(document["type"], "service_account")
        self.assertEqual(document["token_uri"], "http://127.0.0.1:1/token")
        self.assertEqual(document["private_key_id"], account.private_key_id)
        token = jwt.encode({"a": 1}, document["private_key"], algorithm="RS256")
        self.assertEqual(jwt.decode(token, account.public_key_pem, algorithms=["RS256"]), {"a": 1})


def temporary_folder(test: SynchronousTestCase) -> Path:
    """Make a folder that is removed after the test (mktemp of pytest litters the checkout)."""
    folder = tempfile.TemporaryDirectory()
    test.addCleanup(folder.cleanup)
    return Path(folder.name)


def read(path: Path) -> bytes:
    return path.read_bytes()
