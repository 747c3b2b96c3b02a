"""
Simulator: VoIPGRID's account API, as far as the daemon asks it.

An answer is about the Authorization header of the very request; a
header that belongs to no account is 401.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import attrs

from middlewared.basic_auth import decode_basic, encode_basic
from middlewared.simulator.http1_server import HttpReply, HttpServer, HttpStep, Received, json_reply
from middlewared.simulator.scripts import Scripts

PROFILE_PATH = "/api/permission/systemuser/profile/"
_ACCOUNT_PATH = "/api/phoneaccount/basic/phoneaccount/"
_ACCOUNT = re.compile(re.escape(_ACCOUNT_PATH) + r"([^/]+)/")


def basic(user: str, password: str) -> str:
    """Make the Authorization header of RFC 7617."""
    return encode_basic(user, password).decode()


Accounts: TypeAlias = dict[str, int | str | None]


def _by_header(accounts: Mapping[str | tuple[str, str], int | str | None]) -> Accounts:
    return {key if isinstance(key, str) else basic(*key): n for key, n in accounts.items()}


def profile(app_account: Any) -> HttpReply:
    """Make the answer to a profile request, with anything as app_account."""
    return json_reply(200, {"email": "user@example.org", "app_account": app_account})


def redirect(location: str) -> HttpReply:
    """Make a redirection."""
    return HttpReply(302, headers=(("Location", location),))


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class AccountsServer(HttpServer):
    """
    The account API.

    ``scripts`` orders faults for the profile request, ``account_scripts`` for the one
    after it; their key is the sip_user_id as text.

    :param accounts: an Authorization header, or (user, password), to the sip_user_id it
        speaks for; None: an account without an app account. May be changed at any time
        through the attribute ``accounts``.
    :param numbers_are_accounts: a Basic user name that is a number speaks for that
        number and any password (benchmarks have many accounts).
    """

    accounts: Accounts = attrs.field(factory=dict, converter=_by_header)
    _numbers_are_accounts: bool = False
    scripts: Scripts[HttpStep] = attrs.field(factory=Scripts, init=False)
    account_scripts: Scripts[HttpStep] = attrs.field(factory=Scripts, init=False)

    def plan(self, received: Received) -> Iterator[HttpStep]:
        """Answer for whom the header speaks, or 401."""
        authorization = received.headers.get("authorization", "")
        sip_user_id = self._number(authorization)
        if sip_user_id is None and authorization not in self.accounts:
            yield json_reply(401, {"detail": "Invalid credentials."})
        elif received.method != "GET":
            yield HttpReply(405)
        elif received.path == PROFILE_PATH:
            yield from self.scripts.take(str(sip_user_id))
            yield profile(None if sip_user_id is None else f"{_ACCOUNT_PATH}{sip_user_id}/")
        else:
            yield from self._plan_account(received.path, sip_user_id)

    def _plan_account(self, path: str, sip_user_id: int | str | None) -> Iterator[HttpStep]:
        match = _ACCOUNT.fullmatch(path)
        if match is None or match[1] != str(sip_user_id):
            yield json_reply(404, {"detail": "Not found."})
        else:
            yield from self.account_scripts.take(match[1])
            yield json_reply(200, {"account_id": match[1], "description": "simulated"})

    def _number(self, authorization: str) -> int | str | None:
        if authorization in self.accounts or not self._numbers_are_accounts:
            return self.accounts.get(authorization)
        scheme, _, encoded = authorization.partition(" ")
        user, _ = decode_basic(encoded) or ("", "")
        return int(user) if scheme == "Basic" and user.isdecimal() else None
