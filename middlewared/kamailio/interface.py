"""What the connections to Kamailios ask of the daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import attrs

from middlewared.model import Outcome

Fields: TypeAlias = Mapping[str, str]
"""The fields of the HTTP API's routes, by name."""


@attrs.frozen
class Rung:
    """How a call ended; ``replied`` is called when Kamailio's reply has been written."""

    outcome: Outcome
    replied: Callable[[], None] = lambda: None


class Requests(Protocol):
    """
    What a Kamailio, known by the ``name`` of its section, may ask for.

    Expected failures are outcomes or are logged; other exceptions are bugs.
    """

    async def ring(self, fields: Fields, name: str) -> Rung:
        """
        Place a call, with the fields of ``POST /api/incoming-call/``.

        Cancelling the awaiting Deferred (the connection is lost) ends the call, unless others
        have joined it.
        """

    async def cancel(self, fields: Fields, name: str) -> None:
        """The caller gave up; the fields of ``DELETE /api/incoming-call/``."""

    async def register(self, fields: Fields, name: str, received_at: float) -> None:
        """An account has registered; the fields of ``POST /api/registration/``."""
