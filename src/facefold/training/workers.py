"""Run jobs in worker processes of this machine: one long-lived process per device (a GPU, or a CPU core).

Only the worker processes import torch: a process that starts them is there at once. A device is torch's name of it.
"""

import gc
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tqdm import tqdm

from facefold.utils.console import TerminalLock, is_quiet, quiet
from facefold.utils.errors import InputError, disk_error_advice
from facefold.utils.processes import core_count, end_with_parent, start_server, without_interrupt

if TYPE_CHECKING:
    import torch

# One of these is there where the driver of a GPU is that torch may call CUDA: NVIDIA's, WSL2's, AMD's, and Jetson's.
DRIVERS = ("nvidia*", "dxg", "kfd", "nvhost-gpu", "nvgpu")


class Job(Protocol):
    """What a worker runs. It travels to the worker's process, and its text names it in messages."""

    def run(self, device: "torch.device", position: int) -> None:
        """Do the job on `device`; `position` is the line of its progress bar."""


def select_devices(device: str, workers: int | None) -> list[str]:
    """Return one device per job at a time: each visible GPU, or `workers` CPU processes of one thread (default: cores).

    device: auto (CUDA if there is any), cpu or cuda. Raise `InputError` for a device that is missing.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: at least one")
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device '{device}' is none of auto, cpu, cuda")
    gpus = 0 if device == "cpu" else count_gpus()
    if device == "cuda" and not gpus:
        raise InputError("--device cuda: torch sees no GPU here; use --device cpu, or check the driver with nvidia-smi")
    return [f"cuda:{index}" for index in range(gpus)][:workers] or ["cpu"] * (workers or core_count())


def count_gpus() -> int:
    """Count the GPUs that torch sees. Where no driver is, it is not imported for that."""
    if sys.platform == "linux" and not any(path for name in DRIVERS for path in Path("/dev").glob(name)):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


class LocalWorkers:
    """The workers of this machine on `devices`. loader_workers: processes that augment, per GPU job."""

    def __init__(self, device: str, workers: int | None):
        self.devices = select_devices(device, workers)
        self.loader_workers = min(8, core_count() // len(self.devices)) if self.devices[0] != "cpu" else 0

    def run(
        self,
        jobs: Sequence[Job],
        after: Mapping[Job, Collection[Job]],
        may_start: Callable[[Job, Collection[Job]], bool] | None = None,
    ) -> None:
        """Run the jobs, see `run_jobs`."""
        run_jobs(jobs, self.devices, after, may_start)


def run_jobs(
    jobs: Sequence[Job],
    devices: Sequence[str],
    after: Mapping[Job, Collection[Job]] | None = None,
    may_start: Callable[[Job, Collection[Job]], bool] | None = None,
) -> None:
    """Run the jobs in order, as many at a time as there are devices, on whose number the results do not depend.

    A worker process takes one job after another, since its start costs seconds. One that dies (killed, often for want
    of memory) is replaced, and its job is put at the end and started once more; if that dies again, the other jobs
    still finish. After any other failure no further job starts; those running finish. The failures are raised together:
    `InputError` if all of them are the user's to fix. A CPU worker has one thread: two processes are faster than two
    threads.

    Args:
        jobs: What to run.
        devices: One per job at a time.
        after: For a job, the jobs of `jobs` to wait for; later ones may start meanwhile.
        may_start: may_start(job, running) is asked when the job's turn has come; a job that may not is left out.
    """
    pool = _Pool(devices)
    queue = _Queue(jobs, after or {}, may_start)
    try:
        while True:
            while not queue.stopped and pool.has_room() and (job := queue.next(pool.running())) is not None:
                pool.start(job)
            if not pool.running():
                break
            for job, outcome in pool.wait():
                queue.finish(job, outcome)
        if queue.waiting and not queue.stopped:
            raise ValueError(f"jobs that wait for one another: {', '.join(map(str, queue.waiting))}")
    finally:
        pool.close()
    raise_failures(queue.failures)


def raise_failures(failures: Sequence[Exception]) -> None:
    """Raise these together, if there are any: `InputError` if all of them are the user's to fix."""
    if failures and all(isinstance(failure, InputError) for failure in failures):
        raise InputError("\n".join(dict.fromkeys(str(failure) for failure in failures)))
    if failures:
        raise RuntimeError("\n".join(str(failure) for failure in failures))


@dataclass(frozen=True)
class _Died:
    """A worker process that ended without an answer."""

    exitcode: int | None


class _Queue:
    """The jobs that wait, and what became of the others."""

    def __init__(self, jobs: Sequence[Job], after: Mapping[Job, Collection[Job]], may_start: Callable | None):
        self.waiting, self.failures, self.stopped = list(jobs), [], False
        self._dependencies, self._may_start, self._restarted = after, may_start, []

    def next(self, running: list[Job]) -> Job | None:
        """Remove and return the first job that may start now, its dependencies being finished; None without one."""
        for job in list(self.waiting):
            unfinished = [*self.waiting, *running]
            if any(other in unfinished for other in self._dependencies.get(job, ())):
                continue
            self.waiting.remove(job)
            restarting = [other for other in self._restarted if other in self.waiting]
            if self._may_start is None or self._may_start(job, [*running, *restarting]):
                return job
        return None

    def finish(self, job: Job, outcome: Exception | _Died | None) -> None:
        """Note the end of a job; put one whose process died for the first time at the end of the queue."""
        if not isinstance(outcome, _Died):
            self.failures += [outcome] if outcome is not None else []
            self.stopped = self.stopped or outcome is not None
        elif job in self._restarted or self.stopped:
            cause = ""
            if outcome.exitcode == -signal.SIGKILL:
                cause = " (killed, often for want of memory; then use --workers 1 or a recipe with a smaller batch)"
            self.failures.append(
                InputError(
                    f"the process of {job} died with exit code {outcome.exitcode}{cause}; the same command continues "
                    "where it stopped"
                )
            )
        else:
            print(f"the process of {job} died with exit code {outcome.exitcode}; it is started once more", flush=True)
            self._restarted.append(job)
            self.waiting.append(job)


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job | None = None


class _Pool:
    """At most one worker process per device, each started when it is first needed."""

    def __init__(self, devices: Sequence[str]):
        self._devices, self._workers = devices, [None] * len(devices)

    def running(self) -> list[Job]:
        return [worker.job for worker in self._workers if worker is not None and worker.job is not None]

    def has_room(self) -> bool:
        return len(self.running()) < len(self._devices)

    def start(self, job: Job) -> None:
        """Give the job to an idle worker, or to a new one if there is none."""
        idle = [worker for worker in self._workers if worker is not None and worker.job is None]
        worker = idle[0] if idle else self._new_worker(self._workers.index(None))
        worker.job = job
        with suppress(BrokenPipeError):  # it was killed while idle, which `wait` finds
            worker.connection.send(job)

    def _new_worker(self, position: int) -> _Worker:
        device, context = self._devices[position], start_server()
        parent_end, child_end = context.Pipe()
        process = context.Process(
            target=_work,
            args=(child_end, device, position, is_quiet()),
            daemon=device == "cpu",  # a daemon may start no processes
        )
        worker = self._workers[position] = _Worker(process, parent_end)
        with without_interrupt():
            process.start()
        child_end.close()
        return worker

    def wait(self) -> list[tuple[Job, Exception | _Died | None]]:
        """Wait until a job ends, in one way or another; return (job, outcome) of all that ended."""
        ended = []
        ready = wait([worker.connection for worker in self._workers if worker is not None and worker.job is not None])
        for position, worker in enumerate(self._workers):
            if worker is None or worker.connection not in ready:
                continue
            try:
                outcome = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                worker.process.join()
                outcome, self._workers[position] = _Died(worker.process.exitcode), None
            ended.append((worker.job, outcome))
            worker.job = None
        return ended

    def close(self) -> None:
        """End all workers: idle ones are asked to, others terminated."""
        workers = [worker for worker in self._workers if worker is not None and worker.process.pid is not None]
        for worker in workers:
            if worker.job is None:
                worker.connection.close()
            else:
                worker.process.terminate()
        for worker in workers:
            worker.process.join()


def _work(connection: Connection, device: str, position: int, silent: bool) -> None:
    """Run in the worker's process: one job after another, until the connection is closed."""
    import torch

    end_with_parent()
    tqdm.set_lock(TerminalLock())  # its own is a named semaphore, which a process that is ended would leave behind
    with quiet(silent), suppress(EOFError):
        while True:
            connection.send(run_guarded(connection.recv(), device, position))
            gc.collect()
            if device != "cpu":
                with suppress(RuntimeError):  # torch 2.11 and 2.12 raise after a step that could not be recorded
                    torch.cuda.empty_cache()


def run_guarded(job: Job, device: str, position: int) -> Exception | None:
    """Do a job in this process; return the failure to report, an `InputError` if it is the user's to fix."""
    import torch

    if device == "cpu":
        torch.set_num_threads(1)
    else:
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # all batches have the same shape
    try:
        job.run(torch.device(device), position)
    except InputError as error:
        return error
    except torch.OutOfMemoryError as error:
        return InputError(
            f"{job}: the GPU's memory does not hold a batch ({str(error).splitlines()[0]}); lower batch in the recipe"
        )
    except Exception as error:
        advice = isinstance(error, OSError) and disk_error_advice(error)
        return InputError(f"{job}: {advice}") if advice else RuntimeError(f"{job} failed:\n{traceback.format_exc()}")
    return None
