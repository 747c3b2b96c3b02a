"""
Why a connection failed or was lost: in a few words, and whether an operator must act.

Only what no retry can fix is a configuration fault.
"""

from __future__ import annotations

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.error import ConnectionDone, ConnectionLost

from middlewared.push.interface import ConfigFault

WRONG_HOST = "wrong host name in the server's certificate"
NOT_TRUSTED = "server certificate not trusted"
NO_HTTP2 = "peer did not choose HTTP/2 (h2 by ALPN)"
WITHOUT_HTTP2 = ConfigFault(NO_HTTP2)
_CLIENT_ALERTS = ("certificate", "unknown ca", "handshake failure", "access denied")
"""Words in the TLS alerts by which a server refuses our certificate (RFC 8446, section 6.2)."""


class NoHttp2(Exception):
    """TLS works, but the peer does not speak HTTP/2: perhaps a proxy that intercepts TLS."""

    def __init__(self) -> None:
        super().__init__(NO_HTTP2)


def connect_fault(error: BaseException) -> ConfigFault | None:
    """The fault behind a failed connect; None when the next try may work."""
    if isinstance(error, NoHttp2):
        return WITHOUT_HTTP2
    if isinstance(error, VerificationError):
        return ConfigFault(WRONG_HOST)
    for reason in _tls_reasons(error):
        if reason == "certificate verify failed":
            return ConfigFault(NOT_TRUSTED)
        if "no application protocol" in reason:
            return WITHOUT_HTTP2
        if "alert" in reason and any(word in reason for word in _CLIENT_ALERTS):
            return ConfigFault("client certificate refused")
    return None


def describe(error: BaseException) -> str:
    """One line for the log."""
    fault = connect_fault(error)
    text = fault.reason if fault is not None else "; ".join(_tls_reasons(error)) or str(error)
    return text.partition("\n")[0] or type(error).__name__


def describe_loss(error: BaseException | None) -> str:
    """Why an established connection was lost, for the log."""
    if isinstance(error, ConnectionDone):
        return "closed by the peer"
    if isinstance(error, ConnectionLost):  # Twisted hides the system's error
        return "reset by the peer or the network"
    reasons = "; ".join(_tls_reasons(error))
    return f"ended by TLS: {reasons}" if reasons else str(error)


def _tls_reasons(error: BaseException | None) -> list[str]:
    """OpenSSL's reasons; none when the error is not from TLS."""
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return [str(entry[2]) for entry in error.args[0]]
    return []
