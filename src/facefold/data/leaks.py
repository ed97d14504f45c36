"""What predicts the label without the pixels: the order of the ids, the file, its header, a duplicate in train.

Each cue is one number and what chance alone would give. It is reported, and used only if a person says so.
"""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.tree import DecisionTreeClassifier

from facefold.data.competition import Competition
from facefold.utils.errors import InputError

REAL = 0.1  # an AUC or correlation this far above chance, and above twice its 95 % margin, is a leak
_Z95 = NormalDist().inv_cdf(0.975)
_PERIODS = range(2, 9)  # ids apart: where a pattern of up to eight labels repeats, or runs of up to eight alternate
_LEAVES, _LEAF_SHARE = 64, 500
_FOLDS, _CLASSES = 5, 20
_COMMON = 20  # rows that must share a text of the header before a model may use it


class Cue(NamedTuple):
    """How well one cue alone predicts the label.

    value: a cross-validated AUC, or a correlation; chance gives `centre` +- `margin` (95 %).
    """

    name: str
    measure: str
    value: float
    centre: float
    margin: float

    @property
    def distance(self) -> float:
        """How far the value is from chance, on either side: what is wrong more often than chance gives labels away."""
        return abs(self.value - self.centre)

    @property
    def leaks(self) -> bool:
        """Whether it predicts the label better than a harmless trait of the images would."""
        return self.distance > max(REAL, 2 * self.margin)


def label_order_cue(ids: Sequence[str], labels: np.ndarray, lags: Sequence[int] = (1,)) -> Cue:
    """Correlate labels (n,), indices of classes, with the next one in the order of their ids: a lag-1 correlation.

    Of several `lags` the one with the largest correlation counts; chance is then that of the largest of as many (by
    Bonferroni). Raises `InputError` if ids are not whole numbers, two are the same number, or only one label occurs.
    """
    labels = np.asarray(labels)[order_by_id(ids)].astype(float)
    if len(np.unique(labels)) < 2:
        raise InputError("the order of the ids says nothing if only one label occurs")
    centred = labels - labels.mean()
    correlations = {lag: float(centred[lag:] @ centred[:-lag] / (centred @ centred)) for lag in lags}
    lag = max(lags, key=lambda lag: abs(correlations[lag]))
    margin = NormalDist().inv_cdf(1 - 0.025 / len(lags)) / math.sqrt(len(labels))
    name = "order of the ids" if lag == 1 else f"order {lag} ids apart"
    return Cue(name, "correlation", correlations[lag], 0.0, margin)


def order_by_id(ids: Sequence[str]) -> np.ndarray:
    """Return the positions, int64 (n,), that sort `ids` as numbers; `InputError` unless they are distinct numbers."""
    numbers: dict[int, int] = {}
    for position, id in enumerate(ids):
        if not (id.isascii() and id.isdecimal()):
            raise InputError(
                f"id '{id}' is not a whole number: only numbered ids have an order to use; leave the order out"
            )
        if int(id) in numbers:
            raise InputError(f"two ids are the number {int(id)}: their order is not known; leave the order out")
        numbers[int(id)] = position
    return np.array([numbers[number] for number in sorted(numbers)], dtype=np.int64)


def find_cues(competition: Competition, images: pd.DataFrame, headers: pd.DataFrame) -> list[Cue]:
    """Measure all cues of the train rows; the order of the ids is left out unless they are distinct numbers.

    images: the table of `check_images`. headers: those of `load_thumbnails`.
    """
    labels = competition.train["label"].to_numpy()
    images, headers = (table[table["split"] == "train"] for table in (images, headers))
    times = [competition.image_path("train", id).stat().st_mtime for id in images["id"]]
    cues = []
    with suppress(InputError):
        ids = competition.ids("train")
        neighbours, periodic = label_order_cue(ids, labels), label_order_cue(ids, labels, _PERIODS)
        cues.append(periodic if periodic.leaks and not neighbours.leaks else neighbours)
    traits = {
        "file size": images[["bytes"]],
        "file time": pd.DataFrame({"time": times}),
        "image size": images[["width", "height"]].assign(aspect=images["width"] / images["height"]),
        "JPEG header": _header_traits(headers),
    }
    return cues + [cue_auc(name, table.to_numpy(np.float64), labels) for name, table in traits.items()]


def cue_auc(name: str, traits: np.ndarray, labels: np.ndarray) -> Cue:
    """Measure the AUC of a small decision tree on `traits`, float (n, t): the mean of five-fold cross-validation.

    Of more than two classes it is the mean of each against the rest, of the `_CLASSES` with the most rows. Chance is
    that of the Mann-Whitney statistic, for several classes the mean of theirs, which is no less than that of the mean.
    """
    counts = np.bincount(labels)
    if len(counts) > 2:
        kept = np.argsort(-counts, kind="stable")[:_CLASSES]
        kept = kept[counts[kept] >= _FOLDS]
        rows = np.isin(labels, kept)
        traits, labels = traits[rows], np.searchsorted(np.sort(kept), labels[rows])
        counts = np.bincount(labels)
    if len(counts) < 2:
        return Cue(name, "AUC", 0.5, 0.5, 0.5)
    n = len(labels)
    margin = float(np.mean([_Z95 * math.sqrt((n + 1) / (12 * count * (n - count))) for count in counts]))
    folds = min(_FOLDS, counts.min())
    if folds < 2 or (traits == traits[0]).all():  # where all images are alike a tree has one leaf
        return Cue(name, "AUC", 0.5, 0.5, margin)
    leaf = max(5, n // _LEAF_SHARE)
    tree = DecisionTreeClassifier(max_leaf_nodes=_LEAVES, min_samples_leaf=leaf, random_state=0)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=0)
    scoring = "roc_auc" if len(counts) == 2 else "roc_auc_ovr"
    areas = cross_val_score(tree, traits, labels, cv=splitter, scoring=scoring)
    return Cue(name, "AUC", float(np.mean(areas)), 0.5, margin)


def labels_of_duplicates(groups: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    """Count the labels of each image's duplicates in train, in the order of `groups`.

    Return split, id, zeros, ones, known, answer. Only the train rows of the group whose labels are known count, without
    the row itself, so that a train row is treated as a test row. zeros, ones: those with label 0 and 1. known: all.
    answer: the label of most of them, -1 if there are none or two labels have as many.

    groups: the table of `find_duplicates`. labels: of the train rows whose labels are known, indexed by id.
    """
    code = pd.factorize(groups["group"])[0]
    own = groups["id"].map(labels).where(groups["split"] == "train").to_numpy(np.float64)
    zeros, ones = (np.bincount(code, own == label)[code].astype(np.int64) - (own == label) for label in (0, 1))
    known = np.bincount(code, ~np.isnan(own))[code].astype(np.int64) - ~np.isnan(own)
    answer = np.where(zeros == ones, -1, (ones > zeros).astype(np.int64))
    if np.nanmax(own, initial=0) > 1:
        answer = _majorities(code, own)
    return groups[["split", "id"]].assign(zeros=zeros, ones=ones, known=known, answer=answer)


def _majorities(code: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the label of most other rows of each row's group, int64 (n,), -1 for none or a tie.

    code: of the group, (n,). own: the label of each row, (n,), nan if it is not known.
    """
    answer = np.full(len(code), -1, dtype=np.int64)
    order = np.argsort(code, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
        labels = own[rows]
        counts = Counter(labels[~np.isnan(labels)]) if len(rows) > 1 else Counter()
        for label in [*counts, math.nan] if counts else ():
            most = (counts - Counter([label])).most_common(2)
            tie = not most or (len(most) > 1 and most[0][1] == most[1][1])
            same = np.isnan(labels) if math.isnan(label) else labels == label
            answer[rows[same]] = -1 if tie else int(most[0][0])
    return answer


def _header_traits(headers: pd.DataFrame) -> pd.DataFrame:
    """Return numbers from the fields of `JpegHeader`, (n rows): one column for each text that `_COMMON` rows share."""
    columns = {name: headers[name] for name in ("coarseness", "progressive", "exif", "note_bytes")}
    for name in ("tables", "sampling", "segments", "notes"):
        counts = headers[name].value_counts()
        common = counts.index[counts >= _COMMON][:100]
        columns |= {f"{name} {text}": (headers[name] == text).astype(int) for text in common}
    return pd.DataFrame(columns)
