"""
Why a service cannot be reached, and what its clock shows, in words for an operator.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from twisted.internet import error as internet
from twisted.internet.defer import TimeoutError as WaitedTooLong

from middlewared.cli.check.handshake import explain_distrust
from middlewared.clock import Clock
from middlewared.outgoing.interface import OutgoingFailed, TcpEndpoints
from middlewared.outgoing.proxy import ProxyFailed
from middlewared.quoting import quoted

NO_NAME = "the name server does not know the name, or does not answer"
CLOCK_TOLERANCE_S = 5.0
"""A clock this far off is not synchronised."""


async def explain_no_answer(
    failure: OutgoingFailed, url: str, endpoints: TcpEndpoints, clock: Clock
) -> str:
    """Why the host of ``url`` did not answer, naming it, in words for an operator."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    words = str(failure).rstrip(".")
    if isinstance(failure.__cause__, internet.ConnectError | internet.DNSLookupError):
        words = unreachable(failure.__cause__)
    elif parts.scheme == "https" and "certificate verify failed" in words:
        tcp = endpoints(host, parts.port or 443)
        words = await explain_distrust(tcp, host, clock) or words
    return f"{parts.netloc}: {words}"


def unreachable(error: BaseException) -> str:
    """Why there is no TCP connection, in words; ``error`` is that of an endpoint."""
    match error:
        case ProxyFailed(__cause__=BaseException() as cause):
            return f"cannot reach the proxy of [http_proxy]: {unreachable(cause)}"
        case ProxyFailed():
            return f"the proxy of [http_proxy] {error.args[0]}"
        case internet.DNSLookupError():
            return NO_NAME
        case internet.ConnectionRefusedError():
            return "the connection is refused"
        case internet.NoRouteError():
            return "there is no route to it"
        case internet.TimeoutError() | internet.TCPTimedOutError() | WaitedTooLong():
            return "no connection within a few seconds"
        case internet.ConnectionLost() | internet.ConnectionDone():
            return "the connection was closed"
    return quoted(str(error).partition("\n")[0] or type(error).__name__, 120)


def agreeing(seconds: float) -> str:
    """How well another clock agrees with ours."""
    return f"clock within {max(0.1, abs(seconds)):.1f} s of ours"


def skew(seconds: float) -> str:
    """``seconds`` by which another clock is ahead of ours, in words."""
    size = abs(seconds)
    shown = f"{size:.0f} s" if size < 120 else f"{size / 60:.0f} min"
    return f"{shown} {'ahead of' if seconds > 0 else 'behind'} ours"
