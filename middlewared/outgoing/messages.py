"""
Requests, answers and failures in the form of treq and Twisted.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache

from hyperlink import EncodedURL
from OpenSSL import SSL
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import URI, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from middlewared.outgoing.answer_limits import AnswerTooLong


class _Url(EncodedURL):
    """A URL that is encoded once: treq would do it again, at a fifth of a request's cost."""

    _text: str | None = None

    def to_uri(self) -> EncodedURL:
        return self

    def to_text(self, with_password: bool = False) -> str:  # noqa: ARG002 - hyperlink's
        if self._text is None:
            self._text = super().to_text()
        return self._text


@lru_cache(maxsize=256)
def parsed(url: str) -> EncodedURL:
    return _Url.from_text(EncodedURL.from_text(url).to_uri().to_text())


class NoCookies(IndexableCookieJar):
    """treq shares cookies among all users of a client: one account's would reach another's."""

    def add_cookie_header(self, request: object) -> None:
        """There are none."""

    def extract_cookies(self, response: object, request: object) -> None:
        """They are ignored."""


NO_COOKIES = NoCookies()


@implementer(IBodyProducer)
class WholeBody:
    """Writes the body with the headers; treq's own producer sends it one iteration later."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)  # type: ignore[call-arg, misc]  # Twisted's interface has no self
        return succeed(None)

    def pauseProducing(self) -> None:
        """All is written already."""

    def resumeProducing(self) -> None:
        """All is written already."""

    def stopProducing(self) -> None:
        """All is written already."""


class AnswerBody(Protocol):
    """Collects at most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._received = bytearray()
        self._done: Deferred[bool] = Deferred()

    @property
    def content(self) -> bytes:
        """The bytes so far."""
        return bytes(self._received[: self._limit])

    def read(self, response: IResponse) -> Deferred[bool]:
        """Fires when complete (True) or at the limit (False); fails if the body breaks off."""
        response.deliverBody(self)  # type: ignore[call-arg, misc]  # Twisted's interface has no self
        return self._done

    def dataReceived(self, data: bytes) -> None:
        if self._done.called:
            return
        self._received += data
        if len(self._received) > self._limit:
            self._done.callback(False)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self._done.callback(True)
        else:
            self._done.errback(reason)


def raw_headers(headers: Mapping[str, str | bytes]) -> Headers:
    raw = Headers()
    for name, value in headers.items():
        raw.setRawHeaders(name, [value])
    return raw


def host_of(url: str) -> tuple[URI, Hashable]:
    """The host of ``url``, with the key the agent uses for it."""
    uri = URI.fromBytes(parsed(url).to_text().encode("ascii"))
    return uri, (uri.scheme, uri.host, uri.port)


def reasons_of(error: BaseException) -> list[BaseException]:
    return [each.value for each in getattr(error, "reasons", ())] or [error]


def words(error: BaseException) -> str:
    """Why it failed, without text that a peer sent."""
    return "; ".join(map(_words, reasons_of(error)))


def _words(error: BaseException) -> str:
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return f"TLS: {error.args[0][0][2]}"
    if isinstance(error, ConnectError | ConnectionClosed | DNSLookupError | AnswerTooLong):
        return str(error)
    return type(error).__name__
