"""Soft labels of the train rows by teachers that have seen neither the row nor the fold that is held out.

Distillation (Hinton et al. 2015) for cross-validation: in fold k a train row of fold j takes its soft label from a
model that was fitted on neither fold. A model that was fitted on fold j answers with the labels it has seen, and one
that was fitted on fold k would pass the labels of fold k on to the model that is scored on them, as out-of-fold
predictions would. So a teacher is fitted for each pair of folds. That takes a classifier on the features of a frozen
backbone, which its run has left, seconds to a minute; a network would have to be trained again.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.folds import Folds
from facefold.data.pseudo_labels import PseudoLabels
from facefold.models.build import build_model
from facefold.models.classifiers import apply_classifier, fit_classifier
from facefold.models.recipe import load_recipe
from facefold.models.run_name import parse_run_name
from facefold.runs import fold_dir, load_fold_features, load_predictions
from facefold.training.loss import exported_predictions
from facefold.training.soft_labels import require_same
from facefold.utils.console import print_progress
from facefold.utils.errors import InputError
from facefold.utils.files import is_intact, lock_directory, read_json, sha256_text, write_checksum, write_csv
from facefold.utils.seeding import derive_seed

MIN_FOLDS = 3  # of two, none is left to fit a teacher on


def require_teachers(names: Sequence[str], folds: Folds) -> None:
    """Raise `InputError` unless the runs `names` can be fitted again without each pair of folds."""
    if networks := [name for name in names if not load_recipe(parse_run_name(name).recipe).classifier]:
        raise InputError(
            f"--distill: {', '.join(networks)} would have to be trained again for each pair of folds, which only a "
            "classifier on a frozen backbone is quick enough for, such as face_svm; name runs of these with --pseudo"
        )
    if learned := [name for name in names if parse_run_name(name).suffixes]:
        raise InputError(f"--distill: {', '.join(learned)} learned from more than the labels; name runs that did not")
    if folds.k < MIN_FOLDS:
        raise InputError(f"--distill: a teacher leaves two folds out, so three are needed at least, not {folds.k}")


def teacher_labels(root: Path, pseudo: PseudoLabels, folds: Folds, fold: int) -> pd.DataFrame:
    """Return the soft labels of the train rows of a fold: `Task.columns`, float64, by id (the index).

    They are the mean over the teachers of its runs. Each pair of folds is fitted once, by whoever comes first, and kept
    in cache/teachers/<run>/. Raise `InputError` if a run was trained again since `load_pseudo_labels`.

    Args:
        root: The folder that holds runs/.
        pseudo: Its runs are those that `require_teachers` accepts, finished on these folds.
        folds: Their folds and labels.
        fold: The one that is held out.
    """
    tables = []
    for name, hashes in pseudo.makers:
        for number, expected in enumerate(hashes):
            require_same(fold_dir(root, name, number) / "test.csv", expected)
        pairs = [(min(fold, other), max(fold, other)) for other in range(folds.k) if other != fold]
        taught = pd.concat([_pair_labels(root, name, hashes, folds, pair) for pair in pairs]).set_index("id")
        tables.append(taught.loc[folds.train(fold)["id"], list(folds.target.columns)])
    return sum(tables) / len(tables)


def _pair_labels(root: Path, name: str, hashes: tuple[str, ...], folds: Folds, pair: tuple[int, int]) -> pd.DataFrame:
    """Return id and `Task.columns` of the rows of two folds, by a teacher that was fitted on all the others.

    hashes: of the run's test predictions, which tell its models from others.
    """
    key = sha256_text(repr([folds.hash, hashes]))[:16]
    path = root / "cache" / "teachers" / name / key / f"without_{pair[0]}_{pair[1]}.csv"
    with lock_directory(path.with_suffix(".lock"), wait=True):
        if not is_intact(path):
            write_csv(path, _fit_teacher(root, name, folds, pair))
            write_checksum(path)
            print_progress(f"{name}: a teacher without folds {pair[0]} and {pair[1]}")
    return load_predictions(path, folds.target)


def _fit_teacher(root: Path, name: str, folds: Folds, pair: tuple[int, int]) -> pd.DataFrame:
    recipe, target = load_recipe(parse_run_name(name).recipe), folds.target
    table = folds.table.set_index("id")
    ids, features = {}, {}
    for fold in range(folds.k):
        ids[fold] = load_predictions(fold_dir(root, name, fold) / "oof.csv", target)["id"].tolist()
        features[fold] = load_fold_features(root, name, fold, "oof").astype(np.float32)
    others = [fold for fold in range(folds.k) if fold not in pair]
    train = table.loc[[id for fold in others for id in ids[fold]]]
    labels = train["label"].to_numpy()
    net, _ = build_model(recipe, pretrained=False, outputs=target.outputs)
    state = fit_classifier(
        recipe.classifier,
        np.concatenate([features[fold] for fold in others]),
        labels,
        train["group"].to_numpy(),
        target,
        derive_seed(read_json(fold_dir(root, name, 0) / "run.json")["seed"], *pair, "teacher"),
        net.feature_scale,
    )
    outputs = apply_classifier(state, np.concatenate([features[fold] for fold in pair]))
    values = exported_predictions(target, outputs).reshape(len(outputs), -1)
    taught = pd.DataFrame(values, columns=list(target.columns))
    taught.insert(0, "id", [id for fold in pair for id in ids[fold]])
    return taught
