"""
An endpoint: a route, its methods, and how its refusals look.

An endpoint returns a :class:`Reply` or raises; only ``root`` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import Deferred

from middlewared.web.replies import Refusal, Reply, json_refusal
from middlewared.web.request import Request

Serve: TypeAlias = Callable[[Request], Coroutine[Deferred[Any], Any, Reply]]
FormatRefusal: TypeAlias = Callable[[Refusal, float], Reply]
"""From a refusal and the milliseconds that the request took."""


@attrs.frozen
class Endpoint:
    """
    One route of the API.

    :ivar name: of the route, in metrics and logs.
    :ivar path: without a trailing slash; anything after a slash belongs to the route too.
    :ivar methods: None when the listener does not serve it: 404, in the route's own format.
    :ivar ends_with_client: the methods whose work is cancelled when the client goes away, since
        only that client needs its result. All other work is finished.
    """

    name: str
    path: str
    methods: Mapping[bytes, Serve] | None
    format_refusal: FormatRefusal = json_refusal
    ends_with_client: Collection[bytes] = ()
