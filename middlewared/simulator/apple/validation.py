"""
Simulator, Apple: validates one push request by the rules of Apple's pages.

Nothing here remembers a push; only provider tokens are remembered,
because their update rule is about time. Where Apple is lenient but the daemon must not
rely on it (push type, authority, JSON), the validator is strict.

Source: "Sending notification requests to APNs" and "Establishing a token-based
connection to APNs" (developer.apple.com).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import jwt

from middlewared.clock import wall_clock
from middlewared.simulator.apple.faults import Reject, rejection
from middlewared.simulator.certificates import ProviderKey

TOKEN_LIFETIME_S = 3600
CLOCK_SKEW_S = 60
LONGEST_EXPIRATION_S = 30 * 86_400
_PATH = re.compile(r"/3/device/([^/]*)")
_DEVICE_TOKEN = re.compile(r"(?:[0-9a-fA-F]{2}){32,100}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PUSH_TYPES = frozenset(
    (
        "alert",
        "background",
        "voip",
        "complication",
        "fileprovider",
        "mdm",
        "location",
        "liveactivity",
    )
)
_PAYLOAD_LIMIT = {"voip": 5120}
_USUAL_PAYLOAD_LIMIT = 4096


class Broken(Exception):
    """A rule was broken; ends in ``answer``."""

    def __init__(self, answer: Reject) -> None:
        super().__init__(answer.reason)
        self.answer = answer


@attrs.frozen
class PushRequest:
    """One request as the wire gave it."""

    headers: Mapping[str, str]
    duplicates: bool
    body: bytes


@attrs.define
class AcceptedKeys:
    """What a connection has proved of itself: its certificate's topic, or its token's team."""

    certificate_topic: str | None = None
    team_id: str | None = None


@attrs.frozen
class KnownTokens:
    """
    Verifies provider tokens; each distinct token costs one signature check.

    :param update_interval_s: a new token sooner after the last is too many; 0: no rule.
    """

    keys: Mapping[str, ProviderKey]
    update_interval_s: float = 0
    _known: dict[str, tuple[str, float]] = attrs.field(factory=dict, init=False, repr=False)
    _updated_at: dict[str, float] = attrs.field(factory=dict, init=False)

    def check(self, authorization: str | None, credentials: AcceptedKeys) -> None:
        """Raise Broken unless this token may push on the connection of ``credentials``."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Broken(rejection("MissingProviderToken"))
        team_id, issued_at = self._known.get(token) or self._verify(token)
        if wall_clock() - issued_at > TOKEN_LIFETIME_S:
            raise Broken(rejection("ExpiredProviderToken"))
        # One team per connection, according to Apple's forum.
        if credentials.team_id not in (None, team_id):
            raise Broken(rejection("InvalidProviderToken"))
        credentials.team_id = team_id

    def _verify(self, token: str) -> tuple[str, float]:
        key, claims = self._decode(token)
        issued_at = claims.get("iat")
        if not isinstance(issued_at, int) or issued_at > wall_clock() + CLOCK_SKEW_S:
            raise Broken(rejection("InvalidProviderToken"))
        if claims.get("iss") != key.team_id:
            raise Broken(rejection("InvalidProviderToken"))
        self._count_update(key.key_id)
        if len(self._known) >= 64:
            self._known.clear()
        self._known[token] = (key.team_id, issued_at)
        return key.team_id, issued_at

    def _decode(self, token: str) -> tuple[ProviderKey, dict[str, Any]]:
        try:
            key_id = jwt.get_unverified_header(token).get("kid", "")
            key = self.keys.get(key_id)
            if key is None:
                raise Broken(rejection("InvalidProviderToken"))
            # The times are checked by the simulator's clock, not by the library's.
            options: Any = {"verify_iat": False, "verify_exp": False, "verify_nbf": False}
            return key, jwt.decode(token, key.public_key_pem, algorithms=["ES256"], options=options)
        except jwt.InvalidTokenError as error:
            raise Broken(rejection("InvalidProviderToken")) from error

    def _count_update(self, key_id: str) -> None:
        now = wall_clock()
        last = self._updated_at.get(key_id)
        if last is not None and now - last < self.update_interval_s:
            raise Broken(rejection("TooManyProviderTokenUpdates"))
        self._updated_at[key_id] = now


@attrs.define(kw_only=True, eq=False, repr=False)
class Validator:
    """
    Validates the requests of all connections of one server.

    :param topics: the topics this server's apps may use.
    :param tokens: the device tokens of this environment; None: any well-formed one.
    """

    _topics: Collection[str]
    tokens: Collection[str] | None
    _provider_tokens: KnownTokens
    authorities: Sequence[str] = attrs.field(default=(), init=False)

    def validate(
        self, request: PushRequest, credentials: AcceptedKeys
    ) -> tuple[str, dict[str, Any]]:
        """Give device token and payload, or raise Broken."""
        token = self._check_target(request.headers)
        if request.duplicates:
            raise Broken(rejection("DuplicateHeaders"))
        if credentials.certificate_topic is None:
            self._provider_tokens.check(request.headers.get("authorization"), credentials)
        push_type = self._check_topic(request.headers, credentials)
        self._check_delivery(request.headers, push_type)
        payload = _check_payload(request.body, push_type)
        if not _DEVICE_TOKEN.fullmatch(token):
            raise Broken(rejection("BadDeviceToken"))
        if self.tokens is not None and token not in self.tokens:
            raise Broken(rejection("BadDeviceToken"))
        return token, payload

    def _check_target(self, headers: Mapping[str, str]) -> str:
        if headers[":method"] != "POST":
            raise Broken(rejection("MethodNotAllowed"))
        path = _PATH.fullmatch(headers[":path"])
        if path is None or headers[":scheme"] != "https":
            raise Broken(rejection("BadPath"))
        if headers.get(":authority") not in self.authorities:
            raise Broken(Reject(421, "MisdirectedRequest"))
        if not path[1]:
            raise Broken(rejection("MissingDeviceToken"))
        return path[1]

    def _check_topic(self, headers: Mapping[str, str], credentials: AcceptedKeys) -> str:
        topic = headers.get("apns-topic") or credentials.certificate_topic
        if topic is None:
            raise Broken(rejection("MissingTopic"))
        if topic not in self._topics or not _certified(topic, credentials.certificate_topic):
            raise Broken(rejection("TopicDisallowed"))
        push_type = headers.get("apns-push-type", "")
        if push_type not in _PUSH_TYPES or topic.endswith(".voip") != (push_type == "voip"):
            raise Broken(rejection("InvalidPushType"))
        return push_type

    def _check_delivery(self, headers: Mapping[str, str], push_type: str) -> None:
        priority = headers.get("apns-priority", "10")
        if priority not in ("1", "5", "10") or (push_type == "background" and priority != "5"):
            raise Broken(rejection("BadPriority"))
        expiration = headers.get("apns-expiration", "0")
        if not (expiration.isascii() and expiration.isdecimal()) or (
            int(expiration) > wall_clock() + LONGEST_EXPIRATION_S
        ):
            raise Broken(rejection("BadExpirationDate"))
        apns_id = headers.get("apns-id")
        if apns_id is not None and not _UUID.fullmatch(apns_id):
            raise Broken(rejection("BadMessageId"))
        if len(headers.get("apns-collapse-id", "")) > 64:
            raise Broken(rejection("BadCollapseId"))


def _certified(topic: str, certificate_topic: str | None) -> bool:
    """Whether the certificate covers ``topic``: its own, or the app's alerts."""
    return certificate_topic is None or topic in (
        certificate_topic,
        certificate_topic.removesuffix(".voip"),
    )


def _check_payload(body: bytes, push_type: str) -> dict[str, Any]:
    if not body:
        raise Broken(rejection("PayloadEmpty"))
    if len(body) > _PAYLOAD_LIMIT.get(push_type, _USUAL_PAYLOAD_LIMIT):
        raise Broken(rejection("PayloadTooLarge"))
    try:
        payload = json.loads(body)
    except ValueError:
        payload = None
    if not isinstance(payload, dict) or not isinstance(payload.get("aps", {}), dict):
        # Apple documents no reason for it.
        raise Broken(Reject(400, "PayloadMalformed"))
    return payload
