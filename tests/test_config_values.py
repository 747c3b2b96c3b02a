"""What each kind of setting accepts and refuses, and what must hold between settings."""

from __future__ import annotations

import re
from ipaddress import ip_network

from middlewared.config import (
    AndroidApp,
    AppleApp,
    KamailioSettings,
    PbxSettings,
    read_config,
)
from middlewared.errors import ConfigError
from middlewared.model import Platform
from tests.test_config_reader import APPLE, ConfigCase

# Phones come through a proxy on another host.
PROXIED = "[http]\nlisten=tcp:8080\n"


class KindTests(ConfigCase):
    def assert_refused(self, section: str, key: str, *values: str) -> None:
        """Each of ``values`` gives one problem, at this section and key."""
        for value in values:
            self.assert_one_problem(f"[{section}]\n{key} = {value}\n", f"[{section}] {key}: ")

    def test_numbers_have_ranges(self) -> None:
        """Whole numbers in ASCII digits; 0 only where it has a meaning."""
        self.assert_refused(
            "http", "max_body_bytes", "", "0", "-1", "1.5", "1e3", "1_0", "٣", "x", "9" * 99
        )
        for section, key in (
            ("http", "max_connections"),
            ("http", "request_timeout_ms"),
            ("calls", "max_waiting"),
            ("database", "pool_size"),
            ("calls", "roundtrip_wait_ms"),
        ):
            self.assert_refused(section, key, "0", str(10**17))

    def test_zero_is_taken_where_it_means_something(self) -> None:
        """drain_ms, drain_notice_ms, cache_ms and device_cache_ms may be 0."""
        config = self.read(
            "[calls]\ndrain_ms=0\ndrain_notice_ms=0\n[accounts]\ncache_ms=0\n[database]\ndevice_cache_ms=0\n"
        )
        self.assertEqual((0, 0), (config.calls.drain_s, config.database.device_cache_s))

    def test_admin(self) -> None:
        """The console is off by default; its file is relative to the ini file."""
        self.assertEqual(self.read("").admin.listen, ())
        text = "[admin]\nlisten=tcp:1:interface=127.0.0.1\nhtpasswd=users\noperators=a, b c\n"
        admin = self.read(text).admin
        self.assertEqual(admin.operators, ("a", "b", "c"))
        self.assertTrue(str(admin.htpasswd).endswith("/users"))
        self.assert_one_problem("[admin]\nlisten=tcp:1\n", "[admin] htpasswd: must name a file")
        warnings = [each.line() for each in self.read("[admin]\nlisten=tcp:1\nhtpasswd=x").warnings]
        self.assertIn("[admin] listen: tcp:1 is no TLS", " ".join(warnings))
        self.assertNotIn("[admin]", " ".join(each.line() for each in self.read(text).warnings))

    def test_history(self) -> None:
        """days may be 0, which switches it off; numbers is one of three words."""
        history = self.read("[history]\ndays = 0\nmax_calls = 5\nnumbers = None\n").history
        self.assertEqual((history.days, history.max_calls, history.numbers), (0, 5, "none"))
        self.assert_refused("history", "days", "", "-1", "3651", "1.5")
        self.assert_refused("history", "max_calls", "0", "x")
        self.assert_refused("history", "numbers", "", "last4", "yes")

    def test_booleans(self) -> None:
        """yes and no, and configparser's other words, in any case."""
        for word in ("yes", "True", "on", "1"):
            self.assertTrue(self.read(f"[redis]\ntls = {word}\n").redis.tls)
        for word in ("no", "FALSE", "off", "0"):
            self.assertFalse(self.read(f"[redis]\ntls = {word}\n").redis.tls)
        self.assert_refused("redis", "tls", "", "y", "2", "maybe")

    def test_networks(self) -> None:
        """IPv4 and IPv6 networks and addresses; each invalid entry is reported."""
        text = "[http]\ntrusted_proxies = 10.0.0.0/8,::1,\n fe80::/10 192.0.2.1\n"
        expected = tuple(map(ip_network, ("10.0.0.0/8", "::1", "fe80::/10", "192.0.2.1")))
        self.assertEqual(expected, self.read(text).http.trusted_proxies)
        unix = self.read("[http]\npbx_networks = 10.0.0.0/8, unix\ntrusted_proxies = Unix\n").http
        self.assertEqual((ip_network("10.0.0.0/8"), "unix"), unix.pbx_networks)
        self.assertEqual(("unix",), unix.trusted_proxies)
        self.assert_refused(
            "http", "pbx_networks", "10.0.0.0/33", "10.0.0.1/8", "host", "1", "::1/129"
        )
        self.assert_one_problem(
            "[http]\npbx_networks = x, ::1, 10.0.0.1/8\n",
            "entry 1 must",
            "entry 3 must",
            "host bits",
        )

    def test_pattern_of_accounts(self) -> None:
        """Python's regular expressions; what is none is refused."""
        pattern = self.read("[accounts]\nsip_user_id_pattern = [0-9]+@pbx\n").accounts
        self.assertEqual(pattern.sip_user_id_pattern, re.compile("[0-9]+@pbx"))
        self.assertIsNone(self.read("").accounts.sip_user_id_pattern)
        self.assert_refused("accounts", "sip_user_id_pattern", "[", "(", "*", "(?P<x")

    def test_urls(self) -> None:
        """Absolute, with a host and a valid port, without user, blanks or fragment."""
        wrong = (
            "http://",
            "/x",
            "h:80",
            "ftp://h/",
            "http://h:x/",
            "http://h:0/",
            "http://h:70000/",
        )
        worse = (
            "http://a b/",
            "http://h/#f",
            "http://u@h/",
            "http://[::1/",
            "http://h\\x/",
            "http://é/",
        )
        self.assert_refused("calls", "response_api", "", *wrong, *worse)
        self.assert_refused("accounts", "base_url", "https://h/?q=1")
        self.assertEqual(
            "https://h", self.read("[accounts]\nbase_url=https://h\n").accounts.base_url
        )

    def test_apple_takes_https_only(self) -> None:
        """Apple's URLs are never plain."""
        for key in ("production_url", "sandbox_url"):
            self.assert_one_problem(
                f"{APPLE}{key} = http://h/\n", f"[app:com.x:apns] {key}: ", "https://"
            )

    def test_paths_of_urls(self) -> None:
        """profile_path begins with exactly one slash."""
        self.assert_refused("accounts", "profile_path", "", "x", "//h/x", "/a b", "/a#b")

    def test_proxy_urls(self) -> None:
        """http, host and port; user and password are allowed."""
        self.assert_refused("http_proxy", "url", "https://h:1", "http://h", "http://h:1/x", "h:1")
        self.assertEqual(
            "http://u:p@h:1", self.read("[http_proxy]\nurl=http://u:p@h:1\n").http_proxy.url
        )

    def test_database_urls(self) -> None:
        """A file for SQLite; what libpq takes, with a database's name, for PostgreSQL."""
        self.assert_refused(
            "database",
            "url",
            *("", "x", "sqlite:", "sqlite::memory:", "sqlite://h/x", "mysql://h/x", "postgresql:x"),
            *(
                "postgresql://h",
                "postgresql://h:0/d",
                "postgresql://h:1,g:99999/d",
                "postgresql://h/d?no=1",
            ),
        )
        url = "postgresql://m@db1:5432,db2:5432,db3:5432/m?target_session_attrs=read-write"
        database = self.read(f"[database]\nurl = {url}\n").database
        self.assertEqual((url, None), (database.url, database.sqlite_file))

    def test_database_urls_with_tls(self) -> None:
        """libpq knows the parameters that the operating guide recommends."""
        given = "sslmode=verify-full&sslrootcert=/r&sslcert=/c&sslkey=/k&require_auth=scram-sha-256"
        url = f"postgresql://m:%(ENV:P)s@db1,db2/m?target_session_attrs=read-write&{given}"
        read = self.read(f"[database]\nurl = {url}\n", P="x").database.url
        self.assertEqual(url.replace("%(ENV:P)s", "x"), read)

    def test_redis_nodes(self) -> None:
        """host:port, IPv6 in brackets, separated by commas."""
        redis = self.read("[redis]\ncluster=yes\nnodes = a:1, [::1]:2,b.c:65535\n").redis
        self.assertEqual((("a", 1), ("::1", 2), ("b.c", 65535)), redis.nodes)
        self.assert_refused(
            "redis", "nodes", "a", "a:0", "a:65536", "::1:2", "a:b", ":1", "redis://a:1"
        )

    def test_control_characters_are_refused(self) -> None:
        """Nothing in a key can break a header."""
        self.assert_one_problem(
            "[app:a:gcm]\napi_key = %(ENV:K)s\n",
            "[app:a:gcm] api_key: must be one line",
            K="a\r\nb",
        )

    def test_the_topic_is_the_app_id_and_voip(self) -> None:
        """Unless it is set."""
        for line, topic in (("", "com.x.voip"), ("topic =\n", "com.x.voip"), ("topic = t\n", "t")):
            app = self.read(APPLE + line).apps["com.x", Platform.APNS]
            assert isinstance(app, AppleApp)
            self.assertEqual(topic, app.topic)


class EndpointTests(ConfigCase):
    def test_descriptions_that_twisted_takes(self) -> None:
        """tcp, unix, systemd (whose sockets need not be there), plugins."""
        lines = (
            "tcp:0",
            "tcp:8080:interface=\\:\\:1",
            "tcp6:8080",
            "unix:/run/x",
            "systemd:domain=INET:index=0",
            "systemd:domain=UNIX:name=http",
            "haproxy:tcp:8081",
        )
        text = "[http]\nlisten =\n" + "".join(f"  {line}\n" for line in lines)
        self.assertEqual(lines, self.read(text).http.listen)

    def test_each_invalid_description_is_reported(self) -> None:
        """What Twisted would refuse at the start is refused now."""
        wrong = (
            *("tcp", "tcp:x", "tcp:1:foo=2", "8080", "udp:1", "tcp:99999", "tcp:1:backlog=x"),
            *(
                "systemd:domain=INET",
                "systemd:domain=FOO:index=0",
                "unix:",
                "unix:x:mode=9",
                "tcp:1\\",
            ),
        )
        text = "[http]\nlisten =\n" + "".join(f"  {line}\n" for line in ("tcp:1", *wrong))
        (found,) = self.problems(text)
        for number in range(len(wrong)):
            self.assertIn(f"entry {number + 2} must", found)

    def test_an_unusable_key_is_reported(self) -> None:
        """ssl: names files that only this endpoint reads."""
        self.assert_one_problem("[http]\nlisten = ssl:1:privateKey=no.pem\n", "No such file")
        bad = self.write("no pem")
        self.assert_one_problem(f"[http]\nlisten = ssl:1:{bad}\n", "not in PEM")

    def test_listening_nowhere_is_a_problem(self) -> None:
        """Only metrics and PBX endpoints may be empty."""
        self.assert_one_problem("[http]\nlisten =\n[metrics]\nlisten =\n", "[http] listen: ")

    def test_an_endpoint_is_named_once(self) -> None:
        """Two sections cannot listen at the same address, except at port 0."""
        self.assert_one_problem(
            "[http]\nlisten = tcp:1\npbx_listen = tcp:2\n[metrics]\nlisten = tcp:2\n",
            "[metrics] listen: tcp:2 is taken by [http] pbx_listen",
        )
        self.read("[http]\nlisten = tcp:0\n[metrics]\nlisten = tcp:0\n")


class RuleTests(ConfigCase):
    def assert_rule(self, text: str, problem: str) -> None:
        self.assert_one_problem(text, problem)

    def test_apple_needs_exactly_one_kind_of_credentials(self) -> None:
        """A certificate, or all three of key_file, key_id and team_id."""
        title, token = "app:a:apns", "key_file=k\nkey_id=ABCDE12345\nteam_id=FGHIJ67890\n"
        self.read(f"[{title}]\n{token}")
        self.assert_rule(f"[{title}]\n", f"[{title}]: must have either certificate, or")
        self.assert_rule(f"[{title}]\n{token}certificate=c\n", f"[{title}] certificate: must not")
        for key in ("key_file", "key_id", "team_id"):
            part = "".join(line for line in token.splitlines(True) if not line.startswith(key))
            self.assert_rule(f"[{title}]\n{part}", f"[{title}] {key}: must be set")

    def test_shape_of_apples_ids(self) -> None:
        """Ten capital letters and digits; file names and app ids are refused."""
        title, ids = "app:a:apns", {"key_id": "ABCDE12345", "team_id": "FGHIJ67890"}
        for key in ids:
            for wrong in ("abcde12345", "ABCDE1234", "ABCDE123456", "AuthKey_AB"):
                text = "".join(f"{k}={v}\n" for k, v in {**ids, key: wrong}.items())
                self.assert_rule(f"[{title}]\nkey_file=k\n{text}", f"[{title}] {key}: must be 10")

    def test_the_sandbox_may_have_a_key_of_its_own(self) -> None:
        """With a key for production, with its id, and only if there is a sandbox."""
        title, token = "app:a:apns", "key_file=k\nkey_id=ABCDE12345\nteam_id=FGHIJ67890\n"
        own = "sandbox_key_file=s.p8\nsandbox_key_id=KLMNO12345\n"
        app = self.read(f"[{title}]\n{token}{own}").apps["a", Platform.APNS]
        self.assertEqual(
            (app.sandbox_key_file, app.sandbox_key_id),  # type: ignore[union-attr]
            (self.folder / "s.p8", "KLMNO12345"),
        )
        for key in ("sandbox_key_file", "sandbox_key_id"):
            part = "".join(line for line in own.splitlines(True) if not line.startswith(key))
            self.assert_rule(f"[{title}]\n{token}{part}", f"[{title}] {key}: must be set")
        for text in (f"certificate=c\n{own}", f"{token}{own}sandbox_url=\n"):
            problems = self.problems(f"[{title}]\n{text}")
            self.assertEqual(len(problems), 2)
            self.assertIn(f"[{title}] sandbox_key_file: must not be set", problems[0])

    def test_the_sandbox_may_be_off(self) -> None:
        """``check`` warns about the effect; it is not a problem."""
        config = self.read(f"{APPLE}sandbox_url =\n")
        self.assertEqual(config.apps["com.x", Platform.APNS].sandbox_url, "")  # type: ignore[union-attr]
        (warning,) = (each for each in config.warnings if each.key == "sandbox_url")
        self.assertIn("is empty: devices of the sandbox (development builds) get no", warning.what)

    def test_google_needs_exactly_one_kind_of_credentials(self) -> None:
        """A service account or a legacy key; GCM a key."""
        self.assert_rule("[app:a:android]\n", "[app:a:android]: must have either")
        both = "[app:a:android]\nservice_account=s\napi_key=k\n"
        self.assert_rule(both, "[app:a:android]: must have either")
        self.assert_rule("[app:a:gcm]\n", "[app:a:gcm] api_key: must be set")

    def test_addressing_of_fcm(self) -> None:
        """There are three ways to address a device; a label has only characters Google accepts."""
        section = "[app:a:android]\nservice_account=s\n"
        (app,) = self.read(f"{section}address=FID\nanalytics_label=calls-1.%~_\n").apps.values()
        assert isinstance(app, AndroidApp)
        self.assertEqual((app.address, app.analytics_label), ("fid", "calls-1.%~_"))
        (app,) = self.read(section).apps.values()
        assert isinstance(app, AndroidApp)
        self.assertEqual((app.address, app.analytics_label), ("auto", ""))
        self.assert_rule(f"{section}address=x\n", "[app:a:android] address: must be one of")
        for label in ("two words", "x" * 51, "é"):
            self.assert_rule(
                f"{section}analytics_label={label}\n", "[app:a:android] analytics_label: must be"
            )

    def test_account_backends_need_what_they_read(self) -> None:
        """voipgrid its URL, htpasswd its file."""
        self.assert_rule("[accounts]\nbackend=voipgrid\n", "[accounts] base_url: must be set")
        self.assert_rule("[accounts]\nbackend=htpasswd\n", "[accounts] htpasswd: must name")

    def test_account_ranges_are_in_order(self) -> None:
        """The least account is not above the greatest."""
        self.assert_rule("[accounts]\nsip_user_id_min=1000000000\n", "[accounts] sip_user_id_min: ")

    def test_the_schedule_is_sane(self) -> None:
        """A wait never has hundreds of pushes; one shorter than the interval has a single one."""
        self.assert_rule(
            "[calls]\nresend_interval_ms=5\n", "[calls] resend_interval_ms: must leave at most"
        )
        for wait, interval in ((500, 1000), (29_000, 290), (2900, 29), (100, 1)):
            text = f"[calls]\nroundtrip_wait_ms={wait}\nresend_interval_ms={interval}\n"
            self.assertEqual(self.read(text).calls.roundtrip_wait_s, wait / 1000)

    def test_redis_settings_fit_together(self) -> None:
        """A cluster has seeds, a single Redis one node, a user a password."""
        self.assert_rule("[redis]\ncluster=yes\n", "[redis] nodes: ")
        self.assert_rule("[redis]\nnodes=a:1,b:1\n", "[redis] nodes: ")
        self.assert_rule("[redis]\nusername=u\n", "[redis] password: ")

    def test_redis_files_need_tls(self) -> None:
        """Without TLS they have no effect; relative paths are relative to the file."""
        for key in ("ca_file", "certificate"):
            self.assert_rule(f"[redis]\n{key}=r.pem\n", f"[redis] {key}: must not be set without")
            redis = self.read(f"[redis]\ntls=yes\n{key}=r.pem\n").redis
            self.assertEqual(self.folder / "r.pem", getattr(redis, key))

    def test_a_wrong_value_brings_no_second_problem_of_its_section(self) -> None:
        """Rules do not apply to a default that replaces an invalid value."""
        self.assert_rule(
            "[accounts]\nbackend=voipgrid\nbase_url=x\n", "[accounts] base_url: must be an"
        )


class WarningTests(ConfigCase):
    def warnings(self, text: str) -> list[str]:
        return [warning.line() for warning in self.read(text).warnings]

    def assert_warned(self, text: str, begins: str) -> None:
        (found,) = self.warnings(text)
        self.assertTrue(found.startswith(begins), found)

    def test_the_defaults_warn_of_nothing(self) -> None:
        """The built-in defaults are safe."""
        self.assertEqual((), read_config(None, {}).warnings)

    def test_open_accounts_are_warned_about(self) -> None:
        """No credentials are checked."""
        self.assert_warned("[accounts]\nbackend=open\n", "[accounts] backend: ")

    def test_no_pbx_network_is_warned_about(self) -> None:
        """An empty pbx_networks locks every PBX out."""
        self.assert_warned("[http]\npbx_networks=\n", "[http] pbx_networks: ")

    def test_plain_http_is_warned_about(self) -> None:
        """Relays and tests only."""
        self.assert_warned("[accounts]\nbase_url=http://h\n", "[accounts] base_url: ")
        api = f"{PROXIED}[calls]\nresponse_api=https://h/\n"
        for text in (
            "gcm]\napi_key=k\nurl=http://h\n",
            "android]\nservice_account=k\nurl=http://h\n",
        ):
            self.assert_warned(f"{api}[app:a:{text}", "[app:a:")
        self.assert_warned(
            f"{PROXIED}[calls]\nresponse_api=http://h/\n{APPLE}", "[calls] response_api: http"
        )

    def test_an_address_no_phone_reaches_is_warned_about(self) -> None:
        """The default response_api is of this machine alone."""
        self.assert_warned(APPLE, "[calls] response_api: is a loopback")

    def test_a_dead_public_url_is_warned_about(self) -> None:
        """Google has shut down what legacy keys are for."""
        api = f"{PROXIED}[calls]\nresponse_api=https://h/\n"
        self.assert_warned(f"{api}[app:a:gcm]\napi_key=k\n", "[app:a:gcm] url: ")
        self.assert_warned(f"{api}[app:a:android]\napi_key=k\n", "[app:a:android] url: ")
        self.assertEqual([], self.warnings(f"{api}[app:a:android]\nservice_account=s\n"))
        self.assertEqual([], self.warnings(f"{api}[app:a:gcm]\napi_key=k\nurl=https://relay/\n"))

    def test_settings_of_fcm_v1_are_warned_about_with_a_legacy_key(self) -> None:
        """The legacy protocol does not have these fields."""
        legacy = "[app:a:android]\nurl=https://relay/\napi_key=k\n"
        api = f"{PROXIED}[calls]\nresponse_api=https://h/\n"
        for key, value in (("address", "fid"), ("analytics_label", "calls")):
            self.assert_warned(f"{api}{legacy}{key}={value}\n", f"[app:a:android] {key}: has no")
            good = f"{api}[app:a:android]\nservice_account=s\n{key}={value}\n"
            self.assertEqual([], self.warnings(good))

    def test_database_password_without_tls_is_warned_about(self) -> None:
        """libpq goes on without TLS unless sslmode demands it."""
        hosts = ("10.0.0.21", "db1,127.0.0.1", "%2Frun%2Fpostgresql,db2:5433", "[2001:db8::1]")
        urls = [f"//u:geheim@{host}/m" for host in hosts]
        urls += [f"//u:geheim@db/m?sslmode={mode}" for mode in ("prefer", "allow", "disable")]
        urls += ["//u@db/m?password=geheim", "//u@db/m?passfile=/p"]
        urls += [
            "//u:geheim@localhost/m?hostaddr=10.0.0.21",
            "//u:geheim@/m?hostaddr=::1,10.0.0.21",
        ]
        for url in urls:
            text = f"[database]\nurl = postgresql:{url}\n"
            self.assert_warned(text, "[database] url: the password may go over the network")
            self.assertNotIn("geheim", str(self.warnings(text)))

    def test_database_password_that_is_safe_is_not_warned_about(self) -> None:
        """With certain TLS, on this host alone, or where there is none."""
        hosts = ("127.0.0.1", "localhost,[::1]:5433", "%2Frun%2Fpostgresql", "")
        urls = [f"//u:geheim@{host}/m" for host in hosts]
        modes = ("require", "verify-ca", "verify-full")
        urls += [f"//u:geheim@db1,db2/m?sslmode={mode}" for mode in modes]
        urls += ["//u@db/m", "//u:geheim@db/m?hostaddr=127.0.0.1"]
        urls += ["//u:geheim@a,b/m?hostaddr=127.0.0.1,127.0.0.2"]
        for url in urls:
            self.assertEqual([], self.warnings(f"[database]\nurl = postgresql:{url}\n"), url)

    def test_redis_password_without_tls_is_warned_about(self) -> None:
        """Unless every node is on this host."""
        nodes = "[redis]\npassword = geheim\ncluster = yes\nnodes = 127.0.0.1:1, {}\n"
        for node in ("10.0.0.31:6379", "redis:6379", "[2001:db8::1]:6379"):
            self.assert_warned(nodes.format(node), "[redis] tls: the password goes over")
            self.assertNotIn("geheim", str(self.warnings(nodes.format(node))))
        self.assertEqual([], self.warnings(nodes.format("localhost:1, [::1]:2, 127.0.0.2:1")))
        self.assertEqual([], self.warnings(f"{nodes.format('redis:6379')}tls = yes\n"))
        self.assertEqual([], self.warnings("[redis]\nnodes = redis:6379\n"))

    def exposure(self, http: str, *, apps: bool = True) -> list[str]:
        """The warnings about who may place calls, of a service that phones reach."""
        app = f"[calls]\nresponse_api=https://h/\n{APPLE}" if apps else ""
        return self.warnings(f"[http]\n{http}\n{app}")

    def assert_exposure(self, http: str, begins: str, has: str) -> None:
        (found,) = self.exposure(http)
        self.assertTrue(found.startswith(f"[http] {begins}: "), found)
        self.assertIn(has, found)

    def test_pbx_networks_with_strangers_are_warned_about(self) -> None:
        """The Internet, or half of it; not an organisation's own network."""
        listen = "listen = tcp:8080:interface=10.0.0.11\npbx_networks = "
        for network in ("0.0.0.0/0", "::/0", "128.0.0.0/1", "2000::/3", "192.0.0.0/8"):
            self.assert_exposure(listen + network, "pbx_networks", f"{network} includes strangers")
        for network in ("10.0.0.0/8", "fd00::/8", "198.51.0.0/16", "2001:db8::/32", "unix"):
            self.assertEqual([], self.exposure(listen + network), network)

    def test_strangers_behind_a_proxy_are_warned_about(self) -> None:
        """A port of loopback alone is open to all whom a trusted proxy forwards."""
        self.assert_exposure(
            "pbx_listen = unix:x\ntrusted_proxies = 127.0.0.1\npbx_networks = 0.0.0.0/0",
            "pbx_networks",
            "0.0.0.0/0 includes strangers",
        )
        self.assertEqual([], self.exposure("pbx_networks = 0.0.0.0/0", apps=False))

    def test_trusted_proxies_with_others_among_them_are_warned_about(self) -> None:
        """Each of them may claim to be a PBX."""
        listen = "listen = tcp:8080\npbx_networks = 10.1.0.0/24\ntrusted_proxies = "
        for network in ("0.0.0.0/0", "::/0", "10.2.0.0/16", "fd00::/48"):
            self.assert_exposure(listen + network, "trusted_proxies", f"{network} is larger than")
        for network in ("10.2.0.0/24", "10.2.0.5", "fd00::/64", "unix"):
            self.assertEqual([], self.exposure(listen + network), network)

    def test_proxy_among_the_pbxs_is_warned_about(self) -> None:
        """What it forwards without the header is its own, unless PBXs have their own port."""
        shared = "listen = tcp:8080\npbx_networks = {}\ntrusted_proxies = {}"
        for networks in (("10.0.0.0/24", "10.0.0.5"), ("127.0.0.1", "127.0.0.0/24")):
            self.assert_exposure(
                shared.format(*networks), "pbx_networks", "includes a trusted proxy"
            )
        self.assert_exposure(
            shared.format("unix", "unix"), "pbx_networks", "unix includes a trusted"
        )
        self.assertEqual([], self.exposure(shared.format("10.1.0.0/24", "10.0.0.5")))
        apart = f"pbx_listen = tcp:8081\n{shared.format('10.0.0.0/24', '10.0.0.5')}"
        self.assertEqual([], self.exposure(apart))

    def test_proxy_on_this_host_that_is_not_trusted_is_warned_about(self) -> None:
        """The default: phones come through one only, which connects from loopback."""
        for http in (
            "",
            "listen = tcp:8080:interface=\\:\\:1",
            "listen = tcp:8080:127.0.0.1",
            "listen = tcp6:8080:50:\\:\\:1",
            "listen = unix:x\npbx_networks = unix",
        ):
            self.assert_exposure(http, "pbx_networks", "phones need a proxy on this host")
        for http in (
            "listen = tcp:8080",
            "pbx_listen = tcp:8081:interface=127.0.0.1",
            "pbx_networks = 10.1.0.0/24",
            "listen = unix:x",
        ):
            self.assertEqual([], self.exposure(http), http)
        self.assertEqual([], self.exposure("", apps=False))

    def test_socket_for_everyone_is_warned_about(self) -> None:
        """Where its peers are PBXs."""
        http = "listen = tcp:8080\npbx_listen = unix:x:{}\npbx_networks = {}"
        for mode in ("mode=666", "666"):
            self.assert_exposure(http.format(mode, "unix"), "pbx_listen", "every user")
        self.assertEqual([], self.exposure(http.format("mode=666", "10.1.0.0/24")))
        self.assertEqual([], self.exposure(http.format("mode=660", "unix")))

    def test_proxy_headers_that_no_one_may_send_are_warned_about(self) -> None:
        """They would have no effect."""
        http = "listen = haproxy:tcp:8080\npbx_networks = 10.1.0.0/24\n"
        self.assert_exposure(http, "listen", "trusted_proxies")
        self.assertEqual([], self.exposure(f"{http}trusted_proxies = 10.0.0.5"))

    def test_pbx_sections_count_in_place_of_pbx_networks(self) -> None:
        """Those that need no password."""
        listen = "listen = tcp:8080:interface=10.0.0.11\n"
        (found,) = self.exposure(listen + "[pbx:a]\nnetworks = 0.0.0.0/0\n")
        self.assertTrue(found.startswith("[pbx:a] networks: 0.0.0.0/0 includes strangers"), found)
        for section in (
            "[pbx:a]\npassword = x\nnetworks = 0.0.0.0/0\n[pbx:b]\npassword = x\n",
            "[pbx:a]\nnetworks = 10.1.0.0/24\n",
        ):
            self.assertEqual([], self.exposure(listen + section))
        (found,) = self.exposure(listen + "pbx_networks = 0.0.0.0/0\n[pbx:a]\npassword = x\n")
        self.assertEqual("[http] pbx_networks: has no effect beside [pbx:NAME]", found)
        self.assertEqual([], self.exposure(f"{listen}pbx_networks =\n[pbx:a]\npassword = x\n")[1:])

    def test_each_address_that_phones_cannot_reach_is_warned_about(self) -> None:
        """That of [calls] if an app uses it, and those of apps."""
        own = f"{APPLE}response_api = https://h/\n"
        self.assertEqual([], self.exposure(f"pbx_listen = unix:x\n{own}", apps=False))
        (found,) = self.exposure(
            f"pbx_listen = unix:x\n{APPLE}response_api = https://127.0.0.1/\n", apps=False
        )
        self.assertIn("response_api: is a loopback address, which no phone can reach", found)
        (found,) = self.exposure(own, apps=False)
        self.assertIn("phones need a proxy on this host", found)

    def test_interval_of_an_app(self) -> None:
        """As that of [calls], for the longest wait of all PBXs."""
        self.assert_one_problem(
            f"{APPLE}resend_interval_ms = 39\n", "resend_interval_ms: must leave at most 100"
        )
        self.assert_one_problem(
            f"[pbx:a]\npassword = x\nroundtrip_wait_ms = 8000\n{APPLE}resend_interval_ms = 79\n",
            "resend_interval_ms: must leave at most 100",
        )
        self.assertEqual(self.read(f"{APPLE}resend_interval_ms = 40\n").warnings[1:], ())


class PbxTests(ConfigCase):
    def test_sections(self) -> None:
        """In the order of the file; what is left out is that of [calls], or no limit."""
        one, two = self.read(
            "[pbx:office-1]\nnetworks = 10.1.0.0/24, unix\n"
            "[pbx:cloud]\npassword = geheim\nroundtrip_wait_ms = 6000\nmax_calls_per_s = 50\n"
        ).pbxs
        self.assertEqual(one, PbxSettings("office-1", (ip_network("10.1.0.0/24"), "unix")))
        self.assertEqual((two.name, two.networks, two.password), ("cloud", (), "geheim"))
        self.assertEqual((two.roundtrip_wait_s, two.max_calls_per_s), (6.0, 50))
        self.assertEqual((one.roundtrip_wait_s, one.max_calls_per_s), (None, 0))
        self.assertNotIn("geheim", repr(two))

    def test_one_that_anyone_could_be_is_refused(self) -> None:
        """A section without networks and password."""
        for section in ("[pbx:a]\n", "[pbx:a]\nmax_calls_per_s = 5\n"):
            self.assert_one_problem(section, "[pbx:a]: must have networks, a password, or both")

    def test_names(self) -> None:
        """No blanks and colons: the name is the user of Basic credentials."""
        for title in ("pbx:", "pbx:a b", "pbx:a:b", f"pbx:{'x' * 65}", "pbx"):
            self.assert_one_problem(f"[{title}]\npassword = x\n", "nearest known one is [pbx:")

    def test_values(self) -> None:
        """As everywhere; a wait leaves at most as many pushes as that of [calls]."""
        for key, value in (
            ("roundtrip_wait_ms", "0"),
            ("max_calls_per_s", "-1"),
            ("networks", "x"),
            ("pasword", "x"),
        ):
            self.assert_one_problem(f"[pbx:a]\npassword = x\n{key} = {value}\n", f"[pbx:a] {key}: ")
        self.assert_one_problem(
            "[pbx:a]\npassword = x\nroundtrip_wait_ms = 200000\n", "roundtrip_wait_ms: must leave"
        )


class ErrorTests(ConfigCase):
    def test_the_error_text_is_the_problems(self) -> None:
        """One finished line for each."""
        error = self.assertRaises(ConfigError, self.read, "[log]\nlevel=x\nformat=y\n")
        self.assertEqual("\n".join(error.lines), str(error))
        self.assertEqual(2, len(error.problems))


class KamailioTests(ConfigCase):
    def test_sections(self) -> None:
        """In the order of the file; what is left out is that of [calls], or no limit."""
        one, two = self.read(
            "[kamailio:edge]\nevapi = 127.0.0.1:8448\n"
            "[kamailio:core]\nevapi = [fd00::1]:8448\nroundtrip_wait_ms = 6000\n"
            "max_calls_per_s = 50\n"
        ).kamailios
        self.assertEqual(one, KamailioSettings("edge", ("127.0.0.1", 8448)))
        self.assertEqual(two, KamailioSettings("core", ("fd00::1", 8448), 6.0, 50))

    def test_problems(self) -> None:
        """No address, one that is none, one that two have, a name that a PBX has."""
        edge = "[kamailio:edge]\nevapi = 127.0.0.1:8448\n"
        for text, what in (
            ("[kamailio:edge]\n", "[kamailio:edge] evapi: must be set"),
            ("[kamailio:edge]\nevapi = 127.0.0.1\n", "[kamailio:edge] evapi: must be host:port"),
            (f"{edge}roundtrip_wait_ms = 200000\n", "roundtrip_wait_ms: must leave"),
            (f"{edge}[kamailio:b]\nevapi = 127.0.0.1:8448\n", "evapi: is that of [kamailio:edge]"),
            (f"{edge}[pbx:edge]\npassword = x\n", "must not have the name of [pbx:edge]"),
            ("[kamailio]\n", "nearest known one is [kamailio:NAME]"),
        ):
            self.assert_one_problem(text, what)

    def test_public_address_is_warned_about(self) -> None:
        """evapi has no passwords; what a name means is not known."""
        for host, count in (
            ("8.8.8.8", 1),
            ("[2001:db9::1]", 1),
            ("10.0.0.1", 0),
            ("[::1]", 0),
            ("k1.internal", 0),
        ):
            warnings = self.read(f"[kamailio:edge]\nevapi = {host}:8448\n").warnings
            found = [each for each in warnings if each.key == "evapi"]
            self.assertEqual((host, len(found)), (host, count))
