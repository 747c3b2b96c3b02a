"""
Access tokens for FCM HTTP v1 (OAuth 2.0 JWT bearer grant, RFC 7523).

At most one renewal is in flight, and no push waits while a token is valid: an outage of the
token server does not affect pushes until the token expires. A timer renews it, so that a
call after hours without calls finds a valid one.
"""

from __future__ import annotations

import random
import re
from math import inf
from typing import TypeAlias
from urllib.parse import urlencode

import attrs
import jwt
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from middlewared.background import shielded
from middlewared.clock import Clock, DelayedCall, WallClock, wall_clock
from middlewared.outgoing.interface import HttpClient, HttpResponse, OutgoingFailed
from middlewared.push.google.error_bodies import json_object, retry_after_s, server_time, word
from middlewared.push.google.service_account import ServiceAccount
from middlewared.push.interface import ConfigFault, Temporary
from middlewared.push.problem_log import LineLimit

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
ASSERTION_S = 3600
RENEW_EARLY_S = 300.0
MAX_LIFETIME_S = 86_400.0 * 30
RENEWAL_TIMEOUT_S = 5.0
MAX_RETRY_AFTER_S = 30.0
FIRST_BACKOFF_S = 0.25
# Calls last seconds: try again often while one waits, otherwise there is time.
MAX_URGENT_BACKOFF_S, MAX_BACKOFF_S = 2.0, 30.0
MAX_JITTER = 0.25
DISCARD_INTERVAL_S = 1.0
NOTABLE_SKEW_S = 60.0


@attrs.frozen
class AccessToken:
    """Authorizes pushes. Its times are by the clock of its :class:`AccessTokens`."""

    text: str = attrs.field(repr=False)
    renew_at: float
    expires_at: float


Fault: TypeAlias = ConfigFault | Temporary


class AccessTokens:
    """
    The access token of one service account, shared by all its pushes.

    The lifetime of a token is measured by ``clock``; the times in requests are from ``wall``.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        account: ServiceAccount,
        http: HttpClient,
        clock: Clock,
        wall: WallClock = wall_clock,
    ) -> None:
        self._account = account
        self._http = http
        self._clock = clock
        self._wall = wall
        self._token: AccessToken | None = None
        self._renewing: Deferred[AccessToken | Fault] | None = None
        self._fault: Fault = Temporary("no-token")
        self._failures = 0
        self._retry_at = -inf
        """When a push that needs a token may start a renewal."""

        self._discarded_at = -inf
        self._timer: DelayedCall | None = None
        self._stopped = False
        self._line_limit = LineLimit(clock=clock)

    @property
    def up(self) -> bool | None:
        """Whether there is a valid token; None: a renewal has yet to show it."""
        if self._failures or self._token is not None:
            return self.current is not None
        return None

    def start(self) -> None:
        """Fetch the first token now, and the next one each time before it expires."""
        self._start_renewal()

    async def get(self) -> AccessToken | Fault:
        """
        The current token, or else the one of the next renewal, or why there is none.

        The renewal goes on for other callers if this one is cancelled.
        """
        token = self.current
        if token is not None:
            return token
        if self._clock.seconds() >= self._retry_at:
            self._start_renewal()
        if self._renewing is None:  # it failed just now
            return self.current or self._fault
        return await shielded(self._renewing)

    @property
    def current(self) -> AccessToken | None:
        """The valid token; None: there is none now."""
        token = self._token
        return token if token is not None and self._clock.seconds() < token.expires_at else None

    def discard(self, token: AccessToken) -> bool:
        """
        Google refused ``token``: it is not used again.

        :return: whether another token may help; False when new tokens are refused at once.
        """
        if token is not self._token:
            return True
        now = self._clock.seconds()
        if now < self._discarded_at + DISCARD_INTERVAL_S:
            return False
        self._discarded_at = now
        self._token = None
        return True

    async def stop(self) -> None:
        """Cancel the renewal in flight, whose callers get Temporary; start no other."""
        self._stopped = True
        self._cancel_timer()
        if self._renewing is not None:
            self._renewing.cancel()

    def _start_renewal(self) -> None:
        """Start a renewal, unless one is in flight."""
        self._cancel_timer()
        if self._renewing is None and not self._stopped:
            renewing = Deferred.fromCoroutine(self._renew())
            if not renewing.called:
                self._renewing = renewing

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    async def _renew(self) -> AccessToken | Fault:
        result: AccessToken | Fault = Temporary("token-failed")
        try:
            result = await self._request_token()
        except OutgoingFailed as error:
            self._report("no access token from {uri}: {why}", why=str(error))
            result = Temporary("token-transport")
        except CancelledError:
            pass
        except Exception:  # a bug of ours must not leave callers waiting
            self._log.failure("renewing the access token failed")
        self._renewing = None
        if isinstance(result, AccessToken):
            self._token, self._failures, self._retry_at = result, 0, -inf
            self._renew_in(result.renew_at - self._clock.seconds())
        else:
            self._fault = result
            self._failures += 1
            self._retry_at = self._clock.seconds() + self._pause_s(MAX_URGENT_BACKOFF_S)
            jitter = random.uniform(1, 1 + MAX_JITTER)  # noqa: S311
            self._renew_in(self._pause_s(MAX_BACKOFF_S) * jitter)
        return result

    def _renew_in(self, delay_s: float) -> None:
        self._cancel_timer()
        if not self._stopped:
            self._timer = self._clock.callLater(max(0.0, delay_s), self._start_renewal)

    def _pause_s(self, longest_s: float) -> float:
        """The pause before the next renewal, at least the one that the server requested."""
        requested_s = self._fault.retry_after_s if isinstance(self._fault, Temporary) else None
        # Not backoff_s, whose jitter may halve a pause: the server is asked twice a minute at most.
        own_s = min(longest_s, FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 16))
        return max(own_s, min(requested_s or 0.0, MAX_RETRY_AFTER_S))

    def _report(self, line: str, **fields: object) -> None:
        """Log why there is no token; the same reason once a minute."""
        if not self._line_limit.allows(f"{line} {fields.get('why')}"):
            return
        left_s = 0.0
        if self._token is not None:
            left_s = max(0.0, self._token.expires_at - self._clock.seconds())
        self._log.error(
            line + "; pushes can be sent for {left_s:.0f} s more",
            uri=self._uri,
            left_s=left_s,
            **fields,
        )

    async def _request_token(self) -> AccessToken | Fault:
        requested_at = self._clock.seconds()
        grant = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": self._assertion(self._wall()),
        }
        reply = await self._http.request(
            "POST",
            self._uri,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode(grant).encode(),
            timeout_s=RENEWAL_TIMEOUT_S,
        )
        return _token(reply, requested_at) or self._refusal(reply)

    def _assertion(self, now: float) -> str:
        claims = {
            "iss": self._account.client_email,
            "scope": SCOPE,
            "aud": self._uri,
            "iat": int(now),
            "exp": int(now) + ASSERTION_S,
        }
        key_id = {"kid": self._account.private_key_id}
        return jwt.encode(claims, self._account.private_key, algorithm="RS256", headers=key_id)

    def _refusal(self, reply: HttpResponse) -> Fault:
        """Why this response contains no token."""
        now = self._wall()
        reason = word(json_object(reply).get("error")) or f"token-{reply.status}"
        if reply.status < 400 or reply.status == 429 or reply.status >= 500:
            self._report("no access token from {uri}: {why}", why=reason)
            return Temporary(reason, retry_after_s(reply, now))
        refused = "{uri} refuses the service account {account} ({why}): "
        account = self._account.client_email
        skew_s = now - (server_time(reply) or now)
        if abs(skew_s) > NOTABLE_SKEW_S:
            self._report(
                refused + "our clock is {skew_s:.0f} s off the server's; correct the time of this"
                " machine",
                account=account,
                why=reason,
                skew_s=skew_s,
            )
        else:
            self._report(
                refused + "its key was revoked or the account removed", account=account, why=reason
            )
        return ConfigFault(reason)

    @property
    def _uri(self) -> str:
        return self._account.token_uri


def _token(reply: HttpResponse, requested_at: float) -> AccessToken | None:
    document = json_object(reply)
    text, lifetime_s = document.get("access_token"), document.get("expires_in")
    if reply.status != 200 or not isinstance(text, str) or not isinstance(lifetime_s, int | float):
        return None
    if not re.fullmatch(r"[!-~]+", text) or not 0 < lifetime_s < MAX_LIFETIME_S:
        return None
    early_s = min(RENEW_EARLY_S, lifetime_s / 2)
    return AccessToken(text, requested_at + lifetime_s - early_s, requested_at + lifetime_s)
