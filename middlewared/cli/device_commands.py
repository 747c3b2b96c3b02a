"""
``middlewared devices``: what the registry holds, and taking a device out of it.

Push tokens are shown only as fingerprints.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred

from middlewared.cli.reactor import run_in_reactor
from middlewared.config import Config
from middlewared.devices.interface import DeviceRegistry, Wanted
from middlewared.devices.predecessor import RefusedLine, import_devices
from middlewared.errors import ConfigError, MiddlewaredError, Problem
from middlewared.logs import fingerprint
from middlewared.model import Device
from middlewared.service.implementations import choose_database

Work: TypeAlias = Callable[[DeviceRegistry], Coroutine[Deferred[Any], Any, int]]

_PAGE = 1000
_DAY_S = 24 * 3600
_COLUMNS = {
    "sip_user_id": 12,
    "platform": 8,
    "app": 32,
    "token": 12,
    "last_seen": 26,
    "last_answered": 26,
    "silent_streak": 13,
    "name": 0,
}
"""The columns of the table and their widths."""


class NoDevice(MiddlewaredError):
    """The account has no device."""


def list_devices(
    config: Config,
    *,
    silent: int = 0,
    not_seen_for_days: int = 0,
    shared: bool = False,
    as_json: bool,
) -> int:
    """
    Print devices ordered by account: a table, or one JSON object per line.

    :param silent: only those that did not answer at least their last ``silent`` calls.
    :param not_seen_for_days: only those without a registration, check-in or answer for that
        long; 0: all.
    :param shared: only those on a phone with several accounts.
    """
    since = time.time() - not_seen_for_days * _DAY_S if not_seen_for_days else None
    wanted = Wanted(silent_streak=silent, unseen_since=since, shared=shared)
    # What one phone's accounts share is the installation, not the whole of Google's tokens.
    token = "installation" if shared else "token"

    async def work(registry: DeviceRegistry) -> int:
        if not as_json:
            _say(_row({name: name for name in _COLUMNS} | {"token": token}))
        async for device in _all(registry, wanted):
            shown = _shown(device)
            _say(json.dumps(shown) if as_json else _row(shown | {"token": shown[token]}))
        return 0

    return _in_registry(config, work)


def show_device(config: Config, sip_user_id: int, *, as_json: bool) -> int:
    """Print all that is known of a device. :raises NoDevice: there is none."""

    async def work(registry: DeviceRegistry) -> int:
        shown = _shown(await _the_device(registry, sip_user_id))
        _say(json.dumps(shown) if as_json else "\n".join(f"{k}: {_v(v)}" for k, v in shown.items()))
        return 0

    return _in_registry(config, work)


def delete_device(config: Config, sip_user_id: int, *, as_json: bool) -> int:
    """Remove a device, and print what it was. :raises NoDevice: there is none."""

    async def work(registry: DeviceRegistry) -> int:
        device = await _the_device(registry, sip_user_id)
        if not await registry.delete(sip_user_id, device.platform, device.app, device.token):
            raise NoDevice(f"{sip_user_id} has just registered another device, try again")
        shown = _shown(device)
        _say(json.dumps(shown) if as_json else f"deleted {_row(shown)}")
        return 0

    return _in_registry(config, work)


def import_from(config: Config, path: Path) -> int:
    """
    Import the predecessor's devices (:mod:`middlewared.devices.predecessor`).

    :return: 0 when every line was imported, 1 when one was refused.
    :raises ConfigError: the file cannot be read or has no such columns.
    """

    def report(refused: RefusedLine) -> None:
        print(f"{path}: line {refused.line}: {refused.why}", file=sys.stderr)  # noqa: T201

    async def work(registry: DeviceRegistry) -> int:
        try:
            with path.open(encoding="utf-8-sig", newline="") as lines:
                done = await import_devices(registry=registry, lines=lines, report=report)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise ConfigError([Problem("", "", f"{path}: {why}")]) from error
        _say(f"{done.stored} stored, {done.kept} newer here and kept, {done.refused} refused")
        return 1 if done.refused else 0

    return _in_registry(config, work, create=True)


def _in_registry(config: Config, work: Work, *, create: bool = False) -> int:
    """Run ``work`` on the configured registry; one that is not there is made by none but
    an import."""
    path = config.database.sqlite_file
    if path is not None and not create and not path.exists():
        raise ConfigError([Problem("database", "url", f"{path} does not exist")])

    async def opened(reactor: Any) -> int:
        registry = choose_database(config, reactor=reactor)
        try:
            await registry.start()
            return await work(registry)
        finally:
            await registry.stop()

    return run_in_reactor(opened)


async def _all(registry: DeviceRegistry, wanted: Wanted) -> AsyncIterator[Device]:
    after: int | None = 0
    while after is not None:
        page = await registry.page(after, _PAGE, wanted)
        for device in page.devices:
            yield device
        after = page.last


async def _the_device(registry: DeviceRegistry, sip_user_id: int) -> Device:
    device = await registry.find(sip_user_id)
    if device is None:
        raise NoDevice(f"{sip_user_id} has no device")
    return device


def _shown(device: Device) -> dict[str, Any]:
    """What may be shown; tokens as the fingerprints that the log has too."""
    alert = device.remote_notification_token
    return {
        "sip_user_id": device.sip_user_id,
        "platform": device.platform.value,
        "app": device.app,
        "token": fingerprint(device.token),
        "installation": fingerprint(device.installation),
        "name": device.name,
        "os_version": device.os_version,
        "client_version": device.client_version,
        "remote_logging_id": device.remote_logging_id,
        "sandbox": device.sandbox,
        "push_profile": device.push_profile,
        "dnd": device.dnd,
        "remote_notification_token": fingerprint(alert) if alert else "",
        "registered_at": _time(device.registered_at),
        "last_seen": _time(device.last_seen),
        "last_answered": None if device.last_answered is None else _time(device.last_answered),
        "silent_streak": device.silent_streak,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _row(shown: Mapping[str, object]) -> str:
    return " ".join(f"{_v(shown[name]):<{width}}" for name, width in _COLUMNS.items()).rstrip()


def _v(value: object) -> str:
    """A value for a terminal: what an app sent must not reach it as control characters."""
    words: dict[object, str] = {True: "yes", False: "no", None: "never"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return "".join(each if each.isprintable() else "?" for each in text)


def _say(line: str) -> None:
    print(line)  # noqa: T201
