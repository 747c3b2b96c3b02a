"""
``middlewared devices``: list, show, delete and import devices.

Push tokens are printed only as fingerprints.
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
from middlewared.devices.interface import DeviceFilter, DeviceRegistry
from middlewared.devices.predecessor import RefusedLine, import_devices
from middlewared.errors import ConfigError, MiddlewaredError, Problem
from middlewared.model import Device, SipUserId
from middlewared.quoting import fingerprint
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
    matching = DeviceFilter(silent_streak=silent, unseen_since=since, shared=shared)
    # The accounts of one phone have the installation in common, not the whole of Google's tokens.
    token = "installation" if shared else "token"

    async def work(devices: DeviceRegistry) -> int:
        if not as_json:
            _print(_row({name: name for name in _COLUMNS} | {"token": token}))
        async for device in _matching(devices, matching):
            shown = _fields(device)
            _print(json.dumps(shown) if as_json else _row(shown | {"token": shown[token]}))
        return 0

    return _with_devices(config, work)


def show_device(config: Config, sip_user_id: SipUserId, *, as_json: bool) -> int:
    """Print all fields of a device. :raises NoDevice: there is none."""

    async def work(devices: DeviceRegistry) -> int:
        shown = _fields(await _existing(devices, sip_user_id))
        lines = [f"{name}: {_printable(value)}" for name, value in shown.items()]
        _print(json.dumps(shown) if as_json else "\n".join(lines))
        return 0

    return _with_devices(config, work)


def delete_device(config: Config, sip_user_id: SipUserId, *, as_json: bool) -> int:
    """Remove a device and print it. :raises NoDevice: there is none."""

    async def work(devices: DeviceRegistry) -> int:
        device = await _existing(devices, sip_user_id)
        if not await devices.delete(sip_user_id, device.platform, device.app, device.token):
            raise NoDevice(f"{sip_user_id} has just registered another device, try again")
        shown = _fields(device)
        _print(json.dumps(shown) if as_json else f"deleted {_row(shown)}")
        return 0

    return _with_devices(config, work)


def import_from(config: Config, path: Path) -> int:
    """
    Import the predecessor's devices (:mod:`middlewared.devices.predecessor`).

    :return: 0 when every line was imported, 1 when one was refused.
    :raises ConfigError: the file cannot be read or has no such columns.
    """

    def report(refused: RefusedLine) -> None:
        print(f"{path}: line {refused.line}: {refused.why}", file=sys.stderr)  # noqa: T201

    async def work(devices: DeviceRegistry) -> int:
        try:
            with path.open(encoding="utf-8-sig", newline="") as lines:
                done = await import_devices(
                    devices=devices,
                    lines=lines,
                    report=report,
                    pattern=config.accounts.sip_user_id_pattern,
                )
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise ConfigError([Problem("", "", f"{path}: {why}")]) from error
        _print(f"{done.stored} stored, {done.kept} newer here and kept, {done.refused} refused")
        return 1 if done.refused else 0

    return _with_devices(config, work, create=True)


def _with_devices(config: Config, work: Work, *, create: bool = False) -> int:
    """
    Run ``work`` on the configured registry.

    :param create: create a SQLite file that does not exist, instead of refusing it.
    """
    path = config.database.sqlite_file
    if path is not None and not create and not path.exists():
        raise ConfigError([Problem("database", "url", f"{path} does not exist")])

    async def opened(reactor: Any) -> int:
        devices = choose_database(config, reactor=reactor)
        try:
            await devices.start()
            return await work(devices)
        finally:
            await devices.stop()

    return run_in_reactor(opened)


async def _matching(devices: DeviceRegistry, matching: DeviceFilter) -> AsyncIterator[Device]:
    page = await devices.page(None, _PAGE, matching)
    while True:
        for device in page.devices:
            yield device
        if page.last is None:
            return
        page = await devices.page(page.last, _PAGE, matching)


async def _existing(devices: DeviceRegistry, sip_user_id: SipUserId) -> Device:
    device = await devices.find(sip_user_id)
    if device is None:
        raise NoDevice(f"{sip_user_id} has no device")
    return device


def _fields(device: Device) -> dict[str, Any]:
    """The fields of a device, with tokens as fingerprints, as in the log."""
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
    return " ".join(
        f"{_printable(shown[name]):<{width}}" for name, width in _COLUMNS.items()
    ).rstrip()


def _printable(value: object) -> str:
    """A value for a terminal, which control characters of an app's text must not reach."""
    words: dict[object, str] = {True: "yes", False: "no", None: "never"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return "".join(each if each.isprintable() else "?" for each in text)


def _print(line: str) -> None:
    print(line)  # noqa: T201
