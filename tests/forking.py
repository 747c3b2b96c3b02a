"""
A reactor whose Python programs start by a fork of a process that has everything imported.

A start by exec costs half a second of imports, and the tests start hundreds of daemons and
commands. What matters at a start itself (tests/test_service_start.py and the packaging check)
takes the real reactor. Where the system is not Linux every start is real.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.process import Process

PR_SET_CHILD_SUBREAPER = 36
PROGRAM = Path(__file__).parent / "servers" / "forks.py"
CHECKOUT = PROGRAM.parent.parent.parent


class ForkingReactor:
    """A reactor but for ``spawnProcess``, which forks ``python -c CODE ARGUMENT...``."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def spawnProcess(
        self,
        processProtocol: Any,
        executable: str,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        path: str | None = None,
        childFDs: Mapping[int, int | str] | None = None,
    ) -> Any:
        """As the reactor's own."""
        process: Any = Process if executable != sys.executable else _ForkedProcess
        return process(
            self._reactor, executable, args, env, path, processProtocol, childFDs=childFDs
        )


class _ForkedProcess(Process):
    """A child that the fork server makes; all else is Twisted's."""

    def _trySpawnInsteadOfFork(
        self,
        path: str | None,
        uid: None,
        gid: None,
        executable: str,
        args: Sequence[str],
        environment: Mapping[str, str] | None,
        kwargs: dict[str, Any],
    ) -> bool:
        _, option, code, *arguments = args
        if option != "-c" or sys.platform != "linux":
            return False
        descriptors: dict[int, int] = kwargs["fdmap"]
        request = {
            "code": code,
            "arguments": arguments,
            "environment": dict(os.environ if environment is None else environment),
            "folder": path or os.getcwd(),
            "descriptors": list(descriptors),
        }
        requests = _fork_server()
        socket.send_fds(requests, [json.dumps(request).encode()], list(descriptors.values()))
        self.pid = int(requests.recv(20))
        self.status = -1
        return True


@functools.cache
def _fork_server() -> socket.socket:
    """Its socket; at the end of the tests the server and its coverage end too."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    start = f"import runpy; runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=theirs.fileno(),
            env={**os.environ, "PYTHONPATH": path},
        )

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours
