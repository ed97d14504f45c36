"""What processes share: the number of cores, and that no process outlives the one that started it."""

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

# Of a process that trains on the CPU, read when it starts. By torch: one thread, and big pages for its allocations,
# 1.09 times the speed. By glibc: keep the memory that each step frees for the next one instead of faulting it in again,
# 1.09 to 1.10 times. The last three have an effect on Linux only.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
}


def set_environment() -> None:
    """Put `ENVIRONMENT` where processes started from now on find it; what the user has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def core_count() -> int:
    """Return the number of cores this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def without_interrupt() -> Iterator[None]:
    """Keep Ctrl-C from processes started meanwhile: the parent answers it and ends them."""
    # Started with multiprocessing's first process, as it would be, the tracker unblocks Ctrl-C for that process.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes that leave Ctrl-C to this one and end with it.

    What they have not begun when the block ends is dropped.
    """
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent)
    try:
        with without_interrupt():
            for _ in range(workers):
                pool.submit(int)  # a pool starts its processes with its first work
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """End this multiprocessing child at once when its parent is gone, even killed.

    An orphan would go on writing where the next job starts.
    """

    def watch() -> None:
        wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_starter() -> None:
    """Stop this step as if by SIGTERM when the job that started it ends; do nothing in a step that a user started."""
    starter = os.environ.get(STARTER)
    if starter is None:
        return

    def watch() -> None:
        while os.getppid() == int(starter):
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
