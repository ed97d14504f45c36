"""A blend of more than two classes, and of two by another metric than accuracy: tables, facts, words and refusals."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from facefold.data.corrections import Corrections
from facefold.data.folds import Folds
from facefold.data.preprocessing import Preprocessing
from facefold.ensemble import apply
from facefold.ensemble.apply import BlendModel, predict_images
from facefold.ensemble.blend import SEALED, load_blend, make_blend
from facefold.ensemble.decisions import Decision
from facefold.ensemble.leaderboard import format_headline, format_leaderboard, leaderboard_columns
from facefold.ensemble.members import OofMatrix, join_members
from facefold.ensemble.methods import CLASS_METHODS, METHOD_NAMES, check_options
from facefold.ensemble.metrics import target_metric
from facefold.ensemble.scores import decide
from facefold.ensemble.stacking import Stacked, fit_feature_stackers
from facefold.runs import Member
from facefold.task import Task
from facefold.training.predict import FoldPrediction
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file, write_csv, write_json

BREEDS = Task(kind="multiclass", classes=("akita", "beagle", "corgi"))


def case(task: Task, rows: int = 300, skew: float = 0.0) -> tuple[OofMatrix, Stacked]:
    """Two members of a task in three folds, whose last class is too unlikely by `skew` in the logarithm."""
    draw, classes = np.random.default_rng(0), len(task.classes)
    labels = draw.permutation(np.arange(rows) % classes)

    def members(labels: np.ndarray) -> np.ndarray:
        logits = draw.normal(size=(len(labels), 2, classes))
        logits[np.arange(len(labels)), :, labels] += 1.5
        logits[:, :, -1] -= skew
        prob = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
        return prob if task.multiclass else prob[:, :, 1]

    prob, test = members(labels), np.stack([members(np.arange(40) % classes) for _ in range(3)])
    ids, test_ids = [str(row) for row in range(rows)], [f"t{row}" for row in range(40)]
    matrix = OofMatrix(ids, labels, np.arange(rows) % 3, np.array(ids), ["x", "y"], prob, test_ids, test, task)
    return matrix, Stacked(prob.mean(axis=1), test.mean(axis=(0, 2)))


def test_three_classes_from_matrix_to_tables():
    matrix, stacked = case(BREEDS, rows=150)
    blend = make_blend(matrix, stacked, "auto", "auto")
    columns = ["prob_akita", "prob_beagle", "prob_corgi"]
    assert blend.oof.columns.tolist() == ["id", "label", *columns, "pred", "fold"]
    assert blend.test.columns.tolist() == ["id", *columns, "pred"]
    assert set(blend.submissions) == set(METHOD_NAMES)
    assert all(table.columns.tolist() == ["id", "label"] for table in blend.submissions.values())
    assert (blend.oof["pred"] == decide(blend.oof[columns].to_numpy())).all()
    assert blend.oof[columns].sum(axis=1).to_numpy() == pytest.approx(1)
    assert (blend.submissions[blend.facts["picked"]]["label"] == blend.test["pred"]).all()
    assert (blend.oof["pred"] == blend.oof["label"]).mean() == blend.facts["score"]["accuracy"]
    assert set(blend.leaderboard["name"]) == {"x", "y", "auto", *METHOD_NAMES}
    assert list(blend.leaderboard) == list(leaderboard_columns(target_metric(BREEDS), False))
    assert format_headline(blend.facts).startswith(f"nested accuracy {blend.facts['score']['accuracy']:.4f} [")
    head = re.split("  +", format_leaderboard(blend.leaderboard, BREEDS).splitlines()[0].strip())
    assert head == ["accuracy", "95 % interval", "log loss", "ece", "gain over best single", "weights"]
    json.dumps(blend.facts)


def test_offsets_reach_score_and_submission():
    matrix, stacked = case(BREEDS, rows=900, skew=1.5)
    blend = make_blend(matrix, stacked, "mean", "auto")
    facts = blend.facts
    assert facts["decision"]["kind"] == "offsets" and facts["threshold"] == 0.5
    assert facts["threshold_gain"]["p"] < 0.05
    assert facts["why"].startswith(
        "mean was asked for. It decides by the largest log probability plus an offset of each class, which gains "
    )
    shifted = np.log(matrix.test_prob.mean(axis=1)) + facts["decision"]["values"]
    assert (blend.submissions["mean"]["label"] == shifted.argmax(axis=1)).all()
    assert facts["score"]["accuracy"] > facts["picked_score"]["accuracy"] + 0.03
    assert "auto" not in set(blend.leaderboard["name"])
    model = BlendModel(None, json.loads(json.dumps(facts)), [], matrix, None)
    assert (decide(model.decision.apply(matrix.test_prob.mean(axis=1))) == blend.test["pred"]).all()
    assert replace(model, facts={"threshold": 0.4}).decision == Decision("threshold", (0.4,))
    assert replace(model, facts={"threshold": 0.5}).decision == Decision()


@pytest.mark.parametrize("metric", ["log_loss", "mean_auc"])
def test_probabilities_are_submitted_and_nothing_is_decided(metric):
    task = replace(BREEDS, metric=metric, submission="probabilities")
    matrix, stacked = case(task, rows=150, skew=1.5)
    blend = make_blend(matrix, stacked, "mean", "auto")
    assert blend.facts["decision"] == {"kind": "none", "values": ()} and blend.facts["threshold_gain"] is None
    for table in blend.submissions.values():
        assert table.columns.tolist() == ["id", *task.columns]
        assert table[list(task.columns)].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-6)
    sign = 1 if metric == "log_loss" else -1
    assert (sign * blend.leaderboard[metric]).is_monotonic_increasing
    assert metric in format_headline(blend.facts).replace(" ", "_")


@pytest.mark.parametrize("metric", ["auc", "log_loss", "macro_f1", "balanced_accuracy"])
def test_two_classes_by_another_metric(metric):
    task = Task(metric=metric, submission="labels" if metric in ("macro_f1", "balanced_accuracy") else "probabilities")
    method = "auto" if metric == "auc" else "mean"
    blend, name = make_blend(*case(task, rows=150), method, "auto"), target_metric(task).name
    column = "label" if task.submission == "labels" else "prob"
    assert all(table.columns.tolist() == ["id", column] for table in blend.submissions.values())
    board = blend.leaderboard
    assert (board[metric] * (1 if metric == "log_loss" else -1)).is_monotonic_increasing
    assert (board[f"{metric}_low"] <= board[metric]).all() and (board["accuracy"] > 0.5).all()
    assert board.set_index("name").loc["best_single", "gain"] == 0
    assert format_headline(blend.facts).startswith(f"nested {name} {blend.facts['score'][metric]:.4f} [")
    assert method == "mean" or "(DeLong, p < 0.05)" in blend.facts["why"]


def test_errors_by_the_root_of_their_squares():
    task = Task("age", kind="regression", classes=(), metric="rmse", submission="values")
    draw = np.random.default_rng(0)
    values = draw.uniform(0, 100, 200)
    pred = values[:, None] + draw.normal(size=(200, 2)) * [5, 9]
    ids = [str(row) for row in range(200)]
    fold, group, test = np.arange(200) % 4, np.array(ids), np.ones((4, 1, 2))
    matrix = OofMatrix(ids, values, fold, group, ["x", "y"], pred, ["t"], test, task)
    blend = make_blend(matrix, fit_feature_stackers(matrix, None), "auto", "auto")
    assert blend.leaderboard["rmse"].is_monotonic_increasing and "rmse_low" in blend.leaderboard
    assert blend.oof.columns.tolist() == ["id", "label", "pred", "fold"]
    assert format_headline(blend.facts).startswith("nested root mean squared error 4.")


def test_what_was_written_is_read_again(tmp_path):
    matrix, stacked = case(BREEDS)
    blend = make_blend(matrix, stacked, "mean", "auto")
    out = tmp_path / "submissions"
    out.mkdir()
    tables = {"leaderboard": blend.leaderboard, "oof_blend": blend.oof, "test_blend": blend.test}
    for name, table in {**tables, "submission": blend.submissions["mean"]}.items():
        write_csv(out / f"{name}.csv", table)
    write_json(out / "blend.json", {**blend.facts, "files": {name: sha256_file(out / name) for name in SEALED}})
    again = load_blend(tmp_path, BREEDS)
    assert again.oof.columns.tolist() == blend.oof.columns.tolist() and (again.test["pred"] == blend.test["pred"]).all()
    assert again.oof["prob_corgi"].to_numpy() == pytest.approx(blend.oof["prob_corgi"].to_numpy())


def known_features(fold: int, part: str, ids: list[str]) -> np.ndarray:
    """Features that know the class of each row of `case`, in the basis of a fold."""
    draw, labels = np.random.default_rng(fold), case(BREEDS)[0].labels
    classes = [labels[int(id)] if part == "oof" else int(id[1:]) % 3 for id in ids]
    features = np.eye(3)[classes] @ draw.normal(size=(3, 12))
    return (features + 0.2 * draw.normal(size=(len(ids), 12))).astype(np.float32)


def test_features_of_three_classes_are_stacked_fold_by_fold():
    matrix, _ = case(BREEDS)
    stacked = fit_feature_stackers(matrix, known_features)
    assert (decide(stacked.oof) == matrix.labels).mean() > 0.95
    assert (decide(stacked.test) == np.arange(40) % 3).mean() > 0.95
    assert stacked.oof.sum(axis=1) == pytest.approx(1) and stacked.test.shape == (40, 3)
    blend = make_blend(matrix, stacked, "stack_features", "auto")
    assert set(blend.leaderboard["name"][:2]) == {"stack_features", "second_pass"}
    assert blend.facts["second_pass"]["rows"] > 0


@pytest.mark.parametrize("method", ["weighted_mean", "stack_features"])
def test_new_images_that_are_the_test_images_get_their_predictions(method, monkeypatch, tmp_path):
    matrix, _ = case(BREEDS, skew=1.0)
    matrix = replace(matrix, fold_test_prob=np.round(matrix.fold_test_prob, 9))
    blend = make_blend(matrix, fit_feature_stackers(matrix, known_features), method, "auto")
    names = [f"/t{row}" for row in range(40)]
    features = {k: known_features(k, "test", matrix.test_ids) for k in range(3)}

    def predict_folds(directory, name, runs, images, device, scratch):
        j = matrix.names.index(name)
        return [FoldPrediction(matrix.fold_test_prob[k, :, j], features[k][:, 6 * j : 6 * j + 6], "") for k in range(3)]

    monkeypatch.setattr(apply, "_open", lambda path, _: np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(
        apply, "trained_recipe", lambda name, runs: SimpleNamespace(preprocessing=Preprocessing(8), embeddings="")
    )
    monkeypatch.setattr(apply, "predict_folds", predict_folds)
    monkeypatch.setattr(
        apply, "load_features", lambda root, names, fold, part, ids, target: known_features(fold, part, ids)
    )
    members = [Member(name, None, None, []) for name in matrix.names]
    model = BlendModel(tmp_path, blend.facts, members, matrix, CLASS_METHODS[method])
    scores = predict_images(model, [Path(name) for name in names], None, tmp_path)
    assert scores == pytest.approx(blend.test[list(BREEDS.columns)].to_numpy(), abs=1e-6)
    assert (decide(scores) == blend.test["pred"]).all()


def member(name: str, columns: tuple[str, ...] = BREEDS.columns, total: float = 1.0) -> Member:
    oof = pd.DataFrame(np.full((4, 3), total / 3), index=list("abcd"), columns=list(columns))
    by_fold = {k: pd.DataFrame([[0.2, 0.3, 0.5]], index=["t"], columns=list(columns)) for k in range(2)}
    return Member(name, oof, pd.concat(by_fold, axis=1), [])


def folds() -> Folds:
    table = pd.DataFrame({"id": list("abcd"), "label": [0, 1, 2, 0], "group": list("abcd"), "fold": [0, 1, 0, 1]})
    return Folds(table, 2, 0, "", "", "", BREEDS)


def test_members_of_three_classes_are_joined():
    shuffled = member("y")
    shuffled = replace(shuffled, oof=shuffled.oof.assign(prob_akita=[0.1, 0.2, 0.3, 0.4], prob_beagle=0.1))
    shuffled = replace(shuffled, oof=shuffled.oof.assign(prob_corgi=1 - shuffled.oof["prob_akita"] - 0.1).iloc[::-1])
    matrix = join_members([shuffled, member("x")], folds(), ["t"])
    assert matrix.prob.shape == (4, 2, 3) and matrix.fold_test_prob.shape == (2, 1, 2, 3)
    assert matrix.prob[:, 1, 0] == pytest.approx([0.1, 0.2, 0.3, 0.4]) and matrix.prob[0, 0] == pytest.approx(1 / 3)
    assert matrix.test_prob[0, 0] == pytest.approx([0.2, 0.3, 0.5])


@pytest.mark.parametrize(
    "broken, message",
    [
        (
            member("x", ("prob_akita", "prob_corgi", "prob_beagle")),
            "runs/x, out-of-fold: the columns are prob_akita,prob_corgi,prob_beagle, expected "
            "prob_akita,prob_beagle,prob_corgi; train that recipe again",
        ),
        (
            member("x", total=1.2),
            "runs/x, out-of-fold: the probabilities of id a sum to 1.2, not to 1; train that recipe again",
        ),
        (
            member("x", total=-3.0),
            "runs/x, out-of-fold: id a has -1.0, which is not a probability; train that recipe again",
        ),
    ],
)
def test_members_that_are_no_distributions_are_refused(broken, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        join_members([broken], folds(), ["t"])


def test_what_is_for_two_classes_is_refused():
    message = "--use-order reads labels 0 and 1, and this task has 3 classes; leave it out"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_options(BREEDS, "auto", "auto", ["order"])


def test_corrected_labels_are_scored_beside_any_metric():
    matrix, stacked = case(BREEDS)
    blend = make_blend(
        matrix, stacked, "mean", "auto", (), Corrections({matrix.ids[3]: "relabel:2", matrix.ids[5]: "drop"})
    )
    labels = matrix.labels.copy()
    labels[3] = 2
    right = np.delete(decide(matrix.prob[:, 0]) == labels, 5)
    board = blend.leaderboard.set_index("name").loc[matrix.names[0]]
    assert board["corrected_accuracy"] == pytest.approx(right.mean())
    assert blend.facts["corrections"]["changes"] == "1 dropped, 1 relabelled"
    by_auc = make_blend(*case(Task(metric="auc")), "mean", "auto", (), Corrections({"3": "drop"}))
    assert by_auc.facts["corrections"]["score"]["rows"] == by_auc.facts["score"]["rows"] - 1
