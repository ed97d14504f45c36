"""Find labels that are likely wrong: by confident learning on out-of-fold probabilities, and by groups of one picture.

Confident learning (Northcutt, Jiang and Chuang 2021, Journal of Artificial Intelligence Research 70) is cleanlab's: it
estimates how many labels of each class are wrong, and takes so many rows with the largest margin of the other class.
"""

import numpy as np
import pandas as pd

from facefold.ensemble.scores import decide

CONFLICT, CONFIDENT = "conflict", "confident"
COLUMNS = ("id", "label", "prob", "kind", "rank", "suggested", "confidence", "group")


def find_label_issues(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the suspects among `rows` (id, label, group, prob in 0..1), the most suspicious first.

    The order of `rows`, which need both labels, changes nothing. Columns:

        id          train id (text)
        label       the label in train.csv
        prob        out-of-fold probability of label 1
        kind        conflict: its group has both labels; confident: confident learning
        rank        1, 2, ..: conflicts before confident ones, then by confidence, then by id
        suggested   the likely label. conflict: that of most rows of the group, in a tie by the mean of its
                    probabilities, so the rows of a conflict that have this label keep it; confident: the other label
        confidence  probability of the suggested label, in a conflict the mean over the group
        group       group of the row in folds.csv
    """
    rows = rows[["id", "label", "group", "prob"]].sort_values("id", ignore_index=True)  # a mean depends on the order
    conflicts = _find_conflicts(rows)
    confident = _find_confident(rows)
    confident = confident[~confident["id"].isin(conflicts["id"])]
    ordered = [part.sort_values(["confidence", "id"], ascending=[False, True]) for part in (conflicts, confident)]
    issues = pd.concat(ordered, ignore_index=True)
    issues["rank"] = np.arange(1, len(issues) + 1)
    return issues[list(COLUMNS)]


def _find_confident(rows: pd.DataFrame) -> pd.DataFrame:
    """Return cleanlab's label issues with kind, suggested and confidence; rows are sorted by id."""
    from cleanlab.filter import find_label_issues as find_by_confident_learning  # slow to import

    labels, prob = rows["label"].to_numpy(np.int64), rows["prob"].to_numpy(np.float64)
    issues = find_by_confident_learning(labels, np.column_stack([1 - prob, prob]), n_jobs=1)
    rows = rows.assign(kind=CONFIDENT, suggested=1 - labels, confidence=np.where(labels == 1, 1 - prob, prob))
    # cleanlab's sort is not stable: of equal rows at the cut it takes those that the CPU's sort has first. We take its
    # number of rows per label, and of equal rows the first ids.
    rows = rows.sort_values("confidence", ascending=False, kind="stable")
    counts = np.bincount(labels[issues], minlength=2)
    return rows[rows.groupby("label").cumcount() < counts[rows["label"]]]


def _find_conflicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose group has both labels, with kind, suggested and confidence."""
    groups = rows.groupby("group")
    share, prob = groups["label"].transform("mean"), groups["prob"].transform("mean")
    suggested = np.where(share == 0.5, decide(prob), decide(share))
    rows = rows.assign(kind=CONFLICT, suggested=suggested, confidence=np.where(suggested == 1, prob, 1 - prob))
    return rows[(share > 0) & (share < 1)]


def propose_corrections(
    issues: pd.DataFrame, action: str, top: int | None = None, confidence: float = 0.0
) -> pd.DataFrame:
    """Return corrections (id, action) for the first suspects of at least this confidence.

    Args:
        issues: the table of `find_label_issues`.
        action: drop or relabel; a suspect whose suggested label is its label gets keep.
        top: how many suspects, None for all.
        confidence: the least probability of the suggested label.
    """
    chosen = issues[issues["confidence"] >= confidence].head(len(issues) if top is None else top)
    keep = chosen["suggested"] == chosen["label"]
    return pd.DataFrame({"id": chosen["id"], "action": np.where(keep, "keep", action)})
