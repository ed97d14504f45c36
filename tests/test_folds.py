"""Folds have equal shares of the labels, never divide a group, and are frozen: edited or stale ones are refused."""

import errno
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facefold.data import folds as folds_module
from facefold.data.competition import load_competition, target_rows
from facefold.data.folds import count_divided_groups, group_rows, load_folds, make_folds, write_folds
from facefold.data.synthetic import write_synthetic_competition
from facefold.task import LABEL, strata, task_named
from facefold.utils.errors import InputError
from facefold.utils.files import read_csv, read_json, sha256_file, write_csv, write_json, write_text

AGE = task_named("age")


def rows(labels):
    return pd.DataFrame({"id": [f"{n:03d}" for n in range(len(labels))], "label": np.asarray(labels, dtype=np.int64)})


def own_groups(train):
    return pd.Series(train["id"].to_numpy(), index=pd.Index(train["id"]))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "competition").mkdir()
    write_csv(tmp_path / "competition" / "train.csv", rows([0, 1] * 10))
    return tmp_path


def five_folds(root, k=5, seed=0):
    train = rows([0, 1] * 10)
    return make_folds(train, own_groups(train), k, seed, sha256_file(root / "competition" / "train.csv"))


def test_groups_are_named_by_their_first_id():
    images = pd.DataFrame({"split": ["train"] * 4 + ["test"], "id": list("91527"), "sha256": list("abacb")})
    assert group_rows(images).to_dict() == {"9": "9", "1": "1", "5": "9", "2": "2"}


def test_groups_by_another_column_and_how_many_of_them_folds_divide():
    images = pd.DataFrame(
        {"split": ["train"] * 5 + ["test"], "id": list("915278"), "group": ["train/9"] * 2 + ["train/5"] * 4}
    )
    near = group_rows(images, "group")
    assert near.to_dict() == {"9": "9", "1": "9", "5": "5", "2": "5", "7": "5"}
    table = pd.DataFrame({"id": list("75219"), "fold": [0, 0, 1, 2, 2]})
    assert count_divided_groups(table, near) == 1


def test_folds_of_an_earlier_version_are_read_as_they_are(root):
    """folds.json of before there were near-duplicates: the text of its method is what `bytes` still writes."""
    old = "StratifiedGroupKFold(shuffle=True) of scikit-learn; group: byte-identical images"
    write_folds(root, five_folds(root))
    assert load_folds(root).method == old and load_folds(root).grouping == "bytes"
    facts = read_json(root / "folds" / "folds.json")
    write_json(root / "folds" / "folds.json", {**facts, "method": "made by hand"})
    assert load_folds(root).method == "made by hand" and load_folds(root).grouping is None


def test_what_the_groups_are_is_recorded(root):
    train = rows([0, 1] * 10)
    near = make_folds(train, own_groups(train), 5, 0, sha256_file(root / "competition" / "train.csv"), "near")
    assert near.method == "StratifiedGroupKFold(shuffle=True) of scikit-learn; group: near-duplicate images"
    write_folds(root, near)
    assert load_folds(root).grouping == "near"


def test_folds_divide_the_rows_in_equal_shares_of_the_labels(root):
    folds = five_folds(root)
    assert folds.table["id"].tolist() == rows([0, 1] * 10)["id"].tolist()
    assert folds.table.groupby("fold")["label"].agg(["size", "sum"]).to_numpy().tolist() == [[4, 2]] * 5
    assert sorted(pd.concat([folds.valid(k) for k in range(5)])["id"]) == folds.table["id"].tolist()
    for k in range(5):
        assert set(folds.train(k)["id"]) == set(folds.table["id"]) - set(folds.valid(k)["id"])
        assert list(folds.valid(k).columns) == ["id", "label"]


def test_the_seed_alone_decides(root):
    assert five_folds(root).hash == five_folds(root).hash
    assert five_folds(root).hash != five_folds(root, seed=1).hash


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=60, max_size=120), st.integers(2, 5), st.integers(0, 99))
def test_identical_images_are_never_divided(names, k, seed):
    train = rows([n % 2 for n in range(len(names))])
    groups = pd.Series([f"g{name}" for name in names], index=pd.Index(train["id"]))
    try:
        table = make_folds(train, groups[::-1], k, seed, "x").table
    except InputError:
        return
    assert (table.groupby("group")["fold"].nunique() == 1).all()
    assert table["group"].tolist() == groups.tolist()
    assert (table.groupby("fold")["label"].nunique() == 2).all()


def test_folds_that_cannot_be():
    train = rows([0] * 9 + [1] * 3)
    message = "label 1 has 3 rows with 3 different images, too few for 5 folds; choose fewer with --folds"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        make_folds(train, own_groups(train), 5, 0, "x")


def test_identical_images_count_once(root):
    train = rows([0] * 9 + [1] * 6)
    groups = own_groups(train)
    groups.iloc[9:] = "009"
    with pytest.raises(InputError, match="label 1 has 6 rows with 1 different images"):
        make_folds(train, groups, 2, 0, "x")


def test_written_folds_are_read_back(root):
    assert write_folds(root, five_folds(root))
    loaded, folds = load_folds(root), five_folds(root)
    pd.testing.assert_frame_equal(loaded.table, folds.table)
    assert (loaded.k, loaded.seed, loaded.hash, loaded.train_sha256, loaded.method) == (
        5,
        0,
        folds.hash,
        folds.train_sha256,
        folds.method,
    )
    assert loaded.hash == sha256_file(root / "folds" / "folds.csv")
    valid = read_csv(root / "folds" / "fold_3_valid.csv", {"id": str, "label": "int64"})
    assert valid["id"].tolist() == folds.valid(3)["id"].tolist()


def test_the_same_folds_again_do_nothing(root):
    write_folds(root, five_folds(root))
    before = (root / "folds" / "folds.json").stat().st_mtime_ns
    assert not write_folds(root, five_folds(root), runs=["lite0"])
    assert (root / "folds" / "folds.json").stat().st_mtime_ns == before


def test_other_folds_replace_these_while_nothing_depends_on_them(root):
    write_folds(root, five_folds(root))
    assert write_folds(root, five_folds(root, k=2))
    assert load_folds(root).k == 2
    assert sorted(path.name for path in (root / "folds").iterdir()) == [
        "fold_0_train.csv",
        "fold_0_valid.csv",
        "fold_1_train.csv",
        "fold_1_valid.csv",
        "folds.csv",
        "folds.json",
    ]


def test_new_folds_leave_the_files_of_a_person(root):
    write_folds(root, five_folds(root))
    (root / "folds" / "fold_0_train_backup.csv").write_text("mine")
    assert write_folds(root, five_folds(root, k=2))
    assert (root / "folds" / "fold_0_train_backup.csv").read_text() == "mine"
    assert not (root / "folds" / "fold_2_train.csv").exists()


def test_new_folds_that_find_no_room_leave_the_others_whole(root, monkeypatch):
    write_folds(root, five_folds(root))
    before = {path.name: path.read_bytes() for path in (root / "folds").iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folds_module, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        write_folds(root, five_folds(root, k=2))
    assert {path.name: path.read_bytes() for path in (root / "folds").iterdir()} == before
    assert load_folds(root).k == 5


def test_folds_that_runs_depend_on_are_replaced_by_force_alone(root):
    write_folds(root, five_folds(root))
    with pytest.raises(InputError, match=r"runs depend on them \(cnn5, lite0\); nothing was changed"):
        write_folds(root, five_folds(root, seed=1), runs=["cnn5", "lite0"])
    assert load_folds(root).seed == 0
    assert write_folds(root, five_folds(root, seed=1), force=True, runs=["lite0"])
    assert load_folds(root).seed == 1


def test_lost_or_edited_files_of_the_same_folds_are_written_again_though_runs_depend_on_them(root):
    write_folds(root, five_folds(root))
    (root / "folds" / "fold_1_train.csv").unlink()
    assert write_folds(root, five_folds(root), runs=["lite0"])
    assert load_folds(root).k == 5


@pytest.mark.parametrize("name", ["folds.csv", "fold_2_valid.csv"])
def test_edited_folds_are_refused(root, name):
    write_folds(root, five_folds(root))
    path = root / "folds" / name
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(InputError, match=re.escape(f"{path} is missing or was edited")):
        load_folds(root)


def test_folds_of_another_train_csv_are_refused(root):
    write_folds(root, five_folds(root))
    write_csv(root / "competition" / "train.csv", rows([1, 0] * 10))
    with pytest.raises(InputError, match="has changed since the folds were made"):
        load_folds(root)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "there are no folds yet. Run `python src/split.py`."),
        ("{", "not readable as json"),
        ('{"k": 5}', "is not what split.py writes"),
    ],
)
def test_missing_or_torn_folds(root, text, message):
    if text is not None:
        write_text(root / "folds" / "folds.json", text)
    with pytest.raises(InputError, match=re.escape(message)):
        load_folds(root)


def test_folds_of_values_have_equal_shares_of_the_bins_and_never_divide_a_group():
    values = np.random.default_rng(0).permutation(400).astype(float)
    table = pd.DataFrame({"id": [str(row) for row in range(400)], "label": values})
    group = pd.Series([str(row // 2) for row in range(400)], index=table["id"])
    folds = make_folds(table, group, 4, 0, "sha", "near", AGE)
    shares = pd.crosstab(folds.table["fold"], strata(table["label"].to_numpy()))
    assert shares.shape == (4, 10) and shares.to_numpy().min() >= 6 and shares.to_numpy().max() <= 14
    assert (folds.table.groupby("group")["fold"].nunique() == 1).all() and folds.table["label"].tolist() == table[
        "label"
    ].tolist()
    assert folds.grouping == "near" and folds.method.endswith(
        "group: near-duplicate images; strata: bins of the target"
    )
    few = table.assign(label=np.where(np.arange(400) < 4, 1.0, 9.0))
    with pytest.raises(
        InputError, match="^age 1 to 9 has 6 rows with 3 different images, too few for 5 folds; choose fewer"
    ):
        make_folds(few.iloc[:6], group.iloc[:6], 5, 0, "sha", "near", AGE)


def test_folds_of_a_target_have_their_own_folder_and_other_values_make_them_stale(tmp_path):
    write_synthetic_competition(tmp_path, train=40, test=10, size=16)
    train = load_competition(tmp_path).train
    ages = pd.DataFrame({"id": train["id"], "age": np.arange(40)})
    write_csv(tmp_path / "competition" / "meta.csv", ages)
    alone = pd.Series(train["id"].tolist(), index=train["id"])
    for target in (LABEL, AGE):
        folds = make_folds(
            target_rows(load_competition(tmp_path), target), alone, 2, 0, target.sha256(tmp_path), target=target
        )
        assert write_folds(tmp_path, folds) and not write_folds(tmp_path, folds)
        assert load_folds(tmp_path, target).table.equals(folds.table)
    assert (tmp_path / "targets/age/folds/folds.csv").read_text().startswith("id,label,group,fold\n1,0.0,1,")
    assert (tmp_path / "folds/folds.csv").is_file()
    write_csv(tmp_path / "competition" / "meta.csv", ages.assign(age=ages["age"] + 1))
    load_folds(tmp_path)  # the label's do not depend on meta.csv
    folder = tmp_path / "competition"
    with pytest.raises(InputError) as caught:
        load_folds(tmp_path, AGE)
    assert str(caught.value) == (
        f"{folder / 'train.csv'} or {folder / 'meta.csv'} has changed since the folds were made. Restore it, or: "
        "Run `python src/split.py --target age` to write the folds again (`--force` if runs depend "
        "on the old ones)."
    )
