"""
Server-sent events (WHATWG HTML, section 9.2) for pages that are open.

A stream looks at the state a few times a second and sends what differs from what it sent
before; so a slow reader misses states between, and nothing is queued for it. While calls need
all the time, streams wait. There are at most :data:`MOST` of them.
"""

# Most of twisted.web has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.web.http import datetimeToString
from zope.interface import implementer

from middlewared.clock import Clock
from middlewared.console.access import SAFE_HEADERS
from middlewared.errors import DatabaseDown
from middlewared.web.replies import TooManyRequests
from middlewared.web.request import Request

MOST = 20
LONGEST_S = 600.0
"""A browser connects again; this ends streams whose reader has gone unnoticed."""
ALIVE_S = 15.0

Parts = Mapping[str, str]
ReadParts = Callable[[], Awaitable["Parts | None"]]
"""The content of a page's parts by their ids; None: what the page shows is over."""


@implementer(IPushProducer)
@attrs.define(eq=False)
class _Reader:
    """Whether the client reads."""

    reads: bool = True

    def pauseProducing(self) -> None:
        self.reads = False

    def resumeProducing(self) -> None:
        self.reads = True

    def stopProducing(self) -> None:
        self.reads = False


class LiveStreams:
    """:param busy: whether calls need all the time."""

    def __init__(self, *, clock: Clock, busy: Callable[[], bool]) -> None:
        self._clock: Any = clock  # deferLater asks for Twisted's zope interface
        self._busy = busy
        self._open: set[Deferred[None]] = set()

    def stop(self) -> None:
        """End all streams; their browsers connect again."""
        for serving in list(self._open):
            serving.cancel()

    async def serve(self, request: Request, interval_s: float, read: ReadParts) -> None:
        """
        Send the parts of a page while it is open.

        :raises TooManyRequests: too many pages are open.
        """
        if len(self._open) >= MOST:
            raise TooManyRequests("open pages", ALIVE_S)
        gone = request.notifyFinish()
        serving = Deferred.fromCoroutine(self._serve(request, interval_s, read))
        self._open.add(serving)
        gone.addBoth(lambda _: serving.cancel())
        try:
            await serving
        except CancelledError:
            pass
        finally:
            self._open.discard(serving)
            if request.channel is not None:
                request.unregisterProducer()
                request.finish()

    async def _serve(self, request: Request, interval_s: float, read: ReadParts) -> None:
        request.setResponseCode(200)
        request.setHeader(b"date", datetimeToString())
        request.setHeader(b"content-type", b"text/event-stream; charset=utf-8")
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"x-accel-buffering", b"no")
        for name, value in SAFE_HEADERS:
            request.setHeader(name, value)
        reader = _Reader()
        request.registerProducer(reader, True)
        request.write(b"retry: 2000\n\n")
        async for event in self._events(interval_s, read, reader):
            request.write(event)

    async def _events(
        self, interval_s: float, read: ReadParts, reader: _Reader
    ) -> AsyncIterator[bytes]:
        sent: dict[str, str] = {}
        began_at = written_at = self._clock.seconds()
        while (now := self._clock.seconds()) < began_at + LONGEST_S:
            if reader.reads and not self._busy():
                try:
                    parts = await read()
                except DatabaseDown:  # the page stays as it is until it is back
                    parts = {}
                if parts is None:
                    yield b"event: over\ndata: \n\n"
                    return
                changed = {id: html for id, html in parts.items() if sent.get(id) != html}
                for id, html in changed.items():
                    yield _event(id, html)
                sent.update(changed)
                if changed:
                    written_at = now
                elif now >= written_at + ALIVE_S:
                    written_at = now
                    yield b": alive\n\n"
            await deferLater(self._clock, interval_s)


def _event(id: str, html: str) -> bytes:
    data = json.dumps({"id": id, "html": html})
    return f"event: part\ndata: {data}\n\n".encode("ascii")
