"""A TCP proxy before Redis that can swallow everything, as a partition of the network does."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading

CHUNK = 65536


class Partition(threading.Thread):
    """
    Passes bytes on in both directions.

    :ivar cut: while it is true, nothing is passed on; connections stay open, new ones are
        taken and lead nowhere.
    """

    def __init__(self, behind: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.cut = False
        self._behind = behind
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._other: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Pass on for as long as the program runs."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        held: set[socket.socket] = set()
        while True:
            for key, _ in self._selector.select(0.05):
                assert isinstance(key.fileobj, socket.socket)
                if self.cut:
                    # What cannot be passed on is left in the kernel's buffers.
                    self._selector.unregister(key.fileobj)
                    held.add(key.fileobj)
                else:
                    self._serve(key.fileobj)
            if not self.cut:
                for each in held:
                    self._selector.register(each, selectors.EVENT_READ)
                held.clear()

    def _serve(self, ready: socket.socket) -> None:
        if ready is self._listener:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._behind)
            for one, other in ((client, server), (server, client)):
                self._other[one] = other
                self._selector.register(one, selectors.EVENT_READ)
        elif ready in self._other:
            self._pass_on(ready)

    def _pass_on(self, ready: socket.socket) -> None:
        other = self._other[ready]
        with contextlib.suppress(OSError):
            if some := ready.recv(CHUNK):
                other.sendall(some)
                return
        for each in (ready, other):
            self._other.pop(each, None)
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(each)
            each.close()
