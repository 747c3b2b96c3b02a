"""
The root of the web: the routes, and the one place where replies are written.

Every request gets exactly one reply. A failure becomes one by the table in ``replies``.
"""

# Most of twisted.web has no annotations.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Mapping
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

from middlewared.accounts.interface import Authenticator
from middlewared.background import Background, shielded
from middlewared.calls.interface import Calls
from middlewared.clock import Clock, WallClock
from middlewared.devices.interface import DeviceRegistry
from middlewared.errors import BadRequest
from middlewared.logs.interface import RepeatCounter
from middlewared.model import Device, SipUserId
from middlewared.web.authentication import Authentication
from middlewared.web.calls import CallEndpoints
from middlewared.web.device_registration import DeviceRegistration
from middlewared.web.devices import DeviceEndpoints
from middlewared.web.endpoint import Endpoint
from middlewared.web.filters import ObservePbx, ObserveRequest, RequestFilter
from middlewared.web.health import Health, health_endpoint, openapi_endpoint
from middlewared.web.pbx_access import PbxAccess
from middlewared.web.registrations import RegistrationEndpoint
from middlewared.web.replies import (
    MethodNotAllowed,
    NetworkForbidden,
    NotFound,
    PbxCredentialsRefused,
    Reply,
    json_refusal,
    refusal_of,
    status_refusal,
)
from middlewared.web.reports import ReportEndpoints
from middlewared.web.request import Request, origin_path
from middlewared.web.settings import LiveSettings, RouteSet, WebSettings
from middlewared.web.shedding import Shedding
from middlewared.web.site import LimitedSite
from middlewared.web.unknown_keys import UnknownKeys

_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))


class Web:
    """
    Everything that is served over HTTP, except the metrics.

    :param background: runs requests that are finished even when their client has gone.
    :param notify_lost: called with a replaced device and the one that replaced it.
    :param report: called with the account and the texts of each log-metrics report.
    :param hangup: called with the device, the call's key and the reason of each hangup report.
    :param health: returns the state of the daemon.
    :param repeats: counts the refusals, which any client can cause at will.
    :param observe_request: called with route, method, status and seconds of each request.
    :param observe_pbx: called with a PBX's name and the outcome of each of its requests.
    :ivar settings: a reload assigns its ``current``, a stop its ``keep_alive``.
    :ivar pbx_calls: places and cancels the calls of PBXs, also those that do not use HTTP.
    :ivar pbx_registrations: likewise for what SIP registrars report.
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
        report: Callable[[SipUserId, Mapping[str, str]], None],
        hangup: Callable[[Device, str, str], None],
        health: Callable[[], Health],
        repeats: RepeatCounter,
        observe_request: ObserveRequest,
        observe_pbx: ObservePbx,
    ) -> None:
        self.settings = LiveSettings(settings)
        self._clock = clock
        self._observe_request = observe_request
        self._observe_pbx = observe_pbx
        self._repeats = repeats
        self._background = background
        shedding = Shedding(
            clock=clock,
            settings=self.settings,
            observe_request=observe_request,
            calls=calls,
            observe_pbx=observe_pbx,
        )
        unknown_keys = UnknownKeys(
            clock=clock, settings=self.settings, observe_request=observe_request, calls=calls
        )
        self._filters: dict[RouteSet, tuple[RequestFilter, ...]] = {
            RouteSet.ALL: (shedding, unknown_keys),
            RouteSet.PUBLIC: (unknown_keys,),
            RouteSet.PBX: (shedding,),
        }
        pbxs = PbxAccess(clock=clock)
        self.pbx_calls = call_endpoints = CallEndpoints(
            clock=clock,
            calls=calls,
            pbxs=pbxs,
            repeats=repeats,
            answer_elsewhere=unknown_keys.answer,
        )
        credentials = Authentication(clock=clock, accounts=accounts)
        registration = DeviceRegistration(devices=devices, notify_lost=notify_lost)
        self._incoming_call = call_endpoints.incoming_call()
        self.pbx_registrations = RegistrationEndpoint(
            wall=wall, calls=calls, pbxs=pbxs, devices=devices, registration=registration
        )
        self._of_pbx = [self._incoming_call, self.pbx_registrations.endpoint()]
        self._health = health_endpoint(health)
        self._others = [
            call_endpoints.call_response(),
            *DeviceEndpoints(
                wall=wall,
                devices=devices,
                credentials=credentials,
                registration=registration,
            ).endpoints(),
            *ReportEndpoints(
                wall=wall,
                devices=devices,
                credentials=credentials,
                report=report,
                hangup=hangup,
            ).endpoints(),
            openapi_endpoint(),
        ]

    def site(self, routes: RouteSet = RouteSet.ALL) -> LimitedSite:
        """The factory of a listener that serves ``routes``."""
        return LimitedSite(
            resource=_Routes(self.endpoints(routes), self._start, self._no_route),
            clock=self._clock,
            settings=self.settings,
            refuse_broken=self._refuse_broken,
            observe=self._observe,
            filters=self._filters[routes],
        )

    def endpoints(self, routes: RouteSet = RouteSet.ALL) -> list[Endpoint]:
        """The endpoints of ``routes``, also those that only answer 404 there."""
        match routes:
            case RouteSet.ALL:
                return [*self._of_pbx, self._health, *self._others]
            case RouteSet.PUBLIC:
                closed = [attrs.evolve(each, methods=None) for each in self._of_pbx]
                return [*closed, self._health, *self._others]
            case RouteSet.PBX:
                return [*self._of_pbx, self._health]

    def _start(self, endpoint: Endpoint, request: Request) -> Deferred[None]:
        """
        Serve ``request``.

        :return: fires when it has its reply; cancelled when the client has gone.
        """
        serving = Deferred.fromCoroutine(self._serve(endpoint, request))
        if serving.called or request.method in endpoint.ends_with_client:
            return serving
        # A half-made registration is useless, so it does not end with its client.
        self._background.keep(serving)
        return shielded(serving)

    async def _serve(self, endpoint: Endpoint, request: Request) -> None:
        request.route = endpoint.name
        try:
            reply = await self._reply(endpoint, request)
        except Exception as error:
            if isinstance(error, CancelledError) and request.channel is None:
                raise  # The client has gone, so this was cancelled; no one gets a reply.
            reply = self._refuse(endpoint, request, error)
        if request.channel is not None:
            request.respond(reply)

    async def _reply(self, endpoint: Endpoint, request: Request) -> Reply:
        if endpoint.methods is None:
            raise NotFound("served by another listener")
        serve = endpoint.methods.get(request.method)
        if serve is None:
            raise MethodNotAllowed(tuple(endpoint.methods))
        return await serve(request)

    def _refuse(self, endpoint: Endpoint, request: Request, error: Exception) -> Reply:
        refusal = refusal_of(error)
        if isinstance(error, BadRequest | NetworkForbidden | PbxCredentialsRefused):
            self._repeats.count(f"{endpoint.name} refused: {error}")
        elif refusal.status == 500 and self._repeats.is_first(f"{endpoint.name} failed"):
            _log.failure("{route} failed", route=endpoint.name)
        elapsed_ms = (self._clock.seconds() - request.received_at) * 1000
        return endpoint.format_refusal(refusal, max(0.0, elapsed_ms))

    def _no_route(self, request: Request, _: Failure) -> None:
        request.respond(json_refusal(refusal_of(NotFound("no such route")), 0.0))

    def _refuse_broken(self, target: bytes, status: int) -> Reply:
        path = origin_path(target.partition(b"?")[0]).decode("latin-1") + "/"
        of_pbx = path.startswith(self._incoming_call.path + "/")
        self._observe_request("broken", "other", status, 0.0)
        format_refusal = self._incoming_call.format_refusal if of_pbx else json_refusal
        reply = format_refusal(status_refusal(status), 0.0)
        if reply.outcome is not None:
            self._observe_pbx("", reply.outcome)
        return reply

    def _observe(self, request: Request) -> None:
        method = request.method.decode("ascii") if request.method in _METHODS else "other"
        seconds = max(0.0, self._clock.seconds() - request.received_at)
        self._observe_request(request.route, method, request.code, seconds)
        if request.outcome is not None:
            self._observe_pbx(request.pbx, request.outcome)


ServeEndpoint: TypeAlias = Callable[[Endpoint, Request], Deferred[None]]


class _Routes(Resource):
    """
    Klein, behind one look-up of the paths that clients are documented to send.

    Klein's matching costs 0.05 ms of CPU, and a call of two requests costs 0.6 to 0.9 ms.
    """

    isLeaf = True

    def __init__(
        self,
        endpoints: list[Endpoint],
        serve: ServeEndpoint,
        no_route: Callable[..., None],
    ) -> None:
        super().__init__()
        self._documented = {f"{each.path}/".encode("ascii"): each for each in endpoints}
        self._serve = serve
        app = Klein()
        for each in endpoints:
            app.route(each.path, endpoint=each.name)(_route(serve, each))
        app.handle_errors(HTTPException)(no_route)
        self._klein: Any = app.resource()

    def render(self, request: Request) -> int:
        endpoint = self._documented.get(request.path)
        if endpoint is None:
            request.postpath = canonical_segments(request.path)
            rendered: int = self._klein.render(request)
            return rendered
        serving = self._serve(endpoint, request)
        serving.addErrback(_log_failure)
        if not serving.called:
            request.serving = serving
        return NOT_DONE_YET


def _route(serve: ServeEndpoint, endpoint: Endpoint) -> Callable[..., Any]:
    def route(request: Request) -> Deferred[None]:
        return serve(endpoint, request)

    return route


def canonical_segments(path: bytes) -> list[bytes]:
    """The segments of ``path`` that name a route; what follows them means nothing."""
    # Klein joins them again and wants them to be UTF-8.
    path = unquote(origin_path(path), errors="replace").encode("utf-8")
    segments = path.lstrip(b"/").split(b"/", 2)
    return segments[: 2 if segments[0] == b"api" else 1]


def _log_failure(failure: Failure) -> None:
    if failure.check(CancelledError) is None:
        _log.failure("a request failed", failure)


_log = Logger()
