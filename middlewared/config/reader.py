"""
From an ini file to a Config: reads every section and key, and collects every problem.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

import attrs

from middlewared.config.ini import parse_ini
from middlewared.config.parsers import InvalidValue, Setting
from middlewared.config.rules import broken_rules, warnings
from middlewared.config.values import (
    DEFAULTS,
    AndroidApp,
    App,
    AppleApp,
    Config,
    GcmApp,
    KamailioSettings,
    PbxSettings,
)
from middlewared.errors import ConfigError, Problem

FindProblems: TypeAlias = Callable[[Config], Iterable[Problem]]

SECTIONS: dict[str, type[Any]] = {
    name: kind for name, kind in get_type_hints(Config).items() if attrs.has(kind)
}
"""The attributes of Config that are sections, by their title."""

_APPS: dict[str, type[App]] = {kind.platform.value: kind for kind in (AppleApp, AndroidApp, GcmApp)}
_APP_SECTION = re.compile(r"app:([^\s:]{1,255}):([a-z]+)")
_PBX_SECTION = re.compile(r"pbx:([^\s:]{1,64})")
_KAMAILIO_SECTION = re.compile(r"kamailio:([^\s:]{1,64})")
_REFERENCE = re.compile(r"%\(ENV:([A-Za-z_][A-Za-z0-9_]*)\)s")
_BROKEN_REFERENCE = re.compile(r"%\(\s*env\b", re.IGNORECASE)
_MOST_BYTES = 1 << 20


def read_config(
    path: Path | None,
    environ: Mapping[str, str],
    find_problems: FindProblems = lambda _config: (),
    find_warnings: FindProblems = lambda _config: (),
) -> Config:
    """
    Read and check a whole configuration.

    :param path: the ini file; None: the built-in defaults.
    :param environ: what ``%(ENV:NAME)s`` refers to.
    :param find_problems: finds more than the values alone show.
    :param find_warnings: likewise; called only when there is no problem.
    :raises ConfigError: with every problem.
    """
    problems = _Problems()
    sections = {} if path is None else parse_ini(_contents(path, problems), problems.add)
    base = Path.cwd() if path is None else path.absolute().parent
    reader = _SectionReader(base, environ, problems)
    apps, pbxs, kamailios = {}, [], []
    for title in (title for title in sections if title not in SECTIONS):
        if match := _PBX_SECTION.fullmatch(title):
            pbxs.append(reader.read(title, sections[title], PbxSettings, name=match[1]))
        elif match := _KAMAILIO_SECTION.fullmatch(title):
            kamailios.append(reader.read(title, sections[title], KamailioSettings, name=match[1]))
        elif found := _app_kind(title, problems):
            app, kind = found
            apps[app, kind.platform] = reader.read(title, sections[title], kind, app=app)
    fixed = {
        title: reader.read(title, sections.get(title, {}), kind) for title, kind in SECTIONS.items()
    }
    source = DEFAULTS if path is None else str(path)
    config = Config(**fixed, pbxs=tuple(pbxs), kamailios=tuple(kamailios), apps=apps, source=source)
    problems.add_unbroken(broken_rules(config))
    problems.add_unbroken(find_problems(config))
    if problems.found:
        raise ConfigError(problems.found, source)
    return attrs.evolve(config, warnings=(*warnings(config), *find_warnings(config)))


class _Problems:
    """All problems so far, and which values have one."""

    def __init__(self) -> None:
        self._broken: set[tuple[str, str]] = set()
        self.found: list[Problem] = []

    def add(self, section: str, key: str, what: str) -> None:
        self._broken.update([(section, key), (section, "")])
        self.found.append(Problem(section, key, what))

    def add_unbroken(self, found: Iterable[Problem]) -> None:
        """
        Add problems between values, except those of a value that is a default in place of an
        invalid one, and those of a whole section that has such a value.
        """
        broken = frozenset(self._broken)
        for problem in found:
            if (problem.section, problem.key) not in broken:
                self.add(problem.section, problem.key, problem.what)


def _contents(path: Path, problems: _Problems) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as e:
        problems.add("", "", f"cannot be read: {e.strerror}")
        return ""
    if len(content) > _MOST_BYTES:
        problems.add("", "", f"is larger than {_MOST_BYTES} bytes")
        return ""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        problems.add("", "", f"is not UTF-8 text (byte {e.start + 1})")
        return ""


def _nearest(word: str, known: Iterable[str]) -> str:
    """The one of ``known`` that ``word`` was probably meant to be, ignoring case."""
    folded = {each.casefold(): each for each in known}
    return folded[difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.0)[0]]


def _app_kind(title: str, problems: _Problems) -> tuple[str, type[App]] | None:
    match = _APP_SECTION.fullmatch(title)
    if match and match[2] in _APPS:
        return match[1], _APPS[match[2]]
    app = (title.split(":")[1].strip() if ":" in title else "") or "APP_ID"
    name = (title.partition(":")[2].strip() if ":" in title else "") or "NAME"
    named = (f"pbx:{name}", f"kamailio:{name}")
    known = [*SECTIONS, *named, *(f"app:{app}:{platform}" for platform in _APPS)]
    problems.add(title, "", f"unknown section; the nearest known one is [{_nearest(title, known)}]")
    return None


def keyed_settings(kind: type[Any]) -> dict[str, tuple[str, Setting]]:
    """The name and the declaration of each attribute of ``kind``, by its key in the ini file."""
    declared = {
        field.name: field.metadata["setting"]
        for field in attrs.fields(kind)
        if "setting" in field.metadata
    }
    return {setting.key or name: (name, setting) for name, setting in declared.items()}


@attrs.frozen
class _SectionReader:
    """Parses the texts of one section."""

    base: Path
    environ: Mapping[str, str]
    problems: _Problems

    def read(self, title: str, texts: Mapping[str, str], kind: type[Any], **identity: str) -> Any:
        """An instance of ``kind``; invalid values are replaced by their defaults."""
        settings = keyed_settings(kind)
        for key in (key for key in texts if key not in settings):
            nearest = _nearest(key, settings)
            self.problems.add(title, key, f"unknown key; the nearest known one is {nearest}")
        values = {
            name: self._value(title, key, texts.get(key, setting.default), setting)
            for key, (name, setting) in settings.items()
        }
        return kind(**identity, **values)

    def _value(self, title: str, key: str, written: str, setting: Setting) -> object:
        try:
            text = self._resolve(title, key, written)
            if text is not None:
                return setting.parse(text, self.base)
        except InvalidValue as e:
            # A value from the environment, or one with user@host, may also be a secret.
            shown = not setting.secret and text == written and "@" not in text and len(text) < 80
            self.problems.add(title, key, f"{e}, not {text!r}" if shown else str(e))
        return setting.parse(setting.default, self.base)

    def _resolve(self, title: str, key: str, written: str) -> str | None:
        """
        The text with the environment's values; any other percent sign stands for itself.

        None: a reference has a problem, which was added.
        """
        unset = [name for name in _REFERENCE.findall(written) if name not in self.environ]
        broken = _BROKEN_REFERENCE.search(_REFERENCE.sub("", written)) is not None
        if broken:
            self.problems.add(title, key, "has a broken reference; write %(ENV:NAME)s")
        for name in unset:
            self.problems.add(title, key, f"the environment variable {name} is not set")
        if broken or unset:
            return None
        return _REFERENCE.sub(lambda match: self.environ[match[1]], written)
