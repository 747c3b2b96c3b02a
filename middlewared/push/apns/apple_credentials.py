"""
The credentials for Apple: a certificate with its key, or a key that signs provider tokens.

Loaded credentials are usable (the key belongs to the certificate, nothing has expired), and
their ``repr`` contains no secret.
"""

from __future__ import annotations

import warnings
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL.crypto import X509, PKey
from twisted.internet.ssl import Certificate, KeyPair, PrivateCertificate

from middlewared.errors import ConfigError, Problem
from middlewared.push.apns.certificate_scope import Scope, scope_of
from middlewared.push.private_keys import load_private_key


@attrs.frozen
class CertificateCredentials:
    """A client certificate; ``not_after`` is its end in epoch seconds."""

    certificate: PrivateCertificate = attrs.field(repr=False, eq=False)
    not_after: float
    fingerprint: str
    """Identifies the certificate; the same after it was read again."""

    scope: Scope = attrs.field(factory=Scope)
    """For what Apple issued it."""


@attrs.frozen
class KeyCredentials:
    """A team's ``.p8`` key; it does not expire."""

    team_id: str
    key_id: str
    key: EllipticCurvePrivateKey = attrs.field(repr=False, eq=False)
    fingerprint: str
    """Identifies the key; the same after it was read again."""

    not_after: None = None


Credentials: TypeAlias = CertificateCredentials | KeyCredentials


def load_certificate(path: Path, *, now: float) -> CertificateCredentials:
    """
    Read a PEM file with a certificate and its key, in any order; it may contain others.

    :param now: epoch seconds, to check the expiry.
    :raises ConfigError: one problem, which names the file; the caller knows section and key.
    """
    pem = _read(path)
    key = _load_key(path, pem)
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise _unusable(path, "no certificate in PEM form found") from error
    own = [each for each in certificates if each.public_key() == key.public_key()]
    if not own:
        raise _unusable(path, "the key does not belong to the certificate")
    leaf = own[0]
    not_after = leaf.not_valid_after_utc.timestamp()
    if not_after <= now:
        raise _unusable(path, f"the certificate expired on {leaf.not_valid_after_utc:%F}")
    fingerprint = leaf.fingerprint(SHA256()).hex()
    return CertificateCredentials(_for_twisted(leaf, key), not_after, fingerprint, scope_of(leaf))


def load_key(path: Path, *, team_id: str, key_id: str) -> KeyCredentials:
    """
    Read an ``AuthKey_XXXX.p8`` file.

    :raises ConfigError: one problem, which names the file; the caller knows section and key.
    """
    key = _load_key(path, _read(path))
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise _unusable(path, "not an APNs key (P-256 expected)")
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return KeyCredentials(team_id, key_id, key, sha256(public).hexdigest())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, (error.strerror or "cannot be read").lower()) from error


def _load_key(path: Path, pem: bytes) -> PrivateKeyTypes:
    try:
        return load_private_key(pem)
    except TypeError as error:  # the library's error for a key with a pass phrase
        raise _unusable(path, "the key has a pass phrase; store it without") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(path, "no usable private key in PEM form found") from error


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError([Problem("", "", f"{path}: {why}")])


def _for_twisted(certificate: x509.Certificate, key: PrivateKeyTypes) -> PrivateCertificate:
    with warnings.catch_warnings():
        # pyOpenSSL recommends cryptography's objects, which Twisted does not accept.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="OpenSSL")
        pair = KeyPair(PKey.from_cryptography_key(key))  # type: ignore[arg-type]
        shown = Certificate(X509.from_cryptography(certificate))
        own: PrivateCertificate = PrivateCertificate.fromCertificateAndKeyPair(shown, pair)
        return own
