"""The search for settings: what is tried, when a trial ends early, and that a killed sweep ends with the same table."""

import dataclasses

import pandas as pd
import pytest
import torch

import sweep as step
from command import few_methods, refused, run, train_here
from facefold.models.recipe import load_recipe, parse_recipe
from facefold.runs import Identity
from facefold.training import fold as fold_module
from facefold.training import sweep, workers
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, write_csv, write_json

TINY = 'backbone = "cnn3"\nsize = 16\nwidth = 4\nbatch = 16\nepochs = 3\nlr = 3e-3\naugment = "none"\n'
HOT = TINY.replace("3e-3", "1e30")
STOPPING = TINY.replace("epochs = 3", 'epochs = 9\nschedule = "constant"\nmonitor = 0.3\nearly_stopping = 1')
GRID = ("--recipe", "tiny", "--over", "lr=3e-3,1e-2,1", "--over", "width=4,8")


@pytest.fixture
def tiny(tmp_path, monkeypatch, one_thread):
    """Train in this process, with one recipe of a few hundred weights."""
    texts = {"tiny": TINY, "wild": TINY.replace("3e-3", "1.0"), "hot": HOT, "stopping": STOPPING}
    train_here(tmp_path / "recipes", monkeypatch, **texts)
    return tmp_path


def names(text: str, *over: str, most: int = 20, seed: int = 0) -> list[str]:
    return [recipe.name for recipe in sweep.sweep_recipes(text, sweep.parse_grid(over), most, seed)]


def test_every_combination_is_tried_after_the_recipe_itself(tiny):
    assert names("tiny", "lr=0.003,1e-2", "width=4,8") == [
        "tiny",
        "tiny~width=8",
        "tiny~lr=0.01",
        "tiny~lr=0.01~width=8",
    ]
    assert names("tiny~width=8", "epochs=3,2") == ["tiny~width=8", "tiny~width=8@2"]


def test_of_a_larger_grid_trials_are_drawn_by_the_seed(tiny):
    grid = ("lr=1e-3,2e-3,4e-3,5e-3", "width=4,6,8,10")
    drawn = names("tiny", *grid, most=5)
    assert len(drawn) == 5 and drawn[0] == "tiny" and set(drawn) < set(names("tiny", *grid))
    assert drawn == names("tiny", *grid, most=5) != names("tiny", *grid, most=5, seed=1)


@pytest.mark.parametrize(
    "over, message",
    [
        (("lr",), "--over lr: a setting and its values are needed, each setting once: lr=3e-4,1e-3"),
        (("lr=1", "lr=2"), "--over lr=2: a setting and its values are needed, each setting once: lr=3e-4,1e-3"),
        (
            ("epochs=0",),
            "'tiny@0', tiny.toml with epochs = 0, is not a recipe:\n  - epochs = 0 should be above 0\n"
            "  - warmup is not shorter than epochs",
        ),
    ],
)
def test_what_is_no_grid_is_refused(tiny, over, message):
    with pytest.raises(InputError) as caught:
        names("tiny", *over)
    assert str(caught.value) == message


def finished(curves: list[tuple[str, list[float]]]) -> list[sweep.SweepJob]:
    """Return jobs that ended in these ways with these losses."""

    class Done:
        def __init__(self, ended, losses):
            self.result = {"ended": ended}
            self.losses = losses

        def history(self):
            return {"valid_loss": torch.tensor(self.losses, dtype=torch.float64)}

    return [Done(*curve) for curve in curves]


def test_the_bound_of_an_epoch_is_the_median_of_the_trials_that_ran_to_their_end():
    jobs = finished([("whole", [4.0, 1.0]), ("whole", [2.0, 3.0]), ("whole", [3.0]), ("stopped", [9.0, 9.0])])
    assert sweep.loss_bounds(jobs) == (3.0, 2.0)
    assert sweep.loss_bounds([]) == ()


@pytest.mark.parametrize(
    "ended, bounds, finished",
    [
        ("whole", (0.6, 0.6), True),
        ("stopped", (0.6, 0.6), True),
        ("stopped", (0.6, 0.8), False),
        ("stopped", (0.6,), False),
        ("stopped", (), False),
        ("diverged", (), True),
    ],
)
def test_a_stopped_trial_has_ended_only_if_the_bounds_of_now_stop_it_too(tmp_path, ended, bounds, finished):
    identity = Identity("lite0", "recipe", "folds", "images", 0)
    job = sweep.SweepJob(tmp_path, "lite0", load_recipe("lite0"), identity, 0, None, bounds)
    assert not job.finished
    history = pd.DataFrame({"epoch": [0, 1], "valid_loss": [0.5, 0.7], "score": [0.8, 0.7]})
    write_csv(job.folder / "history.csv", history)
    write_json(job.folder / "result.json", {"ended": ended})
    assert job.finished == finished


def test_a_sweep_ends_bad_trials_early_and_killed_it_ends_with_the_same_table(
    tiny, make_competition, tmp_path, monkeypatch
):
    roots = [tmp_path / "a", tmp_path / "b"]
    for root in roots:
        make_competition(root, 80, 20, 32, 2)
    done = run("sweep", roots[0], *GRID)
    assert done.returncode == 0, done.stderr
    table = (roots[0] / "sweep" / "tiny" / "sweep.csv").read_text()
    rows = [line.split(",") for line in table.splitlines()[1:]]
    assert [row[1] for row in rows] == ["whole"] * 4 + ["stopped"] * 2
    assert {row[0] for row in rows[4:]} == {"tiny~lr=1", "tiny~lr=1~width=8"} and {row[2] for row in rows[4:]} == {"1"}

    save, saved = fold_module.save_checkpoint, []

    def save_and_die(*args):
        save(*args)
        saved.append(args)
        if len(saved) in (2, 14):  # in the first generation, and just before a trial of the second is judged
            raise KeyboardInterrupt

    monkeypatch.setattr(fold_module, "save_checkpoint", save_and_die)
    for _ in range(2):
        assert run("sweep", roots[1], *GRID).returncode == 130
    assert run("sweep", roots[1], *GRID).returncode == 0
    assert (roots[1] / "sweep" / "tiny" / "sweep.csv").read_text() == table
    assert not list(roots[1].rglob("checkpoint*")) and not list((roots[1] / "cache").glob("frozen/*"))


def test_a_budget_starts_no_further_generation_and_more_of_it_goes_on(tiny, make_competition, tmp_path):
    make_competition(tmp_path, 80, 20, 32, 2)
    short = run("sweep", tmp_path, *GRID, "--budget", "0.001s")
    assert short.returncode == 0 and "2 trials are left: the same command with a larger --budget" in short.stdout
    results = {path: read_json(path) for path in tmp_path.glob("sweep/tiny/*/result.json")}
    assert len(results) == sweep.GENERATION
    assert run("sweep", tmp_path, *GRID).returncode == 0
    assert {path: read_json(path) for path in results} == results
    assert len(list(tmp_path.glob("sweep/tiny/*/result.json"))) == 6


def test_the_best_is_scored_on_the_other_folds(tiny, make_competition, tmp_path, monkeypatch):
    few_methods(monkeypatch)
    make_competition(tmp_path, 80, 20, 32, 2)
    trained = []

    def run_step(name, *options):
        trained.extend(map(str, options[2:]))
        run(name, tmp_path, *options[2:])

    monkeypatch.setattr(step, "run_step", run_step)
    found = run("sweep", tmp_path, "--recipe", "wild", "--over", "lr=3e-3,1")
    assert found.returncode == 0, found.stderr
    command = f"python src/train.py --root {tmp_path} --recipe wild~lr=0.003"
    assert found.stdout.endswith(f"add --score, or train it:\n  {command}\n")
    done = run("sweep", tmp_path, "--recipe", "wild", "--over", "lr=3e-3,1", "--score", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert trained == ["--device", "auto", "--workers", "1", "--recipe", "wild,wild~lr=0.003"]
    assert "on 39 rows of the other folds" in done.stdout and "(McNemar, p = " in done.stdout
    assert run("blend", tmp_path, "--recipes", "wild", "--method", "best_single").returncode == 0
    assert run("report", tmp_path).returncode == 0
    page = (tmp_path / "report.html").read_text()
    assert "Settings searched" in page and '<th scope="col">trial of wild</th>' in page
    assert '<th scope="row">wild~<wbr>lr=<wbr>0.003</th>' in page


def test_trials_of_a_seed_have_that_seed(tiny, make_competition, tmp_path):
    # What names a trial's folder has no key for what no trial has: else earlier ones would be trained again.
    plain = {"recipe", "recipe_hash", "folds_hash", "images_hash", "seed"}
    plain |= {"corrections", "target", "task", "pseudo", "fold"}
    make_competition(tmp_path, 20, 10, 16, 2)
    assert run("sweep", tmp_path, "--recipe", "tiny#1", "--over", "width=8").returncode == 0
    results = [read_json(path) for path in tmp_path.glob("sweep/tiny#1/*/result.json")]
    assert all(result["identity"].keys() == plain for result in results)
    assert [(result["identity"]["recipe"], result["identity"]["seed"]) for result in sorted(results, key=str)] == [
        ("tiny#1", 1),
        ("tiny~width=8#1", 1),
    ]


def test_one_setting_too_few_is_said(tiny, make_competition, tmp_path):
    make_competition(tmp_path, 20, 10, 16, 2)
    assert (
        refused("sweep", tmp_path, "--recipe", "tiny", "--over", "width=4") == "--over has only what tiny has already"
    )
    assert refused("sweep", tmp_path, *GRID, "--fold", "2") == "--fold 2: the folds are 0 to 1"
    assert refused("sweep", tmp_path, *GRID, "--trials", "1") == (
        "--trials 1: at least two, the recipe itself and another one"
    )


def test_a_trial_that_diverges_is_finished_and_never_the_best(tiny, make_competition, tmp_path, monkeypatch):
    make_competition(tmp_path, 40, 10, 32, 2)
    command = ("--recipe", "hot", "--over", "lr=3e-3")
    found = run("sweep", tmp_path, *command, "--score")
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith(
        "hot itself diverged, so there is nothing to compare the best with; train it:\n"
        f"  python src/train.py --root {tmp_path} --recipe hot~lr=0.003\n"
    )
    rows = (tmp_path / "sweep" / "hot" / "sweep.csv").read_text().splitlines()
    assert rows[1].startswith("hot~lr=0.003,whole,3,") and rows[2:] == ["hot,diverged,0,inf,0,acc"]
    assert [path for path in (tmp_path / "sweep").rglob("checkpoint*")] == []
    monkeypatch.setattr(fold_module.FoldTrainer, "train", None)  # all are finished
    assert run("sweep", tmp_path, *command).stdout.splitlines()[-6:] == found.stdout.splitlines()[-6:]
    assert sweep.load_tables(tmp_path)["hot"]["ended"].tolist() == ["whole", "diverged"]


def test_a_sweep_whose_trials_all_diverged_says_so(tiny, make_competition, tmp_path):
    make_competition(tmp_path, 40, 10, 32, 2)
    done = run("sweep", tmp_path, "--recipe", "hot", "--over", "width=8", "--score")
    last = done.stdout.splitlines()[-1]
    assert last == "every trial diverged, its loss was not finite: search at smaller values of lr"


def trial(root, ended: str, losses: list[float], recipe=None, **facts) -> sweep.SweepJob:
    """Return a job that ended so; its scores are 1 - loss."""
    identity = Identity(f"{ended}_{len(losses)}", "recipe", "folds", "images", 0)
    recipe = dataclasses.replace(recipe or load_recipe("tiny"), name=identity.recipe)
    job = sweep.SweepJob(root, "tiny", recipe, identity, 0, None)
    scores = [1 - loss for loss in losses]
    table = pd.DataFrame({"epoch": range(len(losses)), "valid_loss": losses, "score": scores})
    write_csv(job.folder / "history.csv", table)
    write_json(job.folder / "result.json", {"ended": ended, "metric": "acc", **facts})
    return job


def test_the_table_by_hand(tiny):
    jobs = [trial(tiny, "diverged", [0.25]), trial(tiny, "stopped", [0.5, 0.75]), trial(tiny, "whole", [0.5, 1.0])]
    table = sweep.sweep_table([*jobs, trial(tiny, "diverged", [])])
    assert table.drop(columns="metric").to_numpy().tolist() == [
        ["whole_2", "whole", 2, 1.0, 0.0],
        ["stopped_2", "stopped", 2, 0.75, 0.25],
        ["diverged_1", "diverged", 1, 0.25, 0.75],
        ["diverged_0", "diverged", 0, float("inf"), 0.0],
    ]


def test_a_trial_is_ranked_by_the_epoch_that_early_stopping_keeps(tiny):
    table = sweep.sweep_table([trial(tiny, "whole", [0.5]), trial(tiny, "whole", [0.75, 0.25, 1.0], kept=1)])
    assert table[["trial", "epochs", "valid_loss", "score"]].to_numpy().tolist() == [
        ["whole_3", 3, 0.25, 0.75],
        ["whole_1", 1, 0.5, 0.5],
    ]


def test_a_trial_of_a_version_that_did_not_record_the_epoch_is_trained_again(tiny):
    stopping = load_recipe("stopping")
    jobs = [trial(tiny, "whole", [0.5], stopping), trial(tiny, "whole", [0.5, 0.25], stopping, kept=0)]
    assert [job.finished for job in jobs] == [False, True]
    assert trial(tiny, "whole", [0.5]).finished and trial(tiny, "diverged", [0.5], stopping).finished


def test_of_trials_with_one_network_one_is_built():
    names = ("demo_cnn", "demo_cnn~lr=0.01", "demo_cnn~width=8", "demo_cnn~lr=0.01~width=8", "demo_cnn~dropout=0.25")
    found = sweep.distinct_networks([load_recipe(name) for name in names])
    assert [recipe.name for recipe in found] == ["demo_cnn", "demo_cnn~width=8", "demo_cnn~dropout=0.25"]


def test_a_trial_records_the_epoch_that_early_stopping_keeps(tiny, make_competition, tmp_path, monkeypatch):
    monitor = iter([0.5, 0.25, 0.75] * 2)

    def dictated(self):
        return {"monitor_loss": next(monitor), "valid_loss": 0.5 + 0.125 * len(self.history), "valid_acc": 0.75}

    monkeypatch.setattr(fold_module.FoldTrainer, "evaluate", dictated)
    make_competition(tmp_path, 40, 10, 32, 2)
    assert run("sweep", tmp_path, "--recipe", "stopping", "--over", "width=8").returncode == 0
    assert {read_json(path)["kept"] for path in tmp_path.glob("sweep/stopping/*/result.json")} == {1}
    rows = (tmp_path / "sweep" / "stopping" / "sweep.csv").read_text().splitlines()
    assert rows[1] == "stopping,whole,3,0.625,0.75,acc"


def test_a_trial_with_other_weights_is_another_one(tiny):
    identity, (none, first, second, third) = Identity("r", "recipe", "folds", "images", 0), map(str, range(4))
    for name in (first, second, third):
        (tiny / name).mkdir()
        (tiny / name / "test_resnet.pth").write_bytes(b"b" if name == third else b"a")
    recipe = parse_recipe("r", {"backbone": "test_resnet", "weights": "hub"}, "r.toml")

    def job(recipe, folder: str) -> sweep.SweepJob:
        return sweep.SweepJob(tiny, "r", recipe, identity, 0, None if folder == none else tiny / folder)

    assert "weights" not in job(recipe, none).key
    assert job(recipe, first).key["weights"] == {
        "source": "test_resnet.pth",
        "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",  # of a, as sha256sum has it
    }
    folders = [job(recipe, name).folder for name in (none, first, second, third)]
    assert folders[1] == folders[2] and len(set(folders)) == 3
    packaged = dataclasses.replace(recipe, weights="package:test_resnet_weights")
    assert "weights" not in job(packaged, first).key  # which reads no file of the folder


def test_trials_on_a_gpu_augment_in_the_processes_that_folds_have(tiny, make_competition, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "select_devices", lambda device, count: ["cuda:0", "cuda:1"])
    monkeypatch.setattr(workers, "core_count", lambda: 6)
    train_fold, seen = fold_module.train_fold, []

    def train_fold_here(task, device, position, loader_workers, **options):
        seen.append(loader_workers)
        return train_fold(task, device, position, **options)

    monkeypatch.setattr(fold_module, "train_fold", train_fold_here)
    make_competition(tmp_path, 20, 10, 16, 2)
    assert run("sweep", tmp_path, "--recipe", "tiny", "--over", "width=8").returncode == 0
    assert seen == [3, 3]


def test_a_trial_whose_network_cannot_be_built_is_named_before_any_is_trained(tiny, make_competition, tmp_path):
    make_competition(tmp_path, 20, 10, 16, 2)
    text = refused("sweep", tmp_path, "--recipe", "tiny", "--over", "width=4,8", "--over", "size=16,8")
    assert text == "\n".join(
        f"recipe {name}: cnn3 halves the image four times: size = 8 should be 16 or more"
        for name in ("tiny~size=8", "tiny~size=8~width=8")
    )
    assert not (tmp_path / "sweep").exists()
