"""What a step prints while it works: nothing if quiet, plain lines without a terminal, bars that take turns on one."""

import errno
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from facefold.utils import console
from facefold.utils.console import QUIET_VARIABLE, TerminalLock, is_quiet, no_bar, print_progress, quiet, silence
from facefold.utils.errors import InputError

SRC = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    monkeypatch.setenv(QUIET_VARIABLE, "0")


def test_lines_are_printed_unless_quiet(capsys):
    print_progress("epoch 1")
    assert no_bar() is None
    with quiet():
        print_progress("epoch 2")
        assert no_bar() is True
    with quiet(False):
        print_progress("epoch 3")
    assert capsys.readouterr().out == "epoch 1\nepoch 3\n"


def test_silence_keeps_the_previous_output_and_nothing_else(capsys):
    with silence() as out:
        print("the plan")
        print("upload it", file=out)
        assert is_quiet()
    assert capsys.readouterr().out == "upload it\n"


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_a_notebook_is_as_loud_after_a_quiet_step_as_before(capsys, monkeypatch, before):
    monkeypatch.delenv(QUIET_VARIABLE)
    if before is not None:
        monkeypatch.setenv(QUIET_VARIABLE, before)
    stdout = sys.stdout
    with pytest.raises(InputError), silence():
        raise InputError("the step fails")
    assert sys.stdout is stdout and os.environ.get(QUIET_VARIABLE) == before
    with silence(False):
        print("not quiet")
    assert capsys.readouterr().out == "not quiet\n"


def test_without_a_standard_error_the_turns_are_a_lock_of_this_process(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with TerminalLock() as turns:
        assert turns._terminal is None


def test_bars_are_drawn_where_the_terminal_has_no_locks(monkeypatch):
    ours, theirs = os.openpty()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(os, "ttyname", lambda _, name=os.ttyname(theirs): name)
    monkeypatch.setattr(console.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    with TerminalLock() as turns:
        assert turns._terminal is not None
    os.close(turns._terminal), os.close(theirs), os.close(ours)


DRAWING = """
import sys, time
sys.path.insert(0, sys.argv[1])
from facefold.utils.console import TerminalLock
turns = TerminalLock()
for _ in range(20):
    with turns:
        with turns:  # tqdm takes it again inside
            for part in "<abc>":
                sys.stderr.write(part); sys.stderr.flush(); time.sleep(0.0005)
"""


def test_processes_that_share_a_terminal_draw_one_at_a_time():
    ours, theirs = os.openpty()
    drawing = [
        subprocess.Popen([sys.executable, "-c", DRAWING, str(SRC)], stderr=theirs, stdout=theirs) for _ in range(3)
    ]
    os.close(theirs)
    output = []

    def read() -> None:
        with suppress(OSError):  # by which Linux reports that the last writer has closed
            while part := os.read(ours, 1 << 16):
                output.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    assert [process.wait(60) for process in drawing] == [0, 0, 0]
    reader.join(60)
    os.close(ours)
    assert b"".join(output) == b"<abc>" * 60


def test_a_terminal_whose_file_cannot_be_opened_is_none(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(os, "ttyname", lambda _: "/dev/pts/not_there")
    with TerminalLock() as turns:
        assert turns._terminal is None


def test_without_a_terminal_the_turns_are_a_lock_of_this_process(capsys):
    turns, order = TerminalLock(), []
    with turns:
        other = threading.Thread(target=lambda: [turns.acquire(), order.append("other"), turns.release()])
        other.start()
        other.join(0.05)
        order.append("first")
    other.join()
    assert order == ["first", "other"]


def test_a_reader_that_left_ends_no_work(capfd):
    """`train.py | head`: further lines are lost, and nothing fails."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from facefold.utils.console import print_progress\n"
        "for number in range(3): print_progress('line')\n"
        "print('done', file=sys.stderr)"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code, str(SRC)], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "done\n")
