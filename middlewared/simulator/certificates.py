"""
Simulator: throw-away credentials, as Apple, Google and an operator would issue them.

Every secret is new and is written only to the caller's folder. Keys are P-256 where the peer
allows it, because generating RSA keys is slow.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@attrs.frozen
class Validity:
    """When a certificate is valid, in days from now."""

    from_days: float = -1
    to_days: float = 30


VALID = Validity()
EXPIRED = Validity(from_days=-30, to_days=-1)
NOT_YET_VALID = Validity(from_days=1, to_days=30)


@attrs.frozen
class ProviderKey:
    """An APNs provider key: the ``.p8`` file, and what Apple knows of it."""

    path: Path
    key_id: str
    team_id: str
    public_key_pem: str = attrs.field(repr=False)


@attrs.frozen
class IssuedServiceAccount:
    """A Google service account: its JSON file, and what Google knows of it."""

    path: Path
    project_id: str
    client_email: str
    private_key_id: str
    token_uri: str
    public_key_pem: str = attrs.field(repr=False)


class Authority:
    """
    A certificate authority that keeps its files in ``folder``.

    Two authorities may share a folder when their names differ.
    """

    def __init__(self, *, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name.from_rfc4514_string(f"CN=middlewared simulator {name}")
        builder = self._builder(self._subject, self._key, Validity(to_days=365))
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_AUTHORITY_USAGE, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = _write(folder / f"{name}.pem", certificate.public_bytes(Encoding.PEM))
        """The PEM file to trust (a ``ca_file``)."""

    def server(
        self, *, name: str = "server", hosts: Sequence[str] = LOOPBACK, validity: Validity = VALID
    ) -> Path:
        """Issue a server certificate for ``hosts``; the PEM file has certificate and key."""
        alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        subject = x509.Name.from_rfc4514_string(f"CN={hosts[0]}")
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        return self._issue(name, subject, validity, usage, [alternatives])

    def apns_client(
        self,
        *,
        name: str = "voip",
        topic: str = "com.voipgrid.vialer.voip",
        validity: Validity = VALID,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> Path:
        """
        Issue an APNs VoIP certificate (topic as UID); the PEM file has certificate and key.

        :param extensions: extra ones, as from :func:`apple_extensions`; a relay's
            certificate has none.
        """
        service = f"VoIP Services: {topic.removesuffix('.voip')}"
        subject = x509.Name.from_rfc4514_string(f"UID={topic},CN={service}")
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        return self._issue(name, subject, validity, usage, extensions)

    def _issue(
        self,
        name: str,
        subject: x509.Name,
        validity: Validity,
        usage: x509.ObjectIdentifier,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(subject, key, validity).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        pem = certificate.public_bytes(Encoding.PEM) + _private_pem(key)
        return _write(self._folder / f"{name}.pem", pem)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, validity: Validity
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=validity.from_days))
            .not_valid_after(now + datetime.timedelta(days=validity.to_days))
        )


def apple_extensions(
    topics: Sequence[str], environments: Sequence[str] = ("sandbox", "production")
) -> Sequence[x509.UnrecognizedExtension]:
    """Apple's extensions of a push certificate: its topics with their kinds, its environments."""
    kinds = {"voip": "voip", "complication": "complication"}
    listed = b"".join(
        _der(0x0C, topic.encode())
        + _der(0x30, _der(0x0C, kinds.get(topic.rpartition(".")[2], "app").encode()))
        for topic in topics
    )
    values = {6: _der(0x30, listed)}
    for number, environment in ((1, "sandbox"), (2, "production")):
        if environment in environments:
            values[number] = _der(0x05, b"")
    return [
        x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.840.113635.100.6.3.{number}"), value)
        for number, value in values.items()
    ]


def _der(tag: int, content: bytes) -> bytes:
    """One value in DER, with the long form of the length if needed."""
    size = len(content)
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    length = bytes([size]) if size < 0x80 else bytes([0x80 | len(octets)]) + octets
    return bytes([tag]) + length + content


def write_provider_key(
    folder: Path, *, key_id: str = "SIMKEY0001", team_id: str = "SIMTEAM001"
) -> ProviderKey:
    """Make an ES256 key for APNs provider tokens and write ``AuthKey_<key id>.p8``."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = _write(folder / f"AuthKey_{key_id}.p8", _private_pem(key))
    return ProviderKey(path, key_id, team_id, _public_pem(key))


def write_service_account(
    folder: Path,
    *,
    token_uri: str,
    project_id: str = "simulated-project",
    name: str = "service-account",
) -> IssuedServiceAccount:
    """Make a Google service account and write its JSON key file ``<name>.json``."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    email = f"middlewared@{project_id}.iam.gserviceaccount.com"
    document = {
        "type": "service_account",
        "project_id": project_id,
        "private_key_id": f"{x509.random_serial_number():040x}"[:40],
        "private_key": _private_pem(key).decode(),
        "client_email": email,
        "client_id": "100000000000000000001",
        "token_uri": token_uri,
    }
    path = _write(folder / f"{name}.json", json.dumps(document, indent=2).encode())
    key_id = document["private_key_id"]
    return IssuedServiceAccount(path, project_id, email, key_id, token_uri, _public_pem(key))


_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def _write(path: Path, content: bytes) -> Path:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path
