"""
Simulator, Apple: one connection: whom it trusts, and the pushes on it.

The stream limit is 1 until a push was accepted, where the behaviour demands it.
"""

from __future__ import annotations

from typing import Any

import attrs
from cryptography.x509.oid import NameOID
from twisted.internet.interfaces import IHandshakeListener
from zope.interface import implementer

from middlewared.simulator.apple.faults import Behaviour, Step
from middlewared.simulator.apple.push_stream import PushStream
from middlewared.simulator.apple.validation import AcceptedKeys, Broken, PushRequest, Validator
from middlewared.simulator.http2.served_connection import Office, ServedConnection
from middlewared.simulator.http2.served_stream import Fields
from middlewared.simulator.record import ReceivedPush, Record
from middlewared.simulator.scripts import Scripts

# HPACK (RFC 7541): ":status 200" of the static table, then apns-id, never indexed.
_ACCEPTED = b"\x88\x10\x07apns-id"
_LONGEST_ID = 126


@attrs.frozen(kw_only=True)
class AppleOffice(Office):
    """What all connections of an environment share."""

    environment: str
    validator: Validator
    scripts: Scripts[Step]
    record: Record[ReceivedPush]


@implementer(IHandshakeListener)
class AppleConnection(ServedConnection[PushStream]):
    """
    Has pushes validated, and plays their scripts.

    Implements :class:`~.push_stream.AppleWire`.
    """

    def __init__(self, *, number: int, office: AppleOffice, behaviour: Behaviour) -> None:
        super().__init__(number=number, office=office, behaviour=behaviour)
        self._office = office
        self._manners = behaviour
        self._credentials = AcceptedKeys()
        self._limited = False

    def __repr__(self) -> str:
        place = self._office.environment
        return f"<AppleConnection {self.number} {place} open={len(self._exchanges)}>"

    def handshakeCompleted(self) -> None:
        """Validate ALPN and certificate, then greet."""
        if self.transport.negotiatedProtocol != b"h2":
            self._office.record.violations.append("no h2 in ALPN")
            self.abort()
            return
        self._credentials.certificate_topic = self._certificate_topic()
        one = self._manners.one_until_success
        self._limited = self._credentials.certificate_topic is None if one is None else one
        self.greet(1 if self._limited else self._manners.max_concurrent_streams)

    def _certificate_topic(self) -> str | None:
        certificate = self.transport.getPeerCertificate()
        if certificate is None:
            return None
        names = certificate.to_cryptography().subject.get_attributes_for_oid(NameOID.USER_ID)
        return str(names[0].value) if names else ""

    def new_stream(self, stream_id: int, fields: Fields) -> PushStream:
        return PushStream(stream_id, fields, self, record=self._office.record)

    def serve(self, stream: PushStream) -> None:
        """Validate a push, then play its script."""
        headers = dict(stream.fields)
        request = PushRequest(headers, len(headers) != len(stream.fields), bytes(stream.body))
        try:
            token, payload = self._office.validator.validate(request, self._credentials)
        except Broken as broken:
            self._office.record.refused.append(broken.answer.reason)
            stream.reject(broken.answer)
        else:
            self._take(stream, token, headers, payload)

    def _take(
        self, stream: PushStream, token: str, headers: dict[str, str], payload: dict[str, Any]
    ) -> None:
        office = self._office
        stream.push = ReceivedPush(
            token=token,
            headers=headers,
            payload=payload,
            environment=office.environment,
            connection=self.number,
            stream_id=stream.stream_id,
            received_at=office.clock.seconds(),
        )
        office.record.receive(stream.push)
        stream.steps = iter(office.scripts.take(token))
        self.count_taken()
        stream.proceed()

    # AppleWire.

    def accept(self, stream_id: int, apns_id: str) -> bool:
        given = apns_id.encode("ascii")
        if len(given) > _LONGEST_ID or not self._http2.can_answer(stream_id):
            return False
        block = _ACCEPTED + bytes((len(given),)) + given
        self.write_raw(self._http2.answer(stream_id, block))
        return True

    def accepted(self) -> None:
        if self._limited:
            self._limited = False
            self.set_stream_limit(self._manners.max_concurrent_streams)

    def rejected(self) -> None:
        if self._manners.limit_after_rejection is not None:
            self._limited = True
            self.set_stream_limit(self._manners.limit_after_rejection)
