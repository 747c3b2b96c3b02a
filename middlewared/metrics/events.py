"""
Counters and histograms of events.

To add one: make it in a ``_make`` method of :class:`Metrics`, count it in a method below, and
call that where the event happens. Describe it in docs/metrics.md, without which
tests/test_operations_files.py fails, and in CHANGELOG.md. Its test is in tests/test_metrics.py.

What happens to a call is counted after the reply to the PBX: as a field of one of the classes
of ``Ended`` (``calls/ringing.py``: ``EndedCall`` is made in ``_wake``, ``EndedRequest`` in
``_hold``), which ``calls/call_log.py`` counts (``_record_call``, ``_record_request``; its test:
tests/test_calls_log.py). What its pushes did is in ``EndedCall.waking``. In ``calls/``, only
``overload.py`` counts directly. Requests are counted by ``web/root.py``, when the reply has been
written, pushes by ``push/instrumented.py``.
"""

from __future__ import annotations

import platform as python_platform
from collections.abc import Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from middlewared import __version__
from middlewared.booleans import parse_boolean
from middlewared.metrics.bounded_labels import OTHER, Bounded, BoundedCounter, BoundedHistogram
from middlewared.metrics.gauges import Gauges, Sources
from middlewared.model import DeviceKind, Outcome, Platform
from middlewared.push.interface import PushResult, Uncertain

NONE = "none"
"""App and platform in the labels of a call without a device, and a PBX without a section."""

_DEVICE = ("os", "os_version")
_CALL = ("app_version", "connection_type", "direction", "network", "network_operator", *_DEVICE)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
# As the predecessor's dashboards expect them.
_NO_ANSWER = {
    Outcome.UNAVAILABLE: "Device not available",
    Outcome.TIMEOUT: "Unable to get response from phone",
}
_ACK_BUCKETS_S = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0),
)
_WAKEUP_BUCKETS_S = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_PUSH_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 4.0, 8.0)
_LATE_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
_PING_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_HTTP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """
    Counts events: one method for each, called by the room in which it happens.

    :ivar registry: all metrics, for the exposition.
    :ivar sources: of the gauges; set once the parts they read exist.
    """

    def __init__(self) -> None:
        # A global switch of the client library: otherwise each time series has a second one
        # with its creation time, which no one reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.sources = Sources()
        self._make_predecessor()
        self._make_calls()
        self._make_pushes()
        self._make_http()
        self._make_overload()
        self._make_history()
        Info("middlewared_build", "What runs here", registry=self.registry).info(
            {"version": __version__, "python": python_platform.python_version()}
        )
        self.registry.register(Gauges(lambda: self.sources))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def _counter(self, name: str, help_text: str, labels: Sequence[str]) -> Bounded[BoundedCounter]:
        return Bounded(BoundedCounter(name, help_text, labels, registry=self.registry), len(labels))

    def _histogram(
        self, name: str, help_text: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> Bounded[BoundedHistogram]:
        made = BoundedHistogram(name, help_text, labels, registry=self.registry, buckets=buckets)
        return Bounded(made, len(labels))

    def _make_predecessor(self) -> None:
        counter = self._counter
        self._success_labels = (*_CALL, "codec", "mos")
        self._failure_labels = (*_CALL, "failed_reason")
        self._hangup_labels = (*_CALL, "hangup_reason")
        self._call_success = counter(
            "vialer_call_success_total", "Calls apps reported as set up", self._success_labels
        )
        self._call_failure = counter(
            "vialer_call_failure_total", "Calls apps reported as failed", self._failure_labels
        )
        self._hangup_reason = counter(
            "vialer_hangup_reason_total",
            "Reasons apps reported for hanging up",
            self._hangup_labels,
        )
        self._push_success = counter(
            "vialer_middleware_push_notification_success_total",
            "Calls whose device is available",
            ("direction", "os"),
        )
        self._push_failed = counter(
            "vialer_middleware_push_notification_failed_total",
            "Calls whose device refused, or did not answer in time",
            ("direction", "failed_reason", "os"),
        )
        self._incoming_success = counter(
            "vialer_middleware_incoming_call_success_total",
            "Calls whose device was found",
            ("action", "os"),
        )
        self._incoming_failed = counter(
            "vialer_middleware_incoming_call_failed_total",
            "Calls to accounts without a device",
            ("action", "failed_reason", "os"),
        )

    def _make_calls(self) -> None:
        self._calls = self._counter(
            "middlewared_calls_total", "Ended calls", ("app", "platform", "outcome")
        )
        self._answers = self._counter(
            "middlewared_answers_total",
            "Answers of phones, by the number of pushes that had been accepted by then",
            ("platform", "attempt"),
        )
        self._late_answers = self._counter(
            "middlewared_late_answers_total",
            "Answers that came after their call had timed out",
            ("app", "platform"),
        )
        self._late_seconds = Histogram(
            "middlewared_late_answer_seconds",
            "From the time-out of a call to its late answer",
            registry=self.registry,
            buckets=_LATE_BUCKETS_S,
        )
        self._wakeup = self._histogram(
            "middlewared_wakeup_seconds",
            "From the accepted push to the phone's answer",
            ("app", "platform"),
            _WAKEUP_BUCKETS_S,
        )
        self._answer_to_ack = Histogram(
            "middlewared_answer_to_ack_seconds",
            "From the phone's answer to the reply to the PBX",
            registry=self.registry,
            buckets=_ACK_BUCKETS_S,
        )

    def _make_pushes(self) -> None:
        self._pushes = self._counter(
            "middlewared_pushes_total",
            "Pushes by the verdict of the provider",
            ("app", "platform", "result", "reason"),
        )
        self._uncertain = self._counter(
            "middlewared_uncertain_pushes_total",
            "Pushes that were sent but got no status; they may have been delivered",
            ("app", "platform"),
        )
        self._push_seconds = self._histogram(
            "middlewared_push_seconds",
            "From sending a push to the provider's verdict",
            ("platform", "result"),
            _PUSH_BUCKETS_S,
        )
        self._ping_seconds = self._histogram(
            "middlewared_provider_ping_seconds",
            "Round-trip time of HTTP/2 PINGs to a provider",
            ("app", "environment"),
            _PING_BUCKETS_S,
        )

    def _make_http(self) -> None:
        self._requests = self._counter(
            "middlewared_http_requests_total", "Answered requests", ("route", "method", "code")
        )
        self._pbx_requests = self._counter(
            "middlewared_pbx_requests_total",
            "Requests of PBXs to place or cancel a call",
            ("pbx", "outcome"),
        )
        self._request_seconds = self._histogram(
            "middlewared_http_request_seconds",
            "From a request to its response, including the wait of a held call",
            ("route",),
            _HTTP_BUCKETS_S,
        )

    def _make_history(self) -> None:
        self._history_lost = Counter(
            "middlewared_history_lost_total",
            "Rows of the history that were dropped while the database was away or too slow",
            registry=self.registry,
        )

    def _make_overload(self) -> None:
        self._shed = Counter(
            "middlewared_calls_shed_total",
            "Calls refused because of overload",
            registry=self.registry,
        )
        self._loop_lag = Histogram(
            "middlewared_loop_lag_seconds",
            "Longest iteration of the event loop in each tenth of a second with work",
            registry=self.registry,
            buckets=_LAG_BUCKETS_S,
        )

    def call_ended(self, kind: DeviceKind | None, outcome: Outcome | None) -> None:
        """
        A call has ended.

        :param kind: of its device; None: it had none.
        :param outcome: None: the PBX hung up, which calls_total does not count.
        """
        app, name = (kind.app, kind.platform.value) if kind is not None else (NONE, NONE)
        if outcome is not None:
            self._calls.of(app, name, outcome.value).inc()
        if kind is None:
            if outcome is Outcome.NO_DEVICE:
                self._incoming_failed.of("Received", "failed no sip_user_id", "Middleware").inc()
            return
        self._incoming_success.of("Received", "Middleware").inc()
        if outcome is Outcome.ANSWERED:
            self._push_success.of("Incoming", name).inc()
        elif outcome is not None and (reason := _NO_ANSWER.get(outcome)):
            self._push_failed.of("Incoming", reason, name).inc()

    def calls_shed(self, count: int) -> None:
        """``count`` calls were refused because of overload."""
        self._shed.inc(count)
        self._calls.of(NONE, NONE, Outcome.OVERLOADED.value).inc(count)

    def history_lost(self, rows: int) -> None:
        """``rows`` of the history were dropped."""
        self._history_lost.inc(rows)

    def loop_lag(self, seconds: float) -> None:
        """The longest iteration of the event loop in a tenth of a second with work."""
        self._loop_lag.observe(seconds)

    def woken(self, kind: DeviceKind, seconds: float) -> None:
        """A phone answered ``seconds`` after the provider had accepted its push."""
        self._wakeup.of(kind.app, kind.platform.value).observe(seconds)

    def answered(self, platform: Platform, attempt: int) -> None:
        """A phone answered after the provider had accepted ``attempt`` pushes."""
        self._answers.of(platform.value, str(attempt)).inc()

    def late_answer(self, kind: DeviceKind, seconds: float) -> None:
        """A phone answered ``seconds`` after its call had timed out."""
        self._late_answers.of(kind.app, kind.platform.value).inc()
        self._late_seconds.observe(seconds)

    def passed_on(self, seconds: float) -> None:
        """A PBX got an answer ``seconds`` after it had arrived."""
        self._answer_to_ack.observe(seconds)

    def push_sent(self, app: str, platform: Platform, result: PushResult, seconds: float) -> None:
        """A push of an app had this result, after ``seconds``."""
        if isinstance(result, Uncertain):
            self._uncertain.of(app, platform.value).inc()
        self._pushes.of(app, platform.value, result.label, result.reason).inc()
        self._push_seconds.of(platform.value, result.label).observe(seconds)

    def provider_ping(self, app: str, environment: str, seconds: float) -> None:
        """A PING to a provider was answered after ``seconds``."""
        self._ping_seconds.of(app, environment).observe(seconds)

    def http_request(self, route: str, method: str, code: int, seconds: float) -> None:
        """A request was answered; ``route`` is the endpoint's name, not the path."""
        self._requests.of(route, method if method in _METHODS else OTHER, str(code)).inc()
        self._request_seconds.of(route).observe(seconds)

    def pbx_request(self, pbx: str, outcome: Outcome) -> None:
        """A PBX's request was answered; ``pbx``: the name of its section; "": it has none."""
        self._pbx_requests.of(pbx or NONE, outcome.value).inc()

    def report(self, fields: Mapping[str, str]) -> None:
        """An app's report to /api/log-metrics/: a hangup, a success, a failure, or neither."""
        set_up = parse_boolean(fields.get("call_setup_successful", ""))
        if fields.get("hangup_reason"):
            self._hangup_reason.of(*_values(fields, self._hangup_labels)).inc()
        elif set_up:
            self._call_success.of(*_values(fields, self._success_labels)).inc()
        elif set_up is False or fields.get("failed_reason"):
            self._call_failure.of(*_values(fields, self._failure_labels)).inc()


def _values(fields: Mapping[str, str], labels: Sequence[str]) -> list[str]:
    """The report's values in the order of ``labels``; WiFi has no operator."""
    on_wifi = fields.get("network", "").lower().replace("-", "") == "wifi"
    return [
        "" if on_wifi and label == "network_operator" else fields.get(label, "") for label in labels
    ]
