"""
What is written for people and programs to read: the log, and the apps' reports.

The one invariant: writing never fails a call and never holds one up, and no line holds
a secret.
"""

from middlewared.logs.app_reports import ReportFile, bounded
from middlewared.logs.line_file import LineFile
from middlewared.logs.output import LogOutput
from middlewared.logs.redaction import redacted
from middlewared.logs.repeats import Repeats
from middlewared.quoting import fingerprint

__all__ = ["LineFile", "LogOutput", "Repeats", "ReportFile", "bounded", "fingerprint", "redacted"]
