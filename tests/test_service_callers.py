"""Who a caller is at each kind of port: unix sockets, and balancers with PROXY headers."""

from __future__ import annotations

import os
import shutil
import tempfile
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as installed_reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.protocol import Factory

from middlewared.model import Outcome
from middlewared.networks import Network
from middlewared.service import ports
from middlewared.web.settings import RouteSet
from tests.web_stand_ins import RawClient, Response, WebCase, http_message

reactor: Any = installed_reactor

CALL = b"sip_user_id=260010001&phonenumber=0501234567"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
LOOPBACK = ip_network("127.0.0.0/8")
PBX = ip_network("192.0.2.0/24")
FORWARDED_FOR = {"X-Forwarded-For": "192.0.2.7"}


class PortCase(WebCase):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.calls.at_once = Outcome.TIMEOUT
        # The path of a socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def set_networks(
        self, *, pbx: tuple[Network, ...] = (), trusted: tuple[Network, ...] = ()
    ) -> None:
        self.web.settings.current = attrs.evolve(
            self.web.settings.current, pbx_networks=pbx, trusted_proxies=trusted
        )

    async def open(self, description: str) -> Any:
        """Listen as the daemon does; gives a client's endpoint."""
        site = self.web.site(RouteSet.ALL)
        self.sites.append(site)
        listener = ports.Listener(
            "http",
            "listen",
            "http",
            [description],
            site,
            lambda: self.web.settings.current.trusted_proxies,
        )
        port: Any
        (port,) = await ports.listen(reactor, listener)
        self.addCleanup(port.stopListening)
        host = port.getHost()
        if hasattr(host, "port"):
            return TCP4ClientEndpoint(reactor, "127.0.0.1", host.port)
        return UNIXClientEndpoint(reactor, os.fsdecode(host.name))

    async def call(
        self, endpoint: Any, headers: dict[str, str] | None = None, before: bytes = b""
    ) -> Response:
        """Place a call on a connection that begins with ``before``."""
        client: RawClient = await endpoint.connect(Factory.forProtocol(RawClient))
        self.clients.append(client)
        client.send(before)
        client.send(http_message("POST", "/api/incoming-call/", CALL, FORM | (headers or {})))
        return await client.response()

    async def assertPbx(self, expected: bool, *call: Any) -> None:
        response = await self.call(*call)
        outcome = "timeout" if expected else "forbidden"
        self.assertEqual(
            (response.status, response.headers["x-outcome"], response.body),
            (200 if expected else 403, outcome, b"status=NAK"),
        )


class UnixSocketTests(PortCase):
    """Its peers have no address."""

    def path(self) -> Path:
        return self.folder / "http.sock"

    async def test_daemon_and_group_may_connect_by_default(self) -> None:
        """Mode 0660, whatever the umask is."""
        for umask in (0o000, 0o077):
            before = os.umask(umask)
            self.addCleanup(os.umask, before)
            path = self.folder / f"{umask}.sock"
            await self.open(f"unix:{path}")
            self.assertEqual(oct(path.stat().st_mode & 0o777), oct(0o660))

    async def test_configured_mode_stands(self) -> None:
        """By name and by position."""
        for name, argument in (("named", "mode=600"), ("placed", "600")):
            path = self.folder / name
            await self.open(f"unix:{path}:{argument}")
            self.assertEqual(oct(path.stat().st_mode & 0o777), oct(0o600))

    async def test_peer_is_a_pbx_only_by_name(self) -> None:
        """No network holds it, not even loopback or everything; ``unix`` does."""
        endpoint = await self.open(f"unix:{self.path()}")
        self.set_networks(pbx=(LOOPBACK, ip_network("0.0.0.0/0"), ip_network("::/0")))
        await self.assertPbx(False, endpoint)
        self.set_networks(pbx=("unix",))
        await self.assertPbx(True, endpoint)

    async def test_balancer_on_a_unix_socket_is_trusted_by_name(self) -> None:
        """X-Forwarded-For counts when trusted_proxies has ``unix``; it forbids otherwise."""
        endpoint = await self.open(f"unix:{self.path()}")
        self.set_networks(pbx=(PBX, "unix"))
        await self.assertPbx(False, endpoint, FORWARDED_FOR)
        self.set_networks(pbx=(PBX,), trusted=("unix",))
        await self.assertPbx(True, endpoint, FORWARDED_FOR)
        await self.assertPbx(False, endpoint, {"X-Forwarded-For": "198.51.100.1"})


class ProxyHeaderTests(PortCase):
    """``haproxy:`` endpoints."""

    FROM_PBX = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n"

    async def test_header_of_a_trusted_proxy_names_the_caller(self) -> None:
        """No other proxy's header does; a reload decides for the next request."""
        endpoint = await self.open("haproxy:tcp:0:interface=127.0.0.1")
        self.set_networks(pbx=(PBX,), trusted=(LOOPBACK,))
        await self.assertPbx(True, endpoint, None, self.FROM_PBX)
        self.set_networks(pbx=(PBX, LOOPBACK))
        await self.assertPbx(False, endpoint, None, self.FROM_PBX)
        await self.assertPbx(False, endpoint, FORWARDED_FOR, self.FROM_PBX)

    async def test_version_2_is_read_alike(self) -> None:
        """The binary form."""
        header = (
            b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"
            + bytes([192, 0, 2, 7, 127, 0, 0, 1])
            + (4711).to_bytes(2, "big")
            + (80).to_bytes(2, "big")
        )
        endpoint = await self.open("haproxy:tcp:0:interface=127.0.0.1")
        self.set_networks(pbx=(PBX,), trusted=(LOOPBACK,))
        await self.assertPbx(True, endpoint, None, header)
        self.set_networks(pbx=(PBX, LOOPBACK))
        await self.assertPbx(False, endpoint, None, header)

    async def test_header_without_an_address_is_no_one(self) -> None:
        """It must not count as the proxy itself, which may be in pbx_networks."""
        endpoint = await self.open("haproxy:tcp:0:interface=127.0.0.1")
        self.set_networks(pbx=(LOOPBACK,), trusted=(LOOPBACK,))
        await self.assertPbx(False, endpoint, None, b"PROXY UNKNOWN ::1 ::1 1 1\r\n")
        local = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
        await self.assertPbx(False, endpoint, None, local)

    async def test_client_of_the_proxy_is_no_proxy(self) -> None:
        """Its X-Forwarded-For is a stranger's."""
        endpoint = await self.open("haproxy:tcp:0:interface=127.0.0.1")
        self.set_networks(pbx=(PBX, LOOPBACK), trusted=(LOOPBACK,))
        stranger = b"PROXY TCP4 198.51.100.1 127.0.0.1 4711 80\r\n"
        await self.assertPbx(False, endpoint, FORWARDED_FOR, stranger)
        await self.assertPbx(False, endpoint, FORWARDED_FOR, self.FROM_PBX)

    async def test_proxy_on_a_unix_socket(self) -> None:
        """Trusted when trusted_proxies has ``unix``."""
        endpoint = await self.open(f"haproxy:unix:{self.folder}/http.sock")
        mode = (self.folder / "http.sock").stat().st_mode
        self.assertEqual(oct(mode & 0o777), oct(0o660))
        self.set_networks(pbx=(PBX, "unix"), trusted=(LOOPBACK,))
        await self.assertPbx(False, endpoint, None, self.FROM_PBX)
        self.set_networks(pbx=(PBX,), trusted=("unix",))
        await self.assertPbx(True, endpoint, None, self.FROM_PBX)
