"""Trained folds, loaded from the weights they left, predict images as they predicted the test rows when they were trained.

On the machine that trained them the same images in the same order give the same bytes: the same batches, the number format
that the run recorded, the frozen stages in chunks as then. Elsewhere the last digits differ, and where the processor lacks
that format, more than these (`Told.form` says which was used).
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from facefold import files, runs
from facefold.data import cache, competition, integrity
from facefold.data.cache import ImageCache
from facefold.errors import InputError
from facefold.models import frozen, inference, precision
from facefold.models import recipe as recipes
from facefold.training import loader, trainer


@dataclass(frozen=True)
class Told:
    """What the model of one fold says. prob: float64 (n,), probability of label 1; features: float16 (n, F), penultimate; in the
    order of the images. form: how it was computed; recorded: how when the fold was trained."""

    prob: np.ndarray
    features: np.ndarray
    form: str
    recorded: str


@dataclass(frozen=True)
class TestJob:
    """Predict the test images by the `folds` folds of the run `name`, and put that into their place."""

    root: Path
    name: str
    folds: int

    def __str__(self) -> str:
        return f"{self.name}, test images"

    def work(self, device: torch.device) -> None:
        images = cache.open_cache(competition.load(self.root), "test", _recipe(self.name).size)
        told = predict(self.root, self.name, self.folds, images, device, self.root / "cache" / "frozen" / f"{self.name}-test")
        for fold, said in enumerate(told):
            directory = runs.fold_dir(self.root, self.name, fold)
            runs.replace_test(directory, images.ids, said.prob, said.features, integrity.fingerprint(self.root))
            print(f"{self.name} fold {fold}: {len(images.ids):,} images predicted, {said.form}"
                  + (f" (when it was trained: {said.recorded})" if said.form != said.recorded else ""), flush=True)


def work(job: TestJob, device: torch.device, slot: int) -> None:
    job.work(device)


def predict(root: Path, name: str, folds: int, images: ImageCache, device: torch.device, scratch: Path) -> Iterator[Told]:
    """What each of the run's folds says of the images, in their size for its recipe.

    scratch: a folder of its own for what the frozen stages make of the images, gigabytes, removed at the end. Raises
    `InputError` where the run's recipe has changed or weights are damaged.
    """
    try:
        for fold in range(folds):
            yield _fold(runs.fold_dir(root, name, fold), _recipe(name), images, device, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _recipe(name: str) -> recipes.Recipe:
    return recipes.load(name.removesuffix(runs.CORRECTED))


def _fold(directory: Path, recipe: recipes.Recipe, images: ImageCache, device: torch.device, scratch: Path) -> Told:
    run = files.read_json(directory / "run.json")
    if run.get("recipe_hash") != recipe.hash:
        raise InputError(f"{directory} was trained by another version of recipe {recipe.name}")
    if files.sha256_file(directory / runs.WEIGHTS) != run["files"][runs.WEIGHTS]:
        raise InputError(f"{directory / runs.WEIGHTS} is not the file that training wrote (checksum differs)")
    net, _, fmt = trainer.prepare(recipe, device, None, trained=False)
    net.load_state_dict(load_file(directory / runs.WEIGHTS))
    pixels, shown = loader.Pixels(images, device), None
    if net.frozen:
        shown = frozen.Activations(scratch / "views", "images", images, net.eval().trunk, device, _never)
    views = [loader.view(pixels, shown, view) for view in (("plain", "mirror") if recipe.tta == "flip" else ("plain",))]
    rows = np.arange(len(images.ids))
    named, checked = run["inference"]["form"], views[0](rows[:trainer.CHECKED])
    form = inference.recorded(net, fmt, precision.half(recipe, fmt, device), checked, named)
    logits, features = trainer.predict(form, views, rows)
    return Told(torch.from_numpy(logits).sigmoid().numpy(), features, form.name, named)


def _never(epoch: int, rows: np.ndarray) -> torch.Tensor:
    raise AssertionError("nothing is augmented when images are predicted")
