"""
From an ini file to a Config: finds every section and key, and collects every problem.

A Config is returned only when there was no problem at all.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from middlewared.config.ini import parse_ini
from middlewared.config.parsers import Setting, Wrong
from middlewared.config.rules import broken_rules, warnings
from middlewared.config.values import (
    AccountSettings,
    AndroidApp,
    App,
    AppleApp,
    CallSettings,
    Config,
    DatabaseSettings,
    GcmApp,
    HttpSettings,
    LogSettings,
    MetricsSettings,
    ProxySettings,
    RedisSettings,
)
from middlewared.errors import ConfigError

Inspect: TypeAlias = Callable[[Config], Iterable[tuple[str, str, str]]]

_SECTIONS: dict[str, type[Any]] = {
    "http": HttpSettings,
    "metrics": MetricsSettings,
    "calls": CallSettings,
    "accounts": AccountSettings,
    "database": DatabaseSettings,
    "redis": RedisSettings,
    "http_proxy": ProxySettings,
    "log": LogSettings,
}
_APPS: dict[str, type[App]] = {kind.platform.value: kind for kind in (AppleApp, AndroidApp, GcmApp)}
_APP_SECTION = re.compile(r"app:([^\s:]{1,255}):([a-z]+)")
_REFERENCE = re.compile(r"%\(ENV:([A-Za-z_][A-Za-z0-9_]*)\)s")
_BROKEN_REFERENCE = re.compile(r"%\(\s*env\b", re.IGNORECASE)
_MOST_BYTES = 1 << 20


def read_config(
    path: Path | None,
    environ: Mapping[str, str],
    inspect: Inspect | None = None,
    doubt: Inspect | None = None,
) -> Config:
    """
    Read and check a whole configuration.

    :param path: the ini file; None: the built-in defaults.
    :param environ: what ``%(ENV:NAME)s`` refers to.
    :param inspect: finds further problems, as section, key and what.
    :param doubt: finds further warnings, likewise, once there is no problem.
    :raises ConfigError: with every problem, each a finished line.
    """
    name = "built-in defaults" if path is None else str(path)
    problems = _Problems(name)
    sections = {} if path is None else parse_ini(_contents(path, problems), problems.add)
    base = Path.cwd() if path is None else path.absolute().parent
    reader = _SectionReader(base, environ, problems)
    apps = {}
    for title in (title for title in sections if title not in _SECTIONS):
        if found := _app_kind(title, problems):
            app, kind = found
            apps[app, kind.platform] = reader.read(title, sections[title], kind, app=app)
    fixed = {
        title: reader.read(title, sections.get(title, {}), kind)
        for title, kind in _SECTIONS.items()
    }
    config = Config(**fixed, apps=apps)
    problems.add_unbroken(broken_rules(config))
    if inspect is not None:
        problems.add_unbroken(inspect(config))
    if problems.lines:
        raise ConfigError(problems.lines)
    noted = [*warnings(config), *(doubt(config) if doubt is not None else ())]
    return attrs.evolve(config, warnings=tuple(_line(name, *each) for each in noted))


def _line(name: str, section: str, key: str, what: str) -> str:
    where = f" [{section}] {key}" if key else f" [{section}]" if section else ""
    return f"{name}:{where}: {what}" if where else f"{name}: {what}"


class _Problems:
    """The finished lines, and which values have one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._broken: set[tuple[str, str]] = set()
        self.lines: list[str] = []

    def add(self, section: str, key: str, what: str) -> None:
        self._broken.update([(section, key), (section, "")])
        self.lines.append(_line(self._name, section, key, what))

    def add_unbroken(self, found: Iterable[tuple[str, str, str]]) -> None:
        """
        Add problems between values, but not about one that is only a stand-in, nor about a
        section as a whole that has such a value.
        """
        already = frozenset(self._broken)
        for section, key, what in found:
            if (section, key) not in already:
                self.add(section, key, what)


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
    """The one of ``known`` that ``word`` was probably meant to be; its case does not count."""
    folded = {each.casefold(): each for each in known}
    return folded[difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.0)[0]]


def _app_kind(title: str, problems: _Problems) -> tuple[str, type[App]] | None:
    match = _APP_SECTION.fullmatch(title)
    if match and match[2] in _APPS:
        return match[1], _APPS[match[2]]
    app = (title.split(":")[1].strip() if ":" in title else "") or "APP_ID"
    known = [*_SECTIONS, *(f"app:{app}:{platform}" for platform in _APPS)]
    problems.add(title, "", f"unknown section; the nearest known one is [{_nearest(title, known)}]")
    return None


@attrs.frozen
class _SectionReader:
    """Turns the texts of one section into its frozen values."""

    base: Path
    environ: Mapping[str, str]
    problems: _Problems

    def read(self, title: str, texts: Mapping[str, str], kind: type[Any], **identity: str) -> Any:
        """An instance of ``kind``; keys that are wrong have their default."""
        settings: dict[str, Setting] = {
            field.name: field.metadata["setting"]
            for field in attrs.fields(kind)
            if "setting" in field.metadata
        }
        for key in (key for key in texts if key not in settings):
            nearest = _nearest(key, settings)
            self.problems.add(title, key, f"unknown key; the nearest known one is {nearest}")
        values = {
            key: self._value(title, key, texts.get(key, setting.default), setting)
            for key, setting in settings.items()
        }
        return kind(**identity, **values)

    def _value(self, title: str, key: str, written: str, setting: Setting) -> object:
        known = len(self.problems.lines)
        text = self._resolve(title, key, written)
        try:
            if len(self.problems.lines) == known:
                return setting.parse(text, self.base)
        except Wrong as e:
            # What comes from the environment, or looks like user@host, may be a secret too.
            shown = not setting.secret and text == written and "@" not in text and len(text) < 80
            self.problems.add(title, key, f"{e}, not {text!r}" if shown else str(e))
        return setting.parse(setting.default, self.base)

    def _resolve(self, title: str, key: str, written: str) -> str:
        """Put the environment's values in; any other percent sign stands for itself."""

        def replace(match: re.Match[str]) -> str:
            value = self.environ.get(match[1])
            if value is None:
                self.problems.add(title, key, f"the environment variable {match[1]} is not set")
            return value or ""

        if _BROKEN_REFERENCE.search(_REFERENCE.sub("", written)):
            self.problems.add(title, key, "has a broken reference; write %(ENV:NAME)s")
        return _REFERENCE.sub(replace, written)
