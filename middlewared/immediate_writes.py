"""What is written now, and not in the reactor's next turn."""

# Most of twisted.internet.tcp has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

from twisted.internet.tcp import Connection


def write_immediately(transport: Any, data: bytes) -> None:
    """
    Send what the socket takes now, and leave the rest to ``transport``.

    Twisted leaves all sending to the reactor's next turn, where an ACK would wait for all
    other work that has arrived. Bytes leave in the order they were written, so this needs an
    empty buffer. A transport that is no plain socket is written to as usual.
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
