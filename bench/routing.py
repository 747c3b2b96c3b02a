"""
What routing by Klein costs a request, beside the look-up that comes before it.

    python bench/routing.py PID PORT    # of a running daemon; Linux

``/health/`` is found by the look-up, ``/health//`` is routed by Klein. CPU time of the daemon's
process, both in turn, medians.
"""

from __future__ import annotations

import socket
import statistics
import sys
import time

PAIRS, REQUESTS = 40, 400


def cpu_ms(pid: int, connection: socket.socket, path: bytes) -> float:
    """CPU time of the process ``pid`` for one request, in milliseconds."""
    clock = (~pid << 3) | 2  # its CPU clock (clock_getcpuclockid(3))
    before = time.clock_gettime(clock)
    for _ in range(REQUESTS):
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        connection.recv(65536)
    return (time.clock_gettime(clock) - before) / REQUESTS * 1000


def main() -> None:
    """Print both medians and that of the differences."""
    pid, port = map(int, sys.argv[1:])
    connection = socket.create_connection(("127.0.0.1", port))
    paths = b"/health/", b"/health//"
    pairs = [tuple(cpu_ms(pid, connection, path) for path in paths) for _ in range(PAIRS + 2)][2:]
    looked_up, routed = (statistics.median(side) for side in zip(*pairs, strict=True))
    difference = statistics.median(b - a for a, b in pairs)
    print(f"look-up {looked_up:.3f} ms, Klein {routed:.3f} ms, difference {difference:.3f} ms")


if __name__ == "__main__":
    main()
