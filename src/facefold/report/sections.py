"""The numbers and drawings of the report on a blend of labels; report.html.j2 lays them out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from facefold.data.competition import Competition
from facefold.data.folds import Folds
from facefold.ensemble.blend import Blend
from facefold.ensemble.metrics import auc_interval, decide, wilson_interval
from facefold.report import figures
from facefold.report.calibration import calibration_section, doubtful_section
from facefold.report.galleries import photo_galleries
from facefold.report.groups import band_edges, group_sections, parse_numbers
from facefold.report.html import inline_svg
from facefold.runs import CORRECTED_SUFFIX, Member

_ROC_POINTS = 200


def label_sections(competition: Competition, folds: Folds, blend: Blend, members: list[Member]) -> dict[str, Any]:
    """Return all that report.html.j2 needs besides the parts that both reports share (see `src/report.py`)."""
    judges = [member for member in members if not member.name.endswith(CORRECTED_SUFFIX)] or members
    mean_prob = np.mean([member.oof.to_numpy() for member in judges], axis=0)
    return {
        "recipes": len(members),
        "folds": sum(len(member.runs) for member in members),
        "leaderboard": leaderboard_section(blend, members),
        "errors": error_section(blend, members),
        "calibration": calibration_section(blend.oof),
        "doubtful": doubtful_section(blend),
        "groups": group_sections(competition.meta, blend),
        "agreement": agreement_section(blend, members),
        "galleries": photo_galleries(competition, blend, folds.table.assign(prob=mean_prob)),
        "data": data_section(blend, competition),
    }


def leaderboard_section(blend: Blend, members: list[Member]) -> dict[str, Any]:
    """Return the leaderboard as rows and drawing, its picked row, and the accuracy by fold."""
    board, oof = blend.leaderboard, blend.oof.set_index("id")
    picked = int(board.index[(board["name"] == blend.facts["picked"]) & (board["kind"] == "method")][0])
    intervals_svg = figures.draw_intervals(
        board["name"].tolist(), board[["accuracy", "low", "high"]], xlabel="nested accuracy", picked=picked
    )
    correct = correct_by_recipe(blend, members).assign(blend=oof["pred"] == oof["label"])
    by_fold = correct.groupby(oof["fold"]).mean()
    folds = [
        {
            "fold": fold,
            "rows": len(rows),
            "accuracy": by_fold.loc[fold].tolist(),
            "interval": wilson_interval(int(rows.sum()), len(rows)),
        }
        for fold, rows in correct["blend"].groupby(oof["fold"])
    ]
    accuracies = ", ".join(f"{row.name} {row.accuracy:.4f}" for row in board.itertuples())
    values = "; ".join(f"{name} {', '.join(f'{value:.4f}' for value in by_fold[name])}" for name in by_fold)
    return {
        "rows": list(board.itertuples()),
        "picked": picked,
        "intervals_svg": inline_svg(intervals_svg, f"Nested accuracy: {accuracies}"),
        "folds": folds,
        "columns": by_fold.columns.tolist(),
        "folds_svg": inline_svg(figures.draw_fold_accuracy(by_fold), f"Accuracy by fold: {values}"),
    }


def error_section(blend: Blend, members: list[Member]) -> dict[str, Any]:
    """Return the confusion matrix and the ROC curves of the blend's nested predictions."""
    oof = blend.oof.set_index("id")
    counts = np.bincount(2 * oof["label"] + oof["pred"], minlength=4).reshape(2, 2)
    cells = "; ".join(f"label {i} predicted as {j}: {counts[i, j]} rows" for i in (0, 1) for j in (0, 1))
    probs = {"blend": oof["prob"], **{member.name: member.oof.reindex(oof.index) for member in members}}
    labels = oof["label"].to_numpy()
    areas = ", ".join(f"{name} {auc_interval(prob.to_numpy(), labels)[0]:.4f}" for name, prob in probs.items())
    roc_svg = figures.draw_roc({name: _roc_points(prob, labels) for name, prob in probs.items()})
    return {
        "confusion_svg": inline_svg(figures.draw_confusion(counts), f"Confusion matrix: {cells}"),
        "areas": areas,
        "roc_svg": inline_svg(roc_svg, f"ROC curves, area under each: {areas}"),
    }


def _roc_points(prob: pd.Series, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the curve at `_ROC_POINTS` false positive rates, dense near 0."""
    false_positive, true_positive, _ = roc_curve(labels, prob)
    rates = np.linspace(0, 1, _ROC_POINTS) ** 2
    return rates, np.interp(rates, false_positive, true_positive)


def agreement_section(blend: Blend, members: list[Member]) -> dict[str, Any]:
    """Return how often the recipes agree, and who corrects whom; there is no drawing of one recipe."""
    correct, names = correct_by_recipe(blend, members).to_numpy(), [member.name for member in members]
    fixes = np.array([[int((a & ~b).sum()) for b in correct.T] for a in correct.T])
    pairs = "; ".join(
        f"{a} is right on {fixes[i, j]} rows that {b} has wrong"
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i != j
    )
    all_correct, all_wrong = int(correct.all(axis=1).sum()), int((~correct).all(axis=1).sum())
    return {
        "rows": len(correct),
        "blend_wrong": int((blend.oof["label"] != blend.oof["pred"]).sum()),
        "all_correct": all_correct,
        "all_wrong": all_wrong,
        "differ": len(correct) - all_correct - all_wrong,
        "svg": inline_svg(figures.draw_agreement(names, fixes), pairs) if len(names) > 1 else None,
    }


def data_section(blend: Blend, competition: Competition) -> dict[str, Any]:
    """Return the balance of the labels, and the numeric columns of meta.csv by label and by correct and wrong."""
    labels = {"train": competition.train["label"], "predicted test": blend.test["pred"]}
    counts = {name: (int((column == 0).sum()), int((column == 1).sum())) for name, column in labels.items()}
    balance = "; ".join(f"{name}: {zeros:,} of label 0, {ones:,} of label 1" for name, (zeros, ones) in counts.items())
    numbers = []
    if competition.meta is not None:
        meta = competition.meta.set_index("id").reindex(blend.oof["id"]).fillna("")
        parsed = {name: parse_numbers(meta[name]) for name in meta}
        numbers = [_number_section(name, column, blend.oof) for name, column in parsed.items() if column is not None]
    return {
        "balance_svg": inline_svg(figures.draw_balance(counts), f"Class balance, {balance}"),
        "numbers": numbers,
    }


def _number_section(name: str, numbers: np.ndarray, oof: pd.DataFrame) -> dict[str, Any]:
    known = np.isfinite(numbers)
    values, labels = numbers[known], oof["label"].to_numpy()[known]
    wrong = (oof["label"] != oof["pred"]).to_numpy(np.int64)[known]
    label_names, error_names = ("label 0", "label 1"), ("correct", "wrong")
    medians, error_medians = _medians(values, labels, label_names), _medians(values, wrong, error_names)
    histogram = figures.draw_histogram(values, labels, band_edges(values, 40), name)
    by_label = figures.draw_violins(values, labels, label_names, name)
    by_error = figures.draw_violins(values, wrong, error_names, name)
    rows = f"{name} of rows predicted correctly and wrongly"
    return {
        "name": name,
        "medians": medians,
        "error_medians": error_medians,
        "histogram_svg": inline_svg(histogram, f"Histogram of {name} by label; medians: {medians}"),
        "by_label_svg": inline_svg(by_label, f"Violin and box of {name} by label; medians: {medians}"),
        "by_error_svg": inline_svg(by_error, f"Violin and box of {rows}; medians: {error_medians}"),
    }


def _medians(values: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> str:
    """Return the median of values (n,) in each group 0, 1, .. of groups (n,) that has rows, in words."""
    return ", ".join(
        f"{name} {np.median(values[groups == i]):g}" for i, name in enumerate(names) if (groups == i).any()
    )


def learning_curves(
    histories: dict[str, list[pd.DataFrame]], column: str = "valid_acc", metric: str = "validation accuracy"
) -> dict[str, str]:
    """Return a drawing per recipe from the histories of its folds; `metric` names `column` in words."""
    curves = {}
    for recipe, folds in histories.items():
        ends = ", ".join(f"{history[column].iloc[-1]:.4f}" for history in folds)
        alt = f"Learning curves of {recipe}: {metric} at the end of each fold {ends}"
        curves[recipe] = inline_svg(figures.draw_learning_curves(folds, column, metric), alt)
    return curves


def correct_by_recipe(blend: Blend, members: Sequence[Member]) -> pd.DataFrame:
    """Return bool (n, recipes): whether a recipe predicts a train id correctly, in the order of the blend's rows."""
    labels = blend.oof.set_index("id")["label"]
    return pd.DataFrame({member.name: decide(member.oof.reindex(labels.index)) == labels for member in members})
