"""The tables that a notebook shows of folds and of runs."""

from collections.abc import Iterable

import pandas as pd

from facefold.data.folds import Folds
from facefold.ensemble.metrics import target_metric
from facefold.ensemble.run_table import score_run
from facefold.runs import Member


def count_rows(folds: Folds) -> pd.DataFrame:
    """Return the rows of each class (index) in each fold (columns); of a regression rows, mean, min and max instead."""
    table, classes = folds.table, folds.target.classes
    if folds.target.regression:
        return table.groupby("fold")["label"].agg(["size", "mean", "min", "max"]).rename(columns={"size": "rows"}).T
    counts = pd.crosstab(table["label"], table["fold"]).reindex(range(len(classes)), fill_value=0)
    return counts.set_axis(pd.Index(classes, name="label"))


def score_runs(members: Iterable[Member], folds: Folds) -> pd.DataFrame:
    """Return a row per run: run, rows, the scores of its out-of-fold predictions with intervals, seconds of all folds.

    They are scored by the given labels, in the columns of the leaderboard.
    """
    columns = ["run", "rows", *target_metric(folds.target).columns, "seconds"]
    rows = [
        {
            "run": member.name,
            **score_run(member, folds),
            "seconds": sum(run["seconds"] for run in member.runs),
        }
        for member in members
    ]
    return pd.DataFrame(rows, columns=columns)
