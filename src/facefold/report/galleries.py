"""The photos of the report, as rows of their ids, labels and predictions.

Ids are drawn with a fixed seed or ordered by probability, so that the same blend gives the same photos.
"""

from typing import Any

import numpy as np
import pandas as pd

from facefold.data.competition import Competition
from facefold.ensemble.blend import Blend
from facefold.ensemble.label_issues import CONFIDENT, CONFLICT, find_label_issues

PHOTOS = 20  # per gallery


def photo_galleries(competition: Competition, blend: Blend, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the rows of all galleries; rows: id, label, group and out-of-fold prob of the train rows."""
    issues = find_label_issues(rows, rows["prob"].to_numpy())
    confident, conflicts = (issues[issues["kind"] == kind] for kind in (CONFIDENT, CONFLICT))
    return {
        "labels": random_labels(competition.train),
        "wrong": most_wrong(blend.oof),
        "doubtful": most_doubtful(blend.test),
        "predictions": random_predictions(blend.test),
        "suspects": confident,
        "most": PHOTOS,
        "conflicts": [group.sort_values("id") for _, group in conflicts.groupby("group", sort=False)],
    }


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
