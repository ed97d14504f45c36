"""The plan of a job: what is trained and how long it takes. `training/budget.py` keeps it.

A budget takes the recipes in their order, each that fits after those before it. Where none does: three folds, if no
runs depend on the folds yet; then the first recipe that fits with fewer epochs. That is another recipe, `lite0@3`, with
a hash of its own. Which of these ways loses least has not been measured.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING

from facefold.data.cache import estimate_cache_seconds
from facefold.data.preprocessing import Preprocessing
from facefold.models.recipe import Recipe, load_recipe
from facefold.models.run_name import parse_run_name
from facefold.task import LABEL, Task
from facefold.utils.console import format_duration
from facefold.utils.errors import InputError
from facefold.utils.processes import process_pool, start_server

if TYPE_CHECKING:
    from facefold.data.competition import Competition

TIMED_ROWS = 2000  # on which a recipe's classifier is fitted to time it
RESERVE = 0.1  # share of the time left that is kept for errors of the estimate
FEW_FOLDS = 3


@dataclass(frozen=True)
class Rates:
    """Seconds of one process for an image of the recipe's full size; with a classifier of `TIMED_ROWS` rows."""

    train: float
    predict: float
    augment: float
    freeze: float  # the frozen stages' forward pass, 0 if there are none


@dataclass(frozen=True)
class Cost:
    """Seconds of one process: `shared` for what the folds of a recipe have in common, `fold` for each of them."""

    shared: float
    fold: float


@dataclass(frozen=True)
class RecipePlan:
    """A recipe, the number of folds to train, and their cost."""

    recipe: Recipe
    folds: int
    cost: Cost


@dataclass(frozen=True)
class Plan:
    """What is trained, on how many folds, the seconds to the end of the report, and what the budget leaves out."""

    recipes: list[RecipePlan]
    folds: int
    seconds: float
    left_out: list[RecipePlan] = field(default_factory=list)


@dataclass(frozen=True)
class Workload:
    """What there is to do, on which devices, and how fast these are."""

    rows: int
    test_rows: int
    folds: int
    devices: Sequence[str]  # one for each process that trains at a time
    folds_left: Callable[[Recipe], int]  # folds that have yet to be trained
    rates: dict[str, Rates]  # by the `rates_key` of each recipe that has folds left
    decode: dict[Preprocessing, float]  # seconds until the images are in the cache, where images are read
    start: float  # seconds until train.py has imported its libraries

    def plan_recipe(self, recipe: Recipe, folds: int) -> RecipePlan:
        """Estimate a recipe, or a shorter one of it; on another number of folds all of them have to be trained.

        Early stopping makes it an upper bound, and so do views that a fold does not choose.
        """
        left = self.folds_left(recipe) if folds == self.folds else folds
        if not left:
            return RecipePlan(recipe, 0, Cost(0.0, 0.0))
        rates, valid = self.rates[rates_key(recipe)], math.ceil(self.rows / folds)
        views, epochs = len(recipe.tta_views), recipe.epochs
        if recipe.classifier:
            cost = Cost(views * (self.rows + self.test_rows) * rates.freeze, self._fit_seconds(recipe, rates, valid))
            return RecipePlan(recipe, left, cost)
        pixels = [math.prod(recipe.shape_in(epoch)) for epoch in range(epochs)]
        epochs_of_full_size = sum(pixels) / math.prod(recipe.shape)
        fold = (self.rows - valid) * rates.train * epochs_of_full_size + valid * epochs * rates.predict
        fold += self._predict_seconds(recipe, rates, valid)
        if not recipe.caches_stages(self.devices[0]):
            return RecipePlan(recipe, left, Cost(0.0, fold + epochs * (self.rows - valid) * rates.augment))
        augmented = self.rows * min(epochs, recipe.views or epochs) if recipe.changes_images else 0
        plain = views * (self.rows + self.test_rows)
        shared = augmented * (rates.augment + rates.freeze) + plain * rates.freeze
        return RecipePlan(recipe, left, Cost(shared, fold))

    def longest_first(self, recipes: Sequence[Recipe]) -> list[Recipe]:
        """Return the recipes in the order that leaves the fewest devices idle at the end: those of long folds first."""
        return sorted(recipes, key=lambda recipe: -self.plan_recipe(recipe, self.folds).cost.fold)

    def _predict_seconds(self, recipe: Recipe, rates: Rates, valid: int) -> float:
        """Estimate the seconds of what follows the last epoch of a fold: predicting its held-out and the test rows."""
        return len(recipe.tta_views) * (valid + self.test_rows) * rates.predict

    def longest_prediction(self, recipes: Sequence[RecipePlan]) -> float:
        """Estimate the most seconds that a fold of these may still take after its last epoch."""
        valid = math.ceil(self.rows / self.folds)
        trained = [planned.recipe for planned in recipes if planned.folds and not planned.recipe.classifier]
        return max((self._predict_seconds(each, self.rates[rates_key(each)], valid) for each in trained), default=0.0)

    def _fit_seconds(self, recipe: Recipe, rates: Rates, valid: int) -> float:
        """Estimate the seconds to fit a recipe's classifier and to predict all rows by it; an SVM's grow per row."""
        rows = self.rows - valid
        growth = rows / TIMED_ROWS if recipe.classifier == "svm" else 1.0
        return growth * (rows * rates.train + (self.rows + valid + self.test_rows) * rates.predict)

    def seconds(self, recipes: Sequence[RecipePlan]) -> float:
        """Estimate the seconds of cache, training, blend and report."""
        unfinished, jobs, count = [planned for planned in recipes if planned.folds], [], len(self.devices)
        for planned in unfinished:
            jobs += [planned.cost.shared / count] * count + [planned.cost.fold] * planned.folds
        decode = sum(self.decode.get(each, 0.0) for each in {planned.recipe.preprocessing for planned in unfinished})
        start = self.start if unfinished else 0.0
        return start + decode + makespan(jobs, count) + closing_seconds(self.rows, len(recipes))


def measure_workload(
    competition: Competition,
    recipes: Sequence[Recipe],
    folds: int,
    devices: Sequence[str],
    folds_left: Callable[[Recipe], int],
    target: Task = LABEL,
) -> Workload:
    """Time a few batches of each recipe that has folds left, and the decoding of a few images."""
    unfinished = {rates_key(recipe): recipe for recipe in recipes if folds_left(recipe)}
    timed, start = time_recipes(list(unfinished.values()), devices, target) if unfinished else ([], 0.0)
    rates = dict(zip(unfinished, timed, strict=True))
    preprocessings = {recipe.preprocessing for recipe in unfinished.values() if not recipe.embeddings}
    decode = {each: estimate_cache_seconds(competition, each) for each in preprocessings}
    return Workload(len(competition.train), len(competition.test), folds, devices, folds_left, rates, decode, start)


def time_recipes(recipes: Sequence[Recipe], devices: Sequence[str], target: Task = LABEL) -> tuple[list[Rates], float]:
    """Time each recipe in processes of their own, which give their memory (a GPU's too) back when they end.

    On the CPU as many are timed at once as train at a time, since they slow one another down; the mean is taken. Return
    the rates, and the seconds until the first process has started.
    """
    count, started = len(devices) if devices[0] == "cpu" else 1, time.perf_counter()
    with process_pool(count, start_server()) as processes:
        processes.submit(int).result()
        start = time.perf_counter() - started
        futures = [
            [processes.submit(_time_batches, recipe, devices[0], target) for _ in range(count)] for recipe in recipes
        ]
        timed = [[future.result() for future in of_recipe] for of_recipe in futures]
    return [Rates(*map(fmean, zip(*map(astuple, each), strict=True))) for each in timed], start


def _time_batches(recipe: Recipe, device: str, target: Task) -> Rates:
    import torch  # only the processes that time need it

    from facefold.training.timing import time_batches

    return time_batches(recipe, torch.device(device), target)


def closing_seconds(rows: int, recipes: int) -> float:
    """Estimate blend and report, by what they took on a Zen 5 core with 1,000 to 18,000 rows and 2 to 4 recipes."""
    return 15 + 0.001 * rows * recipes


def makespan(jobs: Iterable[float], devices: int, busy: Sequence[float] = ()) -> float:
    """Compute the seconds until the last job ends; each begins in its turn on the device that is free first.

    busy: seconds until devices that are in use now are free.
    """
    free = [*busy, *[0.0] * (devices - len(busy))]
    heapq.heapify(free)
    for seconds in jobs:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def make_plan(workload: Workload, recipes: Sequence[Recipe], seconds: float, fixed_folds: str = "") -> Plan:
    """Plan what fits into `seconds`, less the reserve; what is trained already always fits.

    fixed_folds: why the number of folds may not change, empty where it may. Raise `InputError` where nothing fits.
    """
    most = (1 - RESERVE) * seconds
    fewest = FEW_FOLDS if not fixed_folds and workload.folds > FEW_FOLDS else workload.folds
    shorter = [short for recipe in recipes for short in _shorter_recipes(recipe)]
    for folds, offered in [(workload.folds, recipes), (fewest, recipes), *((fewest, [short]) for short in shorter)]:
        chosen: list[RecipePlan] = []
        for planned in [workload.plan_recipe(recipe, folds) for recipe in offered]:
            if not planned.folds or workload.seconds([*chosen, planned]) <= most:
                chosen.append(planned)
        if chosen:
            kept = [planned.recipe for planned in chosen]
            left_out = [workload.plan_recipe(recipe, folds) for recipe in recipes if recipe not in kept]
            return Plan(chosen, folds, workload.seconds(chosen), left_out)
    alternatives = [workload.plan_recipe(recipe, fewest) for recipe in [*recipes, *shorter]]
    least = min(alternatives, key=lambda planned: workload.seconds([planned]))
    needed = format_duration(workload.seconds([least]) / (1 - RESERVE))
    raise InputError(
        f"the budget is too small: {format_duration(max(seconds, 0))} of it are left after the audit, the split and "
        f"timing the recipes, and the least there is to do, {least.recipe.name} in {fewest} folds"
        f"{fixed_folds and f' ({fixed_folds})'}, takes {needed} with a reserve. Give more with --budget, or name "
        "smaller recipes with --recipes"
    )


def rates_key(recipe: Recipe) -> str:
    """Return the hash of all settings but the epochs: other seeds and other epochs take as long for an image."""
    return replace(recipe, epochs=Recipe.epochs).hash


def _shorter_recipes(recipe: Recipe) -> list[Recipe]:
    """List the recipe with fewer epochs, from most to fewest, as far as its other settings allow."""
    shorter, name = [], parse_run_name(recipe.name)
    for epochs in range(recipe.epochs - 1, 0, -1):
        with suppress(InputError):  # its warm-up, for example, would be as long as all of it
            own = load_recipe(name.stem).epochs
            shorter.append(load_recipe(str(replace(name, epochs=None if epochs == own else epochs))))
    return shorter


def format_plan(plan: Plan, workload: Workload, suffix: str, elsewhere: str = "") -> str:
    """Format the plan for a terminal. suffix: of the names of the runs. elsewhere: what to add to the devices."""
    count, device = len(workload.devices), workload.devices[0].partition(":")[0]
    lines = [
        f"plan: {workload.rows:,} train and {workload.test_rows:,} test images, {plan.folds} folds, "
        f"{count} at a time on {device}{elsewhere}"
    ]
    width = max([18, *(len(planned.recipe.name + suffix) for planned in [*plan.recipes, *plan.left_out])])
    for planned in [*plan.recipes, *plan.left_out]:
        line = f"{planned.folds} folds to go, nothing to do"
        if planned.folds:
            each = f"about {format_duration(planned.cost.fold + planned.cost.shared / planned.folds)} each"
            line = f"{planned.folds} folds to go, {each}: {planned.recipe.about}"
            if planned in plan.left_out:
                line = f"left out, {planned.folds} folds of {each} do not fit"
        lines.append(f"  {planned.recipe.name + suffix:{width}} {line}")
    closing = format_duration(closing_seconds(workload.rows, len(plan.recipes)))
    free = f", assuming that {count} {'cores are' if count > 1 else 'core is'} free" if device == "cpu" else ""
    return "\n".join(
        [*lines, f"  then blend and report, about {closing}; about {format_duration(plan.seconds)} in all{free}"]
    )
