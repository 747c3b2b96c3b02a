"""
Apple's extensions of a push certificate: the topics and environments it is for.

A certificate without them (a relay's, a test's) has an empty scope. An invalid extension
is not an error: what cannot be read is left out.

Source: Apple, "Sending notification requests to APNs": the topics of a certificate are
listed in 1.2.840.113635.100.6.3.6 and .6.3.4. Apple's WWDR certification practice statement
has .6.3.1 for development and .6.3.2 for production.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import attrs
from cryptography import x509
from cryptography.x509.oid import NameOID

Environment: TypeAlias = Literal["production", "sandbox"]

_PUSH = "1.2.840.113635.100.6.3."
SANDBOX, PRODUCTION, VOIP_TOPICS, TOPICS = (f"{_PUSH}{number}" for number in (1, 2, 4, 6))
_CONTAINERS = (0x30, 0x04)  # SEQUENCE, OCTET STRING
_TEXTS = (0x0C, 0x13, 0x16)  # UTF8String, PrintableString, IA5String
_DEEPEST = 4


@attrs.frozen
class Scope:
    """The topics and environments that a certificate names, if any."""

    topics: frozenset[str] = frozenset()
    environments: frozenset[Environment] = frozenset()

    @property
    def is_known(self) -> bool:
        """Whether the certificate names its topics."""
        return bool(self.topics)


def scope_of(certificate: x509.Certificate) -> Scope:
    """The scope of ``certificate``; empty if it has no extensions of Apple's."""
    try:
        found = {each.oid.dotted_string: each.value for each in certificate.extensions}
    except ValueError:  # another extension violates RFC 5280
        return Scope()
    ours = {oid: value for oid, value in found.items() if oid.startswith(_PUSH)}
    if not ours:
        return Scope()
    lists = (ours.get(oid) for oid in (TOPICS, VOIP_TOPICS))
    topics = {
        topic
        for each in lists
        if isinstance(each, x509.UnrecognizedExtension)
        for topic in _topics(each.value)
    }
    named = {
        str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
    }
    if not topics:
        # An older certificate has only its subject's UID, which may be the app id even for calls.
        named |= {f"{each.removesuffix('.voip')}.voip" for each in named}
    topics |= named
    environments: set[Environment] = set()
    if SANDBOX in ours:
        environments.add("sandbox")
    if PRODUCTION in ours:
        environments.add("production")
    return Scope(frozenset(topics), frozenset(environments))


def _topics(der: bytes) -> Iterator[str]:
    """The topics of a list in which each is followed by its kind (app, voip, complication)."""
    for text in _texts(der, _DEEPEST):
        if "." in text:
            yield text


def _texts(der: bytes, depth: int) -> Iterator[str]:
    """All texts in ``der``, in order, up to the first invalid DER."""
    while len(der) >= 2 and depth:
        tag, length, start = der[0], der[1], 2
        if length & 0x80:  # the long form: the number of length octets
            start += length & 0x7F
            length = int.from_bytes(der[2:start], "big")
        content, der = der[start : start + length], der[start + length :]
        if tag in _CONTAINERS:
            yield from _texts(content, depth - 1)
        elif tag in _TEXTS:
            yield content.decode("utf-8", "replace")
