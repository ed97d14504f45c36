"""Jobs that workers run: compute a recipe's frozen features, or train one fold.

Their `run` imports what trains, so that a process that only plans and starts them needs no torch.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from facefold.data.cache import join_caches, open_cache, open_extra_cache
from facefold.data.competition import SPLITS, load_competition
from facefold.data.corrections import NO_CORRECTIONS, Corrections
from facefold.data.embeddings import load_embeddings
from facefold.data.extra_rows import NO_EXTRA_ROWS, ExtraRows
from facefold.data.folds import load_folds
from facefold.data.image_hashes import hash_splits
from facefold.data.pseudo_labels import NO_PSEUDO_LABELS, PseudoLabels
from facefold.models.recipe import Recipe, view_names
from facefold.runs import (
    CHECKPOINT_FILE,
    Identity,
    feature_cache_dir,
    fold_dir,
    is_fold_finished,
    remove_feature_caches,
    remove_fold,
    require_current,
    seal_fold,
    write_history,
    write_predictions,
    write_weights,
)
from facefold.task import load_task
from facefold.training.budget import SessionOver, stop_in_time
from facefold.training.trackers import TrackedRun
from facefold.training.tracking import NO_TRACKING, Tracker, Tracking
from facefold.utils.console import print_progress
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory, sha256_text

if TYPE_CHECKING:
    import torch

    from facefold.training.fold_task import FoldTask


@dataclass(frozen=True)
class FeatureJob:
    """Compute every `parts`-th view of the recipe's frozen stages' activations, from number `part` on."""

    root: Path
    recipe: Recipe
    identity: Identity
    weights_dir: Path | None
    part: int
    parts: int
    extra: ExtraRows = NO_EXTRA_ROWS

    def __str__(self) -> str:
        return f"{self.identity.recipe} frozen stages"

    def run(self, device: "torch.device", position: int) -> None:
        from facefold.training.dataset import ImageSource
        from facefold.training.fold_task import open_feature_caches, prepare_model

        recipe = self.recipe
        task = fold_task(self.root, recipe, self.identity, 0, self.weights_dir, extra=self.extra)
        model, source, precision = prepare_model(recipe, device, self.weights_dir, pretrained=True)
        features = open_feature_caches(task, model, source, precision, ImageSource(task.train_images, device))
        started, views = time.perf_counter(), view_names(recipe)[self.part :: self.parts]
        part = f"{self}, part {self.part + 1} of {self.parts}"
        print_progress(f"{part}: {len(views)} views begin")  # of many images they take minutes
        for split, view in views:
            features[split].compute_view(view)
        print_progress(f"{part}: {len(views)} views in {time.perf_counter() - started:.0f} s")


@dataclass(frozen=True)
class FoldJob:
    """Train one fold of a run and seal it.

    pseudo: the runs whose predictions of the test images are learned from as well, none by default; likewise the rows
    of extra. loader_workers: processes that augment images. tracking: where its learning curve is logged. waits:
    whether to wait for another process that trains this fold, which is an `InputError` otherwise. until: when the
    session is over (`time.monotonic()`): the fold is left at the end of an epoch before it.
    """

    root: Path
    recipe: Recipe
    identity: Identity
    corrections: Corrections
    fold: int
    weights_dir: Path | None
    loader_workers: int
    tracking: Tracking = NO_TRACKING
    waits: bool = False
    pseudo: PseudoLabels = NO_PSEUDO_LABELS
    extra: ExtraRows = NO_EXTRA_ROWS
    until: float = math.inf

    def __str__(self) -> str:
        return f"{self.identity.name} fold {self.fold}"

    @property
    def fits_teachers(self) -> bool:
        """Whether classifiers are fitted before the network is trained."""
        return self.pseudo.share > 0

    def run(self, device: "torch.device", position: int) -> None:
        """Train the fold unless it is finished, and leave its run; or its checkpoint, if the session is over."""
        from facefold.training.classifier import fit_fold
        from facefold.training.fold import train_fold
        from facefold.training.machine import reset_peak_memory, versions
        from facefold.training.predict import predict_fold
        from facefold.training.soft_labels import load_soft_labels
        from facefold.training.teachers import teacher_labels

        target = load_task(self.root, self.identity.target)
        target_root = target.directory(self.root)
        directory = fold_dir(target_root, self.identity.name, self.fold)
        with lock_directory(directory, wait=self.waits):
            if is_fold_finished(target_root, self.identity, self.fold):
                return
            task = fold_task(
                self.root, self.recipe, self.identity, self.fold, self.weights_dir, self.corrections, self.extra
            )
            if self.pseudo.makers:
                soft = load_soft_labels(target_root, self.pseudo, self.fold, target, task.test_images.ids)
                if self.pseudo.share:
                    taught = teacher_labels(target_root, self.pseudo, load_folds(self.root, target), self.fold)
                    soft = replace(soft, train_values=taught, share=self.pseudo.share)
                task = replace(task, soft=soft)
            reset_peak_memory(device)
            tracked = tracked_run(self.recipe, self.identity, directory.name, fold=self.fold, versions=versions())
            with Tracker(self.tracking, tracked) as tracker:
                try:
                    if self.recipe.classifier:
                        trained = fit_fold(task, device, tracker)
                    else:
                        stop = stop_in_time(self.until, resumed=task.checkpoint.exists())
                        trained = train_fold(task, device, position, self.loader_workers, tracker, stop)
                except SessionOver as over:  # inside the tracker's block: to leave it by an error is to have failed
                    print_progress(f"{self}: {over} of {self.recipe.epochs}; its checkpoint is kept")
                    return
            result = predict_fold(task, trained, device)
            write_weights(directory, result.state)
            write_history(directory, result.history)
            write_predictions(directory, "oof", task.valid["id"].tolist(), result.oof_prob, result.oof_features, target)
            write_predictions(directory, "test", task.test_images.ids, result.test_prob, result.test_features, target)
            held_out = [*task.valid["id"], *([] if trained.monitor is None else trained.monitor["id"])]
            facts = {**result.facts, "pseudo_labels": self.pseudo.facts, **self.extra.facts(held_out)}
            facts["train_images"] = hash_splits(self.root)["train"]
            seal_fold(directory, self.identity, facts, self.corrections)
            task.checkpoint.unlink(missing_ok=True)  # a classifier has none
        remove_feature_caches(self.root, self.identity, load_folds(self.root, target).k)


def tracked_run(recipe: Recipe, identity: Identity, part: str, **facts: object) -> TrackedRun:
    """Return what trackers call a part of a run: a fold by its folder's name, or the summary. facts: of that part."""
    key = sha256_text(json.dumps(identity.facts, sort_keys=True))
    return TrackedRun(identity.name, part, key, {**asdict(recipe), **identity.facts, **facts})


def fold_task(
    root: Path,
    recipe: Recipe,
    identity: Identity,
    fold: int,
    weights_dir: Path | None,
    corrections: Corrections = NO_CORRECTIONS,
    extra: ExtraRows = NO_EXTRA_ROWS,
) -> "FoldTask":
    """Return what a fold of a run is trained on."""
    from facefold.training.fold_task import FoldTask

    target = load_task(root, identity.target)
    competition, folds = load_competition(root), load_folds(root, target)
    if recipe.embeddings:
        images = load_embeddings(competition, recipe.embeddings)
    else:
        images = {split: open_cache(competition, split, recipe.preprocessing) for split in SPLITS}
    more = [images["test"]] if identity.pseudo else []
    if extra.rows:
        more.append(open_extra_cache(root, extra, recipe.preprocessing))
    table, held_out = folds.table[["id", "label", "group"]], folds.table["fold"] == fold
    return FoldTask(
        recipe=recipe,
        fold=fold,
        seed=identity.seed,
        train=corrections.apply(table[~held_out]),
        valid=table[held_out],
        train_images=reduce(join_caches, more, images["train"]),
        test_images=images["test"],
        checkpoint=fold_dir(target.directory(root), identity.name, fold) / CHECKPOINT_FILE,
        identity=identity.facts,
        feature_dir=feature_cache_dir(root, identity),
        weights_dir=weights_dir,
        target=target,
        extra=extra,
    )


def order_jobs(
    fold_jobs: list[FoldJob], devices: Sequence[str]
) -> tuple[list[FeatureJob | FoldJob], dict[FoldJob, list[FeatureJob]]]:
    """Return all jobs in order, and the feature jobs that each waits for.

    Before the folds of a recipe come its feature jobs, one per device at most. devices: one per job at a time.
    """
    jobs: list[FeatureJob | FoldJob] = []
    after: dict[FoldJob, list[FeatureJob]] = {}
    for name in dict.fromkeys(job.identity.name for job in fold_jobs):
        folds = [job for job in fold_jobs if job.identity.name == name]
        first = folds[0]
        recipe = first.recipe
        count = min(len(devices), len(view_names(recipe))) if recipe.caches_stages(devices[0]) else 0
        features = [
            FeatureJob(first.root, recipe, first.identity, first.weights_dir, part, count, first.extra)
            for part in range(count)
        ]
        jobs += [*features, *folds]
        after |= {job: features for job in folds}
    return jobs, after


def require_usable_checkpoint(
    root: Path, identity: Identity, fold: int, force: bool, find_source: Callable[[], dict]
) -> None:
    """Raise `InputError` if the fold has a checkpoint that is damaged or of another identity; remove it if `force`.

    find_source: returns the source of the pretrained weights that the other folds begin from: it has to be the same.
    """
    directory = fold_dir(load_task(root, identity.target).directory(root), identity.name, fold)
    if not (directory / CHECKPOINT_FILE).exists():
        return
    from facefold.training.checkpoint import load_checkpoint

    try:
        if checkpoint := load_checkpoint(directory / CHECKPOINT_FILE):
            require_current(directory, checkpoint.identity, identity)
            began = checkpoint.meta.weights_source
            if began and began != (source := find_source()):
                raise InputError(
                    f"{directory / CHECKPOINT_FILE} was begun with the weights {began}, and the other folds would "
                    f"begin with {source}. Name the former with --weights-dir, or train over it with --force."
                )
    except InputError:
        if not force:
            raise
        remove_fold(directory)
