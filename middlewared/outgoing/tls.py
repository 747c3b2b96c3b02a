"""
TLS for connections to the outside: trusted roots, and the settings of a client.

Every connection validates the peer's certificate and name. An extra root adds to the
platform's roots and never replaces them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import attrs
from cryptography import x509
from OpenSSL.crypto import X509
from OpenSSL.SSL import Context
from twisted.internet import ssl
from twisted.internet._sslverify import IOpenSSLTrustRoot  # not public elsewhere
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from middlewared.errors import ConfigError, Problem


@implementer(IOpenSSLTrustRoot)
class TrustRoots:
    """The platform's roots and ``extra`` ones."""

    def __init__(self, extra: Sequence[ssl.Certificate] = ()) -> None:
        self._roots = [ssl.platformTrust()]
        if extra:
            self._roots.append(ssl.trustRootFromCertificates(extra))

    def _addCACertsToContext(self, context: Context) -> None:
        for root in self._roots:
            root._addCACertsToContext(context)


def load_trust(ca_file: str | Path | None) -> TrustRoots:
    """
    The trust roots for one app.

    :param ca_file: PEM file with one or more further roots; None: the platform's alone.
    :raises ConfigError: one problem of the key ca_file.
    """
    if ca_file is None:
        return TrustRoots()
    try:
        certificates = x509.load_pem_x509_certificates(Path(ca_file).read_bytes())
    except OSError as error:
        raise _unusable(f"cannot read {ca_file}: {error.strerror}") from error
    except ValueError as error:
        raise _unusable(f"{ca_file} has no usable PEM certificate") from error
    return TrustRoots([ssl.Certificate(X509.from_cryptography(each)) for each in certificates])


def _unusable(what: str) -> ConfigError:
    return ConfigError([Problem("", "ca_file", what)])


@attrs.define(kw_only=True, eq=False, repr=False)
class ClientTLS:
    """
    The TLS settings for each host. They are kept, since making them parses all trusted roots.

    The hosts come from the configuration, so there are few.

    :param certificate: our own, with its key; None: none.
    :param protocols: offered over ALPN.
    """

    _trust: TrustRoots
    _certificate: ssl.PrivateCertificate | None = None
    _protocols: Sequence[bytes] = ()
    _creators: dict[str, IOpenSSLClientConnectionCreator] = attrs.field(factory=dict, init=False)

    def __call__(self, host: str) -> IOpenSSLClientConnectionCreator:
        creator = self._creators.get(host)
        if creator is None:
            creator = self._creators[host] = ssl.optionsForClientTLS(
                host,
                trustRoot=cast(IOpenSSLTrustRoot, self._trust),
                clientCertificate=self._certificate,
                acceptableProtocols=list(self._protocols) or None,
            )
        return creator
