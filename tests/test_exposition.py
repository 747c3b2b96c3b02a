"""GET /metrics, over a real connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import treq
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.registry import Collector
from twisted.internet import reactor as installed_reactor
from twisted.internet.base import DelayedCall
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed
from twisted.web.server import NOT_DONE_YET
from twisted.web.test.requesthelper import DummyRequest

from middlewared.metrics.exposition import MetricsResource, exposition
from middlewared.web.site import internal_site

reactor: Any = installed_reactor


class _Broken(Collector):
    def collect(self) -> list[Any]:
        raise RuntimeError("no")

    def describe(self) -> list[Any]:
        return []


def large_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    counter = Counter("a_total", "A", ["x"], registry=registry)
    histogram = Histogram("h_seconds", "H", ["x"], registry=registry)
    for i in range(250):
        counter.labels(str(i)).inc(i)
        histogram.labels(str(i)).observe(i)
    return registry


class ExpositionTests(SynchronousTestCase):
    def test_the_pieces_together_are_the_whole(self) -> None:
        """Each metric has its head once, whatever its size."""
        registry = large_registry()
        pieces = [piece for family in registry.collect() for piece in exposition(family)]
        self.assertGreater(len(pieces), 10)
        created = [line for line in generate_latest(registry).splitlines() if b"_created" in line]
        lines = [line for line in b"".join(pieces).splitlines() if b"_created" not in line]
        whole = [line for line in generate_latest(registry).splitlines() if line not in created]
        self.assertEqual(whole, lines)


class Turns:
    """A clock whose turns are taken one by one; task.Clock takes all that are due."""

    def __init__(self) -> None:
        self.due: list[Callable[[], object]] = []

    def seconds(self) -> float:
        return 0.0

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> DelayedCall:
        self.due.append(callable)
        return DelayedCall(0, callable, (), {}, lambda _: self.due.clear(), lambda _: None)

    def turn(self) -> None:
        due, self.due = self.due, []
        for callable in due:
            callable()


class SlowRequest(DummyRequest):
    """A request whose client may stop reading; DummyRequest knows pull producers alone."""

    producer: Any = None

    def registerProducer(self, prod: Any, s: bool) -> None:
        assert s
        self.producer = prod

    def unregisterProducer(self) -> None:
        self.producer = None


class ScrapeTests(SynchronousTestCase):
    def scrape(self) -> tuple[Turns, Any]:
        turns = Turns()
        request: Any = SlowRequest([])
        request.path = b"/metrics"
        resource = MetricsResource(registry=large_registry(), clock=turns)
        self.assertEqual(NOT_DONE_YET, resource.render(request))
        return turns, request

    def test_it_leaves_the_reactor_between_pieces(self) -> None:
        """At most one piece in each turn, so that calls come in between."""
        turns, request = self.scrape()
        taken = 0
        while not request.finished:
            written = len(request.written)
            turns.turn()
            self.assertLessEqual(len(request.written), written + 1)
            taken += 1
        self.assertGreater(taken, 10)

    def test_a_scraper_that_does_not_read_is_waited_for(self) -> None:
        """Nothing is written while it does not read, and all of it once it does."""
        turns, request = self.scrape()
        turns.turn()
        request.producer.pauseProducing()
        turns.turn()
        written = len(request.written)
        turns.turn()
        self.assertEqual((written, []), (len(request.written), turns.due))
        request.producer.resumeProducing()
        while not request.finished:
            turns.turn()
        self.assertGreater(len(request.written), 10)
        self.assertIsNone(request.producer)

    def test_a_scraper_that_hangs_up_ends_its_scrape(self) -> None:
        """Nothing is written to a connection that is gone, and nothing is left scheduled."""
        turns, request = self.scrape()
        turns.turn()
        written = len(request.written)
        request.processingFailed(Failure(ConnectionDone()))
        turns.turn()
        self.assertEqual((written, []), (len(request.written), turns.due))


class MetricsPortTests(TestCase):
    def serve(self, registry: CollectorRegistry) -> str:
        resource = MetricsResource(registry=registry, clock=reactor)
        site: Any = internal_site(resource=resource, clock=reactor)
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.pool = HTTPConnectionPool(reactor, persistent=False)
        self.addCleanup(self.pool.closeCachedConnections)
        return f"http://127.0.0.1:{port.getHost().port}"

    async def request(self, method: str, url: str) -> tuple[int, bytes, str]:
        client = treq.client.HTTPClient(cast("Any", Agent(reactor, pool=self.pool)))
        response = await client.request(method, url)
        kind = response.headers.getRawHeaders("content-type", [""])[0]
        return response.code, await response.content(), kind

    async def test_it_serves_the_text_format(self) -> None:
        """With the content type that Prometheus expects."""
        registry = large_registry()
        url = self.serve(registry)
        code, body, kind = await self.request("GET", f"{url}/metrics")
        self.assertEqual((200, "text/plain; version=0.0.4; charset=utf-8"), (code, kind))
        self.assertIn(b'\na_total{x="249"} 249.0\n', body)

    async def test_it_serves_nothing_else(self) -> None:
        """Other paths are 404, other methods 405."""
        url = self.serve(CollectorRegistry())
        self.assertEqual(404, (await self.request("GET", f"{url}/"))[0])
        self.assertEqual(404, (await self.request("GET", f"{url}/x"))[0])
        self.assertEqual(405, (await self.request("POST", f"{url}/metrics"))[0])

    async def test_a_collector_that_fails_closes_the_connection(self) -> None:
        """A torn scrape is not taken for a whole one."""
        registry = large_registry()
        registry.register(_Broken())
        url = self.serve(registry)
        with self.assertRaises(ResponseFailed):
            await self.request("GET", f"{url}/metrics")
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
