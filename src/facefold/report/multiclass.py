"""The numbers of the report on more than two classes, which multiclass.html.j2 lays out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from facefold.data.competition import Competition
from facefold.ensemble.blend import Blend
from facefold.ensemble.scores import auc_interval, wilson_interval
from facefold.report.bars import make_axis
from facefold.report.calibration import reliability_bins
from facefold.report.galleries import PHOTOS, random_labels, random_predictions
from facefold.report.groups import accuracy_by_column
from facefold.report.sections import Tile, agreement_section, correct_by_recipe, group_axis, roc_points
from facefold.runs import Member
from facefold.task import Task

MAX_CLASSES = 12  # of a confusion matrix, and with photos of their own
MAX_CURVES = 6
MAX_CONFUSIONS = 15
PHOTOS_OF_CLASS = 6


def class_sections(competition: Competition, blend: Blend, members: list[Member], task: Task) -> dict[str, Any]:
    """Return what multiclass.html.j2 needs besides the parts that all reports share, see `blend_page`."""
    oof, test, names, few = blend.oof, blend.test, task.classes, len(task.classes) <= MAX_CLASSES
    prob, labels = oof[list(task.columns)].to_numpy(), oof["label"].to_numpy()
    accuracy, agreement = blend.facts["score"], agreement_section(blend, correct_by_recipe(blend, members))
    wrong, recall = most_wrong(oof, task), recall_by_class(oof, names)
    groups = accuracy_by_column(competition.meta, oof)
    balance = class_balance(competition.train["label"], test["pred"], names)
    sizes = dict.fromkeys(f"{rows:,}" for rows in (balance["train"].min(), balance["train"].max()))
    return {
        "tiles": [
            Tile("accuracy", f"{accuracy['accuracy']:.4f}", "{low:.4f} to {high:.4f}".format(**accuracy)),
            Tile("classes", f"{len(names)}", f"{' to '.join(sizes)} train rows each"),
            Tile("train rows wrong", f"{agreement['blend_wrong']:,}", f"of {len(oof):,}"),
        ],
        "accuracy": accuracy["accuracy"],
        "agreement": agreement,
        "confusion": confusion_matrix(labels, oof["pred"], labels=range(len(names))) if few else None,
        "confusions": frequent_confusions(oof, names),
        "recall": recall,
        "recall_axis": make_axis(recall[["recall", "low", "high"]].to_numpy(), accuracy["accuracy"]),
        "curves": one_against_rest(prob, labels, names),
        "reliability": reliability_bins(prob.max(axis=1), (prob.argmax(axis=1) == labels).astype(np.int64)),
        "groups": groups,
        "group_axes": {name: group_axis(table, accuracy["accuracy"]) for name, table in groups.items()},
        "wrong": wrong.head(PHOTOS),
        "wrong_of_class": {name: wrong[wrong["label"] == k].head(PHOTOS_OF_CLASS) for k, name in enumerate(names)}
        if few
        else {},
        "doubtful": with_margin(test, task).sort_values(["margin", "id"]).head(PHOTOS),
        "random": with_margin(random_predictions(test), task),
        "labels": random_labels(competition.train) if few else [],
        "balance": balance,
    }


def frequent_confusions(oof: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return label, pred (names), rows, share of the label's rows for the most frequent errors of oof (label, pred)."""
    sizes, wrong = oof["label"].value_counts(), oof[oof["label"] != oof["pred"]]
    counts = wrong.groupby(["label", "pred"]).size().reset_index(name="rows")
    counts = counts.sort_values(["rows", "label", "pred"], ascending=[False, True, True]).head(MAX_CONFUSIONS)
    counts["share"] = counts["rows"] / counts["label"].map(sizes)
    return counts.assign(**{column: [names[k] for k in counts[column]] for column in ("label", "pred")})


def recall_by_class(oof: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return recall, low, high (95 %, Wilson), precision, class and rows of each class; nan where it has no rows."""
    table = []
    for number, name in enumerate(names):
        actual, predicted = oof["label"] == number, oof["pred"] == number
        rows, right = int(actual.sum()), int((actual & predicted).sum())
        recall, precision = (right / count if count else np.nan for count in (rows, int(predicted.sum())))
        table.append((recall, *wilson_interval(right, rows), precision, name, rows))
    return pd.DataFrame(table, columns=["recall", "low", "high", "precision", "class", "rows"])


def one_against_rest(prob: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return the area under the ROC curve of each class that has rows, and the curves of those with the least area."""
    present = [k for k in range(len(names)) if 0 < (labels == k).sum() < len(labels)]
    areas = {names[k]: auc_interval(prob[:, k], (labels == k).astype(np.int64))[0] for k in present}
    least = sorted(present, key=lambda k: areas[names[k]])[:MAX_CURVES]
    return {"areas": areas, "roc": {names[k]: roc_points(prob[:, k], labels == k) for k in sorted(least)}}


def most_wrong(oof: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the wrongly predicted rows of oof, the largest probability of another class than the label's first.

    `second` is the label's probability, `top` that of the prediction.
    """
    wrong = oof[oof["label"] != oof["pred"]]
    prob, rows = wrong[list(task.columns)].to_numpy(), np.arange(len(wrong))
    wrong = wrong.assign(top=prob[rows, wrong["pred"]], second=prob[rows, wrong["label"]])
    return wrong.sort_values(["second", "top", "id"], ascending=[True, False, True])


def with_margin(table: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Add `top`, the largest probability, `margin`, by which it leads, and `runner_up`, the second likeliest class."""
    prob = table[list(task.columns)].to_numpy()
    order = np.argsort(-prob, axis=1, kind="stable")
    top, second = (np.take_along_axis(prob, order[:, k : k + 1], 1)[:, 0] for k in (0, 1))
    return table.assign(top=top, runner_up=order[:, 1], margin=top - second)


def class_balance(train: pd.Series, predicted: pd.Series, names: Sequence[str]) -> pd.DataFrame:
    """Return class, and how many train rows and how many predictions of test rows it has, with their shares."""
    counts = [np.bincount(labels, minlength=len(names)) for labels in (train, predicted)]
    shares = [count / max(count.sum(), 1) for count in counts]
    columns = {"train": counts[0], "train_share": shares[0], "test": counts[1], "test_share": shares[1]}
    return pd.DataFrame({"class": list(names), **columns})
