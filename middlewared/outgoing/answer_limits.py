"""
Bounds of what one HTTP/1.1 answer may consist of, beside its body.

Twisted bounds a line, a chunk's size line and all trailers, but not how many lines an
answer's head has, nor how many interim answers (1xx) come before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.web._newclient import STATUS, HTTPClientParser

from middlewared.errors import MiddlewaredError

MOST_HEAD_BYTES = 65_536
MOST_HEAD_LINES = 1000
MOST_INTERIM = 10
MOST_FRAMING = 8
"""Bytes that each byte of a body may take; a chunk of one byte takes six."""


class AnswerTooLong(MiddlewaredError):
    """The peer's answer goes beyond its bounds."""


class BoundedParser(HTTPClientParser):
    """
    A parser with limits; what it raises ends the request and the connection.

    :param most_raw: the limit in bytes of a body with its framing.
    :ivar status: the answer's status once it was read; None: not yet.
    """

    response: Any

    def __init__(self, request: Any, finisher: Callable[[bytes], None], most_raw: int) -> None:
        super().__init__(request, finisher)  # type: ignore[no-untyped-call]
        self.status: int | None = None
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

    def statusReceived(self, status: bytes) -> None:
        super().statusReceived(status)  # type: ignore[no-untyped-call]
        if 200 <= self.response.code <= 599:
            self.status = self.response.code

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: ARG002
        raise AnswerTooLong("a line of the answer's head is too long")

    def rawDataReceived(self, data: bytes) -> None:
        self._raw += len(data)
        if self._raw > self._most_raw:
            raise AnswerTooLong("the answer's chunks have too much around them")
        super().rawDataReceived(data)  # type: ignore[no-untyped-call]
