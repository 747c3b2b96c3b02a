"""
A device from the push parameters of a SIP contact: pn-provider, pn-param and pn-prid.

Sources: RFC 8599, sections 4.1 and 14; for Apple also the form in which Linphone registers two
tokens, one for notifications and one for calls: ``TEAM.BUNDLE.remote&voip`` with
``TOKEN:remote&TOKEN:voip``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

import attrs

from middlewared.errors import BadRequest
from middlewared.model import GOOGLE_TOKEN, Device, Platform, SipUserId
from middlewared.web.replies import NotFound
from middlewared.web.settings import PushApp

_APPLE_TOKEN = re.compile(r"[0-9A-Fa-f]{2,200}")
_APPLE_PARAM = re.compile(r"([^.\s]+)\.([^&\s]+?)(?:\.((?:remote|voip)(?:&(?:remote|voip))*))?")
_SERVICES = ("remote", "voip")


@attrs.frozen
class PushParameters:
    """The three parameters as the contact has them; a prid may be a secret."""

    provider: str
    param: str
    prid: str = attrs.field(repr=False)

    @classmethod
    def of(cls, provider: str, param: str, prid: str) -> PushParameters | None:
        """
        None: there are none.

        SIP escapes (RFC 3261 section 19.1.2) are resolved: no token has a percent sign.

        :raises BadRequest: some are missing.
        """
        given = (provider, param, prid)
        if not any(given):
            return None
        if not all(given):
            raise BadRequest("pn_provider, pn_param and pn_prid: some are missing")
        return cls(*map(unquote, given))

    def device(self, sip_user_id: SipUserId, apps: Iterable[PushApp], now: float) -> Device:
        """
        The device of an account that registered with these parameters.

        :param now: of the wall clock.
        :raises BadRequest: they are odd.
        :raises NotFound: none of ``apps`` is meant.
        """
        match self.provider.lower():
            case "apns" | "apns.dev" as provider:
                device = self._apple(sip_user_id, apps, sandbox=provider == "apns.dev")
            case "fcm":
                device = self._google(sip_user_id, apps)
            case _:
                raise NotFound("no such push provider")
        return attrs.evolve(device, registered_at=now, last_seen=now)

    def _apple(self, sip_user_id: SipUserId, apps: Iterable[PushApp], *, sandbox: bool) -> Device:
        param = _APPLE_PARAM.fullmatch(self.param)
        if param is None:
            raise BadRequest("pn_param: not TEAM.BUNDLE of an app of Apple's")
        tokens = self._tokens(param[3] or "voip")
        if "voip" not in tokens:
            raise BadRequest("pn_prid: no token for calls")
        return Device(
            sip_user_id,
            Platform.APNS,
            _find(apps, Platform.APNS, param[2], team=param[1]),
            tokens["voip"],
            sandbox=sandbox,
            push_profile="once",  # iOS shows each push as a call
            remote_notification_token=tokens.get("remote", ""),
        )

    def _tokens(self, services: str) -> Mapping[str, str]:
        """The tokens by service; one that names none is for ``services``."""
        tokens: dict[str, str] = {}
        for entry in self.prid.split("&"):
            token, colon, service = entry.partition(":")
            if _APPLE_TOKEN.fullmatch(token) is None:
                raise BadRequest("pn_prid: not a token of Apple's")
            service = service if colon else services
            if service not in _SERVICES or service in tokens:
                raise BadRequest("pn_prid: not one token for each service")
            tokens[service] = token
        return tokens

    def _google(self, sip_user_id: SipUserId, apps: Iterable[PushApp]) -> Device:
        if GOOGLE_TOKEN.fullmatch(self.prid) is None:
            raise BadRequest("pn_prid: not a token of Google's")
        app = _find(apps, Platform.ANDROID, self.param)
        return Device(sip_user_id, Platform.ANDROID, app, self.prid)


def _find(apps: Iterable[PushApp], platform: Platform, name: str, team: str = "") -> str:
    """The id of the first app that has this name, and this team if its own is known."""
    for app in apps:
        if app.platform is platform and name in app.names and app.team in ("", team):
            return app.app
    raise NotFound("no such app")
