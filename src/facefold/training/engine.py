"""Which process trains what: a process a job, as many at a time as there are slots (a CPU core or a GPU each)."""

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

import torch

from facefold.errors import InputError

# Big pages for torch's allocations: 1.09 times the speed on Linux, no effect elsewhere. Read by torch when a process starts.
_ENVIRONMENT = {"THP_MEM_ALLOC_ENABLE": "1", "OMP_NUM_THREADS": "1"}


def slots(device: str, workers: int | None) -> list[torch.device]:
    """Where jobs run side by side: each visible GPU, or `workers` one-thread CPU processes (default: one a core).

    device: auto (CUDA where it is there), cpu or cuda; `InputError` when a device is asked for that is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device '{device}' is none of auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; use --device cpu, or check the driver with nvidia-smi")
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())][:workers]
    return [torch.device("cpu")] * (workers or cores())


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(jobs: Sequence[Any], places: list[torch.device], work: Callable[[Any, torch.device, int], None]) -> None:
    """Run `work(job, device, slot)` for each job, each in a process of its own, in the order given.

    After the first failure no job is started; those running finish, and the failures are raised together: `InputError` where all of
    them are the person's to mend. A CPU process has one thread: two processes are faster than two threads, and the
    result does not depend on how many run.
    """
    context = multiprocessing.get_context("spawn")
    waiting, free, running, failures = list(jobs), list(range(len(places))), {}, []
    os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
    try:
        while running or (waiting and not failures):
            while waiting and free and not failures:
                slot, job = free.pop(0), waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_worker, args=(theirs, work, job, places[slot], slot), daemon=places[slot].type == "cpu")
                process.start()
                theirs.close()
                running[ours] = (process, slot, job)
            for pipe in wait(list(running)):
                process, slot, job = running.pop(pipe)
                failures += _outcome(pipe, process, job)
                free.append(slot)
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join()
    if failures:
        if all(isinstance(failure, InputError) for failure in failures):
            raise InputError("\n".join(dict.fromkeys(str(failure) for failure in failures)))
        raise RuntimeError("\n".join(str(failure) for failure in failures))


def _outcome(pipe: Any, process: Any, job: Any) -> list[Exception]:
    """What a process that ended had to say; one that died without a word is a failure too."""
    try:
        failure = pipe.recv()
    except EOFError:
        process.join()
        failure = RuntimeError(f"the process of {job} died with exit code {process.exitcode} "
                               "(-9: killed, often for want of memory); the same command goes on from its last epoch")
    process.join()
    return [failure] if failure is not None else []


def _worker(pipe: Any, work: Callable[[Any, torch.device, int], None], job: Any, device: torch.device, slot: int) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        torch.cuda.set_device(device)
    try:
        work(job, device, slot)
        pipe.send(None)
    except InputError as error:
        pipe.send(error)
    except (KeyboardInterrupt, SystemExit):
        os._exit(130)  # the parent got the same signal and speaks for all
    except Exception:
        pipe.send(RuntimeError(f"{job} failed:\n{traceback.format_exc()}"))


def _die_with_parent() -> None:
    """End this process when the parent is killed: an orphan would go on writing where a second job starts."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
