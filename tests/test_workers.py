"""Workers: one long-lived process per device, replaced when it dies."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from facefold.training import workers
from facefold.training.workers import run_guarded, run_jobs, select_devices
from facefold.utils.errors import InputError
from facefold.utils.processes import core_count

CPU = "cpu"
SRC = Path(__file__).resolve().parents[1] / "src"


@dataclass(frozen=True)
class WriteWhere:
    path: Path

    def run(self, device, position):
        masked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        time.sleep(0.2)
        self.path.write_text(f"{device} {position} {torch.get_num_threads()} {masked} {os.getpid()}")


@dataclass(frozen=True)
class Fail:
    kind: str

    def run(self, _device, _position):
        if self.kind == "bad input":
            raise InputError("row 3 is wrong")
        raise ZeroDivisionError


@dataclass(frozen=True)
class Touch:
    """Write `name`; the files `needed` must be there."""

    folder: Path
    name: str
    needed: tuple = ()
    seconds: float = 0.0

    def run(self, _device, _position):
        assert all((self.folder / other).exists() for other in self.needed)
        time.sleep(self.seconds)
        (self.folder / self.name).write_text("done")


@dataclass(frozen=True)
class Die:
    """Add a + to the file, and die by SIGKILL the first `deaths` times."""

    folder: Path
    name: str
    deaths: int

    def __str__(self):
        return self.name

    def run(self, _device, _position):
        path = self.folder / self.name
        path.write_text((path.read_text() if path.exists() else "") + "+")
        if len(path.read_text()) <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)


def test_each_job_has_one_thread_and_a_process_takes_one_job_after_another(tmp_path):
    run_jobs([WriteWhere(tmp_path / str(number)) for number in range(6)], [CPU, CPU])
    lines = [(tmp_path / str(number)).read_text().split() for number in range(6)]
    assert all(line[0] == "cpu" and line[1] in "01" and line[2] == "1" for line in lines)
    assert len({line[4] for line in lines}) == len({line[1] for line in lines}) <= 2 < len(lines)


def test_no_process_sees_ctrl_c_not_even_the_first(tmp_path):
    jobs = ", ".join(f"t.WriteWhere(t.Path({str(tmp_path / name)!r}))" for name in "ab")
    # Without the libraries, which these jobs do not need, the server is there at once.
    code = f"import sys; sys.path[:0] = {sys.path!r}; import test_workers as t\n"
    code += f"from facefold.utils.processes import LIBRARIES; LIBRARIES.clear(); t.run_jobs([{jobs}], [t.CPU] * 2)"
    # In a new interpreter, where nothing was started before.
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, timeout=300)
    assert [(tmp_path / name).read_text().split()[3] for name in "ab"] == ["True", "True"]


def test_a_job_that_may_not_start_is_left_out_and_does_not_hold_up_those_that_wait_for_it(tmp_path):
    first, dropped, waits, last = (Touch(tmp_path, name) for name in ("first", "dropped", "waits", "last"))
    calls = []

    def may_start(job, running):
        calls.append((job.name, [other.name for other in running]))
        return job is not dropped

    run_jobs([first, dropped, waits, last], [CPU], {waits: [dropped]}, may_start)
    assert calls == [("first", []), ("dropped", []), ("waits", []), ("last", [])]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "last", "waits"]


def test_no_job_may_start(tmp_path):
    run_jobs([Touch(tmp_path, "job")], [CPU], may_start=lambda job, running: False)
    assert not list(tmp_path.iterdir())


def test_a_job_waits_for_those_it_needs_and_later_ones_pass(tmp_path):
    slow, quick, free = Touch(tmp_path, "slow", (), 1.0), Touch(tmp_path, "quick"), Touch(tmp_path, "free")
    last = Touch(tmp_path, "last", ("slow", "quick"))
    run_jobs([slow, quick, last, free], [CPU, CPU], {last: [slow, quick]})
    assert (tmp_path / "last").exists()
    assert (tmp_path / "free").stat().st_mtime < (tmp_path / "last").stat().st_mtime


def test_jobs_that_wait_for_one_another_are_a_fault(tmp_path):
    a, b = Die(tmp_path, "a", 0), Die(tmp_path, "b", 0)
    with pytest.raises(ValueError, match="jobs that wait for one another: a, b"):
        run_jobs([a, b], [CPU], {a: [b], b: [a]})


def test_nothing_to_do_is_done():
    run_jobs([], [CPU])


def test_bad_input_reaches_the_user_and_starts_nothing_more(tmp_path):
    with pytest.raises(InputError, match="^row 3 is wrong$"):
        run_jobs([Fail("bad input"), Touch(tmp_path, "next")], [CPU])
    assert not (tmp_path / "next").exists()


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="(?s)bug.*failed:.*ZeroDivisionError"):
        run_jobs([Fail("bug")], [CPU])


def test_a_killed_process_is_replaced_and_its_job_started_once_more(tmp_path, capsys):
    run_jobs([Die(tmp_path, "once", 1), Touch(tmp_path, "after")], [CPU])
    assert (tmp_path / "once").read_text() == "++" and (tmp_path / "after").exists()
    assert capsys.readouterr().out == "the process of once died with exit code -9; it is started once more\n"


def test_one_that_dies_twice_is_reported_and_the_others_finish(tmp_path):
    message = "the process of twice died with exit code -9 (killed, often for want of memory; then use --workers 1"
    with pytest.raises(InputError, match=re.escape(message)):
        run_jobs([Die(tmp_path, "twice", 2), Die(tmp_path, "well", 0)], [CPU])
    assert (tmp_path / "twice").read_text() == "++" and (tmp_path / "well").read_text() == "+"


@dataclass(frozen=True)
class Refused:
    code: int
    path: str | None

    def run(self, _device, _position):
        raise OSError(self.code, "refused", self.path)

    def __str__(self):
        return "the fold"


def test_a_file_that_the_disk_refuses_is_the_users_to_fix():
    failure = run_guarded(Refused(errno.ENOENT, "a.npy"), CPU, 0)
    assert isinstance(failure, InputError) and str(failure) == (
        "the fold: refused: a.npy; check it, then run the same command again: nothing is lost"
    )
    assert isinstance(run_guarded(Refused(errno.ECONNREFUSED, None), CPU, 0), RuntimeError)


@dataclass(frozen=True)
class Exit:
    def run(self, _device, _position):
        os._exit(3)

    def __str__(self):
        return "the fold"


def test_only_a_killed_process_is_said_to_want_memory():
    with pytest.raises(InputError) as caught:
        run_jobs([Exit()], [CPU])
    assert str(caught.value) == (
        "the process of the fold died with exit code 3; the same command continues where it stopped"
    )


def test_devices():
    assert select_devices("cpu", 3) == [CPU] * 3
    assert len(select_devices("cpu", None)) == core_count()
    with pytest.raises(InputError, match="device 'tpu' is none of auto, cpu, cuda"):
        select_devices("tpu", None)


def test_each_gpu_is_a_device_unless_the_cpu_is_asked_for(monkeypatch):
    monkeypatch.setattr(workers, "count_gpus", lambda: 2)
    assert select_devices("auto", None) == select_devices("cuda", 5) == ["cuda:0", "cuda:1"]
    assert select_devices("auto", 1) == ["cuda:0"] and select_devices("cpu", 1) == [CPU]


def test_gpus_are_counted_by_torch_where_a_driver_is(monkeypatch):
    monkeypatch.setattr(workers, "DRIVERS", ("null",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert workers.count_gpus() == 3
    monkeypatch.setattr(workers, "DRIVERS", ("nothing_of_this_name*",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: pytest.fail("torch was asked"))
    assert workers.count_gpus() == (0 if sys.platform == "linux" else 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(InputError, match="--device cuda: torch sees no GPU here; use --device cpu"):
        select_devices("cuda", None)


def test_workers_die_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\nfrom dataclasses import dataclass\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(SRC)!r})\n"
        "@dataclass(frozen=True)\nclass Sleep:\n    path: Path\n    def run(self, device, position):\n"
        "        self.path.write_text(str(os.getpid()))\n        time.sleep(60)\n"
        "if __name__ == '__main__':\n    from facefold.training.workers import run_jobs\n"
        "    from facefold.utils import processes\n    processes.LIBRARIES.clear()\n"
        f"    run_jobs([Sleep(Path({str(tmp_path / 'pid')!r}))], ['cpu'])\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 300
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    worker = int((tmp_path / "pid").read_text())
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("the worker outlived its parent")
