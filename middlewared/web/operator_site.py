"""
Listeners for operators' tools: the limits of the API, with fixed settings.
"""

from __future__ import annotations

from twisted.web.resource import Resource

from middlewared.clock import Clock
from middlewared.web.limits import Site
from middlewared.web.replies import Reply
from middlewared.web.settings import WebSettings

OPERATOR_SETTINGS = WebSettings(
    max_connections=100, max_body_bytes=1024, request_timeout_s=10.0, idle_timeout_s=60.0
)
"""Few connections: their clients are known, and calls need the descriptors."""


def operator_site(
    *, resource: Resource, clock: Clock, settings: WebSettings = OPERATOR_SETTINGS
) -> Site:
    """The factory to listen with, for a ``resource`` in the manner of twisted.web."""
    return Site(
        resource=resource,
        clock=clock,
        settings=lambda: settings,
        closing=lambda: False,
        refuse_broken=_refuse_broken,
        observe=lambda _: None,
    )


def _refuse_broken(target: bytes, status: int) -> Reply:  # noqa: ARG001 - a RefuseBroken
    return Reply(status, b"%d: this is no request that is served.\n" % status, b"text/plain")
