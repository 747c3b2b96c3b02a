"""Random peers: whatever bytes come, a session fails in one way only and loses nothing."""

from __future__ import annotations

import itertools

from h2.errors import ErrorCodes
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from middlewared.push.http2 import frames
from middlewared.push.http2.exchange import Exchange, ExchangeResult, Response
from middlewared.push.http2.frames import ProtocolFault, pack
from middlewared.push.http2.session import Session
from middlewared.push.interface import Temporary, Uncertain
from tests import EXAMPLES

STREAMS = 8

stream_ids = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 15, 17, 2**31 - 1])
blocks = st.sampled_from(
    [
        b"\x88",  # 200
        b"\x20\x88",
        b"\x8c",  # 400
        b"\x3f\xe1\x1f\x88",  # the table grows again
        b"\x08\x03410\x0f\x26\x01" + b"9",
        b"\x40\x01a\x01b\xbe",
        b"",
    ]
) | st.binary(max_size=40)
words = st.sampled_from([0, 1, 7, 1000, 2**31 - 1, 2**32 - 1]).map(lambda w: w.to_bytes(4, "big"))
pairs = st.tuples(st.sampled_from([1, 2, 3, 4, 5, 6, 9]), st.sampled_from([0, 1, 5, 16384, 2**31]))
payloads = st.one_of(
    blocks,
    words,
    st.tuples(words, words, st.binary(max_size=9)).map(b"".join),
    st.lists(pairs, max_size=3).map(lambda some: frames.settings(dict(some))[9:]),
    st.just(b"12345678"),
)
some_frames = st.builds(
    pack,
    st.integers(0, 12),
    st.sampled_from([0, 1, 4, 5, 8, 12, 13, 32, 37, 255]),
    stream_ids,
    payloads,
)
plain_answers = st.builds(
    lambda stream_id, block: pack(frames.HEADERS, 5, stream_id, block),
    st.sampled_from(range(1, 2 * STREAMS, 2)),
    blocks,
)
wires = st.lists(some_frames | plain_answers, max_size=30).map(b"".join)


class Watched:
    """A session with open streams, some of them blocked, and all reported ends."""

    def __init__(self) -> None:
        self.unprocessed: list[Exchange] = []
        self.session = Session(on_unprocessed=self.unprocessed.append)
        self.session.start()
        self.session.receive(frames.settings({4: 30}))
        self.ends: list[list[ExchangeResult]] = []
        self.opened = []
        for number in range(STREAMS):
            opened = Exchange(header_block=b"\x83", body=b"x" * 10 * number, deadline=0.0)
            reported: list[ExchangeResult] = []
            opened.ended.addCallback(reported.append)
            self.session.open(opened)
            self.opened.append(opened)
            self.ends.append(reported)
        self.session.output.take(0.0)

    def receive(self, wire: bytes, cuts: list[int], *, written: bool = True) -> None:
        """
        Feed the bytes in pieces, until the first fault.

        :param written: whether what they let through is written after each piece.
        """
        edges = [0, *sorted({cut for cut in cuts if cut < len(wire)}), len(wire)]
        try:
            for start, stop in itertools.pairwise(edges):
                self.session.receive(wire[start:stop])
                if written:
                    self.session.output.take(1.0)
        except ProtocolFault as fault:
            self.session.close(fault.code, "gone")
        else:
            self.session.close(ErrorCodes.NO_ERROR, "gone")


class RandomPeerTests(SynchronousTestCase):
    """Each exchange ends once or is given back once, and the window is never overrun."""

    def check(self, wire: bytes, cuts: list[int]) -> None:
        """Feed ``wire`` and check how the exchanges ended."""
        watched = Watched()
        watched.receive(wire, cuts)
        for opened, ends in zip(watched.opened, watched.ends, strict=True):
            back = sum(each is opened for each in watched.unprocessed)
            self.assertEqual(len(ends) + back, 1, (ends, back))
            self.assertTrue(all(isinstance(end, Response | Temporary | Uncertain) for end in ends))
        self.assertGreaterEqual(watched.session.output.window, 0)
        self.assertFalse(watched.session.streams)

    @settings(max_examples=4 * EXAMPLES)
    @given(wire=wires, cuts=st.lists(st.integers(1, 400), max_size=5))
    def test_random_frames(self, wire: bytes, cuts: list[int]) -> None:
        """Well-formed frames in an order no server would choose."""
        self.check(wire, cuts)

    @settings(max_examples=2 * EXAMPLES)
    @given(wire=st.binary(max_size=400), cuts=st.lists(st.integers(1, 400), max_size=5))
    def test_random_bytes(self, wire: bytes, cuts: list[int]) -> None:
        """Noise after the preface."""
        self.check(wire, cuts)

    @settings(max_examples=EXAMPLES * 6 // 10)
    @given(wire=wires)
    def test_where_tcp_cuts_changes_nothing(self, wire: bytes) -> None:
        """Bytes one by one end as the same bytes at once."""
        whole, pieces = Watched(), Watched()
        whole.receive(wire, [], written=False)
        pieces.receive(wire, list(range(1, len(wire))), written=False)
        self.assertEqual(whole.ends, pieces.ends)
        self.assertEqual(
            [whole.opened.index(each) for each in whole.unprocessed],
            [pieces.opened.index(each) for each in pieces.unprocessed],
        )
