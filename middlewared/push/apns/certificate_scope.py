"""
What a push certificate is for: its topics and environments, as Apple's extensions name them.

A certificate without them may be a relay's or a test's, or one of Apple's that was converted by
a program that left them out: then its subject may name its app. An invalid extension is not an
error: what cannot be read is left out.

Source: Apple, "Sending notification requests to APNs": the topics of a certificate are
listed in 1.2.840.113635.100.6.3.6 and .6.3.4. Apple's WWDR certification practice statement
has .6.3.1 for development and .6.3.2 for production. The subject of a certificate of Apple's is
``UID=com.example.app.voip, CN=VoIP Services: com.example.app, OU=<team>``, and likewise for others.
"""

from __future__ import annotations

import re
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
_COMMON_NAME = re.compile(r"(?:[\w ]+ )?Services: (\S+)|(\S+\.voip)")
"""``VoIP Services: com.example.app``, ``Apple Push Services: com.example.app`` or a topic."""


@attrs.frozen
class Scope:
    """
    The topics and environments that a certificate names, if any.

    ``is_apples``: it has extensions of Apple's. If not, only its subject names ``topics``, and
    they mean nothing to a relay.
    """

    topics: frozenset[str] = frozenset()
    environments: frozenset[Environment] = frozenset()
    is_apples: bool = False

    @property
    def is_known(self) -> bool:
        """Whether these are the topics for which Apple accepts the certificate, and no others."""
        return self.is_apples and bool(self.topics)


def scope_of(certificate: x509.Certificate) -> Scope:
    """The scope of ``certificate``; empty if it names no app."""
    try:
        found = {each.oid.dotted_string: each.value for each in certificate.extensions}
    except ValueError:  # another extension violates RFC 5280
        found = {}
    ours = {oid: value for oid, value in found.items() if oid.startswith(_PUSH)}
    lists = (ours.get(oid) for oid in (TOPICS, VOIP_TOPICS))
    topics = {
        topic
        for each in lists
        if isinstance(each, x509.UnrecognizedExtension)
        for topic in _topics(each.value)
    }
    named = set(_named_by(certificate.subject))
    if not topics:
        # An older certificate has only its subject, which may name the app id even for calls.
        named |= {f"{each.removesuffix('.voip')}.voip" for each in named}
    topics |= named
    environments: set[Environment] = set()
    if SANDBOX in ours:
        environments.add("sandbox")
    if PRODUCTION in ours:
        environments.add("production")
    return Scope(frozenset(topics), frozenset(environments), is_apples=bool(ours))


def _named_by(subject: x509.Name) -> Iterator[str]:
    """The app ids or topics in a subject: its UID, or else its common name as Apple writes it."""
    ids = [str(each.value) for each in subject.get_attributes_for_oid(NameOID.USER_ID)]
    yield from ids
    for each in () if ids else subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        if match := _COMMON_NAME.fullmatch(str(each.value)):
            yield match[1] or match[2]


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
