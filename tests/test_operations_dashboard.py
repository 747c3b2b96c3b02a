"""The shipped dashboard, and alerts on phones, pushes and HAProxy, over one set of real servers."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Iterator
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from middlewared.background import Background
from middlewared.console.search_parameters import call_search
from middlewared.demo.stage import free_port
from middlewared.simulator.apple.faults import ResetStream, rejection
from middlewared.simulator.generations import FLUTTER_ANDROID, FLUTTER_IOS
from middlewared.simulator.phone import Phone, Reaction
from middlewared.simulator.scripts import Delay
from tests.prometheus import PATIENCE_S, PROMETHEUS, RULES, PrometheusTestCase
from tests.pushing import FIRST_ACCOUNT, Apple

clock: Any = reactor
ETC = RULES.parent.parent
DASHBOARD = json.loads((ETC / "grafana" / "middlewared.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
NOTES = {note["name"]: note["expr"] for note in DASHBOARD["annotations"]["list"] if "expr" in note}
HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CHOICES = {"instance": ".*", "app": r"com\\.example\\..*|none", "platform": "apns|android|none"}
WAIT_MS = 1600
LATE_S = 2.0
SLOW_S = 1.2


def chosen(query: str, choices: dict[str, str]) -> str:
    """A query as Grafana sends it, with these values of the variables."""
    query = query.replace("$__rate_interval", "10s")
    return re.sub(r"\$(\w+)", lambda found: choices[found[1]], query)


def every(node: Any, key: str) -> Iterator[Any]:
    """All values of a key, however deep."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from every(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from every(value, key)


class DashboardTests(SynchronousTestCase):
    """What Grafana reads of etc/grafana/middlewared.json."""

    def test_every_variable_is_defined(self) -> None:
        """Those of queries and links; Grafana's own begin with two underscores."""
        defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
        used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD)))
        self.assertEqual(used, defined)

    def test_every_alert_has_a_panel(self) -> None:
        """A panel links to its paragraph of the manual, and to no other page."""
        alerts = re.findall(r"alert: (\S+)", RULES.read_text())
        links = [link for panel in PANELS for link in panel.get("links", ())]
        known = {name: f"${{manual}}docs/alerts.md#{name.lower()}" for name in alerts}
        known["Alerts"] = "${manual}docs/alerts.md"
        self.assertEqual({link["title"]: link["url"] for link in links}, known)

    def test_thresholds_are_those_of_the_alerts(self) -> None:
        """Each but 0 and 1, which need none, stands in the rule of an alert that is linked."""
        rules = dict(re.findall(r"(?s)alert: (\S+)(.*?)\n {8}labels:", RULES.read_text()))
        for panel in PANELS:
            found = {step["value"] for steps in every(panel, "steps") for step in steps}
            linked = " ".join(
                rules[each["title"]] for each in panel.get("links", ()) if each["title"] in rules
            )
            written = re.findall(r"[<>]=? ([\d. *]+\d)", linked)
            numbers = {math.prod(map(float, number.split("*"))) for number in written}
            self.assertLessEqual(found - {None, 0, 1}, numbers, panel["title"])

    def test_links_to_the_console_are_searches(self) -> None:
        """Their parameters are those that the console knows, from labels of the series."""
        urls = [url for url in every(DASHBOARD, "url") if url.startswith("${console}/calls?")]
        self.assertGreater(len(urls), 3)
        values = {"app": "com.example.phone", "platform": "apns", "outcome": "answered"}
        for url in urls:
            query = url.partition("?")[2]
            fields = dict(re.findall(r"(\w+)=\$\{__field\.labels\.(\w+)\}", query))
            self.assertEqual(set(fields), set(fields.values()))
            call_search({name: values[name] for name in fields})


class PanelTests(PrometheusTestCase):
    """A daemon with phones of each kind, and HAProxy in front of it."""

    calls = (
        f"roundtrip_wait_ms = {WAIT_MS}\nresend_interval_ms = 1000\n"
        f"silent_calls = 2\nsilent_wait_ms = {WAIT_MS}\n"
    )
    connections = 1
    is_calling = True

    async def test_calls_of_every_kind(self) -> None:
        """Each fault of phones, pushes, daemon and HAProxy fires its alert; each panel has data."""
        if PROMETHEUS is None or HAPROXY is None:
            return
        main, refused, dead = [await self.apple(name) for name in ("main", "refused", "dead")]
        refused.server.scripts.for_all(rejection("TopicDisallowed"))
        await self.start()
        phones = await self.phones_of_every_kind(main)
        phones.append(await self.phone(FLUTTER_IOS, refused))
        dying = [await self.phone(FLUTTER_IOS, dead) for _ in range(14)]
        dead.server.scripts.for_all(rejection("Unregistered"))
        await self.restart_with_silent_phones(phones)
        exporter = self.start_haproxy(HAPROXY)
        await self.watch(self.daemons[0], exporter)
        calling = Background()
        for phone in phones:
            calling.run(self.keep_calling(phone))
        for phone in dying:
            calling.run(self.place(phone))
        calling.run(self.keep_reporting())
        try:
            await self.until_fired(
                "MiddlewaredPushConfigFault",
                "MiddlewaredPushErrors",
                "MiddlewaredUncertainPushes",
                "MiddlewaredTokensSuspect",
                "MiddlewaredTokenRemovalsPaused",
                "MiddlewaredSlowPush",
                "MiddlewaredAppDoesNotWake",
                "MiddlewaredPhonesDoNotWake",
                "MiddlewaredLateAnswers",
                "MiddlewaredSilentDevices",
                "MiddlewaredServerDown",
            )
            await self.until_all_have_data()
        finally:
            self.is_calling = False
            await calling.finish()
        await self.daemons[0].stop()
        await self.until_fired("MiddlewaredBackendDown")
        await self.haproxy.kill()
        await self.until_fired("MiddlewaredBalancerDown")
        self.assertNotIn("MiddlewaredNoAppleConnection", self.seen)

    async def phones_of_every_kind(self, main: Apple) -> list[Phone]:
        """Phones that answer, late or not at all, and such that Apple does odd things to."""
        script = main.server.scripts.for_token
        at_once, never = Reaction(0.05), Reaction(available=None)
        slow, slower, failing, suspect, uncertain = [
            await self.phone(FLUTTER_IOS, main, at_once) for _ in range(5)
        ]
        script(slow.token, Delay(SLOW_S))
        script(slower.token, Delay(SLOW_S + 0.1))
        script(failing.token, rejection("ServiceUnavailable"))
        script(suspect.token, rejection("BadDeviceToken"))
        script(uncertain.token, ResetStream(2))
        return [
            slow,
            slower,
            failing,
            suspect,
            uncertain,
            await self.phone(FLUTTER_IOS, main, at_once),
            *[await self.phone(FLUTTER_IOS, main, Reaction(LATE_S)) for _ in range(3)],
            *[await self.phone(FLUTTER_IOS, main, never) for _ in range(2)],
            await self.phone(FLUTTER_ANDROID, None, at_once),
        ]

    async def restart_with_silent_phones(self, phones: list[Phone]) -> None:
        """Make phones silent, and the daemon count them: it does at its start."""
        silent = [phone for phone in phones if phone.reaction.available is None]
        # More of them than 20 % of all devices.
        silent += [
            await self.phone(FLUTTER_IOS, self.apples[0], Reaction(available=None))
            for _ in range(6)
        ]
        for _ in range(2):
            outcomes = await self.outcomes(*map(self.call, silent))
            self.assertEqual(set(outcomes), {"timeout"})
        await self.daemons[0].stop()
        (config,) = self.directory.glob("daemon0.ini")
        self.daemons = [await self.start_daemon(config.read_text(), config.name)]
        self.lead_to(0)

    def start_haproxy(self, program: str) -> str:
        """With the shipped configuration, and a second daemon that is not there; its exporter."""
        text = (ETC / "haproxy" / "haproxy.cfg").read_text()
        exporter = f"127.0.0.1:{free_port()}"
        for old, new in (
            (r"    (log /dev/log .*|log global|chroot .*|stats .*|user .*|group .*|daemon)\n", ""),
            ("maxconn 40000", "maxconn 4000"),  # what file descriptors allow
            (r"bind :443 .*", f"bind 127.0.0.1:{free_port()}"),
            (r"bind 10\.0\.0\.5:8081", f"bind 127.0.0.1:{free_port()}"),
            (r"bind 127\.0\.0\.1:8405", f"bind {exporter}"),
            (r"10\.0\.0\.11:808[01]", self.daemons[0].addresses["http"]),
            (r"10\.0\.0\.12:808[01]", f"127.0.0.1:{free_port()}"),
        ):
            self.assertRegex(text, old)
            text = re.sub(old, new, text)
        (self.directory / "haproxy.cfg").write_text(text)
        self.haproxy = self.run_program(program, "-db", "-f", "haproxy.cfg")
        return exporter

    async def place(self, phone: Phone) -> None:
        """A call, however it ends."""
        await self.call(phone)

    async def keep_calling(self, phone: Phone) -> None:
        """Call a phone until ``is_calling`` is over."""
        while self.is_calling:
            await self.call(phone)
            await deferLater(clock, 0.3)

    async def keep_reporting(self) -> None:
        """Report calls as apps do, and place calls to an account without a device."""
        account = str(FIRST_ACCOUNT)
        while self.is_calling:
            for fields in (
                {"call_setup_successful": "true"},
                {"call_setup_successful": "false", "failed_reason": "DECLINED"},
                {"hangup_reason": "caller"},
            ):
                answered = await self.client.post(
                    f"{self.url}/api/log-metrics/",
                    data={"os": "Android", "sip_user_id": account, **fields},
                    auth=(account, "any"),
                )
                self.assertEqual(answered.code, 200)
            await self.post(
                self.daemons[0].url("/api/incoming-call/"), sip_user_id="123456789", phonenumber="1"
            )
            await deferLater(clock, 4)  # an account may report 60 times a minute

    async def until_all_have_data(self) -> None:
        """Each query of each panel, annotation and variable, with everything and a choice."""
        for variable, wanted in (("app", {"com.example.main"}), ("platform", {"apns", "android"})):
            (query,) = [v for v in DASHBOARD["templating"]["list"] if v["name"] == variable]
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", query["query"])
            assert found is not None
            samples = await self.query(chosen(found[1], {**CHOICES, "app": ".*"}))
            self.assertLessEqual(wanted, {sample["metric"][found[2]] for sample in samples})
        missing = [target["expr"] for panel in PANELS for target in panel["targets"]]
        missing.append(NOTES["Starts"])
        give_up_at = clock.seconds() + PATIENCE_S
        while missing := [each for each in missing if not await self.has_data(each)]:
            if clock.seconds() > give_up_at:
                self.fail(f"no data: {missing}")
            await deferLater(clock, 0.5)
        config = self.directory / "daemon0.ini"
        while not await self.has_data(NOTES["Reloads"]):
            self.daemons[0].signal(signal.SIGHUP)
            await deferLater(clock, 0.5)
        config.write_text(f"{config.read_text()}[nonsense]\n")
        self.daemons[0].signal(signal.SIGHUP)
        while not await self.has_data(f"{NOTES['Reloads that failed']} > 0"):
            await deferLater(clock, 0.2)

    async def has_data(self, query: str) -> bool:
        """Whether a query has any figure now."""
        return bool(await self.query(chosen(query, CHOICES)))
