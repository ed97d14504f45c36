import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facefold.utils.processes import process_pool

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
