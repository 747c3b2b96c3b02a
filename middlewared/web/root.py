"""
The root of the web: the tree of routes, and the one place where answers are written.

The one invariant: every request gets exactly one reply, and no failure leaves a handler
other than through the table in ``replies``.
"""

# Most of twisted.web has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote

import attrs
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from middlewared.accounts.interface import Authenticator
from middlewared.background import Background
from middlewared.calls.interface import Calls
from middlewared.clock import Clock, WallClock
from middlewared.devices.interface import DeviceRegistry
from middlewared.errors import BadRequest, MiddlewaredError
from middlewared.logs.interface import RepeatCounter
from middlewared.model import Device
from middlewared.web.authentication import Authentication
from middlewared.web.calls import CallEndpoints
from middlewared.web.devices import DeviceEndpoints
from middlewared.web.endpoint import Endpoint
from middlewared.web.filters import FilterParts, PlainFilter
from middlewared.web.health import Health, health_endpoint, openapi_endpoint
from middlewared.web.limits import Site
from middlewared.web.replies import (
    MethodNotAllowed,
    NetworkForbidden,
    NotFound,
    Reply,
    json_refusal,
    refusal_of,
    status_refusal,
)
from middlewared.web.reports import ReportEndpoints
from middlewared.web.request import Request, origin_path
from middlewared.web.settings import RouteSet, WebSettings
from middlewared.web.shedding import Shedding
from middlewared.web.unknown_keys import UnknownKeys

_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))


class Web:
    """
    Everything that is served over HTTP, but the metrics.

    :param background: runs what must be finished although its client has gone.
    :param notify_lost: called with a replaced device and the one that replaced it.
    :param report: given the account and the texts of each log-metrics report.
    :param hangup: given the device, the call's key and the reason of each hangup report.
    :param health: how the daemon is at this moment.
    :param repeats: counts the refusals, which any client can cause at will.
    :param http_request: gets the route, method, status and seconds of each answered request.
    :ivar closing: set it before the end: each connection is closed with its next answer.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        wall: WallClock,
        settings: WebSettings,
        calls: Calls,
        devices: DeviceRegistry,
        accounts: Authenticator,
        background: Background,
        notify_lost: Callable[[Device, Device], None],
        report: Callable[[int, Mapping[str, str]], None],
        hangup: Callable[[Device, str, str], None],
        health: Callable[[], Health],
        repeats: RepeatCounter,
        http_request: Callable[[str, str, int, float], None],
    ) -> None:
        self.settings = settings
        self.closing = False
        self._clock = clock
        self._http_request = http_request
        self._repeats = repeats
        self._background = background

        def present() -> WebSettings:
            return self.settings

        credentials = Authentication(clock=clock, accounts=accounts, settings=present)
        parts: FilterParts = {
            "clock": clock,
            "settings": present,
            "closing": lambda: self.closing,
            "http_request": http_request,
        }
        shedding = Shedding(calls=calls, **parts)
        unknown_keys = UnknownKeys(calls=calls, **parts)
        self._filters: dict[RouteSet, tuple[PlainFilter, ...]] = {
            RouteSet.WHOLE: (shedding, unknown_keys),
            RouteSet.PUBLIC: (unknown_keys,),
            RouteSet.PBX: (shedding,),
        }
        call_endpoints = CallEndpoints(
            clock=clock, calls=calls, settings=present, look_up=unknown_keys.answer
        )
        self._incoming_call = call_endpoints.incoming_call()
        self._health = health_endpoint(health)
        self._others = [
            call_endpoints.call_response(),
            *DeviceEndpoints(
                wall=wall,
                devices=devices,
                credentials=credentials,
                notify_lost=notify_lost,
                settings=present,
            ).endpoints(),
            *ReportEndpoints(
                wall=wall,
                devices=devices,
                credentials=credentials,
                report=report,
                hangup=hangup,
                settings=present,
            ).endpoints(),
            openapi_endpoint(),
        ]

    def site(self, face: RouteSet = RouteSet.WHOLE) -> Site:
        """The factory to listen with."""
        return Site(
            resource=_Tree(self.endpoints(face), self._serve, self._no_route),
            clock=self._clock,
            settings=lambda: self.settings,
            closing=lambda: self.closing,
            refuse_broken=self._refuse_broken,
            observe=self._observe,
            filters=self._filters[face],
        )

    def endpoints(self, face: RouteSet = RouteSet.WHOLE) -> list[Endpoint]:
        """All that ``face`` serves, or answers for."""
        match face:
            case RouteSet.WHOLE:
                return [self._incoming_call, self._health, *self._others]
            case RouteSet.PUBLIC:
                return [
                    attrs.evolve(self._incoming_call, methods=None),
                    self._health,
                    *self._others,
                ]
            case RouteSet.PBX:
                return [self._incoming_call, self._health]

    async def _serve(self, endpoint: Endpoint, request: Request) -> None:
        request.route = endpoint.name
        try:
            reply = await self._reply(endpoint, request)
        except Exception as error:
            if isinstance(error, CancelledError) and request.channel is None:
                raise  # The client has gone; Klein cancelled this and expects to see it.
            reply = self._refuse(endpoint, request, error)
        request.answer(reply)

    async def _reply(self, endpoint: Endpoint, request: Request) -> Reply:
        if endpoint.methods is None:
            raise NotFound("served on another face")
        serve = endpoint.methods.get(request.method)
        if serve is None:
            raise MethodNotAllowed(tuple(endpoint.methods))
        if endpoint.ends_with_client:
            return await serve(request)
        return await self._shield(serve(request))

    def _shield(self, work: Coroutine[Deferred[Any], Any, Reply]) -> Deferred[Reply]:
        """
        ``work``'s result for a client that may go away before it is there.

        A half-made registration or a cancelled database query helps nobody.
        """
        client: Deferred[Reply] = Deferred()
        self._background.run(_finish(work, client))
        return client

    def _refuse(self, endpoint: Endpoint, request: Request, error: Exception) -> Reply:
        refusal = refusal_of(error)
        if isinstance(error, BadRequest | NetworkForbidden):
            self._repeats.count(f"{endpoint.name} refused: {error}")
        elif refusal.status == 500 and self._repeats.is_first(f"{endpoint.name} failed"):
            _log.failure("{route} failed", route=endpoint.name)
        elapsed_ms = (self._clock.seconds() - request.received_at) * 1000
        return endpoint.format_refusal(refusal, max(0.0, elapsed_ms))

    def _no_route(self, request: Request, _: Failure) -> None:
        request.answer(json_refusal(refusal_of(NotFound("no such route")), 0.0))

    def _refuse_broken(self, target: bytes, status: int) -> Reply:
        path = origin_path(target.partition(b"?")[0]).decode("latin-1") + "/"
        of_pbx = path.startswith(self._incoming_call.path + "/")
        self._http_request("broken", "other", status, 0.0)
        format_refusal = self._incoming_call.format_refusal if of_pbx else json_refusal
        return format_refusal(status_refusal(status), 0.0)

    def _observe(self, request: Request) -> None:
        method = request.method.decode("ascii") if request.method in _METHODS else "other"
        seconds = max(0.0, self._clock.seconds() - request.received_at)
        self._http_request(request.route, method, request.code, seconds)


async def _finish(work: Coroutine[Deferred[Any], Any, Reply], client: Deferred[Reply]) -> None:
    try:
        reply = await work
    except Exception as error:
        if not client.called:
            client.errback(Failure())
        elif not isinstance(error, MiddlewaredError):
            raise
    else:
        if not client.called:
            client.callback(reply)


class _Anything(BaseConverter):
    regex = "(?s:.*)"
    part_isolating = False


Work: TypeAlias = Coroutine[Deferred[Any], Any, None]


def _handle(serve: Callable[[Endpoint, Request], Work], endpoint: Endpoint) -> Callable[..., Work]:
    # What came after the route's slash means nothing.
    def handle(request: Request, rest: str = "") -> Work:  # noqa: ARG001
        return serve(endpoint, request)

    return handle


def _tree(
    endpoints: list[Endpoint],
    serve: Callable[[Endpoint, Request], Work],
    no_route: Callable[..., None],
) -> Resource:
    """The routes of ``endpoints``; werkzeug's redirects are all switched off."""
    app = Klein()
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.url_map.converters["anything"] = _Anything
    for endpoint in endpoints:
        handle = _handle(serve, endpoint)
        app.route(endpoint.path, endpoint=endpoint.name)(handle)
        app.route(f"{endpoint.path}/<anything:rest>", endpoint=endpoint.name)(handle)
    app.handle_errors(HTTPException)(no_route)
    return app.resource()


class _Tree(Resource):
    """
    The plain paths of ``endpoints``, at one look-up, before the whole tree of routes.

    To match a route the long way costs more than to ring a phone.
    """

    isLeaf = True

    def __init__(
        self,
        endpoints: list[Endpoint],
        serve: Callable[[Endpoint, Request], Work],
        no_route: Callable[..., None],
    ) -> None:
        super().__init__()
        self._plain = {f"{each.path}/".encode("ascii"): each for each in endpoints}
        self._serve = serve
        self._others = _tree(endpoints, serve, no_route)

    def render(self, request: Request) -> int:
        endpoint = self._plain.get(request.path)
        if endpoint is None:
            # Klein joins these again and wants them to be UTF-8.
            path = unquote(origin_path(request.path), errors="replace").encode("utf-8")
            request.postpath = path.removeprefix(b"/").split(b"/")
            rendered: int = self._others.render(request)
            return rendered
        working = Deferred.fromCoroutine(self._serve(endpoint, request))
        working.addErrback(_gone)
        if not working.called:
            request.notifyFinish().addErrback(lambda _: working.cancel())
        return NOT_DONE_YET


def _gone(failure: Failure) -> None:
    if failure.check(CancelledError) is None:
        _log.failure("a request failed", failure)


_log = Logger()
