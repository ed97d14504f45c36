"""Ray as the engine: each job a task with its needs, which the cluster places, and starts again where a machine dies.

A task works in the root itself where its machine sees it (a shared folder; a marker in cache/ tells), else in a copy: from the
URL that the root came from, or from `Desk`, an actor on the driver's machine that serves the root through Ray's object store. What
it makes goes back the same way. The same code trains, so on the CPU the files are those of the local engine, byte for byte.
"""

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import facefold
from facefold.desk import Desk, Served
from facefold.models.recipe import load_recipe
from facefold.remote import FROZEN, Mirror, place
from facefold.training.machine import versions
from facefold.training.space import PROCESS, memory
from facefold.training.workers import raise_failures, run_guarded
from facefold.utils.console import QUIET_VARIABLE, print_progress
from facefold.utils.errors import InputError
from facefold.utils.files import write_text
from facefold.utils.processes import ENVIRONMENT

RETRIES = 3  # of a job whose process or machine died
PATIENCE = 600.0  # seconds to wait for a machine that a job fits on: an autoscaler may be starting one
_REACHED = 10.0  # seconds for the head of a cluster to answer in
_LOOK = 5.0  # seconds between looks at the machines there are
_ENDING = 10.0  # seconds for tasks to end in when the step is stopped
CALLS = 1  # jobs that a process does before it ends and gives its memory back
_SKIPPED = "skipped"
_PACKAGES = "`pip install -r requirements-cluster.txt`"


def require_ray() -> Any:
    """The package ray, told to be quiet; `InputError` where it is not installed."""
    for name in ("RAY_DEDUP_LOGS", "RAY_COLOR_PREFIX", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_USAGE_STATS_ENABLED"):
        os.environ.setdefault(name, "0")  # ray reads them when it is imported; epochs of two folds are no duplicates
    try:
        import ray
    except ImportError:
        raise InputError(
            f"--engine ray needs the package ray, which is not installed: {_PACKAGES}, on every machine of the cluster"
        )
    return ray


def check_engine_options(engine: str, options: Mapping[str, object]) -> None:
    """`InputError` where Ray is asked for and not there, or given one of the `options` (name -> value) that are for one machine."""
    given = [name for name, value in options.items() if value]
    if engine == "ray" and require_ray() and given:
        raise InputError(
            f"--engine ray: the cluster decides what runs side by side and when; leave {' and '.join(given)} out"
        )


class RayWorkers:
    """A Ray cluster that is there. places: a device for each job that it can run at a time.

    address: auto (the one this machine belongs to), host:port, or local (begin one here for this step). device: auto (GPUs where
    the cluster has any), cpu or cuda. Raises `InputError` where there is no such cluster or no GPU in it.
    """

    def __init__(self, address: str, device: str):
        self._ray, self.patience = require_ray(), PATIENCE
        if address.startswith("ray://"):
            raise InputError(
                f"--address {address}: run the step on a machine of the cluster (ray job submit, ray exec) with --address auto"
            )
        carried = {name: os.environ[name] for name in (*ENVIRONMENT, QUIET_VARIABLE) if name in os.environ}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            if address not in ("auto", "local"):  # ray itself tries for minutes
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), _REACHED).close()
            self._ray.init(
                address,
                logging_level="error",
                runtime_env={
                    "env_vars": {**ENVIRONMENT, **carried},
                    "py_modules": [str(Path(facefold.__file__).parent)],
                },
                **({"include_dashboard": False} if address == "local" else {}),
            )
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: of another version of ray or Python
            raise InputError(
                f"--address {address}: {' '.join(str(error).split())[:300]}. Begin a cluster with `ray start --head` here and "
                "`ray start --address HOST:6379` on the others, or take --address local"
            )
        finally:
            signal.signal(signal.SIGTERM, handler)  # ray puts one of its own there
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus, self._cpus = (int(sum(have.get(name, 0) for have in machines)) for name in ("GPU", "CPU"))
        if device == "cuda" and not gpus:
            self._ray.shutdown()
            raise InputError("--device cuda: no machine of the cluster has a GPU; use --device cpu or auto")
        self._gpu = device != "cpu" and gpus > 0
        self.places = [torch.device("cuda", 0)] * gpus if self._gpu else [torch.device("cpu")] * max(1, self._cpus)
        cores = [int(have.get("CPU", 0) // have["GPU"]) for have in machines if have.get("GPU")]
        self.loader_workers = max(0, min(8, min(cores) - 1)) if self._gpu else 0

    def run(
        self,
        jobs: Sequence[Any],
        work: Callable[[Any, torch.device, int], None],
        after: Mapping[Any, Collection[Any]],
        may_begin: None = None,
    ) -> None:
        """As `engine.run`, but when a job begins is the cluster's to say."""
        try:
            if jobs:
                self._run(jobs, work, after)
        finally:
            self._ray.shutdown()

    def _run(self, jobs: Sequence[Any], work: Callable, after: Mapping[Any, Collection[Any]]) -> None:
        ray, root, failures = self._ray, jobs[0].root, []
        here = ray.get_runtime_context().get_node_id()
        desk = (
            ray.remote(Desk)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=_on(here))
            .remote(root)
        )
        task = ray.remote(max_retries=RETRIES, max_calls=CALLS)(_attempt)
        memory = {
            name: (2 * PROCESS if self._gpu else memory(load_recipe(name))) + self.loader_workers * PROCESS
            for name in {job.identity.recipe for job in jobs}
        }
        needs = {
            job: {
                **({"GPU": job.ranks} if self._gpu else {}),
                "CPU": job.ranks * (1 + self.loader_workers),
                "memory": job.ranks * memory[job.identity.recipe],
            }
            for job in jobs
        }
        print_progress(
            f"ray: {len(jobs)} jobs, {len(self.places)} at a time on {self.places[0].type}; {self._cpus} CPUs in all"
        )
        with _marked(root) as marker:
            refs: dict[Any, Any] = {}
            for job in jobs:
                need = needs[job]
                placed = task.options(
                    name=str(job), num_cpus=need["CPU"], num_gpus=need.get("GPU", 0), memory=need["memory"]
                )
                refs[job] = placed.remote(
                    work,
                    job,
                    self._devices(job.ranks),
                    (marker, f"{socket.gethostname()}:{root}"),
                    desk,
                    _versions(),
                    *[refs[other] for other in after.get(job, ())],
                )
            waiting: dict[Future, Any] = {ref.future(): job for job, ref in refs.items()}
            try:
                lacking = None
                while waiting:
                    for future in wait(
                        waiting, _LOOK, FIRST_COMPLETED
                    ).done:  # not ray.wait, which swallows what a signal raises
                        failures += self._failure(waiting.pop(future), future)
                    lacking = self._lacking([needs[job] for job in waiting.values()], lacking)
            except BaseException:
                for ref in refs.values():
                    ray.cancel(ref, force=True)
                wait(waiting, _ENDING)
                raise
            raise_failures(failures)
            self._tidy(desk, jobs)

    def _devices(self, ranks: int) -> tuple[torch.device, ...]:
        """What a task calls the devices it is given."""
        return (
            tuple(torch.device("cuda", index) for index in range(ranks))
            if self._gpu
            else (torch.device("cpu"),) * ranks
        )

    def _failure(self, job: Any, future: Future) -> list[Exception]:
        """What a job that ended has to tell, if anything."""
        errors = self._ray.exceptions
        try:
            outcome = future.result()
            return [outcome] if isinstance(outcome, Exception) else []
        except errors.RayTaskError as error:
            if isinstance(error.cause, ModuleNotFoundError):
                return [
                    InputError(
                        f"{job}: a machine of the cluster has {str(error.cause).lower()}; `pip install -r requirements.txt` there"
                    )
                ]
            if isinstance(error.cause, errors.RayError):
                return []  # one that it waits for died, which tells of it
            return [RuntimeError(f"{job} failed:\n{error}")]
        except errors.RayError as error:
            return [_died(job, f" ({str(error).splitlines()[0]})")]

    def _lacking(self, needs: list[dict[str, float]], since: float | None) -> float | None:
        """Since when (`time.monotonic()`) there is no machine for one of these; None while there is one for each."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        lacking = next(
            (
                need
                for need in needs
                if not any(all(have.get(name, 0) >= much for name, much in need.items()) for have in machines)
            ),
            None,
        )
        if lacking is None:
            return None
        wanted = ", ".join(
            f"{much / 1e9:.1f} GB of memory" if name == "memory" else f"{much:g} {name}"
            for name, much in lacking.items()
        )
        largest = max((have.get("memory", 0) for have in machines), default=0)
        said = f"no machine of the cluster has {wanted} for one job (of {len(machines)}, the largest has {largest / 1e9:.1f} GB)"
        if since is None:
            print_progress(f"ray: {said}; waiting {self.patience:.0f} s for one to join")
        elif time.monotonic() - since >= self.patience:
            raise InputError(
                f"{said}, and none joined in {self.patience:.0f} s. Add such a machine, or take a recipe with a smaller batch; "
                "the same command goes on"
            )
        return since or time.monotonic()

    def _tidy(self, desk: Any, jobs: Sequence[Any]) -> None:
        """Remove the copies of the root from the machines that had one, and frozen activations that were sent to a URL."""
        ray = self._ray
        removing = ray.remote(num_cpus=0, max_retries=0)(_remove_copy)
        ended = [
            removing.options(scheduling_strategy=_on(node)).remote(copy) for node, copy in ray.get(desk.copies.remote())
        ]
        ray.wait(ended, num_returns=len(ended), timeout=_ENDING) if ended else None
        for home, folder in {
            (job.home, next(name for name in job.inputs() if FROZEN in name)) for job in jobs if job.home
        }:
            for name in home.names(folder):
                home.remove(name)


def _on(node: str) -> Any:
    """On this machine (Ray's node id) and no other."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


@contextmanager
def _marked(root: Path) -> Iterator[Path]:
    """A file in the root that only a machine which sees the root sees."""
    marker = root / "cache" / f".ray_{uuid.uuid4().hex}"
    write_text(marker, "")
    try:
        yield marker
    finally:
        marker.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    return {"Python": sys.version.split()[0], **versions()}


def _attempt(
    work: Callable[[Any, torch.device, int], None],
    job: Any,
    devices: tuple[torch.device, ...],
    origin: tuple[Path, str],
    desk: Any,
    versions: dict[str, str],
    *before: object,
) -> Exception | str | None:
    """A task: do the job unless one that it waits for, or another one, failed. Returns its failure. origin: the marker in the driver's
    root, and the root's name among machines."""
    import ray

    if any(outcome is not None for outcome in before) or (begun := ray.get(desk.begin.remote(repr(job)))) is None:
        return _SKIPPED
    if (
        begun > RETRIES + 1
    ):  # ray itself counts those that it ended for want of memory apart, and starts them without end
        ray.get(desk.close.remote())
        return _died(job)
    if begun > 1:
        print_progress(f"{job} is started again: its process or its machine died")
    others = [
        f"{name} {found} instead of {versions.get(name)}"
        for name, found in _versions().items()
        if found != versions.get(name)
    ]
    if others:
        failure: Exception | None = InputError(
            f"{job}: a machine of the cluster has {', '.join(others)}, which gives other bytes. "
            "Install the same there: `pip install -r requirements.txt`"
        )
    else:
        failure = run_guarded(lambda *args: work(_placed(job, *origin, desk), *args[1:]), job, devices, 0)
    if failure is not None:
        ray.get(desk.close.remote())
    return failure


def _died(job: Any, why: str = "") -> InputError:
    return InputError(
        f"{job} died {RETRIES + 1} times, with its process or its machine{why}; often for want of memory. The same command "
        "goes on where it stood"
    )


def _placed(job: Any, marker: Path, name: str, desk: Any) -> Any:
    """The job in the root where this machine sees it, else in a copy with all that the job reads."""
    import ray

    if marker.exists():
        return job
    if job.ranks > 1 and not job.home:
        raise InputError(
            f"{job} trains in several processes, which cannot reach the driver's machine through Ray: take a shared folder, or "
            "a --root at a URL"
        )
    copy = place(f"of a task: {job.home or name}", Path(tempfile.gettempdir()) / f"facefold-{os.getuid()}")
    ray.get(desk.note_copy.remote(ray.get_runtime_context().get_node_id(), copy))
    home = job.home or Served(desk)
    Mirror(copy, home).pull(*job.inputs(), exact=True)
    return replace(job, root=copy, home=home)


def _remove_copy(root: Path) -> None:
    for folder in (root, root.with_name(f"{root.name}.book")):
        shutil.rmtree(folder, ignore_errors=True)
