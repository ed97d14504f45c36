"""The photos of the report, each with its label and prediction.

Ids are drawn with a fixed seed or ordered by probability, so that the same blend gives the same photos.
"""

from typing import Any

import numpy as np
import pandas as pd

from facefold.data.competition import Competition
from facefold.ensemble.blend import Blend
from facefold.ensemble.label_issues import CONFIDENT, CONFLICT, find_label_issues
from facefold.report.html import Photo, load_photo

PHOTOS = 20  # per gallery
PIXELS = 112
_MAX_GROUPS = 12  # of the same picture
_PHOTOS_PER_GROUP = 4


def photo_galleries(competition: Competition, blend: Blend, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the photos of all galleries; rows: id, label, group and out-of-fold prob of the train rows."""
    return {
        "labels": label_photos(competition),
        "wrong": most_wrong(competition, blend.oof),
        "doubtful": most_doubtful(competition, blend.test),
        "predictions": random_predictions(competition, blend.test),
        **suspect_photos(competition, rows),
    }


def label_photos(competition: Competition) -> list[list[Photo]]:
    """Return train images of each label, drawn at random."""
    rng, photos = np.random.default_rng(0), []
    for label, rows in competition.train.groupby("label"):
        ids = rng.choice(rows["id"].to_numpy(str), min(PHOTOS // 2, len(rows)), replace=False)
        photos.append([_photo(competition, "train", id, f"label {label}") for id in ids])
    return photos


def most_wrong(competition: Competition, oof: pd.DataFrame) -> list[Photo]:
    """Return the rows of oof (id, label, prob, pred) with the most confident wrong predictions."""
    rows = oof[oof["label"] != oof["pred"]].assign(error=(oof["prob"] - oof["label"]).abs())
    rows = rows.sort_values(["error", "id"], ascending=[False, True]).head(PHOTOS)
    return [
        _photo(competition, "train", row.id, f"label {row.label}\npredicted {row.pred}\np = {row.prob:.3f}")
        for row in rows.itertuples()
    ]


def most_doubtful(competition: Competition, test: pd.DataFrame) -> list[Photo]:
    """Return the rows of test (id, prob, pred) nearest to 0.5."""
    rows = test.assign(margin=(test["prob"] - 0.5).abs()).sort_values(["margin", "id"]).head(PHOTOS)
    return [_prediction(competition, row) for row in rows.itertuples()]


def random_predictions(competition: Competition, test: pd.DataFrame) -> list[Photo]:
    """Return rows of test (id, prob, pred) drawn at random."""
    rows = np.sort(np.random.default_rng(1).choice(len(test), min(PHOTOS, len(test)), replace=False))
    return [_prediction(competition, row) for row in test.iloc[rows].itertuples()]


def suspect_photos(competition: Competition, rows: pd.DataFrame) -> dict[str, Any]:
    """Return labels that are likely wrong, and groups of the same picture with both labels; rows: see above."""
    issues = find_label_issues(rows)
    confident, conflicts = (issues[issues["kind"] == kind] for kind in (CONFIDENT, CONFLICT))
    groups = [group.sort_values("id").head(_PHOTOS_PER_GROUP) for _, group in conflicts.groupby("group", sort=False)]
    return {
        "suspects": len(confident),
        "suspect_photos": [
            _photo(competition, "train", row.id, f"label {row.label}\nperhaps {row.suggested}\np = {row.prob:.3f}")
            for row in confident.head(PHOTOS).itertuples()
        ],
        "conflicts": len(groups),
        "conflict_photos": [
            [_photo(competition, "train", row.id, f"label {row.label}") for row in group.itertuples()]
            for group in groups[:_MAX_GROUPS]
        ],
    }


def _prediction(competition: Competition, row) -> Photo:
    return _photo(competition, "test", row.id, f"predicted {row.pred}\np = {row.prob:.3f}")


def _photo(competition: Competition, split: str, id: str, caption: str) -> Photo:
    alt = f"{split} image {id}: {caption.replace(chr(10), ', ')}"
    return load_photo(competition.image_path(split, id), PIXELS, alt, f"{id}\n{caption}")
