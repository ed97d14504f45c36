"""What one process of the engine does: compute the views that a recipe's folds share, or train one fold and seal its run."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch

from facefold import files, runs, terminal
from facefold.data import cache, competition, folds
from facefold.data.corrections import NONE, Corrections
from facefold.data.target import Target
from facefold.errors import InputError
from facefold.models import batchnorm, frozen, zoo
from facefold.models import recipe as recipes
from facefold.training import checkpoint, curves, loader, trainer
from facefold.training.estimate import Cost
from facefold.training.launcher import launch
from facefold.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class ViewJob:
    """Compute every `parts`-th view of the recipe's frozen activations, from number `part` on."""

    root: Path
    identity: runs.Identity
    weights_dir: Path | None
    part: int
    parts: int
    ranks: ClassVar[int] = 1

    def __str__(self) -> str:
        return f"{self.identity.recipe} frozen stages"

    def expected(self, cost: Cost) -> float:
        """The seconds of this job, by what its run costs."""
        return cost.shared / self.parts

    def work(self, device: torch.device, slot: int) -> None:
        recipe = recipes.load(self.identity.recipe)
        task = _task(self.root, self.identity, 0, self.weights_dir)
        net, source, fmt = trainer.prepare(recipe, device, self.weights_dir, trained=True)
        shown = trainer.activations(task, net, source, fmt, loader.Pixels(task.train_images, device))
        started, mine = time.perf_counter(), frozen.names(recipe)[self.part :: self.parts]
        for split, view in mine:
            shown[split].make(view)
        terminal.say(
            f"{self}, part {self.part + 1} of {self.parts}: {len(mine)} views in {time.perf_counter() - started:.0f} s"
        )


@dataclass(frozen=True)
class FoldJob:
    """Train one fold of a run and seal it. ranks: of its recipe, in so many processes. waits: for another process that trains this
    fold, which is refused otherwise."""

    root: Path
    identity: runs.Identity
    corrections: Corrections
    fold: int
    weights_dir: Path | None
    loader_workers: int
    tensorboard: bool = False
    ranks: int = 1
    waits: bool = False

    def __str__(self) -> str:
        return f"{self.identity.name} fold {self.fold}"

    def expected(self, cost: Cost) -> float:
        """The seconds of this job, by what its run costs."""
        return cost.fold

    def work(self, device: torch.device | Sequence[torch.device], slot: int) -> None:
        """Train the fold unless it is finished, and leave its run; with several devices in a rank on each."""
        place = Target(self.identity.target).place(self.root)
        with files.locked(runs.fold_dir(place, self.identity.name, self.fold), wait=self.waits):
            if runs.finished(place, self.identity, self.fold):
                return
            if isinstance(device, torch.device):
                self.train(device, slot)
            else:
                launch(self.train, device, slot)
        tidy(self.root, self.identity)

    def train(self, device: torch.device, slot: int, ranks: Ranks = ALONE) -> None:
        """What one process, or each rank, does of `work`."""
        target = Target(self.identity.target)
        directory = runs.fold_dir(target.place(self.root), self.identity.name, self.fold)
        task = _task(self.root, self.identity, self.fold, self.weights_dir, self.corrections)
        result = trainer.fit(task, device, slot, self.loader_workers, self._events(), ranks)
        if result is None:
            return
        runs.write_weights(directory, result.state)
        runs.write_history(directory, result.history)
        runs.write_predictions(
            directory, "oof", task.valid["id"].tolist(), result.oof_prob, result.oof_features, target
        )
        runs.write_predictions(directory, "test", task.test_images.ids, result.test_prob, result.test_features, target)
        runs.finish(directory, self.identity, result.facts, self.corrections)
        task.checkpoint.unlink()

    def _events(self) -> Path | None:
        return (
            curves.folder(Target(self.identity.target).place(self.root), self.identity.name, self.fold)
            if self.tensorboard
            else None
        )


def tidy(root: Path, identity: runs.Identity) -> None:
    """Remove what the run's frozen stages made of the images, gigabytes, once all its folds are sealed."""
    target = Target(identity.target)
    if runs.whole(target.place(root), identity.name, folds.load(root, target).k):
        shutil.rmtree(_frozen(root, identity), ignore_errors=True)


def _frozen(root: Path, identity: runs.Identity) -> Path:
    return Target(identity.target).place(root) / "cache" / "frozen" / identity.name


def work(job: ViewJob | FoldJob, device: torch.device | Sequence[torch.device], slot: int) -> None:
    """Do the job on `device`; a fold of several ranks takes one for each."""
    job.work(device, slot)


def require_places(recipe: recipes.Recipe, places: Sequence[torch.device]) -> None:
    """Raise `InputError` for a recipe whose ranks cannot train in these places."""
    if recipe.ranks == 1:
        return
    on_cpu = places[0].type == "cpu"
    if recipe.ranks > len(places):
        kind, default = ("processes", "a core each") if on_cpu else ("GPUs", "all that torch sees")
        raise InputError(
            f"recipe {recipe.name}: ranks = {recipe.ranks} takes {recipe.ranks} {kind} at once, and there is room for {len(places)} "
            f"(--workers, else {default}); set ranks = {len(places)}, or train elsewhere"
        )
    if on_cpu and batchnorm.learns(zoo.build(recipe, trained=False)[0]):
        raise InputError(
            f"recipe {recipe.name}: the batch norm of {recipe.backbone} looks at whole batches, which torch does not do over "
            f"ranks on the CPU: set ranks = 1, take GPUs, or a backbone without batch norm (ViT, ConvNeXt)"
        )


def _task(
    root: Path, identity: runs.Identity, fold: int, weights_dir: Path | None, corrections: Corrections = NONE
) -> trainer.FoldTask:
    target = Target(identity.target)
    contest, split = competition.load(root), folds.load(root, target)
    recipe = recipes.load(identity.recipe)
    table = split.table[["id", "label", "group"]]
    held_out = split.table["fold"] == fold
    return trainer.FoldTask(
        recipe,
        fold,
        identity.seed,
        corrections.apply(table[~held_out]),
        table[held_out],
        cache.open_cache(contest, "train", recipe.size),
        cache.open_cache(contest, "test", recipe.size),
        runs.fold_dir(target.place(root), identity.name, fold) / runs.CHECKPOINT,
        asdict(identity),
        _frozen(root, identity),
        weights_dir,
        target,
    )


def plan(folds_to_train: list[FoldJob], parts: int) -> tuple[list[ViewJob | FoldJob], dict[FoldJob, list[ViewJob]]]:
    """The jobs in order, a recipe's frozen views (in `parts`, side by side) before its folds, and which wait for which."""
    jobs: list[ViewJob | FoldJob] = []
    after: dict[FoldJob, list[ViewJob]] = {}
    for name in dict.fromkeys(job.identity.name for job in folds_to_train):
        mine = [job for job in folds_to_train if job.identity.name == name]
        first = mine[0]
        recipe = recipes.load(first.identity.recipe)
        shares = min(parts, len(frozen.names(recipe))) if recipe.freezes else 0
        views = [ViewJob(first.root, first.identity, first.weights_dir, part, shares) for part in range(shares)]
        jobs += [*views, *mine]
        after |= {job: views for job in mine}
    return jobs, after


def todo(root: Path, identity: runs.Identity, fold: int, force: bool) -> bool:
    """Whether this fold has yet to be trained. What another identity left is refused, or removed when `force` is given."""
    place = Target(identity.target).place(root)
    directory = runs.fold_dir(place, identity.name, fold)
    try:
        if runs.finished(place, identity, fold):
            (directory / runs.CHECKPOINT).unlink(missing_ok=True)
            return False
        if begun := checkpoint.read_header(directory / runs.CHECKPOINT):
            runs.require_current(directory, begun, identity)
    except InputError:
        if not force:
            raise
        with files.locked(directory):
            shutil.rmtree(directory)
    return True
