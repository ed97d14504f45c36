import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from facefold.training import workers
from facefold.utils.errors import InputError
from facefold.utils.processes import core_count

CPU = torch.device("cpu")


def write_where(job, device, slot):
    folder, name = job
    (Path(folder) / name).write_text(f"{device} {slot} {torch.get_num_threads()}")


def fail(job, _device, _slot):
    if job == "bad input":
        raise InputError("row 3 is wrong")
    if job == "bug":
        raise ZeroDivisionError
    Path(job).write_text("ran")


def test_every_job_runs_in_one_thread_and_no_more_at_a_time_than_slots(tmp_path):
    workers.run_jobs([(tmp_path, str(number)) for number in range(3)], [CPU, CPU], write_where)
    said = [(tmp_path / str(number)).read_text() for number in range(3)]
    assert all(re.fullmatch("cpu [01] 1", text) for text in said)


def write_mask(job, _device, _slot):
    Path(job).write_text(str(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])))


def test_no_process_sees_ctrl_c_not_even_the_first(tmp_path):
    jobs = [str(tmp_path / name) for name in "ab"]
    began = (
        f"import sys; sys.path[:0] = {sys.path!r}; import test_engine as t; t.engine.run({jobs}, [t.CPU], t.write_mask)"
    )
    subprocess.run(
        [sys.executable, "-c", began], cwd=Path(__file__).parent, check=True, timeout=300
    )  # where nothing was started before
    assert [Path(job).read_text() for job in jobs] == ["True", "True"]


def wait_for(job, _device, _slot):
    folder, name, needed = job
    assert all((Path(folder) / other).exists() for other in needed)
    if name == "slow":
        time.sleep(1)
    (Path(folder) / name).write_text("done")


def test_a_job_that_may_not_begin_is_left_out_and_does_not_hold_up_those_that_wait_for_it(tmp_path):
    first, dropped, waits, last = ((str(tmp_path), name, ()) for name in ("first", "dropped", "waits", "last"))
    asked = []

    def may_begin(job, running):
        asked.append((job[1], [other[1] for other in running]))
        return job is not dropped

    workers.run_jobs([first, dropped, waits, last], [CPU], wait_for, {waits: [dropped]}, may_begin)
    assert asked == [("first", []), ("dropped", []), ("waits", []), ("last", [])]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "last", "waits"]


def test_no_job_may_begin(tmp_path):
    workers.run_jobs([(str(tmp_path), "job", ())], [CPU], wait_for, may_begin=lambda job, running: False)
    assert not list(tmp_path.iterdir())


def test_a_job_waits_for_those_it_needs_and_later_ones_pass(tmp_path):
    slow, quick, last, free = (
        (str(tmp_path), name, needed)
        for name, needed in [("slow", ()), ("quick", ()), ("last", ("slow", "quick")), ("free", ())]
    )
    workers.run_jobs([slow, quick, last, free], [CPU, CPU], wait_for, {last: [slow, quick]})
    assert (tmp_path / "last").exists()
    assert (tmp_path / "free").stat().st_mtime < (tmp_path / "last").stat().st_mtime


def test_jobs_that_wait_for_one_another_are_a_fault():
    with pytest.raises(ValueError, match="jobs that wait for one another: a, b"):
        workers.run_jobs(["a", "b"], [CPU], fail, {"a": ["b"], "b": ["a"]})


def test_nothing_to_do_is_done():
    workers.run_jobs([], [CPU], fail)


def test_bad_input_reaches_the_person_and_starts_nothing_more(tmp_path):
    with pytest.raises(InputError, match="^row 3 is wrong$"):
        workers.run_jobs(["bad input", str(tmp_path / "next")], [CPU], fail)
    assert not (tmp_path / "next").exists()


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="(?s)bug failed:.*ZeroDivisionError"):
        workers.run_jobs(["bug"], [CPU], fail)


def die(job, _device, _slot):
    folder, name, deaths = job
    path = Path(folder) / name
    path.write_text(path.read_text() + "+" if path.exists() else "+")
    if len(path.read_text()) <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_started_once_more(tmp_path, capsys):
    workers.run_jobs([(tmp_path, "once", 1)], [CPU], die)
    assert (tmp_path / "once").read_text() == "++"
    assert capsys.readouterr().out.endswith(" died with exit code -9; it is started once more\n")


def test_one_that_dies_twice_is_reported_and_the_others_finish(tmp_path):
    with pytest.raises(
        InputError, match=re.escape("'twice', 2) died with exit code -9 (-9: killed, often for want of memory")
    ):
        workers.run_jobs([(str(tmp_path), name, deaths) for name, deaths in (("twice", 2), ("well", 0))], [CPU], die)
    assert (tmp_path / "twice").read_text() == "++" and (tmp_path / "well").read_text() == "+"


def test_slots():
    assert workers.device_slots("cpu", 3) == [CPU] * 3
    assert len(workers.device_slots("cpu", None)) == core_count()
    with pytest.raises(InputError, match="device 'tpu' is none of auto, cpu, cuda"):
        workers.device_slots("tpu", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(InputError, match="--device cuda: torch sees no GPU here; use --device cpu"):
        workers.device_slots("cuda", None)


def test_workers_die_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(workers.__file__).parents[2])!r})\n"
        "def work(job, device, slot):\n    Path(job).write_text(str(os.getpid()))\n    time.sleep(60)\n"
        "if __name__ == '__main__':\n    import torch\n    from facefold.training import engine\n"
        f"    engine.run([{str(tmp_path / 'pid')!r}], [torch.device('cpu')], work)\n"
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
