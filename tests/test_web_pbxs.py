"""Which PBX a request comes from, and what it may, over real sockets."""

from __future__ import annotations

from ipaddress import ip_network

import attrs

from middlewared.model import Outcome
from middlewared.web.settings import Pbx
from tests.test_web_endpoints import CALL, FORM
from tests.web_stand_ins import Response, WebCase, basic

LOOPBACK, ELSEWHERE = (ip_network("127.0.0.0/8"),), (ip_network("192.0.2.0/24"),)
PATH = "/api/incoming-call/"


class PbxCase(WebCase):
    """PBXs by network (``near``, ``far``), by password (``cloud``), and by both (``both``)."""

    pbxs: tuple[Pbx, ...] = ()

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.calls.at_once = Outcome.TIMEOUT
        self.use(*self.pbxs)

    def use(self, *pbxs: Pbx, **changed: object) -> None:
        """Take requests from these PBXs."""
        settings = self.web.settings.current
        self.web.settings.current = attrs.evolve(settings, pbxs=pbxs, **changed)  # type: ignore[arg-type]

    async def call(self, login: str = "", password: str = "", **headers: str) -> Response:
        credentials = basic(login, password.encode()) if login else {}
        return await self.post_form(PATH, CALL, credentials | headers)


class IdentityTests(PbxCase):
    near = Pbx(name="near", networks=LOOPBACK)
    far = Pbx(name="far", networks=ELSEWHERE)
    cloud = Pbx(name="cloud", networks=None, password="grün:geheim")
    both = Pbx(name="both", networks=LOOPBACK, password="geheim")
    away = Pbx(name="away", networks=ELSEWHERE, password="geheim")

    async def assert_is(self, name: str, response: Response) -> None:
        self.assertEqual((response.status, response.headers["x-outcome"]), (200, "timeout"))
        self.assertEqual(self.calls.rung[-1].pbx, name)
        self.assertEqual(self.pbx_requests[-1], (name, Outcome.TIMEOUT))

    def assert_refused(self, response: Response, status: int) -> None:
        self.assertEqual((response.status, response.body), (status, b"status=NAK"))
        self.assertEqual(response.headers["x-outcome"], "forbidden")
        self.assertEqual("www-authenticate" in response.headers, status == 401)
        self.assertEqual(self.pbx_requests[-1], ("", Outcome.FORBIDDEN))

    async def test_by_network(self) -> None:
        """403 from elsewhere; pbx_networks no longer count."""
        self.use(self.far, self.near)
        await self.assert_is("near", await self.call())
        await self.assert_is("near", await self.call("anyone", "anything"))
        self.use(self.far)
        self.assert_refused(await self.call(), 403)

    async def test_by_password(self) -> None:
        """401 without one and with a wrong one, name or scheme."""
        self.use(self.cloud)
        await self.assert_is("cloud", await self.call("cloud", "grün:geheim"))
        self.assert_refused(await self.call(), 401)
        for wrong in (("cloud", "geheim"), ("Cloud", "grün:geheim"), ("both", "grün:geheim")):
            self.assert_refused(await self.call(*wrong), 401)
        self.assert_refused(await self.call(Authorization="Bearer grün"), 401)
        self.assert_refused(await self.call(Authorization="Basic !"), 401)
        logged = [line for line in self.repeats.counted if "has these credentials" in line]
        self.assertEqual(len(logged), 5)

    async def test_by_both(self) -> None:
        """Its password is worth nothing elsewhere, and its network nothing without it."""
        self.use(self.both)
        await self.assert_is("both", await self.call("both", "geheim"))
        self.assert_refused(await self.call(), 401)
        self.use(self.away)
        self.assert_refused(await self.call("away", "geheim"), 403)

    async def test_several_at_one_address(self) -> None:
        """The password decides between them; without one it is the one that needs none."""
        self.use(self.cloud, self.both, self.near)
        await self.assert_is("near", await self.call())
        await self.assert_is("near", await self.call("both", "wrong"))
        await self.assert_is("both", await self.call("both", "geheim"))
        await self.assert_is("cloud", await self.call("cloud", "grün:geheim"))

    async def test_forwarded_by_anyone(self) -> None:
        """An untrusted proxy proves no address; a password counts from anywhere."""
        forwarded = {"X-Forwarded-For": "192.0.2.7"}
        self.use(self.near, self.far)
        self.assert_refused(await self.call(**forwarded), 403)
        self.use(self.near, self.cloud)
        await self.assert_is("cloud", await self.call("cloud", "grün:geheim", **forwarded))
        self.use(self.near, self.far, trusted_proxies=LOOPBACK)
        await self.assert_is("far", await self.call(**forwarded))

    async def test_credentials_are_checked_before_the_body(self) -> None:
        """And after the network, on all three routes of a PBX."""
        self.use(self.cloud)
        for method, path, status in (
            ("POST", PATH, 401),
            ("DELETE", PATH, 401),
            ("POST", "/api/registration/", 401),
        ):
            response = await self.request(method, path, b"x" * 70_000)
            self.assertEqual((method, path, response.status), (method, path, status))

    async def test_guessing_is_limited(self) -> None:
        """By address: then also the right password is refused, and not compared."""
        self.use(self.cloud, refusals_allowed_of_address=3)
        for _ in range(3):
            self.assert_refused(await self.call("cloud", "wrong"), 401)
            self.assert_refused(await self.call(), 401)
        response = await self.call("cloud", "grün:geheim")
        self.assert_refused(response, 429)
        self.assertIn("retry-after", response.headers)
        self.assertEqual(self.calls.rung, [])

    async def test_without_sections(self) -> None:
        """The name is empty."""
        await self.assert_is("", await self.call())


class RateTests(PbxCase):
    slow = Pbx(name="slow", networks=LOOPBACK, max_calls_per_s=2)
    pbxs = (slow,)

    async def test_calls_above_the_limit_are_refused(self) -> None:
        """503, overloaded; a repeat of a held call is taken, and so is a cancellation."""
        outcomes = [(await self.call()).headers["x-outcome"] for _ in range(4)]
        self.assertEqual(outcomes[:2], ["timeout", "timeout"])
        response = await self.call()
        self.assertEqual((response.status, response.body), (503, b"status=NAK"))
        self.assertEqual(response.headers["x-outcome"], "overloaded")
        self.assertIn("retry-after", response.headers)
        self.assertIn(Outcome.OVERLOADED, self.calls.refusals)
        self.assertIn("a call of pbx slow refused: above its max_calls_per_s", self.repeats.counted)
        self.assertIn(("slow", Outcome.OVERLOADED), self.pbx_requests)
        self.calls.held = {"c1"}
        self.assertEqual((await self.call()).headers["x-outcome"], "timeout")
        body = b"sip_user_id=260010001&call_id=c1"
        self.assertEqual((await self.request("DELETE", PATH, body, FORM)).status, 200)
