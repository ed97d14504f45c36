"""What processes share: how many cores there are for them, and that none outlives the one that started it."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import wait

STARTER = "FACEFOLD_STARTER"  # the process id of the job that started this step

# Of a process that trains on the CPU, read when it starts. By torch: one thread, and big pages for its allocations, 1.09 times
# the speed. By glibc: keep the memory that each step frees for the next one instead of faulting it in anew, 1.09 to 1.10
# times. The last three have no effect but on Linux.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
}


def set_environment() -> None:
    """Put `ENVIRONMENT` where processes started from now on find it; what a person has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def core_count() -> int:
    """The cores this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def without_interrupt() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C: it is the parent's to answer, who then ends them."""
    resource_tracker.ensure_running()  # started with multiprocessing's first process, as it would be, it unblocks Ctrl-C for that one
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that leave Ctrl-C to this one and end with it; what they have not begun when the block ends is dropped."""
    made = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent)
    try:
        with without_interrupt():
            for _ in range(workers):
                made.submit(int)  # a pool starts its processes when it is given work
        yield made
    finally:
        made.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """In a multiprocessing child: end at once when the parent is gone, even killed. An orphan would go on writing where the
    next job starts."""

    def watch() -> None:
        wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_starter() -> None:
    """In a step: stop as if by SIGTERM when the job that started it is gone. Does nothing in a step that a person started."""
    starter = os.environ.get(STARTER)
    if starter is None:
        return

    def watch() -> None:
        while os.getppid() == int(starter):
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
