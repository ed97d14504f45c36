"""When training ends: by a budget, and by a session, on clocks that the test sets."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from facefold.data.corrections import NO_CORRECTIONS
from facefold.models import recipe as recipes
from facefold.runs import Identity
from facefold.training import budget, plan
from facefold.training.budget import BudgetGuard
from facefold.training.jobs import FoldJob, order_jobs
from facefold.training.plan import Cost
from facefold.utils.console import parse_budget
from facefold.utils.errors import InputError
from test_plan import NAMES, RECIPES, workload

WHOLE = plan.make_plan(workload(), RECIPES, float("inf"), "")  # both recipes, five folds each


@pytest.mark.parametrize("text, seconds", [("90m", 5400), ("1.5h", 5400), ("8h30m", 30600), ("45s", 45), (".5h", 1800)])
def test_a_budget_is_a_number_and_a_unit(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize(
    "text", ["90", "m", "", "-5m", "0h", "nanm", "infh", "1d", "1.m", "1e3s", "1h2h", "1.5h30m", "0h0m"]
)
def test_any_other_budget_is_refused(text):
    with pytest.raises(InputError, match="a number and a unit are needed, such as 90m"):
        parse_budget(text)


def test_a_budget_in_words():
    line = budget.format_budget(5400, 400).splitlines()[0]
    assert line == "  budget 1 h 30 min, 7 min of it spent, 9 min kept in reserve;"
    assert budget.format_budget_result(5400, 4000, []) == "budget 1 h 30 min: 1 h 07 min used"
    assert budget.format_budget_result(60, 70, ["cnn5", "lite1"]) == (
        "budget 60 s: 70 s used, 10 s too many; left out: cnn5, lite1. Without --budget, or with more, the same "
        "command continues with these"
    )


def jobs_of(name: str, count: int) -> list[FoldJob]:
    identity = Identity(name, "", "", "", 0)
    return [
        FoldJob(Path("root"), recipes.load_recipe(name), identity, NO_CORRECTIONS, number, None, 0)
        for number in range(count)
    ]


class Case:
    """Two recipes of two folds each, a hundred seconds a fold, one at a time; the guard is called as by the workers."""

    def __init__(self, tmp_path, monkeypatch, until: float, complete: bool = False):
        self.now, self.complete, self.running = 1000.0, complete, []
        self.jobs = jobs_of("lite0", 2) + jobs_of("cnn5", 2)
        monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: self.now))
        path = tmp_path / "budget.json"
        runs = {name: {"shared": 0.0, "fold": 100.0} for name in NAMES}
        path.write_text(json.dumps({"until": until, "boot": budget._boot(), "runs": runs}))
        self.guard = BudgetGuard(path, self.jobs, 1, lambda: self.complete)

    def begin(self, number: int) -> bool:
        allowed = self.guard(self.jobs[number], self.running)
        self.running = [self.jobs[number]] if allowed else []
        return allowed

    def end(self, seconds: float) -> None:
        self.now += seconds
        self.running = []


@pytest.fixture
def case(tmp_path, monkeypatch):
    return lambda **settings: Case(tmp_path, monkeypatch, **settings)


def test_as_planned_all_begins(case):
    job = case(until=1400)
    for number in range(4):
        assert job.begin(number)
        job.complete = number > 1
        job.end(100)
    assert not job.guard.left_out


def test_what_would_end_too_late_is_left_out_before_its_first_fold(case):
    job = case(until=1450)
    for number in range(2):
        assert job.begin(number)
        job.end(120)  # a fifth slower: 2 x 120 more would end at 1480
    job.complete = True
    assert not job.begin(2) and not job.begin(3)
    assert job.guard.left_out == {"cnn5": pytest.approx(30)}


def test_what_began_is_left_out_when_its_rest_does_not_fit_any_more(case):
    job = case(until=1410, complete=True)
    for number in range(3):
        assert job.begin(number)
        job.end(100 if number < 2 else 150)
    assert not job.begin(3)


def test_the_first_goes_on_to_its_end_as_long_as_nothing_is_complete(case):
    job = case(until=1010)
    assert job.begin(0)
    job.end(100)
    assert job.begin(1)
    job.end(100)
    job.complete = True
    assert not job.begin(2)


def test_where_another_is_complete_the_first_is_left_out_like_any(case):
    assert not case(until=1010, complete=True).begin(0)


def test_a_fold_begun_once_more_counts_neither_as_done_nor_as_free(case):
    job = case(until=1300)
    assert job.begin(0)
    job.now += 1  # its process dies: at this pace all would end in no time
    assert job.begin(0)
    job.end(100)
    assert job.begin(1)  # ends at 1201
    job.end(100)
    assert not job.begin(2)  # at the true pace both folds of cnn5 would end at 1401


def test_a_budget_of_other_runs_is_refused(tmp_path):
    path = budget.write_budget(tmp_path / "budget.json", 2000.0, workload(), WHOLE, "")
    assert json.loads(path.read_text())["until"] == 2000 - 15 - 2
    with pytest.raises(InputError, match="does not say what lite1 costs: it was written for other runs"):
        BudgetGuard(path, jobs_of("lite1", 1), 1, lambda: False)


def test_a_budget_of_before_the_machine_was_started_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "_boot", lambda: "one start")
    path = budget.write_budget(tmp_path / "budget.json", 2000.0, workload(), WHOLE, "")
    BudgetGuard(path, [], 1, lambda: False)
    monkeypatch.setattr(budget, "_boot", lambda: "another")
    with pytest.raises(InputError) as caught:
        BudgetGuard(path, [], 1, lambda: False)
    assert str(caught.value) == (
        f"{path} is of before this machine was started, or of another one, and its clock means nothing here; run "
        "run_all.py with its --budget again, or leave --budget out"
    )


def test_setting_the_clock_does_not_change_a_budget(tmp_path, monkeypatch):
    job = Case(tmp_path, monkeypatch, until=1200)
    budget.time.time = lambda: 1e12  # the clock on the wall, set far ahead meanwhile
    assert job.begin(0)


@pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="the system does not name its starts")
def test_a_start_of_the_machine_has_one_name():
    assert len(budget._boot()) == 36 and budget._boot() == budget._boot()


# A session


def session_guard(monkeypatch, jobs: list, until: float, cost: plan.Cost) -> SimpleNamespace:
    """Return the guard of a session that ends at `until`, and a clock at 1000."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: clock.now))
    costs = {job.identity.name: cost for job in jobs}
    return SimpleNamespace(may=budget.SessionGuard(budget.Budget(until, costs), jobs), clock=clock)


def test_in_a_session_a_fold_starts_if_its_first_epoch_fits(monkeypatch):
    jobs = jobs_of("lite0", 2) + jobs_of("cnn5", 1)  # 100 s a fold: 20 s an epoch of five, 10 s of ten
    assert [job.recipe.epochs for job in jobs] == [5, 5, 10]
    session = session_guard(monkeypatch, jobs, 1100, Cost(0.0, 100.0))
    assert session.may(jobs[0], [])
    session.clock.now = 1080
    assert session.may(jobs[1], jobs[:1])  # ends its first epoch at 1100
    session.clock.now = 1081
    assert not session.may(jobs[1], jobs[:1])
    session.clock.now = 1090
    assert session.may(jobs[2], [])


def test_the_first_job_of_a_session_starts_however_late_it_is(monkeypatch):
    jobs = jobs_of("lite0", 2)
    session = session_guard(monkeypatch, jobs, 500, Cost(0.0, 100.0))
    assert session.may(jobs[0], []) and not session.may(jobs[1], [])


def test_after_frozen_stages_that_take_the_whole_session_a_fold_starts_still(monkeypatch):
    jobs, _ = order_jobs(jobs_of("lite0", 2) + jobs_of("lite1", 1), ["cpu"])  # frozen stages, then two folds; another
    session = session_guard(monkeypatch, jobs, 1010, Cost(50.0, 100.0))
    assert session.may(jobs[0], [])
    session.clock.now = 1050
    assert not session.may(jobs[3], jobs[:1])  # those of the other run
    assert session.may(jobs[1], [])  # else a next session without cache/ would get no further
    assert not session.may(jobs[2], [])


def test_what_cannot_be_stopped_counts_as_a_whole_and_holds_back_its_run(monkeypatch):
    folds = jobs_of("lite0", 1)
    jobs, _ = order_jobs(folds, ["cpu"])  # frozen stages, then the fold
    classifier = jobs_of("lite2_svm", 1)
    session = session_guard(monkeypatch, [*jobs, *classifier], 1100, Cost(50.0, 100.0))
    session.may(classifier[0], [])
    session.clock.now = 1001
    assert not session.may(classifier[0], [])  # a fit of 100 s
    session.clock.now = 1051
    assert not session.may(jobs[0], [])  # 50 s for all of the frozen stages
    assert not session.may(jobs[1], [])  # whose epoch of 20 s would have to compute them itself


def stops(monkeypatch, until: float, resumed: bool, seconds: list[float]) -> int | None:
    """Return after which epoch a fold stops whose epochs take so long, the clock standing at 0 before them."""
    clock, history = SimpleNamespace(now=0.0), [{"seconds": 900.0}] if resumed else []
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: clock.now))
    before_epoch = budget.stop_in_time(until, resumed)
    try:
        for each in seconds:
            if history:
                before_epoch(history)
            clock.now += each
            history.append({"seconds": each})
        before_epoch(history)
    except budget.SessionOver as stop:
        assert str(stop) == f"the session is over after epoch {stop.epochs}"
        return stop.epochs
    return None


def test_a_fold_stops_before_the_epoch_that_would_end_too_late(monkeypatch):
    assert stops(monkeypatch, 50, False, [10, 10, 10, 10]) is None  # the next would end at 50
    assert stops(monkeypatch, 49, False, [10, 10, 10, 10]) == 4
    assert stops(monkeypatch, 50, False, [10, 20, 10]) == 3  # as long as the longest, not as the last
    assert stops(monkeypatch, 5, False, [10, 10]) == 1  # an epoch in any case
    assert stops(monkeypatch, 5, True, [10, 10]) == 2  # and one of its own
    assert stops(monkeypatch, 30, True, [10, 10]) is None  # 900 s of another session, perhaps another machine


def test_a_session_keeps_the_time_of_a_folds_last_predictions_and_of_blend_and_report(tmp_path):
    work = workload()
    assert work.longest_prediction(WHOLE.recipes) == pytest.approx(2 * (200 + 300) * 0.002)  # plain and mirror
    assert work.longest_prediction([]) == 0.0
    path = budget.write_budget(tmp_path / "session.json", 2000.0, work, WHOLE, "")
    assert budget.load_budget(path, NAMES, "--session").until == 2000 - 15 - 2
    with pytest.raises(InputError, match="it was written for other runs. Leave --session out"):
        budget.load_budget(path, ["lite1"], "--session")


def test_a_session_in_words():
    assert budget.format_session(30600, 100) == (
        "  session 8 h 30 min, 2 min of it spent: training stops at the end of an epoch before it is over;\n"
        "  the same command goes on there"
    )
    assert budget.format_session_result(30600, 30000, {"lite0": 0, "cnn5": 2}) == (
        "session 8 h 30 min: 8 h 20 min used; not finished: cnn5 (2 folds). The same command goes on with these"
    )
