"""The htpasswd backend: its file and its checks."""

from __future__ import annotations

import base64
from pathlib import Path

import bcrypt
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase, TestCase

from middlewared.accounts.htpasswd import (
    MAX_CHECKS,
    HtpasswdAccounts,
    Passwords,
    read_passwords,
)
from middlewared.accounts.interface import Account
from middlewared.basic_auth import encode_basic
from middlewared.errors import AccountsDown, ConfigError, CredentialsRefused
from tests.contracts.accounts import ACCOUNT, AccountBackendContract

LONG = "x" * 72


def hashed(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


class HtpasswdCase(TestCase):
    """A backend that knows two accounts."""

    good = encode_basic(str(ACCOUNT), "good: password")
    bad = encode_basic(str(ACCOUNT), "bad password")

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.write(f"{ACCOUNT}:{hashed('good: password')}", f"42:{hashed(LONG)}")
        self.backend = HtpasswdAccounts(reactor=reactor, settings=read_passwords(self.path))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.backend.stop()))
        self.successResultOf(Deferred.fromCoroutine(self.backend.start()))

    def write(self, *lines: str) -> None:
        self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    async def refused(self, authorization: bytes) -> None:
        with self.assertRaises(CredentialsRefused):
            await self.backend.authenticate(authorization)


class HtpasswdContractTests(AccountBackendContract, HtpasswdCase):  # type: ignore[misc]
    """The contract."""


class HtpasswdTextTests(HtpasswdCase):
    """Where accounts are texts."""

    async def test_users_are_texts(self) -> None:
        """Compared exactly; digits are texts like all others."""
        self.write(f"100@pbx.example:{hashed('a')}", f"007:{hashed('b')}", f"é:{hashed('c')}")
        self.backend.reconfigure(read_passwords(self.path, text=True))
        for user, password in (("100@pbx.example", "a"), ("007", "b"), ("é", "c")):
            account = await self.backend.authenticate(encode_basic(user, password))
            self.assertEqual(account, Account(user))
        for user, password in (("7", "b"), ("100@PBX.example", "a"), ("", "a"), ("x", "a")):
            await self.refused(encode_basic(user, password))

    def test_lines(self) -> None:
        """A text has no blank and no colon, and a user one line."""
        self.write(f"a b:{hashed('a')}", f"a:{hashed('a')}", f"a:{hashed('a')}", f":{hashed('a')}")
        error = self.assertRaises(ConfigError, read_passwords, self.path, text=True)
        self.assertEqual(len(error.problems), 3)


class HtpasswdCheckTests(HtpasswdCase):
    """Which credentials are accepted."""

    async def test_unknown_users(self) -> None:
        """A user who is not in the file is refused, whatever the name looks like."""
        for user in ("43", "0", "", f"0{ACCOUNT}", f" {ACCOUNT}", "-1", "someone@example.com", "é"):
            await self.refused(encode_basic(user, "good: password"))

    async def test_other_schemes_and_broken_headers(self) -> None:
        """Only Basic credentials can be checked."""
        token = self.good.replace(b"Basic", b"Token")
        for header in (b"", b"Basic", b"Basic ", b"Basic !!!", b"Basic YQ==", b"Basic Y", token):
            await self.refused(header)

    async def test_scheme_in_any_case(self) -> None:
        """RFC 7617: the scheme's case does not matter."""
        await self.backend.authenticate(self.good.replace(b"Basic", b"bAsIc "))

    async def test_long_passwords(self) -> None:
        """bcrypt uses 72 bytes; a longer password causes no error."""
        account = Account(42)
        self.assertEqual(
            await self.backend.authenticate(encode_basic("42", LONG + "more")), account
        )
        await self.refused(encode_basic("42", "y" * 5000))
        await self.refused(encode_basic("42", "a\0b"))

    async def test_password_in_another_encoding(self) -> None:
        """Older HTTP clients send Latin-1; the file may hold the hash of exactly that."""
        password = "pässword".encode("latin-1")
        self.write(f"7:{bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()}")
        self.backend.reconfigure(read_passwords(self.path))
        header = b"Basic " + base64.b64encode(b"7:" + password)
        self.assertEqual(await self.backend.authenticate(header), Account(7))

    async def test_hash_variants_of_other_programs(self) -> None:
        """Apache's htpasswd writes $2y$, others $2a$."""
        for variant in ("$2a$", "$2y$"):
            self.write(f"7:{hashed('secret').replace('$2b$', variant)}")
            self.backend.reconfigure(read_passwords(self.path))
            self.assertEqual(
                await self.backend.authenticate(encode_basic("7", "secret")), Account(7)
            )

    async def test_reload(self) -> None:
        """New passwords count from the moment they are set."""
        self.write(f"{ACCOUNT}:{hashed('bad password')}")
        self.backend.reconfigure(read_passwords(self.path))
        await self.backend.authenticate(self.bad)
        await self.refused(self.good)

    async def test_empty_file_refuses_everyone(self) -> None:
        """No one may register before the first line is written."""
        self.write("# no one yet", "")
        self.backend.reconfigure(read_passwords(self.path))
        await self.refused(self.good)

    async def test_a_password_that_was_good_needs_no_place(self) -> None:
        """Apps get in while strangers have all of them; a bad password still does not."""
        await self.backend.authenticate(self.good)
        strangers = [
            Deferred.fromCoroutine(self.backend.authenticate(self.bad)) for _ in range(MAX_CHECKS)
        ]
        known = Deferred.fromCoroutine(self.backend.authenticate(self.good))
        self.assertEqual(self.successResultOf(known), Account(ACCOUNT))
        unknown = Deferred.fromCoroutine(self.backend.authenticate(encode_basic("42", LONG)))
        self.failureResultOf(unknown, AccountsDown)
        for stranger in strangers:
            await self.assertFailure(stranger, CredentialsRefused)

    async def test_a_new_hash_forgets_the_password(self) -> None:
        """Also when the password was used a moment ago."""
        await self.backend.authenticate(self.good)
        self.write(f"{ACCOUNT}:{hashed('another')}")
        self.backend.reconfigure(read_passwords(self.path))
        await self.refused(self.good)

    async def test_bound_on_checks(self) -> None:
        """Above the bound a check fails at once as trouble, not as a refusal."""
        waiting = [
            Deferred.fromCoroutine(self.backend.authenticate(self.good)) for _ in range(MAX_CHECKS)
        ]
        self.failureResultOf(
            Deferred.fromCoroutine(self.backend.authenticate(self.good)), AccountsDown
        )
        await gatherResults(waiting)
        await self.backend.authenticate(self.good)


class PasswordFileTests(SynchronousTestCase):
    """Reading the file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def problems(self) -> list[str]:
        problems: list[str] = self.assertRaises(ConfigError, read_passwords, self.path).lines
        return problems

    def test_comments_blanks_and_line_ends(self) -> None:
        """Empty lines, comments and Windows line ends are no problem."""
        first, second = hashed("a"), hashed("b")
        self.path.write_bytes(f"# staff\r\n\r\n1:{first}\r\n  2:{second}  \n".encode())
        read: Passwords = read_passwords(self.path)
        self.assertEqual(dict(read.hashes), {1: first.encode(), 2: second.encode()})

    def test_unknown_users_cost_as_much_as_the_most_costly(self) -> None:
        """The time of an answer does not show who has an account."""
        self.path.write_text(f"1:{hashed('a', 4)}\n2:{hashed('b', 6)}\n")
        self.assertTrue(read_passwords(self.path).unknown.startswith(b"$2b$06$"))
        self.assertFalse(bcrypt.checkpw(b"", read_passwords(self.path).unknown))

    def test_every_broken_line_is_named(self) -> None:
        """All problems at once, each with its line, none with a hash."""
        good = hashed("a")
        lines = [
            f"1:{good}",
            f"someone:{good}",
            "2:$apr1$salt$hash",
            f"1:{good}",
            f"3:{good[:-1]}",
            f"4:{good.replace('$04$', '$31$')}",
            f"05:{good}",
            "plain text",
        ]
        self.path.write_text("\n".join(lines))
        problems = self.problems()
        for problem, number in zip(problems, range(2, 9), strict=True):
            prefix = f"[accounts] htpasswd: {self.path} line {number}: "
            self.assertTrue(problem.startswith(prefix), problem)
            self.assertNotIn("$", problem)

    def test_unreadable_files(self) -> None:
        """A missing file, a directory and a file that is not text have different messages."""
        self.assertIn("No such file", self.problems()[0])
        self.path.write_bytes(b"\xff\xfe")
        self.assertIn("not UTF-8", self.problems()[0])
        self.path.unlink()
        self.path.mkdir()
        self.assertIn("Is a directory", self.problems()[0])
