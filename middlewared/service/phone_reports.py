"""What becomes of the reports that phones send about calls."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.logger import Logger

from middlewared.logs import ReportFile, bounded
from middlewared.metrics import Metrics
from middlewared.model import Device, SipUserId
from middlewared.quoting import fingerprint, quoted


class PhoneReports:
    """Puts reports into the metrics, the file of reports and the log."""

    log = Logger()

    def __init__(self, *, metrics: Metrics, file: ReportFile) -> None:
        self._metrics = metrics
        self._file = file

    def report(self, sip_user_id: SipUserId, fields: Mapping[str, str]) -> None:
        """A phone sent the figures of a call (/api/log-metrics/)."""
        self._metrics.report(fields)
        kept = bounded(fields)
        self._file.write(sip_user_id, kept)
        self.log.debug("report of {sip_user_id}: {fields}", sip_user_id=sip_user_id, fields=kept)

    def hangup(self, device: Device, unique_key: str, reason: str) -> None:
        """A phone sent the reason why a call ended (/api/hangup-reason/)."""
        self.log.info(
            "hangup of {sip_user_id} on {platform}, call {fingerprint}: {reason}",
            sip_user_id=device.sip_user_id,
            platform=device.platform.value,
            fingerprint=fingerprint(unique_key),  # anyone who has the key could answer the call
            reason=quoted(reason),
        )
