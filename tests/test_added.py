"""Predictions made elsewhere: how they are read, what is refused, and how they go through blend, report and apply."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from command import call, refused, run
from facefold.data.folds import Folds
from facefold.data.preprocessing import Preprocessing
from facefold.data.results import find_results
from facefold.ensemble import added, methods
from facefold.ensemble.added import MARK, copy_added, find_columns, load_added, runs_to_blend
from facefold.ensemble.apply import BlendModel, predict_images
from facefold.ensemble.blend import make_blend
from facefold.ensemble.leaderboard import format_headline
from facefold.ensemble.members import OofMatrix, join_members
from facefold.ensemble.methods import METHOD_NAMES
from facefold.ensemble.run_table import RunState, export_predictions
from facefold.ensemble.stacking import fit_feature_stackers
from facefold.options import added_argument
from facefold.task import LABEL, Task, task_named
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file
from test_blend_report import fabricate
from test_run_table import fabricated

PETS = Task(kind="multiclass", classes=("ant", "bee", "cow"), label_columns=("animal",))
SEXES = Task(classes=("m", "w"), label_columns=("sex",), id_column="image")
AGE = task_named("age")
TRAIN, TEST = ["0042", "7", "a", "b"], ["t1", "t2"]


def folds_of(target: Task = LABEL) -> Folds:
    labels = np.array([0.0, 1.0, 2.0, 1.0]) if target.regression else np.array([0, 1, 0, 1])
    table = pd.DataFrame({"id": TRAIN, "label": labels, "group": TRAIN, "fold": [0, 1, 0, 1]})
    return Folds(table, 2, 0, "hash", "sha", "method", target)


def write(folder: Path, oof: str, test: str) -> tuple[Path, Path]:
    paths = folder / "oof.csv", folder / "test.csv"
    for path, text in zip(paths, (oof, test), strict=True):
        path.write_text(text)
    return paths


@pytest.mark.parametrize(
    "header, target, found",
    [
        ("id,prob", LABEL, "prob"),
        ("prob,fold,pred,label,id", LABEL, "prob"),
        ("id,p", LABEL, "p"),
        ("id,label,fold,lite0,mate", LABEL, "mate"),
        ("id,0,1", LABEL, "0 1"),
        ("id,prob_0,prob_1", LABEL, "prob_0 prob_1"),
        ("id,1", LABEL, "1"),
        ("image,sex,w", SEXES, "w"),
        ("id,cow,ant,bee,animal", PETS, "ant bee cow"),
        ("id,prob_cow,prob_ant,prob_bee", PETS, "prob_ant prob_bee prob_cow"),
        ("id,x:ant,mate:ant,mate:bee,mate:cow", PETS, "mate:ant mate:bee mate:cow"),
        ("id,pred", AGE, "pred"),
        ("id,age,years", AGE, "years"),
    ],
)
def test_columns_that_are_clear_are_found(header, target, found):
    assert find_columns(header.split(","), "mate", target) == (found.split(), "")


@pytest.mark.parametrize(
    "header, target, problem",
    [
        ("id,label", LABEL, "there is no column of predictions in the header 'id,label', expected id,prob"),
        ("id,prob,x", LABEL, "the column 'x' is unknown next to prob; delete it"),
        (
            "id,a,b",
            LABEL,
            "each of the columns 'a,b' could hold the predictions: call one of them prob, or the member like it: "
            "--add a=OOF.csv,TEST.csv",
        ),
        ("id,0", LABEL, "the column 0 is that of the class 0; expected id,prob, of 1"),
        ("id,prob_m", SEXES, "the column prob_m is that of the class m; expected id,prob, of w"),
        (
            "id,ant,bee",
            PETS,
            "there is no column of predictions in the header 'id,ant,bee', expected id,prob_ant,prob_bee,prob_cow",
        ),
        ("id,age", AGE, "there is no column of predictions in the header 'id,age', expected id,pred"),
    ],
)
def test_columns_that_are_not_clear_are_refused(header, target, problem):
    assert find_columns(header.split(","), "mate", target) == ([], problem)


def test_a_member_called_label_does_not_read_the_labels():
    assert find_columns(["id", "label", "p"], "label", LABEL) == (["p"], "")


@pytest.mark.parametrize("fold, known", [("0101", "ours"), ("7373", "ours"), ("0011", "other"), ("0000", "other")])
def test_the_member_is_joined_by_id_and_its_folds_are_compared(tmp_path, fold, known):
    rows = [f"{id},{prob},{k}" for id, prob, k in zip(TRAIN, (0.1, 0.2, 0.3, 0.4), fold, strict=True)]
    paths = write(tmp_path, "\n".join(["id,p,fold", *rows[::-1]]), "id,prob\nt2,0.6\nt1,0.1\n")
    member = load_added("mate", paths, folds_of(), TEST)
    assert member.name == "mate (not verified here)" and member.folds == known and member.runs == []
    assert member.oof.to_dict() == {"0042": 0.1, "7": 0.2, "a": 0.3, "b": 0.4} and member.oof.index.tolist() == TRAIN
    assert member.notes == (f"{paths[0]}: the column p is read as prob, the probability of label 1",)
    matrix = join_members([member], folds_of(), TEST)
    assert matrix.added == (member.name,) and matrix.runs.names == [] and matrix.runs.prob.shape == (4, 0)
    assert matrix.test_prob[:, 0].tolist() == [0.1, 0.6]  # (0.1 + 0.1 + 0.1) / 3 is another number


def test_a_test_prediction_is_not_rounded_by_a_mean_over_folds():
    test = np.random.default_rng(0).random(500)
    folds = np.repeat(test[None, :, None], 5, axis=0)
    matrix = OofMatrix(
        TRAIN, np.array([0, 1, 0, 1]), np.arange(4), np.array(TRAIN), ["a"], np.full((4, 1), 0.5), [], folds
    )
    assert (matrix.test_prob[:, 0] != test).any()
    exact = OofMatrix(**{**matrix.__dict__, "added": ("a",)}).test_prob
    assert (exact[:, 0] == test).all()


def test_everything_that_is_wrong_is_listed_by_file_and_row(tmp_path):
    oof, test = write(tmp_path, "id,prob\n42,0.5\n7,0.5\n7,1.5\na,x\nb,nan\n", "id,fold\nt1,0\n")
    with pytest.raises(InputError) as caught:
        load_added("mate", (oof, test), folds_of(), TEST)
    assert str(caught.value).splitlines() == [
        "the predictions 'mate' cannot be added:",
        f"  - {oof}, row 4: id '7' appears twice, first in row 3",
        f"  - {oof}: id '0042' of train.csv is missing",
        f"  - {oof}, row 2: id '42' is not in train.csv",
        f"  - {oof}, row 4: prob '1.5' is not a probability",
        f"  - {oof}, row 5: prob 'x' is not a probability",
        f"  - {oof}, row 6: prob 'nan' is not a probability",
        f"  - {test}, row 1: there is no column of predictions in the header 'id,fold', expected id,prob",
        "Both files have the columns id,prob, and one row for each id of train.csv or test.csv, written as it is "
        "there; a column fold is optional. Nothing was changed.",
    ]
    oof, test = write(tmp_path, "image,prob\n7,0.5\n", "id,pred\nt1,inf\nt2,1e3\n")
    with pytest.raises(InputError) as caught:
        load_added("mate", (oof, tmp_path / "no.csv"), folds_of(), TEST)
    assert f"  - {oof}, row 1: there is no column id in the header 'image,prob'\n" in str(caught.value)
    assert f"  - {tmp_path / 'no.csv'} is missing\n" in str(caught.value)
    with pytest.raises(InputError, match="test.csv, row 2: pred 'inf' is not a finite number"):
        load_added("mate", (oof, test), folds_of(AGE), TEST)
    rows = "".join(f"{id},0.2,0.2,0.6\n" for id in TRAIN)
    oof, test = write(tmp_path, f"id,ant,bee,cow\n{rows}", "id,ant,bee,cow\nt1,0.2,0.2,0.6\nt2,0.2,0.2,0.7\n")
    with pytest.raises(InputError, match="test.csv, row 3: the probabilities sum to 1.1, not to 1"):
        load_added("mate", (oof, test), folds_of(PETS), TEST)


@pytest.mark.parametrize("target", [PETS, AGE], ids=["classes", "number"])
def test_a_copy_of_a_run_predicts_as_the_run_itself(tmp_path, target):
    run, folds = fabricated(target, "own", 0)
    ids = run.test.index.tolist()
    own = join_members([run], folds, ids)
    test = pd.DataFrame(own.test_prob[:, 0], index=ids, columns=list(target.columns))
    paths = tmp_path / "oof.csv", tmp_path / "test.csv"
    for path, table in zip(paths, (run.oof.to_frame() if target.regression else run.oof, test), strict=True):
        table.rename_axis(index="id").to_csv(path)
    added = join_members([load_added("copy", paths, folds, ids)], folds, ids)
    one, other = (
        make_blend(matrix, fit_feature_stackers(matrix.runs, None), "best_single", "auto")
        for matrix in (own if target.regression else OofMatrix(**{**own.__dict__, "added": ("own",)}), added)
    )
    assert one.submissions["best_single"].equals(other.submissions["best_single"])
    assert one.facts["score"] == pytest.approx(other.facts["score"], abs=1e-12)
    assert other.facts["weights"] == {"copy" + MARK: 1} and other.facts["second_pass"] is None
    board = other.leaderboard.set_index("name")
    assert board.loc["copy" + MARK, "kind"] == "added" and not {"stack_features", "second_pass"} & set(board.index)


RUN_NAMES = ("lite0#1", "lite0@3", "lite0~lr=0.0003~size=192x128@3#1+corrected+pseudo", "lite0~size=160")


@pytest.mark.parametrize("name", ["my.mate_1", *RUN_NAMES])
def test_a_member_may_be_called_like_any_run_and_its_files_lie_anywhere(name):
    oof, test = Path("runs/lite0~size=160=/k=1/oof.csv"), Path("test#1.csv")
    assert added_argument(f"{name}={oof},{test}") == (name, (oof, test))


def test_each_run_of_an_export_of_three_classes_can_be_added(tmp_path):
    members = [fabricated(PETS, name, seed)[0] for seed, name in enumerate(RUN_NAMES)]
    folds, ids = fabricated(PETS, "", 0)[1], members[0].test.index.tolist()
    export_predictions(tmp_path, [RunState(one.name, "complete", [], one) for one in members], folds, ids)
    both = f"{tmp_path}/oof.csv,{tmp_path}/test.csv"
    added = [load_added(*added_argument(f"{name}={both}"), folds, ids) for name in RUN_NAMES]
    own, copies = join_members(members, folds, ids), join_members(added, folds, ids)
    assert copies.names == [name + MARK for name in own.names]
    assert copies.prob == pytest.approx(own.prob, abs=1e-12)
    assert copies.test_prob == pytest.approx(own.test_prob, abs=1e-12)


def test_a_file_may_be_as_large_as_its_rows_and_columns_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr(added, "MAX_CSV_BYTES", 100)
    columns = ",".join(["id", *(f"{run}:{one}" for run in ("lite0", "lite1", "cnn5") for one in PETS.classes)])
    cells = ",".join(["0.33333333333333331"] * 9)  # 190 bytes with the id, of the 320 of ten cells
    oof, test = ("\n".join([columns, *(f"{id},{cells}" for id in ids)]) for ids in (TRAIN, TEST))
    paths = write(tmp_path, oof, test)
    assert paths[0].stat().st_size > 800
    assert load_added("lite1", paths, folds_of(PETS), TEST).oof.to_numpy().tolist() == [[0.33333333333333331] * 3] * 4
    paths = write(tmp_path, oof, test + "," + " " * 640)
    with pytest.raises(InputError) as caught:
        load_added("lite1", paths, folds_of(PETS), TEST)
    assert str(caught.value).splitlines()[1] == f"  - {paths[1]} is larger than 0 MiB"


def test_a_file_that_changes_while_it_is_blended_is_not_what_was_blended(tmp_path):
    oof, test = write(tmp_path, "id,prob\n" + "".join(f"{id},0.5\n" for id in TRAIN), "id,prob\nt1,0.5\nt2,0.5\n")
    member = load_added("mate", (oof, test), folds_of(), TEST)
    (tmp_path / "copies").mkdir()
    facts = copy_added(member, tmp_path / "copies")
    assert facts["test"] == {"path": str(test), "sha256": sha256_file(tmp_path / "copies" / "added_mate_test.csv")}
    test.write_text("id,prob\nt1,0.5\nt2,0.6\n")
    message = f"{test} was changed while it was blended; nothing was written, run the command again"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        copy_added(member, tmp_path / "copies")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_competition) -> Path:
    """A root of 90 rows whose labels are submitted as probabilities, with two runs."""
    root = tmp_path_factory.mktemp("added")
    make_competition(root, 90, 20, 16, 3)
    call("audit", root, "--submission", "probabilities")
    fabricate(root, {"lite0": 2.5, "cnn5": 2.5})
    call("runs", root, "--export", "export")
    oof, test = (pd.read_csv(root / "export" / f"{part}.csv", dtype={"id": str}) for part in ("oof", "test"))
    known = oof.assign(prob=oof["label"].map({0: 0.2, 1: 0.8}))[["id", "prob", "fold"]]
    known.to_csv(root / "know_oof.csv", index=False)
    test.rename(columns={"cnn5": "p"})[["id", "p"]].to_csv(root / "know_test.csv", index=False)
    return root


@pytest.fixture
def few_methods(monkeypatch):
    """Let a blend try three methods, which saves seconds; all of them are in the blend that the report shows."""
    few = {name: methods.METHODS[name] for name in ("mean", "best_single", "weighted_mean")}
    monkeypatch.setitem(methods.METHODS_OF_KIND, "binary", few)


def content(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "submissions").iterdir()}


def test_the_export_of_a_run_is_that_run_byte_for_byte(finished, few_methods):
    assert run("blend", finished, "--recipes", "lite0").returncode == 0
    own = content(finished)
    (finished / "runs").rename(finished / "away")
    try:
        done = run("blend", finished, "--add", "lite0=export/oof.csv,export/test.csv")
        assert done.returncode == 0, done.stderr
    finally:
        (finished / "away").rename(finished / "runs")
    copy = content(finished)
    assert copy["submission.csv"] == own["submission.csv"] and copy["test_blend.csv"] == own["test_blend.csv"]
    assert copy["oof_blend.csv"] == own["oof_blend.csv"] and "0." in copy["submission.csv"].decode().splitlines()[1]
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "export/oof.csv: the column lite0 is read as prob, the probability of label 1",
        "export/test.csv: the column lite0 is read as prob, the probability of label 1",
    ]
    assert (
        "lite0 (not verified here): its folds are those of folds/folds.csv; that its rows are out of fold is taken on "
        "trust."
    ) in lines
    assert (
        "stack_features and second_pass are left out: there are no features, for predictions made elsewhere have none."
    ) in lines
    assert re.search(r" by best_single with lite0 \(not verified here\)$", lines[-1])
    assert run("report", finished).returncode == 0
    page = (finished / "report.html").read_text()
    assert "Learning curves" not in page and "(1 recipe, 0 models.)" in page


def test_a_seed_and_a_variant_of_an_export_are_members(finished, few_methods):
    names = {"lite0": "lite0~size=160", "cnn5": "lite0#1"}
    (finished / "mine").mkdir()
    for part in ("oof", "test"):
        table = pd.read_csv(finished / "export" / f"{part}.csv", dtype=str)
        table.rename(columns=names).to_csv(finished / "mine" / f"{part}.csv", index=False)
    add = [word for name in names.values() for word in ("--add", f"{name}=mine/oof.csv,mine/test.csv")]
    done = run(
        "blend", finished, *add, "--recipes", ",".join(names.values()), "--weights", "lite0~size=160=2,lite0#1=1"
    )
    assert done.returncode == 0, done.stderr
    written = content(finished)
    assert written["added_lite0~size=160_oof.csv"] == written["added_lite0#1_oof.csv"]
    assert list(json.loads(written["blend.json"])["added"]) == ["lite0#1" + MARK, "lite0~size=160" + MARK]
    assert {path.name for path in find_results(finished)} >= written.keys()


def test_predictions_that_know_their_labels_are_marked_and_named_everywhere(finished, tmp_path):
    add = "know=know_oof.csv,know_test.csv"
    done = run("blend", finished, "--add", add, "--weights", "know=1,lite0=1,cnn5=1", "--method", "weighted_mean")
    assert done.returncode == 0, done.stderr
    name, facts = "know (not verified here)", json.loads(content(finished)["blend.json"])
    known = facts["added"][name]
    assert known["oof"]["path"] == "know_oof.csv" and known["folds"] == "ours" and known["error"] == 0
    assert known["difference"] > 0.1 and known["knows_labels"] is True
    assert facts["weights"] == {name: 1, "lite0": 1, "cnn5": 1} and facts["options"]["recipes"] == [
        "cnn5",
        "know",
        "lite0",
    ]
    assert content(finished)["added_know_oof.csv"] == (finished / "know_oof.csv").read_bytes()
    warning = (
        f"WARNING: {name} seems to know its labels: it is wrong on 0.00 % of the rows and differs from the mean of the "
        f"runs on {100 * known['difference']:.2f} %. Honest models err on much the same rows; were these rows trained "
        "on? Then every score with it is too high. Leave --add know out, or have it predict each fold of "
        "folds/folds.csv by models that have not seen it."
    )
    features = (
        "stack_features and second_pass take the features of cnn5, lite0 alone, for predictions made elsewhere have "
        "none."
    )
    assert {warning, features} <= set(done.stdout.splitlines())
    board = pd.read_csv(finished / "submissions" / "leaderboard.csv").set_index("name")
    assert board.loc[name, "kind"] == "added" and set(METHOD_NAMES) < set(board.index)

    for file in ("know_oof.csv", "know_test.csv"):  # the report reads the copies
        (finished / file).rename(tmp_path / file)
    try:
        done = run("report", finished)
        assert done.returncode == 0, done.stderr
        page = (finished / "report.html").read_text()
        assert warning in page and features in page and f'<th scope="row">{name}<small>added</small></th>' in page
        assert f'<th scope="row">{name}</th><td class="number">1.0000</td>' in page and f"{name}: know_oof.csv" in page
        assert 'Made elsewhere <b class="warning">seems to know its labels</b>' in page
        assert "--recipes cnn5,know,lite0 --method weighted_mean" in page and f"--add {add}" in page
        assert "(3 recipes, 6 models.)" in page and "A member seems to know its labels.</h1>" in page
    finally:
        for file in ("know_oof.csv", "know_test.csv"):
            (tmp_path / file).rename(finished / file)


def test_the_next_blend_says_what_it_has_not_and_copies_are_not_edited(finished, few_methods):
    assert run("blend", finished, "--add", "know=know_oof.csv,know_test.csv").returncode == 0
    copy = finished / "submissions" / "added_know_oof.csv"
    text = copy.read_text()
    for edited in (lambda: copy.write_text(text.replace("0.8", "0.9")), copy.unlink):
        edited()
        assert "added_know_oof.csv is missing or not what the blend wrote" in refused("report", finished)
    done = run("blend", finished)
    assert done.returncode == 0 and done.stdout.splitlines()[0] == (
        "note: the last blend had know (not verified here) as well, this one has not. To have it again: "
        "--add know=know_oof.csv,know_test.csv"
    )
    assert not [name for name in content(finished) if name.startswith("added_")]
    assert "added" not in json.loads(content(finished)["blend.json"])
    assert not run("blend", finished).stdout.startswith("note")


def test_what_cannot_be_is_refused(finished, few_methods, tmp_path):
    both = "know_oof.csv,know_test.csv"
    assert refused("blend", finished, "--add", f"lite0={both}") == (
        "--add lite0: a run under runs/ has that name; give the predictions another one, and their column too if the "
        "files have columns of several runs"
    )
    assert refused("blend", finished, "--add", f"a={both}", "--add", f"a={both}") == (
        "--add names a twice; give each its own name"
    )
    alone = ("--add", f"a={both}", "--add", f"b={both}", "--recipes", "a,b")
    assert refused("blend", finished, *alone, "--method", "second_pass") == (
        "--method second_pass uses features, and predictions made elsewhere have none; take another method, or blend "
        "them with a run"
    )
    for text in ("know", "know=know_oof.csv", "a b=x.csv,y.csv", "a=x.csv,y.csv,z.csv"):
        assert "is not NAME=OOF.csv,TEST.csv" in run("blend", finished, "--add", text).stderr
    assert run("blend", finished, *alone).returncode == 0
    options = ("--out", tmp_path / "out", "--user", "me", "--competition", "faces", "--no-wheels")
    assert refused("pack", finished, *options) == (
        "the blend has a (not verified here), b (not verified here): a notebook cannot predict again what was made "
        "elsewhere. Blend without --add first: `python src/blend.py`"
    )


def test_runs_are_those_of_recipes_without_the_added(tmp_path):
    assert runs_to_blend(tmp_path, "lite0,mate", ["mate"]) == ["lite0"]
    assert runs_to_blend(tmp_path, "mate", ["mate"]) == [] == runs_to_blend(tmp_path, None, ["mate"])


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_new_images_need_no_model_of_a_member_without_weight(monkeypatch, tmp_path, weight):
    run, folds = fabricated(AGE, "own", 0)
    other, _ = fabricated(AGE, "x", 1)
    matrix = join_members([run, other], folds, run.test.index.tolist())
    matrix = OofMatrix(**{**matrix.__dict__, "names": ["own", "x" + MARK], "added": ("x" + MARK,)})
    rule = np.array([1 - weight, weight])
    blend = make_blend(matrix, fit_feature_stackers(matrix.runs, None), "weighted_mean", rule)
    assert format_headline({**blend.facts}).endswith(" by weighted_mean with x (not verified here)")
    names = [Path(name) for name in matrix.test_ids]
    apply = "facefold.ensemble.apply"
    monkeypatch.setattr(
        f"{apply}.trained_recipe", lambda *_: SimpleNamespace(preprocessing=Preprocessing(8), embeddings="")
    )
    monkeypatch.setattr(f"{apply}._open", lambda *_: np.zeros((8, 8, 3), np.uint8))
    predictions = [SimpleNamespace(prob=matrix.fold_test_prob[k, :, 0], features=np.zeros((9, 1))) for k in range(3)]
    monkeypatch.setattr(f"{apply}.predict_folds", lambda *_: predictions)
    fit = methods.blend_methods(AGE, rule)["weighted_mean"]
    model = BlendModel(tmp_path, blend.facts, [run, other], matrix, fit)
    if weight:
        message = (
            "x (not verified here): predictions made elsewhere have no model that could predict new images. Blend "
            "without --add first: `python src/blend.py --target age`"
        )
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            predict_images(model, names, None, tmp_path)
    else:
        assert predict_images(model, names, None, tmp_path) == pytest.approx(matrix.test_prob[:, 0])


def test_the_example_of_the_docs_runs(finished, few_methods, monkeypatch):
    text = (Path(__file__).resolve().parents[1] / "docs" / "options.md").read_text()
    code = re.search(r"```python\n(# my_logistic.*?)```", text, re.DOTALL)[1]
    command = re.search(r"python src/blend.py (--add logistic=.*)", text)[1]
    ids = [
        f"{id}"
        for part in ("folds/folds", "competition/test")
        for id in pd.read_csv(finished / f"{part}.csv", dtype=str)["id"]
    ]
    (finished / "features").mkdir()
    np.save(finished / "features" / "lite2.npy", np.random.default_rng(0).random((len(ids), 4), np.float32))
    pd.DataFrame({"id": ids[::-1]}).to_csv(finished / "features" / "lite2.csv", index=False)
    monkeypatch.chdir(finished)
    exec(code, {})
    done = run("blend", finished, *command.split())
    assert done.returncode == 0 and "logistic (not verified here): its folds are those of folds" in done.stdout
