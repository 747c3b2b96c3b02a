"""The body readers: bytes in; fields, BadRequest or UnsupportedMediaType out, nothing else."""

from __future__ import annotations

import json
from urllib.parse import urlencode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from middlewared.errors import BadRequest
from middlewared.web.bodies import MAX_FIELDS, MAX_JSON_DEPTH, RawFields, read_body, read_form
from middlewared.web.replies import UnsupportedMediaType

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"

texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def part(name: str, value: bytes) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n' % name.encode()
    return head + value + b"\r\n"


class AnyBytesTests(SynchronousTestCase):
    def _read(self, content_type: str, body: bytes) -> None:
        try:
            fields = read_body(content_type, body)
        except (BadRequest, UnsupportedMediaType):
            return
        for name, value in fields.items():
            self.assertIsInstance(name, str)
            self.assertIsInstance(value, str | None)

    @given(st.sampled_from([JSON, FORM, MULTIPART]), st.binary())
    def test_any_bytes_are_read_or_refused(self, content_type: str, body: bytes) -> None:
        """Whatever the bytes are, under each of our content types."""
        self._read(content_type, body)

    @given(st.text() | st.text().map("multipart/form-data;".__add__), st.binary())
    def test_any_content_type_is_read_or_refused(self, content_type: str, body: bytes) -> None:
        """Whatever the header contains; a boundary may be missing, empty or absurd."""
        self._read(content_type, body)

    @given(json_values)
    def test_any_json_is_read_or_refused(self, value: object) -> None:
        """NaN, huge integers, lone surrogates and lists included."""
        self._read(JSON, json.dumps(value).encode())

    @given(
        st.lists(
            st.sampled_from(
                [
                    b"--b",
                    b"\r\n",
                    b"--b--",
                    b'Content-Disposition: form-data; name="a"',
                    b"Content-Length: 3",
                    b"Content-Disposition: form-data; name*=x",
                    b" x",
                    b"x:y",
                    b"Content-Type: text/plain; charset=no",
                    b"\xff",
                    b"\n",
                    b": ",
                    b"-",
                    b"value",
                ]
            )
        ).map(b"".join)
    )
    def test_any_multipart_is_read_or_refused(self, body: bytes) -> None:
        """Pieces of multipart in any order."""
        self._read(MULTIPART, body)


class JsonTests(SynchronousTestCase):
    def assertRefused(self, body: bytes) -> None:
        self.assertRaises(BadRequest, read_body, JSON, body)

    def test_scalars_become_the_text_they_were_sent_as(self) -> None:
        """Numbers to the last digit, booleans as words; nulls are absent."""
        huge = "9" * 10_000
        body = '{"a": 1.517230273029763E9, "b": ' + huge + ', "c": true, "d": false, "e": null}'
        fields = {"a": "1.517230273029763E9", "b": huge, "c": "true", "d": "false"}
        self.assertEqual(read_body("Application/JSON; charset=utf-8", body.encode()), fields)

    def test_lists_and_objects_are_kept_apart_from_texts(self) -> None:
        """The field rules refuse them where a text is meant."""
        self.assertEqual(read_body(JSON, b'{"a": [1], "b": {}}'), {"a": None, "b": None})

    def test_last_of_repeated_fields_counts(self) -> None:
        """Even when it is null."""
        self.assertEqual(read_body(JSON, b'{"a": 1, "a": 2, "b": 1, "b": null}'), {"a": "2"})

    def test_other_documents_are_refused(self) -> None:
        """Broken, empty, not UTF-8, not an object, constants JSON does not have."""
        for body in (b"", b"{", b'{"a": "\xff"}', b"[]", b"1", b'"x"', b"null", b'{"a": NaN}',
                     b'{"a": -Infinity}', '{"a": 1}'.encode("utf-16")):  # fmt: skip
            self.assertRefused(body)

    def test_depth_is_bounded(self) -> None:
        """In linear time, and brackets inside strings do not count."""
        for depth in (MAX_JSON_DEPTH, 30_000):
            self.assertRefused(b'{"a":' + b"[" * depth + b"]" * depth + b"}")
        nested = b'{"a":' + b"[" * (MAX_JSON_DEPTH - 1) + b"]" * (MAX_JSON_DEPTH - 1) + b"}"
        self.assertEqual(read_body(JSON, nested), {"a": None})
        self.assertEqual(read_body(JSON, b'{"a": "\\"' + b"[" * 99 + b'"}'), {"a": '"' + "[" * 99})
        self.assertRefused(b"[" * 99 + b'"' + b'\\"' * 300_000 + b"\\")


class FormTests(SynchronousTestCase):
    @given(st.dictionaries(texts, texts, max_size=20))
    def test_every_text_survives(self, fields: RawFields) -> None:
        """Escaped as browsers do it."""
        self.assertEqual(read_body(FORM, urlencode(fields).encode()), fields)

    def test_blanks_escapes_and_repeats(self) -> None:
        """Blank as + or %20, values without an equals sign, the last of repeated fields."""
        fields = {"a": "x y z", "b": "", "c": "2", "d": ":"}
        self.assertEqual(read_form(b"a=x+y%20z&b&c=1&c=2&d=%3A"), fields)

    def test_bad_encoding_is_refused(self) -> None:
        """Escaped or raw."""
        for body in (b"a=%ff", b"a=\xff", b"%ed%a0%80=1"):
            self.assertRaises(BadRequest, read_form, body)

    def test_number_of_fields_is_bounded(self) -> None:
        """A form has tens of fields, not thousands."""
        self.assertRaises(BadRequest, read_form, b"a&" * (MAX_FIELDS + 1))


class MultipartTests(SynchronousTestCase):
    @given(st.dictionaries(st.sampled_from("abcdef"), texts.filter(lambda t: "\r\n--b" not in t)))
    def test_every_text_survives(self, fields: dict[str, str]) -> None:
        """Parts without a content type are UTF-8 (RFC 7578 section 5.1.2)."""
        body = b"".join(part(name, value.encode()) for name, value in fields.items()) + b"--b--\r\n"
        self.assertEqual(read_body(MULTIPART, body), fields)

    def test_last_of_repeated_fields_counts(self) -> None:
        """As everywhere."""
        body = part("a", b"1") + part("a", b"2") + b"--b--\r\n"
        self.assertEqual(read_body('multipart/form-data; boundary="b"', body), {"a": "2"})

    def test_broken_multipart_is_refused(self) -> None:
        """No end, no boundary, wrong encoding, too many parts."""
        whole = part("a", b"1") + b"--b--\r\n"
        for content_type, body in (
            (MULTIPART, b""),
            (MULTIPART, whole[:-6]),
            ("multipart/form-data", whole),
            (MULTIPART, part("a", b"\xff") + b"--b--\r\n"),
            (MULTIPART, part("a", b"1") * (MAX_FIELDS + 1) + b"--b--\r\n"),
        ):
            self.assertRaises(BadRequest, read_body, content_type, body)


class OtherTypesTests(SynchronousTestCase):
    def test_other_content_types_are_unsupported(self) -> None:
        """Among them a missing one and ones that only begin like ours."""
        for content_type in ("", "text/plain", "application/jsonp", "application/xml", ";"):
            self.assertRaises(UnsupportedMediaType, read_body, content_type, b"{}")
