"""
The account backend that reads a file of ``SIP_USER_ID:bcrypt`` lines.

The one invariant: a check costs the same whether the user exists or not, and is never
done in the reactor's thread. A password that was good lately is known again without one,
so that apps get in however many strangers wait for theirs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import bcrypt
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from middlewared.accounts.interface import Account
from middlewared.errors import AccountsDown, ConfigError, CredentialsRefused, Problem

MAX_CHECKS = 64
CHECK_TIMEOUT_S = 5.0
REMEMBERED_S = 600.0
MOST_REMEMBERED = 20_000
_THREADS = 2
# The costs bcrypt knows and a phone app waits for: 16 takes about 4 s.
_COSTS = range(4, 17)
_LINE = re.compile(r"([1-9][0-9]{0,17}):(\$2[abxy]\$([0-9]{2})\$[./A-Za-z0-9]{53})")


@attrs.frozen
class Passwords:
    """The content of a password file; unknown users are checked with the hash ``nobody``."""

    hashes: Mapping[int, bytes] = attrs.field(repr=False)
    nobody: bytes = attrs.field(repr=False)


def read_passwords(path: Path) -> Passwords:
    """
    Read a password file; empty lines and those that begin with ``#`` are passed over.

    :raises ConfigError: it cannot be read, or names every line that is wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError([Problem("accounts", "htpasswd", f"{path}: {why}")]) from error
    hashes: dict[int, bytes] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            problem = _read_line(line.strip(), hashes)
            if problem:
                what = f"{path} line {number}: {problem}"
                problems.append(Problem("accounts", "htpasswd", what))
    if problems:
        raise ConfigError(problems)
    return Passwords(hashes, _nobody(hashes))


def _read_line(line: str, hashes: dict[int, bytes]) -> str | None:
    """Add one line to ``hashes``; what is wrong with it, without its hash."""
    match = _LINE.fullmatch(line)
    if match is None:
        return "must be SIP_USER_ID:bcrypt hash"
    user, hashed, cost = int(match[1]), match[2].encode("ascii"), int(match[3])
    if user in hashes:
        return f"{user} is there already"
    if cost not in _COSTS:
        return f"the bcrypt cost must be {_COSTS[0]} to {_COSTS[-1]}"
    hashes[user] = hashed
    return None


def _nobody(hashes: Mapping[int, bytes]) -> bytes:
    """A hash of no known password that costs as much as the dearest of the file."""
    cost = max((int(hashed[4:6]) for hashed in hashes.values()), default=_COSTS[0])
    return b"$2b$%02d$" % cost + b"." * 53


class HtpasswdAccounts:
    """
    Implements :class:`~middlewared.accounts.interface.AccountBackend` for Basic credentials.

    :ivar settings: the passwords; may be replaced while it runs.
    """

    needs_credentials = True
    at_once = 2 * _THREADS  # one more for each thread, to go on with

    def __init__(self, *, reactor: Any, settings: Passwords) -> None:
        self._reactor = reactor
        self._threads = ThreadPool(0, _THREADS, "middlewared-htpasswd")
        self._checks = 0
        self._good = GoodPasswords()
        self.settings = settings

    def start(self) -> None:
        """Start the threads; they come when they are needed."""
        self._threads.start()

    def stop(self) -> None:
        """End the threads; a check under way is finished."""
        self._threads.stop()

    async def authenticate(self, authorization: bytes) -> Account:
        user, password = _basic(authorization)
        hashed = self.settings.hashes.get(user)
        if hashed is not None and self._good.has(password, hashed, self._reactor.seconds()):
            return Account(user)
        good = await self._check(password, hashed or self.settings.nobody)
        if not good or hashed is None:
            raise CredentialsRefused("wrong user or password")
        self._good.add(password, hashed, self._reactor.seconds())
        return Account(user)

    async def _check(self, password: bytes, hashed: bytes) -> bool:
        if self._checks >= MAX_CHECKS:
            raise AccountsDown(f"{MAX_CHECKS} passwords wait for their check already")
        self._checks += 1
        # bcrypt has never looked beyond 72 bytes; its Python package wants that said.
        checkpw = cast(Callable[[bytes, bytes], bool], bcrypt.checkpw)
        checking = deferToThreadPool(
            self._reactor, self._threads, checkpw, password[:72], hashed
        ).addBoth(self._checked)
        # The thread goes on after a time-out, and its place is taken until it is done.
        answer: Deferred[bool] = Deferred(lambda _: None)
        checking.addBoth(lambda result: None if answer.called else answer.callback(result))
        return await answer.addTimeout(CHECK_TIMEOUT_S, self._reactor, _too_late)

    def _checked(self, result: object) -> object:
        self._checks -= 1
        return result


class GoodPasswords:
    """
    Passwords that fitted their hash and were used in the last ``REMEMBERED_S`` seconds.

    Only digests under a key that dies with the process are kept. The hash is part of them:
    a new one in the file makes them worthless.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def has(self, password: bytes, hashed: bytes, now: float) -> bool:
        """Whether the password is remembered; it then is for another while."""
        digest = self._digest(password, hashed)
        if self._until.pop(digest, now) <= now:
            return False
        self._until[digest] = now + REMEMBERED_S
        return True

    def add(self, password: bytes, hashed: bytes, now: float) -> None:
        """Remember a password; the ones that were not used for the longest time go."""
        digest = self._digest(password, hashed)
        self._until.pop(digest, None)
        self._until[digest] = now + REMEMBERED_S
        while len(self._until) > MOST_REMEMBERED or next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)

    def _digest(self, password: bytes, hashed: bytes) -> bytes:
        return hashlib.blake2b(hashed + b":" + password, key=self._key, digest_size=32).digest()


def _too_late(_result: object, timeout_s: float) -> Failure:
    return Failure(AccountsDown(f"the password was not checked in {timeout_s:g} s"))


def _basic(authorization: bytes) -> tuple[int, bytes]:
    """The user and password of a Basic header (RFC 7617); user 0 when it is no account."""
    scheme, _, encoded = authorization.strip().partition(b" ")
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
    except binascii.Error:
        decoded = b""
    user, colon, password = decoded.partition(b":")
    if scheme.lower() != b"basic" or not colon:
        raise CredentialsRefused("not Basic credentials")
    text = user.decode("ascii", "replace")
    known = re.fullmatch("[1-9][0-9]{0,17}", text)
    return (int(text) if known else 0), password
