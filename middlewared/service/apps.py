"""
The configured apps and their credentials.

The credentials of all apps are read and checked before any provider is created: a fault in
one of them changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import attrs

from middlewared.accounts.htpasswd import read_console_users, read_passwords
from middlewared.config import AndroidApp, App, AppleApp, Config, RedisSettings
from middlewared.errors import ConfigError, Problem
from middlewared.model import Platform
from middlewared.outgoing.tls import TrustRoots, load_trust
from middlewared.push.apns.apple_credentials import (
    CertificateCredentials,
    Credentials,
    KeyCredentials,
    load_certificate,
    load_key,
)
from middlewared.push.google.service_account import ServiceAccount, load_service_account
from middlewared.push.payload_template import PayloadTemplate, load_template
from middlewared.service.certificate_checks import scope_problems
from middlewared.service.loaded_files import LoadedFiles

AppKey = tuple[str, Platform]
T = TypeVar("T")


@attrs.frozen
class LoadedApp:
    """One app with the content of its files; equal to another load if nothing has changed."""

    app: App
    trust: TrustRoots = attrs.field(eq=False)
    credentials: Credentials | ServiceAccount | None
    roots: str
    """A digest of the extra roots."""

    sandbox_credentials: Credentials | None = None
    """The sandbox's own key, if it has one."""

    template: PayloadTemplate | None = None
    """Of its payloads, if it has its own."""


def load_apps(
    config: Config, *, now: float, files: LoadedFiles | None = None
) -> dict[AppKey, LoadedApp]:
    """
    Read the credentials of all apps.

    :param now: epoch seconds, to check the expiry.
    :param files: what was loaded before.
    :raises ConfigError: with the problems of the first app that has any.
    """
    files = files or LoadedFiles()
    loaded = {key: _load(app, config, now, files) for key, app in config.apps.items()}
    files.forget_unused()
    return loaded


def file_problems(
    config: Config, *, now: float, files: LoadedFiles | None = None
) -> Iterator[Problem]:
    """
    What is wrong with the files that the configuration names.

    :param now: epoch seconds, to check the expiry.
    :param files: what was loaded before.
    """
    files = files or LoadedFiles()
    for app in config.apps.values():
        yield from _problems(app.section, "", partial(_load, app, config, now, files))
    for section, key, path in (
        ("log", "file", config.log.file),
        ("log", "metrics_file", config.log.metrics_file),
        ("database", "url", config.database.sqlite_file),
    ):
        if path is not None and not path.parent.is_dir():
            yield Problem(section, key, f"no such directory: {path.parent}")
        elif path is not None and path.is_dir():
            yield Problem(section, key, f"is a directory: {path}")
    htpasswd, text = config.accounts.htpasswd, config.accounts.are_texts
    if config.accounts.backend == "htpasswd" and htpasswd is not None:
        yield from _problems("accounts", "htpasswd", partial(read_passwords, htpasswd, text=text))
    admin = config.admin
    if admin.listen and admin.htpasswd is not None:
        yield from _problems("admin", "htpasswd", partial(read_console_users, admin.htpasswd))
    yield from _redis_problems(config.redis, now)


def _redis_problems(redis: RedisSettings, now: float) -> Iterator[Problem]:
    yield from _problems("redis", "ca_file", partial(load_trust, redis.ca_file))
    if redis.certificate is not None:
        load = partial(load_certificate, redis.certificate, now=now)
        yield from _problems("redis", "certificate", load)


def _problems(section: str, key: str, load: Callable[[], object]) -> list[Problem]:
    """Why ``load`` fails, at the section and key where it does not name its own."""
    try:
        load()
    except ConfigError as error:
        return [problem.within(section, key) for problem in error.problems]
    return []


def payload_warnings(config: Config) -> Iterator[Problem]:
    """Payloads with which no app can answer."""
    for app in config.apps.values():
        template = _load_template(app, config)
        if template is not None and "unique_key" not in template.names:
            what = (
                f"{app.payload} has no {{unique_key}}, without which the app cannot answer; set"
                " [calls] answer_by_registration"
            )
            if not config.calls.answer_by_registration:
                yield Problem(app.section, "payload", what)


def _load_template(app: App, config: Config) -> PayloadTemplate | None:
    if app.payload is None:
        return None
    response_api = app.response_api or config.calls.response_api
    return load_template(app.payload, app.platform, response_api)


def _load(app: App, config: Config, now: float, files: LoadedFiles) -> LoadedApp:
    """Read the files that ``app`` names. :raises ConfigError: with every problem."""
    problems: list[Problem] = []

    def attempt(key: str, load: Callable[[], T]) -> T | None:
        try:
            return load()
        except ConfigError as error:
            problems.extend(each.within(app.section, key) for each in error.problems)
            return None

    trust = attempt("ca_file", lambda: _load_trust(app.ca_file, files))
    template = attempt("payload", lambda: _load_template(app, config))
    credentials: Credentials | ServiceAccount | None = None
    sandbox: Credentials | None = None
    match app:
        case AppleApp(certificate=Path() as path):
            credentials = attempt("certificate", lambda: _load_certificate(path, now, files))
            if isinstance(credentials, CertificateCredentials):
                problems.extend(scope_problems(app, credentials.scope))
        case AppleApp(key_file=Path() as path):
            credentials = attempt(
                "key_file", lambda: _load_key(path, app.team_id, app.key_id, files)
            )
            sandbox = attempt("sandbox_key_file", partial(_load_sandbox_key, app, files))
        case AndroidApp(service_account=Path() as path):
            credentials = attempt(
                "service_account", lambda: files.load(path, lambda: load_service_account(path))
            )
        case _:
            pass
    if problems or trust is None:
        raise ConfigError(problems)
    return LoadedApp(app, trust, credentials, _digest(app.ca_file), sandbox, template)


def _load_trust(path: Path | None, files: LoadedFiles) -> TrustRoots:
    if path is None:
        return load_trust(None)
    return files.load(path, lambda: load_trust(path), "roots")


def _load_certificate(path: Path, now: float, files: LoadedFiles) -> CertificateCredentials:
    loaded = files.load(path, lambda: load_certificate(path, now=now))
    # It may have expired since.
    return loaded if loaded.not_after > now else load_certificate(path, now=now)


def _load_key(path: Path, team_id: str, key_id: str, files: LoadedFiles) -> KeyCredentials:
    load = partial(load_key, path, team_id=team_id, key_id=key_id)
    return files.load(path, load, team_id, key_id)


def _load_sandbox_key(app: AppleApp, files: LoadedFiles) -> Credentials | None:
    if app.sandbox_key_file is None:
        return None
    return _load_key(app.sandbox_key_file, app.team_id, app.sandbox_key_id, files)


def _digest(path: Path | None) -> str:
    return "" if path is None else sha256(path.read_bytes()).hexdigest()
