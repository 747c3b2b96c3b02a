"""A reload: the new configuration once all its files are read, and in words what it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from middlewared.config import Config
from middlewared.push.apns.apple_credentials import (
    CertificateCredentials,
    Credentials,
    KeyCredentials,
)
from middlewared.push.google.service_account import ServiceAccount
from middlewared.service.apps import AppKey, LoadedApp
from middlewared.service.log_files import OpenedLogs

_MOST = 20
"""How many changes a line names; a fleet may change all its apps at once."""

_NOT_SETTINGS = {"apps", "warnings", "source"}
Apps = Mapping[AppKey, LoadedApp]


@attrs.frozen
class PreparedReload:
    """
    A configuration with all its files read and opened.

    ``written``: as it is in the files. ``config``: with the current values of what needs a restart.
    """

    written: Config
    config: Config
    apps: Apps
    use_accounts: Callable[[], None]
    use_console: Callable[[], None]
    log_files: OpenedLogs


def describe_changes(
    before: tuple[Config, Apps], after: tuple[Config, Apps], devices: Mapping[AppKey, int]
) -> str:
    """
    The sections, keys and credentials that differ; no value is shown.

    :param devices: how many are registered, as far as this is known.
    """
    changes = [*_settings(before[0], after[0]), *_apps(before[1], after[1], devices)]
    if len(changes) > _MOST:
        changes = [*changes[:_MOST], f"{len(changes) - _MOST} more"]
    return "; ".join(changes) or "nothing has changed"


def describe_credentials(credentials: Credentials | ServiceAccount | None) -> str:
    """Which key or certificate this is, and when it expires."""
    match credentials:
        case CertificateCredentials():
            expiry = datetime.fromtimestamp(credentials.not_after, UTC)
            serial = credentials.certificate.serialNumber()
            return f"certificate {serial:X}, expires {expiry:%F}"
        case KeyCredentials():
            return f"key {credentials.key_id} of team {credentials.team_id}"
        case ServiceAccount():
            return f"key {credentials.private_key_id} of {credentials.client_email}"
    return "API key"


def _settings(before: Config, after: Config) -> Iterator[str]:
    for field in attrs.fields(Config):
        if field.name not in _NOT_SETTINGS:
            old, new = getattr(before, field.name), getattr(after, field.name)
            if keys := _changed_keys(old, new):
                yield f"[{field.name}] {keys}"


def _apps(before: Apps, after: Apps, devices: Mapping[AppKey, int]) -> Iterator[str]:
    for key, new in after.items():
        old = before.get(key)
        if old is None:
            yield f"{_name(key)} new, {describe_credentials(new.credentials)}"
        elif old != new:
            yield f"{_name(key)} {', '.join(_app_changes(old, new))}"
    for key in (key for key in before if key not in after):
        count = devices.get(key)
        left = "" if count is None else f", {count} devices have no section any more"
        yield f"{_name(key)} gone{left}"


def _app_changes(old: LoadedApp, new: LoadedApp) -> Iterator[str]:
    if old.credentials != new.credentials:
        yield describe_credentials(new.credentials)
    if old.sandbox_credentials != new.sandbox_credentials and new.sandbox_credentials:
        yield f"sandbox {describe_credentials(new.sandbox_credentials)}"
    if old.roots != new.roots:
        yield "other roots"
    if keys := _changed_keys(old.app, new.app):
        yield keys


def _changed_keys(old: Any, new: Any) -> str:
    """The keys whose values differ, as the ini file has them."""
    if type(old) is not type(new) or not attrs.has(type(new)):
        return "changed" if old != new else ""
    return " ".join(
        field.metadata["setting"].key or field.name
        for field in attrs.fields(type(new))
        if "setting" in field.metadata and getattr(old, field.name) != getattr(new, field.name)
    )


def _name(key: AppKey) -> str:
    return f"{key[0]} {key[1].value}"
