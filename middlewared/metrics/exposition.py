"""
``GET /metrics`` in Prometheus' text format, on its own port.

A scrape occupies the reactor for at most the time in which one metric's label sets are read
(some milliseconds for a full metric), since a phone's answer may be waiting.
"""

# Most of twisted.web has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import attrs
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import CooperativeTask, Cooperator, TaskFinished, TaskStopped
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from middlewared.clock import Clock

SAMPLES_AT_A_TIME = 100


class MetricsResource(Resource):
    """
    The resource of the metrics port: ``/metrics``, and nothing else.

    It writes all metrics of a registry, one piece in each turn of the reactor.
    """

    isLeaf = True
    log = Logger()

    def __init__(self, *, registry: CollectorRegistry, clock: Clock) -> None:
        super().__init__()
        self._registry = registry
        self._cooperator = Cooperator(
            terminationPredicateFactory=lambda: lambda: True,
            scheduler=lambda turn: clock.callLater(0, turn),
        )

    def render(self, request: Request) -> int | bytes:
        """Serve one scrape."""
        if request.path.rstrip(b"/") != b"/metrics":
            return _refusal(request, 404)
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return _refusal(request, 405)
        request.setHeader(b"content-type", CONTENT_TYPE_PLAIN_0_0_4.encode())
        writing = self._cooperator.cooperate(request.write(piece) for piece in self._pieces())
        written: Deferred[Any] = writing.whenDone()
        written.addCallbacks(lambda _: _finish(request), self._failed, errbackArgs=(request,))
        request.notifyFinish().addErrback(lambda _: _stop(writing))
        request.registerProducer(_Scrape(writing), True)
        return NOT_DONE_YET

    def _pieces(self) -> Iterator[bytes]:
        for family in self._registry.collect():
            yield from exposition(family)

    def _failed(self, failure: Failure, request: Request) -> None:
        if failure.check(TaskStopped) is None:
            self.log.failure("cannot write the metrics", failure)
            request.loseConnection()


@implementer(IPushProducer)
@attrs.frozen
class _Scrape:
    """Pauses the writing of a scrape while its client does not read."""

    _writing: CooperativeTask[Any]

    def pauseProducing(self) -> None:
        with suppress(TaskFinished):
            self._writing.pause()

    def resumeProducing(self) -> None:
        with suppress(TaskFinished):
            self._writing.resume()

    def stopProducing(self) -> None:
        _stop(self._writing)


def _finish(request: Request) -> None:
    request.unregisterProducer()
    request.finish()


def _stop(writing: CooperativeTask[Any]) -> None:
    with suppress(TaskFinished):
        writing.stop()


def _refusal(request: Request, code: int) -> bytes:
    request.setResponseCode(code)
    request.setHeader(b"content-type", b"text/plain")
    return f"{code}: only GET /metrics is served here.\n".encode()


def exposition(family: Metric) -> Iterator[bytes]:
    """The text of one metric, ``SAMPLES_AT_A_TIME`` a piece; the first one begins with its head."""
    samples = family.samples
    for start in range(0, max(1, len(samples)), SAMPLES_AT_A_TIME):
        part = Metric(family.name, family.documentation, family.type)
        part.samples = samples[start : start + SAMPLES_AT_A_TIME]
        text = generate_latest(_SingleMetric(part))
        yield text if start == 0 else text.split(b"\n", 2)[2]  # without HELP and TYPE


@attrs.frozen
class _SingleMetric(Collector):
    metric: Metric

    def collect(self) -> list[Metric]:
        return [self.metric]
