"""
From the bytes of a request to named texts: JSON, forms, multipart and queries.

Any bytes give either fields or BadRequest, in time linear in their number.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn, TypeAlias
from urllib.parse import unquote

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from middlewared.errors import BadRequest
from middlewared.web.replies import UnsupportedMediaType

RawFields: TypeAlias = dict[str, str | None]
"""Field values as text; None where a JSON list or object stood. Nulls are left out."""

MAX_FIELDS = 1000
MAX_JSON_DEPTH = 32


def read_body(content_type: str, body: bytes) -> RawFields:
    """
    The fields of ``body``; the last one counts when a field is repeated.

    :raises UnsupportedMediaType: the content type is none of ours.
    :raises BadRequest: the body does not match its content type, or is not UTF-8.
    """
    match content_type.partition(";")[0].strip().lower():
        case "application/json":
            return _read_json(body)
        case "application/x-www-form-urlencoded":
            return read_form(body)
        case "multipart/form-data":
            return _read_multipart(content_type, body)
    raise UnsupportedMediaType("unsupported media type")


def read_form(encoded: bytes) -> RawFields:
    """The fields of a form or a query string (WHATWG URL, application/x-www-form-urlencoded)."""
    try:
        pairs = encoded.decode("utf-8").split("&", MAX_FIELDS)
        if len(pairs) > MAX_FIELDS:
            raise BadRequest("form: too many fields")
        parts = (pair.partition("=") for pair in pairs if pair)
        return {_unquoted(name): _unquoted(value) for name, _, value in parts}
    except ValueError as error:
        raise BadRequest("form: not UTF-8") from error


def _unquoted(text: str) -> str:
    # Most texts are plain, and looking for what they lack costs next to nothing.
    if "+" in text:
        text = text.replace("+", " ")
    return unquote(text, errors="strict") if "%" in text else text


def _read_json(body: bytes) -> RawFields:
    try:
        text = body.decode("utf-8")
        if text.count("[") + text.count("{") > MAX_JSON_DEPTH:
            _bound_depth(text)
        document = _JSON.decode(text)
    except ValueError as error:
        raise BadRequest("JSON: broken or not UTF-8") from error
    if not isinstance(document, dict):
        raise BadRequest("JSON: not an object")
    return {name: _as_text(value) for name, value in document.items() if value is not None}


def _as_text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else None


def _bound_depth(text: str) -> None:
    """Refuse nesting that would use up the decoder's stack."""
    depth = 0
    for token in _NESTING.finditer(text):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        if depth > MAX_JSON_DEPTH:
            raise BadRequest("JSON: nested too deeply")


def _no_constant(_: str) -> NoReturn:
    raise BadRequest("JSON: NaN or Infinity")


# Numbers stay the text they were sent as: exact, and no huge integer is ever computed.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)

# A string (closed or not, so that each character is read once) or a bracket.
_NESTING = re.compile(r'"(?:[^"\\]|\\.?)*+"?|[\[\]{}]', re.DOTALL)


def _read_multipart(content_type: str, body: bytes) -> RawFields:
    fields: RawFields = {}
    name, value = "", bytearray()
    try:
        _, options = parse_options_header(content_type)
        boundary = options.get("boundary", "")
        with PushMultipartParser(boundary, max_segment_count=MAX_FIELDS) as parser:
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    name, value = event.name, bytearray()
                elif event is None:
                    fields[name] = value.decode("utf-8")
                else:
                    value += event
    except (MultipartError, ValueError) as error:
        raise BadRequest("multipart: broken or not UTF-8") from error
    return fields
