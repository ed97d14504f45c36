"""The photos of the report, as rows of their ids, labels and predictions.

Ids are drawn with a fixed seed or ordered by probability, so that the same blend gives the same photos.
"""

from typing import Any

import numpy as np
import pandas as pd

from facefold.data.competition import Competition
from facefold.data.duplicates import rows_by_picture
from facefold.data.folds import Folds
from facefold.ensemble.blend import Blend
from facefold.ensemble.label_issues import CONFIDENT, CONFLICT, find_label_issues
from facefold.ensemble.members import oof_scores
from facefold.models.run_name import parse_run_name
from facefold.runs import Member

PHOTOS = 20  # per gallery


def photo_galleries(competition: Competition, blend: Blend) -> dict[str, Any]:
    """Return the rows of the galleries of a task with two classes."""
    return {
        "labels": random_labels(competition.train),
        "wrong": most_wrong(blend.oof),
        "doubtful": most_doubtful(blend.test),
        "predictions": random_predictions(blend.test),
    }


def find_suspects(competition: Competition, folds: Folds, members: list[Member]) -> dict[str, Any]:
    """Return the labels that are likely wrong, and the groups of one picture with different labels.

    They are judged by the mean of the runs that learned from the given labels, if there are any.
    """
    runs = [member for member in members if member.runs]
    judges = [member for member in runs if not parse_run_name(member.name).corrected] or runs or members
    ids = folds.table["id"].tolist()
    prob = np.mean([oof_scores(member, ids, folds.target) for member in judges], axis=0)
    issues = find_label_issues(rows_by_picture(competition, folds), prob)
    confident, conflicts = (issues[issues["kind"] == kind] for kind in (CONFIDENT, CONFLICT))
    groups = [group.sort_values("id") for _, group in conflicts.groupby("group", sort=False)]
    return {"confident": confident, "conflicts": groups, "most": PHOTOS}


def random_labels(train: pd.DataFrame) -> list[pd.DataFrame]:
    """Return rows of train (id, label) of each label, drawn at random."""
    rng = np.random.default_rng(0)
    return [
        rows.iloc[rng.choice(len(rows), min(PHOTOS // 2, len(rows)), replace=False)]
        for _, rows in train.groupby("label")
    ]


def most_wrong(oof: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of oof (id, label, prob, pred) with the most confident wrong predictions."""
    wrong = oof.assign(error=(oof["prob"] - oof["label"]).abs())[oof["label"] != oof["pred"]]
    return wrong.sort_values(["error", "id"], ascending=[False, True]).head(PHOTOS)


def most_doubtful(test: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of test (id, prob, pred) nearest to 0.5."""
    return test.assign(margin=(test["prob"] - 0.5).abs()).sort_values(["margin", "id"]).head(PHOTOS)


def random_predictions(test: pd.DataFrame) -> pd.DataFrame:
    """Return rows of test (id, prob, pred) drawn at random."""
    return test.iloc[np.sort(np.random.default_rng(1).choice(len(test), min(PHOTOS, len(test)), replace=False))]
