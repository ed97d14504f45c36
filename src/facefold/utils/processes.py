"""What processes share: the number of cores, and that no process outlives the one that started it."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from pathlib import Path, PurePosixPath

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

# What a process that trains imports from elsewhere, 8 CPU seconds.
LIBRARIES = ["torch", "timm", "albumentations", "cv2", "pandas", "safetensors.torch", "sklearn.model_selection"]


def set_environment(variables: Mapping[str, str] = ENVIRONMENT) -> None:
    """Put variables where imports and processes started from now on find them; what the user has set stays."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


@contextmanager
def kept_environment(prefixes: tuple[str, ...]) -> Iterator[None]:
    """Put `ENVIRONMENT`, and the variables whose names begin with one of `prefixes`, back after the block.

    What a notebook starts later is not for training.
    """

    def kept() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name in ENVIRONMENT or name.startswith(prefixes)}

    before = kept()
    try:
        yield
    finally:
        for name in kept():
            del os.environ[name]
        os.environ.update(before)


def core_count() -> int:
    """Return the number of cores this process may use, at least 1: by its affinity, and by a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, cpu_quotas())]))


def cpu_quotas(
    own_groups: Path = Path("/proc/self/cgroup"), hierarchy: Path = Path("/sys/fs/cgroup")
) -> Iterator[float]:
    """Yield the cores that each control group of this process and each of its parents grants (Linux, cgroup v1 and v2).

    A container may see its own group as the top of the hierarchy, so groups that are not there are passed over.
    """
    lines = own_groups.read_text().splitlines() if own_groups.exists() else []
    for controllers, path in (line.split(":", 2)[1:] for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = hierarchy / "cpu" if controllers else hierarchy  # a line without controllers is of version 2
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            folder = top / group.relative_to("/")
            with suppress(OSError, ValueError):  # no such group, or "max": no quota
                quota, period = (
                    [(folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
                    if controllers
                    else (folder / "cpu.max").read_text().split()
                )
                if int(quota) > 0:
                    yield int(quota) / int(period)


def open_standard_streams() -> None:
    """Open those of standard input, output and error that the shell has closed (`2>&-`) on /dev/null.

    Otherwise the next file that is opened gets the number, and what a worker's process writes to it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(null, True)
            if getattr(sys, name) is None:
                setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


@contextmanager
def without_interrupt() -> Iterator[None]:
    """Keep Ctrl-C from processes started meanwhile: the parent answers it and ends them."""
    # Started with multiprocessing's first process, as it would be, the tracker unblocks Ctrl-C for that process.
    resource_tracker.ensure_running()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)  # a worker that starts processes leaves it blocked


def start_server() -> BaseContext:
    """Start the process that imports `LIBRARIES`, once; return the context whose processes are forked from it.

    They start at once and share the libraries' memory. The server does nothing but import, so that no thread and no
    CUDA context is forked. Its environment and its output are those of when it was first started.
    """
    set_environment()
    if sys.platform == "darwin":  # Apple's frameworks do not bear a fork
        return get_context("spawn")
    forkserver.set_forkserver_preload(LIBRARIES)
    try:
        with without_interrupt():
            forkserver.ensure_running()
    except OSError:  # its socket lies in the temporary folder, whose path may be too long or refuse one
        return get_context("spawn")
    return get_context("forkserver")


def stop_server() -> None:
    """Stop the server, if there is one; what its processes have cost is that of children of this one from then on."""
    forkserver._forkserver._stop()  # there is no public way to wait for it


@contextmanager
def process_pool(workers: int, context: BaseContext | None = None) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes that leave Ctrl-C to this one and end with it.

    What they have not begun when the block ends is dropped. context: how they are started, new interpreters if None.
    """
    pool = ProcessPoolExecutor(workers, mp_context=context or get_context("spawn"), initializer=end_with_parent)
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
