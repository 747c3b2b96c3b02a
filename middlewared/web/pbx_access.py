"""
Which PBX a request comes from: known by its network, its password, or both.

Passwords are compared in constant time, and only a limited number of wrong ones per address.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence

from middlewared.basic_auth import decode_basic
from middlewared.clock import Clock
from middlewared.web.client_address import (
    Address,
    client_address,
    forwarding_fault,
    peer_address,
    rate_limit_key,
    within,
)
from middlewared.web.replies import CredentialsMissing, NetworkForbidden, PbxCredentialsRefused
from middlewared.web.request import Request
from middlewared.web.settings import Pbx, Rate, WebSettings
from middlewared.web.token_buckets import TokenBuckets

MOST_PEERS = 1000
"""Addresses whose PBXs are remembered; above that, all are forgotten."""


class PbxAccess:
    """Recognises PBXs, and limits their calls and the passwords that are tried."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._refusals = TokenBuckets("refusals")
        self._calls = TokenBuckets("calls")
        self._settings: WebSettings | None = None
        self._at: dict[str | None, Sequence[Pbx]] = {}

    def identify(self, request: Request) -> Pbx:
        """
        The PBX that sent ``request``, which is named after it.

        :raises NetworkForbidden: its address is no PBX's, or it may be anyone's.
        :raises CredentialsMissing: its address is that of a PBX with a password.
        :raises PbxCredentialsRefused: they are those of no PBX at this address.
        :raises TooManyRequests: too many of the address were refused.
        """
        settings = request.settings
        near = self._candidates(request, settings)
        authorization = request.requestHeaders.getRawHeaders(b"authorization", [b""])[-1]
        pbx = _without_password(near)
        if pbx is None:
            pbx = self._authenticated(near, authorization, request.address, settings)
        else:
            pbx = _by_password(near, authorization) or pbx
        request.pbx = pbx.name
        return pbx

    def take_call(self, pbx: Pbx) -> None:
        """
        Count a new call of a PBX.

        :raises TooManyRequests: it has placed more than its ``max_calls_per_s``.
        """
        if pbx.max_calls_per_s:
            rate = Rate(burst=pbx.max_calls_per_s, per_s=pbx.max_calls_per_s)
            self._calls.take(pbx.name, rate, self._clock.seconds())

    def _candidates(self, request: Request, settings: WebSettings) -> Sequence[Pbx]:
        """
        The PBXs that may have sent ``request``.

        :raises NetworkForbidden: there are none.
        """
        forwarded_for, forwarded = map(request.header_texts, (b"x-forwarded-for", b"forwarded"))
        peer = request.peer_host
        if forwarded_for or forwarded:
            fault = forwarding_fault(peer, forwarded_for, forwarded, settings.trusted_proxies)
            near = _near(request.address, fault, settings)
        else:
            fault, near = "", self._near_peer(peer, settings)
        if not near:
            of = "the networks of a [pbx:NAME]" if settings.pbxs else "pbx_networks"
            raise NetworkForbidden(
                fault or f"{request.address or 'its address'} is in none of {of}"
            )
        return near

    def _near_peer(self, peer: str | None, settings: WebSettings) -> Sequence[Pbx]:
        """The PBXs at the other end of a connection; remembered, since each call asks."""
        if settings is not self._settings or len(self._at) >= MOST_PEERS:
            self._settings, self._at = settings, {}
        near = self._at.get(peer)
        if near is None:
            near = self._at[peer] = _near(peer_address(peer), "", settings)
        return near

    def _authenticated(
        self,
        near: Sequence[Pbx],
        authorization: bytes,
        address: Address | None,
        settings: WebSettings,
    ) -> Pbx:
        if not authorization:
            raise CredentialsMissing("no Authorization header")
        allowed = settings.refusals_allowed_of_address
        rate, client = Rate(allowed, allowed / settings.refusals_window_s), rate_limit_key(address)
        self._refusals.take(client, rate, self._clock.seconds())
        pbx = _by_password(near, authorization)
        if pbx is None:
            raise PbxCredentialsRefused(f"no PBX has these credentials, from {address}")
        self._refusals.refund(client, rate)
        return pbx


def recognise(
    peer: str | None, forwarded_for: Sequence[str], authorization: bytes, settings: WebSettings
) -> Pbx | None:
    """The PBX of a request without a Forwarded header; None: :meth:`PbxAccess.identify` knows."""
    fault = forwarding_fault(peer, forwarded_for, (), settings.trusted_proxies)
    address = client_address(peer, forwarded_for, settings.trusted_proxies)
    near = _near(address, fault, settings)
    return _by_password(near, authorization) or _without_password(near)


def _near(address: Address | None, fault: str, settings: WebSettings) -> Sequence[Pbx]:
    """The PBXs that may be at ``address``, which proves nothing if it has a ``fault``."""
    pbxs = settings.pbxs or (Pbx(name="", networks=settings.pbx_networks),)
    return [
        pbx for pbx in pbxs if pbx.networks is None or (not fault and within(address, pbx.networks))
    ]


def _without_password(pbxs: Iterable[Pbx]) -> Pbx | None:
    return next((pbx for pbx in pbxs if not pbx.password), None)


def _by_password(pbxs: Iterable[Pbx], authorization: bytes) -> Pbx | None:
    """The PBX whose Basic credentials these are; all passwords are compared."""
    scheme, _, parameters = authorization.partition(b" ")
    given = decode_basic(parameters) if scheme.lower() == b"basic" else None
    if given is None:
        return None
    user, password = (text.encode("utf-8", "surrogateescape") for text in given)
    found = None
    for pbx in pbxs:
        same_password = hmac.compare_digest(pbx.password.encode(), password)
        if pbx.password and same_password and hmac.compare_digest(pbx.name.encode(), user):
            found = pbx
    return found
