"""
Simulator, HTTP/2: h2 set up as the server's side of a connection.

The peer's frames are validated by h2 as strictly as possible, the stream
limit from its acknowledgement on.
"""

from __future__ import annotations

import json
from typing import TypeAlias

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from h2.stream import StreamClosedBy
from hyperframe.frame import GoAwayFrame

from middlewared.simulator.http2.frame_steps import GoAway, Http2Behaviour

# How many finished streams h2 may keep before it is asked to forget them.
_FORGET_AT = 256
_DEFAULT_WINDOW = 65_535
# Type and flags: HEADERS with END_HEADERS, with END_STREAM too, and DATA with END_STREAM.
_HEADERS = b"\x01\x04"
_HEADERS_END = b"\x01\x05"
_DATA_END = b"\x00\x01"

HeaderFields: TypeAlias = tuple[tuple[str, str], ...]


class ServerConnection(H2Connection):
    """h2 that is notified of ended streams: it would scan all of them at each request."""

    def __init__(self, behaviour: Http2Behaviour, first_limit: int) -> None:
        super().__init__(
            H2Configuration(
                client_side=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=behaviour.validate_headers,
                normalize_inbound_headers=behaviour.validate_headers,
            )
        )
        self.finished_count = 0
        # Header blocks of indices only, valid while the encoder's table is as it was.
        self._indexed: dict[HeaderFields, bytes] = {}
        self._newest: object = None
        self._table_size = 0
        initial = {
            SettingCodes.MAX_CONCURRENT_STREAMS: first_limit,
            SettingCodes.INITIAL_WINDOW_SIZE: behaviour.initial_window,
            SettingCodes.MAX_HEADER_LIST_SIZE: behaviour.max_header_list_size,
        }
        self.local_settings = Settings(client=False, initial_values=initial)
        self.initiate_connection()
        if behaviour.connection_window > _DEFAULT_WINDOW:
            self.increment_flow_control_window(behaviour.connection_window - _DEFAULT_WINDOW)
        if behaviour.header_table_size != self.local_settings.header_table_size:
            # In force only when acknowledged: the peer's encoder may be ahead of it.
            self.update_settings({SettingCodes.HEADER_TABLE_SIZE: behaviour.header_table_size})

    @property
    def open_inbound_streams(self) -> int:
        """
        The number of open streams.

        The count from the ids is right unless the peer skipped some, so h2 is asked when
        it matters, and now and then, because that makes it forget finished streams.
        """
        opened = (self.highest_inbound_stream_id + 1) // 2
        count = opened - self.finished_count
        limit = self.local_settings.max_concurrent_streams
        if count >= limit or len(self.streams) > count + _FORGET_AT:
            return super().open_inbound_streams
        return count

    def can_answer(self, stream_id: int, body: bytes = b"") -> bool:
        """Whether :meth:`answer` may be used: windows are open, the table is settled."""
        if self.encoder.table_size_changes or len(body) > self.max_outbound_frame_size:
            return False
        return not body or self.local_flow_control_window(stream_id) >= len(body)

    def answer(self, stream_id: int, block: bytes, body: bytes = b"") -> bytes:
        """
        End the stream of a complete request and give the frames, past h2's slower way.

        :param block: the header block, at most a frame long.
        """
        del self.streams[stream_id]
        self._closed_streams[stream_id] = StreamClosedBy.SEND_END_STREAM
        stream = stream_id.to_bytes(4, "big")
        size = len(block).to_bytes(3, "big")
        if not body:
            return size + _HEADERS_END + stream + block
        self.outbound_flow_control_window -= len(body)
        head = size + _HEADERS + stream + block
        return head + len(body).to_bytes(3, "big") + _DATA_END + stream + body

    def encode(self, fields: HeaderFields) -> bytes:
        """Encode a header block, which must be sent next; one of indices only is kept."""
        entries = self.encoder.header_table.dynamic_entries
        newest, size = (entries[0] if entries else None), len(entries)
        if newest is not self._newest or size != self._table_size:
            self._indexed.clear()  # a new entry moves all others
            self._newest, self._table_size = newest, size
        block = self._indexed.get(fields)
        if block is None:
            block = self.encoder.encode(fields)
            if entries and entries[0] is newest:
                self._indexed[fields] = block
        return block


def goaway_frame(order: GoAway, last_stream_id: int) -> bytes:
    """Make the frame of ``order``, with Apple's JSON as debug data when it has a reason."""
    frame = GoAwayFrame(0, last_stream_id=last_stream_id, error_code=order.code)
    frame.additional_data = order.debug
    if order.reason is not None:
        frame.additional_data = json.dumps({"reason": order.reason}).encode()
    return frame.serialize()
