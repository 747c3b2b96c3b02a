"""
References in values: ``%(ENV:NAME)s``, and ``%(FILE:PATH)s`` for the first line of a file.

The text of a reference is a secret: no problem repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

_ENV = re.compile(r"%\(ENV:([A-Za-z_][A-Za-z0-9_]*)\)s")
# A file's name may contain references to the environment: systemd passes the directory of a
# service's credentials there.
_REFERENCE = re.compile(rf"{_ENV.pattern}|%\(FILE:((?:{_ENV.pattern}|[^()\n])+)\)s")
_BROKEN = re.compile(r"%\(\s*(?:env|file)\b", re.IGNORECASE)
_MOST_BYTES = 1 << 16


class InvalidReference(ValueError):
    """References cannot be replaced; ``problems`` has the text of each problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def resolve(written: str, base: Path, environ: Mapping[str, str]) -> str:
    """
    ``written`` with its references replaced; any other percent sign stands for itself.

    :param base: the directory against which the names of files are resolved.
    :raises InvalidReference: one is broken, a variable is not set or a file cannot be used.
    """
    problems = []
    if _BROKEN.search(_REFERENCE.sub("", written)):
        problems.append("has a broken reference; write %(ENV:NAME)s or %(FILE:PATH)s")
    resolved = _REFERENCE.sub(partial(_replace, base, environ, problems), written)
    if problems:
        raise InvalidReference(problems)
    return resolved


def _replace(
    base: Path, environ: Mapping[str, str], problems: list[str], match: re.Match[str]
) -> str:
    try:
        if match[2] is None:
            return _variable(environ, match[1])
        name = _ENV.sub(lambda inner: _variable(environ, inner[1]), match[2])
        return _first_line(base / name)
    except ValueError as error:
        problems.append(str(error))
        return ""


def _variable(environ: Mapping[str, str], name: str) -> str:
    if name not in environ:
        raise ValueError(f"the environment variable {name} is not set")
    return environ[name]


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            line = file.readline(_MOST_BYTES + 1).rstrip(b"\r\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if not line:
        raise ValueError(f"the first line of {path} is empty")
    if len(line) > _MOST_BYTES:
        raise ValueError(f"the first line of {path} is longer than {_MOST_BYTES} bytes")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"the first line of {path} is not UTF-8 text") from None
