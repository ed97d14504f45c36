"""What one process of the engine does: compute the views that a recipe's folds share, or train one fold and seal its run."""

import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from facefold import files, remote, runs, terminal
from facefold.data import cache, competition, folds
from facefold.data.corrections import NONE, Corrections
from facefold.data.target import Target
from facefold.errors import InputError
from facefold.models import frozen
from facefold.models import recipe as recipes
from facefold.training import checkpoint, curves, loader, trainer
from facefold.training.estimate import Cost


@dataclass(frozen=True)
class ViewJob:
    """Compute every `parts`-th view of the recipe's frozen activations, from number `part` on, and send them home where the root is
    a copy that no other job sees."""

    root: Path
    identity: runs.Identity
    weights_dir: Path | None
    part: int
    parts: int
    home: remote.Store | None = None

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
            made = shown[split].make(view)
            if self.home:
                remote.Mirror(self.root, self.home).send(made)
        terminal.say(
            f"{self}, part {self.part + 1} of {self.parts}: {len(mine)} views in {time.perf_counter() - started:.0f} s"
        )

    def inputs(self) -> list[str]:
        """What the job reads, as beginnings of names under the root."""
        return _inputs(self.root, self.identity)


@dataclass(frozen=True)
class FoldJob:
    """Train one fold of a run and seal it. home: where the root is a copy, what it is a copy of: checkpoints and the sealed run are
    sent there at once. waits: for another process that trains this fold, which is refused otherwise."""

    root: Path
    identity: runs.Identity
    corrections: Corrections
    fold: int
    weights_dir: Path | None
    loader_workers: int
    tensorboard: bool = False
    home: remote.Store | None = None
    waits: bool = False

    def __str__(self) -> str:
        return f"{self.identity.name} fold {self.fold}"

    def expected(self, cost: Cost) -> float:
        """The seconds of this job, by what its run costs."""
        return cost.fold

    def work(self, device: torch.device, slot: int) -> None:
        """Train the fold unless it is finished, and leave its run."""
        place = Target(self.identity.target).place(self.root)
        with files.locked(runs.fold_dir(place, self.identity.name, self.fold), wait=self.waits):
            if runs.finished(place, self.identity, self.fold):
                return
            self._train(device, slot)
        tidy(self.root, self.identity)

    def _train(self, device: torch.device, slot: int) -> None:
        target = Target(self.identity.target)
        directory = runs.fold_dir(target.place(self.root), self.identity.name, self.fold)
        task = _task(self.root, self.identity, self.fold, self.weights_dir, self.corrections)
        task = replace(task, saved=self._sent_checkpoint)
        result = trainer.fit(task, device, slot, self.loader_workers, self._events())
        runs.write_weights(directory, result.state)
        runs.write_history(directory, result.history)
        runs.write_predictions(
            directory, "oof", task.valid["id"].tolist(), result.oof_prob, result.oof_features, target
        )
        runs.write_predictions(directory, "test", task.test_images.ids, result.test_prob, result.test_features, target)
        runs.finish(directory, self.identity, result.facts, self.corrections)
        task.checkpoint.unlink()
        if self.home:
            events = sorted(self._events().iterdir()) if self.tensorboard else []
            sealed = [directory / name for name in (*runs.RESULT_FILES, "run.json", runs.CHECKPOINT)]
            remote.Mirror(self.root, self.home).send([*events, *sealed])

    def _sent_checkpoint(self) -> None:
        if not self.home:
            return
        directory = runs.fold_dir(Target(self.identity.target).place(self.root), self.identity.name, self.fold)
        try:
            remote.Mirror(self.root, self.home).send([directory / runs.CHECKPOINT])
        except InputError as error:
            terminal.say(f"{self}: its checkpoint was not sent, training goes on: {error}")

    def inputs(self) -> list[str]:
        """What the job reads, as beginnings of names under the root."""
        folder = Target(self.identity.target).folder
        return [*_inputs(self.root, self.identity), f"{folder}runs/{self.identity.name}/fold_{self.fold}/"]

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


def _inputs(root: Path, identity: runs.Identity) -> list[str]:
    """What all jobs of a run read: tables, folds, the cached pixels of its size, frozen activations; no image."""
    folder, size = Target(identity.target).folder, recipes.load(identity.recipe).size
    tables = [f"competition/{name}.csv" for name in ("train", "test", "sampleSubmit", "meta")]
    return [
        *tables,
        "cache/images.",
        *(f"cache/{split}_{size}px_" for split in ("train", "test")),
        f"{folder}folds/",
        f"{_frozen(root, identity).relative_to(root).as_posix()}/",
    ]


def work(job: ViewJob | FoldJob, device: torch.device, slot: int) -> None:
    """Do the job on `device`."""
    job.work(device, slot)


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
        home = first.home if first.waits else None  # machines of a cluster may not see this copy
        views = [ViewJob(first.root, first.identity, first.weights_dir, part, shares, home) for part in range(shares)]
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
