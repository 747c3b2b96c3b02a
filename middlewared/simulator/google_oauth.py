"""
Simulator, Google: the OAuth 2.0 token endpoint for service accounts.

An access token is issued only for an assertion that one of the
trusted accounts has signed for this endpoint and the messaging scope.

Source: RFC 7523, and "Using OAuth 2.0 for server to server applications".
"""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import parse_qs

import attrs
import jwt

from middlewared.clock import wall_clock
from middlewared.simulator.certificates import IssuedServiceAccount
from middlewared.simulator.http1_server import HttpReply, Received, json_reply

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
LONGEST_ASSERTION_S = 3600
CLOCK_SKEW_S = 60
_MOST_TOKENS = 1000


class GrantRefused(Exception):
    """The request was refused; ends in ``reply``."""

    def __init__(self, reply: HttpReply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def oauth_error(error: str, description: str = "Simulated.", status: int = 400) -> HttpReply:
    """Make an error of RFC 6749, section 5.2; invalid_grant means clock or key."""
    return json_reply(status, {"error": error, "error_description": description})


@attrs.frozen
class Grant:
    """An access token that was issued, and until when it is good."""

    account: IssuedServiceAccount
    expires_at: float


class TokenEndpoint:
    """Issues and knows access tokens. ``expires_in_s`` holds for those to come."""

    def __init__(self) -> None:
        self.expires_in_s = 3599
        self.issued_count = 0
        self._accounts: dict[str, IssuedServiceAccount] = {}
        self._grants: dict[str, Grant] = {}

    def trust(self, account: IssuedServiceAccount) -> None:
        """Know ``account`` from now on."""
        self._accounts[account.client_email] = account

    def knows_project(self, project_id: str) -> bool:
        """Whether any account belongs to this project."""
        return any(account.project_id == project_id for account in self._accounts.values())

    @property
    def tokens(self) -> list[str]:
        """The access tokens that were issued and not revoked."""
        return list(self._grants)

    def revoke_all(self) -> None:
        """Forget every access token that was issued."""
        self._grants.clear()

    def check(self, authorization: str) -> IssuedServiceAccount | None:
        """Whose access token it is; None when it is none, too old or revoked."""
        scheme, _, token = authorization.partition(" ")
        grant = self._grants.get(token) if scheme.lower() == "bearer" else None
        return grant.account if grant and wall_clock() < grant.expires_at else None

    def account_of(self, received: Received) -> IssuedServiceAccount:
        """Validate a token request: the account that signed it, or GrantRefused."""
        if received.method != "POST":
            raise GrantRefused(oauth_error("invalid_request", "Only POST.", 405))
        if "application/x-www-form-urlencoded" not in received.headers.get("content-type", ""):
            raise GrantRefused(oauth_error("invalid_request", "Not a form."))
        form = parse_qs(received.body.decode("latin-1"))
        if form.get("grant_type") != [GRANT_TYPE]:
            raise GrantRefused(oauth_error("unsupported_grant_type", "Invalid grant_type."))
        account, claims = self._verified(form.get("assertion", [""])[-1])
        self._check_times(claims)
        if SCOPE not in str(claims.get("scope", "")).split():
            raise GrantRefused(oauth_error("invalid_scope", "Invalid OAuth scope."))
        return account

    def issue(self, account: IssuedServiceAccount) -> HttpReply:
        """Issue an access token."""
        if len(self._grants) >= _MOST_TOKENS:
            self._grants.clear()
        token = f"ya29.{secrets.token_urlsafe(32)}"
        self._grants[token] = Grant(account, wall_clock() + self.expires_in_s)
        self.issued_count += 1
        document = {"access_token": token, "expires_in": self.expires_in_s, "token_type": "Bearer"}
        return json_reply(200, document)

    def _verified(self, assertion: str) -> tuple[IssuedServiceAccount, dict[str, Any]]:
        # The times are checked by the simulator's clock, not by the library's.
        unchecked: Any = {"verify_signature": False}
        options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
        try:
            header = jwt.get_unverified_header(assertion)
            issuer = jwt.decode(assertion, options=unchecked).get("iss")
            account = self._accounts.get(str(issuer))
            if account is None or header.get("kid", account.private_key_id) != (
                account.private_key_id
            ):
                raise GrantRefused(oauth_error("invalid_grant", "Invalid grant: account not found"))
            return account, jwt.decode(
                assertion,
                account.public_key_pem,
                algorithms=["RS256"],
                audience=account.token_uri,
                options=options,
            )
        except jwt.InvalidTokenError as error:
            text = f"Invalid JWT: {type(error).__name__}"
            raise GrantRefused(oauth_error("invalid_grant", text)) from error

    def _check_times(self, claims: dict[str, Any]) -> None:
        issued_at, expires_at, now = claims.get("iat"), claims.get("exp"), wall_clock()
        if (
            not isinstance(issued_at, int)
            or not isinstance(expires_at, int)
            or not issued_at - CLOCK_SKEW_S <= now < expires_at
            or expires_at - issued_at > LONGEST_ASSERTION_S
        ):
            text = (
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a"
                " reasonable timeframe. Check your iat and exp values in the JWT claim."
            )
            raise GrantRefused(oauth_error("invalid_grant", text))
