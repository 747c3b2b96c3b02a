"""
Private keys in PEM form, validated in a millisecond.

OpenSSL's own check of an RSA key tests its primes: 30 ms or more, for which the library holds the
interpreter's lock, so that no thread can run meanwhile. With a fleet of keys that would hold up
calls at each reload. A key that has signed something its public half accepts is one we can use.
"""

from __future__ import annotations

from cryptography.exceptions import InternalError, InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_SIGNED = b"middlewared"


def load_private_key(pem: bytes) -> PrivateKeyTypes:
    """
    The private key in ``pem``.

    :raises ValueError: there is none that can sign. The text may quote the key.
    :raises TypeError: it has a pass phrase.
    :raises UnsupportedAlgorithm: it is of a kind that the library does not know.
    """
    key = load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=True)
    if isinstance(key, RSAPrivateKey):
        _sign(key)
    return key


def _sign(key: RSAPrivateKey) -> None:
    try:
        signature = key.sign(_SIGNED, PKCS1v15(), SHA256())
        key.public_key().verify(signature, _SIGNED, PKCS1v15(), SHA256())
    except (InternalError, InvalidSignature) as error:
        raise ValueError("the parts of the RSA key do not belong together") from error
