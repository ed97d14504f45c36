import dataclasses
import errno
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from facefold import runs as runs_module
from facefold.data.corrections import NO_CORRECTIONS, Corrections
from facefold.data.folds import make_folds
from facefold.models.run_name import CORRECTED_SUFFIX
from facefold.runs import (
    RESULT_FILES,
    Identity,
    fold_dir,
    is_fold_finished,
    is_fold_sealed,
    join_folds,
    load_fold_features,
    load_member,
    parse_run_names,
    remove_fold,
    replace_test_predictions,
    require_distinct,
    run_names,
    seal_fold,
    shared_corrections,
    write_history,
    write_predictions,
    write_weights,
)
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, write_json

IDENTITY = Identity("cnn", "recipe", "folds", "images", 0)
TEST_IDS = ["t2", "t1"]


@pytest.fixture
def split():
    train = pd.DataFrame({"id": [f"{row:04d}" for row in range(8)], "label": [0, 1] * 4})
    return make_folds(train, pd.Series(train["id"].tolist(), index=train["id"]), 2, 0, "sha")


def leave(root, split, fold, identity=IDENTITY, prob=0.25, ids=None, corrections=NO_CORRECTIONS):
    directory = fold_dir(root, identity.name, fold)
    ids = ids or split.valid(fold)["id"].tolist()[::-1]  # order is not what joins them
    write_weights(directory, {"w": np.ones(2, dtype=np.float32)})
    write_history(directory, pd.DataFrame({"epoch": [0], "train_loss": [0.5]}))
    write_predictions(directory, "oof", ids, np.linspace(prob, prob + 0.1, len(ids)), np.ones((len(ids), 3)))
    write_predictions(directory, "test", TEST_IDS[::-1], np.array([0.1, 0.2]) + fold / 10, np.ones((2, 3)))
    seal_fold(directory, identity, {"seconds": 1.0}, corrections)


def test_folds_are_joined_by_id(tmp_path, split):
    leave(tmp_path, split, 0)
    leave(tmp_path, split, 1, prob=0.5)
    member = load_member(tmp_path, IDENTITY, "cnn", split, TEST_IDS)
    assert member.oof.index.tolist() == split.table["id"].tolist()
    last_of_fold_0 = split.valid(0)["id"].iloc[-1]
    assert member.oof[last_of_fold_0] == 0.25 and member.oof[split.valid(1)["id"].iloc[0]] == pytest.approx(0.6)
    assert member.test.loc["t1"].tolist() == pytest.approx([0.1, 0.2]) and member.test.index.tolist() == TEST_IDS
    assert load_fold_features(tmp_path, "cnn", 0, "oof").dtype == np.float16
    assert run_names(tmp_path) == ["cnn"] and is_fold_sealed(tmp_path, "cnn", 1)
    assert join_folds(tmp_path, IDENTITY, split, TEST_IDS).oof.equals(member.oof)
    assert (tmp_path / "runs/cnn/oof.csv").read_text().splitlines()[0] == "id,prob"


def test_folders_of_other_names_and_foreign_files_in_runs_are_no_runs(tmp_path, split):
    for fold in (0, 1):
        leave(tmp_path, split, fold)
    runs = tmp_path / "runs"
    shutil.copytree(runs / "cnn", runs / "cnn backup")
    shutil.copytree(runs / "cnn", runs / "cnn5")  # the name of a recipe, and what is in it is of another one
    (runs / "cnn" / "fold_0 backup").mkdir()
    (runs / "demo_cnn" / "fold_1").mkdir(parents=True)  # not finished
    (runs / "exp1" / "fold_0").mkdir(parents=True)
    for name in ("lite0@3", "cnn5~size=96#2", "lite0@3 backup", "lite0#old", "lite0~size=1e2", "exp1#1"):
        (runs / name / "fold_0").mkdir(parents=True)
    (runs / "lite0" / "folds").mkdir(parents=True)
    (runs / ".ipynb_checkpoints" / "fold_0").mkdir(parents=True)
    (runs / ".DS_Store").write_text("")
    (runs / "lite0" / "fold_0").write_text("")
    assert run_names(tmp_path) == ["cnn", "cnn5~size=96#2", "demo_cnn", "lite0@3"]


def test_a_removed_fold_leaves_the_files_of_a_person(tmp_path, split):
    leave(tmp_path, split, 0)
    leave(tmp_path, split, 1)
    (fold_dir(tmp_path, "cnn", 0) / "notes.txt").write_text("mine")
    for fold in (0, 1):
        remove_fold(fold_dir(tmp_path, "cnn", fold))
    assert [path.name for path in fold_dir(tmp_path, "cnn", 0).iterdir()] == ["notes.txt"]
    assert not fold_dir(tmp_path, "cnn", 1).exists()


def test_new_test_predictions_that_find_no_room_leave_the_fold_whole(tmp_path, split, monkeypatch):
    leave(tmp_path, split, 0)
    directory = fold_dir(tmp_path, "cnn", 0)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs_module, "write_npy", full)
    with pytest.raises(OSError, match="No space left"):
        replace_test_predictions(directory, TEST_IDS, np.array([0.5, 0.5]), np.ones((2, 3)), "images")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert is_fold_finished(tmp_path, IDENTITY, 0)


def test_an_unfinished_fold_is_named(tmp_path, split):
    leave(tmp_path, split, 0)
    assert not is_fold_finished(tmp_path, IDENTITY, 1)
    with pytest.raises(InputError) as caught:
        load_member(tmp_path, IDENTITY, "cnn", split, TEST_IDS)
    assert str(caught.value) == (
        "runs/cnn is incomplete: fold 1 of 2 not finished. Run `python src/train.py --recipe cnn`, or name the "
        "recipes to blend with --recipes."
    )


@pytest.mark.parametrize(
    "field, value, cause",
    [
        ("recipe_hash", "x", "another version of the recipe"),
        ("folds_hash", "x", "other folds"),
        ("images_hash", "x", "other images"),
        ("seed", 1, "another seed"),
    ],
)
def test_a_stale_run_says_why(tmp_path, split, field, value, cause):
    leave(tmp_path, split, 0)
    with pytest.raises(
        InputError,
        match=re.escape(
            f"runs/cnn/fold_0 is stale: it was trained with {cause}. Move it away, or train over it "
            "with `train.py --recipe cnn --force`."
        ),
    ):
        is_fold_finished(tmp_path, dataclasses.replace(IDENTITY, **{field: value}), 0)


def test_a_run_of_another_seed_says_how_to_have_both(tmp_path, split):
    leave(tmp_path, split, 0)
    both = "To have both seeds, give one of them a run of its own: `train.py --recipe cnn#1`."
    with pytest.raises(InputError) as caught:
        is_fold_finished(tmp_path, dataclasses.replace(IDENTITY, seed=1), 0)
    assert str(caught.value).endswith(f"`train.py --recipe cnn --force`. {both}")
    with pytest.raises(InputError) as caught:
        is_fold_finished(tmp_path, dataclasses.replace(IDENTITY, seed=1, folds_hash="x"), 0)
    assert both not in str(caught.value)  # it would have other folds as well
    leave(tmp_path, split, 1, dataclasses.replace(IDENTITY, seed=3))
    with pytest.raises(InputError, match=re.escape("a run of its own: `train.py --recipe cnn#3`.")):
        is_fold_finished(tmp_path, IDENTITY, 1)


def test_the_seed_in_the_name_of_a_run_is_that_of_the_run(tmp_path, split):
    identity = dataclasses.replace(IDENTITY, recipe="cnn#1", seed=1)
    for fold in (0, 1):
        leave(tmp_path, split, fold, identity)
    assert run_names(tmp_path) == ["cnn#1"]
    for known in (dataclasses.replace(identity, seed=0), None):
        assert load_member(tmp_path, known, "cnn#1", split, TEST_IDS).name == "cnn#1"
    for fold in (0, 1):
        leave(tmp_path, split, fold, dataclasses.replace(identity, seed=2))
    for known in (identity, None):
        with pytest.raises(InputError) as caught:
            load_member(tmp_path, known, "cnn#1", split, TEST_IDS)
        assert str(caught.value) == (
            f"{tmp_path}/runs/cnn#1/fold_0 is stale: it was trained with another seed. Move it away, or train over it "
            "with `train.py --recipe cnn#1 --force`."
        )


def test_a_seed_that_is_written_twice_is_one_run():
    require_distinct({"lite0": 0, "lite0#1": 1, "lite0@3": 1, "lite0~size=160": 1, "lite0+corrected": 1})
    with pytest.raises(InputError) as caught:
        require_distinct({"lite0#1": 1, "lite0@3": 1, "lite0": 1})
    assert str(caught.value) == "lite0#1 and lite0 are the same run, for both have seed 1; name one of the two"


def test_a_run_of_corrected_labels_is_another_run(tmp_path, split):
    leave(tmp_path, split, 0)
    corrections = Corrections({"0001": "relabel"})
    identity = dataclasses.replace(IDENTITY, corrections=corrections.hash)
    assert is_fold_finished(tmp_path, IDENTITY, 0)
    assert not is_fold_finished(tmp_path, identity, 0)  # they do not share a folder
    for fold in (0, 1):
        leave(tmp_path, split, fold, identity, corrections=corrections)
    assert run_names(tmp_path) == ["cnn", "cnn+corrected"] and is_fold_finished(tmp_path, identity, 0)
    member = load_member(tmp_path, IDENTITY, "cnn+corrected", split, TEST_IDS)
    assert member.name == "cnn+corrected" and shared_corrections([member]) == corrections
    assert load_member(tmp_path, None, "cnn+corrected", split, TEST_IDS).oof.equals(member.oof)
    with pytest.raises(
        InputError,
        match=re.escape(
            "runs/cnn+corrected/fold_0 is stale: it was trained with other corrections. Move it away, or "
            "train over it with `train.py --recipe cnn --corrections FILE --force`."
        ),
    ):
        is_fold_finished(tmp_path, dataclasses.replace(IDENTITY, corrections="x"), 0)
    with pytest.raises(
        InputError,
        match=re.escape("runs/cnn is incomplete: fold 1 of 2 not finished. Run `python src/train.py --recipe cnn`"),
    ):
        load_member(tmp_path, IDENTITY, "cnn", split, TEST_IDS)


def test_a_run_from_before_there_were_corrections_had_none(tmp_path, split):
    for fold in (0, 1):
        leave(tmp_path, split, fold)
        path = fold_dir(tmp_path, "cnn", fold) / "run.json"
        run = read_json(path)
        del run["corrections"], run["corrected"], run["sha256"]
        write_json(path, run)
    assert is_fold_finished(tmp_path, IDENTITY, 0)
    for identity in (IDENTITY, None):
        assert shared_corrections([load_member(tmp_path, identity, "cnn", split, TEST_IDS)]) == NO_CORRECTIONS


@pytest.mark.parametrize("before, after", [("cnn", "cnn+corrected"), ("cnn+corrected", "cnn")])
def test_a_run_under_the_other_name_is_refused(tmp_path, split, before, after):
    corrections = Corrections({"0001": "relabel"}) if before.endswith(CORRECTED_SUFFIX) else NO_CORRECTIONS
    for fold in (0, 1):
        leave(
            tmp_path, split, fold, dataclasses.replace(IDENTITY, corrections=corrections.hash), corrections=corrections
        )
    (tmp_path / "runs" / before).rename(tmp_path / "runs" / after)
    for identity in (IDENTITY, None):
        with pytest.raises(InputError, match="it was trained with other corrections"):
            load_member(tmp_path, identity, after, split, TEST_IDS)


def test_corrections_that_were_edited_in_a_run_are_refused(tmp_path, split):
    corrections = Corrections({"0001": "relabel"})
    for fold in (0, 1):
        leave(
            tmp_path,
            split,
            fold,
            dataclasses.replace(IDENTITY, corrections=corrections.hash),
            corrections=Corrections({"0001": "drop"}),
        )
    member = load_member(tmp_path, IDENTITY, "cnn+corrected", split, TEST_IDS)
    with pytest.raises(
        InputError,
        match=re.escape(
            "runs/cnn+corrected: the corrections in a run.json were edited, or come from an earlier version of this "
            "program; delete the folder and train it again"
        ),
    ):
        shared_corrections([member])


def test_names_as_a_person_lists_them():
    assert parse_run_names("lite0+corrected, cnn5,lite0,,cnn5") == ["lite0+corrected", "cnn5", "lite0"]
    variants = ["lite0", "lite0~size=160@3#1+corrected", "lite0#1"]
    assert parse_run_names(",".join(variants)) == variants
    with pytest.raises(InputError, match="write it as lite0~lr=0.01, for a run has one name"):
        parse_run_names("lite0,lite0~lr=1e-2")
    with pytest.raises(InputError, match="there is no recipe 'nothing'; there are: "):
        parse_run_names("lite0,nothing+corrected")
    with pytest.raises(InputError, match="',' names no recipe"):
        parse_run_names(",")


def test_folds_of_two_seeds_are_not_one_member(tmp_path, split):
    leave(tmp_path, split, 0)
    leave(tmp_path, split, 1, dataclasses.replace(IDENTITY, seed=1))
    with pytest.raises(InputError, match="fold_1 is stale: it was trained with another seed"):
        load_member(tmp_path, IDENTITY, "cnn", split, TEST_IDS)


def test_a_file_edited_afterwards_is_found(tmp_path, split):
    leave(tmp_path, split, 0)
    path = tmp_path / "runs/cnn/fold_0/features_oof.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        InputError,
        match=re.escape("features_oof.npy is missing or not the file that training wrote (checksum differs)"),
    ):
        is_fold_finished(tmp_path, IDENTITY, 0)


@pytest.mark.parametrize("name", [*RESULT_FILES, "run.json"])
def test_a_torn_file_of_a_fold_is_named(tmp_path, split, name):
    leave(tmp_path, split, 0)
    path = tmp_path / "runs/cnn/fold_0" / name
    whole = path.read_bytes()
    for torn in (whole[:-1], whole[: len(whole) // 2], b""):
        path.write_bytes(torn)
        if torn.strip() == whole.strip():
            continue  # the last line's end alone, of a json file
        with pytest.raises(InputError, match=re.escape(f"{path} is ")):
            is_fold_finished(tmp_path, IDENTITY, 0)
    path.write_bytes(whole)
    assert is_fold_finished(tmp_path, IDENTITY, 0)


def test_no_edited_byte_of_a_run_json_goes_unseen(tmp_path, split):
    leave(tmp_path, split, 0)
    path = tmp_path / "runs/cnn/fold_0/run.json"
    whole, unseen = path.read_bytes(), []
    for offset in range(0, len(whole), 7):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 4]) + whole[offset + 1 :])
        try:
            if is_fold_finished(tmp_path, IDENTITY, 0) and read_json(path) != json.loads(whole):
                unseen.append(offset)
        except InputError:
            continue
    # Only in the checksum's own name: without it nothing is checked, and the rest is unchanged.
    checksum = whole.index(b'"sha256"')
    assert all(checksum <= offset < checksum + 8 for offset in unseen)


def test_a_run_json_of_another_recipe_is_refused(tmp_path, split):
    leave(tmp_path, split, 0)
    leave(tmp_path, split, 0, dataclasses.replace(IDENTITY, recipe="other", recipe_hash="x"))
    (tmp_path / "runs/other/fold_0/run.json").replace(tmp_path / "runs/cnn/fold_0/run.json")
    with pytest.raises(
        InputError, match="fold_0 is stale: it was trained with another recipe's name and another version of the recipe"
    ):
        is_fold_finished(tmp_path, IDENTITY, 0)


def test_ids_that_are_not_the_folds_are_refused(tmp_path, split):
    leave(tmp_path, split, 0, ids=split.valid(1)["id"].tolist())
    leave(tmp_path, split, 1)
    with pytest.raises(
        InputError,
        match=re.escape("oof.csv: its ids are not those of the validation rows of that fold (8 differ, e.g. 0000)"),
    ):
        load_member(tmp_path, IDENTITY, "cnn", split, TEST_IDS)
    with pytest.raises(InputError, match="test.csv: its ids are not those of test.csv"):
        leave(tmp_path, split, 0)
        load_member(tmp_path, IDENTITY, "cnn", split, ["t1", "t3"])


@pytest.mark.parametrize(
    "value, message",
    [
        (1.2, "row 2: prob 1.2 is not a probability"),
        (-0.1, "row 2: prob -0.1 is not a probability"),
        (np.nan, "is damaged (could not convert string to float: ''"),
    ],
)
def test_what_is_no_probability_is_refused(tmp_path, split, value, message):
    leave(tmp_path, split, 0, prob=value)
    leave(tmp_path, split, 1)
    with pytest.raises(InputError, match=re.escape(message)):
        load_member(tmp_path, IDENTITY, "cnn", split, TEST_IDS)
