"""
The result of a TLS handshake: root, ALPN protocol, and why a peer is not trusted.

A connection is trusted exactly when the daemon would trust it. A certificate that was not
trusted is examined over another connection, on which nothing is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from middlewared.clock import Clock
from middlewared.quoting import escaped
from middlewared.waiting import with_fair_timeout

CHAIN_S = 3.0


@implementer(IOpenSSLClientConnectionCreator)
class Handshake:
    """Creates connections as ``creator`` does, and remembers the last one."""

    def __init__(self, creator: Any) -> None:
        self._creator = creator
        self._connection: SSL.Connection | None = None

    def over(self, tcp: IStreamClientEndpoint) -> IStreamClientEndpoint:
        """TLS over the connection of ``tcp``."""
        creator: Any = self
        endpoint: IStreamClientEndpoint = wrapClientTLS(creator, tcp)
        return endpoint

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Called by Twisted for the connection."""
        connection: SSL.Connection = self._creator.clientConnectionForTLS(tlsProtocol)
        self._connection = connection
        return connection

    @property
    def finished(self) -> bool:
        """Whether the handshake was completed."""
        return self._connection is not None and self._connection.get_finished() is not None

    @property
    def root(self) -> str:
        """The name of the root at which the verified chain ends."""
        connection = self._connection
        chain = connection and connection.get_verified_chain(as_cryptography=True)
        return name_of(chain[-1].subject) if chain else "unknown"

    @property
    def protocol(self) -> str:
        """What ALPN chose; "" for nothing."""
        if self._connection is None:
            return ""
        return escaped(self._connection.get_alpn_proto_negotiated().decode("ascii", "replace"))


async def explain_distrust(endpoint: IStreamClientEndpoint, host: str, clock: Clock) -> str:
    """
    Why the certificate of ``host`` was rejected, and what to do; "" if it presents none.

    :param endpoint: the same TCP endpoint as before.
    """
    chain = await _presented_chain(endpoint, host, clock)
    if not chain:
        return ""
    now = datetime.now(UTC)
    for each in chain:
        holder = name_of(each.subject)
        if each.not_valid_after_utc < now:
            return f"the certificate of {holder} has expired, or our clock is wrong"
        if each.not_valid_before_utc > now:
            return f"the certificate of {holder} is not valid yet, or our clock is wrong"
    signer = name_of(chain[-1].issuer)
    if not _is_for(host, chain[0]):
        return f"its certificate is for another host name, signed by {signer}: who answers there?"
    return (
        f"its certificate is signed by {signer}, which this machine does not trust: does a proxy"
        " intercept TLS? if not, name a file with that root in ca_file"
    )


def _is_for(host: str, certificate: x509.Certificate) -> bool:
    verify = verify_certificate_ip_address if _is_address(host) else verify_certificate_hostname
    try:
        verify(certificate, host)
    except (VerificationError, CertificateError):
        return False
    return True


def _is_address(host: str) -> bool:
    return isIPAddress(host) or isIPv6Address(host)


async def _presented_chain(
    endpoint: IStreamClientEndpoint, host: str, clock: Clock
) -> Sequence[x509.Certificate]:
    """The chain that a server presents; empty if it presents none in time."""
    reader = _ChainReader()
    creator: Any = _Unverified(host)
    factory: Any = Factory.forProtocol(lambda: reader)
    factory.noisy = False
    unverified: Any = wrapClientTLS(creator, endpoint)
    try:
        await unverified.connect(factory)
        return await with_fair_timeout(reader.chain, CHAIN_S, clock)
    except Exception:  # it worked a moment ago; why it fails now does not matter
        return []


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    """TLS that accepts any certificate, only to examine it."""

    def __init__(self, host: str) -> None:
        self._host = host

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
        connection.set_app_data(tlsProtocol)
        if not _is_address(self._host):
            connection.set_tlsext_host_name(self._host.encode("idna"))
        connection.set_connect_state()
        return connection


@implementer(IHandshakeListener)
class _ChainReader(Protocol):
    """Reads the chain, then closes."""

    def __init__(self) -> None:
        self.chain: Deferred[Sequence[x509.Certificate]] = Deferred(lambda _: self._close())

    def handshakeCompleted(self) -> None:
        transport: Any = self.transport
        chain = transport.getHandle().get_peer_cert_chain(as_cryptography=True) or []
        self._close()
        if not self.chain.called:
            self.chain.callback(chain)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.chain.called:
            self.chain.errback(reason)

    def _close(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


def name_of(name: x509.Name) -> str:
    """The readable name of a certificate's holder."""
    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in name.get_attributes_for_oid(oid):
            return escaped(str(attribute.value)[:80])
    return "a nameless certificate"
