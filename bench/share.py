"""
A share of a core for one process, by the cpu controller of Linux's control groups
(version 1; docs.kernel.org/scheduler/sched-bwc.html).
"""

from __future__ import annotations

from pathlib import Path

CONTROLLER = Path("/sys/fs/cgroup/cpu")
PERIOD_US = 10_000


class CoreShare:
    """Lets a process and its later threads use at most ``share`` of one core."""

    def __init__(self, pid: int, share: float) -> None:
        self._group = CONTROLLER / f"middlewared-bench-{pid}"
        try:
            self._group.mkdir()
        except OSError as error:
            raise SystemExit(f"no share of a core can be set: {error}") from error
        self._write("cpu.cfs_period_us", PERIOD_US)
        self._write("cpu.cfs_quota_us", round(PERIOD_US * share))
        self._write("cgroup.procs", pid)

    def end(self) -> None:
        """Remove the group, whose process must have ended."""
        self._group.rmdir()

    def _write(self, name: str, value: int) -> None:
        (self._group / name).write_text(str(value))
