"""
Simulator, Apple: h2 set up as Apple's side of a connection.

The peer's frames are validated by h2 as strictly as possible, the stream
limit from its acknowledgement on.
"""

from __future__ import annotations

import json

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from h2.stream import StreamClosedBy
from hyperframe.frame import GoAwayFrame

from middlewared.simulator.apple.faults import Behaviour, GoAway

# How many finished streams h2 may keep before it is asked to forget them.
_FORGET_AT = 256
# HPACK (RFC 7541): ":status 200" of the static table, then apns-id, never indexed.
_ACCEPTED = b"\x88\x10\x07apns-id"
# HEADERS with END_STREAM and END_HEADERS.
_HEADERS_END = b"\x01\x05"


class ServerConnection(H2Connection):
    """h2 that is notified of ended streams: it would scan all of them at each request."""

    def __init__(self, behaviour: Behaviour, first_limit: int) -> None:
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
        initial = {
            SettingCodes.MAX_CONCURRENT_STREAMS: first_limit,
            SettingCodes.INITIAL_WINDOW_SIZE: behaviour.initial_window,
            SettingCodes.MAX_HEADER_LIST_SIZE: behaviour.max_header_list_size,
        }
        self.local_settings = Settings(client=False, initial_values=initial)
        self.initiate_connection()
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

    def accept(self, stream_id: int, apns_id: bytes) -> bytes | None:
        """
        End a stream with Apple's plain 200 and give the frame, past h2's slower way.

        None when it cannot be done so: the encoder has yet to announce its table size.
        """
        if self.encoder.table_size_changes or len(apns_id) > 126:
            return None
        del self.streams[stream_id]
        self._closed_streams[stream_id] = StreamClosedBy.SEND_END_STREAM
        block = _ACCEPTED + bytes((len(apns_id),)) + apns_id
        return len(block).to_bytes(3, "big") + _HEADERS_END + stream_id.to_bytes(4, "big") + block


def goaway_frame(order: GoAway, last_stream_id: int) -> bytes:
    """Make the frame of ``order``, with Apple's JSON as debug data when it has a reason."""
    frame = GoAwayFrame(0, last_stream_id=last_stream_id, error_code=order.code)
    if order.reason is not None:
        frame.additional_data = json.dumps({"reason": order.reason}).encode()
    return frame.serialize()
