"""A history for tests of other rooms."""

from __future__ import annotations

from collections.abc import Sequence

from middlewared.history.interface import (
    CallRecord,
    DeviceEvent,
    KeptAnswer,
    KeptReport,
    Recorder,
)


class NotRecording(Recorder):
    """A recorder that keeps nothing."""

    recording = False

    def keep_calls(self, records: Sequence[CallRecord]) -> None: ...

    def keep_answer(self, unique_key: str, sip_user_id: str, answer: KeptAnswer) -> None: ...

    def keep_joined(self, unique_key: str, sip_user_id: str, time: float) -> None: ...

    def keep_report(self, unique_key: str, sip_user_id: str, report: KeptReport) -> None: ...

    def keep_device_event(self, event: DeviceEvent) -> None: ...
