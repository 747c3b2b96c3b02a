"""
The account backend: whose credentials are these?

Only a backend's own refusal is a refusal. Every other failure is AccountsDown, because apps
log their user out on a 401.

What one more backend (``ldap``) takes:

1. ``accounts/ldap.py``: the class, an :class:`AccountBackend`, and its frozen settings
2. ``config/values.py``: its name in ``Backend``, its keys in ``AccountSettings`` (a password
   with ``secret=True``, a URL with ``web_url("ldap", "ldaps")``)
3. ``config/rules.py``: which of its keys must be set; ``config/exposure.py``: a warning where
   a password goes out without TLS
4. ``service/implementations.py``: its case in ``choose_accounts``, without which mypy fails,
   and the table in its docstring
5. ``service/apps.py`` (``file_problems``), if it reads a file
6. ``cli/check/online.py`` and a module beside it, if ``check --online`` can ask it something
7. ``setup.py`` and ``nox -s pin``, if it needs a library; ``pyproject.toml`` (mypy), if that
   has no types
8. ``tests/test_accounts_ldap.py``: ``AccountBackendContract``, and what is special about it,
   with a peer in ``simulator/`` or ``tests/servers/``; ``test_config_values.py``,
   ``test_cli_check_backends.py``
9. ``etc/middlewared.ini``, ``README.md``, ``docs/operating.md`` (network, what is checked),
   ``docs/design.md`` (rooms), ``CHANGELOG.md``

Nothing else: the reader, the wiring and the web take a backend as it is. A backend that does
not speak HTTP connects through ``outgoing/tcp_endpoints.py`` (``DirectEndpoints``), as Redis does.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import attrs

from middlewared.model import SipUserId

Settings = TypeVar("Settings", contravariant=True)


@attrs.frozen
class Account:
    """An account whose credentials were accepted."""

    sip_user_id: SipUserId | None
    """The one account that these credentials are for; None: any (backend ``open``)."""

    def owns(self, sip_user_id: SipUserId) -> bool:
        """Whether these credentials give access to ``sip_user_id``."""
        return self.sip_user_id is None or self.sip_user_id == sip_user_id


class Authenticator(Protocol):
    """Validates the Authorization header of an app's request."""

    @property
    def needs_credentials(self) -> bool:
        """
        Whether a request without an Authorization header is refused without asking.

        False for ``open`` and ``none``: ``authenticate`` is then called with ``b""``.
        """

    @property
    def at_once(self) -> int:
        """How many concurrent attempts are useful; more would only wait in the backend."""

    async def authenticate(self, authorization: bytes) -> Account:
        """
        Find out whose credentials these are.

        :param authorization: the client's Authorization header, any scheme, unchanged.
        :raises CredentialsRefused: the backend refused them (401).
        :raises AccessForbidden: the backend forbade access (403), or there is no app account.
        :raises AccountsDown: time-out, unreachable, redirect, 5xx, not JSON, wrong shape.
        """


class AccountBackend(Authenticator, Protocol[Settings]):
    """An :class:`Authenticator` with a life, and settings of its own."""

    @property
    def up(self) -> bool | None:
        """
        Whether the service that the backend asks gave its last answer as agreed, True before
        the first one; None: it asks none.
        """

    def reconfigure(self, settings: Settings) -> None:
        """
        Use ``settings`` for what begins from now on.

        Cannot fail: what can be wrong with them was found when they were read.
        """

    async def start(self) -> None:
        """Called once, before the first ``authenticate``; a service that is down is no error."""

    async def stop(self) -> None:
        """Called once, after the last request has been answered."""
