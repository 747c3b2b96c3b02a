"""
The ini file's syntax: lines become sections of keys and their texts.

Every line becomes part of a value or a problem, and no problem contains what is to the right of
a ``=``, which may be a secret. configparser is not used because it stops at the first duplicate.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

_SECTION = re.compile(r"\[([^\[\]]+)\]")
_KEY = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)\s*=(.*)", re.DOTALL)
_COMMENT = re.compile(r"(?:^|\s+);.*")

Sections = dict[str, dict[str, str]]
Report = Callable[[str, str, str], None]
"""Called with section, key and description of each problem; "" where there is none."""


@attrs.define
class _Position:
    """The section and the value to which the next line belongs."""

    section: str = ""
    key: str = ""
    values: dict[str, str] | None = None


def parse_ini(text: str, report: Report) -> Sections:
    """
    Split ``text`` into sections of keys (in lower case) and their texts.

    An indented line continues the value above it. A comment is a line that begins with ``;`` or
    ``#``, or the rest of a line after a blank and ``;``.
    """
    sections: Sections = {}
    position = _Position()
    for number, line in enumerate(text.split("\n"), 1):
        bare = _COMMENT.sub("", line, count=1).strip()
        if not bare or line.lstrip().startswith("#"):
            continue
        if line[0].isspace() and position.values is not None and position.key:
            position.values[position.key] += "\n" + bare
        elif match := _SECTION.fullmatch(bare):
            _begin_section(position, match[1].strip(), number, sections, report)
        elif match := _KEY.fullmatch(bare):
            _begin_value(position, match[1].lower(), match[2].strip(), number, report)
        else:
            position.key = ""
            report(position.section, "", f"line {number} is neither [section] nor key = value")
    return sections


def _begin_section(
    position: _Position, name: str, number: int, sections: Sections, report: Report
) -> None:
    if name in sections:
        report(name, "", f"line {number} repeats the section")
    position.section, position.key = name, ""
    position.values = sections.setdefault(name, {})


def _begin_value(position: _Position, key: str, value: str, number: int, report: Report) -> None:
    position.key = key
    if position.values is None:
        report("", "", f"line {number} sets {key} before the first [section]")
    elif key in position.values:
        report(position.section, key, f"line {number} repeats the key")
        position.key = ""
    else:
        position.values[key] = value
