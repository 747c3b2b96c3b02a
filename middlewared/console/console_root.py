"""
The root of the console: its routes, who may use them, and its replies.

Every request is validated in the same order: credentials (401), route (404), method (405),
origin and rights (403), parameters (400).
"""

# Most of twisted.web has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from importlib.resources import files
from typing import Any, TypeAlias
from urllib.parse import unquote

import attrs
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from werkzeug.exceptions import HTTPException

from middlewared.clock import Clock
from middlewared.console.access import SAFE_HEADERS, Access
from middlewared.console.json_routes import JsonRoutes
from middlewared.console.links import error_page
from middlewared.console.page_routes import PageRoutes, html
from middlewared.console.sources import ConsoleSettings
from middlewared.errors import AccessForbidden, BadRequest
from middlewared.web.replies import (
    MethodNotAllowed,
    NotFound,
    Refusal,
    Reply,
    json_reply,
    refusal_of,
    status_refusal,
)
from middlewared.web.request import Request, origin_path
from middlewared.web.settings import LiveSettings
from middlewared.web.site import LimitedSite

_TYPES = {"css": b"text/css; charset=utf-8", "js": b"text/javascript; charset=utf-8"}
_FILES = {"console.css": "css", "console.js": "js", "icon.svg": "svg"}
_log = Logger()

Serve: TypeAlias = Callable[..., Coroutine[Deferred[Any], Any, "Reply | None"]]


@attrs.frozen
class _Route:
    """
    What one address serves.

    ``methods``: by method; each gets the request, the user, and what the path names. None as
    the reply: it was written. ``operators``: methods that only operators may use.
    """

    path: str
    methods: Mapping[bytes, Serve]
    operators: frozenset[bytes] = frozenset()


@attrs.frozen(kw_only=True)
class ConsoleRoot:
    """
    :ivar limits: of the listener; a reload assigns its ``current``, a stop its ``keep_alive``.
    :param settings: returns those that are in force.
    """

    clock: Clock
    access: Access
    pages: PageRoutes
    documents: JsonRoutes
    settings: Callable[[], ConsoleSettings]
    limits: LiveSettings

    def site(self) -> LimitedSite:
        """The factory of the console's listener."""
        return LimitedSite(
            resource=_Served(self._routes(), self._serve, self._serve_nothing),
            clock=self.clock,
            settings=self.limits,
            refuse_broken=lambda _target, status: _refusal_reply(b"", status_refusal(status), ""),
            observe=lambda _: None,
        )

    def _routes(self) -> list[_Route]:
        pages, documents = self.pages, self.documents
        operator = frozenset((b"POST", b"DELETE"))
        return [
            _page("/", pages.overview),
            _page("/calls", pages.calls),
            _page("/calls/<path:name>", pages.call),
            _page("/apps", pages.apps),
            _page("/accounts/<path:name>", pages.account),
            _Route("/accounts/<path:name>/test-call", {b"POST": pages.test_call}, operator),
            _Route("/accounts/<path:name>/remove", {b"POST": pages.remove}, operator),
            _Route("/live/overview", {b"GET": _without_user(pages.live_overview)}),
            _Route("/live/accounts/<path:name>", {b"GET": _without_user(pages.live_account)}),
            _Route("/live/calls/<path:name>", {b"GET": _without_user(pages.live_call)}),
            _read("/static/<name>", _serve_file),
            _read("/api/overview", documents.overview),
            _read("/api/calls", documents.calls),
            _read("/api/calls/<path:name>", documents.call),
            _Route(
                "/api/devices/<path:name>",
                {
                    b"GET": _without_user(documents.device),
                    b"HEAD": _without_user(documents.device),
                    b"DELETE": _without_user(documents.remove),
                },
                operator,
            ),
            _Route(
                "/api/devices/<path:name>/test-call",
                {b"POST": _without_user(documents.test_call)},
                operator,
            ),
            _read("/api/openapi.json", _serve_openapi),
        ]

    async def _serve(self, route: _Route, request: Request, *names: str) -> None:
        user = ""
        try:
            user = await self.access.user(request)
            reply = await self._reply(route, request, user, *names)
        except Exception as error:
            if isinstance(error, CancelledError) and request.channel is None:
                raise  # the client has gone
            reply = self._refuse(request, user, error)
        if reply is not None:
            request.respond(_with_safe_headers(reply))

    async def _reply(self, route: _Route, request: Request, user: str, *names: str) -> Reply | None:
        serve = route.methods.get(request.method)
        if serve is None:
            raise MethodNotAllowed(tuple(route.methods))
        self.access.require_own_origin(request)
        if request.method in route.operators:
            self.access.require_proof(request, user)
            if user not in self.settings().operators:
                raise AccessForbidden("not an operator")
        if request.too_large:
            request.fields()  # raises
        return await serve(request, user, *names)

    async def _serve_nothing(self, request: Request) -> None:
        """A path that is no route; who has no credentials does not learn that."""
        await self._serve(_Route("", dict.fromkeys([request.method], _no_route)), request)

    def _refuse(self, request: Request, user: str, error: Exception) -> Reply:
        refusal = refusal_of(error)
        if isinstance(error, BadRequest):
            refusal = attrs.evolve(refusal, detail=str(error))
        elif isinstance(error, NotFound):
            refusal = attrs.evolve(refusal, detail=_sentence(str(error)))
        elif refusal.status == 500:
            _log.failure("the console failed at a request")
        return _refusal_reply(request.path, refusal, user)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _refusal_reply(path: bytes, refusal: Refusal, user: str) -> Reply:
    if origin_path(path).startswith(b"/api/"):
        return json_reply(refusal.status, {"detail": refusal.detail}, refusal.headers)
    reply = html(error_page(refusal.status, refusal.detail, user), refusal.status)
    return attrs.evolve(reply, headers=refusal.headers)


def _with_safe_headers(reply: Reply) -> Reply:
    names = {name.lower() for name, _ in reply.headers}
    cache = () if b"cache-control" in names else ((b"Cache-Control", b"no-store"),)
    return attrs.evolve(reply, headers=(*reply.headers, *cache, *SAFE_HEADERS))


def _page(path: str, serve: Serve) -> _Route:
    return _Route(path, {b"GET": serve, b"HEAD": serve})


def _read(path: str, serve: Serve) -> _Route:
    return _page(path, _without_user(serve))


def _without_user(serve: Serve) -> Serve:
    async def serve_anyone(request: Request, _user: str, *names: str) -> Reply | None:
        return await serve(request, *names)

    return serve_anyone


async def _no_route(_request: Request, _user: str) -> Reply:
    raise NotFound("no such page")


async def _serve_openapi(_: Request) -> Reply:
    return Reply(200, (files("middlewared.console") / "openapi.json").read_bytes())


async def _serve_file(_: Request, name: str) -> Reply:
    if name not in _FILES:
        raise NotFound("no such file")
    content = (files("middlewared.console") / "static" / name).read_bytes()
    content_type = _TYPES.get(_FILES[name], b"image/svg+xml")
    return Reply(200, content, content_type, ((b"Cache-Control", b"private, max-age=60"),))


class _Served(Resource):
    """Klein, with paths as they are meant: decoded, and without a slash at the end."""

    isLeaf = True

    def __init__(
        self,
        routes: list[_Route],
        serve: Callable[..., Coroutine[Deferred[Any], Any, None]],
        serve_nothing: Callable[[Request], Coroutine[Deferred[Any], Any, None]],
    ) -> None:
        super().__init__()
        app = Klein()
        for route in routes:
            app.route(route.path, endpoint=route.path)(_klein_route(serve, route))

        no_route: Callable[..., Any] = lambda request, _failure: serve_nothing(request)  # noqa: E731
        app.handle_errors(HTTPException)(no_route)
        self._klein: Any = app.resource()

    def render(self, request: Request) -> int:
        path = unquote(origin_path(request.path), errors="replace").encode("utf-8")
        request.postpath = path.strip(b"/").split(b"/")
        rendered: int = self._klein.render(request)
        return rendered


def _klein_route(serve: Callable[..., Any], route: _Route) -> Callable[..., Any]:
    def serve_route(request: Request, name: str | None = None) -> Any:
        return serve(route, request, *(() if name is None else (name,)))

    return serve_route
