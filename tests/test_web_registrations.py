"""Registrations at the SIP registrar, as its notifications reach the web, over real sockets."""

from __future__ import annotations

import json
from urllib.parse import quote

import attrs
from twisted.trial.unittest import SynchronousTestCase

from middlewared.errors import BadRequest, DatabaseDown, RendezvousDown
from middlewared.model import Device, Platform
from middlewared.web.push_parameters import PushParameters
from middlewared.web.replies import NotFound
from middlewared.web.settings import PushApp, RouteSet
from tests.web_stand_ins import SIP_USER_ID, Response, WebCase

PATH = "/api/registration/"
VOIP, REMOTE = "a1" * 32, "b2" * 32
APPLE = {"pn_provider": "apns", "pn_param": "TEAM123456.org.example.phone.voip", "pn_prid": VOIP}
GOOGLE = {"pn_provider": "fcm", "pn_param": "my-project", "pn_prid": "fid:APA91b-x_y"}
APPS = (
    PushApp(app="other", platform=Platform.APNS, names=frozenset({"org.example.other"})),
    PushApp(
        app="org.example.phone",
        platform=Platform.APNS,
        names=frozenset({"org.example.phone"}),
        team="TEAM123456",
    ),
    PushApp(
        app="org.example.droid",
        platform=Platform.ANDROID,
        names=frozenset({"my-project", "929724111839"}),
    ),
)


class PushParameterTests(SynchronousTestCase):
    """Which device the parameters of a SIP contact are."""

    def device(self, provider: str, param: str, prid: str) -> Device:
        given = PushParameters.of(provider, param, prid)
        assert given is not None
        return given.device(SIP_USER_ID, APPS, 5.0)

    def test_apple(self) -> None:
        """Team, bundle and service, with one token or one for each service, as apps send them."""
        expected = Device(
            *(SIP_USER_ID, Platform.APNS, "org.example.phone", VOIP),
            push_profile="once",
            registered_at=5.0,
            last_seen=5.0,
        )
        param = "TEAM123456.org.example.phone"
        for given, prid in (
            (f"{param}.voip", VOIP),
            (f"{param}.voip", f"{VOIP}:voip"),
            (param, VOIP),
            (f"{param}.remote&voip", f"{VOIP}:voip"),
        ):
            self.assertEqual(self.device("apns", given, prid), expected)
        both = attrs.evolve(expected, remote_notification_token=REMOTE)
        for services, prid in (
            ("remote&voip", f"{REMOTE}:remote&{VOIP}:voip"),
            ("voip&remote", f"{VOIP}:voip&{REMOTE}:remote"),
            ("remote%26voip", quote(f"{REMOTE}:remote&{VOIP}:voip")),
        ):
            self.assertEqual(self.device("apns", f"{param}.{services}", prid), both)
        sandbox = self.device("APNS.dev", f"{param}.voip", VOIP)
        self.assertEqual(sandbox, attrs.evolve(expected, sandbox=True))

    def test_google(self) -> None:
        """The project by its id or, as Linphone sends it, its number; the token with its colon."""
        for param in ("my-project", "929724111839"):
            device = self.device("fcm", param, "fid:APA91b-x_y")
            self.assertEqual(
                (device.app, device.platform, device.token, device.push_profile),
                ("org.example.droid", Platform.ANDROID, "fid:APA91b-x_y", ""),
            )

    def test_odd_ones_are_refused(self) -> None:
        """Half of them, tokens that are none, an app that gets no calls by push."""
        param = APPLE["pn_param"]
        for provider, given, prid in (
            ("apns", param, ""),
            ("apns", "", VOIP),
            ("", param, VOIP),
            ("", "", VOIP),
            ("apns", "org", VOIP),
            ("apns", param, "not-hex"),
            ("apns", param, f"{VOIP}:remote"),
            ("apns", "TEAM123456.org.example.phone.remote", VOIP),
            ("apns", param, f"{VOIP}:voip&{VOIP}:voip"),
            ("apns", param, f"{VOIP}:other"),
            ("apns", param, f"{VOIP}:voip&"),
            ("fcm", "my-project", "not a token"),
        ):
            with self.assertRaises(BadRequest):
                self.device(provider, given, prid)
        self.assertIsNone(PushParameters.of("", "", ""))

    def test_unknown_apps_and_providers(self) -> None:
        """Another team's app of the same name, too."""
        for provider, param, prid in (
            ("apns", "TEAM123456.org.example.unknown.voip", VOIP),
            ("apns", "TEAM999999.org.example.phone.voip", VOIP),
            ("fcm", "other-project", "fid:x"),
            ("webpush", "x", "https://push.example"),
        ):
            with self.assertRaises(NotFound):
                self.device(provider, param, prid)
        self.assertEqual(self.device("apns", "ANY.org.example.other.voip", VOIP).app, "other")


class RegistrationTests(WebCase):
    settings = attrs.evolve(WebCase.settings, push_apps=APPS)

    async def register(self, **given: object) -> Response:
        return await self.post_json(PATH, {"sip_user_id": SIP_USER_ID, **given})

    async def device(self) -> Device | None:
        return await self.devices.find(SIP_USER_ID)

    async def test_answers_waiting_calls(self) -> None:
        """The reply reports how many; a call_id names one."""
        self.calls.held = {"a", "b"}
        response = await self.register()
        self.assertEqual((response.status, response.json()), (200, {"answered": 2}))
        await self.register(call_id="c1", expires="60", pn_prid=None)
        self.assertEqual(self.calls.registered_accounts, [(SIP_USER_ID, ""), (SIP_USER_ID, "c1")])

    async def test_push_parameters_are_the_device(self) -> None:
        """201 for a new one, 200 for the same or another; the one that lost is notified."""
        self.assertEqual((await self.register(**APPLE)).status, 201)
        self.assertEqual((await self.register(**APPLE)).status, 200)
        response = await self.register(**GOOGLE)
        self.assertEqual((response.status, response.json()), (200, {"answered": 0}))
        device = await self.device()
        self.assertEqual(device and device.app, "org.example.droid")
        self.assertEqual(
            [(lost.app, present.app) for lost, present in self.lost],
            [
                ("org.example.phone", "org.example.phone"),
                ("org.example.phone", "org.example.droid"),
            ],
        )

    async def test_what_the_app_registered_itself_is_kept(self) -> None:
        """Its name, dnd and the like are not in a SIP contact; another device has none of it."""
        app = Device(
            *(SIP_USER_ID, Platform.ANDROID, "org.example.droid", GOOGLE["pn_prid"]),
            name="Ann's phone",
            dnd=True,
        )
        await self.devices.register(app)
        self.assertEqual((await self.register(**GOOGLE)).status, 200)
        device = await self.device()
        assert device is not None
        self.assertEqual((device.name, device.dnd), (app.name, True))
        self.assertGreater(device.registered_at, 0.0)
        await self.register(**(GOOGLE | {"pn_prid": "fid:other"}))
        device = await self.device()
        self.assertEqual((device and device.name, device and device.dnd), ("", False))

    async def test_leaving(self) -> None:
        """expires 0 removes the device of that prid, and answers no call."""
        self.calls.held = {"a"}
        await self.register(**APPLE)
        del self.calls.registered_accounts[:]
        for given in ({}, APPLE | {"pn_prid": REMOTE}):
            response = await self.register(expires=0, **given)
            self.assertEqual((response.status, response.json()), (200, {"answered": 0}))
            self.assertIsNotNone(await self.device())
        self.assertEqual((await self.register(expires="0", **APPLE)).status, 200)
        self.assertIsNone(await self.device())
        self.assertEqual((await self.register(expires=0, **APPLE)).status, 200)
        self.assertEqual(self.calls.registered_accounts, [])

    async def test_faults(self) -> None:
        """In the order of the PBX's routes, as JSON."""
        unknown = APPLE | {"pn_param": "TEAM123456.org.example.unknown.voip"}
        for given, status in (
            ({"expires": "-1"}, 400),
            ({"expires": "soon"}, 400),
            ({"pn_prid": VOIP}, 400),
            (APPLE | {"pn_prid": "x"}, 400),
            (unknown, 404),
            (unknown | {"expires": 0}, 404),
        ):
            response = await self.register(**given)
            self.assertEqual((given, response.status), (given, status))
            self.assertIn("detail", response.json())
        self.assertEqual((await self.post_json(PATH, {})).status, 400)
        self.assertEqual((await self.request("POST", PATH, b"x")).status, 415)
        self.assertEqual((await self.request("GET", PATH)).status, 405)
        self.assertEqual(self.calls.registered_accounts, [])
        self.web.settings.current = attrs.evolve(self.web.settings.current, pbx_networks=())
        response = await self.request("POST", PATH, b"x")
        self.assertEqual((response.status, response.json()), (403, {"detail": "Forbidden."}))

    async def test_what_cannot_be_known_or_stored_is_503(self) -> None:
        """A call is answered although the device cannot be stored."""
        self.devices.failure = DatabaseDown("gone")
        response = await self.register(**APPLE)
        self.assertEqual(response.status, 503)
        self.assertIn("retry-after", response.headers)
        self.assertEqual(self.calls.registered_accounts, [(SIP_USER_ID, "")])
        self.calls.failure = RendezvousDown("gone")
        self.assertEqual((await self.register()).status, 503)

    async def test_a_device_is_registered_without_redis(self) -> None:
        """Only whether a call waits is not known then."""
        self.calls.failure = RendezvousDown("gone")
        self.assertEqual((await self.register(**APPLE)).status, 503)
        self.assertIsNotNone(await self.device())

    async def test_is_served_where_calls_are_placed(self) -> None:
        """404 on the public listener when the PBXs have their own."""
        body = json.dumps({"sip_user_id": SIP_USER_ID}).encode()
        headers = {"Content-Type": "application/json"}
        for routes, status in ((RouteSet.PUBLIC, 404), (RouteSet.PBX, 200)):
            port = await self.listen(routes)
            response = await self.request("POST", PATH, body, headers, port=port)
            self.assertEqual((routes, response.status), (routes, status))
