"""What is counted, and that neither labels nor a scrape can be made to grow."""

from __future__ import annotations

import shutil
import subprocess

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from middlewared import __version__
from middlewared.metrics import Metrics, Sources
from middlewared.metrics.bounded_labels import Bounded, BoundedCounter, BoundedHistogram
from middlewared.model import DeviceKind, Outcome, Platform
from middlewared.push.interface import Accepted, Temporary

REPORT = {
    "os": "Android",
    "os_version": "14",
    "app_version": "7.1",
    "network": "4G",
    "network_operator": "KPN",
    "direction": "incoming",
    "connection_type": "TLS",
    "codec": "opus",
    "mos": "4.2",
}


class MetricsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics()

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def label_sets(self, name: str) -> list[dict[str, str]]:
        text = generate_latest(self.metrics.registry).decode()
        families = text_string_to_metric_families(text)
        return [s.labels for f in families for s in f.samples if s.name == name]


class CallTests(MetricsCase):
    def test_each_call_counts_with_platform_and_outcome(self) -> None:
        """middlewared_calls_total has the words of model."""
        self.metrics.call_ended(DeviceKind("an-app", Platform.GCM), Outcome.TOKEN_DEAD)
        self.metrics.call_ended(None, Outcome.OVERLOADED)
        self.assertEqual(
            1,
            self.value(
                "middlewared_calls_total", app="an-app", platform="gcm", outcome="token-dead"
            ),
        )
        self.assertEqual(
            1,
            self.value(
                "middlewared_calls_total", app="none", platform="none", outcome="overloaded"
            ),
        )

    def test_a_call_whose_device_was_found_is_an_incoming_success(self) -> None:
        """However it ends; a call that was not taken counts neither way."""
        self.metrics.call_ended(DeviceKind("an-app", Platform.APNS), Outcome.TIMEOUT)
        self.metrics.call_ended(None, Outcome.DRAINING)
        name = "vialer_middleware_incoming_call_success_total"
        self.assertEqual(1, self.value(name, action="Received", os="Middleware"))
        self.assertEqual([], self.label_sets("vialer_middleware_incoming_call_failed_total"))

    def test_a_call_without_a_device_is_an_incoming_failure(self) -> None:
        """With the predecessor's reason."""
        self.metrics.call_ended(None, Outcome.NO_DEVICE)
        name = "vialer_middleware_incoming_call_failed_total"
        labels = {"action": "Received", "failed_reason": "failed no sip_user_id"}
        self.assertEqual(1, self.value(name, os="Middleware", **labels))

    def test_an_ack_is_a_push_success(self) -> None:
        """os is the platform."""
        self.metrics.call_ended(DeviceKind("an-app", Platform.ANDROID), Outcome.ANSWERED)
        name = "vialer_middleware_push_notification_success_total"
        self.assertEqual(1, self.value(name, direction="Incoming", os="android"))

    def test_a_refusal_and_a_timeout_are_push_failures(self) -> None:
        """With the predecessor's reasons; no other outcome is one."""
        for outcome in Outcome:
            if outcome is not Outcome.ANSWERED:
                self.metrics.call_ended(DeviceKind("an-app", Platform.APNS), outcome)
        found = self.label_sets("vialer_middleware_push_notification_failed_total")
        reasons = {"Device not available", "Unable to get response from phone"}
        self.assertEqual(reasons, {labels["failed_reason"] for labels in found})
        self.assertEqual({("Incoming", "apns")}, {(x["direction"], x["os"]) for x in found})

    def test_answers_are_timed(self) -> None:
        """From half a millisecond to the ACK, up to ten seconds to wake."""
        self.metrics.woken(DeviceKind("an-app", Platform.APNS), 9.0)
        self.metrics.passed_on(0.0004)
        self.metrics.passed_on(0.002)
        self.assertEqual(1, self.value("middlewared_answer_to_ack_seconds_bucket", le="0.0005"))
        self.assertEqual(2, self.value("middlewared_answer_to_ack_seconds_count"))
        name = "middlewared_wakeup_seconds_bucket"
        labels = {"app": "an-app", "platform": "apns"}
        self.assertEqual(0, self.value(name, **labels, le="8.0"))
        self.assertEqual(1, self.value(name, **labels, le="10.0"))


class PushAndRequestTests(MetricsCase):
    def test_pushes_are_counted_and_timed(self) -> None:
        """By app, platform and verdict."""
        self.metrics.push_sent("a", Platform.APNS, Temporary("Shutdown"), 0.1)
        labels = {"platform": "apns", "result": "temporary"}
        self.assertEqual(
            1, self.value("middlewared_pushes_total", app="a", reason="Shutdown", **labels)
        )
        self.assertEqual(0.1, self.value("middlewared_push_seconds_sum", **labels))

    def test_requests_are_counted_and_timed(self) -> None:
        """By route, method and status; an unknown method is other."""
        self.metrics.http_request("health", "GET", 200, 0.5)
        self.metrics.http_request("health", "X" * 9, 405, 0.5)
        name = "middlewared_http_requests_total"
        self.assertEqual(1, self.value(name, route="health", method="GET", code="200"))
        self.assertEqual(1, self.value(name, route="health", method="other", code="405"))
        self.assertEqual(1.0, self.value("middlewared_http_request_seconds_sum", route="health"))


class ReportTests(MetricsCase):
    def counted(self, **fields: str) -> dict[str, dict[str, str]]:
        """Which counters a report has moved, with their labels."""
        self.metrics = Metrics()
        self.metrics.report(fields)
        names = ("vialer_call_success", "vialer_call_failure", "vialer_hangup_reason")
        found = {name: self.label_sets(f"{name}_total") for name in names}
        return {name: labels[0] for name, labels in found.items() if labels}

    def test_a_success(self) -> None:
        """call_setup_successful true, in any of the words for it."""
        for word in ("true", "True", "1", "yes"):
            found = self.counted(**REPORT, call_setup_successful=word, failed_reason="x")
            self.assertEqual({"vialer_call_success": REPORT}, found)

    def test_a_failure(self) -> None:
        """call_setup_successful false, with or without a reason, or a reason alone."""
        rest = {k: v for k, v in REPORT.items() if k not in ("codec", "mos")}
        for extra in (
            {"call_setup_successful": "false"},
            {"call_setup_successful": "False", "failed_reason": "AUDIO_RX"},
            {"failed_reason": "AUDIO_RX"},
        ):
            expected = {**rest, "failed_reason": extra.get("failed_reason", "")}
            self.assertEqual({"vialer_call_failure": expected}, self.counted(**REPORT, **extra))

    def test_a_hangup(self) -> None:
        """hangup_reason goes before everything else."""
        rest = {k: v for k, v in REPORT.items() if k not in ("codec", "mos")}
        extra = {"hangup_reason": "user", "call_setup_successful": "true"}
        expected = {**rest, "hangup_reason": "user"}
        self.assertEqual({"vialer_hangup_reason": expected}, self.counted(**REPORT, **extra))

    def test_a_report_of_a_received_push_counts_nowhere(self) -> None:
        """Neither success nor failure nor hangup."""
        self.assertEqual({}, self.counted(**REPORT, call_setup_successful="", app_status="x"))

    def test_there_is_no_operator_on_wifi(self) -> None:
        """network_operator is empty then, however WiFi is written."""
        for network in ("WiFi", "wifi", "Wi-Fi"):
            found = self.counted(
                network=network, network_operator="KPN", call_setup_successful="true"
            )
            self.assertEqual("", found["vialer_call_success"]["network_operator"])


class BoundTests(MetricsCase):
    def test_a_metric_keeps_a_thousand_label_sets(self) -> None:
        """The rest is counted in one set whose labels are all other."""
        for i in range(3000):
            self.metrics.report({"os_version": str(i), "hangup_reason": "user"})
        found = self.label_sets("vialer_hangup_reason_total")
        self.assertEqual(1000, len(found))
        other = [labels for labels in found if set(labels.values()) == {"other"}]
        self.assertEqual(2001, self.value("vialer_hangup_reason_total", **other[0]))

    def push(self, app: object) -> None:
        self.metrics.push_sent(str(app), Platform.GCM, Accepted(), 0.1)

    def pushes(self, app: object, **labels: str) -> float | None:
        labels = {"platform": "gcm", "result": "accepted", "reason": "", **labels}
        return self.value("middlewared_pushes_total", app=str(app), **labels)

    def test_sets_in_use_go_on_counting_when_it_is_full(self) -> None:
        """A flood of labels does not take away what is used meanwhile."""
        for i in range(3000):
            self.push(i)
            if i % 500 == 0:
                self.push("ours")
        self.assertEqual(6, self.pushes("ours"))

    def test_the_set_not_used_for_the_longest_time_gives_up_its_place(self) -> None:
        """The newest is counted by itself, and the old one as part of other."""
        for i in (*range(999), *range(500), "new"):
            self.push(i)
        self.assertEqual(1, self.pushes("new"))
        self.assertEqual((2, 2), (self.pushes(0), self.pushes(499)))
        self.assertIsNone(self.pushes(500))
        self.assertEqual(1, self.pushes(501))
        self.push(500)
        self.assertEqual(1, self.pushes(500))
        self.assertIsNone(self.pushes(501))
        other = dict.fromkeys(("platform", "result", "reason"), "other")
        self.assertEqual(2, self.pushes("other", **other))

    @given(st.lists(st.integers(0, 12), max_size=60))
    def test_places_are_given_up_in_the_order_of_use(self, uses: list[int]) -> None:
        """Whatever the order; and the sum of all sets is what was counted."""
        counter = BoundedCounter("c", "", ["n"], registry=None)
        bounded = Bounded(counter, 1, most_sets=5)
        for number in uses:
            bounded.of(str(number)).inc()
        latest = [str(number) for number in dict.fromkeys(reversed(uses))]
        (family,) = counter.collect()
        counted = {sample.labels["n"]: sample.value for sample in family.samples}
        kept = {name for name in counted if name != "other"}
        self.assertEqual(set(latest[:4]), kept)
        self.assertEqual(len(latest) > 4, "other" in counted)
        self.assertEqual(len(uses), sum(counted.values()))

    def test_a_histogram_keeps_all_it_has_observed(self) -> None:
        """Count, sum and each bucket of a set that gave up its place."""
        histogram = BoundedHistogram("h", "", ["n"], registry=None, buckets=(1, 2, 3))
        bounded = Bounded(histogram, 1, most_sets=3)
        for name, seconds in (("a", 0.5), ("a", 2.5), ("b", 9.0), ("c", 1.5), ("d", 1.5)):
            bounded.of(name).observe(seconds)
        (family,) = histogram.collect()
        found = {
            (sample.name, sample.labels.get("le")): sample.value
            for sample in family.samples
            if sample.labels["n"] == "other"
        }
        self.assertEqual(
            {
                ("h_bucket", "1.0"): 1,
                ("h_bucket", "2.0"): 1,
                ("h_bucket", "3.0"): 2,
                ("h_bucket", "+Inf"): 3,
                ("h_count", None): 3,
                ("h_sum", None): 12.0,
            },
            found,
        )
        self.assertEqual({"c", "d", "other"}, {s.labels["n"] for s in family.samples})

    def test_a_set_of_labels_that_are_other_is_the_common_one(self) -> None:
        """Whatever its origin, it is never evicted."""
        bounded = Bounded(counter := BoundedCounter("c", "", ["n"], registry=None), 1, most_sets=3)
        for name in ("other", "a", "b", "c", "d"):
            bounded.of(name).inc()
        (family,) = counter.collect()
        found = {sample.labels["n"]: sample.value for sample in family.samples}
        self.assertEqual({"other": 3, "c": 1, "d": 1}, found)

    def test_labels_are_cut_at_64_characters(self) -> None:
        """What is equal up to there is one set."""
        for tail in ("", "b", "bc"):
            self.metrics.report({"os": "é" * 64 + tail, "hangup_reason": "user"})
        (labels,) = self.label_sets("vialer_hangup_reason_total")
        self.assertEqual("é" * 64, labels["os"])

    @given(st.dictionaries(st.sampled_from([*REPORT, "hangup_reason"]), st.text()))
    def test_any_text_can_be_scraped(self, fields: dict[str, str]) -> None:
        """Quotes, line ends and lone surrogates do not break the text format."""
        self.metrics.report({**fields, "hangup_reason": "\ud800"})
        text = generate_latest(self.metrics.registry).decode()
        list(text_string_to_metric_families(text))


class PingTests(MetricsCase):
    def test_round_trips_by_app_and_environment(self) -> None:
        """A histogram of the PINGs to a provider."""
        for seconds in (0.021, 0.56):
            self.metrics.provider_ping("a", "sandbox", seconds)
        name, labels = "middlewared_provider_ping_seconds", {"app": "a", "environment": "sandbox"}
        self.assertEqual(2, self.value(f"{name}_count", **labels))
        self.assertEqual(1, self.value(f"{name}_bucket", le="0.03", **labels))


class GaugeTests(MetricsCase):
    def test_gauges_are_read_at_the_scrape(self) -> None:
        """From whatever the sources are then."""
        waiting = [3]
        self.metrics.sources = Sources(
            waiting=lambda: waiting[0],
            apns_connections=lambda: {("a", "production", "ready"): 2},
            provider_connections=lambda: {("a", "fcm", "ready"): 4},
            credential_expiry=lambda: {("a", Platform.APNS): 1.9e9},
            dependencies=lambda: {"database": True, "redis": False},
        )
        waiting[0] = 5
        self.assertEqual(5, self.value("middlewared_calls_waiting"))
        labels = {"app": "a", "environment": "production", "state": "ready"}
        self.assertEqual(2, self.value("middlewared_apns_connections", **labels))
        labels["environment"] = "fcm"
        self.assertEqual(4, self.value("middlewared_provider_connections", **labels))
        name = "middlewared_credential_expiry_timestamp_seconds"
        self.assertEqual(1.9e9, self.value(name, app="a", platform="apns"))
        for dependency, up in (("database", 1), ("redis", 0)):
            self.assertEqual(up, self.value("middlewared_dependency_up", dependency=dependency))

    def test_a_source_that_fails_costs_its_own_gauge_only(self) -> None:
        """The scrape goes on, and the log names it."""
        self.metrics.sources = Sources(waiting=lambda: 1 // 0)
        self.assertIsNone(self.value("middlewared_calls_waiting"))
        self.assertIn(b"middlewared_build_info", generate_latest(self.metrics.registry))
        self.assertEqual(2, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_build_process_and_python_are_shown(self) -> None:
        """The usual ones of every Python service."""
        text = generate_latest(self.metrics.registry).decode()
        self.assertIn(f'version="{__version__}"', text)
        for name in ("process_resident_memory_bytes", "process_open_fds", "python_info"):
            self.assertIn(f"\n{name}", text)


class LintTests(MetricsCase):
    def test_names_pass_promtool(self) -> None:
        """Where promtool is installed, its linter reports nothing."""
        self.metrics.call_ended(DeviceKind("an-app", Platform.APNS), Outcome.ANSWERED)
        self.metrics.report({**REPORT, "hangup_reason": "user"})
        promtool = shutil.which("promtool")
        if promtool is not None:
            checked = subprocess.run(
                [promtool, "check", "metrics"],
                input=generate_latest(self.metrics.registry),
                capture_output=True,
            )
            self.assertEqual((0, b""), (checked.returncode, checked.stdout + checked.stderr))
