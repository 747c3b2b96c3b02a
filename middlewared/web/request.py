"""
One request: its path, its bounded body, and where it came from.

Nothing a client sends makes a request raise or grow without bound.
"""

# Most of twisted.web has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http_headers import Headers

from middlewared.model import Outcome
from middlewared.web.bodies import RawFields, read_body, read_form
from middlewared.web.client_address import Address, client_address
from middlewared.web.replies import BodyTooLarge, Reply, head_of
from middlewared.web.settings import WebSettings

_NO_HEADERS = Headers()


class Request(server.Request):
    """
    A request whose body is kept up to the limit, and above it not at all.

    ``body`` stays readable after the client has gone, unlike Twisted's ``content``.

    :ivar settings: those in force when the head had come; the whole request follows them.
    :ivar pbx: the name of the section of the PBX that sent it; "": none, or not known.
    :ivar outcome: that of the reply.
    :ivar serving: cancelled when the client has gone; None: the request is not being served.
    :ivar too_large: the body is over the limit. The request is processed at once, with an
        empty body, and the rest of it is discarded as it comes.
    """

    # With this many more attributes, a request's dictionary would no longer share its keys with
    # those of other requests, and be 1.5 KB larger.
    __slots__ = (
        *("_fields", "body", "outcome", "pbx", "query", "received_at", "route", "serving"),
        *("settings", "too_large"),
    )

    channel: Any  # a Channel, and its LimitedSite
    site: Any
    settings: WebSettings
    body: bytearray

    def __init__(self, channel: Any, *args: Any, **options: Any) -> None:
        super().__init__(channel, *args, **options)
        self.too_large = False
        self.received_at = 0.0
        self.query = b""
        self.route = "unknown"
        self.pbx = ""
        self.outcome: Outcome | None = None
        self.serving: Deferred[None] | None = None
        self._fields: RawFields | None = None

    def gotLength(self, length: int | None) -> None:
        self.settings = self.channel.site.settings.current
        self.body = bytearray()
        self.too_large = length is not None and length > self.settings.max_body_bytes

    def handleContentChunk(self, data: bytes) -> None:
        if self.too_large:
            return
        if len(self.body) + len(data) > self.settings.max_body_bytes:
            self.too_large = True
            self.body.clear()
            self.channel.process_early()
        else:
            self.body += data

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        # Overrides Twisted's reading of forms too, which is the job of ``bodies``.
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, self.query = path.partition(b"?")
        self.process()

    def process(self) -> None:
        self.site = self.channel.site
        self.received_at = self.site.clock.seconds()
        self.prepath: list[bytes] = []
        self.render(self.site.resource)

    def respond(self, reply: Reply) -> None:
        """Write the whole of ``reply`` at once, and finish."""
        self.code, self.startedWriting, self.outcome = reply.status, 1, reply.outcome
        head = head_of(reply, close=not self.channel.persistent)
        self.channel.write(head if self.method == b"HEAD" else head + reply.body)
        if reply.written is not None:
            reply.written()
        self.finish()

    def release(self) -> None:
        """Drop what was read: a held request needs neither its headers nor its body."""
        self.requestHeaders, self.body, self._fields = _NO_HEADERS, bytearray(), None

    def finish(self) -> None:
        """Finish once: Klein calls this again after a route that has responded."""
        self.serving = None
        if not self.finished:
            super().finish()

    def connectionLost(self, reason: Failure) -> None:
        """Called by Twisted when the client has gone."""
        super().connectionLost(reason)
        serving, self.serving = self.serving, None
        if serving is not None:
            serving.cancel()

    def parseCookies(self) -> None:
        """No route uses them."""

    def getRequestHostname(self) -> bytes:
        """Used by Klein; the Host header must not matter to it."""
        return b"localhost"

    def header_texts(self, name: bytes) -> list[str]:
        """All values of a header, whatever their bytes; Twisted's own texts must be UTF-8."""
        return [value.decode("latin-1") for value in self.requestHeaders.getRawHeaders(name, [])]

    def fields(self) -> RawFields:
        """
        The fields of the body or, for a DELETE without one, of the query; decoded once.

        :raises BodyTooLarge: the body is over the limit; checked first.
        :raises UnsupportedMediaType: the content type is none of ours.
        :raises BadRequest: the body does not match its content type.
        """
        if self._fields is None:
            self._fields = self._decode()
        return self._fields

    def _decode(self) -> RawFields:
        if self.too_large:
            raise BodyTooLarge("body too large")
        body = bytes(self.body)
        if not body and self.method == b"DELETE":
            return read_form(self.query)
        content_type = self.header_texts(b"content-type")
        if not body and not content_type:
            return {}
        return read_body(content_type[-1] if content_type else "", body)

    @property
    def address(self) -> Address | None:
        """The client's own address, seen through trusted proxies; None: it cannot be read."""
        forwarded_for = self.header_texts(b"x-forwarded-for")
        return client_address(self.peer_host, forwarded_for, self.settings.trusted_proxies)

    @property
    def peer_host(self) -> str | None:
        """The address of the other end of the connection; None on a unix socket."""
        return host_of(self.getClientAddress())


def host_of(peer: object) -> str | None:
    """The host of a peer's address; None on a unix socket."""
    return peer.host if isinstance(peer, IPv4Address | IPv6Address) else None


def origin_path(path: bytes) -> bytes:
    """The path of a request target that may be in absolute form (RFC 9112 section 3.2.2)."""
    scheme, separator, rest = path.partition(b"://")
    if separator and scheme.lower() in (b"http", b"https"):
        return b"/" + rest.partition(b"/")[2]
    return path
