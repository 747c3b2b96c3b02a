"""
The CONNECT proxy: a TCP endpoint that asks the proxy for a tunnel (RFC 9110, 9.3.6).

Within the time-out, the protocol above gets a tunnel or nothing. A proxy that refuses, stalls,
closes or answers garbage is a :class:`ProxyFailed`; a later connect may succeed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, cast
from urllib.parse import unquote, urlsplit

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from middlewared.basic_auth import encode_basic
from middlewared.errors import ConfigError, Problem
from middlewared.outgoing.tcp_endpoints import CONNECT_TIMEOUT_S, DirectEndpoint
from middlewared.waiting import with_fair_timeout

_MAX_HEAD_BYTES = 16_384
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?:[ \r]|$)")


class ProxyFailed(ConnectError):
    """The text gives the reason, and quotes neither the password nor what the proxy sent."""

    MESSAGE = "The proxy gives no tunnel"

    def __init__(self, problem: str) -> None:
        super().__init__(string=problem)  # type: ignore[no-untyped-call]


@attrs.frozen
class Proxy:
    """The address of a CONNECT proxy, and our credentials."""

    host: str
    port: int
    authorization: bytes | None = attrs.field(default=None, repr=False)
    """The value of Proxy-Authorization; None: no credentials."""

    @classmethod
    def from_url(cls, url: str) -> Proxy:
        """
        Read ``http://user:password@host:port``; user and password are percent-encoded.

        :raises ConfigError: one problem of ``[http_proxy] url``, which does not quote the URL.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise _wrong_url("is not a URL") from error
        if parts.scheme != "http" or not host or not port:
            raise _wrong_url("must be http://host:port or http://user:password@host:port")
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise _wrong_url("must end after the port")
        if parts.username is None:
            return cls(host, port)
        user, password = unquote(parts.username), unquote(parts.password or "")
        return cls(host, port, encode_basic(user, password))


def _wrong_url(what: str) -> ConfigError:
    return ConfigError([Problem("http_proxy", "url", what)])


class ProxyEndpoints:
    """
    TCP endpoints through the proxy (:class:`~middlewared.outgoing.interface.TcpEndpoints`).

    Logs when the proxy begins to fail, when the reason changes, and when it works again.
    """

    _log = Logger()

    def __init__(self, *, reactor: Any, proxy: Proxy, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._reactor = reactor
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._problem: str | None = None

    def __call__(self, host: str, port: int) -> IStreamClientEndpoint:
        proxy = DirectEndpoint(self._reactor, self._proxy.host, self._proxy.port, self._timeout_s)
        tunnel = TunnelEndpoint(host, port, proxy, self._proxy.authorization, self._report)
        return cast(IStreamClientEndpoint, tunnel)

    def _report(self, problem: str | None) -> None:
        if problem == self._problem:
            return
        self._problem = problem
        proxy = f"{self._proxy.host}:{self._proxy.port}"
        if problem is None:
            self._log.info("The proxy {proxy} works again", proxy=proxy)
        else:
            self._log.warn("{problem} ({proxy})", problem=problem, proxy=proxy)


@implementer(IStreamClientEndpoint)
@attrs.frozen
class TunnelEndpoint:
    """``host`` as reached through the proxy."""

    host: str
    port: int
    proxy: DirectEndpoint
    authorization: bytes | None = attrs.field(repr=False)
    report: Callable[[str | None], None] = attrs.field(repr=False)
    """Notified of the result of each connect: its problem, or None for a tunnel."""

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect to the proxy and ask for the tunnel, within the proxy's time-out."""
        tunnelling = Deferred.fromCoroutine(self._connect(protocolFactory))
        timeout_s = self.proxy.timeout_s
        late = partial(_timed_out, timeout_s)
        with_fair_timeout(tunnelling, timeout_s, self.proxy.reactor, late)
        return tunnelling.addCallbacks(self._succeeded, self._failed)

    async def _connect(self, above: IProtocolFactory) -> IProtocol:
        request = _connect_request(self.host, self.port, self.authorization)
        factory: Any = Factory.forProtocol(lambda: _Tunnel(request, above))
        factory.noisy = False
        try:
            tunnel = cast(_Tunnel, await self.proxy.connect(factory))
        except CancelledError:
            raise
        except Exception as error:
            raise ProxyFailed(f"cannot be reached: {error}") from error
        return await tunnel.opened

    def _succeeded(self, protocol: IProtocol) -> IProtocol:
        self.report(None)
        return protocol

    def _failed(self, failure: Failure) -> Failure:
        if failure.check(ProxyFailed):
            self.report(str(failure.value))
        return failure


class _Tunnel(Protocol):
    """
    The connection to the proxy: asks for the tunnel, then passes bytes to the protocol above.

    The proxy's answer may arrive in any pieces; what follows its head belongs to the tunnel.
    """

    transport: Any

    def __init__(self, request: bytes, factory: Any) -> None:
        self._request = request
        self._factory = factory
        self._received = b""
        self._above: Any = None
        self.opened: Deferred[IProtocol] = Deferred(lambda _: self.transport.abortConnection())
        """Fires with the protocol above when the tunnel is open, or with ProxyFailed."""

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        if self._above is not None:
            self._above.dataReceived(data)
        elif not self.opened.called:
            self._head_received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._above is not None:
            self._above.connectionLost(reason)
        elif not self.opened.called:
            self._fail("closed the connection without an answer")

    def _head_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if end:
            self._status_received(head, rest)
        elif len(self._received) > _MAX_HEAD_BYTES:
            self._fail("answers without an end")

    def _status_received(self, head: bytes, rest: bytes) -> None:
        status = _STATUS_LINE.match(head)
        if status is None:
            self._fail("does not answer in HTTP")
        elif status[1] == b"407":
            self._fail("refuses the credentials (407)")
        elif not status[1].startswith(b"2"):
            self._fail(f"refuses ({status[1].decode()})")
        else:
            self._hand_over(rest)

    def _hand_over(self, rest: bytes) -> None:
        self._above = self._factory.buildProtocol(self.transport.getPeer())
        self._above.makeConnection(self.transport)
        self.opened.callback(self._above)
        if rest:
            self._above.dataReceived(rest)

    def _fail(self, problem: str) -> None:
        self.opened.errback(ProxyFailed(problem))
        self.transport.abortConnection()


def _connect_request(host: str, port: int, authorization: bytes | None) -> bytes:
    name = b"[%b]" % host.encode() if ":" in host else host.encode("idna")
    authority = b"%b:%d" % (name, port)
    lines = [b"CONNECT %b HTTP/1.1" % authority, b"Host: " + authority]
    if authorization is not None:
        lines.append(b"Proxy-Authorization: " + authorization)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _timed_out(timeout_s: float) -> NoReturn:
    raise ProxyFailed(f"no answer within {timeout_s:.3g} s")
