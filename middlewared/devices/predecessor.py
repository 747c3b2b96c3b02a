"""
Imports the device table of vialer-middleware, the predecessor, from CSV.

A line is imported completely, or refused with its number and a reason. A device that has
registered here since the line was written is left as it is, so an import may be repeated.

The export, with the app in place of its number::

    select d.sip_user_id, a.platform, a.app_id as app, d.token, d.name, d.os_version,
           d.client_version, d.sandbox, d.last_seen, d.remote_logging_id
    from app_device d join app_app a on a.id = d.app_id
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime

import attrs
from twisted.internet.defer import Deferred, FirstError, gatherResults

from middlewared.booleans import parse_boolean
from middlewared.devices.interface import DeviceRegistry
from middlewared.devices.queries import LARGEST_ID
from middlewared.errors import ConfigError, Problem
from middlewared.model import Device, Platform, SipUserId, is_text_account

_REQUIRED = {"sip_user_id", "platform", "app", "token"}
# What databases write for NULL.
_ABSENT = {"", r"\N", "NULL"}
_LONGEST_TEXT, _LONGEST_TOKEN = 255, 4096
_AT_ONCE = 500


@attrs.frozen
class RefusedLine:
    """A line that was not imported; ``why`` does not quote its token."""

    line: int
    why: str


@attrs.define
class Imported:
    """How many lines were stored, kept as a newer registration exists, or refused."""

    stored: int = 0
    kept: int = 0
    refused: int = 0


def always_callable(_: Device) -> str:
    """There is no reason to refuse any device."""
    return ""


async def import_devices(
    *,
    devices: DeviceRegistry,
    lines: Iterable[str],
    report: Callable[[RefusedLine], None],
    pattern: re.Pattern[str] | None = None,
    why_uncallable: Callable[[Device], str] = always_callable,
) -> Imported:
    """
    Store the devices of an export.

    :param lines: the CSV file; its first line names the columns, in any order.
    :param report: called with each refused line.
    :param pattern: accounts are texts that match it; None: numbers.
    :param why_uncallable: why no call can ever reach a device; "": it can be called.
    :raises ConfigError: a column is missing.
    :raises DatabaseDown: the import is incomplete; it may be repeated.
    """
    imported = Imported()
    batch: list[Device] = []
    for read in read_devices(lines, pattern, why_uncallable):
        if isinstance(read, RefusedLine):
            imported.refused += 1
            report(read)
            continue
        batch.append(read)
        if len(batch) >= _AT_ONCE:
            await _store(devices, batch, imported)
            batch = []
    await _store(devices, batch, imported)
    return imported


def read_devices(
    lines: Iterable[str],
    pattern: re.Pattern[str] | None = None,
    why_uncallable: Callable[[Device], str] = always_callable,
) -> Iterator[Device | RefusedLine]:
    """The devices of an export, and the refused lines; an account may have one line only."""
    reader = csv.DictReader(lines)
    missing = _REQUIRED - set(reader.fieldnames or ())
    if missing:
        raise ConfigError(
            Problem("", "", f"the export has no column {name}") for name in sorted(missing)
        )
    seen: set[SipUserId] = set()
    while True:
        try:
            device = _device(next(reader), pattern)
            if device.sip_user_id in seen:
                raise ValueError("the account is on a line before this one")
            if why := why_uncallable(device):
                raise ValueError(why)
        except StopIteration:
            return
        except (ValueError, csv.Error) as error:
            yield RefusedLine(reader.line_num, str(error))
        else:
            seen.add(device.sip_user_id)
            yield device


async def _store(devices: DeviceRegistry, batch: list[Device], imported: Imported) -> None:
    storing = [Deferred.fromCoroutine(_store_one(devices, device)) for device in batch]
    try:
        stored = sum(await gatherResults(storing, consumeErrors=True))
    except FirstError as error:
        error.subFailure.raiseException()
    imported.stored += stored
    imported.kept += len(batch) - stored


async def _store_one(devices: DeviceRegistry, device: Device) -> bool:
    stored = await devices.find(device.sip_user_id)
    if stored is not None and stored.registered_at >= device.registered_at:
        return False
    await devices.register(device)
    return True


def _device(row: Mapping[str, str | None], pattern: re.Pattern[str] | None) -> Device:
    if None in row or None in row.values():
        raise ValueError("not as many values as columns")
    values = {name: "" if value in _ABSENT else value or "" for name, value in row.items()}
    if any("\0" in value for value in values.values()):
        raise ValueError("NUL character")
    seen_at = _time(values.get("last_seen", ""))
    return Device(
        sip_user_id=_account(values["sip_user_id"], pattern),
        platform=_platform(values["platform"]),
        app=_text("app", values["app"], required=True),
        token=_token(values["token"]),
        sandbox=_boolean("sandbox", values.get("sandbox", "")),
        registered_at=seen_at,
        last_seen=seen_at,
        name=_text("name", values.get("name", "")),
        os_version=_text("os_version", values.get("os_version", "")),
        client_version=_text("client_version", values.get("client_version", "")),
        remote_logging_id=_text("remote_logging_id", values.get("remote_logging_id", "")),
    )


def _account(text: str, pattern: re.Pattern[str] | None) -> SipUserId:
    if pattern is not None:
        if not is_text_account(text, pattern):
            raise ValueError("sip_user_id does not match sip_user_id_pattern")
        return text
    if not (text.isascii() and text.isdigit()) or not 0 < int(text[:20]) <= LARGEST_ID:
        raise ValueError("sip_user_id is not a number")
    return int(text)


def _platform(text: str) -> Platform:
    try:
        return Platform(text)
    except ValueError:
        raise ValueError("platform is not apns, android or gcm") from None


def _token(text: str) -> str:
    if not text or len(text) > _LONGEST_TOKEN or any(each.isspace() for each in text):
        raise ValueError("token is empty, too long or has blanks")
    return text


def _text(name: str, text: str, required: bool = False) -> str:
    if (required and not text) or len(text) > _LONGEST_TEXT:
        raise ValueError(f"{name} is empty or too long")
    return text


def _boolean(name: str, text: str) -> bool:
    value = parse_boolean(text or "false")
    if value is None:
        raise ValueError(f"{name} is neither true nor false")
    return value


def _time(text: str) -> float:
    """Epoch seconds of a database's time-stamp, in UTC unless it has an offset; 0 for none."""
    if not text:
        return 0.0
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("last_seen is not a time-stamp") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
