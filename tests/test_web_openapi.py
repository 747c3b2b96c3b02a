"""The description of the API is true: a generator drives the running web with it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import attrs
from twisted.internet.utils import getProcessOutputAndValue

from middlewared.accounts.interface import Account
from middlewared.errors import CredentialsRefused
from middlewared.model import Device, Outcome, Platform
from middlewared.web.fields import REPORT_FIELDS
from middlewared.web.settings import Rate
from tests import EXAMPLES
from tests.web_stand_ins import WebCase

SET_BY_THE_DAEMON = {"platform", "registered_at", "last_seen", "silent_streak", "last_answered"}
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
# Leniency is part of the contract (nulls, unknown fields, numbers as text), so that data
# which breaks the description need not be refused.
UNFIT_CHECKS = "negative_data_rejection"


class EveryApp(frozenset[tuple[str, Platform]]):
    """Every app has a section."""

    def __contains__(self, app: object) -> bool:
        return True


class OneKey:
    """One set of credentials is valid for every account."""

    needs_credentials = True
    at_once = 100

    async def authenticate(self, authorization: bytes) -> Account:
        if authorization != b"Token any":
            raise CredentialsRefused("another one")
        return Account(None)


class DescriptionTests(WebCase):
    settings = attrs.evolve(
        WebCase.settings,
        known_apps=EveryApp(),
        refusals_allowed=1_000_000,
        refusals_allowed_of_address=1_000_000,
        unknown_keys=Rate(1_000_000, 1),
        registrations=Rate(1_000_000, 1),
        reports=Rate(1_000_000, 1),
    )

    def make_accounts(self) -> OneKey:
        return OneKey()

    async def describe(self) -> dict[str, dict[str, dict[str, object]]]:
        response = await self.request("GET", "/api/openapi.json")
        self.assertEqual(response.headers["content-type"], "application/json")
        document: dict[str, dict[str, dict[str, object]]] = response.json()
        return document

    async def test_every_route_is_described(self) -> None:
        """With exactly the methods it knows; HEAD goes with GET."""
        described = await self.describe()
        for path, operations in described["paths"].items():
            response = await self.request("BREW", path)
            allowed = set(response.headers["allow"].lower().split(", ")) - {"head"}
            self.assertEqual((path, allowed), (path, set(operations)))
        served = {endpoint.path for endpoint in self.web.endpoints()}
        self.assertEqual(served, {path.rstrip("/") for path in described["paths"]})

    async def test_report_fields_are_described(self) -> None:
        """Those whose lists and objects are refused."""
        schemas = (await self.describe())["components"]["schemas"]
        report = schemas["Report"]
        assert isinstance(report, dict)
        self.assertEqual(set(report["properties"]), REPORT_FIELDS | {"sip_user_id"})

    async def test_device_fields_are_described(self) -> None:
        """Those that an app sends; the others are the registry's own."""
        schemas = (await self.describe())["components"]["schemas"]
        sent = {field.name for field in attrs.fields(Device)} - SET_BY_THE_DAEMON
        described = schemas["Device"]
        assert isinstance(described, dict)
        self.assertEqual(set(described["properties"]), sent)

    async def test_generated_requests_are_answered_as_described(self) -> None:
        """Good ones and bad ones; no 5xx, no undescribed status, header or body."""
        self.calls.at_once = Outcome.ANSWERED
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        output, errors, code = await getProcessOutputAndValue(
            str(SCHEMATHESIS),
            [
                "--no-color", "run", f"http://127.0.0.1:{self.port}/api/openapi.json",
                "--max-examples", str(EXAMPLES // 20), "--exclude-checks", UNFIT_CHECKS,
                "--header", "Authorization: Token any",
                "--continue-on-failure", "--generation-deterministic",
            ],
            env={"PYTHONWARNINGS": "ignore", "PATH": "/usr/bin:/bin", "HOME": home.name},
            path=home.name,
        )  # fmt: skip
        self.assertEqual(code, 0, (output + errors).decode())
