import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from facefold.data.cache import build_caches
from facefold.data.competition import load_competition
from facefold.data.corrections import NO_CORRECTIONS
from facefold.data.folds import load_folds
from facefold.data.image_hashes import load_images_hash
from facefold.data.preprocessing import Preprocessing
from facefold.models import recipe as recipes
from facefold.models.feature_cache import feature_cache_bytes
from facefold.runs import CHECKPOINT_FILE, Identity, fold_dir, join_folds
from facefold.training import jobs
from facefold.training.tracking import NO_TRACKING, Tracking
from facefold.training.workers import run_jobs
from facefold.utils import files
from facefold.utils.errors import InputError
from recorder import record

CPU = torch.device("cpu")
TOML = """about = "a tiny recipe with frozen stages"
backbone = "test_efficientnet"
weights = "package:test_efficientnet_weights"
size = 32
freeze_stages = 1
epochs = 1
"""


def fold(name: str, number: int) -> jobs.FoldJob:
    return jobs.FoldJob(
        Path("root"),
        recipes.load_recipe(name),
        Identity(name, "hash", "folds", "images", 0),
        NO_CORRECTIONS,
        number,
        None,
        0,
    )


def test_a_recipe_with_frozen_stages_computes_their_views_before_its_folds():
    folds = [fold("lite0", 0), fold("lite0", 1), fold("demo_cnn", 0)]
    ordered, after = jobs.order_jobs(folds, ["cpu", "cpu"])
    assert [str(job) for job in ordered] == [
        "lite0 frozen stages",
        "lite0 frozen stages",
        "lite0 fold 0",
        "lite0 fold 1",
        "demo_cnn fold 0",
    ]
    assert [job.part for job in ordered[:2]] == [0, 1]
    assert after == {folds[0]: ordered[:2], folds[1]: ordered[:2], folds[2]: []}


def test_no_more_processes_compute_views_than_there_are_views():
    ordered, _ = jobs.order_jobs([fold("lite0", 0)], ["cpu"] * 100)
    assert len(ordered) - 1 == 9 == ordered[0].parts  # five epochs; plain and mirror of train and of test


def test_nothing_to_train_plans_nothing():
    assert jobs.order_jobs([], ["cpu"]) == ([], {})


@pytest.fixture
def root(tmp_path, monkeypatch, make_competition):
    """A drawn competition in two folds, and the recipe tiny."""
    monkeypatch.setattr(recipes, "RECIPES_DIR", tmp_path / "recipes")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "tiny.toml").write_text(TOML)
    build_caches(make_competition(tmp_path, 40, 10, 32, 2), Preprocessing(32))
    return tmp_path


def test_folds_share_the_views_and_the_last_one_removes_them(root, monkeypatch, capsys):
    split = load_folds(root)
    identity = Identity("tiny", recipes.load_recipe("tiny").hash, split.hash, load_images_hash(root), 0)
    tracker = record(monkeypatch)
    folds = [
        jobs.FoldJob(
            root,
            recipes.load_recipe(identity.recipe),
            identity,
            NO_CORRECTIONS,
            number,
            None,
            0,
            Tracking(("wandb:faces",)) if number == 0 else NO_TRACKING,
        )
        for number in range(2)
    ]
    ordered, _ = jobs.order_jobs(folds, ["cpu", "cpu"])
    for job in ordered[:2]:
        job.run(CPU, 0)
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert [first, third] == [
        f"tiny frozen stages, part {part} of 2: {views} views begin" for part, views in ((1, 3), (2, 2))
    ]
    assert second.startswith("tiny frozen stages, part 1 of 2: 3 views in ") and fourth.startswith(
        "tiny frozen stages, part 2 of 2: 2 views in "
    )
    kept = {path: path.stat().st_mtime_ns for path in (root / "cache" / "frozen" / "tiny").rglob("*.npy")}
    assert sorted(path.name for path in kept) == [
        "test_mirror.npy",
        "test_plain.npy",
        "train_epoch_0.npy",
        "train_mirror.npy",
        "train_plain.npy",
    ]
    sizes = [path.stat().st_size - 128 for path in kept]  # without the arrays' headers
    assert feature_cache_bytes(recipes.load_recipe("tiny"), 40, 10) == sum(sizes)
    folds[0].run(CPU, 0)
    assert kept == {path: path.stat().st_mtime_ns for path in (root / "cache" / "frozen" / "tiny").rglob("*.npy")}
    folds[1].run(CPU, 0)
    assert not (root / "cache" / "frozen" / "tiny").exists()
    member = join_folds(root, identity, split, load_competition(root).test["id"].tolist())
    assert len(member.oof) == len(split.table) and np.isfinite(member.oof).all()
    (tracked,) = tracker.runs
    assert tracked.run.name == "tiny/fold_0" and [event[:2] for event in tracked.events[:2]] == [
        ("open", "faces"),
        ("log", 1),
    ]


def test_a_damaged_checkpoint_is_named_or_removed_by_force(root):
    identity = Identity("tiny", "hash", "folds", "images", 0)
    path = fold_dir(root, "tiny", 0) / CHECKPOINT_FILE
    files.write_text(path, "torn")
    with pytest.raises(InputError, match=f"{path} is damaged .*; delete it, and that fold starts again"):
        jobs.require_usable_checkpoint(root, identity, 0, force=False, find_source=dict)
    jobs.require_usable_checkpoint(root, identity, 0, force=True, find_source=dict)
    assert not path.exists()


def test_without_its_views_a_fold_computes_them_itself_to_the_same_bytes(root):
    split = load_folds(root)
    identity = Identity("tiny", recipes.load_recipe("tiny").hash, split.hash, load_images_hash(root), 0)
    job = jobs.FoldJob(root, recipes.load_recipe(identity.recipe), identity, NO_CORRECTIONS, 0, None, 0)
    for view in jobs.order_jobs([job], ["cpu"])[0][:1]:
        view.run(CPU, 0)
    job.run(CPU, 0)
    first = (fold_dir(root, "tiny", 0) / "oof.csv").read_bytes()
    shutil.rmtree(fold_dir(root, "tiny", 0))
    shutil.rmtree(root / "cache" / "frozen")
    job.run(CPU, 0)
    assert (fold_dir(root, "tiny", 0) / "oof.csv").read_bytes() == first


def test_a_feature_job_that_fails_starts_no_fold(tmp_path):
    identity = Identity("lite0", "hash", "folds", "images", 0)
    ordered, after = jobs.order_jobs(
        [jobs.FoldJob(tmp_path, recipes.load_recipe(identity.recipe), identity, NO_CORRECTIONS, 0, None, 0)], ["cpu"]
    )
    with pytest.raises(InputError, match="competition"):
        run_jobs(ordered, ["cpu"], after)
    assert not (tmp_path / "runs").exists()  # a fold's first act is to lock its folder there
