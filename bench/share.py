"""
A share of a core for one process and its later threads: by the cpu controller of Linux's
control groups, version 1 or 2 (docs.kernel.org/scheduler/sched-bwc.html and
docs.kernel.org/admin-guide/cgroup-v2.html), or, where neither can be written to, by
stopping and continuing the process in turn.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

V1 = Path("/sys/fs/cgroup/cpu")
V2 = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
PERIOD_US = 10_000
LEAST_QUOTA_US = 1000  # the kernel takes no less
# Sleeps are exact to a fraction of a millisecond; a shorter period would distort the share.
STOP_PERIOD_S = 0.01
STOPPER = """
import os, signal, sys, time
pid, share, period = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
ticks = os.sysconf("SC_CLK_TCK")
def running():
    with open(f"/proc/{pid}/schedstat") as stat:
        return int(stat.read().split()[0]) / 1e9
began, spent = time.monotonic(), running()
while os.getppid() != 1:
    time.sleep(period * share)
    used, due = running() - spent, (time.monotonic() - began) * share
    if used > due:
        os.kill(pid, signal.SIGSTOP)
        time.sleep((used - due) / share)
        os.kill(pid, signal.SIGCONT)
    elif due - used > period:
        began, spent = time.monotonic(), running()
"""


class CoreShare:
    """
    Lets a process use at most ``share`` of one core.

    :ivar means: cgroup v1, cgroup v2 or SIGSTOP.
    """

    def __init__(self, pid: int, share: float) -> None:
        self._pid = pid
        self._group: Path | None = None
        self._stopper: subprocess.Popen[bytes] | None = None
        for means, limit in {"cgroup v1": self._v1, "cgroup v2": self._v2}.items():
            self.means = means
            with contextlib.suppress(OSError):
                limit(share)
                return
            self._remove_group()
        self.means = "SIGSTOP"
        self._stopper = subprocess.Popen(
            [sys.executable, "-c", STOPPER, str(pid), str(share), str(STOP_PERIOD_S)],
            stderr=subprocess.DEVNULL,
        )

    def end(self) -> None:
        """Remove the limit, whose process must have ended."""
        self._remove_group()
        if self._stopper is not None:
            self._stopper.kill()
            self._stopper.wait()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGCONT)

    def lift(self) -> None:
        """Let the process use all of a core again, so that it ends soon."""
        if self._group is None and self._stopper is not None:
            self.end()
            self._stopper = None
        elif self._group is not None and self.means == "cgroup v1":
            self._write("cpu.cfs_quota_us", "-1")
        elif self._group is not None:
            self._write("cpu.max", "max")

    def _v1(self, share: float) -> None:
        quota, period = _bandwidth(share)
        self._make_group(V1)
        self._write("cpu.cfs_period_us", str(period))
        self._write("cpu.cfs_quota_us", str(quota))
        self._write("cgroup.procs", str(self._pid))

    def _v2(self, share: float) -> None:
        quota, period = _bandwidth(share)
        root = next((each for each in V2 if (each / "cgroup.controllers").exists()), V2[0])
        if "cpu" not in (root / "cgroup.subtree_control").read_text().split():
            (root / "cgroup.subtree_control").write_text("+cpu")
        self._make_group(root)
        self._write("cpu.max", f"{quota} {period}")
        self._write("cgroup.procs", str(self._pid))

    def _make_group(self, root: Path) -> None:
        group = root / f"middlewared-bench-{self._pid}"
        group.mkdir()
        self._group = group

    def _remove_group(self) -> None:
        if self._group is not None:
            self._group.rmdir()
            self._group = None

    def _write(self, name: str, value: str) -> None:
        assert self._group is not None
        (self._group / name).write_text(value)


def _bandwidth(share: float) -> tuple[int, int]:
    """Quota and period; the period is longer when the quota would be too small."""
    period = max(PERIOD_US, round(LEAST_QUOTA_US / share))
    return round(period * share), period
