"""
The contract of the history: the calls of the last days, and what happened to devices.

Recording never waits and never fails; what a database cannot take is dropped and counted.
All daemons write to one database. The facts of one call may come from several daemons, before
or after the call itself, and are joined by its unique_key when it is read.

All times are epoch seconds of the daemon that noted them. Accounts are texts here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import attrs

from middlewared.model import Device, SipUserId
from middlewared.quoting import fingerprint

HistoryRow: TypeAlias = tuple[Any, ...]
"""A row that is written later; see :mod:`.history_rows`."""
Numbers: TypeAlias = Literal["none", "last3", "all"]
"""How much is kept of callers' numbers and names ([history] numbers)."""

HUNG_UP = "hung-up"
"""The outcome of a call whose PBX closed its connection, beside those of ``X-Outcome``."""
LOG_METRICS, HANGUP_REASON = "log-metrics", "hangup-reason"
"""The kinds of reports."""


def provider_of(platform: str) -> str:
    """Whose push service it is, for people; ``platform`` as a call or a device has it."""
    return _PROVIDERS.get(platform, "the push service")


_PROVIDERS = {"apns": "Apple", "android": "Google", "gcm": "Google"}


class Hindrance(enum.Enum):
    """Why a device was not woken as usual; kept with the call."""

    NONE = ""
    NOT_REGISTERED = "not-registered"
    DO_NOT_DISTURB = "dnd"
    NO_SECTION = "no-section"
    """The configuration has no section for its app and platform."""
    SILENT = "silent"
    """It did not answer its last calls, so it got one push and a shorter wait."""


@attrs.frozen
class Retention:
    """``[history]``; with ``days`` 0 nothing is kept and nothing is found."""

    days: int = 14
    max_calls: int = 1_000_000
    numbers: Numbers = "last3"


class KeptPush(NamedTuple):
    """
    One push of a call.

    ``verdict``: as in the label ``result`` of metrics. ``milliseconds``: until the provider's
    answer. ``provider_id``: the provider's own id of the push; "": it gave none.
    """

    attempt: int
    time: float
    verdict: str
    reason: str
    milliseconds: float
    uncertain: bool
    provider_id: str


class KeptAnswer(NamedTuple):
    """
    One answer of the phone.

    ``decided``: whether it ended the call. ``late_milliseconds``: how long after the call had
    timed out; None: it was in time. ``id``: two with the same are one; "": see
    :mod:`.history_rows`.
    """

    time: float
    available: bool
    decided: bool
    late_milliseconds: float | None = None
    id: str = ""


@attrs.frozen
class KeptReport:
    """What the app reported of a call: ``kind`` is LOG_METRICS or HANGUP_REASON."""

    time: float
    kind: str
    fields: Mapping[str, str]


@attrs.define  # creating a frozen one would take twice as long
class CallRecord:
    """
    A call that has ended, as the daemon that woke its device knows it. It is never changed.

    ``platform``: "none" and ``app``: "" when there was no device. ``token``: a fingerprint.
    ``steps``: the name of each, the milliseconds since the one before it, and perhaps a note:
    "device=0.4 sent=0.1 push(accepted)=41.2".
    ``pbx``: the name of the section of the PBX that placed it; "": it has none.
    ``wait_ms``: how long the phone had to answer. ``inherited``: how many pushes had been sent
    by a daemon that failed during the call; no more is known of them.
    """

    unique_key: str
    call_id: str
    sip_user_id: str
    app: str
    platform: str
    start: float
    outcome: str
    phonenumber: str
    caller_id: str
    steps: str = ""
    pushes: Sequence[KeptPush] = ()
    answer: KeptAnswer | None = None
    wait_ms: float = 0.0
    hindrance: Hindrance = Hindrance.NONE
    token: str = ""
    inherited: int = 0
    pbx: str = ""

    @property
    def step_times(self) -> Sequence[tuple[str, float]]:
        """The name of each step, and the milliseconds since the one before it."""
        parts = [part.rpartition("=") for part in self.steps.split()]
        return [(step.partition("(")[0], float(took_ms)) for step, _, took_ms in parts]

    @property
    def accepted_at(self) -> float | None:
        """When a provider first accepted one of the pushes, in epoch seconds; None: none did."""
        ended = [p.time + p.milliseconds / 1000 for p in self.pushes if p.verdict == "accepted"]
        return min(ended, default=None)


@attrs.frozen(kw_only=True)
class KeptCall:
    """
    A call with all its facts.

    ``verdict``: a sentence that explains it (:mod:`.verdicts`). ``joined``: when the PBX
    repeated it.
    """

    record: CallRecord
    daemon: str
    answers: Sequence[KeptAnswer] = ()
    joined: Sequence[float] = ()
    reports: Sequence[KeptReport] = ()
    verdict: str = ""


@attrs.frozen(kw_only=True)
class DeviceEvent:
    """
    Something that happened to the device of an account; ``token`` is a fingerprint.

    ``sip_user_id``: when it is read, a text.

    ``time``: 0.0 when it is recorded: now.

    ``event``: registered, replaced, removed, token-suspect or lost-account-notice. ``why`` it
    was removed or replaced: app, token-dead, other-account or operator. ``reason``: the
    provider's own, or more about the event.
    """

    sip_user_id: SipUserId
    event: str
    why: str = ""
    reason: str = ""
    platform: str = ""
    app: str = ""
    token: str = ""
    time: float = 0.0

    @staticmethod
    def of(device: Device, event: str, *, why: str = "", reason: str = "") -> DeviceEvent:
        """``event`` of ``device``, to be recorded now."""
        return DeviceEvent(
            sip_user_id=device.sip_user_id,
            event=event,
            why=why,
            reason=reason,
            platform=device.platform.value,
            app=device.app,
            token=fingerprint(device.token),
        )


@attrs.frozen(kw_only=True)
class CallFigures:
    """
    The calls of one app and platform that a daemon counted in a minute, which began at ``at``.

    ``outcomes``: calls by outcome. ``wakeups``: answered calls by the upper bound of their
    wake-up time in seconds, one of :data:`WAKEUP_BOUNDS_S`; longer ones have "inf".
    """

    at: float
    daemon: str
    app: str
    platform: str
    outcomes: Mapping[str, int]
    wakeups: Mapping[str, int]


WAKEUP_BOUNDS_S = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""From the first push that was accepted to the answer."""


@attrs.frozen(kw_only=True)
class CallSearch:
    """
    Which calls to find; "" and None mean any.

    ``text``: an account, a call_id or a unique_key; with ``or_number``, if there is none of
    these, a caller's number. With [history] numbers = last3 that finds calls of all callers
    whose numbers end alike, which is not what a search for an account without calls means.
    ``since`` (inclusive) and ``until`` (exclusive) are about the start. ``before``: the
    ``next`` of the page before.
    """

    text: str = ""
    or_number: bool = False
    sip_user_id: str = ""
    call_id: str = ""
    unique_key: str = ""
    number: str = ""
    outcome: str = ""
    app: str = ""
    platform: str = ""
    since: float | None = None
    until: float | None = None
    limit: int = 50
    before: str = ""


@attrs.frozen
class CallPage:
    """Calls, newest first; ``next`` is the ``before`` of the next page, None at the end."""

    calls: Sequence[KeptCall]
    next: str | None


class Recorder(Protocol):
    """
    Takes what happened. Every method returns at once and never fails.

    While ``recording`` is False they keep nothing, so callers need not prepare anything. Events
    of devices are logged all the same.
    """

    @property
    def recording(self) -> bool: ...

    def keep_calls(self, records: Sequence[CallRecord]) -> None:
        """Calls have ended, and all their pushes have."""

    def keep_answer(self, unique_key: str, sip_user_id: str, answer: KeptAnswer) -> None:
        """
        A phone's answer has arrived that is not, or may not be, the one of a ``keep_calls``.

        :param sip_user_id: "" if it is not known here.
        """

    def keep_joined(self, unique_key: str, sip_user_id: str, time: float) -> None:
        """The PBX has repeated a call."""

    def keep_report(self, unique_key: str, sip_user_id: str, report: KeptReport) -> None:
        """An app has reported something about a call; it is attached to its own calls only."""

    def keep_device_event(self, event: DeviceEvent) -> None:
        """Something has happened to a device; it is logged, too."""


class HistoryReader(Protocol):
    """
    Finds what is kept.

    All methods raise :class:`~middlewared.errors.DatabaseDown` when the database cannot
    answer in time.
    """

    async def search(self, wanted: CallSearch) -> CallPage:
        """
        The calls that match, newest first.

        :raises BadRequest: ``before`` is not one that a page returned.
        """

    async def find_call(self, unique_key: str) -> KeptCall | None:
        """The newest call of this key; None: none is kept."""

    async def device_events(self, sip_user_id: str, limit: int = 100) -> Sequence[DeviceEvent]:
        """What happened to the devices of an account, newest first."""

    async def call_figures(self, since: float) -> Sequence[CallFigures]:
        """The figures of all daemons for the minutes that began at or after ``since``."""

    async def last_answered(self, sip_user_id: str) -> float | None:
        """
        The start of the last kept call that a phone of the account answered, with yes or no.

        It outlives the device; :attr:`.model.Device.last_answered` is of the device alone.
        """


class HistoryStore(HistoryReader, Protocol):
    """The history in a database; the rows are those of :mod:`.history_rows`."""

    def reconfigure(self, settings: Retention) -> None:
        """Use ``settings`` from now on."""

    async def add_calls(self, rows: Sequence[HistoryRow]) -> None:
        """Append calls in one transaction; one that is there already is left as it is."""

    async def add_facts(self, rows: Sequence[HistoryRow]) -> None:
        """Append answers, joined requests and reports in one transaction."""

    async def add_device_events(self, rows: Sequence[HistoryRow]) -> None:
        """Append events of devices in one transaction."""

    async def add_call_figures(self, rows: Sequence[HistoryRow]) -> None:
        """Append figures in one transaction."""

    async def purge_step(self, table: str, most: int) -> int:
        """
        Delete at most ``most`` of the oldest rows that are too old or too many.

        :param table: one of :data:`PURGED`.
        :return: how many were deleted.
        """


PURGED = ("calls", "call_facts", "device_events", "call_figures", "response_log")
"""The tables with rows that are deleted by age and number."""
