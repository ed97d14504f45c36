"""Measure a command with all processes it starts: CPU seconds and memory, read from /proc (Linux only).

Each command is started as its own session, so that its processes are found even when the one between has ended.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Peaks:
    """Largest sums over the processes alive at one sample, MiB.

    resident: pages in memory, with those of mapped files, shared ones counted in each process; high_water: each
    process's own peak of it (VmHWM); anonymous: without files.
    """

    resident: float = 0.0
    high_water: float = 0.0
    anonymous: float = 0.0

    def sample(self, session: int) -> None:
        sums = {"VmRSS": 0, "VmHWM": 0, "RssAnon": 0}
        for pid in members(session):
            for name, _, value in (line.partition(":") for line in _text(pid, "status").splitlines()):
                if name in sums:
                    sums[name] += int(value.split()[0])
        self.resident = max(self.resident, sums["VmRSS"] / 1024)
        self.high_water = max(self.high_water, sums["VmHWM"] / 1024)
        self.anonymous = max(self.anonymous, sums["RssAnon"] / 1024)


def start(command: list, **options) -> subprocess.Popen:
    """Start `command` as the leader of a session; the session's number is its pid."""
    return subprocess.Popen([str(part) for part in command], start_new_session=True, **options)


def members(session: int) -> list[int]:
    """Return the processes of the session that are alive now (a zombie is not)."""
    stats = {int(path.name): _stat(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdecimal()}
    return [pid for pid, stat in stats.items() if stat[3:4] == [str(session)] and stat[0] not in "ZX"]


def cpu_seconds(session: int) -> float:
    """Return user and system seconds of the session's processes and of those that they have waited for."""
    return sum(int(ticks) for pid in members(session) for ticks in _stat(pid)[11:15]) / TICK


def waited(process: subprocess.Popen) -> float:
    """Wait for the session's leader to end and return the CPU seconds of it and of all that it waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def send_signal(session: int, signum: int) -> None:
    """Send a signal to all processes of the session's group, if there is one left."""
    with suppress(ProcessLookupError):
        os.killpg(session, signum)


def end(process: subprocess.Popen) -> None:
    """Kill what is left of the session, stopped or not, and wait until none of it is there."""
    while members(process.pid):
        send_signal(process.pid, signal.SIGKILL)
        time.sleep(0.01)
    if process.returncode is None:
        waited(process)


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat after the name (state, parent, group, session, ..), if it runs."""
    return _text(pid, "stat").rpartition(")")[2].split()


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
