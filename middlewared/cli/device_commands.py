"""
``middlewared devices``: list, show, delete and import devices.

Push tokens are printed only as fingerprints.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import Any, cast

import attrs
from twisted.logger import ILogObserver, globalLogPublisher

from middlewared.cli.call_commands import call_table
from middlewared.cli.storage_access import with_storage
from middlewared.cli.tables import shown, table_row, utc, write_line
from middlewared.config import Config
from middlewared.devices.interface import DeviceFilter, DeviceRegistry
from middlewared.devices.predecessor import RefusedLine, import_devices
from middlewared.errors import ConfigError, DatabaseDown, MiddlewaredError, Problem
from middlewared.history.device_log import log_device_event
from middlewared.history.history_rows import device_event_row
from middlewared.history.interface import CallSearch, DeviceEvent, KeptCall
from middlewared.history.json_forms import JsonForms
from middlewared.logs import LogOutput
from middlewared.model import Device, SipUserId
from middlewared.quoting import fingerprint
from middlewared.service.storage import Storage

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
_EVENT_COLUMNS = {"time (UTC)": 19, "event": 19, "why": 13, "token": 8, "reason": 0}
_MOST_EVENTS = 20
_MOST_CALLS = 10


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

    async def work(storage: Storage) -> int:
        if not as_json:
            write_line(table_row({name: name for name in _COLUMNS} | {"token": token}, _COLUMNS))
        async for device in _matching(storage.devices, matching):
            fields = _fields(device)
            row = table_row(fields | {"token": fields[token]}, _COLUMNS)
            write_line(json.dumps(fields) if as_json else row)
        return 0

    return with_storage(config, work)


def show_device(config: Config, sip_user_id: SipUserId, *, as_json: bool) -> int:
    """
    Print all fields of a device, with the account's events and last calls.

    :return: 0; 1 when there is no device, but the history knows the account.
    :raises NoDevice: nothing is known of the account.
    """

    async def work(storage: Storage) -> int:
        account = str(sip_user_id)
        device = await storage.devices.find(sip_user_id)
        events = await storage.history.device_events(account, _MOST_EVENTS)
        page = await storage.history.search(CallSearch(sip_user_id=account, limit=_MOST_CALLS))
        if device is None and not (events or page.calls):
            raise NoDevice(f"{sip_user_id} has no device")
        last_answered = await storage.history.last_answered(account)
        if as_json:
            forms = JsonForms(text_accounts=config.accounts.are_texts)
            form = forms.device(account, device, events, last_answered)
            calls = {"calls": [forms.call(call) for call in page.calls]}
            write_line(json.dumps(form | calls | (_fields(device) if device else {})))
        else:
            _show_account(device, events, page.calls)
        if device is None:
            print(f"{sip_user_id} has no device", file=sys.stderr)  # noqa: T201
        return 1 if device is None else 0

    return with_storage(config, work)


def _show_account(
    device: Device | None, events: Sequence[DeviceEvent], calls: Sequence[KeptCall]
) -> None:
    if device is not None:
        for name, value in _fields(device).items():
            write_line(f"{name}: {shown(value)}")
    if events:
        write_line("\nEvents")
        write_line(table_row({name: name for name in _EVENT_COLUMNS}, _EVENT_COLUMNS))
    for event in events:
        write_line(table_row(_event_cells(event), _EVENT_COLUMNS))
    if calls:
        write_line("\nLast calls")
        for line in call_table(calls):
            write_line(line)


def _event_cells(event: DeviceEvent) -> Mapping[str, object]:
    return {
        "time (UTC)": utc(event.time),
        "event": event.event,
        "why": event.why or "-",
        "token": event.token,
        "reason": event.reason,
    }


def delete_device(config: Config, sip_user_id: SipUserId, *, as_json: bool) -> int:
    """Remove a device and print it. :raises NoDevice: there is none."""

    async def work(storage: Storage) -> int:
        device = await storage.devices.find(sip_user_id)
        if device is None:
            raise NoDevice(f"{sip_user_id} has no device")
        identity = (sip_user_id, device.platform, device.app, device.token)
        if not await storage.devices.delete(*identity):
            raise NoDevice(f"{sip_user_id} has just registered another device, try again")
        await _record_removal(config, storage, device)
        fields = _fields(device)
        write_line(json.dumps(fields) if as_json else f"deleted {table_row(fields, _COLUMNS)}")
        return 0

    return with_storage(config, work)


async def _record_removal(config: Config, storage: Storage, device: Device) -> None:
    """
    Log the removal, and keep it in the history: a log or a database that does not accept it
    then costs only that.
    """
    name = f"{gethostname()}:command"
    removed = attrs.evolve(DeviceEvent.of(device, "removed", why="operator"), time=time.time())
    with _daemons_log(config, name):
        log_device_event(removed)
    if config.history.days:
        with suppress(DatabaseDown):
            await storage.history.add_device_events([device_event_row(removed, name)])


@contextmanager
def _daemons_log(config: Config, name: str) -> Iterator[None]:
    """
    Write to the log file of the daemon meanwhile.

    There may be none: standard output is the command's own. A new file would be the user's of
    the command, so none is made.
    """
    log, output = config.log, LogOutput(daemon=name)
    if log.file is None or not log.file.exists():
        yield
        return
    try:
        output.reload(level=log.level, format=log.format, file=log.file)
    except OSError as error:
        print(f"not logged: {log.file}: {error.strerror}", file=sys.stderr)  # noqa: T201
        yield
        return
    observer = cast(ILogObserver, output)
    globalLogPublisher.addObserver(observer)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observer)
        output.close()


def import_from(config: Config, path: Path) -> int:
    """
    Import the predecessor's devices (:mod:`middlewared.devices.predecessor`).

    :return: 0 when every line was imported, 1 when one was refused.
    :raises ConfigError: the file cannot be read or has no such columns.
    """

    def report(refused: RefusedLine) -> None:
        print(f"{path}: line {refused.line}: {refused.why}", file=sys.stderr)  # noqa: T201

    async def work(storage: Storage) -> int:
        try:
            with path.open(encoding="utf-8-sig", newline="") as lines:
                done = await import_devices(
                    devices=storage.devices,
                    lines=lines,
                    report=report,
                    pattern=config.accounts.sip_user_id_pattern,
                    why_uncallable=partial(_why_uncallable, config),
                )
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise ConfigError([Problem("", "", f"{path}: {why}")]) from error
        write_line(f"{done.stored} stored, {done.kept} newer here and kept, {done.refused} refused")
        return 1 if done.refused else 0

    return with_storage(config, work, create=True)


def _why_uncallable(config: Config, device: Device) -> str:
    """Why no call can ever reach a device; "": it can be called."""
    account, accounts = device.sip_user_id, config.accounts
    if isinstance(account, int) and not (
        accounts.sip_user_id_min <= account <= accounts.sip_user_id_max
    ):
        return "sip_user_id is not between [accounts] sip_user_id_min and sip_user_id_max"
    if (device.app, device.platform) not in config.apps:
        return f"there is no section [app:{device.app}:{device.platform.value}]"
    return ""


async def _matching(devices: DeviceRegistry, matching: DeviceFilter) -> AsyncIterator[Device]:
    page = await devices.page(None, _PAGE, matching)
    while True:
        for device in page.devices:
            yield device
        if page.last is None:
            return
        page = await devices.page(page.last, _PAGE, matching)


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
