"""What predicts the label without looking at the picture: the order of the ids, the file, the header, a twin in train.

Each cue is one number beside what chance alone would give. It is reported, and used only where a person says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.tree import DecisionTreeClassifier

from facefold.data.competition import Competition
from facefold.utils.errors import InputError

_Z95 = NormalDist().inv_cdf(0.975)
REAL = 0.1  # an AUC or correlation above chance by this, and by twice its 95 % margin, is a leak and no trait of the pictures
_LEAVES, _LEAF_SHARE = 64, 500
_COMMON = 20  # rows that must share a header's trait before a model may look at it


@dataclass(frozen=True)
class Cue:
    """How well one cue alone tells the label: `value` (an AUC, cross-validated, or a correlation), and what chance gives,
    `centre` +- `margin` (95 %)."""

    name: str
    measure: str
    value: float
    centre: float
    margin: float

    @property
    def leaks(self) -> bool:
        """Whether it says too much for what a harmless trait of the pictures would."""
        return self.value - self.centre > max(REAL, 2 * self.margin)


@dataclass(frozen=True)
class OrderEvidence:
    """How alike neighbours by id are: the lag-1 correlation of their labels, and what chance would give (0 +- chance, 95 %)."""

    correlation: float
    chance: float
    rows: int

    @property
    def shows(self) -> bool:
        return self.correlation > self.chance


def label_order_evidence(ids: Sequence[str], labels: np.ndarray) -> OrderEvidence:
    """The lag-1 correlation of labels (n,) of 0 and 1 in the order of their ids as numbers.

    Raises `InputError` where ids are not whole numbers, two are the same number, or one label only occurs.
    """
    labels = np.asarray(labels)[order_by_id(ids)].astype(float)
    if len(np.unique(labels)) < 2:
        raise InputError("the order of the ids tells nothing where one label only occurs")
    moved = labels - labels.mean()
    return OrderEvidence(float(moved[1:] @ moved[:-1] / (moved @ moved)), _Z95 / math.sqrt(len(labels)), len(labels))


def order_by_id(ids: Sequence[str]) -> np.ndarray:
    """Positions, int64 (n,), that sort `ids` as numbers. `InputError` where they are not distinct whole numbers."""
    strange = next((text for text in ids if not (text.isascii() and text.isdecimal())), None)
    if strange is not None:
        raise InputError(
            f"id '{strange}' is not a whole number: only numbered ids have an order to use; leave the order out"
        )
    numbers = [int(text) for text in ids]
    order = np.array(sorted(range(len(numbers)), key=numbers.__getitem__), dtype=np.int64)
    twice = next((a for a, b in zip(order, order[1:]) if numbers[a] == numbers[b]), None)
    if twice is not None:
        raise InputError(f"two ids are the number {numbers[twice]}: their order is not known; leave the order out")
    return order


def find_cues(competition: Competition, images: pd.DataFrame, headers: pd.DataFrame) -> list[Cue]:
    """Every cue of the train rows; `images` is the table of `integrity.check`, `headers` that of `glance.load`.

    Where ids are no distinct numbers their order is left out.
    """
    labels = competition.train["label"].to_numpy()
    train, head = (table[table["split"] == "train"] for table in (images, headers))
    times = [competition.image_path("train", id).stat().st_mtime for id in train["id"]]
    size = train[["width", "height"]].assign(aspect=train["width"] / train["height"])
    found = []
    try:
        evidence = label_order_evidence(competition.train["id"].tolist(), labels)
        found.append(Cue("order of the ids", "correlation", evidence.correlation, 0.0, evidence.chance))
    except InputError:
        pass
    for name, traits in {
        "file size": train[["bytes"]],
        "file time": pd.DataFrame({"time": times}),
        "image size": size,
        "JPEG header": _header_traits(head),
    }.items():
        found.append(cue_auc(name, traits.to_numpy(np.float64), labels))
    return found


def cue_auc(name: str, traits: np.ndarray, labels: np.ndarray) -> Cue:
    """The cue that `traits`, float (n, t), give on labels (n,): the mean AUC of a small decision tree over five random parts,
    each told by a tree of the others. Chance is that of the Mann-Whitney statistic."""
    ones = int(labels.sum())
    zeros = len(labels) - ones
    margin = _Z95 * math.sqrt((ones + zeros + 1) / (12 * ones * zeros))
    parts = min(5, ones, zeros)
    if parts < 2:
        return Cue(name, "AUC", 0.5, 0.5, margin)
    tree = DecisionTreeClassifier(
        max_leaf_nodes=_LEAVES, min_samples_leaf=max(5, len(labels) // _LEAF_SHARE), random_state=0
    )
    areas = []
    for rest, held in StratifiedKFold(parts, shuffle=True, random_state=0).split(traits, labels):
        areas.append(
            roc_auc_score(labels[held], tree.fit(traits[rest], labels[rest]).predict_proba(traits[held])[:, 1])
        )
    return Cue(name, "AUC", float(np.mean(areas)), 0.5, margin)


def labels_of_duplicates(groups: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    """What the train rows that show the same picture say of each image: split, id, zeros, ones, answer, in the order of `groups`.

    groups: the table of `duplicates.find`; labels: of the train rows whose labels are known, indexed by id. zeros, ones: how
    many of the group's known train rows have that label, the row itself left out, so that a train row is told what a test row
    would be. answer: the label of most of them, -1 where there are none or as many of each.
    """
    code = pd.factorize(groups["group"])[0]
    own = groups["id"].map(labels).where(groups["split"] == "train").to_numpy(np.float64)
    counts = [np.bincount(code, own == label)[code].astype(np.int64) - (own == label) for label in (0, 1)]
    answer = np.where(counts[0] == counts[1], -1, (counts[1] > counts[0]).astype(np.int64))
    return groups[["split", "id"]].assign(zeros=counts[0], ones=counts[1], answer=answer)


def _header_traits(headers: pd.DataFrame) -> pd.DataFrame:
    """Numbers from `images.Header`, (n rows): a column for each text that at least `_COMMON` rows share."""
    texts = headers[["tables", "sampling", "segments", "notes"]]
    columns = {name: headers[name] for name in ("coarseness", "progressive", "exif", "note_bytes")}
    for name in texts:
        counts = texts[name].value_counts()
        columns |= {
            f"{name} {text}": (texts[name] == text).astype(int) for text in counts.index[counts >= _COMMON][:100]
        }
    return pd.DataFrame(columns)
