"""A plain HTTP/2 client on h2 that reports all that it receives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import attrs
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLContextFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

TOKEN = "ab" * 32
TOPIC = "com.voipgrid.vialer.voip"
PAYLOAD = {"aps": {}, "type": "call"}


@attrs.define
class Answer:
    """What came back on one stream."""

    status: int = 0
    headers: dict[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    interim: list[int] = attrs.field(factory=list)
    trailers: dict[str, str] = attrs.field(factory=dict)
    reset: int | None = None

    @property
    def reason(self) -> str:
        reason: str = json.loads(self.body)["reason"]
        return reason


@implementer(IHandshakeListener)
class H2Peer(Protocol):
    """
    One connection; ``lost`` fires when it has ended, ``ready`` at the first SETTINGS.

    ``agreed`` gets what ALPN chose, ``answers`` are what came back so far, by stream.
    """

    def __init__(self) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.ready: Deferred[None] = Deferred()
        self.lost: Deferred[str] = Deferred()
        self.agreed: Deferred[bytes | None] = Deferred()
        self.goaways: list[ConnectionTerminated] = []
        self.goaway_seen: Deferred[None] = Deferred()
        self.pings: list[Deferred[None]] = []
        self.limits: list[int] = []
        self._unread = b""
        self.authority = ""
        self.answers: dict[int, Answer] = {}
        self.broken: Deferred[str] | None = None
        """For a test that expects frames which h2 refuses: the name of h2's error."""
        self._unsent: dict[int, bytes] = {}
        self._waiting: dict[int, Deferred[Answer]] = {}

    def connectionMade(self) -> None:
        self.h2.initiate_connection()
        self.flush()

    @property
    def goaway(self) -> ConnectionTerminated | None:
        """The first GOAWAY."""
        return self.goaways[0] if self.goaways else None

    def handshakeCompleted(self) -> None:
        transport: Any = self.transport
        self.agreed.callback(transport.negotiatedProtocol)

    def flush(self) -> None:
        transport: Any = self.transport
        transport.write(self.h2.data_to_send())

    def abort(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()

    def ping(self) -> Deferred[None]:
        answered: Deferred[None] = Deferred()
        self.pings.append(answered)
        self.h2.ping(b"12345678")
        self.flush()
        return answered

    def push(
        self,
        *,
        token: str = TOKEN,
        path: str | None = None,
        method: str = "POST",
        body: bytes | None = None,
        without: str = "",
        more: list[tuple[str, str]] | None = None,
        **changed: str,
    ) -> Deferred[Answer]:
        """Send Apple a good push, or one with headers changed, left out or added."""
        fields = {
            ":method": method,
            ":scheme": "https",
            ":authority": self.authority,
            ":path": f"/3/device/{token}" if path is None else path,
            "apns-topic": TOPIC,
            "apns-push-type": "voip",
            "apns-priority": "10",
            "apns-expiration": "0",
        }
        for name, value in changed.items():
            fields[name.replace("_", "-") if name != "authority" else ":authority"] = value
        fields.pop(without, None)
        content = json.dumps(PAYLOAD).encode() if body is None else body
        return self.request([*fields.items(), *(more or [])], content)

    def request(self, fields: list[tuple[str, str]], content: bytes) -> Deferred[Answer]:
        """Send any request."""
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, fields, end_stream=not content)
        self._unsent[stream_id] = content
        answered: Deferred[Answer] = Deferred()
        self.answers[stream_id] = Answer()
        self._waiting[stream_id] = answered
        self._send_bodies()
        self.flush()
        return answered

    def _send_bodies(self) -> None:
        """Send what the windows allow."""
        for stream_id, content in list(self._unsent.items()):
            while content and (room := self.h2.local_flow_control_window(stream_id)) > 0:
                piece, content = content[:room], content[room:]
                self.h2.send_data(stream_id, piece, end_stream=not content)
            self._unsent[stream_id] = content
            if not content:
                del self._unsent[stream_id]

    def dataReceived(self, data: bytes) -> None:
        self._unread += data
        while len(self._unread) >= 9:
            end = 9 + int.from_bytes(self._unread[:3], "big")
            if len(self._unread) < end:
                break
            frame, self._unread = self._unread[:end], self._unread[end:]
            for event in self._receive(frame):
                self._meet(event)
        self._send_bodies()
        self.flush()

    def _receive(self, frame: bytes) -> list[Event]:
        try:
            return self.h2.receive_data(frame)
        except ProtocolError as error:
            if self.broken is None:
                raise
            self.broken.callback(type(error).__name__)
            return []

    def _meet(self, event: Event) -> None:
        match event:
            case InformationalResponseReceived():
                status = next(
                    value for name, value in event.headers or () if str(name) == ":status"
                )
                self._answer(event).interim.append(int(status))
            case ResponseReceived():
                answer = self._answer(event)
                answer.headers = {str(name): str(value) for name, value in event.headers or ()}
                answer.status = int(answer.headers[":status"])
            case DataReceived():
                self._answer(event).body += event.data or b""
                self.h2.acknowledge_received_data(
                    event.flow_controlled_length or 0, event.stream_id or 0
                )
            case TrailersReceived():
                self._answer(event).trailers = {str(n): str(v) for n, v in event.headers or ()}
            case StreamReset():
                self._answer(event).reset = int(event.error_code or 0)
                self._end(event)
            case StreamEnded():
                self._end(event)
            case ConnectionTerminated():
                # h2 considers the connection closed; the remaining streams may still finish.
                self.h2.state_machine.state = ConnectionState.CLIENT_OPEN
                self.goaways.append(event)
                if not self.goaway_seen.called:
                    self.goaway_seen.callback(None)
            case PingAckReceived():
                self.pings.pop(0).callback(None)
            case RemoteSettingsChanged():
                self._meet_settings(event)

    def _meet_settings(self, event: RemoteSettingsChanged) -> None:
        limit = event.changed_settings.get(3)
        if limit is not None:
            self.limits.append(limit.new_value)
        if not self.ready.called:
            self.ready.callback(None)

    def _answer(self, event: Any) -> Answer:
        return self.answers[event.stream_id]

    def _end(self, event: Any) -> None:
        self._unsent.pop(event.stream_id, None)
        self._waiting.pop(event.stream_id).callback(self._answer(event))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.lost.called:
            self.lost.callback(str(reason.value))


@implementer(IOpenSSLContextFactory)
class _ClientTLS:
    """Trusts one authority, shows one certificate, speaks h2 (or the given protocols)."""

    def __init__(self, authority: Path, certificate: Path | None, protocols: list[bytes]) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.load_verify_locations(str(authority))
        self._context.set_verify(SSL.VERIFY_PEER, lambda *args: bool(args[-1]))
        if protocols:
            self._context.set_alpn_protos(protocols)
        if certificate is not None:
            self._context.use_certificate_chain_file(str(certificate))
            self._context.use_privatekey_file(str(certificate))

    def getContext(self) -> SSL.Context:
        return self._context


async def connect(
    reactor: Any,
    port: int,
    *,
    authority: Path,
    certificate: Path | None = None,
    protocols: tuple[bytes, ...] = (b"h2",),
) -> H2Peer:
    """Connect without waiting for the server's SETTINGS."""
    peer = H2Peer()
    peer.authority = f"127.0.0.1:{port}"
    tls = _ClientTLS(authority, certificate, list(protocols))
    factory = TLSMemoryBIOFactory(
        cast(Any, tls), True, cast(Any, Factory.forProtocol(lambda: peer))
    )
    await HostnameEndpoint(reactor, "127.0.0.1", port).connect(cast(Any, factory))
    return peer
