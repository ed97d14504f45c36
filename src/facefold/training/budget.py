"""When training has to end: by a budget, which leaves out what does not fit, or by a session, which stops and goes on.

    cache/budget.json    the end of training and what each run is expected to cost, for `train.py --budget`
    cache/session.json   the same for `train.py --session`

A session stops a fold at the end of an epoch, with its checkpoint in place; the next one continues there. Each session
trains at least one epoch, however short it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from facefold.training.plan import RESERVE, Cost, Plan, Workload, closing_seconds, makespan
from facefold.utils.console import format_duration
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, write_json

if TYPE_CHECKING:
    from facefold.training.jobs import FeatureJob, FoldJob


def format_budget(budget: float, used: float) -> str:
    """Format what is printed below the plan: a budget of so many seconds, some of them used."""
    reserve = format_duration(RESERVE * (budget - used))
    return (
        f"  budget {format_duration(budget)}, {format_duration(used)} of it spent, {reserve} kept in reserve;\n"
        "  should training take longer than this, what does not fit any more is left out, but for the first recipe"
    )


def format_budget_result(budget: float, used: float, left_out: Sequence[str]) -> str:
    """Format what is printed at the end: whether the budget was kept, and the runs that it cost."""
    result = f"budget {format_duration(budget)}: {format_duration(used)} used"
    if used > budget:
        result += f", {format_duration(used - budget)} too many"
    if left_out:
        result += (
            f"; left out: {', '.join(left_out)}. Without --budget, or with more, the same command continues with these"
        )
    return result


@dataclass(frozen=True)
class Budget:
    """When training has to end (`time.monotonic()`), and the cost of each run by its name."""

    until: float
    costs: dict[str, Cost]


def write_budget(path: Path, deadline: float, workload: Workload, plan: Plan, suffix: str) -> Path:
    """Write what `load_budget` reads, for a job that has to end at `deadline` (`time.monotonic()`); return the file."""
    costs = {planned.recipe.name + suffix: asdict(planned.cost) for planned in plan.recipes}
    until = deadline - closing_seconds(workload.rows, len(plan.recipes))
    write_json(path, {"until": until, "boot": _boot(), "runs": costs})
    return path


def load_budget(path: Path, names: Iterable[str], option: str = "--budget") -> Budget:
    """Load what `write_budget` wrote. Raise `InputError` for a file of another start or of other runs than `names`."""
    budget = read_json(path)
    if budget.get("boot") != _boot():
        raise InputError(
            f"{path} is of before this machine was started, or of another one, and its clock means nothing here; "
            f"run run_all.py with its {option} again, or leave {option} out"
        )
    costs = {name: Cost(**cost) for name, cost in budget["runs"].items()}
    if unplanned := sorted(set(names) - set(costs)):
        raise InputError(
            f"{path} does not say what {', '.join(unplanned)} costs: it was written for other runs. Leave {option} out"
        )
    return Budget(budget["until"], costs)


def _boot() -> str:
    """Return what names this start of the machine, on Linux; empty elsewhere.

    `time.monotonic()` counts from there, for all processes (on macOS as well): unlike the clock on the wall nobody sets
    it, but after another start, or on another machine, its values mean nothing.
    """
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


class BudgetGuard:
    """Decide for `run_jobs` whether a job may start: not when the rest of its run would end after the budget.

    A run that is left out stays so; those of its jobs that are running run to their end. Expected times are those of
    the plan, scaled by how long the jobs took that are done. As long as no run is complete the first one is never left
    out: there would be nothing to blend. `left_out` maps the name of each run that is to the seconds that it is late.
    """

    def __init__(
        self, path: Path, jobs: Sequence[FeatureJob | FoldJob], devices: int, any_complete: Callable[[], bool]
    ):
        """Read what `write_budget` wrote to `path`, for these jobs in order, of which `devices` run at a time."""
        budget = load_budget(path, {job.identity.name for job in jobs})
        self.left_out: dict[str, float] = {}
        self._until, self._devices, self._any_complete = budget.until, devices, any_complete
        self._seconds = {job: _expected_seconds(job, budget.costs[job.identity.name]) for job in jobs}
        self._waiting, self._begun, self._taken, self._expected = list(jobs), {}, 0.0, 0.0
        self._first = jobs[0].identity.name if jobs else ""

    def __call__(self, job: FeatureJob | FoldJob, running: Collection[FeatureJob | FoldJob]) -> bool:
        """Decide whether `job` may start while these are `running`."""
        now, name = time.monotonic(), job.identity.name
        if self._begun.pop(job, None) is not None:  # its process died: its time says nothing, and it has to run again
            self._waiting.append(job)
        for done in [begun for begun in self._begun if begun not in running]:
            self._taken += now - self._begun.pop(done)
            self._expected += self._seconds[done]
        late = self._end(name, now) - self._until
        if late > 0 and name not in self.left_out and (name != self._first or self._any_complete()):
            self.left_out[name] = late
        self._waiting.remove(job)
        if name not in self.left_out:
            self._begun[job] = now
        return name not in self.left_out

    def _end(self, name: str, now: float) -> float:
        """Estimate when the running jobs and the rest of this run would end."""
        pace = self._taken / self._expected if self._expected else 1.0
        busy = [max(0.0, pace * self._seconds[job] - (now - begun)) for job, begun in self._begun.items()]
        rest = [pace * self._seconds[job] for job in self._waiting if job.identity.name == name]
        return now + makespan(rest, self._devices, busy)


class SessionGuard:
    """Decide for `run_jobs` whether a job may start: not when its first epoch would end after the session.

    A job that has no epochs, as a classifier or the frozen stages, counts as a whole. Until a fold has started
    those of the first run may, its frozen stages and a fold: the next session may find what frozen stages computed
    gone, and would get no further. Once a job may not, none of its run may.
    """

    def __init__(self, session: Budget, jobs: Sequence[FeatureJob | FoldJob]):
        self._until, self._begun, self._over = session.until, False, set()
        self._first = jobs[0].identity.name if jobs else ""
        self._seconds = {job: _first_seconds(job, session.costs[job.identity.name]) for job in jobs}

    def __call__(self, job: FeatureJob | FoldJob, running: Collection[FeatureJob | FoldJob]) -> bool:
        """Decide whether `job` may start, whatever is `running`."""
        name = job.identity.name
        late = time.monotonic() + self._seconds[job] > self._until
        if late and (self._begun or name != self._first):
            self._over.add(name)
        if name in self._over:
            return False
        self._begun = self._begun or _is_fold(job)
        return True


class SessionOver(Exception):
    """The next epoch would end after the session. epochs: those that are trained."""

    def __init__(self, epochs: int):
        super().__init__(f"the session is over after epoch {epochs}")
        self.epochs = epochs


def stop_in_time(until: float, resumed: bool) -> Callable[[list[dict]], None]:
    """Return the `before_epoch` of `train_fold` that raises `SessionOver` if the next epoch would end after `until`.

    An epoch is expected to take as long as the longest of this session, of which there has to be one. resumed: whether
    epochs of an earlier session are there.
    """
    former: list[int] = [] if resumed else [0]  # the number of those epochs, once it is known

    def before_epoch(history: list[dict]) -> None:
        if not former:
            former.append(len(history))
        seconds = [row["seconds"] for row in history[former[0] :]]
        if seconds and time.monotonic() + max(seconds) > until:
            raise SessionOver(len(history))

    return before_epoch


def format_session(session: float, used: float) -> str:
    """Format what is printed below the plan: a session of so many seconds, some of them used."""
    return (
        f"  session {format_duration(session)}, {format_duration(used)} of it spent: training stops at the end of an "
        "epoch before it is over;\n  the same command goes on there"
    )


def format_session_result(session: float, used: float, folds_left: Mapping[str, int]) -> str:
    """Format what is printed at the end of a session that leaves folds to the next one; folds_left: by run."""
    left = ", ".join(f"{name} ({count} folds)" for name, count in folds_left.items() if count)
    return (
        f"session {format_duration(session)}: {format_duration(used)} used; not finished: {left}. The same command "
        "goes on with these"
    )


def _expected_seconds(job: FeatureJob | FoldJob, cost: Cost) -> float:
    return cost.fold if _is_fold(job) else cost.shared / job.parts


def _first_seconds(job: FeatureJob | FoldJob, cost: Cost) -> float:
    """Return the seconds until the job can be stopped: one epoch, or all of what has none."""
    epochs = job.recipe.epochs if _is_fold(job) and not job.recipe.classifier else 1
    return _expected_seconds(job, cost) / epochs


def _is_fold(job: FeatureJob | FoldJob) -> bool:
    from facefold.training.jobs import FoldJob

    return isinstance(job, FoldJob)
