"""``check --online`` with the account API, the database, Redis and the name server."""

from __future__ import annotations

import re
import sqlite3
from typing import Any

from twisted.internet.defer import Deferred
from twisted.protocols.portforward import ProxyFactory

from middlewared.cli.check import handshake, response_api_checks
from middlewared.cli.check.redis_checks import EVERYTHING
from middlewared.database.postgres_database import PostgresDatabase
from middlewared.database.sqlite_database import SqliteDatabase
from middlewared.demo.stage import free_port
from middlewared.devices.postgres.postgres_registry import PostgresRegistry
from middlewared.devices.sqlite.sqlite_registry import SqliteRegistry
from middlewared.rendezvous.redis import lua_scripts
from middlewared.rendezvous.redis.lua_scripts import Script
from middlewared.simulator.accounts_server import AccountsServer, redirect
from middlewared.simulator.certificates import Authority
from middlewared.simulator.http1_server import HttpReply, HttpServer, HttpStep, Received
from middlewared.simulator.listening import ListeningSocket, ServerTLS
from middlewared.simulator.scripts import Stall
from tests.checks import OnlineTestCase, reactor
from tests.documents import commands_of
from tests.servers import postgres, redis

(ACL,) = (each.text for each in commands_of("docs/operating.md") if each.program == "ACL")
RIGHTS = [word for word in ACL.split() if word.startswith("+")]


class Fixed(HttpServer):
    """Gives every request the same answer."""

    def __init__(self, *steps: HttpStep) -> None:
        super().__init__(reactor=reactor)
        self.steps = steps
        self.asked: list[Received] = []

    def plan(self, received: Received) -> Any:
        self.asked.append(received)
        yield from self.steps


class AccountTests(OnlineTestCase):
    """``[accounts]``, backend voipgrid."""

    async def found(self, server: HttpServer, more: str = "") -> str:
        await server.start()
        self.later(server.stop)
        text = f"[accounts]\nbackend = voipgrid\nbase_url = {server.url}\n{more}"
        return await self.check_one(text, "[accounts]")

    async def test_api_that_refuses_a_request(self) -> None:
        """A working API answers 401 to a request without credentials."""
        server = AccountsServer(reactor=reactor)
        self.assertRegex(
            await self.found(server), r"^ok .*refuses a request without credentials \(401\)$"
        )

    async def test_other_answers(self) -> None:
        """Each result names the key to check; no credentials are sent."""
        for step, what in (
            (HttpReply(200, b"{}"), "200 without credentials, where 401 is expected"),
            (HttpReply(404), "set base_url, or profile_path"),
            (redirect("https://elsewhere.example/"), "redirects are not followed"),
            (HttpReply(502), "is failing"),
        ):
            server = Fixed(step)
            self.assertRegex(await self.found(server), f"^wrong .*{what}")
            self.assertNotIn("authorization", server.asked[0].headers)

    async def test_silence(self) -> None:
        """Its own time-out holds."""
        found = await self.found(Fixed(Stall()), "timeout_ms = 200\n")
        self.assertRegex(found, r"^wrong .*no answer within timeout_ms \(0.2 s\)")

    async def test_no_one_listens(self) -> None:
        """The address is named."""
        port = free_port()
        text = f"[accounts]\nbackend = voipgrid\nbase_url = http://127.0.0.1:{port}\n"
        found = await self.check_one(text, "[accounts]")
        self.assertRegex(found, f"^wrong 127.0.0.1:{port}: the connection is refused")

    async def test_other_backends_ask_no_one(self) -> None:
        """There is no line for a backend that is not contacted."""
        self.assertEqual(list(await self.check_all("[accounts]\nbackend = open\n")), ["[database]"])


class SqliteTests(OnlineTestCase):
    """``[database]``, a file."""

    async def found(self) -> str:
        return await self.check_one("[database]\nurl = sqlite:devices.sqlite3\n", "[database]")

    async def made(self) -> sqlite3.Connection:
        """The file as a daemon made it."""
        path = self.folder / "devices.sqlite3"
        registry = SqliteRegistry(database=SqliteDatabase(path=path, reactor=reactor))
        await registry.start()
        await registry.stop()
        connection = sqlite3.connect(path, isolation_level=None)
        self.addCleanup(connection.close)
        return connection

    async def test_new(self) -> None:
        """The check does not create it."""
        self.assertRegex(await self.found(), "^ok .*does not exist yet")
        self.assertFalse((self.folder / "devices.sqlite3").exists())

    async def test_in_use(self) -> None:
        """It is read and written, and left unchanged."""
        connection = await self.made()
        connection.execute("update pulse set beaten_at = 5")
        self.assertRegex(await self.found(), r"^ok .*devices.sqlite3, schema \d+, writable$")
        self.assertEqual(connection.execute("select beaten_at from pulse").fetchall(), [(5,)])

    async def test_newer_release(self) -> None:
        """A schema newer than this program."""
        (await self.made()).execute("pragma user_version = 900")
        self.assertRegex(await self.found(), "^wrong .*schema 900.*used by a newer release")

    async def test_no_database(self) -> None:
        """The file is something else."""
        (self.folder / "devices.sqlite3").write_bytes(b"nothing of ours" * 100)
        self.assertRegex(await self.found(), "^wrong .*not a database")

    async def test_locked(self) -> None:
        """Another program has locked the file: the check still ends."""
        (await self.made()).execute("begin exclusive")
        self.assertRegex(await self.found(), "^wrong .*locked|did not answer")


class PostgresTests(OnlineTestCase):
    """``[database]``, a real PostgreSQL."""

    def setUp(self) -> None:
        super().setUp()
        self.server = postgres.shared_server()
        self.name = self.server.create_database()
        self.url = self.server.url(self.name)

    async def found(self, url: str) -> str:
        return await self.check_one(f"[database]\nurl = {url}\n", "[database]")

    async def migrated(self) -> None:
        database = PostgresDatabase(url=self.url, reactor=reactor, pool_size=1)
        registry = PostgresRegistry(database=database)
        await registry.start()
        await registry.stop()

    async def test_empty(self) -> None:
        """The schema could be created, but is not."""
        self.assertRegex(await self.found(self.url), r"^ok 127.0.0.1:\d+, empty: the first st")
        tables = self.server.sql(self.name, "select 1 from pg_tables where tablename = 'devices'")
        self.assertEqual(tables, [])

    async def test_in_use(self) -> None:
        """Schema, privileges and clock; all writes are rolled back."""
        await self.migrated()
        self.assertRegex(
            await self.found(self.url),
            r"^ok 127.0.0.1:\d+, schema \d+, writable, clock within 0.\d s of ours$",
        )
        self.assertEqual(self.server.sql(self.name, "select beaten_at from pulse"), [(0,)])

    async def test_older_schema(self) -> None:
        """A start will upgrade it."""
        await self.migrated()
        self.server.sql(self.name, "delete from schema_version where version > 1")
        self.assertRegex(
            await self.found(self.url), "^ok .*schema 1, which the next start upgrades"
        )

    async def test_missing_right(self) -> None:
        """A user with read-only privileges."""
        await self.migrated()
        user = f"reader_{self.name}"
        self.server.sql(
            self.name,
            f"create role {user} login password 'geheim'",
            f"grant select, update on all tables in schema public to {user}",
        )
        self.addCleanup(self.server.sql, self.name, f"drop owned by {user}", f"drop role {user}")
        found = await self.found(self.url.replace("postgres@", f"{user}:geheim@"))
        self.assertRegex(found, "^wrong .*permission denied for table devices: GRANT")
        self.assertNotIn("geheim", found)

    async def test_standby(self) -> None:
        """A server that accepts no writes, like a standby."""
        await self.migrated()
        self.server.sql(
            self.name, f"alter database {self.name} set default_transaction_read_only = on"
        )
        self.assertRegex(await self.found(self.url), "^wrong .*a standby, which accepts no writes")

    async def test_unknown_host(self) -> None:
        """libpq is not asked to look it up."""
        found = await self.found("postgresql://u@db.invalid/x")
        self.assertRegex(found, "^wrong db.invalid:5432: the name server does not know the name")

    async def test_down(self) -> None:
        """Each host that was tried is named."""
        ports = free_port(), free_port()
        url = f"postgresql://u:geheim@127.0.0.1:{ports[0]},localhost:{ports[1]}/x"
        found = await self.found(url)
        self.assertRegex(
            found, rf"^wrong 127.0.0.1:{ports[0]}: .*refused.*is it run.*; localhost:{ports[1]}: "
        )
        self.assertNotIn("geheim", found)

    async def test_second_host(self) -> None:
        """The one that works is ok; the other one is a warning."""
        await self.migrated()
        url = self.url.replace("127.0.0.1:", f"127.0.0.1:{free_port()},127.0.0.1:")
        self.assertRegex(
            await self.found(url), r"^warning 127.0.0.1:\d+: .*refused.*; 127.*writable"
        )

    async def test_unknown_database(self) -> None:
        """libpq's own message."""
        self.assertRegex(await self.found(self.url + "x"), "^wrong .*does not exist")

    async def test_silent_server(self) -> None:
        """A stopped server does not delay the check."""
        server = postgres.PostgresServer()
        self.addCleanup(server.stop)
        server.start()
        server.pause()
        found = await self.found(server.url("postgres"))
        self.assertRegex(found, "^wrong .*no answer in 1 s")


class RedisTests(OnlineTestCase):
    """``[redis]``, real servers."""

    async def found(self, nodes: str, more: str = "") -> str:
        return await self.check_one(f"[redis]\nnodes = {nodes}\n{more}", "[redis]")

    def own(self, *options: str) -> redis.Redis:
        server = redis.Redis(*options)
        self.addCleanup(server.remove)
        return server

    async def test_all_is_well(self) -> None:
        """A key is written and deleted, a message arrives, clocks are compared."""
        server = self.own()
        self.assertRegex(
            await self.found(f"127.0.0.1:{server.port}"),
            rf"^ok 127.0.0.1:{server.port}, written, messages arrive, clock within 0.\d s of ours$",
        )
        self.assertEqual(server.run("KEYS", "*"), [])

    async def test_rights(self) -> None:
        """The documented ACL suffices; a missing permission is named."""
        server = self.own()
        login = "username = middlewared\npassword = geheim\n"
        own = ("ACL", "SETUSER", "middlewared", "reset", "on", ">geheim", "~middlewared:*")
        server.run(*ACL.replace("PASSWORD", "geheim").split())
        nodes = f"127.0.0.1:{server.port}"
        self.assertRegex(await self.found(nodes, login), "^ok .*written, messages arrive$")
        for right in ("set", "publish", "subscribe", "hset", "evalsha"):
            server.run(*own, "&middlewared:*", *RIGHTS, f"-{right}")
            found = await self.found(nodes, login)
            self.assertRegex(found, rf"^wrong .*permission \+{right} is missing: see the ACL")
            self.assertNotIn("geheim", found)
        server.run(*own, "&other:*", *RIGHTS)
        self.assertRegex(await self.found(nodes, login), "^wrong .*permission for our channels")
        server.run("ACL", "SETUSER", "middlewared", "resetkeys", "~other:*", "&middlewared:*")
        self.assertRegex(await self.found(nodes, login), "^wrong .*permission for our keys")

    def test_every_command_of_the_scripts_is_tried(self) -> None:
        """Otherwise a permission that only a script needs would be missing at the first call."""
        texts = [each.text for each in vars(lua_scripts).values() if isinstance(each, Script)]
        used = set(re.findall(r"call\('([A-Z]+)'", "".join(texts)))
        self.assertLessEqual(used, set(re.findall(r"call\('([A-Z]+)'", EVERYTHING.text)))
        self.assertIn("HSET", used)

    async def test_login(self) -> None:
        """A password that is wrong, missing, or not needed."""
        server = self.own("--requirepass", "geheim")
        nodes = f"127.0.0.1:{server.port}"
        self.assertRegex(await self.found(nodes), "^wrong .*asks for a password: set password")
        found = await self.found(nodes, "password = falsch\n")
        self.assertRegex(found, "^wrong .*username or password is wrong")
        self.assertNotIn("falsch", found)
        open_to_all = f"127.0.0.1:{redis.shared_server().port}"
        found = await self.found(open_to_all, "password = falsch\n")
        self.assertRegex(found, "^wrong .*AUTH is refused: does it have a password")

    async def test_down(self) -> None:
        """The address, and that the connection is refused."""
        nodes = f"127.0.0.1:{free_port()}"
        self.assertEqual(await self.found(nodes), f"wrong {nodes}: the connection is refused")

    async def test_silent(self) -> None:
        """A stopped server does not delay the check."""
        server = self.own()
        server.pause()
        self.addCleanup(server.resume)
        found = await self.found(f"127.0.0.1:{server.port}")
        self.assertRegex(found, "^wrong 127.0.0.1:")

    async def test_replica(self) -> None:
        """It accepts no writes."""
        replica = self.own("--replicaof", f"127.0.0.1 {free_port()}")
        found = await self.found(f"127.0.0.1:{replica.port}")
        self.assertRegex(found, "^wrong .*it is a replica and accepts no writes")

    async def test_tls_where_there_is_none(self) -> None:
        """The key to check is named."""
        self.patch(handshake, "CHAIN_S", 0.3)
        nodes = f"127.0.0.1:{redis.shared_server().port}"
        self.assertRegex(await self.found(nodes, "tls = yes\n"), "^wrong .*no TLS: does it use")

    async def test_tls(self) -> None:
        """Its certificate is verified as the daemon does it, and its signer is named."""
        authority = Authority(folder=self.folder)
        stranger = Authority(folder=self.folder, name="stranger")
        known = f"tls = yes\nca_file = {authority.certificate}\n"
        for certificate, verdict in (
            (authority.server(), "^ok "),
            (
                authority.server(name="other", hosts=["redis.example"]),
                "^wrong .*another host name",
            ),
            (
                stranger.server(name="strange"),
                "^wrong .*by middlewared simulator stranger",
            ),
        ):
            tls = ServerTLS(certificate)
            front = ProxyFactory(*redis.shared_server().node)
            socket = ListeningSocket(reactor=reactor)
            socket.open(tls.wrap(front))
            self.later(socket.close)
            self.assertRegex(await self.found(socket.address, known), verdict)
        found = await self.found(socket.address)
        self.assertRegex(found, "^wrong .*does it require TLS")

    async def test_cluster(self) -> None:
        """Each master is written to; a seed that is down is a warning."""
        cluster = redis.shared_cluster()
        nodes = ", ".join(f"{host}:{port}" for host, port in cluster.nodes)
        self.assertRegex(
            await self.found(nodes, "cluster = yes\n"),
            "^ok 3 masters cover all slots, written, messages arrive, clock within",
        )
        dead = f"127.0.0.1:{free_port()}"
        found = await self.found(f"{dead}, {nodes}", "cluster = yes\n")
        self.assertRegex(found, f"^warning {dead}: the connection is refused; 3 masters")
        alone = f"127.0.0.1:{redis.shared_server().port}"
        self.assertRegex(await self.found(alone, "cluster = yes\n"), "^wrong .*set cluster = no")

    async def test_slots_without_a_master(self) -> None:
        """Calls with those keys would be lost."""
        server = self.own("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
        server.run("CLUSTER", "ADDSLOTSRANGE", 0, 100)
        redis.until(lambda: "cluster_state:ok" in server.run("CLUSTER", "INFO"))
        found = await self.found(f"127.0.0.1:{server.port}", "cluster = yes\n")
        self.assertRegex(found, "^wrong .*some slots have no master")


class ResponseApiTests(OnlineTestCase):
    """``[calls] response_api``."""

    async def found(self, url: str) -> str:
        app = "[app:a.b:gcm]\napi_key = k\nurl = http://127.0.0.1:1/\n"
        return await self.check_one(f"[calls]\nresponse_api = {url}\n{app}", "[calls] response_api")

    async def test_name(self) -> None:
        """It is looked up; an address that phones cannot reach, and http, are warnings."""
        self.assertRegex(
            await self.found("http://localhost/"),
            "^warning is http: .*; localhost is .*, which phones on the Internet cannot reach$",
        )

    async def test_address(self) -> None:
        """It needs no name server."""
        self.assertEqual(await self.found("https://9.9.9.9/api/"), "ok 9.9.9.9")

    async def test_unknown_name(self) -> None:
        """Phones could not answer."""
        found = await self.found("https://pbx.invalid/")
        self.assertRegex(found, "^wrong pbx.invalid: the name is not known: phones cannot answer")

    async def test_silent_name_server(self) -> None:
        """The look-up ends in time."""

        class Silent:
            def resolveHostName(self, receiver: Any, name: str) -> None:
                """Never answer."""

        class Reactor:
            nameResolver = Silent()
            callLater = reactor.callLater
            seconds = reactor.seconds

        self.patch(response_api_checks, "LOOK_UP_S", 0.2)
        result = await Deferred.fromCoroutine(
            response_api_checks.check_response_api("https://pbx.example/", Reactor())
        )
        self.assertIn("the name server does not answer", result.text)
