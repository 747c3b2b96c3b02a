"""
The ini file's form: lines become sections of texts, each with its line number.

The one invariant: every line is accounted for, as a value or as a problem; nothing that
stands right of a ``=`` is ever part of a problem.

configparser stops at the first duplicate and cannot name all of them, hence our own.
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
"""Told (section, key, what) of each problem; "" where there is none."""


@attrs.define
class _Place:
    """Where the reading of the lines stands."""

    section: str = ""
    key: str = ""
    values: dict[str, str] | None = None


def parse_ini(text: str, report: Report) -> Sections:
    """
    Split ``text`` into sections of keys (in lower case) and their texts.

    An indented line continues the value above it. ``;`` or ``#`` begins a comment line;
    a blank and ``;`` begin a comment behind a value.
    """
    sections: Sections = {}
    place = _Place()
    for number, line in enumerate(text.split("\n"), 1):
        bare = _COMMENT.sub("", line, count=1).strip()
        if not bare or line.lstrip().startswith("#"):
            continue
        if line[0].isspace() and place.values is not None and place.key:
            place.values[place.key] += "\n" + bare
        elif match := _SECTION.fullmatch(bare):
            _begin_section(place, match[1].strip(), number, sections, report)
        elif match := _KEY.fullmatch(bare):
            _begin_value(place, match[1].lower(), match[2].strip(), number, report)
        else:
            place.key = ""
            report(place.section, "", f"line {number} is neither [section] nor key = value")
    return sections


def _begin_section(
    place: _Place, name: str, number: int, sections: Sections, report: Report
) -> None:
    if name in sections:
        report(name, "", f"line {number} opens the section a second time")
    place.section, place.key = name, ""
    place.values = sections.setdefault(name, {})


def _begin_value(place: _Place, key: str, value: str, number: int, report: Report) -> None:
    place.key = key
    if place.values is None:
        report("", "", f"line {number} gives {key} before the first [section]")
    elif key in place.values:
        report(place.section, key, f"line {number} gives it a second time")
        place.key = ""
    else:
        place.values[key] = value
