"""
Bounds of what one HTTP/1.1 answer may consist of, beside its body.

Twisted bounds a line, a chunk's size line and all trailers, but not how many lines an
answer's head has, nor how many interim answers (1xx) come before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.web._newclient import STATUS, HTTP11ClientProtocol, HTTPClientParser
from twisted.web.client import HTTPConnectionPool
from twisted.web.iweb import IResponse

from middlewared.errors import MiddlewaredError

MOST_HEAD_BYTES = 65_536
MOST_HEAD_LINES = 1000
MOST_INTERIM = 10
MOST_FRAMING = 8
"""Bytes that each byte of a body may take; a chunk of one byte takes six."""


class AnswerTooLong(MiddlewaredError):
    """The peer's answer goes beyond its bounds."""


class BoundedPool(HTTPConnectionPool):
    """
    A pool whose connections refuse answers without an end.

    :param max_body_bytes: how long a body its asker takes.
    """

    def __init__(self, reactor: Any, *, max_body_bytes: int) -> None:
        super().__init__(reactor)  # type: ignore[no-untyped-call]
        self._most_raw = MOST_HEAD_BYTES + MOST_FRAMING * max_body_bytes

    # In HTTPConnectionPool this is a class, called for each new connection.
    def _factory(  # type: ignore[override]
        self,
        quiescent: Callable[[Any], None],
        metadata: str,  # noqa: ARG002
    ) -> Factory:
        return _Connections(quiescent, self._most_raw)


class _Connections(Factory):
    noisy = False

    def __init__(self, quiescent: Callable[[Any], None], most_raw: int) -> None:
        self._quiescent = quiescent
        self._most_raw = most_raw

    def buildProtocol(self, addr: IAddress | None) -> _Connection:  # noqa: ARG002
        return _Connection(self._quiescent, self._most_raw)


class _Connection(HTTP11ClientProtocol):
    """One connection; an answer beyond the bounds is a failure of its request."""

    _parser: Any
    _transportProxy: Any

    def __init__(self, quiescent: Callable[[Any], None], most_raw: int) -> None:
        super().__init__(quiescent)  # type: ignore[no-untyped-call]
        self._most_raw = most_raw

    def request(self, request: Any) -> Deferred[IResponse]:
        answer = super().request(request)
        if self._parser is not None:
            # Twisted leaves no choice of the parser: ours takes its place.
            parser = _Parser(request, self._finishResponse, self._most_raw)
            parser._responseDeferred = self._parser._responseDeferred
            parser.makeConnection(self._transportProxy)  # type: ignore[no-untyped-call]
            self._parser = parser
        return answer


class _Parser(HTTPClientParser):
    """What it raises ends the request and the connection."""

    def __init__(self, request: Any, finisher: Callable[[bytes], None], most_raw: int) -> None:
        super().__init__(request, finisher)  # type: ignore[no-untyped-call]
        self._most_raw = most_raw
        self._raw = self._head_bytes = self._lines = self._heads = 0

    def lineReceived(self, line: bytes) -> None:
        self._lines += 1
        self._head_bytes += len(line) + 1
        if self._head_bytes > MOST_HEAD_BYTES or self._lines > MOST_HEAD_LINES:
            raise AnswerTooLong("the answer's head is too long")
        if self.state == STATUS:
            self._heads += 1
            if self._heads > MOST_INTERIM + 1:
                raise AnswerTooLong("too many interim answers")
        super().lineReceived(line)  # type: ignore[no-untyped-call]

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: ARG002
        raise AnswerTooLong("a line of the answer's head is too long")

    def rawDataReceived(self, data: bytes) -> None:
        self._raw += len(data)
        if self._raw > self._most_raw:
            raise AnswerTooLong("the answer's chunks have too much around them")
        super().rawDataReceived(data)  # type: ignore[no-untyped-call]
