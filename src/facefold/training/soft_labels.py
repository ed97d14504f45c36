"""Soft labels of the test images, so that they can be trained on: pseudo-labels (Lee 2013) that keep scores honest.

For fold k the soft label of a test image is the plain mean of what the fold-k models of other runs predict for it.
These have not seen the rows of fold k, so nothing that was fitted on them has a part in fold k's training, and the new
run's out-of-fold score is as honest as that of any other run. The mean over the models of all folds would not do: most
of them were trained on the rows of fold k, and a test image that resembles one would pass its label on. Nor would
weights learned by a blend, which are fitted on the out-of-fold rows of all folds, k among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from facefold.data.folds import Folds
from facefold.data.pseudo_labels import PseudoLabels
from facefold.runs import current_identity, fold_dir, is_run_complete, load_member, load_predictions
from facefold.task import Task
from facefold.training.loss import Loss, WeightedLoss
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels of images that are trained on next to the train rows, and of these.

    ids: of the images (t,). values: float64 (t, C), probability of label 1 or predicted value (C = 1), or the
    probabilities of C classes. weight: of each in the loss, where a train row has 1. train_values: soft labels of the
    train rows, from `teacher_labels`, None for none; share: of these in what a train row is trained towards.
    """

    ids: list[str]
    values: np.ndarray
    weight: float
    train_values: pd.DataFrame | None = None
    share: float = 0.0

    @classmethod
    def of_no_image(cls, outputs: int) -> Self:
        """Return the soft labels of no images: the train rows' labels become soft, each with the weight 1."""
        return cls([], np.empty((0, outputs)), 1.0)


def load_pseudo_labels(
    names: Sequence[str], weight: float, share: float, folds: Folds, images_hash: str, root: Path, test_ids: list[str]
) -> PseudoLabels:
    """Return the pseudo-labels by the runs `names`, finished on these folds and images.

    One `InputError` lists the runs that are incomplete, stale or damaged.

    Args:
        names: Of the runs, in any order.
        weight: Of a test image in the loss.
        share: Of the runs' soft label in that of a train row, 0 for none.
        folds: On which the new run is trained.
        images_hash: Of the competition's images.
        root: The folder that holds runs/.
        test_ids: In the order of test.csv.
    """
    makers, problems = [], []
    for name in sorted(names):
        if not is_run_complete(root, name, folds.k):
            problems.append(f"{folds.target.folder}runs/{name} is not finished in all {folds.k} folds; train it first")
            continue
        try:
            member = load_member(root, current_identity(name, folds, images_hash), name, folds, test_ids)
            makers.append((name, tuple(run["files"]["test.csv"] for run in member.runs)))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("--pseudo takes finished runs on the current folds and images:\n  " + "\n  ".join(problems))
    return PseudoLabels(tuple(makers), weight, share)


def load_soft_labels(root: Path, pseudo: PseudoLabels, fold: int, target: Task, test_ids: list[str]) -> SoftLabels:
    """Return the mean of what the models of this fold predict for the test images, whatever the runs' other folds say.

    Raise `InputError` if a run was trained again since `load_pseudo_labels`.

    Args:
        root: The folder that holds runs/.
        pseudo: The runs that predict.
        fold: Whose held-out rows none of the models has seen.
        target: What is predicted.
        test_ids: In the order of test.csv.
    """
    values = []
    for name, hashes in pseudo.makers:
        path = fold_dir(root, name, fold) / "test.csv"
        require_same(path, hashes[fold])
        table = load_predictions(path, target).set_index("id")
        values.append(table.loc[test_ids, list(target.columns)].to_numpy())
    return SoftLabels(test_ids, np.mean(values, axis=0), pseudo.weight)


def require_same(path: Path, sha256: str) -> None:
    """Raise `InputError` unless the predictions of a run are those that label the images; sha256: in hex."""
    if not path.is_file() or sha256_file(path) != sha256:
        raise InputError(f"{path} has changed since this training began; run the same command again")


def training_targets(
    train: pd.DataFrame, soft: SoftLabels | None, loss_fn: Loss
) -> tuple[list[str], Tensor, Loss | WeightedLoss]:
    """Return the ids (n,) of all rows to train on, their targets, and the loss of a batch of these.

    Without soft labels the targets are the labels (n,) in the loss's dtype. With them they are float32 (n, C + 1): the
    soft labels and the row's weight. The recipe's label smoothing is applied to the train rows here: soft labels come
    from models that were trained with theirs, and are not smoothed again. A train row that is taught is trained towards
    a mixture of both; extra rows are not taught.
    """
    ids, labels = train["id"].tolist(), torch.tensor(train["label"].to_numpy(), dtype=loss_fn.label_dtype)
    if soft is None:
        return ids, labels, loss_fn
    values = torch.from_numpy(soft.values).float()
    labelled = loss_fn.soften(labels, values.shape[1])
    if soft.train_values is not None:
        taught = torch.tensor(soft.train_values.reindex(ids).to_numpy(), dtype=torch.float32)
        labelled = torch.where(taught.isnan(), labelled, (1 - soft.share) * labelled + soft.share * taught)
    weights = torch.cat([torch.ones(len(labelled)), torch.full((len(values),), soft.weight)])
    targets = torch.cat([torch.cat([labelled, values]), weights[:, None]], dim=1)
    return [*ids, *soft.ids], targets, WeightedLoss(loss_fn.unsmoothed())
