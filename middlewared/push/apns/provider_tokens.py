"""
Provider tokens: JSON Web Tokens, signed with a team's key, that authorize its pushes.

This process has one token for each (team, key), and renews it no more often than Apple
allows. Source: Apple, "Establishing a token-based connection to APNs".
"""

from __future__ import annotations

import attrs
import jwt

from middlewared.clock import Clock, WallClock, wall_clock
from middlewared.push.apns.apple_credentials import KeyCredentials

RENEW_AFTER_S = 50 * 60.0
"""Apple accepts tokens that are at most an hour old."""

BACKDATED_S = 30
"""How far our clock may be ahead of Apple's: tokens from the future are refused."""

FORCED_PERIOD_S = 20 * 60.0
MAX_FORCED = 3
"""
How many tokens may be made in a period because Apple called one expired. Apple expects at
most one in 20 minutes; if even the third one is called expired, our clock is wrong.
"""


@attrs.frozen
class ProviderToken:
    """A token and when it was made, by the clock of its :class:`ProviderTokens`."""

    text: str = attrs.field(repr=False)
    made_at: float


class ProviderTokens:
    """
    All provider tokens of this process; bounded by the keys that were configured.

    A token's age is measured by ``clock``; the time of issue in it comes from ``wall``.
    """

    def __init__(self, *, clock: Clock, wall: WallClock = wall_clock) -> None:
        self._clock = clock
        self._wall = wall
        self._tokens: dict[KeyCredentials, ProviderToken] = {}
        self._forced: dict[KeyCredentials, list[float]] = {}

    def current(self, credentials: KeyCredentials) -> ProviderToken:
        """The token of a key; it is renewed when it is 50 minutes old."""
        token = self._tokens.get(credentials)
        if token is None or self._clock.seconds() - token.made_at >= RENEW_AFTER_S:
            token = self._make(credentials)
        return token

    def expired(self, credentials: KeyCredentials, token: ProviderToken) -> ProviderToken | None:
        """
        Apple called ``token`` expired.

        :return: the token to use instead; None when too many expired.
        """
        current = self.current(credentials)
        if current is not token:
            return current  # renewed since
        since = self._clock.seconds() - FORCED_PERIOD_S
        recent = [at for at in self._forced.get(credentials, ()) if at > since]
        if len(recent) >= MAX_FORCED:
            return None
        self._forced[credentials] = [*recent, self._clock.seconds()]
        return self._make(credentials)

    def _make(self, credentials: KeyCredentials) -> ProviderToken:
        text = jwt.encode(
            {"iss": credentials.team_id, "iat": int(self._wall()) - BACKDATED_S},
            credentials.key,
            algorithm="ES256",
            headers={"kid": credentials.key_id},
        )
        token = self._tokens[credentials] = ProviderToken(text, self._clock.seconds())
        return token
