"""The numbers of both reports; report.html.j2 (labels) and regression.html.j2 draw them and lay them out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import confusion_matrix, roc_curve

from facefold.data.competition import Competition
from facefold.data.folds import Folds
from facefold.ensemble.blend import Blend
from facefold.ensemble.metrics import target_metric
from facefold.ensemble.scores import auc_interval, decide, score_decisions, score_errors
from facefold.models.run_name import parse_run_name
from facefold.report.calibration import calibration_section, doubtful_section
from facefold.report.galleries import photo_galleries
from facefold.report.groups import accuracy_by_column, align_meta, band_edges, parse_numbers
from facefold.runs import Member
from facefold.task import Task

MAX_BANDS = 12  # of the values of a regression
_ROC_POINTS = 200


def label_sections(competition: Competition, folds: Folds, blend: Blend, members: list[Member]) -> dict[str, Any]:
    """Return all that report.html.j2 needs besides the parts that both reports share (see `src/report.py`)."""
    runs = [member for member in members if member.runs]
    judges = [member for member in runs if not parse_run_name(member.name).corrected] or runs or members
    mean_prob = np.mean([member.oof.to_numpy() for member in judges], axis=0)
    correct, labels = correct_by_recipe(blend, members), [f"label {name}" for name in competition.task.classes]
    return {
        "competition": competition,
        "classes": competition.task.classes,
        "labels": labels,
        "metric": target_metric(competition.task),
        "fold_models": len(runs) * folds.k,
        "oof": blend.oof,
        "test": blend.test,
        **fold_section(blend, correct),
        "errors": error_section(blend, members),
        "calibration": calibration_section(blend.oof),
        "doubtful": doubtful_section(blend),
        "groups": accuracy_by_column(competition.meta, blend.oof),
        "agreement": agreement_section(blend, correct),
        "galleries": photo_galleries(competition, blend, folds.table.assign(prob=mean_prob)),
        "numbers": number_sections(align_meta(competition.meta, blend.oof), blend.oof, labels),
        "balance": {
            name: np.bincount(labels, minlength=2).tolist()
            for name, labels in (("train", competition.train["label"]), ("predicted test", blend.test["pred"]))
        },
    }


def fold_section(blend: Blend, correct: pd.DataFrame) -> dict[str, Any]:
    """Return the accuracy of the recipes and of the blend by fold; correct: of `correct_by_recipe`."""
    oof = blend.oof.set_index("id")
    groups = correct.assign(blend=oof["pred"] == oof["label"]).groupby(oof["fold"])
    scores = [score_decisions(right) for _, right in groups["blend"]]
    return {"fold_accuracy": groups.mean(), "fold_rows": groups.size(), "fold_scores": scores}


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
    """Return how often the recipes agree, and who corrects whom; correct: of `correct_by_recipe`."""
    right = correct.to_numpy(np.int64)
    return {
        "names": correct.columns.tolist(),
        "fixes": right.T @ (1 - right),
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
    return pd.DataFrame({member.name: decide(member.oof.reindex(labels.index)) == labels for member in members})


def regression_sections(blend: Blend, target: Task) -> dict[str, Any]:
    """Return all that regression.html.j2 needs besides the parts that both reports share (see `src/report.py`)."""
    values, pred = blend.oof["label"], blend.oof["pred"]
    return {
        "target": target.name,
        "oof": blend.oof,
        "errors_by_band": errors_by_band(blend.oof),
        "errors_by_fold": [(k, score_errors(rows["pred"], rows["label"])) for k, rows in blend.oof.groupby("fold")],
        "correlation": np.corrcoef(values, pred)[0, 1] if pred.nunique() > 1 else None,  # one prediction has none
    }


def errors_by_band(oof: pd.DataFrame) -> pd.DataFrame:
    """Return errors of oof (label, pred) by bands of the value between round numbers: band (text), and `Errors`."""
    values, pred = oof["label"].to_numpy(), oof["pred"].to_numpy()
    edges = MaxNLocator(MAX_BANDS, steps=[1, 2, 5, 10]).tick_values(values.min(), values.max())
    band = np.minimum(np.searchsorted(edges, values, side="right") - 1, len(edges) - 2)  # the last edge is inside
    return pd.DataFrame(
        {"band": f"{edges[k]:g} to {edges[k + 1]:g}", **vars(score_errors(pred[band == k], values[band == k]))}
        for k in np.unique(band)
    )
