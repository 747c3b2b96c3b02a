"""The HTTP/2 session without input or output; ``h2`` plays the peer."""

from __future__ import annotations

import struct
from collections.abc import Callable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamReset
from h2.settings import SettingCodes
from hpack import Encoder
from twisted.trial.unittest import SynchronousTestCase

from middlewared.push.apns.push_request import RequestKind, authorization_header
from middlewared.push.http2 import frames
from middlewared.push.http2.exchange import OK, Exchange, ExchangeResult, Response
from middlewared.push.http2.frames import ProtocolFault, pack
from middlewared.push.http2.session import MAX_IDLE_FRAMES, MAX_STREAMS, Session
from middlewared.push.interface import Temporary, Uncertain

KIND = RequestKind.of(authority="apple.example", topic="app.voip", push_type="voip")
SENT_AT = 7.0
APNS_ID = [(b"apns-id", b"x" * 36)]


def goaway(last_stream_id: int, code: int) -> bytes:
    """A GOAWAY frame of the peer."""
    return pack(frames.GOAWAY, 0, 0, struct.pack(">II", last_stream_id, code))


def exchange(body: bytes = b"{}") -> Exchange:
    """A push."""
    block = KIND.block(token="ab" * 32, authorization=b"", expiration=1_700_000_000)
    return Exchange(header_block=block, body=body, deadline=0.0)


class Peers:
    """A session and the ``h2`` server it talks to."""

    def __init__(self, **settings: int) -> None:
        self.unprocessed: list[Exchange] = []
        self.session = Session(on_unprocessed=self.unprocessed.append)
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        for name, value in settings.items():
            self.server.local_settings[SettingCodes[name]] = value
            self.server.local_settings.acknowledge()
        self.requests: dict[int, dict[bytes, bytes]] = {}
        self.bodies: dict[int, bytes] = {}
        self.resets: list[int] = []
        self.server.initiate_connection()
        self.session.start()
        self.exchange_bytes()

    def exchange_bytes(self) -> None:
        """Carry bytes both ways until there are no more."""
        self.session.receive(self.server.data_to_send())
        while out := self.session.output.take(SENT_AT):
            for event in self.server.receive_data(out):
                self._note(event)
            self.session.receive(self.server.data_to_send())

    def _note(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=int(stream_id), headers=list(headers)):
                self.requests[stream_id] = dict(headers)
            case DataReceived(stream_id=int(stream_id), data=bytes(data)):
                self.bodies[stream_id] = self.bodies.get(stream_id, b"") + data
            case StreamReset(stream_id=int(stream_id)):
                self.resets.append(stream_id)

    def open(
        self, body: bytes = b"{}", *, written: bool = True
    ) -> tuple[Exchange, list[ExchangeResult]]:
        """Open an exchange, optionally write it; its end is added to the list."""
        opened = exchange(body)
        ends: list[ExchangeResult] = []
        opened.ended.addCallback(ends.append)
        self.session.open(opened)
        if written:
            self.exchange_bytes()
        return opened, ends

    def reset(self, opened: Exchange, code: int) -> None:
        """Let the peer reset a stream."""
        frame = pack(frames.RST_STREAM, 0, opened.stream_id, struct.pack(">I", code))
        self.session.receive(frame)

    def ping(self) -> bytes:
        """Let the session send a PING; returns the ACK without delivering it."""
        self.session.output.take(SENT_AT)
        self.session.ping()
        return frames.ping(self.session.output.take(SENT_AT)[frames.HEAD_SIZE :], ack=True)

    def limit(self, streams: int) -> None:
        """Change how many streams are allowed."""
        self.server.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: streams})
        self.exchange_bytes()

    def answer(self, stream_id: int, status: int = 200, body: bytes = b"") -> None:
        """Answer as Apple does."""
        headers = [(b":status", b"%d" % status), *APNS_ID]
        self.server.send_headers(stream_id, headers, end_stream=not body)
        if body:
            self.server.send_data(stream_id, body, end_stream=True)
        self.exchange_bytes()


class RequestTests(SynchronousTestCase):
    """What the peer gets."""

    def test_a_request_is_what_apple_expects(self) -> None:
        """Pseudo headers first, then Apple's, and the body."""
        peers = Peers()
        block = KIND.block(
            token="ab" * 32, authorization=authorization_header("jwt" * 80), expiration=17.9
        )
        peers.session.open(Exchange(header_block=block, body=b'{"aps":{}}', deadline=0.0))
        peers.exchange_bytes()
        headers = peers.requests[1]
        self.assertEqual(list(headers)[:4], [b":method", b":scheme", b":authority", b":path"])
        self.assertEqual(headers[b":path"], b"/3/device/" + b"ab" * 32)
        self.assertEqual(headers[b"authorization"], b"bearer " + b"jwt" * 80)
        self.assertEqual(headers[b"apns-expiration"], b"17")
        self.assertEqual(headers[b"apns-priority"], b"10")
        self.assertRegex(
            headers[b"apns-id"].decode(), r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
        )
        self.assertEqual(peers.bodies[1], b'{"aps":{}}')

    def test_the_size_of_the_header_list_is_known(self) -> None:
        """As RFC 9113 section 6.5.2 counts it, or some octets more; never less."""
        peers = Peers(MAX_HEADER_LIST_SIZE=8000)
        self.assertEqual(peers.session.max_list_size, 8000)
        for authorization in (b"", authorization_header("jwt" * 80)):
            block = KIND.block(token="ab" * 32, authorization=authorization, expiration=1575988800)
            peers.session.open(Exchange(header_block=block, body=b"{}", deadline=0.0))
            peers.exchange_bytes()
            headers = peers.requests[max(peers.requests)]
            exact = sum(len(name) + len(value) + 32 for name, value in headers.items())
            size = KIND.list_size_of(token="ab" * 32, authorization=authorization)
            self.assertIn(size - exact, range(8))

    def test_a_token_cannot_leave_its_place_in_the_path(self) -> None:
        """What a device registered is quoted, however strange it is."""
        block = KIND.block(token="a/b é\r\n", authorization=b"", expiration=0)
        peers = Peers()
        peers.session.open(Exchange(header_block=block, body=b"{}", deadline=0.0))
        peers.exchange_bytes()
        self.assertEqual(peers.requests[1][b":path"], b"/3/device/a%2Fb%20%C3%A9%0D%0A")

    def test_a_peer_with_a_small_header_table(self) -> None:
        """One update of the table's size comes before any other header."""
        for size in (0, 100):
            peers = Peers(HEADER_TABLE_SIZE=size)
            peers.server.decoder.max_allowed_table_size = size
            for _ in range(2):
                peers.open()
            peers.server.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0})
            peers.exchange_bytes()
            peers.open()
            self.assertEqual(sorted(peers.requests), [1, 3, 5])

    def test_a_very_long_token_arrives_whole(self) -> None:
        """Its header block takes more than one frame."""
        block = KIND.block(token="é" * 4_096, authorization=b"", expiration=0)
        peers = Peers()
        peers.session.open(Exchange(header_block=block, body=b"{}", deadline=0.0))
        peers.exchange_bytes()
        self.assertEqual(peers.requests[1][b":path"], b"/3/device/" + b"%C3%A9" * 4_096)
        self.assertEqual(peers.bodies[1], b"{}")

    def test_nothing_is_opened_before_the_first_settings(self) -> None:
        """The peer's limit is not known before."""
        session = Session(on_unprocessed=lambda _: None)
        session.start()
        self.assertFalse(session.can_open)
        session.receive(frames.settings({}))
        self.assertTrue(session.can_open)

    def test_no_more_streams_than_the_peer_allows_now(self) -> None:
        """The limit holds at every moment, up and down."""
        peers = Peers(MAX_CONCURRENT_STREAMS=1)
        peers.open()
        self.assertFalse(peers.session.can_open)
        peers.limit(2)
        peers.open()
        self.assertFalse(peers.session.can_open)
        peers.limit(1)
        peers.answer(1)
        self.assertFalse(peers.session.can_open)
        peers.answer(3)
        self.assertTrue(peers.session.can_open)

    def test_an_unlimited_peer_is_not_flooded(self) -> None:
        """We have a limit of our own."""
        session = Session(on_unprocessed=lambda _: None)
        session.receive(frames.settings({}))
        while session.can_open:
            session.open(exchange(b""))
        self.assertEqual(len(session.streams), MAX_STREAMS)


class FlowControlTests(SynchronousTestCase):
    """``h2`` raises when a window is overrun."""

    def test_a_body_waits_for_its_streams_window(self) -> None:
        """It goes out in the pieces the peer allows."""
        peers = Peers(INITIAL_WINDOW_SIZE=10)
        peers.open(b"0123456789abcdef")
        self.assertEqual(peers.bodies[1], b"0123456789")
        peers.server.increment_flow_control_window(4, stream_id=1)
        peers.exchange_bytes()
        self.assertEqual(peers.bodies[1], b"0123456789abcd")
        peers.server.increment_flow_control_window(4, stream_id=1)
        peers.exchange_bytes()
        self.assertEqual(peers.bodies[1], b"0123456789abcdef")

    def test_a_window_of_zero_is_opened_by_settings(self) -> None:
        """A change of the initial window moves all open streams."""
        peers = Peers(INITIAL_WINDOW_SIZE=0)
        peers.open(b"body")
        self.assertNotIn(1, peers.bodies)
        peers.server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
        peers.exchange_bytes()
        self.assertEqual(peers.bodies[1], b"body")

    def test_a_window_may_shrink_below_what_was_sent(self) -> None:
        """Then it is negative until the peer makes up for it."""
        peers = Peers(INITIAL_WINDOW_SIZE=10)
        peers.open(b"0123456789ab")
        peers.server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 5})
        peers.exchange_bytes()
        peers.server.increment_flow_control_window(6, stream_id=1)
        peers.exchange_bytes()
        self.assertEqual(peers.bodies[1], b"0123456789a")

    def test_the_connections_window_is_shared(self) -> None:
        """When it is used up, no stream is opened; the blocked body goes first."""
        peers = Peers()
        while peers.session.can_open:
            peers.open(b"x" * 5_000)
        self.assertEqual(sum(map(len, peers.bodies.values())), 65_535)
        last = max(peers.bodies)
        self.assertEqual(len(peers.bodies[last]), 65_535 % 5_000)
        peers.server.increment_flow_control_window(5_000)
        peers.exchange_bytes()
        self.assertEqual(len(peers.bodies[last]), 5_000)
        self.assertTrue(peers.session.can_open)

    def test_a_body_larger_than_a_frame_is_split(self) -> None:
        """No frame is longer than 16,384 bytes."""
        peers = Peers(INITIAL_WINDOW_SIZE=1 << 20)
        peers.open(b"x" * 40_000)
        self.assertEqual(len(peers.bodies[1]), 40_000)

    def test_what_answers_use_up_is_given_back(self) -> None:
        """More answers than our window holds arrive all the same."""
        peers = Peers()
        for number in range(200):
            opened, ends = peers.open()
            peers.answer(opened.stream_id, 400, b"x" * 16_000)
            self.assertEqual(ends, [Response(400, b"x" * 16_000, APNS_ID)], number)


class AnswerTests(SynchronousTestCase):
    """How responses are read."""

    def test_an_accepted_push(self) -> None:
        """The response is a plain 200."""
        peers = Peers()
        opened, ends = peers.open()
        peers.answer(opened.stream_id)
        self.assertEqual(ends, [OK])
        self.assertFalse(peers.session.streams)

    def test_a_refusal_carries_its_body_and_retry_after(self) -> None:
        """Both are needed to interpret it."""
        peers = Peers()
        _, ends = peers.open()
        headers = [(":status", "429"), ("retry-after", "7")]
        peers.server.send_headers(1, headers)
        peers.server.send_data(1, b'{"reason":"TooManyRequests"}', end_stream=True)
        peers.exchange_bytes()
        self.assertEqual(
            ends, [Response(429, b'{"reason":"TooManyRequests"}', [(b"retry-after", b"7")])]
        )

    def test_answers_in_pieces_of_one_byte(self) -> None:
        """The boundaries of TCP segments do not matter."""
        peers = Peers()
        ends = [peers.open()[1] for _ in range(3)]
        for stream_id, status in ((1, 200), (3, 410), (5, 200)):
            peers.server.send_headers(stream_id, [(":status", str(status))])
            peers.server.send_data(stream_id, b"{}" if status == 410 else b"", end_stream=True)
        for byte in peers.server.data_to_send():
            peers.session.receive(bytes([byte]))
        self.assertEqual(ends, [[OK], [Response(410, b"{}")], [OK]])

    def test_long_headers_trailers_and_interim_answers(self) -> None:
        """CONTINUATION, 103 and trailers are legal, and none of them is the answer."""
        peers = Peers()
        _, ends = peers.open()
        peers.server.send_headers(1, [(":status", "103"), ("link", "</x>")])
        extra = [(f"x-{number}", "v" * 100) for number in range(300)]
        peers.server.send_headers(1, [(":status", "400"), *extra])
        peers.server.send_data(1, b"{}", pad_length=200)
        peers.server.send_headers(1, [("x-trailer", "1")], end_stream=True)
        peers.exchange_bytes()
        headers = [(name.encode(), value.encode()) for name, value in extra]
        self.assertEqual(ends, [Response(400, b"{}", headers)])

    def test_unknown_frames_and_priorities_are_ignored(self) -> None:
        """RFC 9113, section 4.1."""
        peers = Peers()
        _, ends = peers.open()
        peers.session.receive(pack(0x42, 0xFF, 1, b"?") + pack(frames.PRIORITY, 0, 1, b"\0" * 5))
        peers.answer(1)
        self.assertEqual(ends, [OK])

    def test_a_peer_that_keeps_its_dynamic_table(self) -> None:
        """A table of size 0 is a request; responses are read correctly without it."""
        session = Session(on_unprocessed=lambda _: None)
        session.receive(frames.settings({}))
        encoder = Encoder()
        ends: list[ExchangeResult] = []
        for stream_id in (1, 3, 5):
            opened = exchange()
            opened.ended.addCallback(ends.append)
            session.open(opened)
            status = "410" if stream_id == 5 else "200"
            block = encoder.encode([(":status", status), ("x-same", "in the table")])
            flags = frames.END_HEADERS | frames.END_STREAM
            session.receive(pack(frames.HEADERS, flags, stream_id, block))
        self.assertEqual(ends, [OK, OK, Response(410, b"", [(b"x-same", b"in the table")])])

    def test_an_answer_before_the_body_was_sent(self) -> None:
        """It counts, and our half of the stream is closed."""
        peers = Peers(INITIAL_WINDOW_SIZE=0)
        _, ends = peers.open()
        peers.answer(1, 413, b"{}")
        self.assertEqual(ends, [Response(413, b"{}", APNS_ID)])
        self.assertEqual(peers.resets, [1])
        self.assertFalse(peers.session.streams)

    def test_a_long_answer_is_cut(self) -> None:
        """Its status stands, and the connection is used on."""
        peers = Peers()
        opened, ends = peers.open()
        peers.server.send_headers(opened.stream_id, [(":status", "502")])
        for _ in range(2):
            peers.server.send_data(opened.stream_id, b"x" * 16_384)
        peers.exchange_bytes()
        self.assertEqual(ends, [Response(502, b"x" * 32_768, (), complete=False)])
        self.assertEqual(peers.resets, [1])
        peers.open()
        self.assertTrue(peers.session.can_open)

    def test_a_malformed_answer_concerns_its_push_alone(self) -> None:
        """A stream error: the connection goes on."""
        for headers in (
            [("apns-id", "x")],
            [(":status", "20")],
            [(":status", "101")],
        ):
            session = Session(on_unprocessed=lambda _: None)
            session.receive(frames.settings({}))
            opened = exchange()
            ends: list[ExchangeResult] = []
            opened.ended.addCallback(ends.append)
            session.open(opened)
            block = Encoder().encode(headers)
            flags = frames.END_HEADERS | frames.END_STREAM
            session.receive(pack(frames.HEADERS, flags, 1, block))
            self.assertEqual(ends, [Temporary("malformed answer")])
            self.assertTrue(session.can_open)

    def test_an_answer_to_a_push_that_was_given_up(self) -> None:
        """It may have crossed our RST_STREAM; it is read and dropped."""
        peers = Peers()
        opened, ends = peers.open()
        peers.session.cancel(opened)
        peers.session.receive(
            pack(frames.HEADERS, frames.END_HEADERS, 1, Encoder().encode([(":status", "400")]))
            + pack(frames.DATA, frames.END_STREAM, 1, b"{}")
            + pack(frames.WINDOW_UPDATE, 0, 1, b"\0\0\0\1")
            + pack(frames.RST_STREAM, 0, 1, b"\0\0\0\0")
        )
        self.assertEqual(ends, [])
        peers.exchange_bytes()
        self.assertEqual(peers.resets, [1])


class EndTests(SynchronousTestCase):
    """Streams that end without an answer."""

    def test_goaway_gives_back_what_was_not_processed(self) -> None:
        """In the order that lets the oldest go first; the rest finishes."""
        peers = Peers()
        opened = [peers.open() for _ in range(4)]
        peers.session.receive(
            pack(frames.GOAWAY, 0, 0, struct.pack(">II", 3, 0) + b'{"reason":"Shutdown"}')
        )
        self.assertEqual(peers.unprocessed, [opened[3][0], opened[2][0]])
        self.assertFalse(peers.session.can_open)
        self.assertEqual(peers.session.goaway, 'GOAWAY NO_ERROR {"reason":"Shutdown"}')
        peers.answer(1)
        peers.answer(3)
        self.assertEqual([ends for _, ends in opened], [[OK], [OK], [], []])

    def test_a_refused_stream_was_not_processed(self) -> None:
        """RFC 9113, section 8.7."""
        peers = Peers()
        opened, ends = peers.open()
        peers.server.reset_stream(1, ErrorCodes.REFUSED_STREAM)
        peers.exchange_bytes()
        self.assertEqual((peers.unprocessed, ends), ([opened], []))

    def test_any_other_reset_is_uncertain(self) -> None:
        """All was sent, so it may have been processed."""
        peers = Peers()
        for code, name in ((ErrorCodes.INTERNAL_ERROR, "INTERNAL_ERROR"), (0xBAD, "code-0xbad")):
            opened, ends = peers.open()
            peers.reset(opened, code)
            self.assertEqual(ends, [Uncertain(f"RST_STREAM {name}", SENT_AT)])

    def test_a_reset_before_the_last_byte_gives_it_back(self) -> None:
        """The peer cannot have processed what it does not have completely."""
        peers = Peers(INITIAL_WINDOW_SIZE=4)
        opened, ends = peers.open(b"too long")
        peers.reset(opened, ErrorCodes.INTERNAL_ERROR)
        self.assertEqual((ends, peers.unprocessed, opened.lost_connections), ([], [opened], 1))

    def test_a_status_that_was_read_stands(self) -> None:
        """Whatever happens to the stream or connection afterwards."""
        losses: dict[str, Callable[[Peers, Exchange], None]] = {
            "reset": lambda peers, opened: peers.reset(opened, ErrorCodes.INTERNAL_ERROR),
            "refused": lambda peers, opened: peers.reset(opened, ErrorCodes.REFUSED_STREAM),
            "GOAWAY": lambda peers, _: peers.session.receive(goaway(0, ErrorCodes.NO_ERROR)),
            "loss": lambda peers, _: peers.session.close(ErrorCodes.NO_ERROR, "gone"),
            "bad trailers": lambda peers, opened: peers.session.receive(
                pack(frames.HEADERS, frames.END_HEADERS, opened.stream_id, b"\x88")
            ),
        }
        for name, lose in losses.items():
            for status in (200, 410):
                peers = Peers()
                opened, ends = peers.open()
                headers = [(":status", str(status)), ("retry-after", "7")]
                peers.server.send_headers(opened.stream_id, headers)
                peers.exchange_bytes()
                self.assertEqual(ends, [])
                lose(peers, opened)
                answer = Response(status, b"", [(b"retry-after", b"7")], complete=False)
                self.assertEqual((ends, peers.unprocessed), ([answer], []), name)

    def test_what_the_peer_never_had_completely_was_not_processed(self) -> None:
        """So it may be resent when the connection ends; what was complete is uncertain."""
        peers = Peers(INITIAL_WINDOW_SIZE=4)
        _, ends = peers.open(b"{}")
        cut, _ = peers.open(b"too long")
        unwritten, _ = peers.open(b"{}", written=False)
        peers.session.close(ErrorCodes.NO_ERROR, "gone")
        self.assertEqual(ends, [Uncertain("gone", SENT_AT)])
        self.assertEqual(peers.unprocessed, [unwritten, cut])

    def test_it_was_sent_when_its_last_byte_was_written(self) -> None:
        """Not earlier: the rest of a body may wait for flow control."""
        peers = Peers(INITIAL_WINDOW_SIZE=4)
        opened, ends = peers.open(b"too long")
        self.assertIsNone(opened.sent_at)
        peers.server.increment_flow_control_window(4, stream_id=1)
        peers.session.receive(peers.server.data_to_send())
        self.assertIsNone(opened.sent_at)
        peers.session.output.take(9.0)
        peers.session.close(ErrorCodes.NO_ERROR, "gone")
        self.assertEqual(ends, [Uncertain("gone", 9.0)])

    def test_a_covered_stream_whose_connection_is_lost_is_uncertain(self) -> None:
        """By the GOAWAY, it may have been processed (RFC 9113, section 6.8)."""
        peers = Peers()
        covered, ends = peers.open()
        above, _ = peers.open()
        peers.session.receive(goaway(covered.stream_id, ErrorCodes.NO_ERROR))
        self.assertEqual((ends, peers.unprocessed), ([], [above]))
        peers.session.close(ErrorCodes.NO_ERROR, "gone")
        self.assertEqual(ends, [Uncertain("gone", SENT_AT)])

    def test_a_malformed_answer_to_what_was_sent_is_uncertain(self) -> None:
        """There was an answer, but it is unknown which."""
        peers = Peers()
        opened, ends = peers.open()
        block = Encoder().encode([("apns-id", "x")])
        peers.session.receive(pack(frames.HEADERS, frames.END_HEADERS, opened.stream_id, block))
        self.assertEqual(ends, [Uncertain("malformed answer", SENT_AT)])

    def test_pings_are_answered_and_counted(self) -> None:
        """An ACK is a sign of life."""
        peers = Peers()
        peers.server.ping(b"12345678")
        peers.session.ping()
        self.assertTrue(peers.session.ping_pending)
        peers.exchange_bytes()
        self.assertEqual((peers.session.signs_of_life, peers.session.ping_pending), (1, False))

    def test_an_ack_of_no_ping_is_no_sign_of_life(self) -> None:
        """Only the ACK of the latest PING counts: an older one does not prove the current path."""
        peers = Peers()
        old = peers.ping()
        new = peers.ping()
        for ack in (old, frames.ping(b"12345678", ack=True)):
            peers.session.receive(ack)
            self.assertEqual(peers.session.signs_of_life, 0)
        peers.session.receive(new)
        self.assertEqual(peers.session.signs_of_life, 1)

    def test_stream_numbers_run_out(self) -> None:
        """After the last one the connection is left."""
        peers = Peers()
        peers.session.next_id = 2**31 - 1
        peers.session.open(exchange())
        self.assertTrue(peers.session.leaving)


WORD = struct.Struct(">I")
FAULTS: dict[str, tuple[ErrorCodes, bytes]] = {
    "first frame": (ErrorCodes.PROTOCOL_ERROR, frames.ping(b"12345678")),
    "ACK first": (ErrorCodes.PROTOCOL_ERROR, frames.SETTINGS_ACK),
    "HTTP/1": (ErrorCodes.FRAME_SIZE_ERROR, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
}
LATER_FAULTS: dict[str, tuple[ErrorCodes, bytes]] = {
    "long frame": (ErrorCodes.FRAME_SIZE_ERROR, frames.FRAME_HEAD.pack(16_385 << 8, 0, 1)),
    "SETTINGS length": (ErrorCodes.FRAME_SIZE_ERROR, pack(frames.SETTINGS, 0, 0, b"12345")),
    "SETTINGS ACK length": (ErrorCodes.FRAME_SIZE_ERROR, pack(frames.SETTINGS, 1, 0, b"123456")),
    "SETTINGS on a stream": (ErrorCodes.PROTOCOL_ERROR, pack(frames.SETTINGS, 0, 1)),
    "window setting": (ErrorCodes.FLOW_CONTROL_ERROR, frames.settings({4: 2**31})),
    "frame size setting": (ErrorCodes.PROTOCOL_ERROR, frames.settings({5: 1})),
    "push setting": (ErrorCodes.PROTOCOL_ERROR, frames.settings({2: 1})),
    "PING length": (ErrorCodes.FRAME_SIZE_ERROR, pack(frames.PING, 0, 0, b"1234567")),
    "PING on a stream": (ErrorCodes.PROTOCOL_ERROR, pack(frames.PING, 0, 1, b"12345678")),
    "GOAWAY length": (ErrorCodes.FRAME_SIZE_ERROR, pack(frames.GOAWAY, 0, 0, b"1234567")),
    "window overflow": (
        ErrorCodes.FLOW_CONTROL_ERROR,
        pack(frames.WINDOW_UPDATE, 0, 0, WORD.pack(2**31 - 1)),
    ),
    "window zero": (ErrorCodes.PROTOCOL_ERROR, pack(frames.WINDOW_UPDATE, 0, 0, WORD.pack(0))),
    "WINDOW_UPDATE length": (ErrorCodes.FRAME_SIZE_ERROR, pack(frames.WINDOW_UPDATE, 0, 0, b"1")),
    "RST_STREAM length": (ErrorCodes.FRAME_SIZE_ERROR, pack(frames.RST_STREAM, 0, 1, b"123")),
    "idle stream": (ErrorCodes.PROTOCOL_ERROR, pack(frames.DATA, 0, 99, b"")),
    "even stream": (ErrorCodes.PROTOCOL_ERROR, pack(frames.HEADERS, 4, 2, b"\x88")),
    "stream 0": (ErrorCodes.PROTOCOL_ERROR, pack(frames.DATA, 0, 0, b"")),
    "PUSH_PROMISE": (ErrorCodes.PROTOCOL_ERROR, pack(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\2")),
    "stray CONTINUATION": (ErrorCodes.PROTOCOL_ERROR, pack(frames.CONTINUATION, 4, 1, b"\x88")),
    "interrupted block": (
        ErrorCodes.PROTOCOL_ERROR,
        pack(frames.HEADERS, 0, 1, b"\x88") + frames.ping(b"12345678"),
    ),
    "block of another stream": (
        ErrorCodes.PROTOCOL_ERROR,
        pack(frames.HEADERS, 0, 1, b"\x88") + pack(frames.CONTINUATION, 4, 3, b""),
    ),
    "endless empty block": (
        ErrorCodes.ENHANCE_YOUR_CALM,
        pack(frames.HEADERS, 0, 1, b"\x88") + pack(frames.CONTINUATION, 0, 1),
    ),
    "endless block": (
        ErrorCodes.ENHANCE_YOUR_CALM,
        pack(frames.HEADERS, 0, 1, b"\x88") + pack(frames.CONTINUATION, 0, 1, b"x" * 16_384) * 4,
    ),
    "broken HPACK": (ErrorCodes.COMPRESSION_ERROR, pack(frames.HEADERS, 4, 1, b"\xff" * 9)),
    "padding": (ErrorCodes.PROTOCOL_ERROR, pack(frames.HEADERS, 0x0C, 1, b"\x05abc")),
    "empty padded": (ErrorCodes.PROTOCOL_ERROR, pack(frames.DATA, frames.PADDED, 1)),
    "short priority": (ErrorCodes.FRAME_SIZE_ERROR, pack(frames.HEADERS, 0x24, 1, b"1234")),
}


class FaultTests(SynchronousTestCase):
    """A peer that breaks the protocol; the codes are those of RFC 9113."""

    def fault(self, received: bytes, *, ready: bool) -> ErrorCodes:
        """The code of the fault that ``received`` is."""
        session = Session(on_unprocessed=lambda _: None)
        session.start()
        if ready:
            session.receive(frames.settings({}))
            session.open(exchange())
            session.open(exchange())
        fault: ProtocolFault = self.assertRaises(ProtocolFault, session.receive, received)
        return fault.code

    def test_frames_for_nothing_are_bounded(self) -> None:
        """A peer that only keeps us busy is left, one that also answers is not."""
        ping, settings = frames.ping(b"12345678"), frames.settings({})
        for flood in (ping, settings):
            code = self.fault(flood * (MAX_IDLE_FRAMES + 100), ready=True)
            self.assertEqual(code, ErrorCodes.ENHANCE_YOUR_CALM)
        peers = Peers()
        for _ in range(3):
            peers.session.receive(ping * (MAX_IDLE_FRAMES - 100))
            peers.session.receive(peers.ping())

    def test_at_the_start(self) -> None:
        """The peer's preface is a SETTINGS frame."""
        for name, (code, received) in FAULTS.items():
            self.assertEqual(self.fault(received, ready=False), code, name)

    def test_later(self) -> None:
        """Each fault ends the connection with its code."""
        for name, (code, received) in LATER_FAULTS.items():
            self.assertEqual(self.fault(received, ready=True), code, name)

    def test_data_before_the_head_concerns_its_push_alone(self) -> None:
        """A stream error."""
        peers = Peers()
        _, ends = peers.open()
        peers.session.receive(pack(frames.DATA, 0, 1, b"?"))
        self.assertEqual(ends, [Uncertain("malformed answer", SENT_AT)])

    def test_a_streams_window_of_zero_or_too_much(self) -> None:
        """Stream errors too."""
        for increment in (0, 2**31 - 1):
            peers = Peers()
            _, ends = peers.open()
            peers.session.receive(pack(frames.WINDOW_UPDATE, 0, 1, WORD.pack(increment)))
            self.assertEqual(ends, [Uncertain("malformed answer", SENT_AT)])
