"""
The SQL that every database here understands, and the rows of its tables.

A row of ``devices`` holds the fields of :class:`~middlewared.model.Device` in order, so that
the columns are named in one place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import attrs

from middlewared.database import Row
from middlewared.devices.interface import DeviceCounts, DeviceFilter, Page
from middlewared.model import Device, Platform, ResponseRecord, SipUserId

COLUMNS = tuple(field.name for field in attrs.fields(Device))
NAMES = ", ".join(COLUMNS)
_PLACEHOLDERS = ", ".join("?" * len(COLUMNS))
_SAME_DEVICE = "sip_user_id = ? and platform = ? and app = ? and token = ?"

FIND = f"select {NAMES} from devices where sip_user_id = ?"  # noqa: S608 (our own names)
DELETE = f"delete from devices where {_SAME_DEVICE}"  # noqa: S608
REMOVE_DEAD = f"{DELETE} and registered_at <= ?"
REPLACE_TOKEN = f"update devices set token = ? where {_SAME_DEVICE}"  # noqa: S608
SET_SANDBOX = f"update devices set sandbox = ? where {_SAME_DEVICE}"  # noqa: S608
TOUCH = "update devices set last_seen = ? where sip_user_id = ?"
PING = "update pulse set beaten_at = ?"
INSERT = f"insert into devices ({NAMES}) values ({_PLACEHOLDERS})"  # noqa: S608
COUNT = "select app, platform, count(*) from devices group by app, platform"
# The second condition lets the planner use the partial index.
COUNT_SILENT = "select count(*) from devices where silent_streak >= ? and silent_streak > 0"

CARRY_OVER = f"""
    insert into text_devices ({NAMES})
    select cast(sip_user_id as text), {", ".join(COLUMNS[1:])} from devices
    where not exists (select 1 from text_devices) on conflict do nothing
"""  # noqa: S608
"""Devices of accounts that were numbers, where accounts are texts now; run as it is."""

LARGEST_ID = 2**63 - 1
"""No database here stores a larger number, so no larger account can have a device."""
_INDEXED = 128
"""How many characters of an installation are indexed."""


def identity(device: Device) -> Row:
    """The values that identify a device, as ``DELETE`` and similar statements take them."""
    return device.sip_user_id, device.platform.value, device.app, device.token


@attrs.frozen
class Dialect:
    """
    ``position``: the function that returns where one text is in another: from 1; 0: nowhere.
    ``now``: a number of seconds by the clock of the database.

    ``text_accounts``: accounts are texts, whose devices are in a table of their own.
    """

    position: str
    now: str
    text_accounts: bool = False

    @property
    def before_all(self) -> SipUserId:
        """What is less than each account."""
        return "" if self.text_accounts else 0

    def adapted(self, statement: str) -> str:
        """A statement for the table that has the devices."""
        if not self.text_accounts:
            return statement
        return _text_statement(statement)

    def same_phone(self) -> str:
        """The condition that a device is on a phone; its values are those of :func:`phone`."""
        installation = self._installation("")
        return (
            f"substr({installation}, 1, {_INDEXED}) = ? and {installation} = ?"
            " and platform = ? and app = ?"
        )

    def report_state(self) -> str:
        """The statement that stores the state of a daemon."""
        return (
            f"insert into daemon_states (daemon, seen_at, state) values (?, {self.now}, ?)"  # noqa: S608
            " on conflict (daemon) do update set seen_at = excluded.seen_at, state = excluded.state"
        )

    def withdraw_state(self) -> str:
        """The statement that deletes a daemon's state, and those of daemons that have gone."""
        return f"delete from daemon_states where daemon = ? or seen_at < {self.now} - 60"  # noqa: S608

    def daemon_states(self) -> str:
        """The statement that reads the states of all daemons."""
        return (
            f"select daemon, state, {self.now} - seen_at from daemon_states"  # noqa: S608
            f" where seen_at > {self.now} - 60 order by daemon"
        )

    def page(self, matching: DeviceFilter) -> tuple[str, Row]:
        """The statement of a page, and its values after ``after`` and ``limit``."""
        conditions = ["page.silent_streak >= ?"]
        values: list[object] = [matching.silent_streak]
        if matching.unseen_since is not None:
            conditions.append("page.last_seen < ? and coalesce(page.last_answered, 0) < ?")
            values += [matching.unseen_since] * 2
        if matching.shared:
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
        """The condition that another account has the same phone as a row of ``page``."""
        other, own = self._installation("other."), self._installation("page.")
        return f"""exists (
            select 1 from devices as other
            where substr({other}, 1, {_INDEXED}) = substr({own}, 1, {_INDEXED})
                and {other} = {own} and other.platform = page.platform
                and other.app = page.app and other.sip_user_id <> page.sip_user_id
        )"""  # noqa: S608

    def _installation(self, table: str) -> str:
        """:attr:`.model.Device.installation`, written exactly as in the schema's index."""
        colon = f"{self.position}({table}token, ':')"
        return (
            f"case when {table}platform = 'apns' or {colon} < 2 then {table}token"
            f" else substr({table}token, 1, {colon} - 1) end"
        )


@cache
def _text_statement(statement: str) -> str:
    statement = re.sub(r"\bdevices\b", "text_devices", statement)
    return statement.replace("?::bigint[]", "?::text[]")


def phone(device: Device) -> Row:
    """The values of :meth:`Dialect.same_phone` for the phone of ``device``."""
    installation = device.installation
    return installation[:_INDEXED], installation, device.platform.value, device.app


def to_row(device: Device) -> Row:
    """The values of ``device`` in the order of the columns."""
    row = attrs.astuple(device, recurse=False)
    return tuple(value.value if isinstance(value, Platform) else value for value in row)


def to_response_row(record: ResponseRecord) -> Row:
    """The values of ``record`` in the order of its fields."""
    return record.platform.value, record.roundtrip_seconds, record.available, record.answered_at


def from_row(row: Row) -> Device:
    """The device of one row, where a database without booleans has 0 and 1."""
    values = dict(zip(COLUMNS, row, strict=True))
    values["platform"] = Platform(values["platform"])
    values["sandbox"] = bool(values["sandbox"])
    values["dnd"] = bool(values["dnd"])
    return Device(**values)


def to_page(rows: Sequence[Row]) -> Page:
    """The page of its statement's rows, of which there is always at least one."""
    return Page([from_row(row[1:]) for row in rows if row[1] is not None], rows[0][0])


def to_counts(rows: Sequence[Row], silent: int) -> DeviceCounts:
    """The counts of the rows of :data:`COUNT`."""
    return DeviceCounts({(app, Platform(platform)): count for app, platform, count in rows}, silent)
