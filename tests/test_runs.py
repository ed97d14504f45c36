import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from facefold import runs
from facefold.data import folds
from facefold.errors import InputError

IDENTITY = runs.Identity("cnn", "recipe", "folds", "images", 0)
TEST_IDS = ["t2", "t1"]


@pytest.fixture
def split():
    train = pd.DataFrame({"id": [f"{row:04d}" for row in range(8)], "label": [0, 1] * 4})
    return folds.make(train, pd.Series(train["id"].tolist(), index=train["id"]), 2, 0, "sha")


def leave(root, split, fold, identity=IDENTITY, prob=0.25, ids=None):
    directory = runs.fold_dir(root, identity.recipe, fold)
    ids = ids or split.valid(fold)["id"].tolist()[::-1]  # order is not what joins them
    runs.write_weights(directory, {"w": np.ones(2, dtype=np.float32)})
    runs.write_history(directory, pd.DataFrame({"epoch": [0], "train_loss": [0.5]}))
    runs.write_predictions(directory, "oof", ids, np.linspace(prob, prob + 0.1, len(ids)), np.ones((len(ids), 3)))
    runs.write_predictions(directory, "test", TEST_IDS[::-1], np.array([0.1, 0.2]) + fold / 10, np.ones((2, 3)))
    runs.finish(directory, identity, {"seconds": 1.0})


def test_folds_are_joined_by_id(tmp_path, split):
    leave(tmp_path, split, 0)
    leave(tmp_path, split, 1, prob=0.5)
    member = runs.load(tmp_path, IDENTITY, "cnn", split, TEST_IDS)
    assert member.oof.index.tolist() == split.table["id"].tolist()
    last_of_fold_0 = split.valid(0)["id"].iloc[-1]
    assert member.oof[last_of_fold_0] == 0.25 and member.oof[split.valid(1)["id"].iloc[0]] == pytest.approx(0.6)
    assert member.test.loc["t1"].tolist() == pytest.approx([0.1, 0.2]) and member.test.index.tolist() == TEST_IDS
    assert runs.features(tmp_path, "cnn", 0, "oof").dtype == np.float16
    assert runs.names(tmp_path) == ["cnn"] and runs.sealed(tmp_path, "cnn", 1)
    assert runs.join(tmp_path, IDENTITY, split, TEST_IDS).oof.equals(member.oof)
    assert (tmp_path / "runs/cnn/oof.csv").read_text().splitlines()[0] == "id,prob"


def test_an_unfinished_fold_is_named(tmp_path, split):
    leave(tmp_path, split, 0)
    assert not runs.finished(tmp_path, IDENTITY, 1)
    with pytest.raises(InputError) as caught:
        runs.load(tmp_path, IDENTITY, "cnn", split, TEST_IDS)
    assert str(caught.value) == ("runs/cnn is incomplete: fold 1 of 2 not finished. Run `python src/train.py --recipe cnn`, or name the "
                                 "recipes to blend with --recipes.")


@pytest.mark.parametrize("field, value, cause", [
    ("recipe_hash", "x", "another version of the recipe"), ("folds_hash", "x", "other folds"), ("images_hash", "x", "other images"),
    ("seed", 1, "another seed")])
def test_a_stale_run_says_why(tmp_path, split, field, value, cause):
    leave(tmp_path, split, 0)
    with pytest.raises(InputError, match=re.escape(f"runs/cnn/fold_0 is stale: it was made with {cause}. Move it away, or train over it "
                                                   "with `train.py --recipe cnn --force`.")):
        runs.finished(tmp_path, dataclasses.replace(IDENTITY, **{field: value}), 0)


def test_folds_of_two_seeds_are_not_one_member(tmp_path, split):
    leave(tmp_path, split, 0)
    leave(tmp_path, split, 1, dataclasses.replace(IDENTITY, seed=1))
    with pytest.raises(InputError, match="fold_1 is stale: it was made with another seed"):
        runs.load(tmp_path, IDENTITY, "cnn", split, TEST_IDS)


def test_a_file_edited_afterwards_is_found(tmp_path, split):
    leave(tmp_path, split, 0)
    path = tmp_path / "runs/cnn/fold_0/features_oof.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape("features_oof.npy is missing or not the file that training wrote (checksum differs)")):
        runs.finished(tmp_path, IDENTITY, 0)


def test_ids_that_are_not_the_folds_are_refused(tmp_path, split):
    leave(tmp_path, split, 0, ids=split.valid(1)["id"].tolist())
    leave(tmp_path, split, 1)
    with pytest.raises(InputError, match=re.escape("oof.csv: its ids are not those of the validation rows of that fold (8 differ, e.g. 0000)")):
        runs.load(tmp_path, IDENTITY, "cnn", split, TEST_IDS)
    with pytest.raises(InputError, match="test.csv: its ids are not those of test.csv"):
        leave(tmp_path, split, 0)
        runs.load(tmp_path, IDENTITY, "cnn", split, ["t1", "t3"])


@pytest.mark.parametrize("value, message", [(1.2, "row 2: prob 1.2 is not a probability"), (-0.1, "row 2: prob -0.1 is not a probability"),
                                            (np.nan, "is damaged (could not convert string to float: ''")])
def test_what_is_no_probability_is_refused(tmp_path, split, value, message):
    leave(tmp_path, split, 0, prob=value)
    leave(tmp_path, split, 1)
    with pytest.raises(InputError, match=re.escape(message)):
        runs.load(tmp_path, IDENTITY, "cnn", split, TEST_IDS)
