"""
``middlewared passwd``: makes or replaces a user's line in a file of ``USER:bcrypt`` lines.

The file is replaced as a whole, so a daemon that reads it meanwhile finds the old or the new
one. The file has mode 0600; one that its group may read, but no one else, keeps its mode. It
keeps its owner.
"""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import bcrypt

from middlewared.errors import MiddlewaredError

COST = 12
# bcrypt has never used more, and its Python package refuses more.
MOST_BYTES = 72


class PasswdFailed(MiddlewaredError):
    """The password was not set; the file is as it was."""


def set_password(path: Path, user: str) -> int:
    """
    Ask for a password, or read it from standard input, and set it.

    :return: 0.
    :raises PasswdFailed: the user's name, the password or the file cannot be used.
    """
    if not user or user.startswith("#") or ":" in user or not user.isprintable():
        raise PasswdFailed("a user's name has no colon or control character, and no # in front")
    # Before anyone types a password for nothing.
    lines, existed = _lines(path)
    password = _password(user)
    if not password or len(password) > MOST_BYTES or b"\0" in password:
        raise PasswdFailed(f"a password has 1 to {MOST_BYTES} bytes, and no NUL")
    hashed = bcrypt.hashpw(password, bcrypt.gensalt(COST)).decode("ascii")
    replaced = any(_user_of(line) == user for line in lines)
    _replace(path, _with_line(lines, user, f"{user}:{hashed}"), keep=existed)
    print(f"{path}: password of {user} {'changed' if replaced else 'set'}")  # noqa: T201
    return 0


def _lines(path: Path) -> tuple[list[str], bool]:
    """The file's lines, and whether there is one."""
    try:
        return path.read_text("utf-8").splitlines(), True
    except FileNotFoundError:
        return [], False
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise PasswdFailed(f"{path}: {why}") from error


def _password(user: str) -> bytes:
    """Typed twice without echo at a terminal; else the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.buffer.readline().rstrip(b"\r\n")
    try:
        first = getpass.getpass(f"Password of {user}: ")
        again = getpass.getpass("Again: ")
    except EOFError:
        raise PasswdFailed("no password was given") from None
    if first != again:
        raise PasswdFailed("the two passwords differ")
    return first.encode()


def _user_of(line: str) -> str:
    return line.partition(":")[0].strip()


def _with_line(lines: list[str], user: str, line: str) -> list[str]:
    """``line`` in the place of the user's first one, without others of this user."""
    kept: list[str] = []
    for each in lines:
        if _user_of(each) != user:
            kept.append(each)
        elif line not in kept:
            kept.append(line)
    return kept if line in kept else [*kept, line]


def _replace(path: Path, lines: list[str], *, keep: bool) -> None:
    """Write a new file beside ``path`` and put it in its place."""
    target = path.resolve()  # a symbolic link stays one
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
                if keep:
                    _copy_owner(target, file.fileno())
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise PasswdFailed(f"{path}: {error.strerror}") from error


def _copy_owner(target: Path, descriptor: int) -> None:
    """Give the new file the mode and, where we may, the owner of the old one."""
    status = target.stat()
    with suppress(PermissionError):
        os.fchown(descriptor, status.st_uid, status.st_gid)
    if not status.st_mode & 0o007:
        os.fchmod(descriptor, status.st_mode & 0o770)
