"""The files of deploy/ fit together: names, ports, paths, times, and the ini files in them."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from middlewared.config import Config
from middlewared.service.configuration import read_all
from middlewared.service.daemon import CLOSING_S
from middlewared.simulator.certificates import write_provider_key, write_service_account
from tests.checks import made_folder

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "deploy" / "compose"
KUBERNETES = ROOT / "deploy" / "kubernetes"
BRAND = {("com.example.phone", "apns"), ("com.example.phone", "android")}
APP_ROUTES = re.compile(r"acl of_apps path_reg \^(\S+)\(/\|\$\)")


class DeployTestCase(SynchronousTestCase):
    """Reads ini files as in a container, whose files are below a folder of the test."""

    def setUp(self) -> None:
        self.inside = made_folder(self)

    def put(self, path: str, text: str) -> None:
        """A file at ``path`` of the container."""
        for absolute in ("/etc/middlewared/", "/run/secrets/", "/var/lib/middlewared/"):
            text = text.replace(absolute, f"{self.inside}{absolute}")
        here = self.at(path)
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_text(text)

    def put_credentials(self, path: str) -> None:
        """Those that the examples of brands name."""
        self.at(path).mkdir(parents=True)
        for name, content in credentials().items():
            (self.at(path) / name).write_bytes(content)

    def at(self, path: str) -> Path:
        return self.inside / path.lstrip("/")

    def assert_brand(self, config: Config) -> None:
        """The example of a brand was read."""
        self.assertEqual({(app, platform.value) for app, platform in config.apps}, BRAND)


class ImageTests(DeployTestCase):
    """deploy/Containerfile and what it copies."""

    def setUp(self) -> None:
        super().setUp()
        self.steps = (ROOT / "deploy" / "Containerfile").read_text()

    def test_its_own_ini_file_is_right(self) -> None:
        """A container without any mount starts, and its exposed ports are where it listens."""
        path = "/etc/middlewared/middlewared.ini"
        self.put(path, (ROOT / "deploy" / "middlewared.ini").read_text())
        self.at("/var/lib/middlewared").mkdir(parents=True)
        config = read_all(self.at(path))
        self.assertEqual(config.warnings, ())
        exposed = re.findall(r"(?m)^EXPOSE (.+)$", self.steps)
        self.assertEqual(exposed, [" ".join(map(str, ports(config)))])
        self.assertIn(f'"{path}"]', self.steps)

    def test_what_it_copies_is_in_the_context(self) -> None:
        """.dockerignore lets through what is copied from the checkout, and nothing else."""
        copied = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", self.steps)
        wanted = {name for names in copied for name in names.split()}
        lines = (ROOT / ".dockerignore").read_text().splitlines()
        through = {line[1:].split("/plugins")[0] for line in lines if line.startswith("!")}
        self.assertEqual(through, wanted)
        self.assertIn("*", lines)


class ComposeTests(DeployTestCase):
    """deploy/compose: the program itself checks the file in tests/operations/image.sh."""

    def setUp(self) -> None:
        super().setUp()
        self.file = document(COMPOSE / "compose.yaml")
        self.services = self.file["services"]
        etc = COMPOSE / "etc"
        for name in ("middlewared.ini", "conf.d/brand.ini.example"):
            self.put(f"/etc/middlewared/{name}".removesuffix(".example"), (etc / name).read_text())
        self.put_credentials("/etc/middlewared/certs")
        for name in ("accounts", "console"):
            self.put(f"/etc/middlewared/{name}", "")
        for name in self.services["middlewared-1"]["secrets"]:
            self.put(f"/run/secrets/{name}", "f00d")
        self.config = read_all(self.at("/etc/middlewared/middlewared.ini"))

    def test_the_ini_file_is_right(self) -> None:
        """With the example of a brand; secrets come from the files that the service mounts."""
        self.assert_brand(self.config)
        self.assertIn("f00d", self.config.database.url)
        self.assertEqual(self.config.redis.password, "f00d")

    def test_peers_are_services(self) -> None:
        """The hosts that the ini file names are services, and start before the daemons."""
        hosts = {host for host, _ in self.config.redis.nodes}
        hosts |= set(re.findall(r"@([^/?]+)/", self.config.database.url))
        self.assertEqual(hosts, set(self.services["middlewared-1"]["depends_on"]))
        self.assertLessEqual(hosts, set(self.services))

    def test_haproxy_knows_its_peers(self) -> None:
        """Addresses of the shipped haproxy.cfg are those of the services; daemons trust it."""
        shipped = (ROOT / "etc" / "haproxy" / "haproxy.cfg").read_text()
        code = re.sub(r"(?m)#.*$", "", shipped)
        network = self.file["networks"]["default"]["ipam"]["config"][0]["subnet"]
        prefix = network.removesuffix("0/24")
        command = self.services["haproxy"]["command"][2]
        self.assertIn(rf"s/10\.0\.0\./{prefix}/g", command)
        addresses = {
            name: address
            for name, address in self.addresses().items()
            if name in {"haproxy", "middlewared-1", "middlewared-2"}
        }
        named = set(re.findall(r"\b10\.0\.0\.\d+", code))
        self.assertEqual(
            {each.replace("10.0.0.", prefix) for each in named}, set(addresses.values())
        )
        (proxy,) = self.config.http.trusted_proxies
        self.assertEqual(str(proxy), f"{addresses['haproxy']}/32")
        phones, pbxs, _ = ports(self.config)
        self.assertEqual(
            set(re.findall(r"server \S+ [\d.]+:(\d+)", code)), {str(phones), str(pbxs)}
        )
        certificate = self.services["haproxy"]["secrets"][0]["target"]
        self.assertIn(f"crt {certificate} ", code)

    def addresses(self) -> dict[str, str]:
        """The address of each service, which has one."""
        return {
            name: service["networks"]["default"]["ipv4_address"]
            for name, service in self.services.items()
        }

    def test_no_service_takes_the_address_of_another(self) -> None:
        """Each has its own: one that is given any address may get that of HAProxy."""
        addresses = self.addresses().values()
        self.assertEqual(len(set(addresses)), len(self.services))

    def test_published_ports_are_listened_at(self) -> None:
        """Only phones may come from everywhere; all other ports are of the loopback address."""
        published = {
            name: set(map(str, service.get("ports", ()))) for name, service in self.services.items()
        }
        self.assertEqual(published["haproxy"], {"443:443", "127.0.0.1:8081:8081"})
        console = port_of(self.config.admin.listen[0])
        self.assertEqual(published["middlewared-1"], {f"127.0.0.1:{console}:{console}"})
        others = set().union(*(ports for name, ports in published.items() if name != "haproxy"))
        self.assertEqual({each for each in others if not each.startswith("127.0.0.1:")}, set())

    def test_files_are_there(self) -> None:
        """Every file that a service mounts exists, or secrets.sh makes it."""
        made = (COMPOSE / "secrets.sh").read_text()
        for secret in self.file["secrets"].values():
            self.assertIn(Path(secret["file"]).name, made)
        for service in self.services.values():
            for mount in service.get("volumes", ()):
                source = mount.split(":")[0]
                if source not in self.file["volumes"]:
                    self.assertTrue((COMPOSE / source).exists(), source)

    def test_there_is_time_to_drain(self) -> None:
        """SIGKILL does not come before the drain is over."""
        for name in ("middlewared-1", "middlewared-2"):
            given = float(self.services[name]["stop_grace_period"].removesuffix("s"))
            self.assertGreater(given, drain_s(self.config))

    def test_prometheus_scrapes_all_daemons(self) -> None:
        """At [metrics] listen, and HAProxy; the shipped rules are beside its configuration."""
        prometheus = document(COMPOSE / "prometheus.yml")
        job, balancer = prometheus["scrape_configs"]
        (exporter,) = (each["targets"][0] for each in balancer["static_configs"])
        address = self.services["haproxy"]["networks"]["default"]["ipv4_address"]
        self.assertIn(f"{address}:8405", self.services["haproxy"]["command"][2])
        self.assertEqual(exporter, "haproxy:8405")
        daemons = [name for name in self.services if name.startswith("middlewared-")]
        port = ports(self.config)[2]
        targets = [f"{name}:{port}" for name in daemons]
        self.assertEqual(job["static_configs"], [{"targets": targets}])
        mounted = [each.split(":")[1] for each in self.services["prometheus"]["volumes"]]
        for rules in prometheus["rule_files"]:
            self.assertIn(f"/etc/prometheus/{rules}", mounted)

    def test_grafana_is_provisioned(self) -> None:
        """With Prometheus, and the shipped dashboard where the provider looks for it."""
        (source,) = document(COMPOSE / "grafana" / "datasources.yaml")["datasources"]
        self.assertEqual(source["url"], "http://prometheus:9090")
        (provider,) = document(COMPOSE / "grafana" / "dashboards.yaml")["providers"]
        folder = provider["options"]["path"]
        self.assertIn(f"../../etc/grafana:{folder}:ro", self.services["grafana"]["volumes"])

    def test_secrets_are_files(self) -> None:
        """No password stands in the file itself."""
        text = (COMPOSE / "compose.yaml").read_text()
        for key, value in re.findall(r"(?mi)^ *(\S*(?:password|secret)\S*): (\S+)", text):
            self.assertTrue(value.startswith(("/run/secrets/", "[")), key)


class KubernetesTests(DeployTestCase):
    """deploy/kubernetes; tests/operations/image.sh compares it with Kubernetes' schemas."""

    def setUp(self) -> None:
        super().setUp()
        names = document(KUBERNETES / "kustomization.yaml")["resources"]
        self.names = set(names)
        self.objects = {
            (each["kind"], each["metadata"]["name"]): each
            for name in names
            for each in yaml.safe_load_all((KUBERNETES / name).read_text())
        }
        self.pod = self.objects["Deployment", "middlewared"]["spec"]["template"]
        (self.container,) = self.pod["spec"]["containers"]
        self.mounted: dict[str, str] = {
            each["name"]: each["mountPath"] for each in self.container["volumeMounts"]
        }
        for volume in self.pod["spec"]["volumes"]:
            if "configMap" in volume:
                files = self.objects["ConfigMap", volume["configMap"]["name"]]["data"]
                for name, text in files.items():
                    self.put(f"{self.mounted[volume['name']]}/{name}", text)
        for name in ("database", "redis"):
            self.put(f"{self.mounted['secrets']}/{name}", "f00d")
        self.put_credentials(self.mounted["certs"])
        self.config = read_all(self.at(self.container["args"][-1]))

    def test_all_files_are_resources(self) -> None:
        """``kubectl apply -k`` applies every file."""
        files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
        self.assertEqual(self.names, files)

    def test_the_ini_file_is_right(self) -> None:
        """As pods mount it, with a brand and with secrets from files, without a warning."""
        self.assert_brand(self.config)
        self.assertIn("f00d", self.config.database.url)
        self.assertEqual(self.config.redis.password, "f00d")
        self.assertEqual(self.config.warnings, ())

    def test_volumes_are_mounted(self) -> None:
        """Each once, all but data read-only."""
        self.assertEqual({each["name"] for each in self.pod["spec"]["volumes"]}, set(self.mounted))
        writable = [
            each["name"] for each in self.container["volumeMounts"] if not each.get("readOnly")
        ]
        self.assertEqual(writable, ["data"])

    def test_ports_are_listened_at(self) -> None:
        """The container's ports are those of the ini file."""
        named = {each["name"]: each["containerPort"] for each in self.container["ports"]}
        phones, pbxs, metrics = ports(self.config)
        self.assertEqual(named, {"http": phones, "pbx": pbxs, "metrics": metrics})

    def test_selectors_find_the_pods(self) -> None:
        """Services, budget, policy and spread select the Deployment's pods."""
        labels = self.pod["metadata"]["labels"]
        deployment = self.objects["Deployment", "middlewared"]["spec"]
        (spread,) = self.pod["spec"]["topologySpreadConstraints"]
        selectors = [
            deployment["selector"]["matchLabels"],
            spread["labelSelector"]["matchLabels"],
            self.objects["Service", "middlewared"]["spec"]["selector"],
            self.objects["Service", "middlewared-pbx"]["spec"]["selector"],
            self.objects["PodDisruptionBudget", "middlewared"]["spec"]["selector"]["matchLabels"],
            self.objects["NetworkPolicy", "middlewared"]["spec"]["podSelector"]["matchLabels"],
        ]
        self.assertEqual(selectors, [labels] * len(selectors))

    def test_ports_are_named(self) -> None:
        """Services, probes, policy, Ingress and monitor use ports by names that exist."""
        ours = {each["name"] for each in self.container["ports"]}
        services = [self.objects["Service", name] for name in ("middlewared", "middlewared-pbx")]
        served = [port["targetPort"] for each in services for port in each["spec"]["ports"]]
        self.assertEqual(sorted(served), sorted(ours))
        probes = [self.container[f"{kind}Probe"]["httpGet"] for kind in ("readiness", "liveness")]
        self.assertEqual([each["port"] for each in probes], ["http", "http"])
        rules = self.objects["NetworkPolicy", "middlewared"]["spec"]["ingress"]
        allowed = [port["port"] for rule in rules for port in rule["ports"]]
        self.assertEqual(sorted(allowed), sorted(ours))
        (endpoint,) = self.objects["ServiceMonitor", "middlewared"]["spec"]["endpoints"]
        self.assertIn(endpoint["port"], {each["name"] for each in services[0]["spec"]["ports"]})
        monitored = self.objects["ServiceMonitor", "middlewared"]["spec"]["selector"]["matchLabels"]
        self.assertEqual(monitored, services[0]["metadata"]["labels"])

    def test_pbxs_are_the_same_everywhere(self) -> None:
        """Who may connect to pbx_listen may place calls."""
        rules = self.objects["NetworkPolicy", "middlewared"]["spec"]["ingress"]
        blocks = [peer["ipBlock"]["cidr"] for r in rules for peer in r["from"] if "ipBlock" in peer]
        self.assertEqual(blocks, list(map(str, self.config.http.pbx_networks)))

    def test_phones_reach_what_haproxy_lets_through(self) -> None:
        """The Ingress has the routes of apps, and none of PBXs."""
        (rule,) = self.objects["Ingress", "middlewared"]["spec"]["rules"]
        paths = [each["path"] for each in rule["http"]["paths"]]
        acl = APP_ROUTES.search((ROOT / "etc" / "haproxy" / "haproxy.cfg").read_text())
        assert acl is not None
        self.assertEqual([each for each in paths if not re.fullmatch(acl[1], each)], [])
        self.assertEqual(len(set(paths)), 7)
        self.assertIn(f"//{rule['host']}/", self.config.calls.response_api)

    def test_there_is_time_to_drain(self) -> None:
        """preStop, the drain and the closing are over before SIGKILL; no wait is cut."""
        before = float(self.container["lifecycle"]["preStop"]["exec"]["command"][1])
        given = self.pod["spec"]["terminationGracePeriodSeconds"]
        self.assertGreaterEqual(given, before + drain_s(self.config) + CLOSING_S)
        self.assertGreater(self.config.calls.drain_s, self.config.calls.roundtrip_wait_s)

    def test_no_probe_ends_a_daemon_that_only_waits(self) -> None:
        """Liveness does not ask /health/, which is 503 while a daemon starts or drains."""
        self.assertNotIn("/health", self.container["livenessProbe"]["httpGet"]["path"])
        self.assertEqual(self.container["readinessProbe"]["httpGet"]["path"], "/health/")
        self.assertEqual(self.container["startupProbe"]["exec"]["command"], ["healthcheck"])

    def test_pods_are_unprivileged(self) -> None:
        """The image's user, read-only, without capabilities, token or escalation."""
        steps = (ROOT / "deploy" / "Containerfile").read_text()
        user = self.pod["spec"]["securityContext"]["runAsUser"]
        self.assertIn(f"USER {user}:{user}\n", steps)
        self.assertEqual(self.pod["spec"]["securityContext"]["fsGroup"], user)
        self.assertIs(self.pod["spec"]["automountServiceAccountToken"], False)
        context = self.container["securityContext"]
        self.assertEqual(
            (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]), (True, False)
        )
        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})


@cache
def credentials() -> dict[str, bytes]:
    """Apple's key and Google's service account, made once, by the names of their files."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_provider_key(folder, key_id="ABCDE12345")
        write_service_account(folder, token_uri="https://oauth2.example", name="firebase")
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def document(path: Path) -> dict[str, Any]:
    """The only document of a file."""
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def port_of(endpoint: str) -> int:
    """The port of ``tcp:PORT``."""
    return int(endpoint.split(":")[1])


def ports(config: Config) -> tuple[int, int, int]:
    """Where phones, PBXs and Prometheus connect."""
    (phones,), (pbxs,), (metrics,) = (
        *(config.http.listen, config.http.pbx_listen),
        config.metrics.listen,
    )
    return port_of(phones), port_of(pbxs), port_of(metrics)


def drain_s(config: Config) -> float:
    """Seconds from SIGTERM until the last call is over."""
    return config.calls.drain_notice_s + config.calls.drain_s
