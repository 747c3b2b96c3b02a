"""
The routes for load balancers and developers; neither waits for anything.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

import attrs

from middlewared.web.endpoint import Endpoint, Serve
from middlewared.web.replies import Reply, json_reply
from middlewared.web.request import Request


@attrs.frozen(kw_only=True)
class Health:
    """
    The state of the daemon.

    A dependency that is down makes the daemon degraded: calls to known devices still work. It
    takes calls while it is not ``started``, but a balancer should ask others.

    :ivar redis_up: None when Redis is not used.
    :ivar waiting: the number of held calls.
    :ivar lag_ms: the longest turn of the event loop in the last second or two.
    """

    database_up: bool
    redis_up: bool | None
    waiting: int
    lag_ms: int = 0
    draining: bool = False
    started: bool = True


def health_endpoint(health: Callable[[], Health]) -> Endpoint:
    """GET /health/."""

    async def serve(_: Request) -> Reply:
        return _health_reply(health())

    return _readable("health", "/health", serve)


def openapi_endpoint() -> Endpoint:
    """GET /api/openapi.json: the description of the API."""
    document = (files("middlewared.web") / "openapi.json").read_bytes()

    async def serve(_: Request) -> Reply:
        return Reply(200, document)

    return _readable("openapi", "/api/openapi.json", serve)


def _readable(name: str, path: str, serve: Serve) -> Endpoint:
    return Endpoint(name, path, {b"GET": serve, b"HEAD": serve})


def _health_reply(health: Health) -> Reply:
    if health.draining:
        return json_reply(503, {"status": "draining"})
    if not health.started:
        return json_reply(503, {"status": "starting"})
    up = health.database_up and health.redis_up is not False
    return json_reply(
        200,
        {
            "status": "ok" if up else "degraded",
            "database": _UP[health.database_up],
            "redis": _UP[health.redis_up],
            "lag_ms": health.lag_ms,
            "waiting": health.waiting,
        },
    )


_UP = {True: "up", False: "down", None: "off"}
