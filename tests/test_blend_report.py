"""blend.py and report.py as a person runs them, on fabricated runs."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Collection
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from command import SRC, call, refused, run
from facefold.cli import load_step_costs
from facefold.data.audit import check_images
from facefold.data.competition import load_competition
from facefold.data.folds import load_folds
from facefold.data.image_hashes import load_images_hash
from facefold.ensemble.blend import load_blend
from facefold.ensemble.methods import METHOD_NAMES
from facefold.models import requirements
from facefold.models.recipe import load_recipe
from facefold.models.run_name import parse_run_name
from facefold.runs import Identity, fold_dir, seal_fold, write_history, write_predictions
from facefold.utils.errors import InputError
from facefold.utils.files import write_text

MEMBERS = {"lite0": 1.0, "cnn5": 1.4, "lite1": 1.2}  # recipe: noise
STEPS = """
import runpy, sys
sys.path.insert(0, "{0}")
for name, *options in {2}:
    sys.argv = [name, "--root", "{1}", *options]
    runpy.run_path("{0}/" + name + ".py", run_name="__main__")
"""


def fabricate(root: Path, members: dict[str, float], wrong: Collection[str] = ()) -> None:
    """Write runs of `members` on a synthetic competition; each has noise of its own, and the ids `wrong` wrong.

    A name may have settings, a seed and +extra.
    """
    competition, folds = load_competition(root), load_folds(root)
    for number, (name, noise) in enumerate(members.items()):
        rng = np.random.default_rng(number)
        parts = parse_run_name(name)
        recipe, extra = load_recipe(parts.recipe), {"extra": "e" * 64} if parts.extra else {}
        identity = Identity(recipe.name, recipe.hash, folds.hash, load_images_hash(root), parts.seed or 5, **extra)
        for k in range(folds.k):
            directory, valid = fold_dir(root, name, k), folds.valid(k)
            truth = np.where(valid["id"].isin(wrong), 1 - valid["label"], valid["label"])
            logit = (2 * truth - 1) * 1.5 + noise * rng.normal(size=len(valid))
            prob = {
                "oof": (valid["id"], 1 / (1 + np.exp(-logit))),
                "test": (competition.test["id"], rng.random(len(competition.test))),
            }
            for part, (ids, values) in prob.items():
                write_predictions(directory, part, ids.tolist(), values, rng.normal(size=(len(ids), 3)))
            write_history(
                directory,
                pd.DataFrame(
                    {
                        "epoch": [1, 2],
                        "lr": 1e-3,
                        "train_loss": [0.6, 0.4],
                        "valid_loss": [0.5, 0.4],
                        "valid_acc": [0.8, 0.9],
                        "seconds": 3.0,
                    }
                ),
            )
            write_text(directory / "weights.safetensors", "fabricated")
            facts = {"seconds": 10.5, "device": "cpu", "precision": "float32"}
            rows = {"rows": 1200, "trained": 1200 - k, "dropped": ["a", "b"], "sha256": "e" * 64}
            seal_fold(directory, identity, {**facts, "extra_rows": rows} if extra else facts)


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory, make_competition) -> Path:
    root = tmp_path_factory.mktemp("finished_runs")
    make_competition(root, 240, 60, 16, 3)
    fabricate(root, MEMBERS)
    return root


@pytest.fixture
def root(finished_runs, tmp_path) -> Path:
    return Path(shutil.copytree(finished_runs, tmp_path / "root"))


@pytest.fixture(scope="module")
def finished_blend(finished_runs, tmp_path_factory) -> Path:
    """Blend the runs in a copy of the root, and keep what that printed in blend.txt; return the copy."""
    root = Path(shutil.copytree(finished_runs, tmp_path_factory.mktemp("finished_blend") / "root"))
    done = run("blend", root)
    assert done.returncode == 0, done.stderr
    (root / "blend.txt").write_text(done.stdout)
    return root


@pytest.fixture
def blended(finished_blend, tmp_path) -> Path:
    return Path(shutil.copytree(finished_blend, tmp_path / "blended"))


def content(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "submissions").iterdir())}


@contextmanager
def file_size_limit(size: int):
    """Let no file be larger than `size` bytes, as `ulimit -f` does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_blend_that_finds_no_room_leaves_the_former_one_whole(blended):
    before = content(blended)
    with file_size_limit(1024):
        done = run("blend", blended, "--method", "majority")
    assert done.returncode == 2 and "File too large" in done.stderr and "nothing is lost" in done.stderr
    assert content(blended) == before
    assert load_blend(blended).facts["picked"] == "mean"


def test_a_blend_that_is_killed_between_two_files_is_not_read(blended, monkeypatch):
    root = blended
    before, replace = content(root), os.replace

    def killed(source, target):
        if Path(target) == root / "submissions" / "blend.json":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        call("blend", root, "--method", "majority")
    monkeypatch.undo()
    assert content(root)["blend.json"] == before["blend.json"]
    with pytest.raises(InputError, match="is missing or not what the blend wrote"):
        load_blend(root)
    assert run("blend", root, "--method", "majority").returncode == 0
    assert load_blend(root).facts["picked"] == "majority" and set(content(root)) == set(before)


def test_the_submission_of_a_method_may_be_removed_but_not_changed(blended):
    root = blended
    (root / "submissions" / "greedy.csv").unlink()
    load_blend(root)
    write_text(root / "submissions" / "majority.csv", "id,label\n")
    with pytest.raises(InputError, match="majority.csv is missing or not what the blend wrote"):
        load_blend(root)


def test_foreign_files_and_copies_change_nothing(blended):
    root = blended
    before = {name: text for name, text in content_of_files(root).items() if name.endswith(".csv")}
    for folder in ("folds", "runs", "submissions"):
        (root / folder / ".ipynb_checkpoints").mkdir(parents=True)
        (root / folder / ".DS_Store").write_text("")
        (root / folder / "backup").mkdir()
    shutil.copytree(root / "runs" / "lite0", root / "runs" / "lite0 backup")
    shutil.copytree(root / "submissions", root / "submissions" / "copy")
    for step in ("blend", "report", "clean"):
        done = run(step, root)
        assert done.returncode == 0, done.stderr
    assert {name: text for name, text in content_of_files(root).items() if name.endswith(".csv")} == before


def content_of_files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "submissions").iterdir() if path.is_file()}


def test_a_fold_that_cannot_be_trained_again_is_not_removed_by_force(root, monkeypatch):
    def no_weights(*_):
        raise InputError("the weights are not there")

    monkeypatch.setattr(requirements, "require_weights", no_weights)
    before = {path: path.read_bytes() for path in (root / "runs").rglob("*") if path.is_file()}
    assert refused("train", root, "--recipe", "lite0", "--seed", "6", "--force") == "the weights are not there"
    assert {path: path.read_bytes() for path in (root / "runs").rglob("*") if path.is_file()} == before


def test_blend_and_report(blended):
    root = blended
    assert re.fullmatch(
        r"upload submissions/submission\.csv: nested accuracy 0\.\d{4} \[0\.\d{3}, [01]\.\d{3}\] by mean; "
        r"learned weights do not beat the mean",
        (root / "blend.txt").read_text().splitlines()[-1],
    )
    first = content(root)
    assert list(first) == sorted(
        [
            *(f"{name}.csv" for name in METHOD_NAMES),
            "blend.json",
            "leaderboard.csv",
            "oof_blend.csv",
            "submission.csv",
            "test_blend.csv",
        ]
    )
    facts = json.loads(first["blend.json"])
    assert first["submission.csv"] == first[f"{facts['picked']}.csv"]
    assert [member["recipe"] for member in facts["members"]] == ["cnn5", "lite0", "lite1"]
    board = pd.read_csv(root / "submissions" / "leaderboard.csv")
    assert set(board["name"]) == {*MEMBERS, *METHOD_NAMES, "auto"}
    oof = pd.read_csv(root / "submissions" / "oof_blend.csv")
    assert (oof["label"] == oof["pred"]).mean() == pytest.approx(facts["score"]["accuracy"], abs=1e-9)
    assert board.set_index("name")["accuracy"]["auto"] == pytest.approx(facts["score"]["accuracy"], abs=1e-9)

    test = pd.read_csv(root / "submissions" / "test_blend.csv", dtype={"id": str})
    submitted = pd.read_csv(root / "submissions" / "submission.csv", dtype={"id": str})
    assert (
        test[["id", "pred"]].rename(columns={"pred": "label"}).equals(submitted)
        and (test["prob"] >= 0.5).eq(test["pred"] == 1).all()
    )

    assert set(load_step_costs(root)["blend"]) == {"seconds", "cpu_seconds", "peak_memory_mb"}
    done = run("report", root)
    assert done.returncode == 0, done.stderr
    page = (root / "report.html").read_bytes()
    assert len(page) < 10e6 and str(root).encode() not in page
    again = [("report",), ("blend", "--recipes", "lite1,lite0,cnn5")]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", STEPS.format(SRC, root, again)], env=environment, cwd=root, check=True)
    assert content(root) == first  # the same bytes, whatever the order, of sets too
    assert (root / "report.html").read_bytes() == page
    text = page.decode()
    assert (
        f"<h1>Synthetic competition, not real data. Upload submissions/submission.csv: nested accuracy "
        f"{facts['score']['accuracy']:.4f} ["
    ) in text
    described, hidden = text.count('role="img"'), text.count('aria-hidden="true"')
    assert described == 7 + len(MEMBERS) and text.count("<svg ") == described + hidden and text.count("<img ") > 60
    assert described + text.count("<img ") == text.count("<figure ") and '="" ' not in text
    assert all(source.startswith(("data:", "#")) for source in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert '<th scope="row">blend</th><td class="number">' in text
    assert '<th scope="row">cnn5</th><td class="number">32</td><td class="number">-</td>' in text


def test_submission_is_what_the_method_says(root):
    done = run("blend", root, "--method", "mean")
    assert done.returncode == 0 and done.stdout.splitlines()[-2] == "mean was asked for."
    test = [
        pd.read_csv(fold_dir(root, name, k) / "test.csv", dtype={"id": str}).set_index("id")["prob"]
        for name in MEMBERS
        for k in range(3)
    ]
    expected = (sum(test) / len(test) >= 0.5).astype(int)
    submission = pd.read_csv(root / "submissions" / "submission.csv", dtype={"id": str}).set_index("id")["label"]
    assert submission.equals(expected.loc[submission.index].rename("label"))


def test_weights_by_hand_are_used_and_absent_ones_said(root):
    done = run("blend", root, "--method", "weighted_votes", "--weights", "lite0=3,cnn5=1")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "weight 0, because --weights does not name them: lite1"
    assert json.loads((root / "submissions" / "blend.json").read_text())["weights"] == {
        "cnn5": 1,
        "lite0": 3,
        "lite1": 0,
    }


def test_labels_are_submitted_for_a_sample_of_probabilities_if_they_are_asked_for(blended):
    root, labels = blended, content(blended)
    sample = root / "competition" / "sampleSubmit.csv"
    sample.write_text(sample.read_text().replace(",0\n", ",0.5\n"))
    audited = run("audit", root, "--submission", "labels")
    assert "            the sample's 0.5 is no class: if it asks for probabilities: --submission probabilities" in (
        audited.stdout.splitlines()
    )
    assert run("blend", root, "--method", "mean").returncode == 0
    assert content(root)["submission.csv"] == labels["submission.csv"] == labels["mean.csv"]


def test_one_recipe_is_its_own_submission(root):
    done = run("blend", root, "--recipes", "lite0")
    assert done.returncode == 0
    assert "one recipe only, so there is nothing to blend: the submission is lite0's" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("by best_single")
    assert run("report", root).returncode == 0


def test_bad_options_are_refused(root):
    done = run("blend", root, "--weights", "lite0=0")
    message = "--weights: the weights sum to zero; give at least one recipe a weight above 0"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"blend.py: {message}\n")
    assert "--method mean has no weights to set" in refused("blend", root, "--method", "mean", "--weights", "lite0=2")
    assert refused("blend", root, "--recipes", "lite0", "--method", "greedy") == (
        "one recipe only (lite0): --method greedy has nothing to combine. Train another recipe, or leave --method out."
    )
    assert "there is no recipe 'nothing'" in refused("blend", root, "--recipes", "nothing")
    assert "the train labels show no order: neighbours by id correlate by " in refused("blend", root, "--use-order")
    assert not (root / "submissions").exists()


def test_incomplete_stale_and_torn_runs_are_refused_by_name(root):
    fold = fold_dir(root, "lite1", 1)
    whole = (fold / "run.json").read_text()
    (fold / "run.json").unlink()
    assert "runs/lite1 is incomplete: fold 1 of 3 not finished" in refused("blend", root)
    (fold / "run.json").write_text(whole.replace(load_recipe("lite1").hash, "0" * 64))
    assert f"{fold} is stale: it was trained with another version of the recipe" in refused("blend", root)
    (fold / "run.json").write_text(whole)
    (fold / "oof.csv").write_text("id,prob\n1,0.5\n")
    assert f"{fold / 'oof.csv'} is missing or not the file that training wrote" in refused("blend", root)
    shutil.rmtree(root / "runs")
    assert "there is nothing to blend: no recipe has been trained" in refused("blend", root)


def test_report_refuses_what_does_not_belong_together(root, blended):
    assert "blend.json is missing: nothing was blended yet. Run `python src/blend.py`." in refused("report", root)
    root = blended
    submission = root / "submissions" / "submission.csv"
    kept = submission.read_text()
    submission.write_text(kept.replace(",1\n", ",0\n"))
    assert "submission.csv is missing or not what the blend wrote" in refused("report", root)
    submission.write_text(kept)
    fabricate(root, {"lite0": 2.0})
    expected = "submissions/ was blended from other runs than those now under runs/. Run `python src/blend.py` again."
    assert refused("report", root) == expected
    assert not (root / "report.html").exists()


def with_duplicates(root: Path, pairs: int) -> None:
    """Pairs of train images of one label become the same picture, in other bytes, and test images show these."""
    competition = load_competition(root)
    for label in (0, 1):
        ids = competition.train.loc[competition.train["label"] == label, "id"].tolist()
        for a, b, test in zip(ids[:pairs:2], ids[1:pairs:2], competition.test["id"].tolist()[label::2]):
            rng = np.random.default_rng(int(a))
            picture = cv2.GaussianBlur(rng.integers(0, 256, (64, 64, 3), np.uint8), (0, 0), 3).astype(float)
            picture = np.clip(128 + 8 * (picture - picture.mean()), 0, 255).astype(np.uint8)
            for split, id, quality in (("train", a, 95), ("train", b, 70), ("test", test, 80)):
                cv2.imwrite(
                    str(root / "competition" / split / f"{id}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, quality]
                )
    check_images(competition)
    shutil.rmtree(root / "runs")
    fabricate(root, {"lite0": 3.0, "cnn5": 3.0})  # poor models: the duplicates know better


def test_duplicates_are_used_when_asked_for_and_said_everywhere(root):
    with_duplicates(root, 90)
    done = run("blend", root, "--method", "mean", "--use-duplicates")
    assert done.returncode == 0, done.stderr
    announced = re.match(
        r"THE LABELS OF DUPLICATES WERE USED: (\d+) of 60 test images show a picture of train and take its label, a "
        r"leak of this competition that tells nothing about new images\.\n",
        done.stdout,
    )
    assert int(announced[1]) >= 60 - 1
    assert done.stdout.splitlines()[-1].endswith(" by mean, near-duplicates of train images by their labels")
    files_there = content(root)
    assert files_there["submission.csv"] == files_there["duplicates.csv"] != files_there["mean.csv"]
    expected = pd.read_csv(root / "submissions" / "submission.csv", dtype=str)["label"]
    assert expected.tolist()[:59] == [str(row % 2) for row in range(59)]
    facts = json.loads(files_there["blend.json"])
    leak = facts["leaks"]["duplicates"]
    assert facts["options"]["leaks"] == ["duplicates"]
    assert leak["picked"] == "duplicates" and leak["used"] and leak["gain"]["p"] < 0.05
    assert "duplicates" in set(pd.read_csv(root / "submissions" / "leaderboard.csv")["name"])
    assert run("report", root).returncode == 0
    text = (root / "report.html").read_text()
    assert (
        "<h1>Synthetic competition, not real data. THE LABELS OF DUPLICATES WERE USED: " in text
        and "--use-duplicates" in text
    )

    assert run("blend", root, "--method", "mean").returncode == 0
    assert "duplicates.csv" not in content(root)
    other = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))[1].tobytes()
    competition = load_competition(root)
    for number, id in enumerate(competition.test["id"]):
        (root / "competition" / "test" / f"{id}.jpg").write_bytes(other + bytes([number]))
    check_images(competition)
    fabricate(root, {"lite0": 3.0, "cnn5": 3.0})
    assert refused("blend", root, "--use-duplicates") == (
        "no test image shows a picture of train: there are no duplicates whose labels could be used. "
        "Leave --use-duplicates out."
    )


def test_duplicates_that_gain_nothing_are_announced_and_taken_back(root):
    done = run("blend", root, "--method", "mean", "--use-duplicates")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("THE LABELS OF DUPLICATES WERE USED: 1 of 60 test images")
    assert (
        lines[1] == "the labels of duplicates gain nothing by a real margin: they are not in the submission after all"
    )
    assert "duplicates.csv" not in content(root) and lines[-1].endswith(" by mean")
