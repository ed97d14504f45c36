"""Features computed elsewhere: what embed.py writes, what is refused, and the run of a classifier on them."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch

from command import call, refused, train_here
from facefold.data import embeddings
from facefold.data.competition import load_competition
from facefold.data.embeddings import embeddings_path, load_embeddings, new_embeddings
from facefold.runs import fold_dir, load_fold_features
from facefold.training import workers
from facefold.utils.errors import InputError

CPU = torch.device("cpu")
TOML = """
about = "a logistic regression on tiny images"
backbone = "test_efficientnet"
weights = "package:test_efficientnet_weights"
size = 32
crop = 0.75
freeze_backbone = true
classifier = "logistic"
"""
FUNCTION = """
import cv2
import numpy as np

calls = []
limit = 1000

def colours(paths):
    calls.append(len(paths))
    if len(calls) > limit:
        raise KeyboardInterrupt
    return np.stack([cv2.resize(cv2.imread(str(path)), (4, 4)).ravel() / 255 for path in paths])

def broken(paths):
    return np.full((len(paths), 2), np.nan)

def flat(paths):
    return np.zeros(len(paths))
"""


@pytest.fixture
def root(tmp_path, monkeypatch, make_competition, one_thread):
    """A synthetic competition in two folds; recipes trained in this process; a module of functions in the folder."""
    train_here(tmp_path / "recipes", monkeypatch, tiny=TOML)
    monkeypatch.setattr(embeddings, "BLOCK", 32)
    make_competition(tmp_path / "root", 80, 20, 32, 2)
    (tmp_path / "root" / "my_features.py").write_text(FUNCTION)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_features", raising=False)
    return tmp_path / "root"


def write(root, values: np.ndarray, ids: list[str]) -> None:
    (root / "features").mkdir(exist_ok=True)
    np.save(root / "features" / "mine.npy", values)
    pd.DataFrame({"id": ids}).to_csv(root / "features" / "mine.csv", index=False)


def all_ids(root) -> list[str]:
    competition = load_competition(root)
    return [*competition.ids("train"), *competition.ids("test")]


def test_a_killed_step_continues_and_ends_with_the_same_bytes(root, capsys):
    options = ("--function", "my_features:colours")
    call("embed", root, "--name", "whole", *options)
    command = f"python src/train.py --root {root} --features whole --classifier svm"
    assert capsys.readouterr().out == f"{root}/features/whole.npy: now `{command}`\n"
    module = sys.modules["my_features"]
    assert module.calls == [32, 32, 16, 20]
    module.calls.clear()
    module.limit = 2
    with pytest.raises(KeyboardInterrupt):
        call("embed", root, "--name", "killed", *options)
    module.calls.clear()
    call("embed", root, "--name", "killed", *options)
    assert module.calls == [16, 20]
    for ending in (".npy", ".csv"):
        files = [embeddings_path(root, name).with_suffix(ending).read_bytes() for name in ("whole", "killed")]
        assert files[0] == files[1]
    values = np.load(root / "features" / "whole.npy")
    assert values.shape == (100, 48) and values.dtype == np.float32
    assert pd.read_csv(root / "features" / "whole.csv", dtype=str)["id"].tolist() == all_ids(root)
    assert not [path for path in (root / "features").iterdir() if any(path.glob("*"))]
    assert "whole.npy is there already" in refused("embed", root, "--name", "whole", *options)


def test_any_number_of_workers_and_a_kill_give_the_same_bytes(root, monkeypatch):
    options = ("--recipe", "tiny", "--device", "cpu")
    call("embed", root, "--name", "one", *options, "--workers", "1")
    jobs = []

    def killed_after_the_first(all_jobs, devices, after):
        jobs.extend(all_jobs)
        assert len(devices) == 2 and after == {jobs[-1]: jobs[:-1]}
        jobs[0].run(CPU, 0)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(workers, "run_jobs", killed_after_the_first)
        call("embed", root, "--name", "two", *options, "--workers", "2")
    assert [(job.part, job.parts) for job in jobs] == [(0, 2), (1, 2), (0, 1)]
    blocks = sorted((root / "features").glob(".two_*/*.npy"))
    assert [path.name for path in blocks] == ["train_0.npy", "train_64.npy"]
    kept = [path.stat().st_ino for path in blocks]
    jobs[1].run(CPU, 0)
    assert [path.stat().st_ino for path in blocks] == kept
    jobs[2].run(CPU, 0)
    files = [embeddings_path(root, name).read_bytes() for name in ("one", "two")]
    assert files[0] == files[1] and not [path for path in (root / "features").iterdir() if any(path.glob("*"))]


def test_what_a_function_may_not_return(root):
    text = refused("embed", root, "--name", "b", "--function", "my_features:broken")
    assert text.startswith("the features of these images are not finite:\n  - ") and ".. and 22 more" in text
    text = refused("embed", root, "--name", "b", "--function", "my_features:flat")
    assert text == "32 images have features of the shape (32,), not (32, F)"
    assert "package.module:function is needed" in refused("embed", root, "--name", "b", "--function", "my_features:no")
    assert "name one of --recipe" in refused("embed", root, "--name", "b")
    assert "letters, digits" in refused("embed", root, "--name", "../b", "--recipe", "tiny")
    assert refused("embed", root, "--name", "b", "--recipe", "tiny", "--size", "8").endswith("belong to --backbone")
    text = refused("embed", root, "--name", "b", "--function", "my_features:flat", "--workers", "2")
    assert text.endswith("--workers belongs to --recipe and --backbone")
    text = refused("embed", root, "--name", "b", "--recipe", "mine.svm")
    assert text == "--recipe mine.svm reads features/mine.npy and has no backbone"


def test_the_blocks_of_a_job_that_was_killed_at_its_very_end_are_removed(tmp_path):
    own, other = (tmp_path / "features" / f".{name}_0123456789abcdef" for name in ("mine", "mine_2"))
    for blocks in (own, other):
        blocks.mkdir(parents=True)
        (blocks / "train_0.npy").touch()
    embeddings_path(tmp_path, "mine").touch()
    with pytest.raises(InputError, match="mine.npy is there already"), new_embeddings(tmp_path, "mine"):
        pass
    assert not own.exists() and (other / "train_0.npy").exists()


def test_a_file_without_exactly_one_row_per_id_is_refused(root):
    ids = all_ids(root)
    competition = load_competition(root)
    with pytest.raises(InputError, match="mine.npy and .*mine.csv have to be there"):
        load_embeddings(competition, "mine")
    values = np.zeros((100, 3))
    values[5, 1] = np.inf
    write(root, values, ["other", ids[2], *ids[2:]])
    with pytest.raises(InputError) as caught:
        load_embeddings(competition, "mine")
    assert str(caught.value).splitlines() == [
        f"{root / 'features' / 'mine.npy'} does not have one row of numbers for each id:",
        *(f"  - {id} is missing" for id in sorted(ids[:2])),
        "  - other is neither in train.csv nor in test.csv",
        f"  - {ids[2]} appears twice",
        f"  - {ids[5]} has a value that is not finite",
    ]
    write(root, np.zeros((99, 3)), ids)
    with pytest.raises(InputError, match=r"holds float64 \(99, 3\) for 100 ids: float \(n, F\) is needed"):
        load_embeddings(competition, "mine")


def test_rows_in_any_order_are_joined_by_id(root):
    ids, order = all_ids(root), np.random.default_rng(0).permutation(100)
    write(root, np.arange(100.0)[order, None], [ids[row] for row in order])
    loaded = load_embeddings(load_competition(root), "mine")
    assert np.concatenate([loaded[split].pixels.ravel() for split in ("train", "test")]).tolist() == list(range(100))


def test_a_backbone_gives_the_features_of_its_recipe(root):
    call("embed", root, "--name", "same", "--recipe", "tiny", "--device", "cpu")
    call("train", root, "--recipe", "tiny", "--fold", "0", "--device", "cpu")
    call("train", root, "--features", "same", "--classifier", "logistic", "--fold", "0", "--device", "cpu")
    for part in ("oof", "test"):
        one, other = (load_fold_features(root, name, 0, part).astype(float) for name in ("tiny", "same.logistic"))
        assert one == pytest.approx(other, rel=2e-3, abs=2e-3)
        one, other = (pd.read_csv(fold_dir(root, name, 0) / f"{part}.csv") for name in ("tiny", "same.logistic"))
        assert one["prob"].to_numpy() == pytest.approx(other["prob"].to_numpy(), abs=0.01)


def test_a_run_on_features_is_blended_and_cannot_look_at_images(root):
    call("embed", root, "--name", "mine", "--function", "my_features:colours")
    call("train", root, "--features", "mine", "--classifier", "svm", "--device", "cpu")
    call("train", root, "--recipe", "tiny", "--device", "cpu")
    assert not (root / "cache" / "frozen").exists() or not list((root / "cache" / "frozen").rglob("*.npy"))
    call("blend", root, "--method", "mean")
    why = "runs/mine.svm learned from features/mine.npy and has no network that looks at new images"
    assert why in refused("predict", root, "--no-detect", root / "competition" / "test", "--device", "cpu")
    assert why in refused("predict", root, "--test", "--recipes", "mine.svm", "--device", "cpu")
    options = ("--out", root / "pack", "--user", "me", "--competition", "c", "--no-wheels")
    assert why in refused("pack", root, *options)
    before = (fold_dir(root, "mine.svm", 1) / "oof.csv").read_bytes()
    call("predict", root, "--test", "--device", "cpu")
    call("train", root, "--features", "mine", "--classifier", "svm", "--device", "cpu")
    assert (fold_dir(root, "mine.svm", 1) / "oof.csv").read_bytes() == before
    call("report", root)
    np.save(root / "features" / "mine.npy", 1 - np.load(root / "features" / "mine.npy") ** 2)
    again = ("train", root, "--features", "mine", "--classifier", "svm", "--device", "cpu")
    assert "is stale: features/mine.npy has changed since" in refused(*again)
    call(*again, "--force")
    assert (fold_dir(root, "mine.svm", 1) / "oof.csv").read_bytes() != before
    assert "--features together with --classifier" in refused("train", root, "--features", "mine")


def test_blocks_of_a_function_that_was_edited_are_not_used(root):
    options, path = ("--name", "mine", "--function", "my_features:colours"), root / "my_features.py"
    path.write_text(FUNCTION.replace("limit = 1000", "limit = 2"))
    with pytest.raises(KeyboardInterrupt):
        call("embed", root, *options)
    path.write_text(FUNCTION.replace("/ 255", "/ 510"))
    del sys.modules["my_features"]
    call("embed", root, *options)
    assert sys.modules["my_features"].calls == [32, 32, 16, 20]
    assert np.load(root / "features" / "mine.npy").max() <= 0.5
