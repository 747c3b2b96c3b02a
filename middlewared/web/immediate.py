"""
Sending an answer in the very turn of the reactor in which it was made.

The one invariant: bytes leave in the order they were written. So what is sent past
Twisted's buffer is sent only when nothing waits in it.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.tcp import Connection


def send_now(transport: Any, data: bytes) -> None:
    """
    Send what the socket takes now, and leave the rest to ``transport``.

    Twisted itself leaves all sending to the reactor's next turn, where an ACK would wait
    for whatever else has come meanwhile. A transport that is no plain socket is written to
    as ever.
    """
    if _is_idle_socket(transport):
        sent = transport.writeSomeData(data)
        # A failure is left to the reactor, which meets it again and closes.
        data = data[sent:] if isinstance(sent, int) else data
    if data:
        transport.write(data)


def _is_idle_socket(transport: Any) -> bool:
    """Whether ``transport`` is a plain socket, connected, with nothing left to send."""
    return (
        isinstance(transport, Connection)
        and bool(transport.connected)
        and not (transport.TLS or transport.dataBuffer or transport._tempDataBuffer)
    )
