"""What one process of the engine does: compute the views that a recipe's folds share, or train one fold and seal its run."""

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from facefold.data.cache import open_cache
from facefold.data.competition import load_competition
from facefold.data.corrections import NO_CORRECTIONS, Corrections
from facefold.data.folds import load_folds
from facefold.models.feature_cache import view_names
from facefold.models.recipe import load_recipe
from facefold.runs import (
    CHECKPOINT_FILE,
    Identity,
    fold_dir,
    is_fold_finished,
    is_run_complete,
    require_current,
    seal_fold,
    write_history,
    write_predictions,
    write_weights,
)
from facefold.task import Target
from facefold.training.checkpoint import load_checkpoint_header
from facefold.training.curves import curves_dir
from facefold.training.dataset import ImageSource
from facefold.training.estimate import Cost
from facefold.training.fold import FoldTask, fit_fold, open_feature_caches, prepare_model
from facefold.utils.console import print_progress
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory


@dataclass(frozen=True)
class ViewJob:
    """Compute every `parts`-th view of the recipe's frozen activations, from number `part` on."""

    root: Path
    identity: Identity
    weights_dir: Path | None
    part: int
    parts: int

    def __str__(self) -> str:
        return f"{self.identity.recipe} frozen stages"

    def expected(self, cost: Cost) -> float:
        """The seconds of this job, by what its run costs."""
        return cost.shared / self.parts

    def work(self, device: torch.device, slot: int) -> None:
        recipe = load_recipe(self.identity.recipe)
        task = _task(self.root, self.identity, 0, self.weights_dir)
        net, source, fmt = prepare_model(recipe, device, self.weights_dir, pretrained=True)
        shown = open_feature_caches(task, net, source, fmt, ImageSource(task.train_images, device))
        started, mine = time.perf_counter(), view_names(recipe)[self.part :: self.parts]
        for split, view in mine:
            shown[split].compute_view(view)
        print_progress(
            f"{self}, part {self.part + 1} of {self.parts}: {len(mine)} views in {time.perf_counter() - started:.0f} s"
        )


@dataclass(frozen=True)
class FoldJob:
    """Train one fold of a run and seal it. waits: for another process that trains this fold, which
    is refused otherwise."""

    root: Path
    identity: Identity
    corrections: Corrections
    fold: int
    weights_dir: Path | None
    loader_workers: int
    tensorboard: bool = False
    waits: bool = False

    def __str__(self) -> str:
        return f"{self.identity.name} fold {self.fold}"

    def expected(self, cost: Cost) -> float:
        """The seconds of this job, by what its run costs."""
        return cost.fold

    def work(self, device: torch.device, slot: int) -> None:
        """Train the fold unless it is finished, and leave its run."""
        place = Target(self.identity.target).directory(self.root)
        with lock_directory(fold_dir(place, self.identity.name, self.fold), wait=self.waits):
            if is_fold_finished(place, self.identity, self.fold):
                return
            self._train(device, slot)
        remove_feature_caches(self.root, self.identity)

    def _train(self, device: torch.device, slot: int) -> None:
        target = Target(self.identity.target)
        directory = fold_dir(target.directory(self.root), self.identity.name, self.fold)
        task = _task(self.root, self.identity, self.fold, self.weights_dir, self.corrections)
        result = fit_fold(task, device, slot, self.loader_workers, self._events())
        write_weights(directory, result.state)
        write_history(directory, result.history)
        write_predictions(directory, "oof", task.valid["id"].tolist(), result.oof_prob, result.oof_features, target)
        write_predictions(directory, "test", task.test_images.ids, result.test_prob, result.test_features, target)
        seal_fold(directory, self.identity, result.facts, self.corrections)
        task.checkpoint.unlink()

    def _events(self) -> Path | None:
        return (
            curves_dir(Target(self.identity.target).directory(self.root), self.identity.name, self.fold)
            if self.tensorboard
            else None
        )


def remove_feature_caches(root: Path, identity: Identity) -> None:
    """Remove what the run's frozen stages made of the images, gigabytes, once all its folds are sealed."""
    target = Target(identity.target)
    if is_run_complete(target.directory(root), identity.name, load_folds(root, target).k):
        shutil.rmtree(_frozen(root, identity), ignore_errors=True)


def _frozen(root: Path, identity: Identity) -> Path:
    return Target(identity.target).directory(root) / "cache" / "frozen" / identity.name


def run_job(job: ViewJob | FoldJob, device: torch.device, slot: int) -> None:
    """Do the job on `device`."""
    job.work(device, slot)


def _task(
    root: Path, identity: Identity, fold: int, weights_dir: Path | None, corrections: Corrections = NO_CORRECTIONS
) -> FoldTask:
    target = Target(identity.target)
    competition, split = load_competition(root), load_folds(root, target)
    recipe = load_recipe(identity.recipe)
    table = split.table[["id", "label", "group"]]
    held_out = split.table["fold"] == fold
    return FoldTask(
        recipe,
        fold,
        identity.seed,
        corrections.apply(table[~held_out]),
        table[held_out],
        open_cache(competition, "train", recipe.size),
        open_cache(competition, "test", recipe.size),
        fold_dir(target.directory(root), identity.name, fold) / CHECKPOINT_FILE,
        asdict(identity),
        _frozen(root, identity),
        weights_dir,
        target,
    )


def order_jobs(
    folds_to_train: list[FoldJob], parts: int
) -> tuple[list[ViewJob | FoldJob], dict[FoldJob, list[ViewJob]]]:
    """The jobs in order, a recipe's frozen views (in `parts`, side by side) before its folds, and which wait for which."""
    jobs: list[ViewJob | FoldJob] = []
    after: dict[FoldJob, list[ViewJob]] = {}
    for name in dict.fromkeys(job.identity.name for job in folds_to_train):
        mine = [job for job in folds_to_train if job.identity.name == name]
        first = mine[0]
        recipe = load_recipe(first.identity.recipe)
        shares = min(parts, len(view_names(recipe))) if recipe.has_frozen_stages else 0
        views = [ViewJob(first.root, first.identity, first.weights_dir, part, shares) for part in range(shares)]
        jobs += [*views, *mine]
        after |= {job: views for job in mine}
    return jobs, after


def needs_training(root: Path, identity: Identity, fold: int, force: bool) -> bool:
    """Whether this fold has yet to be trained. What another identity left is refused, or removed when `force` is given."""
    place = Target(identity.target).directory(root)
    directory = fold_dir(place, identity.name, fold)
    try:
        if is_fold_finished(place, identity, fold):
            (directory / CHECKPOINT_FILE).unlink(missing_ok=True)
            return False
        if begun := load_checkpoint_header(directory / CHECKPOINT_FILE):
            require_current(directory, begun, identity)
    except InputError:
        if not force:
            raise
        with lock_directory(directory):
            shutil.rmtree(directory)
    return True
