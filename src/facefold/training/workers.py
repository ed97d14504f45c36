"""Which process trains what: a process a job, as many at a time as there are slots (a CPU core or a GPU each)."""

import multiprocessing
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any

import torch
from tqdm import tqdm

from facefold.cli import disk_error_advice
from facefold.utils.console import TerminalLock
from facefold.utils.errors import InputError
from facefold.utils.processes import core_count, end_with_parent, set_environment, without_interrupt


def device_slots(device: str, workers: int | None) -> list[torch.device]:
    """Where jobs run side by side: each visible GPU, or `workers` one-thread CPU processes (default: one a core).

    device: auto (CUDA where it is there), cpu or cuda; `InputError` when a device is asked for that is not there.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: at least one")
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device '{device}' is none of auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; use --device cpu, or check the driver with nvidia-smi")
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())][:workers]
    return [torch.device("cpu")] * (workers or core_count())


class LocalWorkers:
    """This machine as the engine. places: a device for each job at a time, see `slots`. loader_workers: processes that augment, for
    each job on a GPU."""

    def __init__(self, device: str, workers: int | None):
        self.places = device_slots(device, workers)
        self.loader_workers = min(8, core_count() // len(self.places)) if self.places[0].type == "cuda" else 0

    def run(
        self,
        jobs: Sequence[Any],
        work: Callable[[Any, torch.device, int], None],
        after: Mapping[Any, Collection[Any]],
        may_begin: Callable[[Any, Collection[Any]], bool] | None = None,
    ) -> None:
        """See `run_jobs`."""
        run_jobs(jobs, self.places, work, after, may_begin)


def run_jobs(
    jobs: Sequence[Any],
    places: list[torch.device],
    work: Callable[[Any, torch.device, int], None],
    after: Mapping[Any, Collection[Any]] | None = None,
    may_begin: Callable[[Any, Collection[Any]], bool] | None = None,
) -> None:
    """Run `work(job, device, slot)` for each job, each in a process of its own, in the order given; a job waits for those that
    `after` names for it, which come before it, and lets later ones pass meanwhile.

    may_begin(job, running): asked of each job when its turn has come, with those then under way; one that may not is left out.

    A job whose process dies without a word (killed, for want of memory often) is put at the end and started once more; when it dies
    again, the others still finish. After any other failure no job is started; those running finish. The failures are raised together:
    `InputError` where all of them are the person's to mend. A CPU process has one thread: two processes are faster than two
    threads, and the result does not depend on how many run.
    """
    context = multiprocessing.get_context("spawn")
    waiting, free, running, failures = list(jobs), list(range(len(places))), {}, []
    died: list[Any] = []
    stopping = False
    set_environment()
    after = after or {}
    try:
        while running or (waiting and not stopping):
            while free and not stopping and (job := _next(waiting, running, after)) is not None:
                waiting.remove(job)
                under_way = [
                    *(other for _, _, other in running.values()),
                    *(other for other in died if other in waiting),
                ]
                if may_begin and not may_begin(job, under_way):
                    continue
                slot = free.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_worker,
                    args=(theirs, work, job, places[slot], slot),
                    daemon=places[slot].type == "cpu",  # a daemon may start no processes
                )
                running[ours] = (process, slot, job)
                with without_interrupt():
                    process.start()
                theirs.close()
            if waiting and not running and not stopping:
                raise ValueError(f"jobs that wait for one another: {', '.join(map(str, waiting))}")
            for pipe in wait(list(running)) if running else ():  # an empty list would be waited for without end
                process, slot, job = running.pop(pipe)
                free.append(slot)
                try:
                    failure = _outcome(pipe, process)
                except EOFError:
                    if job not in died and not stopping:
                        print(
                            f"the process of {job} died with exit code {process.exitcode}; it is started once more",
                            flush=True,
                        )
                        died.append(job)
                        waiting.append(job)
                        continue
                    failure = InputError(
                        f"the process of {job} died with exit code {process.exitcode} (-9: killed, often for want of memory; then take "
                        "--workers 1 or a recipe with a smaller batch); the same command goes on where it stood"
                    )
                else:
                    stopping = stopping or failure is not None
                failures += [failure] if failure is not None else []
    finally:
        started = [process for process, _, _ in running.values() if process.pid is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join()
    raise_failures(failures)


def raise_failures(failures: Sequence[Exception]) -> None:
    """Raise these together, where there are any: `InputError` where all of them are the person's to mend."""
    if failures and all(isinstance(failure, InputError) for failure in failures):
        raise InputError("\n".join(dict.fromkeys(str(failure) for failure in failures)))
    if failures:
        raise RuntimeError("\n".join(str(failure) for failure in failures))


def _next(waiting: list[Any], running: dict[Any, tuple], after: Mapping[Any, Collection[Any]]) -> Any | None:
    """The first job that waits for none of those unfinished, None where there is none now."""
    unfinished = [*waiting, *(job for _, _, job in running.values())]
    return next((job for job in waiting if not any(other in unfinished for other in after.get(job, ()))), None)


def _outcome(pipe: Any, process: Any) -> Exception | None:
    """The failure that a process that ended told of; `EOFError` when it died without a word."""
    try:
        return pipe.recv()
    finally:
        process.join()


def _worker(
    pipe: Any, work: Callable[[Any, torch.device, int], None], job: Any, device: torch.device, slot: int
) -> None:
    end_with_parent()
    tqdm.set_lock(TerminalLock())  # its own is a named semaphore, which a process that is ended would leave behind
    pipe.send(run_guarded(work, job, device, slot))


def run_guarded(
    work: Callable[[Any, torch.device, int], None], job: Any, device: torch.device, slot: int
) -> Exception | None:
    """Do a job in this process; returns the failure to tell of, `InputError` where it is the person's to mend."""
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        torch.cuda.set_device(device)
    try:
        work(job, device, slot)
    except InputError as error:
        return error
    except torch.OutOfMemoryError as error:
        return InputError(
            f"{job}: the GPU's memory does not hold a batch ({str(error).splitlines()[0]}); lower batch in the recipe"
        )
    except Exception as error:
        mendable = isinstance(error, OSError) and disk_error_advice(error)
        return (
            InputError(f"{job}: {mendable}") if mendable else RuntimeError(f"{job} failed:\n{traceback.format_exc()}")
        )
    return None
