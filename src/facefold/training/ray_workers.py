"""Run jobs on many machines: each job is a Ray task, which starts again if its process or machine dies.

Every machine sees the root at the same path (NFS, Lustre, a persistent volume, a mounted bucket); one that does not is
refused by name. A task reads and writes the root as a local process does, so on the CPU its files are those of the
local engine, byte for byte, and a task that Ray starts again continues from the checkpoint in the root.
"""

import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import facefold
from facefold.training.machine import CLASSIFIER_BYTES, PROCESS_BYTES, estimate_training_memory, versions
from facefold.training.workers import Job, raise_failures, run_guarded
from facefold.utils.console import QUIET_VARIABLE, print_progress
from facefold.utils.errors import InputError
from facefold.utils.files import write_text
from facefold.utils.processes import ENVIRONMENT

RETRIES = 3  # of a job whose process or machine died
PATIENCE = 600.0  # seconds to wait for a machine that a job fits on: an autoscaler may be starting one
CALLS = 1  # jobs that a process runs before it ends and frees its memory
_CONNECT_TIMEOUT = 10.0  # seconds for the head of a cluster to answer
_POLL = 5.0  # seconds between looks at the machines of the cluster
_CANCEL_TIMEOUT = 10.0  # seconds for tasks to end when the step is stopped
_SKIPPED = "skipped"


def import_ray() -> Any:
    """Return the package ray, configured to be quiet; `options.check_engine_options` checks that it is installed."""
    for name in ("RAY_DEDUP_LOGS", "RAY_COLOR_PREFIX", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_USAGE_STATS_ENABLED"):
        os.environ.setdefault(name, "0")  # ray reads them when it is imported; epochs of two folds are no duplicates
    import ray

    return ray


class RayWorkers:
    """A connection to a Ray cluster; raises `InputError` if there is no such cluster or no GPU in it.

    devices: one per job that it can run at a time, as the job sees it: Ray shows a task its own GPU alone.

    Args:
        address: auto (the cluster this machine belongs to), host:port, or local (start one here for this step).
        device: auto (GPUs if the cluster has any), cpu or cuda.
    """

    def __init__(self, address: str, device: str):
        self._ray, self.patience = import_ray(), PATIENCE
        if address.startswith("ray://"):
            raise InputError(
                f"--address {address}: run the step on a machine of the cluster (ray job submit, ray exec) with "
                "--address auto"
            )
        inherited = {name: os.environ[name] for name in (*ENVIRONMENT, QUIET_VARIABLE) if name in os.environ}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            if address not in ("auto", "local"):  # ray itself tries for minutes
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), _CONNECT_TIMEOUT).close()
            self._ray.init(
                address,
                logging_level="error",
                runtime_env={
                    "env_vars": {**ENVIRONMENT, **inherited},
                    "py_modules": [str(Path(facefold.__file__).parent)],
                },
                **({"include_dashboard": False} if address == "local" else {}),
            )
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: of another version of ray or Python
            raise InputError(
                f"--address {address}: {' '.join(str(error).split())[:300]}. Start a cluster with `ray start --head` "
                "here and `ray start --address HOST:6379` on the others, or use --address local"
            ) from error
        finally:
            signal.signal(signal.SIGTERM, handler)  # ray sets its own
        machines = self._machines()
        gpus, self._cpus = (int(sum(have.get(name, 0) for have in machines)) for name in ("GPU", "CPU"))
        if device == "cuda" and not gpus:
            self._ray.shutdown()
            raise InputError("--device cuda: no machine of the cluster has a GPU; use --device cpu or auto")
        self._gpu = device != "cpu" and gpus > 0
        self.devices = ["cuda:0"] * gpus if self._gpu else ["cpu"] * max(1, self._cpus)
        cores = [int(have.get("CPU", 0) // have["GPU"]) for have in machines if have.get("GPU")]
        self.loader_workers = max(0, min(8, min(cores) - 1)) if self._gpu else 0

    def run(
        self,
        jobs: Sequence[Job],
        after: Mapping[Job, Collection[Job]],
        may_start: None = None,
    ) -> None:
        """Run the jobs as `LocalWorkers.run` does, except that the cluster decides when each one starts."""
        try:
            if jobs:
                self._run(jobs, after)
        finally:
            self._ray.shutdown()

    def _run(self, jobs: Sequence[Job], after: Mapping[Job, Collection[Job]]) -> None:
        needs = self._needs(jobs)
        kind = "cuda" if self._gpu else "cpu"
        print_progress(f"ray: {len(jobs)} jobs, {len(self.devices)} at a time on {kind}; {self._cpus} CPUs in all")
        with _marker(jobs[0].root) as marker:
            refs = self._submit(jobs, after, needs, marker)
            failures, missing_since, waiting = [], None, {ref.future(): job for job, ref in refs.items()}
            try:
                while waiting:  # not ray.wait, which swallows what a signal raises
                    for future in wait(waiting, _POLL, FIRST_COMPLETED).done:
                        failures += self._failure(waiting.pop(future), future)
                    missing_since = self._missing_since([needs[job] for job in waiting.values()], missing_since)
            except BaseException:
                for ref in refs.values():
                    self._ray.cancel(ref, force=True)
                wait(waiting, _CANCEL_TIMEOUT)
                raise
        raise_failures(failures)

    def _needs(self, jobs: Sequence[Job]) -> dict[Job, dict[str, float]]:
        """Return each job's requirements by the names of Ray's resources."""
        workers = self.loader_workers * PROCESS_BYTES
        memory = {
            recipe: workers + (2 * PROCESS_BYTES if self._gpu else estimate_training_memory(recipe))
            for recipe in {job.recipe for job in jobs}
        }
        return {
            job: {
                **({"GPU": 1} if self._gpu else {}),
                "CPU": 1 + self.loader_workers,
                "memory": max(memory[job.recipe], CLASSIFIER_BYTES if getattr(job, "fits_teachers", False) else 0),
            }
            for job in jobs
        }

    def _submit(
        self,
        jobs: Sequence[Job],
        after: Mapping[Job, Collection[Job]],
        needs: Mapping[Job, Mapping[str, float]],
        marker: Path,
    ) -> dict[Job, Any]:
        """Submit a task per job and return their references; Ray starts one when the jobs it waits for are done."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray, refs = self._ray, {}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(_gate()).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
        gate = actor.remote()
        task = ray.remote(max_retries=RETRIES, max_calls=CALLS)(_attempt)
        for job in jobs:
            need = needs[job]
            placed = task.options(
                name=str(job), num_cpus=need["CPU"], num_gpus=need.get("GPU", 0), memory=need["memory"]
            )
            before = [refs[other] for other in after.get(job, ())]
            refs[job] = placed.remote(job, self.devices[0], marker, gate, _versions(), *before)
        return refs

    def _machines(self) -> list[dict[str, float]]:
        """Return the resources of each machine of the cluster that is alive."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _failure(self, job: Any, future: Future) -> list[Exception]:
        """Return the failure of a job that ended as a list, empty if there is none to report."""
        errors = self._ray.exceptions
        try:
            outcome = future.result()
            return [outcome] if isinstance(outcome, Exception) else []
        except errors.RayTaskError as error:
            if isinstance(error.cause, ModuleNotFoundError):
                problem = f"a machine of the cluster has {str(error.cause).lower()}"
                return [InputError(f"{job}: {problem}; `pip install -r requirements.txt` there")]
            if isinstance(error.cause, errors.RayError):
                return []  # a job that it waits for died, which is reported for that one
            return [RuntimeError(f"{job} failed:\n{error}")]
        except errors.RayError as error:
            return [_died(job, f" ({str(error).splitlines()[0]})")]

    def _missing_since(self, needs: list[dict[str, float]], since: float | None) -> float | None:
        """Return since when (`time.monotonic()`) no machine fits one of `needs`; None while each has one."""
        machines = self._machines()

        def fits(need: dict[str, float]) -> bool:
            return any(all(have.get(name, 0) >= amount for name, amount in need.items()) for have in machines)

        unmet = next((need for need in needs if not fits(need)), None)
        if unmet is None:
            return None
        resources = ", ".join(
            f"{amount / 1e9:.1f} GB of memory" if name == "memory" else f"{amount:g} {name}"
            for name, amount in unmet.items()
        )
        largest = max((have.get("memory", 0) for have in machines), default=0) / 1e9
        problem = f"no machine of the cluster has {resources} for one job"
        problem += f" (of {len(machines)}, the largest has {largest:.1f} GB)"
        if since is None:
            print_progress(f"ray: {problem}; waiting {self.patience:.0f} s for one to join")
        elif time.monotonic() - since >= self.patience:
            raise InputError(
                f"{problem}, and none joined in {self.patience:.0f} s. Add such a machine, or use a recipe with a "
                "smaller batch; the same command continues"
            )
        return since or time.monotonic()


def _gate() -> type:
    """Return the class of an actor that every task asks before it starts.

    Ray sends a local class by value, so the actor's process needs no torch.
    """

    class Gate:
        def __init__(self) -> None:
            self._closed, self._starts = False, {}

        def start(self, job: str) -> int | None:
            """Count the starts of this job and return them; None if it may not start, because another one failed."""
            if not self._closed:
                self._starts[job] = self._starts.get(job, 0) + 1
            return None if self._closed else self._starts[job]

        def close(self) -> None:
            """Let no job start from now on."""
            self._closed = True

    return Gate


@contextmanager
def _marker(root: Path) -> Iterator[Path]:
    """Yield the path of a file under the root that tells whether a machine sees it; remove it at the end."""
    path = root / "cache" / f".ray_{uuid.uuid4().hex}"
    write_text(path, "")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    return {"Python": sys.version.split()[0], **versions()}


def _attempt(
    job: Job,
    device: str,
    marker: Path,
    gate: Any,
    versions: dict[str, str],
    *before: object,
) -> Exception | str | None:
    """Run one task: the job, unless this machine is refused, this job has died too often, or another one failed.

    Args:
        job: the job to run.
        device: its device as this machine calls it.
        marker: a file that exists if this machine sees the root.
        gate: the actor that `_gate` describes.
        versions: the versions of the driver.
        before: the results of the tasks that this one waits for.

    Returns: the failure, `_SKIPPED` for a job that did not start because another one failed, or None.
    """
    import ray

    if any(outcome is not None for outcome in before) or (starts := ray.get(gate.start.remote(repr(job)))) is None:
        return _SKIPPED
    failure: Exception | None = None
    if starts > RETRIES + 1:  # ray does not count tasks that it killed for want of memory: it restarts them forever
        failure = _died(job)
    else:
        if starts > 1:
            print_progress(f"{job} is started again: its process or its machine died")
        failure = _refusal(marker, versions) or run_guarded(job, device, 0)
    if failure is not None:
        ray.get(gate.close.remote())
    return failure


def _refusal(marker: Path, versions: Mapping[str, str]) -> InputError | None:
    """Return why this machine cannot train: it does not see the root, or has other versions than the driver."""
    import ray

    name, root = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})", marker.parents[1]
    differences = [
        f"{package} {installed} instead of {versions.get(package)}"
        for package, installed in _versions().items()
        if installed != versions.get(package)
    ]
    if differences:
        return InputError(
            f"the machine {name} of the cluster has {', '.join(differences)}, which gives other bytes. Install the "
            "same there: `pip install -r requirements.txt`"
        )
    if not marker.exists():
        return InputError(
            f"the machine {name} of the cluster does not see {root}. Mount that folder at the same path on every "
            "machine (NFS, Lustre, a persistent volume, a mounted bucket), or take this one out of the cluster; the "
            "same command continues"
        )
    return None


def _died(job: Any, why: str = "") -> InputError:
    return InputError(
        f"{job} died {RETRIES + 1} times, with its process or its machine{why}; often for want of memory. The same "
        "command continues where it stopped"
    )
