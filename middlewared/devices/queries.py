"""
The devices room's SQL that every database understands, and the shape of its rows.

A row holds the fields of :class:`~middlewared.model.Device` in order, so that the columns
are named in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs

from middlewared.devices.interface import Counts, Page, Wanted
from middlewared.model import Device, Platform

Row: TypeAlias = tuple[Any, ...]

COLUMNS = tuple(field.name for field in attrs.fields(Device))
NAMES = ", ".join(COLUMNS)
_PLACES = ", ".join("?" * len(COLUMNS))
_SAME = "sip_user_id = ? and platform = ? and app = ? and token = ?"

FIND = f"select {NAMES} from devices where sip_user_id = ?"  # noqa: S608 (our own names)
DELETE = f"delete from devices where {_SAME}"  # noqa: S608
REMOVE_DEAD = f"{DELETE} and registered_at <= ?"
REPLACE_TOKEN = f"update devices set token = ? where {_SAME}"  # noqa: S608
SET_SANDBOX = f"update devices set sandbox = ? where {_SAME}"  # noqa: S608
TOUCH = "update devices set last_seen = ? where sip_user_id = ?"
PING = "update pulse set beaten_at = ?"
INSERT = f"insert into devices ({NAMES}) values ({_PLACES})"  # noqa: S608
COUNT = "select app, platform, count(*) from devices group by app, platform"
# The second condition lets the planner use the partial index.
COUNT_SILENT = "select count(*) from devices where silent_streak >= ? and silent_streak > 0"

LARGEST_ID = 2**63 - 1
"""No database here keeps a larger number, so no larger account can have a device."""
_INDEXED = 128
"""How many characters of an installation are indexed."""


def identity(device: Device) -> Row:
    """The values that identify a device, as ``DELETE`` and similar statements take them."""
    return device.sip_user_id, device.platform.value, device.app, device.token


@attrs.frozen
class Dialect:
    """``position``: the function that finds one text in another, from 1; 0: not found."""

    position: str

    def same_phone(self) -> str:
        """A condition on devices; its values are :func:`phone`."""
        installation = self._installation("")
        return (
            f"substr({installation}, 1, {_INDEXED}) = ? and {installation} = ?"
            " and platform = ? and app = ?"
        )

    def page(self, wanted: Wanted) -> tuple[str, Row]:
        """The statement for a page; the values it returns follow ``after`` and ``limit``."""
        conditions = ["page.silent_streak >= ?"]
        values: list[object] = [wanted.silent_streak]
        if wanted.unseen_since is not None:
            conditions.append("page.last_seen < ? and coalesce(page.last_answered, 0) < ?")
            values += [wanted.unseen_since] * 2
        if wanted.shared:
            conditions.append(self._shared())
        statement = f"""
            with page as (
                select {NAMES} from devices where sip_user_id > ? order by sip_user_id limit ?
            )
            select last.sip_user_id, {", ".join(f"page.{name}" for name in COLUMNS)}
            from (select max(sip_user_id) as sip_user_id from page) as last
            left join page on {" and ".join(conditions)}
            order by page.sip_user_id
        """  # noqa: S608
        return statement, tuple(values)

    def _shared(self) -> str:
        """Whether another account has the same phone as a device of ``page``."""
        other, own = self._installation("other."), self._installation("page.")
        return f"""exists (
            select 1 from devices as other
            where substr({other}, 1, {_INDEXED}) = substr({own}, 1, {_INDEXED})
                and {other} = {own} and other.platform = page.platform
                and other.app = page.app and other.sip_user_id <> page.sip_user_id
        )"""  # noqa: S608

    def _installation(self, table: str) -> str:
        """:attr:`.model.Device.installation`; the index of the schema has the same words."""
        colon = f"{self.position}({table}token, ':')"
        return (
            f"case when {table}platform = 'apns' or {colon} < 2 then {table}token"
            f" else substr({table}token, 1, {colon} - 1) end"
        )


def phone(device: Device) -> Row:
    """The values of :meth:`Dialect.same_phone` for the phone of ``device``."""
    installation = device.installation
    return installation[:_INDEXED], installation, device.platform.value, device.app


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


def to_page(rows: Sequence[Row]) -> Page:
    """The page in the rows of its statement, which always returns at least one."""
    return Page([from_row(row[1:]) for row in rows if row[1] is not None], rows[0][0])


def to_counts(rows: Sequence[Row], silent: int) -> Counts:
    """The counts of the rows of ``COUNT``."""
    return Counts({(app, Platform(platform)): count for app, platform, count in rows}, silent)
