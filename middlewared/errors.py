"""
The failures that two or more rooms share.

Each seam raises only these; foreign exceptions are translated there with
``raise ... from``. ``web`` turns them into statuses in one table. None carries a
secret in its text.
"""

from __future__ import annotations


class MiddlewaredError(Exception):
    """Base of all failures a caller is expected to handle."""


class BadRequest(MiddlewaredError):
    """The client sent a field that is missing or wrong; the text is for our log only."""


class ServiceDown(MiddlewaredError):
    """
    Something we depend on does not answer; the client may come again.

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
    """The account backend did not give a usable answer (never a refusal)."""


class CredentialsRefused(MiddlewaredError):
    """The account backend itself refused these credentials (401)."""


class AccessForbidden(MiddlewaredError):
    """The credentials are good, the account may not do this (403)."""


class ConfigError(MiddlewaredError):
    """The configuration cannot be used; ``problems`` has one finished line for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
