"""Trained folds, loaded from the weights they left, predict images as they predicted the test rows when they were trained.

On the machine that trained them the same images in the same order give the same bytes: the same batches, the number format
that the run recorded, the frozen stages in chunks as then. Elsewhere the last digits differ, and where the processor lacks
that format, more than these.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from facefold.data.audit import load_images_hash
from facefold.data.cache import ImageCache, open_cache
from facefold.data.competition import load_competition
from facefold.models.feature_cache import FeatureCache
from facefold.models.inference import fastest_inference_model, rebuild_inference_model
from facefold.models.precision import frozen_precision, half_precision
from facefold.models.recipe import Recipe
from facefold.runs import WEIGHTS_FILE, fold_dir, load_weights, replace_test_predictions
from facefold.task import LABEL, Target
from facefold.training.dataset import ImageSource, input_view
from facefold.training.fold import CHECKED, predict_rows, prepare_model
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, sha256_file
from facefold.utils.npy import NpyRows


@dataclass(frozen=True)
class FoldPrediction:
    """What the model of one fold says. prob: float64 (n,), probability of label 1, or predicted value; features: float16 (n, F), penultimate; in the
    order of the images. form: how it was computed."""

    prob: np.ndarray
    features: NpyRows
    form: str


def trained_recipe(name: str, folds: list[dict]) -> Recipe:
    """The recipe of the run `name` as it was when it was trained; folds: their run.json."""
    try:
        return Recipe(**folds[0]["settings"])
    except (KeyError, TypeError):
        raise _other_version(name)


def _other_version(name: str) -> InputError:
    return InputError(f"runs/{name} was trained by another version of this program; train it again to predict with it")


def predict_folds(
    root: Path, name: str, folds: list[dict], images: ImageCache, device: torch.device, scratch: Path
) -> Iterator[FoldPrediction]:
    """What each fold of the run `name` says of the images, which are in the size of its recipe.

    folds: their run.json. scratch: a folder, made if need be, in which frozen/ is made, and removed at the end, for what the frozen stages make of
    the images, gigabytes.
    """
    recipe, kept = trained_recipe(name, folds), scratch / "frozen"
    scratch.mkdir(parents=True, exist_ok=True)
    net, _, fmt = prepare_model(recipe, device, None, pretrained=False)
    half = half_precision(recipe, fmt, device)
    pixels, rows, shown = ImageSource(images, device), np.arange(len(images.ids)), None
    try:
        for fold, run in enumerate(folds):
            state = {key: torch.from_numpy(value) for key, value in load_weights(root, name, fold).items()}
            try:
                net.load_state_dict(state)
            except RuntimeError as error:
                raise _other_version(name) from error
            if net.has_frozen_stages and shown is None:  # frozen, so the same in every fold
                shown = FeatureCache(
                    kept / "views",
                    "images",
                    images,
                    net.frozen_stages,
                    device,
                    frozen_precision(recipe, fmt, device),
                )
            views = [
                input_view(pixels, shown, view) for view in ("plain", "mirror")[: 2 if recipe.tta == "flip" else 1]
            ]
            named, example = run["inference"]["form"], views[0](rows[:CHECKED])
            if named.startswith("float32") or (half and named.startswith(half.name)):
                form = rebuild_inference_model(net, named, example)
            else:
                unit = run.get("standardised")
                read = (lambda out, unit=unit: (out - unit["mean"]) / unit["std"]) if unit else torch.Tensor.sigmoid
                form = fastest_inference_model(net, half, example, read)
            logits, features = predict_rows(form, views, rows, scratch)
            number = Target(run.get("target", LABEL.name)).regression
            yield FoldPrediction(logits if number else torch.from_numpy(logits).sigmoid().numpy(), features, form.name)
    finally:
        shutil.rmtree(kept, ignore_errors=True)


@dataclass(frozen=True)
class TestJob:
    """Predict the test images by the `folds` folds of the run `name`, in place of the test predictions there are."""

    root: Path
    name: str
    folds: int

    def __str__(self) -> str:
        return f"{self.name}, test images"

    @property
    def size(self) -> int:
        """Pixels a side of the images that its models are shown."""
        return trained_recipe(self.name, [read_json(fold_dir(self.root, self.name, 0) / "run.json")]).size

    def work(self, device: torch.device) -> None:
        places = [fold_dir(self.root, self.name, fold) for fold in range(self.folds)]
        told = [read_json(place / "run.json") for place in places]
        for place, run in zip(places, told, strict=True):
            if sha256_file(place / WEIGHTS_FILE) != run["files"][WEIGHTS_FILE]:
                raise InputError(f"{place / WEIGHTS_FILE} is not the file that training wrote (checksum differs)")
        images = open_cache(load_competition(self.root), "test", self.size)
        scratch = self.root / "cache" / "test" / self.name
        for fold, said in enumerate(predict_folds(self.root, self.name, told, images, device, scratch)):
            replace_test_predictions(places[fold], images.ids, said.prob, said.features, load_images_hash(self.root))
            then = told[fold]["inference"]["form"]
            print(
                f"{self.name} fold {fold}: {len(images.ids):,} images predicted, {said.form}"
                + (f" (when it was trained: {then})" if said.form != then else ""),
                flush=True,
            )


def run_test_job(job: TestJob, device: torch.device, slot: int) -> None:
    job.work(device)
