import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facefold.utils import processes
from facefold.utils.processes import core_count, cpu_quotas, process_pool

SRC = Path(__file__).resolve().parents[1] / "src"
STEP = """
import os, sys, time
sys.path.insert(0, {src!r})
from facefold.cli import run_main

class Slow:
    def __del__(self):
        os.kill(os.getpid(), {signal})
        sum(range(1000))

def main():
    Slow()
    time.sleep(30)

run_main(main)
"""


def test_processes_of_a_pool_leave_ctrl_c_to_the_parent():
    with process_pool(1) as one:
        worker = one.submit(os.getpid).result()
        os.kill(worker, signal.SIGINT)
        assert one.submit(os.getpid).result() == worker != os.getpid()


def test_a_pool_that_is_stopped_drops_what_has_not_started():
    with pytest.raises(KeyboardInterrupt), process_pool(1) as one:
        futures = [one.submit(time.sleep, 0.1) for _ in range(1000)]
        raise KeyboardInterrupt
    assert sum(future.cancelled() for future in futures) > 900


@pytest.mark.parametrize("sent, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_a_destructor_is_not_lost(tmp_path, sent, code):
    script = tmp_path / "slow.py"
    script.write_text(STEP.format(src=str(SRC), signal=int(sent)))
    started = subprocess.Popen(
        [sys.executable, script],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (
        started.communicate(timeout=25)[1]
        == "\nslow.py: stopped; nothing is lost, the same command continues where this one ended\n"
    )
    assert started.returncode == code


def groups(folder: Path, own: str, **quotas: str) -> tuple[Path, Path]:
    """Write /proc/self/cgroup and, by path with __ for /, the files of the hierarchy; return both."""
    (folder / "own").write_text(own)
    for name, text in quotas.items():
        path = folder / "cgroup" / name.replace("__", "/").replace("_MAX", ".max").replace("_CFS", ".cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder / "own", folder / "cgroup"


@pytest.mark.parametrize(
    "own, quotas, expected",
    [
        ("0::/\n", {"cpu_MAX": "50000 100000"}, [0.5]),  # in a container, whose group is the top
        ("0::/\n", {"cpu_MAX": "max 100000"}, []),
        ("0::/user/job\n", {"user__job__cpu_MAX": "max 100000", "user__cpu_MAX": "150000 100000"}, [1.5]),
        ("0::/../other\n", {"cpu_MAX": "200000 100000"}, [2.0]),
        (
            "3:cpu,cpuacct:/\n1:name=systemd:/\n",
            {"cpu__cpu_CFS_quota_us": "-1", "cpu__cpu_CFS_period_us": "100000"},
            [],
        ),
        (
            "5:memory:/m\n3:cpuacct,cpu:/docker/abc\n0::/\n",  # the host's path, of which the container sees the end
            {"cpu__cpu_CFS_quota_us": "250000", "cpu__cpu_CFS_period_us": "100000"},
            [2.5],
        ),
        ("5:cpuset:/\n", {"cpu_MAX": "50000 100000"}, []),
        ("0::/\n", {"cpu_MAX": "broken"}, []),
    ],
)
def test_the_quotas_of_a_container_are_read(tmp_path, own, quotas, expected):
    assert list(cpu_quotas(*groups(tmp_path, own, **quotas))) == expected


def test_a_system_without_groups_has_no_quota(tmp_path):
    assert list(cpu_quotas(tmp_path / "none", tmp_path)) == []


@pytest.mark.parametrize("quotas, cores", [([0.5], 1), ([1.5], 2), ([3.0, 2.0], 2), ([100.0], 4), ([], 4)])
def test_the_smallest_quota_counts_rounded_up(monkeypatch, quotas, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(processes, "cpu_quotas", lambda: quotas)
    assert core_count() == cores


CLOSED = """
import os, subprocess, sys
sys.path.insert(0, {src!r})
from facefold.utils.processes import open_standard_streams
before = [getattr(sys, name) is None for name in ("stdin", "stdout", "stderr")]
open_standard_streams()
print("lost", file=sys.stderr, flush=True)
lost = "import sys; print('lost', file=sys.stderr); print(sys.stdout, sys.stderr)"
child = subprocess.run([sys.executable, "-c", lost])
number = os.open({out!r}, os.O_CREAT | os.O_WRONLY)
os.write(number, f"{{before}} {{number > 2}} {{child.returncode}} {{sys.stdin.read()!r}}".encode())
"""


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed_are_opened_on_nothing(tmp_path, closed):
    code = CLOSED.format(src=str(SRC), out=str(tmp_path / "out"))
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, code], capture_output=True, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stderr) == (0, b"")
    before = "[False, False, True]" if closed == "2>&-" else "[True, True, True]"
    assert (tmp_path / "out").read_text() == f"{before} True 0 ''"


def test_a_process_that_does_not_answer_ctrl_c_does_not_after_it_started_others():
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with processes.without_interrupt():
            pass
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
