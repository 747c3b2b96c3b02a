"""
One request: its path, its bounded body, and where it came from.

The one invariant: nothing a client sends makes a request raise or grow without bound.
"""

# Most of twisted.web has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.web import server

from middlewared.web.replies import Reply, head_of


class Request(server.Request):
    """
    A request whose body is kept up to the limit, and above it not at all.

    ``body`` stays readable after the client has gone, unlike Twisted's ``content``.
    ``too_large`` means that the limit was passed: the request is judged at once, with an
    empty body, and the rest of it is thrown away as it comes.
    """

    channel: Any  # a Channel of ``limits``, and its Site
    site: Any
    too_large = False
    received_at = 0.0
    query = b""
    route = "unknown"

    def gotLength(self, length: int | None) -> None:
        self.body = bytearray()
        self.too_large = length is not None and length > self._max_body_bytes

    def handleContentChunk(self, data: bytes) -> None:
        if self.too_large:
            return
        if len(self.body) + len(data) > self._max_body_bytes:
            self.too_large = True
            self.body.clear()
            self.channel.judge_early()
        else:
            self.body += data

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        # Overrides the reading of forms too: that is the business of ``bodies``.
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, self.query = path.partition(b"?")
        self.process()

    def process(self) -> None:
        self.site = self.channel.site
        self.received_at = self.site.clock.seconds()
        self.prepath: list[bytes] = []
        self.render(self.site.resource)

    def answer(self, reply: Reply) -> None:
        """Write the whole of ``reply`` at once, and finish."""
        self.code, self.startedWriting = reply.status, 1
        head = head_of(reply, close=not self.channel.persistent)
        self.channel.write(head if self.method == b"HEAD" else head + reply.body)
        self.finish()

    def finish(self) -> None:
        """Finish once; Klein does so again after a handler that has answered by itself."""
        if not self.finished:
            super().finish()

    def parseCookies(self) -> None:
        """Nobody needs them."""

    def getRequestHostname(self) -> bytes:
        """Klein asks for it; what clients put into Host must not matter."""
        return b"localhost"

    def header_texts(self, name: bytes) -> list[str]:
        """All values of a header, whatever their bytes; Twisted's own texts must be UTF-8."""
        return [value.decode("latin-1") for value in self.requestHeaders.getRawHeaders(name, [])]

    @property
    def peer_host(self) -> str | None:
        """The address of the other end of the connection; None on a unix socket."""
        return host_of(self.getClientAddress())

    @property
    def _max_body_bytes(self) -> int:
        limit: int = self.channel.site.settings.max_body_bytes
        return limit


def host_of(peer: object) -> str | None:
    """The host of a peer's address; None on a unix socket."""
    return peer.host if isinstance(peer, IPv4Address | IPv6Address) else None


def origin_path(path: bytes) -> bytes:
    """The path of a request target that may be in absolute form (RFC 9112 section 3.2.2)."""
    scheme, separator, rest = path.partition(b"://")
    if separator and scheme.lower() in (b"http", b"https"):
        return b"/" + rest.partition(b"/")[2]
    return path
