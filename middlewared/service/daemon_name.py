"""The name of this daemon, in its log, in the history and in the console."""

from __future__ import annotations

from os import getpid
from socket import gethostname


def daemon_name() -> str:
    """Host and process: each start of a daemon is another one."""
    return f"{gethostname()}:{getpid()}"
