"""
The files of a configuration: the one that is named, and those that it includes.

Each text is known with its file: relative paths are resolved there, and problems name it.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import attrs

from middlewared.config.ini import Report, parse_ini
from middlewared.errors import Problem

_MOST_BYTES = 1 << 20
_MOST_FILES = 10_000


@attrs.frozen
class Written:
    """The text of a value, in which section of which file it is, and the file's directory."""

    text: str
    section: str
    file: str
    base: Path


@attrs.define
class IniSection:
    """The texts of a section by key; ``file`` is the first one that has the section."""

    file: str
    texts: dict[str, Written] = attrs.field(factory=dict)


IniSections = dict[str, IniSection]


class ProblemList:
    """All problems so far, and which values have one."""

    def __init__(self) -> None:
        self._broken: set[tuple[str, str]] = set()
        self._found: dict[Problem, None] = {}

    @property
    def found(self) -> list[Problem]:
        """In the order in which they were found."""
        return list(self._found)

    def add(self, section: str, key: str, what: str, file: str = "") -> None:
        """Add a problem of a value, a section (``key`` "") or a file (both ""), once."""
        self.mark(section, key)
        self._found[Problem(section, key, what, file)] = None

    def mark(self, section: str, key: str) -> None:
        """This value has a problem, which is reported elsewhere."""
        self._broken.update([(section, key), (section, "")])

    def add_unbroken(self, found: Iterable[Problem]) -> None:
        """
        Add problems between values, except those of a value that is a default in place of an
        invalid one, and those of a whole section that has such a value.
        """
        broken = frozenset(self._broken)
        for problem in found:
            if (problem.section, problem.key) not in broken:
                self.add(problem.section, problem.key, problem.what, problem.file)


def read_ini(path: Path, problems: ProblemList, *, shown: str = "") -> IniSections:
    """
    The sections of one file, without those that it includes.

    :param shown: the file's name in problems; "": it is the main file.
    """
    report = partial(problems.add, file=shown)
    base = path.absolute().parent
    return {
        title: IniSection(
            shown, {key: Written(text, title, shown, base) for key, text in texts.items()}
        )
        for title, texts in parse_ini(_contents(path, report), report).items()
    }


def include(sections: IniSections, patterns: Iterable[str], problems: ProblemList) -> None:
    """
    Add the sections of the files that match ``patterns``, in order of name.

    A section may be in several files, and a key only in one of them.
    """
    for path in _matching(patterns, problems):
        shown = str(path)
        for title, section in read_ini(path, problems, shown=shown).items():
            if title == "include":
                problems.add(title, "", "is only read in the main file", shown)
                continue
            known = sections.setdefault(title, IniSection(shown))
            for key, written in section.texts.items():
                if key in known.texts:
                    where = known.texts[key].file or "the main file"
                    problems.add(title, key, f"is set in {where} already", shown)
                known.texts.setdefault(key, written)


def located(found: Iterable[Problem], sections: IniSections) -> Iterator[Problem]:
    """The problems, each with the file in which its value, or else its section, is."""
    for problem in found:
        section = sections.get(problem.section)
        if problem.file or section is None:
            yield problem
        else:
            written = section.texts.get(problem.key)
            yield attrs.evolve(problem, file=written.file if written else section.file)


def _matching(patterns: Iterable[str], problems: ProblemList) -> list[Path]:
    names: dict[str, None] = {}
    for pattern in patterns:
        found = sorted(glob.glob(pattern))
        if not found and not glob.has_magic(pattern):
            problems.add("include", "files", f"no such file: {pattern}")
        names.update(dict.fromkeys(found))
    if len(names) > _MOST_FILES:
        problems.add("include", "files", f"names more than {_MOST_FILES} files")
        return []
    return list(map(Path, names))


def _contents(path: Path, report: Report) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as e:
        report("", "", f"cannot be read: {e.strerror}")
        return ""
    if len(content) > _MOST_BYTES:
        report("", "", f"is larger than {_MOST_BYTES} bytes")
        return ""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        report("", "", f"is not UTF-8 text (byte {e.start + 1})")
        return ""
