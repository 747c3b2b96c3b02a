"""The number of files and connections that the process may have open."""

from __future__ import annotations

import resource
from contextlib import suppress


def allow_open_files() -> None:
    """
    Raise the soft limit to the hard one.

    Many systems begin processes with 1,024, among them containers, for the sake of programs that
    use select(). Each waiting call needs a connection ([http] max_connections).
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a system that does not allow what it has as hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
