"""
An endpoint: a route, its methods, and how its refusals look.

The one invariant: an endpoint gives a :class:`Reply` or raises; only ``root`` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import Deferred

from middlewared.web.bodies import RawFields, read_body, read_form
from middlewared.web.replies import BodyTooLarge, Refusal, Reply, json_refusal
from middlewared.web.request import Request

Serve: TypeAlias = Callable[[Request], Coroutine[Deferred[Any], Any, Reply]]
FormatRefusal: TypeAlias = Callable[[Refusal, float], Reply]
"""From a refusal and the milliseconds the request took."""


@attrs.frozen
class Endpoint:
    """
    One route of the API.

    :ivar name: of the route, in metrics and logs.
    :ivar path: without a trailing slash; anything after a slash belongs to it too.
    :ivar methods: None when the face does not serve it: 404, in its own format.
    :ivar ends_with_client: the work is of use only while the client waits for it, so it
        is cancelled when the client goes away. Anything else is finished regardless.
    """

    name: str
    path: str
    methods: Mapping[bytes, Serve] | None
    format_refusal: FormatRefusal = json_refusal
    ends_with_client: bool = False


def fields_of(request: Request) -> RawFields:
    """
    The fields of a request, from its body or, for a DELETE without one, its query.

    :raises BodyTooLarge: in this order, as SPEC's order of judgement wants it.
    :raises UnsupportedMediaType:
    :raises BadRequest:
    """
    if request.too_large:
        raise BodyTooLarge("body too large")
    body = bytes(request.body)
    if not body and request.method == b"DELETE":
        return read_form(request.query)
    content_type = request.header_texts(b"content-type")
    if not body and not content_type:
        return {}
    return read_body(content_type[-1] if content_type else "", body)
