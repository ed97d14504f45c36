"""The suspects of `label_issues` as a page to look at: each with its nearest neighbours in what the models see.

Neighbours are looked for among the held-out rows of the suspect's own fold: the features of two fold models live in
different bases, and rows that a model trained on would lie where their labels put them.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from facefold.data.competition import Competition
from facefold.data.folds import Folds
from facefold.data.images import encode_thumbnail
from facefold.ensemble.members import load_features
from facefold.report import html

SHOWN = 200  # suspects on the page
NEAREST = 5  # neighbours beside each
_LARGE, _SMALL = 96, 64  # pixels of the pictures: the page stays below 10 MB


def neighbours(root: Path, names: list[str], folds: Folds, ids: list[str]) -> pd.DataFrame:
    """The `NEAREST` neighbours of each of `ids`: id, neighbour (its id), place (1 is the nearest), label (its), similarity.

    similarity is the mean over the runs `names` of the cosine between their penultimate features, centred on the fold's mean;
    candidates are the held-out rows of the same fold.
    """
    found, wanted = [], set(ids)
    with threadpool_limits(1):
        for k in range(folds.k):
            valid = folds.valid(k).sort_values("id", ignore_index=True)
            own = valid.index[valid["id"].isin(wanted)]
            if len(own) == 0:
                continue
            similarity = np.zeros((len(own), len(valid)))
            for name in names:
                unit = _unit(load_features(root, [name], k, "oof", valid["id"].tolist()))
                similarity += unit[own] @ unit.T / len(names)
            similarity[np.arange(len(own)), own] = -np.inf
            nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(NEAREST, len(valid) - 1)]
            found += [
                (valid["id"][row], valid["id"][other], place + 1, valid["label"][other], similarity[i, other])
                for i, row in enumerate(own)
                for place, other in enumerate(nearest[i])
            ]
    return pd.DataFrame(found, columns=["id", "neighbour", "place", "label", "similarity"])


def page(competition: Competition, suspects: pd.DataFrame, near: pd.DataFrame, lead: str) -> str:
    """One self-contained page on the first `SHOWN` of `suspects` (the table of `label_issues.find`); `lead` heads it."""
    beside = dict(list(near.groupby("id")))
    parts = [
        html.heading(lead, 1),
        html.paragraph(
            "Each row: the picture, what is said of it, and its nearest neighbours in the features of the models "
            "that did not train on it, each with its given label. Neighbours of the other label speak for a "
            "wrong label, mixed ones for a hard picture. Nothing here is proof: look before you change a label."
        ),
    ]
    if len(suspects) > SHOWN:
        parts.append(
            html.paragraph(f"The first {SHOWN} of {len(suspects)} suspects; all are in runs/label_issues.csv.")
        )
    for row in suspects.head(SHOWN).itertuples():
        photos = [_photo(competition, row.id, _LARGE, f"id {row.id}")]
        if row.id in beside:
            photos += [
                _photo(competition, other.neighbour, _SMALL, f"label {other.label}")
                for other in beside[row.id].itertuples()
            ]
        parts.append(html.card(photos, _sentence(row)))
    return html.page("Labels to look at", parts)


def _sentence(row) -> str:
    where = f" Its group {row.group} holds both labels." if row.kind == "conflict" else ""
    return (
        f"{row.rank}. Given label {row.label}; the probability of label 1 is {row.prob:.3f}.{where} "
        f"Suggested: {row.suggested}, with probability {row.confidence:.3f}."
    )


def _photo(competition: Competition, id: str, size: int, caption: str) -> str:
    return html.photo(encode_thumbnail(competition.image_path("train", id), size), f"train image {id}", caption)


def _unit(features: np.ndarray) -> np.ndarray:
    """Features (n, F) centred, each row of length 1, float32; a row at the centre stays 0."""
    centred = features - features.mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(length > 0, length, 1)
