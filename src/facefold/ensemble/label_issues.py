"""Which labels are likely wrong: confident learning on out-of-fold probabilities, and conflicts among identical images.

Confident learning (Northcutt, Jiang and Chuang 2021, Journal of Artificial Intelligence Research 70): a row seems to be of
class j when its probability of j reaches the mean that rows given as j have. Counting given against seeming class gives the
confident joint; its rows, scaled to the number of rows given as each class, say how many labels of each class are wrong; so many
are taken, those with the largest margin of the other class first ("prune by noise rate"). With two classes the margin,
the self-confidence and the loss of a row all rank alike: what confident learning adds is how many, and of which class.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from facefold.ensemble.metrics import decide

CONFLICT, CONFIDENT = "conflict", "confident"
COLUMNS = ("id", "label", "prob", "kind", "rank", "suggested", "confidence", "group")


@dataclass(frozen=True)
class Issues:
    """thresholds: float64 (2,), the mean probability of each class among the rows given as it. joint: int64 (2, 2), the confident
    joint by given and by seeming class. wrong: int64 (2,), the estimated number of wrong labels among those given as each class.

    table: the suspects, most suspicious first.
        id          train id (text)
        label       the given label
        prob        out-of-fold probability of label 1
        kind        conflict: its group holds both labels; confident: confident learning
        rank        1, 2, ..: conflicts before confident ones, then the more confident ones first, then by id
        suggested   the likely label. conflict: that of most rows of the group, where they are even by the mean of its
                    probabilities, so one side of a conflict is suggested what it has; confident: the other one
        confidence  probability of the suggested label, in a conflict the mean over the group
        group       group of the row in folds.csv
    """

    thresholds: np.ndarray
    joint: np.ndarray
    wrong: np.ndarray
    table: pd.DataFrame


def find_label_issues(rows: pd.DataFrame) -> Issues:
    """The suspects among `rows` (id, label of 0 and 1, both of them there, group, prob in 0..1); their order changes nothing."""
    rows = rows[["id", "label", "group", "prob"]].sort_values(
        "id", ignore_index=True
    )  # sums of floats depend on the order
    labels, prob = rows["label"].to_numpy(np.int64), rows["prob"].to_numpy(np.float64)
    thresholds, joint = confident_joint(prob, labels)
    wrong = noise_counts(joint, np.bincount(labels, minlength=2))
    conflicts = _conflicts(rows)
    confident = rows[prune_by_noise_rate(prob, labels, wrong)]
    confident = confident[~confident["id"].isin(conflicts["id"])]
    confident = confident.assign(
        kind=CONFIDENT,
        suggested=1 - confident["label"],
        confidence=np.where(confident["label"] == 1, 1 - confident["prob"], confident["prob"]),
    )
    found = [part.sort_values(["confidence", "id"], ascending=[False, True]) for part in (conflicts, confident)]
    table = pd.concat(found, ignore_index=True)
    table["rank"] = np.arange(1, len(table) + 1)
    return Issues(thresholds, joint, wrong, table[list(COLUMNS)])


def confident_joint(prob: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class thresholds float64 (2,) and confident joint int64 (2, 2) of prob (n,) of label 1 and given labels (n,).

    A row that reaches both thresholds seems to be of its likelier class, one that reaches neither is not counted.
    """
    by_class = np.column_stack([1 - prob, prob])
    thresholds = np.array([by_class[labels == j, j].mean() for j in (0, 1)])
    reached = by_class >= thresholds
    seems = np.where(reached.all(axis=1), decide(prob), reached[:, 1])
    joint = np.zeros((2, 2), np.int64)
    np.add.at(joint, (labels[reached.any(axis=1)], seems[reached.any(axis=1)].astype(np.int64)), 1)
    return thresholds, joint


def noise_counts(joint: np.ndarray, given: np.ndarray) -> np.ndarray:
    """int64 (2,): how many of the given (2,) rows of each class are wrong, as the joint (2, 2) has it."""
    off = np.array([joint[0, 1], joint[1, 0]])
    return np.rint(given * off / np.maximum(joint.sum(axis=1), 1)).astype(np.int64)


def prune_by_noise_rate(prob: np.ndarray, labels: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Mask (n,) of the wrong[i] rows of each class i with the largest margin of the other class, equal ones in the order given;
    none whose given label is also the predicted one."""
    mask = np.zeros(len(prob), bool)
    for i in (0, 1):
        own = np.flatnonzero(labels == i)
        margin = (1 - 2 * i) * (2 * prob[own] - 1)
        mask[own[np.argsort(-margin, kind="stable")[: wrong[i]]]] = True
    return mask & (decide(prob) != labels)


def _conflicts(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose group holds both labels, with kind, suggested and confidence."""
    groups = rows.groupby("group")
    share, prob = groups["label"].transform("mean"), groups["prob"].transform("mean")
    suggested = np.where(share == 0.5, decide(prob), decide(share))
    found = rows.assign(kind=CONFLICT, suggested=suggested, confidence=np.where(suggested == 1, prob, 1 - prob))
    return found[(share > 0) & (share < 1)]


def propose_corrections(
    table: pd.DataFrame, action: str, top: int | None = None, confidence: float = 0.0
) -> pd.DataFrame:
    """Corrections (id, action) for the first `top` suspects (None: all) of at least this confidence: `action` (drop or flip),
    and keep where the suggested label is the given one."""
    chosen = table[table["confidence"] >= confidence].head(len(table) if top is None else top)
    return pd.DataFrame(
        {"id": chosen["id"], "action": np.where(chosen["suggested"] == chosen["label"], "keep", action)}
    )
