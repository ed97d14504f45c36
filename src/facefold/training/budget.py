"""As much of a job as fits a budget of time, and keeping to it.

What is taken: the recipes in the order given, each that fits beside those taken before it. Only where not even one does: three
folds, if nothing depends on others yet; then the first recipe that fits with fewer epochs, with half of its own or more
before with less. A shorter recipe is one of its own, `lite0@3`, with another hash. Which of these ways loses least has not
been measured.

    cache/budget.json   until when training may last, and what was expected of each run: for `train.py --budget`
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from facefold.cli import format_duration
from facefold.models.recipe import Recipe, load_recipe
from facefold.training.estimate import Cost
from facefold.training.jobs import FoldJob, ViewJob
from facefold.training.plan import Plan, Scene, Work, closing, makespan
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, write_json

Job = ViewJob | FoldJob
TIMED = 2.0  # seconds that each rate is timed for
RESERVE = 0.1  # of the time that is left, for what the prediction gets wrong
FEW_FOLDS = 3


def parse_budget(text: str) -> float:
    """`90m`, `1.5h`, `45s` in seconds. `InputError` for anything else."""
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        given = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        given = 0.0
    if not 0 < given < float("inf"):
        raise InputError(f"--budget {text}: a number and a unit are needed, such as 90m, 1.5h or 600s")
    return given


def within(scene: Scene, chosen: Sequence[Recipe], left: float, held: str) -> Plan:
    """What fits into `left` seconds, but for `RESERVE` of them. What is trained already always does.

    held: why there may not be other folds, empty where there may. Raises `InputError` where nothing fits.
    """
    most = (1 - RESERVE) * left
    numbers = [scene.folds] + ([FEW_FOLDS] if not held and scene.folds > FEW_FOLDS else [])
    for folds in numbers:
        offered: list[Work] = [scene.work(recipe, folds) for recipe in chosen]
        taken: list[Work] = []
        for work in offered:
            if not work.left or scene.seconds([*taken, work]) <= most:
                taken.append(work)
        if taken:
            return Plan(taken, folds, scene.seconds(taken), [work for work in offered if work not in taken])
    shorter = [
        (scene.work(short, folds), short.epochs / recipe.epochs) for recipe in chosen for short in _shorter(recipe)
    ]
    for share in (0.5, 0.0):
        for work, kept in shorter:
            if kept >= share and scene.seconds([work]) <= most:
                return Plan([work], folds, scene.seconds([work]), offered)
    least = min([work for work, _ in shorter] + offered, key=lambda work: scene.seconds([work]))
    needed = format_duration(scene.seconds([least]) / (1 - RESERVE))
    raise InputError(
        f"the budget is too small: {format_duration(max(left, 0))} of it are left after the audit, the split and timing the "
        f"recipes, and the least there is to do, {least.recipe.name} in {folds} folds{held and f' ({held})'}, takes "
        f"{needed} with a reserve. Give more with --budget, or name smaller recipes with --recipes"
    )


def _shorter(recipe: Recipe) -> list[Recipe]:
    """The recipe with fewer epochs, from most to fewest, as far as its other settings allow."""
    made = []
    for epochs in range(recipe.epochs - 1, 0, -1):
        try:
            made.append(load_recipe(f"{recipe.name.partition('@')[0]}@{epochs}"))
        except InputError:  # its warm-up, say, would be as long as all of it
            continue
    return made


def line(limit: float, spent: float) -> str:
    """What is said under the plan of a budget of `limit` seconds, some of which are spent."""
    return (
        f"  budget {format_duration(limit)}, {format_duration(spent)} of it spent, {format_duration(RESERVE * (limit - spent))} kept in reserve;\n"
        "  should training take longer than this, what does not fit any more is left out, but for the first recipe"
    )


def kept(limit: float, took: float, out: Sequence[str]) -> str:
    """What is said at the end: whether the budget was kept, and what it cost."""
    said = f"budget {format_duration(limit)}: {format_duration(took)} used" + (
        f", {format_duration(took - limit)} too many" if took > limit else ""
    )
    if not out:
        return said
    return f"{said}; left out: {', '.join(out)}. Without --budget, or with more, the same command goes on with these"


def write(place: Path, until: float, scene: Scene, plan: Plan, suffix: str) -> Path:
    """Write down for `Keeper` what was planned, and that all is to be done `until` then (`time.time()`); returns the file."""
    path = place / "cache" / "budget.json"
    write_json(
        path,
        {
            "until": until - closing(scene.rows, len(plan.works)),
            "runs": {work.recipe.name + suffix: asdict(work.cost) for work in plan.works},
        },
    )
    return path


class Keeper:
    """`keeper(job, running)` says whether a job may begin, for `engine.run`: not when the rest of its run would end too late.

    A run that is left out stays so; its jobs that run then go on to their end. The times expected of the jobs to come are those
    written down by `write`, stretched or shrunk as the jobs done so far took longer or less. While no run is whole
    (`some_whole()` tells) the first one is never left out: there would be nothing to blend.

    jobs: all of them, in order.
    """

    def __init__(
        self,
        path: Path,
        jobs: Sequence[Job],
        places: int,
        some_whole: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ):
        told = read_json(path)
        costs = {name: Cost(**cost) for name, cost in told["runs"].items()}
        if unplanned := sorted({job.identity.name for job in jobs} - set(costs)):
            raise InputError(
                f"{path} does not say what {', '.join(unplanned)} costs: it was written for other runs. "
                "Leave --budget out"
            )
        self.until: float = told["until"]
        self.left_out: dict[str, float] = {}  # by name: when it would have ended
        self._seconds = {job: job.expected(costs[job.identity.name]) for job in jobs}
        self._first = jobs[0].identity.name if jobs else ""
        self._waiting, self._begun, self._took, self._awaited = list(jobs), {}, 0.0, 0.0
        self._places, self._some_whole, self._clock = places, some_whole, clock

    def __call__(self, job: Job, running: Collection[Job]) -> bool:
        now, name = self._clock(), job.identity.name
        if (
            self._begun.pop(job, None) is not None
        ):  # its process died: what it took tells nothing, and it is to be done again
            self._waiting.append(job)
        for done in [begun for begun in self._begun if begun not in running]:
            self._took += now - self._begun.pop(done)
            self._awaited += self._seconds[done]
        if name not in self.left_out and (name != self._first or self._some_whole()):
            if (end := self._end(name, now)) > self.until:
                self.left_out[name] = end
        self._waiting.remove(job)
        if name in self.left_out:
            return False
        self._begun[job] = now
        return True

    def late(self, name: str) -> str:
        """By how much a run that is left out would have ended too late."""
        return format_duration(self.left_out[name] - self.until)

    def _end(self, name: str, now: float) -> float:
        """When the jobs under way and the rest of this run would end."""
        pace = self._took / self._awaited if self._awaited else 1.0
        busy = [max(0.0, pace * self._seconds[job] - (now - began)) for job, began in self._begun.items()]
        rest = [pace * self._seconds[job] for job in self._waiting if job.identity.name == name]
        return now + makespan(rest, self._places, busy)
