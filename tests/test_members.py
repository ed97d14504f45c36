"""Members next to each other: joined by id, sorted by name, and refused when they do not fit."""

import re

import numpy as np
import pandas as pd
import pytest

from facefold.data.folds import Folds
from facefold.ensemble.members import describe_member, inner_folds, join_members, load_features
from facefold.runs import Member, fold_dir, write_predictions
from facefold.utils.errors import InputError
from facefold.utils.files import write_npy

IDS, TEST = ["0042", "7", "a"], ["t1", "t2"]


def two_folds(labels=(0, 1, 1), fold=(0, 1, 0)) -> Folds:
    table = pd.DataFrame({"id": IDS, "label": labels, "group": IDS, "fold": fold})
    return Folds(table, 2, 0, "hash", "sha", "method")


def member(name="m", oof=(0.1, 0.2, 0.3), ids=IDS, test=((0.2, 0.4), (0.6, 1.0)), test_ids=TEST) -> Member:
    runs = [
        {
            "recipe_hash": "r",
            "seed": 3,
            "files": {
                "oof.csv": f"o{k}",
                "test.csv": f"t{k}",
                "features_oof.npy": "f",
                "features_test.npy": "g",
                "history.csv": "h",
            },
        }
        for k in (0, 1)
    ]
    return Member(name, pd.Series(oof, index=ids), pd.DataFrame(test, index=test_ids), runs)


def test_joined_by_id_and_sorted_by_name():
    shuffled = member(
        "b", oof=(0.3, 0.1, 0.2), ids=["a", "0042", "7"], test=((0.6, 1.0), (0.2, 0.4)), test_ids=["t2", "t1"]
    )
    matrix = join_members([shuffled, member("a", oof=(0.9, 0.8, 0.7))], two_folds(), TEST)
    assert matrix.names == ["a", "b"] and matrix.ids == IDS and matrix.test_ids == TEST
    assert matrix.prob.tolist() == [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]
    assert matrix.fold_test_prob[:, :, 1].tolist() == [[0.2, 0.6], [0.4, 1.0]]
    assert matrix.test_prob[:, 1] == pytest.approx([0.3, 0.8]) and matrix.group.tolist() == IDS
    assert matrix.labels.tolist() == [0, 1, 1] and matrix.fold.tolist() == [0, 1, 0]


def test_the_order_of_members_changes_nothing():
    one, two = (
        join_members([member(n, oof=v) for n, v in order], two_folds(), TEST)
        for order in (
            [("x", (0.1, 0.2, 0.3)), ("y", (0.4, 0.5, 0.6))],
            [("y", (0.4, 0.5, 0.6)), ("x", (0.1, 0.2, 0.3))],
        )
    )
    assert (
        one.names == two.names and np.array_equal(one.prob, two.prob) and np.array_equal(one.test_prob, two.test_prob)
    )


def test_describe_names_what_went_in():
    assert describe_member(member()) == {
        "recipe": "m",
        "recipe_hash": "r",
        "seed": 3,
        "files": [
            {"oof.csv": f"o{k}", "test.csv": f"t{k}", "features_oof.npy": "f", "features_test.npy": "g"} for k in (0, 1)
        ],
    }


def test_features_are_next_to_each_other_in_the_order_asked_for(tmp_path):
    directories = [fold_dir(tmp_path, name, 0) for name in "ab"]
    write_predictions(directories[0], "oof", ["x", "y", "z"], np.full(3, 0.5), np.array([[1, 2], [3, 4], [5, 6]]))
    write_predictions(directories[1], "oof", ["z", "x", "y"], np.full(3, 0.5), np.array([[9], [7], [8]]))
    features = load_features(tmp_path, ["a", "b"], 0, "oof", ["y", "x", "z"])
    assert features.tolist() == [[3, 4, 8], [1, 2, 7], [5, 6, 9]] and features.dtype == np.float32
    path = directories[1] / "features_oof.npy"
    for bad, message in [
        (
            [[9.0], [np.inf], [8.0]],
            f"{path}: id x has features that are not finite; delete {path.parent} and train that fold again",
        ),
        ([[9.0]], f"{path}: its rows are not those of oof.csv; delete {path.parent} and train that fold again"),
    ]:
        write_npy(path, np.array(bad, np.float16))
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            load_features(tmp_path, ["a", "b"], 0, "oof", ["y", "x", "z"])


def test_inner_folds_halve_what_is_one_fold():
    assert inner_folds(np.array([1, 3, 1])).tolist() == [1, 3, 1]
    assert inner_folds(np.array([2, 2, 2])).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "members, folds, message",
    [
        (
            [],
            two_folds(),
            "there is nothing to blend: no recipe has been trained. Run `python src/train.py --recipe NAME`.",
        ),
        ([member(), member()], two_folds(), "a recipe is named twice: m, m"),
        (
            [member()],
            two_folds(labels=(1, 1, 1)),
            "the folds hold one label only (1); a blend is learned and scored on two or more",
        ),
        (
            [member()],
            two_folds(fold=(0, 0, 0)),
            "the folds hold one fold only (0); a blend is learned and scored on two or more",
        ),
        (
            [member(ids=["0042", "7", "b"])],
            two_folds(),
            "runs/m, out-of-fold: the ids are not those of the folds, each once "
            "(2 differ, e.g. a); train that recipe again",
        ),
        (
            [member(test_ids=["t1", "t1"])],
            two_folds(),
            "runs/m, test: the ids are not those of test.csv, each once (1 differ, e.g. t2); train that recipe again",
        ),
        (
            [member(oof=(0.1, np.nan, 0.3))],
            two_folds(),
            "runs/m, out-of-fold: id 7 has nan, which is not a probability; train that recipe again",
        ),
        (
            [member(oof=(0.1, 1.5, 0.3))],
            two_folds(),
            "runs/m, out-of-fold: id 7 has 1.5, which is not a probability; train that recipe again",
        ),
        (
            [member(test=((0.2, np.nan), (0.6, 1.0)))],
            two_folds(),
            "runs/m, test: id t1 has nan, which is not a probability; train that recipe again",
        ),
    ],
)
def test_refused(members, folds, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        join_members(members, folds, TEST)
