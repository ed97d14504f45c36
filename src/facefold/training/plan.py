"""What the whole job will do here and how long it takes, told before anything long. What of it fits a budget: budget.py."""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from facefold.cli import format_duration
from facefold.data.cache import estimate_cache_seconds
from facefold.data.competition import load_competition
from facefold.models.recipe import Recipe
from facefold.runs import is_fold_sealed
from facefold.training.estimate import Cost, Rates, cost, rates_of
from facefold.training.workers import device_slots


@dataclass(frozen=True)
class Work:
    """What is to be done for a recipe. left: folds to train; cost: theirs."""

    recipe: Recipe
    left: int
    cost: Cost


@dataclass(frozen=True)
class Scene:
    """What is planned for: train and test rows, folds, how many jobs run side by side (`places`).

    left(name): the folds that a recipe has yet to train; rates: by the name of each that has any; decode: seconds until the
    images of a size are in the cache, by size.
    """

    rows: int
    test_rows: int
    folds: int
    places: int
    left: Callable[[str], int]
    rates: dict[str, Rates]
    decode: dict[int, float]

    def work(self, recipe: Recipe, folds: int | None = None) -> Work:
        """What a recipe, or a shorter one of it, takes; with another number of folds all of them are to be trained."""
        left = self.left(recipe.name) if folds in (None, self.folds) else folds
        if not left:
            return Work(recipe, 0, Cost(0.0, 0.0))
        rates = self.rates[recipe.name.partition("@")[0]]
        return Work(recipe, left, cost(recipe, rates, self.rows, folds or self.folds, self.test_rows))

    def seconds(self, works: Sequence[Work]) -> float:
        """The seconds of all of it, blend and report included."""
        todo = [work for work in works if work.left]
        jobs = [
            seconds
            for work in todo
            for seconds in [work.cost.shared / self.places] * self.places + [work.cost.fold] * work.left
        ]
        decode = sum(self.decode[size] for size in {work.recipe.size for work in todo})
        start = max((rates.start for rates in self.rates.values()), default=0.0) if todo else 0.0
        return start + decode + makespan(jobs, self.places) + closing(self.rows, len(works))


@dataclass(frozen=True)
class Plan:
    """works: what will be done; folds: their number; seconds: until all of it is done; out: what a budget leaves out."""

    works: list[Work]
    folds: int
    seconds: float
    out: list[Work] = field(default_factory=list)


def survey(
    root: Path,
    place: Path,
    chosen: Sequence[Recipe],
    folds: int,
    device: str,
    suffix: str,
    least: float = 0.0,
) -> Scene:
    """The scene of a job: a few steps of each recipe that is not finished are timed (`least`: as in `estimate.rates_of`), and a
    few images decoded. place: what holds the runs, see `Target.place`."""
    competition, places = load_competition(root), device_slots(device, None)

    def left(name: str) -> int:
        return sum(not is_fold_sealed(place, name + suffix, fold) for fold in range(folds))

    timed = [recipe for recipe in chosen if left(recipe.name)]
    told = rates_of(timed, places, least) if timed else []
    rates = {recipe.name.partition("@")[0]: one for recipe, one in zip(timed, told, strict=True)}
    decode = {size: estimate_cache_seconds(competition, size) for size in {recipe.size for recipe in timed}}
    return Scene(len(competition.train), len(competition.test), folds, len(places), left, rates, decode)


def whole(scene: Scene, chosen: Sequence[Recipe]) -> Plan:
    """All of it."""
    works = [scene.work(recipe) for recipe in chosen]
    return Plan(works, scene.folds, scene.seconds(works))


def closing(rows: int, recipes: int) -> float:
    """Seconds of blend and report, by what they took on a Zen 5 core with 1,000 to 18,000 rows and two to four recipes."""
    return 15 + 0.001 * rows * recipes


def makespan(jobs: Iterable[float], places: int, busy: Sequence[float] = ()) -> float:
    """Seconds until the last of these jobs ends, each begun in its turn in the place that is free first. busy: seconds until
    places that are taken now are free."""
    free = [*busy, *[0.0] * (places - len(busy))]
    heapq.heapify(free)
    for seconds in jobs:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def lines(plan: Plan, scene: Scene, device: str, suffix: str) -> list[str]:
    """The plan for a terminal. suffix: of the names of the runs."""
    told = [
        f"plan: {scene.rows:,} train and {scene.test_rows:,} test images, {plan.folds} folds, "
        f"{scene.places} at a time on {device}"
    ]
    width = max([18, *(len(work.recipe.name + suffix) for work in [*plan.works, *plan.out])])
    for work in plan.works:
        told.append(
            f"  {work.recipe.name + suffix:{width}} {work.left} folds to go, "
            + (f"about {_each(work)} each: {work.recipe.about}" if work.left else "nothing to do")
        )
    for work in plan.out:
        told.append(
            f"  {work.recipe.name + suffix:{width}} left out, {work.left} folds of about {_each(work)} each do not fit"
        )
    closed = format_duration(closing(scene.rows, len(plan.works)))
    return [*told, f"  then blend and report, about {closed}; about {format_duration(plan.seconds)} in all"]


def _each(work: Work) -> str:
    return format_duration(work.cost.fold + work.cost.shared / work.left)
