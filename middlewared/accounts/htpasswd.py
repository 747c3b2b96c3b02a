"""
The account backend that reads a file of ``SIP_USER_ID:bcrypt`` lines; the console checks its
users with another one.

A check costs the same whether the user exists or not, and never runs in the reactor's thread.
A password that was accepted lately needs no check, so apps get in however many strangers
wait for theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import attrs
import bcrypt
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from middlewared.accounts.interface import Account
from middlewared.accounts.remembered import Remembered
from middlewared.background import shielded
from middlewared.basic_auth import decode_basic
from middlewared.errors import AccountsDown, ConfigError, CredentialsRefused, Problem
from middlewared.model import MAX_ACCOUNT, SipUserId
from middlewared.waiting import with_fair_timeout

MAX_CHECKS = 64
CHECK_TIMEOUT_S = 5.0
REMEMBERED_S = 600.0
"""Since the last use of a password; its hash in the file must still be the same."""
_THREADS = 2
# bcrypt allows 4 to 31, but a check must end in CHECK_TIMEOUT_S: cost 16 takes about 4 s.
_COSTS = range(4, 17)
_HASH = r":(\$2[abxy]\$([0-9]{2})\$[./A-Za-z0-9]{53})"
_LINE = re.compile(r"([1-9][0-9]{0,17})" + _HASH)
_TEXT_LINE = re.compile(rf"([^:\s]{{1,{MAX_ACCOUNT}}})" + _HASH)


@attrs.frozen
class Passwords:
    """
    The content of a password file; unknown users are checked against ``unknown``.

    ``text``: whether its users are texts, else they are numbers.
    """

    hashes: Mapping[SipUserId, bytes] = attrs.field(repr=False)
    unknown: bytes = attrs.field(repr=False)
    text: bool = False


def read_passwords(
    path: Path, *, text: bool = False, section: str = "accounts", name: str = "SIP_USER_ID"
) -> Passwords:
    """
    Read a password file; empty lines and those that begin with ``#`` are ignored.

    :param text: whether its users are texts, else they are numbers.
    :param section: where problems are reported, with ``name`` for what its users are.
    :raises ConfigError: it cannot be read, or some of its lines are wrong; names each.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError([Problem(section, "htpasswd", f"{path}: {why}")]) from error
    hashes: dict[SipUserId, bytes] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            problem = _read_line(line.strip(), hashes, text, name)
            if problem:
                what = f"{path} line {number}: {problem}"
                problems.append(Problem(section, "htpasswd", what))
    if problems:
        raise ConfigError(problems)
    return Passwords(hashes, _unknown(hashes), text)


def read_console_users(path: Path) -> Passwords:
    """As :func:`read_passwords`, for the console's users: lines of ``USER:bcrypt``."""
    return read_passwords(path, text=True, section="admin", name="USER")


def _read_line(line: str, hashes: dict[SipUserId, bytes], text: bool, name: str) -> str | None:
    """
    Add one line to ``hashes``.

    :return: what is wrong with it, without its hash; None: nothing.
    """
    match = (_TEXT_LINE if text else _LINE).fullmatch(line)
    if match is None:
        return f"must be {name}:bcrypt hash"
    user: SipUserId = match[1] if text else int(match[1])
    hashed, cost = match[2].encode("ascii"), int(match[3])
    if user in hashes:
        return f"{user} is there already"
    if cost not in _COSTS:
        return f"the bcrypt cost must be {_COSTS[0]} to {_COSTS[-1]}"
    hashes[user] = hashed
    return None


def _unknown(hashes: Mapping[SipUserId, bytes]) -> bytes:
    """A hash that no password fits, as costly as the most costly one in the file."""
    cost = max((int(hashed[4:6]) for hashed in hashes.values()), default=_COSTS[0])
    return b"$2b$%02d$" % cost + b"." * 53


class HtpasswdAccounts:
    """Implements :class:`~middlewared.accounts.interface.AccountBackend`."""

    needs_credentials = True
    at_once = 2 * _THREADS  # each thread has its next check waiting
    up = None

    def __init__(self, *, reactor: Any, settings: Passwords) -> None:
        self._reactor = reactor
        self._threads = ThreadPool(0, _THREADS, "middlewared-htpasswd")
        self._checks = 0
        self._accepted: Remembered[bool] = Remembered()
        self._settings = settings

    def reconfigure(self, settings: Passwords) -> None:
        """Validate passwords against ``settings`` from now on."""
        self._settings = settings

    async def start(self) -> None:
        """Begin to take work; a thread is started when there is work for it."""
        self._threads.start()

    async def stop(self) -> None:
        """End the threads; a check that has begun is finished first."""
        self._threads.stop()

    async def authenticate(self, authorization: bytes) -> Account:
        user, password = _credentials(authorization, self._settings.text)
        hashed = self._settings.hashes.get(user)
        if hashed is None:
            await self._check(password, self._settings.unknown)
            raise CredentialsRefused("wrong user or password")
        secret, now = hashed + password, self._reactor.seconds()
        if self._accepted.get(secret, now, extend_s=REMEMBERED_S) is None:
            if not await self._check(password, hashed):
                raise CredentialsRefused("wrong user or password")
            self._accepted.put(secret, True, self._reactor.seconds(), keep_s=REMEMBERED_S)
        return Account(user)

    async def _check(self, password: bytes, hashed: bytes) -> bool:
        if self._checks >= MAX_CHECKS:
            raise AccountsDown(f"{MAX_CHECKS} passwords are already waiting to be checked")
        self._checks += 1
        # bcrypt has never used more than 72 bytes, and its Python package rejects more.
        checkpw = cast(Callable[[bytes, bytes], bool], bcrypt.checkpw)
        checking = deferToThreadPool(
            self._reactor, self._threads, checkpw, password[:72], hashed
        ).addBoth(self._checked)
        # A thread cannot be interrupted: after a time-out it goes on, and still counts.
        return await with_fair_timeout(
            shielded(checking), CHECK_TIMEOUT_S, self._reactor, _too_slow
        )

    def _checked(self, result: Any) -> Any:
        self._checks -= 1
        return result


def _too_slow() -> NoReturn:
    raise AccountsDown(f"the password was not checked in {CHECK_TIMEOUT_S:g} s")


def _credentials(authorization: bytes, text: bool) -> tuple[SipUserId, bytes]:
    """
    The user and password of a Basic header (RFC 7617).

    :param text: whether users are texts. If not, the user is 0 when it is no account.
    """
    scheme, _, parameters = authorization.strip().partition(b" ")
    credentials = decode_basic(parameters)
    if scheme.lower() != b"basic" or credentials is None:
        raise CredentialsRefused("not Basic credentials")
    name, password = credentials
    user: SipUserId = name
    if not text:
        user = int(name) if re.fullmatch("[1-9][0-9]{0,17}", name) else 0
    return user, password.encode("utf-8", "surrogateescape")
