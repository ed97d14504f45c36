"""Find labels that are likely wrong: by confident learning on out-of-fold probabilities, and by groups of one picture.

Confident learning (Northcutt, Jiang and Chuang 2021, Journal of Artificial Intelligence Research 70) is cleanlab's: it
estimates how many labels of each class are wrong, and takes so many rows with the largest margin of the other class.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

CONFLICT, CONFIDENT = "conflict", "confident"
COLUMNS = ("id", "label", "prob", "kind", "rank", "suggested", "confidence", "group")


def find_label_issues(rows: pd.DataFrame, prob: np.ndarray) -> pd.DataFrame:
    """Return the suspects among the train rows, the most suspicious first.

    The order of the rows, which need two labels, changes nothing. Columns:

        id          train id (text)
        label       index of the class in train.csv
        prob        out-of-fold probability of the second of two classes, or of the label among more
        kind        conflict: its group has different labels; confident: confident learning
        rank        1, 2, ..: conflicts before confident ones, then by confidence, then by id
        suggested   the likely label. conflict: that of most rows of the group, in a tie by the mean of its
                    probabilities, so the rows of a conflict that have this label keep it; confident: the likeliest
                    other label
        confidence  probability of the suggested label, in a conflict the mean over the group
        group       group of the row

    Args:
        rows: id, label, group (n rows), the group being a picture: see `rows_by_picture`.
        prob: Out-of-fold probabilities in 0..1: (n,) of the second of two classes, or (n, C).
    """
    order = rows["id"].argsort(kind="stable").to_numpy()  # a mean depends on the order
    rows, prob = rows[["id", "label", "group"]].iloc[order].reset_index(drop=True), np.asarray(prob)[order]
    own = prob if prob.ndim == 1 else prob[np.arange(len(prob)), rows["label"]]
    rows = rows.assign(prob=own)
    conflicts = _find_conflicts(rows, prob)
    confident = _find_confident(rows, prob)
    confident = confident[~confident["id"].isin(conflicts["id"])]
    ordered = [part.sort_values(["confidence", "id"], ascending=[False, True]) for part in (conflicts, confident)]
    issues = pd.concat(ordered, ignore_index=True)
    issues["rank"] = np.arange(1, len(issues) + 1)
    return issues[list(COLUMNS)]


def _find_confident(rows: pd.DataFrame, prob: np.ndarray) -> pd.DataFrame:
    """Return cleanlab's label issues with kind, suggested and confidence; rows are sorted by id."""
    from cleanlab.filter import find_label_issues as find_by_confident_learning  # slow to import

    labels, by_class, every = rows["label"].to_numpy(np.int64), _by_class(prob), np.arange(len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of each class with less than six rows
        issues = find_by_confident_learning(labels, by_class, n_jobs=1)
    others = by_class.copy()
    others[every, labels] = -np.inf
    suggested = others.argmax(axis=1)
    rows = rows.assign(kind=CONFIDENT, suggested=suggested, confidence=by_class[every, suggested])
    if prob.ndim == 2:
        return rows[issues]
    # cleanlab's sort is not stable: of equal rows at the cut it takes those that the CPU's sort has first. We take its
    # number of rows per label, and of equal rows the first ids.
    rows = rows.sort_values("confidence", ascending=False, kind="stable")
    counts = np.bincount(labels[issues], minlength=2)
    return rows[rows.groupby("label").cumcount() < counts[rows["label"]]]


def _find_conflicts(rows: pd.DataFrame, prob: np.ndarray) -> pd.DataFrame:
    """Return the rows whose group has different labels, with kind, suggested and confidence."""
    group = rows["group"]
    mean = _by_class(pd.DataFrame(prob).groupby(group).transform("mean").to_numpy().reshape(prob.shape))
    votes = pd.DataFrame(np.eye(mean.shape[1])[rows["label"]]).groupby(group).transform("sum").to_numpy()
    rank = 2 * votes + mean  # the mean, at most 1, decides between equal votes; of equal means the last class
    suggested = rank.shape[1] - 1 - rank[:, ::-1].argmax(axis=1)
    rows = rows.assign(kind=CONFLICT, suggested=suggested, confidence=mean[np.arange(len(rows)), suggested])
    return rows[(votes > 0).sum(axis=1) > 1]


def _by_class(prob: np.ndarray) -> np.ndarray:
    """Return probabilities (n, C), of which (n,) are those of the second of two classes."""
    return np.column_stack([1 - prob, prob]) if prob.ndim == 1 else prob


def propose_corrections(
    issues: pd.DataFrame, action: str, top: int | None = None, confidence: float = 0.0, classes: Sequence[str] = ()
) -> pd.DataFrame:
    """Return corrections (id, action) for the first suspects of at least this confidence.

    Args:
        issues: the table of `find_label_issues`.
        action: drop or relabel; a suspect whose suggested label is its label gets keep.
        top: how many suspects, None for all.
        confidence: the least probability of the suggested label.
        classes: the names of more than two classes, of which relabel says one.
    """
    chosen = issues[issues["confidence"] >= confidence].head(len(issues) if top is None else top)
    keep, actions = chosen["suggested"] == chosen["label"], np.full(len(chosen), action, dtype=object)
    if action == "relabel" and classes:
        actions = [f"relabel:{classes[suggested]}" for suggested in chosen["suggested"]]
    return pd.DataFrame({"id": chosen["id"], "action": np.where(keep, "keep", actions)})
