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

from middlewared.config.ini_files import (
    IniSection,
    IniSections,
    ProblemList,
    Written,
    include,
    located,
    read_ini,
)
from middlewared.config.parsers import InvalidValue, Setting
from middlewared.config.references import InvalidReference, resolve
from middlewared.config.rules import broken_rules, warnings
from middlewared.config.values import (
    DEFAULTS,
    AndroidApp,
    App,
    AppleApp,
    AppSettings,
    Config,
    GcmApp,
    IncludeSettings,
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
_ANY_APP = "*"
"""The app id in the title of a section with defaults."""


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
    problems = ProblemList()
    base = Path.cwd() if path is None else path.absolute().parent
    reader = _SectionReader(base, environ, problems)
    sections = {} if path is None else read_ini(path, problems)
    files = reader.read("include", sections, IncludeSettings).files
    include(sections, files, problems)
    apps, pbxs, kamailios = {}, [], []
    for title in (title for title in sections if title not in SECTIONS):
        if match := _PBX_SECTION.fullmatch(title):
            pbxs.append(reader.read(title, sections, PbxSettings, name=match[1]))
        elif match := _KAMAILIO_SECTION.fullmatch(title):
            kamailios.append(reader.read(title, sections, KamailioSettings, name=match[1]))
        elif found := _app_kind(title, problems):
            app, kind = found
            apps[app, kind.platform] = reader.read(title, sections, kind, app=app)
    apps = {key: app for key, app in apps.items() if key[0] != _ANY_APP}
    fixed = {title: reader.read(title, sections, kind) for title, kind in SECTIONS.items()}
    source = DEFAULTS if path is None else str(path)
    config = Config(**fixed, pbxs=tuple(pbxs), kamailios=tuple(kamailios), apps=apps, source=source)
    problems.add_unbroken(broken_rules(config))
    problems.add_unbroken(find_problems(config))
    if problems.found:
        raise ConfigError(located(problems.found, sections), source)
    noticed = (*warnings(config), *find_warnings(config))
    return attrs.evolve(config, warnings=tuple(located(noticed, sections)))


def _nearest(word: str, known: Iterable[str]) -> str:
    """The one of ``known`` that ``word`` was probably meant to be, ignoring case."""
    folded = {each.casefold(): each for each in known}
    return folded[difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.0)[0]]


def _app_kind(title: str, problems: ProblemList) -> tuple[str, type[App]] | None:
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


def _with_defaults(sections: IniSections, title: str, kind: type[Any]) -> Mapping[str, Written]:
    """The texts of a section, and those that an app's section inherits."""
    own = sections.get(title, IniSection("")).texts
    if not issubclass(kind, AppSettings):
        return own
    inherited = sections.get(f"app:{_ANY_APP}:{kind.platform.value}", IniSection("")).texts
    left_out = kind.credential_keys if kind.credential_keys & own.keys() else frozenset()
    return {key: text for key, text in inherited.items() if key not in left_out} | own


@attrs.frozen
class _SectionReader:
    """Parses the texts of one section."""

    base: Path
    environ: Mapping[str, str]
    problems: ProblemList

    def read(self, title: str, sections: IniSections, kind: type[Any], **identity: str) -> Any:
        """An instance of ``kind``; invalid values are replaced by their defaults."""
        texts = _with_defaults(sections, title, kind)
        settings = keyed_settings(kind)
        for key in (key for key in texts if key not in settings):
            what = f"unknown key; the nearest known one is {_nearest(key, settings)}"
            self._add(title, key, texts[key], what)
        values = {
            name: self._value(title, key, texts.get(key), setting)
            for key, (name, setting) in settings.items()
        }
        return kind(**identity, **values)

    def _value(self, title: str, key: str, written: Written | None, setting: Setting) -> object:
        if written is not None:
            text = None
            try:
                text = resolve(written.text, written.base, self.environ)
                return setting.parse(text, written.base)
            except InvalidReference as e:
                for problem in e.problems:
                    self._add(title, key, written, problem)
            except InvalidValue as e:
                # A value from elsewhere, or one with user@host, may also be a secret.
                as_written = text == written.text and "@" not in written.text
                shown = not setting.secret and as_written and len(written.text) < 80
                what = f"{e}, not {written.text!r}" if shown else str(e)
                self._add(title, key, written, what)
        return setting.parse(setting.default, self.base)

    def _add(self, title: str, key: str, written: Written, what: str) -> None:
        """Add a problem where the text is written, which may be the section with defaults."""
        self.problems.mark(title, key)
        self.problems.add(written.section, key, what, written.file)
