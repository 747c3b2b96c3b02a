"""
The log, and the file of the apps' reports.

Writing never fails or delays a call, and no line contains a secret.
"""

from middlewared.logs.app_reports import ReportFile, bounded
from middlewared.logs.line_file import LineFile
from middlewared.logs.output import LogOutput
from middlewared.logs.redaction import redacted, secret_name
from middlewared.logs.repeats import Repeats

__all__ = ["LineFile", "LogOutput", "Repeats", "ReportFile", "bounded", "redacted", "secret_name"]
