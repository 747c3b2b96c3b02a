"""The API of the web, endpoint by endpoint, over real sockets."""

from __future__ import annotations

import json
from collections import Counter
from ipaddress import ip_network
from urllib.parse import urlencode

import attrs
from twisted.internet.defer import Deferred, gatherResults

from middlewared.errors import AccessForbidden, AccountsDown, DatabaseDown, RendezvousDown
from middlewared.model import Device, IncomingCall, Outcome, Platform
from middlewared.web.health import Health
from middlewared.web.settings import Rate
from tests.web_stand_ins import APP, SIP_USER_ID, RawClient, Response, WebCase, basic, http_message

CALL = b"sip_user_id=260010001&phonenumber=%2B31+6-1234&caller_id=Jane&call_id=c1"
DEVICE = {"sip_user_id": str(SIP_USER_ID), "token": "t" * 64, "app": APP}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


class IncomingCallTests(WebCase):
    async def ring(self) -> RawClient:
        """A PBX whose call rings."""
        client = await self.connect()
        client.send(http_message("POST", "/api/incoming-call/", CALL, FORM))
        await self.calls.until(rung=len(self.calls.ringing) + 1)
        return client

    def assertNak(self, response: Response, status: int, outcome: str) -> None:
        self.assertEqual((response.status, response.body), (status, b"status=NAK"))
        self.assertEqual(response.headers["x-outcome"], outcome)
        self.assertIn("total;dur=", response.headers["server-timing"])
        self.assertTrue(response.headers["content-type"].startswith("text/plain"))

    async def test_is_held_until_the_call_ends(self) -> None:
        """An answered call is ACK, with its outcome and its steps in the headers."""
        client = await self.ring()
        self.calls.ringing[0].callback(Outcome.ANSWERED)
        response = await client.response()
        self.assertEqual((response.status, response.body), (200, b"status=ACK"))
        self.assertEqual(response.headers["x-outcome"], "answered")
        self.assertIn("device;dur=", response.headers["server-timing"])
        self.assertTrue(response.headers["content-type"].startswith("text/plain"))
        call = IncomingCall(SIP_USER_ID, "+31 6-1234", "Jane", "c1")
        self.assertEqual(self.calls.rung, [call])

    async def test_every_other_outcome_is_nak(self) -> None:
        """200 for the outcome of a call, 503 when none was taken."""
        no_outcome_of_a_call = {Outcome.MALFORMED, Outcome.FORBIDDEN, Outcome.NO_CALL}
        for outcome in set(Outcome) - {Outcome.ANSWERED} - no_outcome_of_a_call:
            none = outcome in (Outcome.OVERLOADED, Outcome.DRAINING, Outcome.SERVICE_DOWN)
            self.calls.at_once = outcome
            response = await self.post_form("/api/incoming-call/", CALL)
            self.assertNak(response, 503 if none else 200, outcome.value)
            self.assertEqual("retry-after" in response.headers, none)

    async def test_every_fault_keeps_the_format(self) -> None:
        """Wrong method, network, content type, fields; and failures of ours."""
        path = "/api/incoming-call/"
        self.assertNak(await self.request("GET", path), 405, "malformed")
        self.assertNak(await self.request("POST", path, CALL), 415, "malformed")
        self.assertNak(await self.request("POST", path), 400, "malformed")
        self.assertNak(await self.post_form(path, b"sip_user_id=1"), 400, "malformed")
        self.calls.failure = RendezvousDown("gone")
        self.assertNak(await self.post_form(path, CALL), 503, "service-down")
        self.web.settings.current = attrs.evolve(self.web.settings.current, pbx_networks=())
        self.assertNak(await self.post_form(path, CALL), 403, "forbidden")
        self.assertNak(await self.request("GET", path), 405, "malformed")

    async def test_network_is_that_of_the_client_behind_trusted_proxies(self) -> None:
        """
        X-Forwarded-For counts only when a trusted proxy sent it. Another client that sends it, or
        Forwarded, asks for someone unknown.
        """
        self.calls.at_once = Outcome.TIMEOUT
        pbx = ip_network("192.0.2.0/24")
        loopback = ip_network("127.0.0.0/8")
        forwarded_for = {"X-Forwarded-For": "127.0.0.1, 192.0.2.7"}
        forwarded = {"Forwarded": "for=192.0.2.7"}
        for trusted, networks, headers, expected in (
            ((), (pbx, loopback), forwarded_for, 403),
            ((), (pbx, loopback), forwarded, 403),
            ((), (loopback,), {}, 200),
            ((loopback,), (pbx,), forwarded_for, 200),
            ((loopback,), (loopback,), forwarded_for, 403),
            ((loopback,), (pbx, loopback), forwarded, 403),
            ((loopback,), (loopback,), {}, 200),
        ):
            self.web.settings.current = attrs.evolve(
                self.web.settings.current, trusted_proxies=trusted, pbx_networks=networks
            )
            response = await self.post_form("/api/incoming-call/", CALL, headers)
            self.assertEqual(response.status, expected, (trusted, networks, headers))

    async def test_cancelling(self) -> None:
        """200 when the call waited, 404 when not; fields in a body of any kind or in the query."""
        self.calls.held = {"c1"}
        path, fields = "/api/incoming-call/", {"sip_user_id": str(SIP_USER_ID), "call_id": "c1"}
        form = urlencode(fields)
        for response in (
            await self.request("DELETE", path, form.encode(), FORM),
            await self.request("DELETE", path, json.dumps(fields).encode(), JSON),
            await self.request("DELETE", f"{path}?{form}"),
        ):
            self.assertNak(response, 200, "cancelled")
        self.assertEqual(self.calls.cancelled, [IncomingCall(SIP_USER_ID, "", call_id="c1")] * 3)
        self.assertNak(await self.request("DELETE", f"{path}?{form}2"), 404, "no-call")

    async def test_faults_of_cancelling(self) -> None:
        """As those of placing a call, in the same order."""
        path, fields = "/api/incoming-call/", f"sip_user_id={SIP_USER_ID}&call_id=c1"
        self.assertNak(await self.request("DELETE", path, fields.encode()), 415, "malformed")
        large = fields.encode() + b"&x=" + b"x" * 70_000
        self.assertNak(await self.request("DELETE", path, large, FORM), 413, "malformed")
        for wrong in ("", "?call_id=c1", f"?sip_user_id={SIP_USER_ID}", "?sip_user_id=1&call_id=c"):
            self.assertNak(await self.request("DELETE", path + wrong), 400, "malformed")
        self.calls.failure = RendezvousDown("gone")
        response = await self.request("DELETE", f"{path}?{fields}")
        self.assertNak(response, 503, "service-down")
        self.assertIn("retry-after", response.headers)
        self.web.settings.current = attrs.evolve(self.web.settings.current, pbx_networks=())
        self.assertNak(await self.request("DELETE", path, large), 403, "forbidden")
        self.assertEqual(self.calls.cancelled, [])

    async def test_pbx_that_hangs_up_ends_the_call(self) -> None:
        """Closing the connection cancels the call, and nothing is logged as an error."""
        client = await self.ring()
        await client.close()
        await self.calls.until(hung_up=1)


class CallResponseTests(WebCase):
    async def test_answer_of_a_waiting_call_is_accepted(self) -> None:
        """202 when the key is known, and the answer is passed on as sent."""
        self.calls.known_keys.add("k")
        sent = {"unique_key": "k", "message_start_time": 1.5, "available": "False"}
        response = await self.post_json("/api/call-response/", sent)
        self.assertEqual((response.status, response.body), (202, b""))
        ((key, answer),) = self.calls.answers
        self.assertEqual((key, answer.available, answer.message_start_time), ("k", False, 1.5))

    async def test_credentials_are_ignored(self) -> None:
        """Some apps send theirs; the account backend is not asked."""
        self.calls.known_keys.add("k")
        sent = b"unique_key=k&message_start_time=1"
        response = await self.post_form("/api/call-response/", sent, basic(password=b"wrong"))
        self.assertEqual((response.status, self.accounts.asked), (202, 0))

    async def test_other_answers(self) -> None:
        """404 for an unknown key, 400 without one, 503 when it cannot be known."""
        sent = b"unique_key=k&message_start_time=1"
        self.assertEqual((await self.post_form("/api/call-response/", sent)).status, 404)
        response = await self.post_form("/api/call-response/", b"unique_key=k")
        self.assertEqual((response.status, response.json()["detail"]), (400, "Malformed request."))
        self.calls.failure = RendezvousDown("gone", retry_after_s=7)
        response = await self.post_form("/api/call-response/", sent)
        self.assertEqual((response.status, response.headers["retry-after"]), (503, "7"))


class UnknownKeyTests(WebCase):
    """Answers to calls that are not known here are limited for each address."""

    async def answer(self, key: str, address: str | None = None) -> Response:
        """One answer, perhaps from elsewhere."""
        headers = {} if address is None else {"X-Forwarded-For": address}
        return await self.post_form(
            "/api/call-response/", f"unique_key={key}&message_start_time=1".encode(), headers
        )

    def allow(self, burst: int) -> None:
        """Up to the limit; a trusted proxy names the client's address."""
        self.web.settings.current = attrs.evolve(
            self.web.settings.current,
            unknown_keys=Rate(burst, 1e-6),
            trusted_proxies=(ip_network("127.0.0.0/8"),),
        )

    async def test_too_many_unknown_keys_are_429(self) -> None:
        """Without a look-up; the key of a call that is held here is still accepted."""
        self.allow(3)
        self.calls.held_keys.add("held")
        statuses = [(await self.answer("k")).status for _ in range(5)]
        self.assertEqual((statuses, len(self.calls.answers)), ([404] * 3 + [429] * 2, 3))
        self.assertIn("retry-after", (await self.answer("k")).headers)
        self.assertEqual((await self.answer("held")).status, 202)
        self.assertEqual((await self.answer("k", "192.0.2.1")).status, 404)

    async def test_made_up_keys_do_not_shut_out_phones(self) -> None:
        """A key that proves to be ours has a bucket of its own, which a replay can empty."""
        self.allow(2)
        statuses = [(await self.answer("k")).status for _ in range(3)]
        statuses += [(await self.answer("ours")).status for _ in range(3)]
        self.assertEqual(statuses, [404, 404, 429] * 2)

    async def test_keys_that_turn_out_known_do_not_count(self) -> None:
        """Those of calls that other daemons hold."""
        self.allow(1)
        self.calls.known_keys.add("elsewhere")
        statuses = [(await self.answer(key)).status for key in (*["elsewhere"] * 3, "k", "k")]
        self.assertEqual(statuses, [202, 202, 202, 404, 429])

    async def test_keys_that_are_being_looked_up_count(self) -> None:
        """Many at once win nothing."""
        self.allow(1)
        self.calls.gate = Deferred()
        client = await self.connect()
        body = b"unique_key=k&message_start_time=1"
        client.send(http_message("POST", "/api/call-response/", body, FORM))
        while not self.calls.answers:
            await self.request("GET", "/health/")
        self.assertEqual((await self.answer("k")).status, 429)
        self.calls.gate.callback(None)
        self.assertEqual((await client.response()).status, 404)

    async def test_an_ipv6_client_is_its_network(self) -> None:
        """It has more addresses than could be counted."""
        self.allow(1)
        for address, status in (
            ("2001:db8::1", 404),
            ("2001:db8::2", 429),
            ("2001:db8:0:1::1", 404),
        ):
            self.assertEqual((await self.answer("k", address)).status, status)


class AllowanceTests(WebCase):
    """What one account may ask for."""

    async def test_registrations_are_limited(self) -> None:
        """Made and deleted together; other accounts and reports are not concerned."""
        statuses = []
        for number in range(12):
            method = "DELETE" if number % 2 else "POST"
            body = json.dumps(DEVICE).encode()
            response = await self.request(method, "/api/apns-device/", body, basic() | JSON)
            statuses.append(response.status)
        self.assertEqual(statuses, [201, 200] * 5 + [429] * 2)
        self.assertLessEqual(int(response.headers["retry-after"]), 6)
        self.assertEqual((await self.post_json("/api/check-in/", DEVICE, basic())).status, 404)
        other = DEVICE | {"sip_user_id": str(SIP_USER_ID + 1)}
        response = await self.post_json("/api/apns-device/", other, basic(SIP_USER_ID + 1))
        self.assertEqual(response.status, 201)

    async def test_reports_are_limited(self) -> None:
        """All kinds together, and broken ones too."""
        self.web.settings.current = attrs.evolve(self.web.settings.current, reports=Rate(3, 1e-6))
        self.devices.put(Device(SIP_USER_ID, Platform.APNS, APP, "t"))
        report = DEVICE | {"unique_key": "k", "reason": "user"}
        for path, body, status in (
            ("/api/hangup-reason/", report, 200),
            ("/api/check-in/", report, 200),
            ("/api/log-metrics/", {}, 400),
            ("/api/log-metrics/", report, 429),
            ("/api/hangup-reason/", report, 429),
            ("/api/check-in/", report, 429),
        ):
            response = await self.post_json(path, body, basic())
            self.assertEqual((path, response.status), (path, status))
        self.assertEqual((await self.post_json("/api/apns-device/", DEVICE, basic())).status, 200)

    async def test_only_an_account_that_is_authenticated_counts(self) -> None:
        """A stranger cannot use up what is another's."""
        self.web.settings.current = attrs.evolve(
            self.web.settings.current, registrations=Rate(1, 1e-6)
        )
        for wrong in (basic(password=b"wrong"), {}, basic(SIP_USER_ID + 1)):
            response = await self.post_json("/api/apns-device/", DEVICE, wrong)
            self.assertIn(response.status, (401, 403))
        response = await self.post_json("/api/apns-device/", DEVICE, basic())
        self.assertEqual(response.status, 201)

    async def test_without_authentication_the_claimed_account_counts(self) -> None:
        """With the open backend."""
        self.accounts.needs_credentials = False
        self.web.settings.current = attrs.evolve(
            self.web.settings.current, registrations=Rate(1, 1e-6)
        )
        other = DEVICE | {"sip_user_id": str(SIP_USER_ID + 1)}
        for body, status in ((DEVICE, 201), (DEVICE, 429), (other, 201), ({}, 400)):
            response = await self.post_json("/api/apns-device/", body)
            self.assertEqual(response.status, status)


class DeviceTests(WebCase):
    async def test_registers_then_replaces_then_deletes(self) -> None:
        """201, 200, 200, 404, with empty bodies but for the last."""
        for status in (201, 200):
            response = await self.post_json("/api/apns-device/", DEVICE, basic())
            self.assertEqual((response.status, response.body), (status, b""))
        for status in (200, 404):
            body = json.dumps(DEVICE).encode()
            response = await self.request("DELETE", "/api/apns-device", body, basic() | JSON)
            self.assertEqual(response.status, status)

    async def test_all_encodings_register_the_same_device(self) -> None:
        """JSON, form and multipart."""
        part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
        multipart = "".join(part.format(*item) for item in DEVICE.items()) + "--b--\r\n"
        for content_type, body in (
            ("application/json; charset=utf-8", json.dumps(DEVICE)),
            ("application/x-www-form-urlencoded", urlencode(DEVICE)),
            ("multipart/form-data; boundary=b", multipart),
        ):
            headers = basic() | {"Content-Type": content_type}
            response = await self.request("POST", "/api/gcm-device/", body.encode(), headers)
            self.assertIn(response.status, (200, 201))
            device = self.devices.get(SIP_USER_ID)
            assert device is not None
            self.assertEqual(
                (device.platform, device.app, device.token), (Platform.GCM, APP, DEVICE["token"])
            )

    async def test_delete_reads_its_query_when_it_has_no_body(self) -> None:
        """As iOS does; all four must match, the platform included."""
        self.devices.put(Device(SIP_USER_ID, Platform.APNS, APP, DEVICE["token"]))
        query = urlencode(DEVICE)
        for path, status in (
            (f"/api/android-device/?{query}", 404),
            (f"/api/apns-device?{query}x", 404),
            (f"/api/apns-device/?{query}", 200),
            (f"/api/apns-device/?{query}", 404),
        ):
            response = await self.request("DELETE", path, headers=basic() | JSON)
            self.assertEqual((path, response.status), (path, status))

    async def test_new_registration_replaces_on_any_platform(self) -> None:
        """The notice for the lost device gets both."""
        lost = Device(SIP_USER_ID, Platform.ANDROID, "other", "old")
        self.devices.put(lost)
        self.assertEqual((await self.post_json("/api/apns-device/", DEVICE, basic())).status, 200)
        self.assertEqual(self.lost, [(lost, self.devices.get(SIP_USER_ID))])

    async def test_app_without_a_section_is_404(self) -> None:
        """Its calls could never be pushed."""
        device = DEVICE | {"app": "unknown"}
        self.assertEqual((await self.post_json("/api/apns-device/", device, basic())).status, 404)
        self.assertIsNone(self.devices.get(SIP_USER_ID))

    async def test_registration_is_finished_when_its_client_goes_away(self) -> None:
        """An app put to sleep in the middle is registered all the same."""
        self.accounts.gate = Deferred()
        client = await self.connect()
        body = json.dumps(DEVICE).encode()
        client.send(http_message("POST", "/api/apns-device/", body, basic() | JSON))
        while not self.accounts.asked:
            await self.request("GET", "/health/")
        await client.close()
        await self.request("GET", "/health/")
        self.accounts.gate.callback(None)
        await self.background.finish()
        self.assertIsNotNone(self.devices.get(SIP_USER_ID))

    async def test_work_that_a_stop_cancels_is_503(self) -> None:
        """Not a failure of ours: it can be done at another daemon."""
        self.accounts.gate = Deferred()
        client = await self.connect()
        body = json.dumps(DEVICE).encode()
        client.send(http_message("POST", "/api/apns-device/", body, basic() | JSON))
        while not self.accounts.asked:
            await self.request("GET", "/health/")
        self.background.cancel()
        self.assertEqual((await client.response()).status, 503)

    async def test_database_down_is_503(self) -> None:
        """A registration is confirmed only when it is committed."""
        self.devices.failure = DatabaseDown("gone")
        response = await self.post_json("/api/apns-device/", DEVICE, basic())
        self.assertEqual(response.status, 503)
        self.assertIn("retry-after", response.headers)


class CredentialsTests(WebCase):
    async def test_missing_credentials_are_401_before_the_body(self) -> None:
        """An early app sends them only after it was asked."""
        for method, path in (
            ("POST", "/api/apns-device/"), ("DELETE", "/api/gcm-device/"),
            ("POST", "/api/hangup-reason/"), ("POST", "/api/log-metrics/"),
            ("POST", "/api/check-in/"),
        ):  # fmt: skip
            response = await self.request(method, path, b"{", {"Content-Type": "text/plain"})
            self.assertEqual(response.status, 401)
            self.assertTrue(response.headers["www-authenticate"].startswith("Basic"))
        self.assertEqual(self.accounts.asked, 0)

    async def test_no_credentials_are_needed_without_an_account_backend(self) -> None:
        """With the open backend."""
        self.accounts.needs_credentials = False
        self.assertEqual((await self.post_json("/api/apns-device/", DEVICE)).status, 201)

    async def test_backend_decides(self) -> None:
        """Its 401 and 403 are passed on; its troubles are 503, never 401."""
        body = b"{"
        wrong = basic(password=b"wrong")
        response = await self.request("POST", "/api/apns-device/", body, wrong | JSON)
        self.assertEqual(response.status, 401)
        for failure, status in ((AccessForbidden("no"), 403), (AccountsDown("gone"), 503)):
            self.accounts.failure = failure
            response = await self.request("POST", "/api/apns-device/", body, basic() | JSON)
            self.assertEqual(response.status, status)
        self.assertIn("retry-after", response.headers)

    async def test_account_may_change_only_its_own_devices(self) -> None:
        """403 for another account, but only after its body was checked."""
        for path in ("/api/apns-device/", "/api/log-metrics/", "/api/check-in/"):
            response = await self.post_json(path, DEVICE, basic(login=SIP_USER_ID + 1))
            self.assertEqual(response.status, 403)
            response = await self.post_json(path, {}, basic(login=SIP_USER_ID + 1))
            self.assertEqual(response.status, 400)

    async def test_guessing_is_slowed_down(self) -> None:
        """429 after repeated refusals, for the account asked for and for the login tried."""
        self.web.settings.current = attrs.evolve(self.web.settings.current, refusals_allowed=2)
        wrong = basic(password=b"wrong")
        for status in (401, 401, 429):
            response = await self.post_json("/api/check-in/", DEVICE, wrong)
            self.assertEqual(response.status, status)
        self.assertIn("retry-after", response.headers)
        other = DEVICE | {"sip_user_id": str(SIP_USER_ID + 1)}
        self.assertEqual((await self.post_json("/api/check-in/", other, wrong)).status, 429)
        response = await self.post_json("/api/check-in/", other, basic(SIP_USER_ID + 1))
        self.assertEqual(response.status, 404)

    async def test_other_forms_of_a_login_are_no_other_login(self) -> None:
        """Neither case nor outer blanks, nor the scheme."""
        self.web.settings.current = attrs.evolve(self.web.settings.current, refusals_allowed=2)
        for number, (login, status) in enumerate(
            (("Jané@x", 401), (" jané@X\t", 401), ("JANÉ@x", 429), ("jane@x", 401))
        ):
            claimed = {"sip_user_id": str(SIP_USER_ID + number)}
            response = await self.post_json("/api/check-in/", claimed, basic(login))
            self.assertEqual((login, response.status), (login, status))
        token = {"Authorization": "Token JANE@x:y"}
        self.assertEqual((await self.post_json("/api/check-in/", {}, token)).status, 401)
        self.assertEqual((await self.post_json("/api/check-in/", {}, token)).status, 429)

    async def test_other_forms_of_an_account_are_no_other_account(self) -> None:
        """All forms of one number are one name, and all that is no number another."""
        self.web.settings.current = attrs.evolve(self.web.settings.current, refusals_allowed=3)
        account = str(SIP_USER_ID)
        for forms in (
            (account, f"0{account}", f"{account}.0", int(account)),
            ("x", f"+{account}", "", [1]),
        ):
            statuses = [
                (
                    await self.post_json(
                        "/api/check-in/", {"sip_user_id": form}, basic(f"{forms[0]}{n}")
                    )
                ).status
                for n, form in enumerate(forms)
            ]
            self.assertEqual((forms, statuses), (forms, [401, 401, 401, 429]))

    async def test_guessing_of_many_logins_is_slowed_down(self) -> None:
        """An address has a limit of its own; good credentials get 429 then, never 401."""
        self.web.settings.current = attrs.evolve(
            self.web.settings.current, refusals_allowed_of_address=3
        )
        statuses = []
        for number in range(4):
            claimed = {"sip_user_id": str(SIP_USER_ID + number)}
            response = await self.post_json("/api/check-in/", claimed, basic(f"login{number}"))
            statuses.append(response.status)
        self.assertEqual(statuses, [401] * 3 + [429])
        response = await self.post_json("/api/check-in/", DEVICE, basic())
        self.assertEqual(response.status, 429)
        self.assertGreater(int(response.headers["retry-after"]), 0)

    async def test_missing_credentials_and_faults_are_no_guesses(self) -> None:
        """However many there are."""
        self.web.settings.current = attrs.evolve(
            self.web.settings.current, refusals_allowed=1, refusals_allowed_of_address=1
        )
        for _ in range(3):
            self.assertEqual((await self.post_json("/api/check-in/", DEVICE)).status, 401)
        self.accounts.failure = AccountsDown("gone")
        for _ in range(3):
            self.assertEqual((await self.post_json("/api/check-in/", DEVICE, basic())).status, 503)
        self.accounts.failure = None
        self.assertEqual((await self.post_json("/api/check-in/", DEVICE, basic())).status, 404)

    async def test_guesses_under_way_count(self) -> None:
        """Many at once: the backend gets no more than may be refused."""
        self.accounts.gate = Deferred()
        wrong = basic(password=b"wrong") | JSON
        body = json.dumps(DEVICE).encode()
        clients = [await self.connect() for _ in range(50)]
        for client in clients:
            client.send(http_message("POST", "/api/check-in/", body, wrong))
        responses = [Deferred.fromCoroutine(client.response()) for client in clients]
        while sum(response.called for response in responses) < 40:
            await self.request("GET", "/health/")
        self.accounts.gate.callback(None)
        statuses = Counter(response.status for response in await gatherResults(responses))
        self.assertEqual((statuses, self.accounts.asked), ({429: 40, 401: 10}, 10))

    async def test_no_header_can_do_more_than_be_refused(self) -> None:
        """Bytes beyond UTF-8 in those that are read as text."""
        for name, status in (("Content-Type", 415), ("X-Forwarded-For", 201)):
            loopback = (ip_network("127.0.0.0/8"),)
            self.web.settings.current = attrs.evolve(
                self.web.settings.current, trusted_proxies=loopback
            )
            headers = basic() | JSON | {name: "\xff\xfe"}
            body = json.dumps(DEVICE).encode()
            response = await self.request("POST", "/api/apns-device/", body, headers)
            self.assertEqual((name, response.status), (name, status))

    async def test_any_authorization_is_passed_or_refused(self) -> None:
        """Odd schemes, broken base64 and bytes beyond ASCII are for the backend to decide."""
        self.accounts.failure = AccessForbidden("no")
        for value in (
            "Token a:b",
            "Basic",
            "Basic !",
            "Basic \xff\xfe",
            "Basic YQ",
            "\xff",
            "x" * 999,
        ):
            response = await self.post_json("/api/check-in/", DEVICE, {"Authorization": value})
            self.assertEqual((value, response.status), (value, 403))


class ReportTests(WebCase):
    async def test_hangup_reason(self) -> None:
        """Goes to the device's metrics; 404 without a device."""
        report = DEVICE | {"unique_key": "k", "hangup_reason": "user"}
        response = await self.post_json("/api/hangup-reason/", report, basic())
        self.assertEqual(response.status, 404)
        device = Device(SIP_USER_ID, Platform.APNS, APP, "t")
        self.devices.put(device)
        response = await self.post_json("/api/hangup-reason/", report, basic())
        self.assertEqual((response.status, self.hangups), (200, [(device, "k", "user")]))

    async def test_log_metrics(self) -> None:
        """All its texts are passed on; nulls are not there."""
        report = {"sip_user_id": SIP_USER_ID, "os": "ios", "mos": 4.2, "codec": None, "new": "x"}
        response = await self.post_json("/api/log-metrics/", report, basic())
        self.assertEqual(response.status, 200)
        self.assertEqual(self.reports, [(SIP_USER_ID, {"os": "ios", "mos": "4.2", "new": "x"})])

    async def test_check_in(self) -> None:
        """Moves last_seen; 404 without a device."""
        self.assertEqual((await self.post_json("/api/check-in/", DEVICE, basic())).status, 404)
        self.devices.put(Device(SIP_USER_ID, Platform.APNS, APP, "t"))
        self.assertEqual((await self.post_json("/api/check-in/", DEVICE, basic())).status, 200)
        device = self.devices.get(SIP_USER_ID)
        assert device is not None
        self.assertGreater(device.last_seen, 0)


class HealthTests(WebCase):
    async def test_states(self) -> None:
        """A dependency that is down degrades; only draining is 503."""
        for health, status, expected in (
            (
                Health(database_up=True, redis_up=None, waiting=3, lag_ms=7),
                200,
                {"status": "ok", "database": "up", "redis": "off", "lag_ms": 7, "waiting": 3},
            ),
            (
                Health(database_up=False, redis_up=True, waiting=0),
                200,
                {
                    "status": "degraded",
                    "database": "down",
                    "redis": "up",
                    "lag_ms": 0,
                    "waiting": 0,
                },
            ),
            (
                Health(database_up=True, redis_up=False, waiting=0),
                200,
                {
                    "status": "degraded",
                    "database": "up",
                    "redis": "down",
                    "lag_ms": 0,
                    "waiting": 0,
                },
            ),
            (
                Health(database_up=True, redis_up=None, waiting=9, draining=True),
                503,
                {"status": "draining"},
            ),
        ):
            self.health = health
            response = await self.request("GET", "/health/")
            self.assertEqual((response.status, response.json()), (status, expected))
