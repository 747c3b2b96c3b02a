"""What becomes of the reports that phones send about calls."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.logger import Logger

from middlewared.clock import WallClock
from middlewared.history.interface import HANGUP_REASON, LOG_METRICS, KeptReport, Recorder
from middlewared.logs import ReportFile, bounded, redacted, secret_name
from middlewared.metrics import Metrics
from middlewared.model import Device, SipUserId
from middlewared.quoting import fingerprint, quoted, word


class PhoneReports:
    """Puts reports into the metrics, the file of reports, the log and the history."""

    log = Logger()

    def __init__(
        self, *, metrics: Metrics, file: ReportFile, recorder: Recorder, wall: WallClock
    ) -> None:
        self._metrics = metrics
        self._file = file
        self._recorder = recorder
        self._wall = wall

    def report(self, sip_user_id: SipUserId, fields: Mapping[str, str]) -> None:
        """A phone sent the figures of a call (/api/log-metrics/)."""
        self._metrics.report(fields)
        kept = bounded(fields)
        self._file.write(sip_user_id, kept)
        key = fields.get("middleware_unique_key", "")
        if self._recorder.recording and key:
            report = KeptReport(self._wall(), LOG_METRICS, _without_secrets(kept))
            self._recorder.keep_report(key, str(sip_user_id), report)
        self.log.debug("report of {sip_user_id}: {fields}", sip_user_id=sip_user_id, fields=kept)

    def hangup(self, device: Device, unique_key: str, reason: str) -> None:
        """A phone sent the reason why a call ended (/api/hangup-reason/)."""
        self.log.info(
            "hangup of {sip_user_id} on {platform}, call {fingerprint}: {reason}",
            sip_user_id=device.sip_user_id,
            app=word(device.app),
            platform=device.platform.value,
            fingerprint=fingerprint(unique_key),  # anyone who has the key could answer the call
            reason=quoted(reason),
        )
        report = KeptReport(self._wall(), HANGUP_REASON, _without_secrets({"reason": reason}))
        self._recorder.keep_report(unique_key, str(device.sip_user_id), report)


def _without_secrets(fields: Mapping[str, str]) -> Mapping[str, str]:
    """A report as the history keeps it: an app may send more than it should."""
    return {
        name: redacted(text)
        for name, text in fields.items()
        if name != "middleware_unique_key" and not secret_name(name)
    }
