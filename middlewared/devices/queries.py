"""
The devices room's SQL that every database understands, and the shape of its rows.

The one invariant: a row holds the fields of :class:`~middlewared.model.Device` in their
order, so that the columns are named in one place.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import attrs

from middlewared.model import Device, Platform

Row: TypeAlias = tuple[Any, ...]

COLUMNS = tuple(field.name for field in attrs.fields(Device))
_NAMES = ", ".join(COLUMNS)
_PLACES = ", ".join("?" * len(COLUMNS))

FIND = f"select {_NAMES} from devices where sip_user_id = ?"  # noqa: S608 (our own names)
LIST = f"select {_NAMES} from devices where sip_user_id > ? order by sip_user_id limit ?"  # noqa: S608
DELETE = "delete from devices where sip_user_id = ? and platform = ? and app = ? and token = ?"
REMOVE_DEAD = "delete from devices where sip_user_id = ? and token = ? and registered_at <= ?"
REPLACE_TOKEN = "update devices set token = ? where sip_user_id = ? and token = ?"
SET_SANDBOX = "update devices set sandbox = ? where sip_user_id = ? and token = ?"
TOUCH = "update devices set last_seen = ? where sip_user_id = ?"
PING = "update pulse set beaten_at = ?"
INSERT = f"insert into devices ({_NAMES}) values ({_PLACES})"  # noqa: S608

LARGEST_ID = 2**63 - 1
"""No database here keeps a larger number, so no larger account can have a device."""


def to_row(device: Device) -> Row:
    """The values of ``device`` in the order of the columns."""
    row = attrs.astuple(device, recurse=False)
    return tuple(value.value if isinstance(value, Platform) else value for value in row)


def from_row(row: Row) -> Device:
    """The device of one row; databases without booleans give 0 and 1 for them."""
    values = dict(zip(COLUMNS, row, strict=True))
    values["platform"] = Platform(values["platform"])
    values["sandbox"] = bool(values["sandbox"])
    values["dnd"] = bool(values["dnd"])
    return Device(**values)
