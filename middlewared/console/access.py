"""
Who may see the console, who may act, and whether the console's own pages ask for it.

Browsers send Basic credentials with requests that other sites cause. So a request from a
foreign page is refused, and a form needs its page's origin or a proof that only our pages hold.
"""

# Most of twisted.web has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

import hmac
import secrets
from urllib.parse import urlsplit

from middlewared.basic_auth import decode_basic
from middlewared.clock import Clock
from middlewared.console.sources import Users
from middlewared.errors import AccessForbidden
from middlewared.web.client_address import rate_limit_key
from middlewared.web.login_throttle import LoginThrottle
from middlewared.web.replies import CredentialsMissing, Headers
from middlewared.web.request import Request

SAFE_HEADERS: Headers = (
    (
        b"Content-Security-Policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
        b" img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"X-Frame-Options", b"DENY"),
    # Not no-referrer: browsers would then send our own forms with a null Origin.
    (b"Referrer-Policy", b"same-origin"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
# What a form of a foreign page can send without being asked for permission (Fetch, section
# 2.2.2), and what a request without a body has.
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")


class Access:
    """Validates users, and where their requests come from."""

    def __init__(self, *, clock: Clock, users: Users) -> None:
        self._users = users
        self._throttle = LoginThrottle(clock=clock, slots=users.at_once)
        self._key = secrets.token_bytes(32)

    async def user(self, request: Request) -> str:
        """
        The user whose credentials came with ``request``.

        :raises CredentialsMissing: there are none.
        :raises CredentialsRefused: they are wrong.
        :raises TooManyRequests: too many were refused to this client.
        :raises AccountsDown: they could not be checked in time.
        """
        authorization = request.requestHeaders.getRawHeaders(b"authorization", [b""])[-1]
        if not authorization:
            raise CredentialsMissing("no Authorization header")
        account = await self._throttle.attempt(
            rate_limit_key(request.address),
            lambda: (("as", _login(authorization)),),
            request.settings,
            lambda: self._users.authenticate(authorization),
        )
        return str(account.sip_user_id)

    def proof(self, user: str) -> str:
        """What a form of ours holds: made in this process, for this user."""
        name = user.encode("utf-8", "surrogateescape")
        return hmac.new(self._key, name, "sha256").hexdigest()

    def require_own_origin(self, request: Request) -> None:
        """:raises AccessForbidden: a foreign page, or one without an origin, has caused it."""
        origins = request.header_texts(b"origin")
        host = request.header_texts(b"host")[-1:]
        if not all(host and _is_at(origin, host[0]) for origin in origins):
            raise AccessForbidden("from a foreign page")

    def require_proof(self, request: Request, user: str) -> None:
        """
        For what changes something.

        :raises AccessForbidden: it may be a form of a foreign page.
        """
        if request.header_texts(b"sec-fetch-site")[-1:] == ["cross-site"]:
            raise AccessForbidden("from a foreign page")
        if request.header_texts(b"origin"):
            return  # validated before: it is our own
        content_type = "".join(request.header_texts(b"content-type")[-1:]).lower()
        if content_type.startswith(_FORMS):
            given = request.fields().get("proof")
            if not isinstance(given, str) or not given.isascii():
                raise AccessForbidden("a form without a proof")
            if not hmac.compare_digest(given, self.proof(user)):
                raise AccessForbidden("a form with a wrong proof")


def _login(authorization: bytes) -> int:
    """The name of the user that tries to log in; all malformed ones count as one."""
    login, _ = decode_basic(authorization.partition(b" ")[2], lenient=True) or ("", "")
    return hash(login.strip().casefold())


def _is_at(origin: str, host: str) -> bool:
    """Whether an Origin header names the server that the Host header names."""
    try:
        parsed = urlsplit(origin)
        port = _DEFAULT_PORTS.get(parsed.scheme)
        ours = urlsplit(f"{parsed.scheme}://{host}")
        return (
            port is not None
            and not parsed.path
            and bool(parsed.hostname)
            and parsed.hostname == ours.hostname
            and (parsed.port or port) == (ours.port or port)
        )
    except ValueError:
        return False
