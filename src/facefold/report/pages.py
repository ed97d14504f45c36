"""The page of label issues, each with its nearest neighbours, and the page of predictions on new images.

Neighbours of a label issue are held-out rows of its own fold: the features of two fold models live in different bases,
and rows that a model trained on would lie where their labels put them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from facefold.data.competition import Competition
from facefold.data.folds import Folds
from facefold.ensemble.members import load_features
from facefold.report.html import render_page
from facefold.task import LABEL, Task

MAX_ROWS = 200  # on a page, which stays below 10 MB
NEIGHBOURS = 5
LIKELIEST = 3  # classes of a prediction that are named


def nearest_neighbours(root: Path, recipes: list[str], folds: Folds, ids: list[str]) -> pd.DataFrame:
    """Return the table id, neighbour (its id), rank (1 is the nearest), label (its), similarity for `ids`.

    similarity is the mean over the runs `recipes` of the cosine between their penultimate features, centred on the
    fold's mean.
    """
    rows, query_ids = [], set(ids)
    with threadpool_limits(1):
        for k in range(folds.k):
            valid = folds.valid(k).sort_values("id", ignore_index=True)
            queries = valid.index[valid["id"].isin(query_ids)]
            if len(queries) == 0:
                continue
            similarity = np.zeros((len(queries), len(valid)))
            for recipe in recipes:
                features = _normalise(load_features(root, [recipe], k, "oof", valid["id"].tolist(), folds.target))
                similarity += features[queries] @ features.T / len(recipes)
            similarity[np.arange(len(queries)), queries] = -np.inf
            nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(valid) - 1)]
            rows += [
                (valid["id"][query], valid["id"][other], rank + 1, valid["label"][other], similarity[i, other])
                for i, query in enumerate(queries)
                for rank, other in enumerate(nearest[i])
            ]
    return pd.DataFrame(rows, columns=["id", "neighbour", "rank", "label", "similarity"])


def _normalise(features: np.ndarray) -> np.ndarray:
    """Return features (n, F) centred and scaled to length 1, float32; a row at the centre stays 0."""
    centred = features - features.mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(length > 0, length, 1)


def label_issues_page(competition: Competition, issues: pd.DataFrame, neighbours: pd.DataFrame, title: str) -> str:
    """Return the HTML of the first `MAX_ROWS` of `issues` (see `find_label_issues`) with their nearest neighbours."""
    rows, by_id = issues.head(MAX_ROWS), dict(list(neighbours.groupby("id")))
    data = {"competition": competition, "rows": rows, "neighbours": by_id, "total": len(issues)}
    data["multiclass"] = competition.task.multiclass
    return render_page("label_issues.html.j2", title=title, **data)


def predictions_page(table: pd.DataFrame, images: Sequence[Path], title: str, target: Task = LABEL) -> str:
    """Return the HTML of the first `MAX_ROWS` rows of `table`, see `prediction_columns`; images: one per row."""
    rows = [
        (path, picture_name(row), f"label {row['label']}", format_prediction(row, target))
        for path, (_, row) in zip(images, table.head(MAX_ROWS).iterrows(), strict=False)
    ]
    return render_page("predictions.html.j2", title=title, rows=rows, total=len(table))


def picture_name(row: pd.Series) -> str:
    """Return the file of a row of predictions.csv, and which of its faces it is, where faces were cut out."""
    return f"{row['file']}, face {row['face']}" if "face" in row else str(row["file"])


def column_name(target: str, columns: Sequence[str]) -> str:
    """Return the column of a target in predictions.csv: its name, after `target_` if one of `columns` has that name."""
    while target in columns:
        target = f"target_{target}"
    return target


def prediction_columns(scores: np.ndarray, decisions: np.ndarray, target: Task) -> dict[str, np.ndarray]:
    """Return the columns of predictions.csv that say what is predicted: `Task.columns`, and label, the class's name.

    scores: float64 (n,) of the second of two classes, or (n, C); decisions: int64 (n,), indices of classes.
    """
    by_column = scores.reshape(len(scores), -1).T
    names = np.array(target.classes)[decisions]
    return {**dict(zip(target.columns, by_column, strict=True)), "label": names}


def format_prediction(row: pd.Series, target: Task = LABEL) -> str:
    """Return `label 1 with 0.973, label 0 with 0.027, age 31.4`: the likelier label first, then other columns.

    Of more than two classes the `LIKELIEST` likeliest are there, of equal ones the first.
    """
    if target.multiclass:
        probs = list(zip(row[list(target.columns)], target.classes, strict=True))
    else:
        probs = [(row[target.column], target.classes[1]), (1 - row[target.column], target.classes[0])]
    labels = sorted(probs, key=lambda prob_and_name: -prob_and_name[0])[:LIKELIEST]
    texts = [f"label {name} with {value:.3f}" for value, name in labels]
    return ", ".join(texts + [f"{name} {value:.3g}" for name, value in row.loc["label":].iloc[1:].items()])
