"""clean.py as a user runs it, on fabricated runs, and train.py and blend.py with what it wrote."""

import importlib
import re
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import clean
from command import apart, call, refused, run
from facefold.data.competition import load_competition
from facefold.data.corrections import NO_CORRECTIONS, Corrections
from facefold.data.folds import load_folds
from facefold.data.image_hashes import load_images_hash
from facefold.data.synthetic import write_synthetic_competition
from facefold.ensemble.label_issues import COLUMNS
from facefold.models.recipe import load_recipe
from facefold.report.galleries import find_suspects
from facefold.runs import (
    Identity,
    current_identity,
    fold_dir,
    load_member,
    load_predictions,
    run_names,
    seal_fold,
    write_history,
    write_predictions,
)
from facefold.task import load_task
from facefold.training import jobs
from facefold.utils import processes
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, write_text

ODD = ["50", "90", "140", "200"]  # the rows that the fabricated models are sure about, against their label


def fabricate(root: Path, name: str, noise: float, corrections: Corrections = NO_CORRECTIONS, extra: str = "") -> None:
    """Write a run of recipe `name`: features are the logit and noise, probabilities follow the labels but for ODD."""
    competition, folds = load_competition(root), load_folds(root, load_task(root))
    rng = np.random.default_rng(len(name))
    more = {"corrections": corrections.hash, "task": folds.target.hash, "extra": extra}
    identity = Identity(name, load_recipe(name).hash, folds.hash, load_images_hash(root), 5, **more)
    for k in range(folds.k):
        directory, valid = fold_dir(root, identity.name, k), folds.valid(k)
        side = (2 * valid["label"] - 1) * np.where(valid["id"].isin(ODD), -2, 1)
        logit = (3 * side + noise * rng.normal(size=len(valid))).to_numpy()
        features = np.column_stack([logit, *rng.normal(size=(2, len(valid)))])
        write_predictions(directory, "oof", valid["id"].tolist(), 1 / (1 + np.exp(-logit)), features)
        tests = competition.test["id"].tolist()
        write_predictions(directory, "test", tests, rng.random(len(tests)), rng.normal(size=(len(tests), 3)))
        write_history(
            directory,
            pd.DataFrame(
                {"epoch": [1], "lr": 1e-3, "train_loss": 0.4, "valid_loss": 0.4, "valid_acc": 0.9, "seconds": 3.0}
            ),
        )
        write_text(directory / "weights.safetensors", "fabricated")
        seal_fold(directory, identity, {"seconds": 10.5, "device": "cpu", "precision": "float32"}, corrections)


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory, make_competition) -> Path:
    root = tmp_path_factory.mktemp("fabricated")
    make_competition(root, 240, 60, 16, 3)
    fabricate(root, "lite0", 0.8)
    fabricate(root, "cnn5", 1.0)
    return root


@pytest.fixture
def root(fabricated, tmp_path) -> Path:
    return Path(shutil.copytree(fabricated, tmp_path / "root"))


def suspects(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "runs" / "label_issues.csv", dtype={"id": str, "group": str})


def test_the_suspects_are_listed_with_their_pictures(root):
    done = run("clean", root)
    assert done.returncode == 0, done.stderr
    table = suspects(root)
    assert list(table.columns) == ["id", "label", "prob", "kind", "rank", "suggested", "confidence", "group"]
    conflicts, confident = table[table["kind"] == "conflict"], table[table["kind"] == "confident"]
    assert set(conflicts["id"]) >= {"1", "2"} and set(confident["id"]) == set(ODD) - set(conflicts["id"])
    assert table["rank"].tolist() == list(range(1, len(table) + 1))
    assert table["kind"].tolist() == ["conflict"] * len(conflicts) + ["confident"] * len(confident)
    fold = load_folds(root).table.set_index("id")["fold"]["50"]
    two = [
        load_predictions(fold_dir(root, name, fold) / "oof.csv").set_index("id")["prob"]["50"]
        for name in ("lite0", "cnn5")
    ]
    assert table.set_index("id")["prob"]["50"] == pytest.approx(sum(two) / 2, abs=1e-8)
    assert done.stdout.splitlines()[0] == (
        f"{len(table)} of 240 labels to look at: {len(conflicts)} in groups with both labels, "
        f"{len(confident)} by confident learning on cnn5, lite0"
    )
    page = (root / "label_issues.html").read_text()
    assert page.count('<div class="card">') == len(table) and page.count("<img ") == 6 * len(table)
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert str(root) not in page and not list(root.glob("corrections*"))
    whole = (root / "runs" / "label_issues.csv").read_bytes(), page
    assert apart("clean", root, "--recipes", "lite0,cnn5", PYTHONHASHSEED="1").returncode == 0
    assert ((root / "runs" / "label_issues.csv").read_bytes(), (root / "label_issues.html").read_text()) == whole


def test_the_suspects_of_two_named_classes_have_their_names(tmp_path):
    write_synthetic_competition(tmp_path, train=60, test=10, size=16)
    for name in ("train", "sampleSubmit"):
        path = tmp_path / "competition" / f"{name}.csv"
        path.write_text(path.read_text().replace(",0\n", ",cat\n").replace(",1\n", ",dog\n"))
    call("audit", tmp_path)
    call("split", tmp_path, "--folds", "3")
    fabricate(tmp_path, "lite0", 0.8)
    call("clean", tmp_path)
    table = suspects(tmp_path).set_index("id")
    assert set(table["label"]) | set(table["suggested"]) == {"cat", "dog"}
    labels = pd.read_csv(tmp_path / "competition" / "train.csv", dtype=str).set_index("id")["label"]
    assert table["label"].equals(labels.loc[table.index]) and table["suggested"]["50"] != labels["50"]
    page = (tmp_path / "label_issues.html").read_text()
    assert f"1. Label {table['label'].iloc[0]}; the probability of label dog is" in page


def test_rows_of_one_patient_with_different_labels_are_no_conflict(tmp_path):
    """The synthetic rows 1 and 2 show one picture with both labels; 50 and 90 do not, and have the wrong labels."""
    write_synthetic_competition(tmp_path, train=240, test=60, size=16)
    patients = [f"{row},{row // 3}" for row in range(1, 241)]
    write_text(tmp_path / "competition" / "meta.csv", "id,patient\n" + "\n".join(patients) + "\n")
    conflicts = {}
    for grouping in ("near", "bytes", "none"):
        call("split", tmp_path, "--folds", "3", "--groups", grouping, "--group", "patient", "--force")
        fabricate(tmp_path, "lite0", 0.8)
        call("clean", tmp_path)
        table = suspects(tmp_path).set_index("id")
        conflicts[grouping] = table[table["kind"] == "conflict"]["group"].to_dict()
        confident = table[table["kind"] == "confident"]
        assert set(confident.index) == set(ODD) and (confident["group"] == confident.index).all()
    assert conflicts == {"near": {"1": "1", "2": "1"}, "bytes": {"1": "1", "2": "1"}, "none": {}}
    folds, competition = load_folds(tmp_path), load_competition(tmp_path)
    assert folds.table.set_index("id")["group"].loc[["3", "4", "5"]].tolist() == ["3", "3", "3"]  # a patient
    identity = current_identity("lite0", folds, load_images_hash(tmp_path))
    member = load_member(tmp_path, identity, "lite0", folds, competition.test["id"].tolist())
    assert find_suspects(competition, folds, [member])["conflicts"] == []


def test_the_command_to_train_again_names_a_recipe(root):
    fabricate(root, "lite0", 0.8, extra="e" * 64)
    done = run("clean", root, "--recipes", "lite0+extra", "--write-corrections", "new.csv", "--top", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("then `python src/train.py --recipe lite0 --corrections new.csv`\n")


def test_corrections_are_written_for_a_person_to_edit(root):
    path = root / "corrections.csv"
    done = run("clean", root, "--write-corrections", "corrections.csv", "--top", "8")
    assert done.returncode == 0, done.stderr
    first = suspects(root).head(8)
    expected = ["keep" if row.suggested == row.label else "drop" for row in first.itertuples()]
    assert path.read_text() == "id,action\n" + "".join(f"{id},{action}\n" for id, action in zip(first["id"], expected))
    assert expected.count("keep") == expected[: sum(first["kind"] == "conflict")].count("keep") > 0
    assert done.stdout.splitlines()[-1].endswith("`python src/train.py --recipe cnn5 --corrections corrections.csv`")

    assert (
        run("clean", root, "--write-corrections", "corrections.csv", "--top", "8").returncode == 0
    )  # the same again is no conflict
    path.write_text(path.read_text().replace("drop", "relabel", 1))
    edited = path.read_text()
    assert refused("clean", root, "--write-corrections", path, "--top", 8) == (
        f"{path} is there with other content: it was edited by hand, or written with other options. "
        "Name another file, or replace it with --force."
    )
    assert path.read_text() == edited
    assert (
        run(
            "clean",
            root,
            "--write-corrections",
            "corrections.csv",
            "--confidence",
            "0.95",
            "--action",
            "relabel",
            "--force",
        ).returncode
        == 0
    )
    sure = suspects(root)
    sure = sure[sure["confidence"] >= 0.95]
    assert pd.read_csv(path, dtype=str)["id"].tolist() == sure["id"].tolist() and 0 < len(sure) < len(suspects(root))
    assert "drop" not in path.read_text() and "relabel" in path.read_text()


def test_options_that_do_not_go_together(root):
    assert refused("clean", root, "--top", 5) == "--top belongs to --write-corrections FILE"
    assert refused("clean", root, "--confidence", 0) == "--confidence belongs to --write-corrections FILE"
    assert refused("clean", root, "--action", "relabel") == "--action belongs to --write-corrections FILE"
    path = root / "new.csv"
    assert refused("clean", root, "--write-corrections", path) == (
        "--write-corrections: say how many with --top N, or how confident with --confidence C"
    )
    assert refused("clean", root, "--write-corrections", path, "--top", 0) == "--top 0: at least 1"
    assert (
        refused("clean", root, "--write-corrections", path, "--confidence", 95)
        == "--confidence 95.0: a probability, 0 to 1"
    )
    assert refused("clean", root, "--write-corrections", path, "--confidence", 1) == (
        f"no suspect has confidence 1 or more; {path} is unchanged"
    )
    assert refused("clean", root, "--write-corrections", root, "--top", 5) == f"{root} is a folder; name a file"
    assert not path.exists()
    shutil.rmtree(root / "runs")
    assert (
        refused("clean", root) == "there are no runs to judge labels by. Run `python src/train.py --recipe NAME` first."
    )


def test_without_suspects_nothing_is_proposed(tmp_path):
    path = tmp_path / "corrections.csv"
    args = Namespace(action=None, top=5, confidence=None, write_corrections=path, force=False)
    with pytest.raises(InputError, match=f"^there are no suspects; {path} is unchanged$"):
        clean.propose(args, pd.DataFrame(columns=COLUMNS), "cnn5")


def test_before_and_after_stand_in_one_leaderboard(root):
    corrections = Corrections({"50": "relabel", "90": "drop", "140": "relabel"})
    fabricate(root, "lite0", 0.8, corrections)
    assert run_names(root) == ["cnn5", "lite0", "lite0+corrected"]
    done = run("blend", root, "--method", "mean")
    assert done.returncode == 0, done.stderr
    board = pd.read_csv(root / "submissions" / "leaderboard.csv").set_index("name")
    labels = load_folds(root).table.set_index("id")["label"]
    prob = pd.concat([load_predictions(fold_dir(root, "lite0+corrected", k) / "oof.csv") for k in range(3)])
    right = (prob.set_index("id")["prob"] >= 0.5).astype(int).loc[labels.index] == labels
    assert not right["50"] and not right["90"] and not right["140"]
    assert (
        board.loc["lite0+corrected", "accuracy"] == board.loc["lite0", "accuracy"] == pytest.approx(right.sum() / 240)
    )
    assert board.loc["lite0+corrected", "corrected_accuracy"] == pytest.approx((right.sum() + 2) / 239)
    facts = read_json(root / "submissions" / "blend.json")["corrections"]
    assert (
        facts["hash"] == corrections.hash
        and facts["changes"] == "1 dropped, 2 relabelled"
        and facts["score"]["rows"] == 239
    )
    assert done.stdout.splitlines()[-1].endswith(
        f"by mean ({facts['score']['accuracy']:.4f} against the corrected labels)"
    )
    assert "by corrected labels" in done.stdout

    done = run("report", root)
    assert done.returncode == 0, done.stderr
    page = (root / "report.html").read_text()
    assert "Some recipes were trained on corrected labels (1 dropped, 2 relabelled)." in page
    assert '<th scope="col" class="number">accuracy against corrected labels</th>' in page
    assert "corrected labels<small>over lite0</small>" in page
    assert "python src/train.py --recipe lite0 --seed 5 --corrections FILE\n" in page
    assert "python src/train.py --recipe cnn5,lite0 --seed 5\n" in page

    run("clean", root)
    lead = (root / "label_issues.html").read_text().split("</h1>")[0]
    assert lead.endswith(
        "by confident learning on cnn5, lite0"
    )  # judged by the models that learned from the given labels


def test_runs_of_different_corrections_are_not_scored_together(root):
    fabricate(root, "lite0", 0.8, Corrections({"50": "relabel"}))
    fabricate(root, "cnn5", 1.0, Corrections({"50": "drop"}))
    assert refused("blend", root) == (
        "cnn5+corrected, lite0+corrected learned from different corrections, so there are no corrected labels to score "
        "all by. Train them with one --corrections FILE, or name the recipes to blend with --recipes."
    )
    assert run("blend", root, "--recipes", "lite0,lite0+corrected", "--method", "mean").returncode == 0


def test_corrections_reach_training_rows_and_no_held_out_one(root, monkeypatch):
    split = load_folds(root)
    held, learned = split.valid(1), split.train(1)
    corrections = Corrections(
        {held["id"][0]: "relabel", held["id"][1]: "drop", learned["id"][0]: "relabel", learned["id"][1]: "drop"}
    )
    seen = []

    def fit(task, *_):
        seen.append(task)
        raise KeyboardInterrupt

    monkeypatch.setattr("facefold.training.fold.train_fold", fit)
    identity = Identity(
        "demo_cnn", load_recipe("demo_cnn").hash, split.hash, load_images_hash(root), 0, corrections.hash
    )
    with pytest.raises(KeyboardInterrupt):
        jobs.FoldJob(root, load_recipe(identity.recipe), identity, corrections, 1, None, 0).run(torch.device("cpu"), 0)
    task = seen[0]
    assert task.valid[["id", "label"]].reset_index(drop=True).equals(held)  # each row, each with its given label
    labels = task.train.set_index("id")["label"]
    assert labels.index.tolist() == [id for id in learned["id"] if id != learned["id"][1]]
    changed = labels != learned.set_index("id")["label"].loc[labels.index]
    assert changed[changed].index.tolist() == [learned["id"][0]]
    assert (
        task.checkpoint.parent == root / "runs" / "demo_cnn+corrected" / "fold_1"
        and task.identity["corrections"] == corrections.hash
    )


def test_the_whole_job_passes_corrections_on(root, monkeypatch, capsys):
    run_all = importlib.import_module("run_all")
    path = root / "corrections.csv"
    path.write_text("id,action\n50,relabel\n")
    fabricate(root, "lite0", 0.8, Corrections({"50": "relabel"}))
    done = {}

    def run_step(name, *options):
        done[name] = [str(option) for option in options]
        if name == "report":
            raise SystemExit(0)
        return 1.0

    monkeypatch.setattr(run_all, "run_step", run_step)
    monkeypatch.setattr(processes, "stop_server", lambda: None)  # the next test takes the same one
    for options, trained, blended in (
        ((), [], "lite0,cnn5"),
        (("--corrections", str(path)), ["--corrections", str(path)], "lite0+corrected"),
    ):
        names = "lite0" if options else "lite0,cnn5"
        monkeypatch.setattr(sys, "argv", ["run_all.py", "--root", str(root), "--recipes", names, *options])
        with pytest.raises(SystemExit):
            run_all.main()
        common = ["--root", str(root), "--target", "label"]
        train = [*common, "--recipe", names, *trained, "--engine", "local", "--address", "auto", "--device", "auto"]
        assert done["train"] == [*train, "--seed", "0"]
        assert done["blend"] == [*common, "--recipes", blended]
    assert re.search(r"  lite0\+corrected +0 folds to go, nothing to do\n", capsys.readouterr().out)
    path.write_text("id,action\n2,dropped\n")
    assert f"{path}, row 2: action 'dropped' is none of keep, drop, relabel" in refused(
        "run_all", root, "--recipes", "lite0", "--corrections", path
    )


def test_training_with_corrections(tmp_path, monkeypatch, make_competition):
    make_competition(tmp_path, 60, 20, 32, 2)
    path = tmp_path / "corrections.csv"
    path.write_text("id,action\n3,relabel\n2,drop\n9,keep\n")
    done = run("train", tmp_path, "--recipe", "demo_cnn", "--corrections", "corrections.csv")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"demo_cnn\+corrected: OOF accuracy 0\.\d{4} on 60 rows against the given labels, 0\.\d{4} on 59 against the "
        r"corrected ones, runs/demo_cnn\+corrected/oof\.csv",
        done.stdout.splitlines()[-1],
    )
    assert len((tmp_path / "runs" / "demo_cnn+corrected" / "oof.csv").read_text().splitlines()) == 61
    assert read_json(tmp_path / "runs" / "demo_cnn+corrected" / "fold_0" / "run.json")["corrected"] == {
        "2": "drop",
        "3": "relabel",
    }
    assert run_names(tmp_path) == ["demo_cnn+corrected"]

    path.write_text("id,action\n2,drop\n3,relabel\n")  # other lines that change the same: the run is done
    with monkeypatch.context() as patch:
        patch.setattr(
            "facefold.training.workers.run_jobs", lambda jobs, *_: jobs and pytest.fail("it was trained again")
        )
        call("train", tmp_path, "--recipe", "demo_cnn", "--corrections", path)
    path.write_text("id,action\n2,drop\n")
    assert refused("train", tmp_path, "--recipe", "demo_cnn", "--corrections", path) == (
        f"{tmp_path}/runs/demo_cnn+corrected/fold_0 is stale: it was trained with other corrections. Move it away, or "
        "train over it with `train.py --recipe demo_cnn --corrections FILE --force`."
    )
