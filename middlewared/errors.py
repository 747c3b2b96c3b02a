"""
The failures that several rooms share.

Each seam raises only these, and translates foreign exceptions with ``raise ... from``. ``web``
maps them to statuses in one table. No text contains a secret.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs


class MiddlewaredError(Exception):
    """Base of all failures that callers are expected to handle."""


class BadRequest(MiddlewaredError):
    """A field is missing or invalid; the text is for the log only."""


class ServiceDown(MiddlewaredError):
    """
    A dependency does not answer; the client may try again.

    ``retry_after_s`` becomes the Retry-After header.
    """

    def __init__(self, what: str, retry_after_s: int = 2) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class DatabaseDown(ServiceDown):
    """The device registry could not be read or written."""


class RendezvousDown(ServiceDown):
    """The shared rendezvous could not be reached."""


class AccountsDown(ServiceDown):
    """The account backend gave no usable answer; never a refusal."""


class CredentialsRefused(MiddlewaredError):
    """The account backend refused these credentials (401)."""


class AccessForbidden(MiddlewaredError):
    """The credentials are valid, but the account may not do this (403)."""


@attrs.frozen
class Problem:
    """
    A fault of the configuration, or a warning about it.

    :ivar section: its title without brackets; "" for the file as a whole.
    :ivar key: "" for the section as a whole.
    :ivar what: what is wrong, without the section and the key.
    :ivar file: the included file; "" for the main file.
    """

    section: str
    key: str
    what: str
    file: str = ""

    def within(self, section: str, key: str = "") -> Problem:
        """The same problem in a section and at a key, where it does not name its own."""
        return attrs.evolve(self, section=self.section or section, key=self.key or key)

    def line(self, source: str = "") -> str:
        """``FILE: [section] key: what``; FILE is ``source``, the main file, or an included one."""
        section = f"[{self.section}]" if self.section else ""
        place = " ".join(filter(None, (section, self.key)))
        return ": ".join(filter(None, (self.file or source, place, self.what)))


class ConfigError(MiddlewaredError):
    """
    The configuration cannot be used.

    :ivar problems: all of them.
    :ivar lines: the same as text, each in a line of its own.
    """

    def __init__(self, problems: Iterable[Problem], source: str = "") -> None:
        """:param source: the file; "" when only a part of the configuration was read."""
        self.problems = list(problems)
        self.lines = [problem.line(source) for problem in self.problems]
        super().__init__("\n".join(self.lines))
