"""Which requests reach which route, and what the others get."""

from __future__ import annotations

import json

import attrs

from middlewared.model import Outcome
from middlewared.web.settings import RouteSet
from tests.web_stand_ins import WebCase

CALL = b"sip_user_id=260010001&phonenumber=1"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ANSWER = b"unique_key=k&message_start_time=1.5"


class RoutingTests(WebCase):
    async def test_anything_after_the_slash_belongs_to_the_route(self) -> None:
        """Old Android apps append the path to itself; no request is ever redirected."""
        self.calls.known_keys.add("k")
        for suffix in (
            "",
            "/",
            "/api/call-response/",
            "//",
            "/%FF/%00",
            "/%0A/",
            "/?a=b",
            "?a",
            "/..//.",
        ):
            response = await self.post_form("/api/call-response" + suffix, ANSWER)
            self.assertEqual((suffix, response.status), (suffix, 202))

    async def test_refusals_are_counted(self) -> None:
        """By route and reason, so that a client cannot make the log long."""
        for _ in range(2):
            await self.post_form("/api/incoming-call/", b"sip_user_id=1")
        self.web.settings.current = attrs.evolve(self.web.settings.current, pbx_networks=())
        await self.post_form("/api/incoming-call/", CALL)
        self.assertEqual(
            self.repeats.counted,
            [
                *["incoming-call refused: sip_user_id: out of range"] * 2,
                "incoming-call refused: 127.0.0.1 is in none of pbx_networks",
            ],
        )

    async def test_absolute_form_reaches_the_route(self) -> None:
        """A request target may name the host (RFC 9112 section 3.2.2)."""
        self.calls.known_keys.add("k")
        response = await self.post_form("http://any.example/api/call-response/", ANSWER)
        self.assertEqual(response.status, 202)

    async def test_other_paths_are_404(self) -> None:
        """JSON, whatever the method, and no traceback for odd bytes in path or Host."""
        for path in (
            "/", "*", "/api", "/api/call-responseX", "xapi/call-response/",
            "/api//call-response/",
            "/API/call-response/", "/%FF", "/\xa0", "/api/call-response;x", "x",
            "http://x", "/%2e%2e/",
        ):  # fmt: skip
            for method in ("GET", "POST", "OPTIONS", "BREW"):
                response = await self.request(method, path, headers={"Host": "\xff[::"})
                self.assertEqual((path, response.status), (path, 404))
                self.assertEqual(response.json(), {"detail": "Not found."})

    async def test_wrong_method_is_405_with_allow(self) -> None:
        """On each route, and in the format of the route."""
        for path, allowed in (
            ("/api/incoming-call/", "POST, DELETE"),
            ("/api/apns-device", "POST, DELETE"),
            ("/health/", "GET, HEAD"),
        ):
            response = await self.request("BREW", path)
            self.assertEqual((response.status, response.headers["allow"]), (405, allowed))

    async def test_unforeseen_failure_is_500_without_its_reason(self) -> None:
        """The reason is for the log."""
        self.calls.failure = ZeroDivisionError("secret")
        response = await self.post_form("/api/call-response/", ANSWER)
        self.assertEqual((response.status, response.json()), (500, {"detail": "Internal error."}))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        del self.troubles[:]

    async def test_answered_requests_are_observed(self) -> None:
        """Route, method and status, with names from the outside kept out."""
        await self.request("GET", "/health")
        await self.request("BREW", "/tea")
        self.assertEqual(self.observed, [("health", "GET", 200), ("unknown", "other", 404)])

    async def test_refused_calls_are_reported_to_the_calls(self) -> None:
        """Malformed, forbidden and broken requests count as calls, each once."""
        await self.post_form("/api/incoming-call/", b"sip_user_id=1")
        await self.request("GET", "/api/incoming-call/")
        self.web.settings.current = attrs.evolve(self.settings, pbx_networks=())
        await self.post_form("/api/incoming-call/", CALL)
        await self.post_form("/api/call-response/", b"")
        client = await self.connect()
        client.send(b"POST /api/incoming-call/ HTTP/1.1\r\nContent-Length: x\r\n\r\n")
        await client.response()
        malformed, forbidden = Outcome.MALFORMED, Outcome.FORBIDDEN
        self.assertEqual(self.calls.refusals, [malformed, malformed, forbidden, malformed])


class RouteSetTests(WebCase):
    async def test_pbx_route_is_served_on_the_pbx_listener_alone(self) -> None:
        """The public listener answers 404 to any method, still in the PBX's format."""
        public, pbx = await self.listen(RouteSet.PUBLIC), await self.listen(RouteSet.PBX)
        for method in ("POST", "DELETE", "GET"):
            response = await self.request(method, "/api/incoming-call/", CALL, FORM, port=public)
            self.assertEqual((response.status, response.body), (404, b"status=NAK"))
        response = await self.request("GET", "/api/incoming-call/", port=pbx)
        self.assertEqual(response.status, 405)

    async def test_other_routes_are_not_served_on_the_pbx_listener(self) -> None:
        """Only health is on both."""
        public, pbx = await self.listen(RouteSet.PUBLIC), await self.listen(RouteSet.PBX)
        for path, status in (("/api/call-response/", 404), ("/health/", 200)):
            response = await self.request("GET", path, port=pbx)
            self.assertEqual((path, response.status), (path, status))
        response = await self.request("GET", "/health/", port=public)
        self.assertEqual(json.loads(response.body)["status"], "ok")
