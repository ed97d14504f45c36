"""The numbers of the reports on two classes and on a regression, and the scores by fold of all reports."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import confusion_matrix, roc_curve

from facefold.data.competition import Competition
from facefold.ensemble.blend import Blend
from facefold.ensemble.members import oof_scores
from facefold.ensemble.metrics import target_metric
from facefold.ensemble.scores import auc_interval, decide, score_errors
from facefold.report.bars import Axis, make_axis
from facefold.report.calibration import calibration_section, doubtful_section
from facefold.report.galleries import photo_galleries
from facefold.report.groups import accuracy_by_column, align_meta, band_edges, parse_numbers
from facefold.runs import Member
from facefold.task import Task

MAX_AGREEMENT = 12  # recipes whose corrections are drawn
MAX_BANDS = 12  # of the values of a regression
_ROC_POINTS = 200


class Tile(NamedTuple):
    """A number of the first screen: its name, the number and a note."""

    name: str
    value: str
    note: str


def label_sections(competition: Competition, blend: Blend, members: list[Member]) -> dict[str, Any]:
    """Return what binary.html.j2 needs besides the parts that all reports share, see `blend_page`."""
    score, doubtful = blend.facts["score"], doubtful_section(blend)
    agreement = agreement_section(blend, correct_by_recipe(blend, members))
    labels = [f"label {name}" for name in competition.task.classes]
    groups = accuracy_by_column(competition.meta, blend.oof)
    return {
        "labels": labels,
        "tiles": [
            Tile("accuracy", f"{score['accuracy']:.4f}", "{low:.4f} to {high:.4f}".format(**score)),
            Tile("AUC", f"{score['auc']:.4f}", "{auc_low:.4f} to {auc_high:.4f}".format(**score)),
            Tile("train rows wrong", f"{agreement['blend_wrong']:,}", f"of {len(blend.oof):,}"),
            Tile(
                "doubtful test rows",
                f"{doubtful['test']:,}",
                "of {:,}, {:g} to {:g}".format(len(blend.test), *doubtful["band"]),
            ),
        ],
        "errors": error_section(blend, members),
        "calibration": calibration_section(blend.oof),
        "doubtful": doubtful,
        "groups": groups,
        "group_axes": {name: group_axis(table, score["accuracy"]) for name, table in groups.items()},
        "agreement": agreement,
        "galleries": photo_galleries(competition, blend),
        "numbers": number_sections(align_meta(competition.meta, blend.oof), blend.oof, labels),
        "balance": {
            name: np.bincount(labels, minlength=2).tolist()
            for name, labels in (("train", competition.train["label"]), ("predicted test", blend.test["pred"]))
        },
    }


def group_axis(table: pd.DataFrame, accuracy: float) -> Axis:
    """Return the axis of a table of `accuracy_by_column`; accuracy: of all rows."""
    return make_axis(table[["accuracy", "low", "high"]].to_numpy(), accuracy)


def fold_section(blend: Blend, members: list[Member], target: Task) -> dict[str, Any]:
    """Return the metric of the recipes and of the blend by fold: nan where it is not defined, as the AUC of one class.

    by_fold has a row for each fold, and a column for each recipe and `blend`, which fold_intervals (low, high) are of.
    """
    metric, oof, labels = target_metric(target), blend.oof, blend.oof["label"].to_numpy()
    masks = {k: (oof["fold"] == k).to_numpy() for k in sorted(oof["fold"].unique())}

    def by_fold(scores: np.ndarray) -> list[float]:
        return [metric.rate(scores[mask], labels[mask]).value for mask in masks.values()]

    ids, submitted = oof["id"].tolist(), oof[list(target.columns)].to_numpy()
    submitted = submitted if target.multiclass else submitted[:, 0]
    columns = {member.name: by_fold(oof_scores(member, ids, target)) for member in members}
    scores = [metric.score(submitted[mask], labels[mask]) for mask in masks.values()]
    return {
        "by_fold": pd.DataFrame({**columns, "blend": by_fold(submitted)}, index=list(masks)),
        "fold_rows": [int(mask.sum()) for mask in masks.values()],
        "fold_intervals": [tuple(score[key] for key in metric.interval_keys) for score in scores],
    }


def error_section(blend: Blend, members: list[Member]) -> dict[str, Any]:
    """Return the confusion matrix of the blend's nested predictions, and ROC curves and areas of all by name."""
    oof = blend.oof.set_index("id")
    probs = {"blend": oof["prob"], **{member.name: member.oof.reindex(oof.index) for member in members}}
    labels = oof["label"].to_numpy()
    return {
        "confusion": confusion_matrix(labels, oof["pred"], labels=[0, 1]),
        "areas": {name: auc_interval(prob.to_numpy(), labels)[0] for name, prob in probs.items()},
        "roc": {name: roc_points(prob, labels) for name, prob in probs.items()},
    }


def roc_points(prob: pd.Series, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the curve at `_ROC_POINTS` false positive rates, dense near 0."""
    false_positive, true_positive, _ = roc_curve(labels, prob)
    rates = np.linspace(0, 1, _ROC_POINTS) ** 2
    return rates, np.interp(rates, false_positive, true_positive)


def agreement_section(blend: Blend, correct: pd.DataFrame) -> dict[str, Any]:
    """Return how often the recipes agree, and who of the best corrects whom; correct: of `correct_by_recipe`."""
    right = correct.to_numpy(np.int64)
    best = np.sort(np.argsort(-right.sum(axis=0), kind="stable")[:MAX_AGREEMENT])
    return {
        "names": correct.columns[best].tolist(),
        "fixes": right[:, best].T @ (1 - right[:, best]),
        "rows": len(correct),
        "blend_wrong": (blend.oof["label"] != blend.oof["pred"]).sum(),
        "all_correct": right.all(axis=1).sum(),
        "all_wrong": (~right.any(axis=1)).sum(),
    }


def number_sections(meta: pd.DataFrame, oof: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return each numeric column of meta.csv where it is known: numbers, labels, 1 where the blend is wrong.

    names: of the two labels.
    """
    sections = []
    for name in meta:
        numbers = parse_numbers(meta[name])
        if numbers is None:
            continue
        known = np.isfinite(numbers)
        numbers, rows = numbers[known], oof[known]
        labels, wrong = rows["label"].to_numpy(), (rows["label"] != rows["pred"]).to_numpy(np.int64)
        sections.append(
            {
                "name": name,
                "numbers": numbers,
                "labels": labels,
                "wrong": wrong,
                "edges": band_edges(numbers, 40),
                "medians": _medians(numbers, labels, names),
                "error_medians": _medians(numbers, wrong, ("correct", "wrong")),
            }
        )
    return sections


def _medians(values: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> str:
    """Return the median of values (n,) in each group 0, 1, .. of groups (n,) that has rows, in words."""
    return ", ".join(f"{names[group]} {np.median(values[groups == group]):g}" for group in np.unique(groups))


def correct_by_recipe(blend: Blend, members: Sequence[Member]) -> pd.DataFrame:
    """Return bool (n, recipes): whether a recipe predicts a train id correctly, in the order of the blend's rows."""
    labels = blend.oof.set_index("id")["label"]
    decided = {member.name: decide(member.oof.reindex(labels.index)) for member in members}
    return pd.DataFrame({name: classes == labels.to_numpy() for name, classes in decided.items()}, labels.index)


def regression_sections(blend: Blend, target: Task) -> dict[str, Any]:
    """Return what regression.html.j2 needs besides the parts that all reports share, see `blend_page`."""
    values, pred, score = blend.oof["label"], blend.oof["pred"], blend.facts["score"]
    bands, digits = errors_by_band(blend.oof), target_metric(target).scaled(score).digits
    correlation = np.corrcoef(values, pred)[0, 1] if pred.nunique() > 1 else None  # one prediction has none
    return {
        "tiles": [
            Tile(
                "mean absolute error",
                f"{score['mae']:.{digits}f}",
                "{low:.{0}f} to {high:.{0}f}".format(digits, **score),
            ),
            Tile("root mean squared error", f"{score['rmse']:.{digits}f}", ""),
            Tile("bias", f"{score['bias']:+.{digits}f}", "mean of prediction minus value"),
            *([] if correlation is None else [Tile("correlation", f"{correlation:.3f}", "with the values")]),
        ],
        "correlation": correlation,
        "errors_by_band": bands,
        "band_axis": make_axis(bands[["mae", "low", "high"]].to_numpy(), score["mae"]),
    }


def errors_by_band(oof: pd.DataFrame) -> pd.DataFrame:
    """Return errors of oof (label, pred) by bands of the value between round numbers: band (text), and `Errors`."""
    values, pred = oof["label"].to_numpy(), oof["pred"].to_numpy()
    edges = MaxNLocator(MAX_BANDS, steps=[1, 2, 5, 10]).tick_values(values.min(), values.max())
    band = np.minimum(np.searchsorted(edges, values, side="right") - 1, len(edges) - 2)  # the last edge is inside
    return pd.DataFrame(
        {"band": f"{edges[k]:.12g} to {edges[k + 1]:.12g}", **vars(score_errors(pred[band == k], values[band == k]))}
        for k in np.unique(band)
    )
