"""
The program that starts Python programs for tests by forking.

Importing Twisted and the package takes most of the time of a daemon or command that lives
for a second. This program has them imported, and forks for each request. A request comes
over the socket at file descriptor 0: a JSON object with the ``code`` of ``python -c``, its
``arguments``, ``environment`` and ``folder``, the numbers that the passed descriptors have in the
child, and the descriptors. The reply is the child's process id; the child is an orphan by
then, and so the child of the nearest subreaper above, which is the process of the tests.

It imports nothing of the tests, whose libraries the daemon would have then.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import pkgutil
import signal
import socket
import sys
from importlib import import_module
from typing import Any

MOST_BYTES = 1 << 20
MOST_DESCRIPTORS = 100
ABOVE_ALL = 1000


def serve() -> dict[str, Any]:
    """Fork for each request; gives the request in the child, and ends at the end of requests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is meant for the tests
    _import_all()
    _tidy()
    requests = socket.socket(fileno=os.dup(0))
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, MOST_BYTES, MOST_DESCRIPTORS)
        if not message:
            raise SystemExit
        request: dict[str, Any] = json.loads(message)
        read_end, write_end = os.pipe()
        parent = os.fork()
        if parent == 0:
            child = os.fork()
            if child == 0:
                requests.close()
                os.close(read_end)
                os.close(write_end)
                _become(request, descriptors)
                return request
            os.write(write_end, str(child).encode())
            os._exit(0)
        os.waitpid(parent, 0)
        requests.send(os.read(read_end, 20))
        for each in (read_end, write_end, *descriptors):
            os.close(each)


def _import_all() -> None:
    """Import what daemons and commands need."""
    import twisted.scripts.twistd
    from twisted.application.service import IServiceMaker
    from twisted.plugin import getPlugins

    import middlewared

    for module in pkgutil.walk_packages(middlewared.__path__, "middlewared."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    list(getPlugins(IServiceMaker))
    assert twisted.scripts.twistd


def _tidy() -> None:
    """Leave no work of this process to each child: collecting and measuring the imports."""
    gc.collect()
    gc.freeze()
    coverage = sys.modules.get("coverage")
    if coverage is not None and coverage.Coverage.current() is not None:
        coverage.Coverage.current().save()


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Make this process what ``python -c`` would begin as."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _renew_reactor()
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, ABOVE_ALL) for each in descriptors]
    for each in descriptors:
        os.close(each)
    for each, wanted in zip(high, request["descriptors"], strict=True):
        os.dup2(each, wanted)
        os.close(each)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["-c", *request["arguments"]]


def _renew_reactor() -> None:
    """Give this process's reactor, which txredisapi has imported, an epoll of its own."""
    reactor: Any = sys.modules["twisted.internet.reactor"]
    reactor.waker.connectionLost(None)
    vars(reactor).clear()
    reactor.__init__()


if __name__ == "__main__":
    exec(serve()["code"], {"__name__": "__main__"})
