"""The report's pictures, as grids of faces with what was given and what was predicted.

Ids are drawn with a fixed seed or taken from an order by probability, so the same blend shows the same pictures.
"""

import numpy as np
import pandas as pd

from facefold.data.competition import Competition
from facefold.data.folds import Folds
from facefold.data.images import encode_thumbnail
from facefold.ensemble.label_issues import CONFIDENT, CONFLICT, find_label_issues
from facefold.report import html

SHOWN = 20  # photos of a kind
PIXELS = 112
_GROUPS = 12  # of the same picture
_OF_A_GROUP = 4


def look(competition: Competition) -> list[str]:
    """A few train images of each label, drawn at random."""
    rng, parts = np.random.default_rng(0), [html.heading("A few of each label", 3)]
    for label, rows in competition.train.groupby("label"):
        drawn = rng.choice(rows["id"].to_numpy(str), min(SHOWN // 2, len(rows)), replace=False)
        parts.append(html.photos([_photo(competition, "train", id, f"label {label}") for id in drawn]))
    return parts


def wrong(competition: Competition, oof: pd.DataFrame) -> list[str]:
    """The rows of oof (id, label, prob, pred) that were predicted wrongly with the most confidence."""
    rows = oof[oof["label"] != oof["pred"]].assign(far=(oof["prob"] - oof["label"]).abs())
    rows = rows.sort_values(["far", "id"], ascending=[False, True]).head(SHOWN)
    grid = [
        _photo(competition, "train", row.id, f"label {row.label}\npredicted {row.pred}\np = {row.prob:.3f}")
        for row in rows.itertuples()
    ]
    return [
        html.heading("The most wrong", 3),
        html.paragraph(
            "Train images on which the blend's held-out prediction is surest and not the given label; p is the "
            "probability of label 1. Look whether the model or the label is wrong."
        ),
        html.photos(grid),
    ]


def doubtful(competition: Competition, test: pd.DataFrame) -> list[str]:
    """The rows of test (id, prob, pred) nearest to 0.5."""
    rows = test.assign(far=(test["prob"] - 0.5).abs()).sort_values(["far", "id"]).head(SHOWN)
    return [
        html.heading("The most doubtful test images", 3),
        html.paragraph("A coin would do as well on these; the submission has to say something all the same."),
        html.photos([_predicted(competition, row) for row in rows.itertuples()]),
    ]


def predictions(competition: Competition, test: pd.DataFrame) -> list[str]:
    """Rows of test (id, prob, pred) drawn at random."""
    drawn = np.sort(np.random.default_rng(1).choice(len(test), min(SHOWN, len(test)), replace=False))
    return [
        html.heading("Predictions on test images, drawn at random", 3),
        html.photos([_predicted(competition, row) for row in test.iloc[drawn].itertuples()]),
    ]


def suspects(competition: Competition, folds: Folds, prob: np.ndarray) -> list[str]:
    """Labels that are likely wrong, and groups of the same picture with both labels; prob: float (n,) of label 1 in the order of
    folds.table."""
    table = find_label_issues(folds.table.assign(prob=prob)).table
    likely, mixed = (table[table["kind"] == kind] for kind in (CONFIDENT, CONFLICT))
    parts = [
        html.heading("Labels that are likely wrong", 3),
        html.paragraph(
            f"{len(likely):,} by confident learning on the recipes' mean probability, the surest first. clean.py "
            "shows each beside its nearest neighbours. A weak model suspects hard pictures with right labels: "
            "look first."
        ),
    ]
    grid = [
        _photo(competition, "train", row.id, f"label {row.label}\nperhaps {row.suggested}\np = {row.prob:.3f}")
        for row in likely.head(SHOWN).itertuples()
    ]
    parts.append(html.photos(grid) if grid else html.paragraph("None."))
    parts.append(html.heading("The same picture with both labels", 3))
    groups = [rows.sort_values("id").head(_OF_A_GROUP) for _, rows in mixed.groupby("group", sort=False)]
    if not groups:
        return [*parts, html.paragraph("No group of the same picture holds both labels.")]
    parts.append(
        html.paragraph(
            f"{len(groups):,} groups hold both labels, so at least one label of each is wrong"
            + (f"; the first {_GROUPS}." if len(groups) > _GROUPS else ".")
        )
    )
    return [
        *parts,
        html.sets(
            [
                [_photo(competition, "train", row.id, f"label {row.label}") for row in rows.itertuples()]
                for rows in groups[:_GROUPS]
            ]
        ),
    ]


def _predicted(competition: Competition, row) -> str:
    return _photo(competition, "test", row.id, f"predicted {row.pred}\np = {row.prob:.3f}")


def _photo(competition: Competition, split: str, id: str, caption: str) -> str:
    said = caption.replace("\n", ", ")
    return html.photo(
        encode_thumbnail(competition.image_path(split, id), PIXELS), f"{split} image {id}: {said}", f"{id}\n{caption}"
    )
