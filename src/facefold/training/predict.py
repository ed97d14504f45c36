"""Predictions of trained folds: right after training, and later from the weights that training left.

On the machine that trained them the same images in the same order give the same bytes: the same batches, the number
format that the run recorded, the frozen stages in the same chunks. Elsewhere the last digits differ, and where the
processor lacks that format, more than these.
"""

import operator
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from facefold.data.cache import ImageCache, open_cache
from facefold.data.competition import load_competition
from facefold.data.image_hashes import load_images_hash
from facefold.models.build import Net
from facefold.models.feature_cache import FeatureCache
from facefold.models.inference import (
    MAX_DIFFERENCE,
    InferenceModel,
    rebuild_inference_model,
    select_inference_model,
    training_form,
)
from facefold.models.precision import Precision, frozen_precision, half_precision
from facefold.models.recipe import Recipe
from facefold.runs import WEIGHTS_FILE, fold_dir, load_weights, recorded_task, replace_test_predictions
from facefold.training.averages import greedy_average
from facefold.training.dataset import ImageSource, InputFn, input_view, shuffle_mode
from facefold.training.fold import TrainedFold
from facefold.training.fold_task import FoldTask, prepare_model
from facefold.training.loss import Loss, MAELoss, MulticlassLoss, exported_predictions
from facefold.training.machine import peak_memory_mb, versions
from facefold.training.outputs import predict_batches, predict_rows
from facefold.utils.console import print_progress
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, sha256_file
from facefold.utils.npy import NpyRows

CHECKED_ROWS = 128  # on which a fast form of inference is compared with float32


@dataclass(frozen=True)
class FoldResult:
    """What a trained fold leaves.

    state: the weights that predict, name -> array. *_prob: float64 (n,), probability of label 1 or predicted value, or
    (n, C), the probabilities of more than two classes, in the order of the task's ids. *_features: float16 (n, F), in
    unnamed files. history: one row per epoch. facts: for run.json.
    """

    state: dict[str, np.ndarray]
    history: pd.DataFrame
    oof_prob: np.ndarray
    oof_features: NpyRows
    test_prob: np.ndarray
    test_features: NpyRows
    facts: dict


@dataclass(frozen=True)
class FoldPrediction:
    """Predictions of one fold's model in the order of the images.

    prob: float64 (n,), probability of label 1 or predicted value, or (n, C), the probabilities of more than two
    classes; features: float16 (n, F), penultimate. inference: how they were computed, see `InferenceModel.name`.
    """

    prob: np.ndarray
    features: NpyRows
    inference: str


def predict_fold(task: FoldTask, trained: TrainedFold, device: torch.device) -> FoldResult:
    """Predict the held-out rows and the test rows of a fold that was just trained, by one code path."""
    started, cpu_started = time.perf_counter(), time.process_time()
    loss_fn, folder, names = trained.loss_fn, task.checkpoint.parent, task.recipe.tta_views
    train_views = prediction_views(task.recipe, names, trained.train_images, trained.features.get("train"))
    valid_rows = task.train_images.rows(task.valid["id"].tolist())
    test_rows = np.arange(len(task.test_images.ids))
    if device.type == "cuda":
        model, checked = training_form(trained.model, trained.precision), 0
    else:
        half, checked = half_precision(task.recipe, trained.precision, device), min(CHECKED_ROWS, len(valid_rows))
        example = train_views[0](valid_rows[:checked])
        model = select_inference_model(trained.model, half, example, loss_fn.comparable, loss_fn.difference)
    for line in model.refused:
        print_progress(f"{task}: {line}", trained.progress)
    if task.recipe.tta == "choose":
        candidates = dict(zip(names, train_views, strict=True))
        names = choose_views(model, candidates, trained.train_images, trained.monitor, loss_fn)
        train_views = [candidates[name] for name in names]
        print_progress(f"{task}: chosen views: {', '.join(names)}", trained.progress)
    test_images = ImageSource(task.test_images, device)
    test_views = prediction_views(task.recipe, names, test_images, trained.features.get("test"))
    try:
        oof_outputs, oof_features = predict_rows(model, train_views, valid_rows, folder, device)
        test_outputs, test_features = predict_rows(model, test_views, test_rows, folder, device)
    except InputError as error:
        raise InputError(f"{task}: {error}") from error
    predict_seconds = time.perf_counter() - started
    facts = {
        **_training_facts(task, trained, device),
        "tta": list(names),
        "inference": {
            "form": model.name,
            "difference": model.difference,
            "rows": checked,
            "bound": MAX_DIFFERENCE,
        },
        "seconds": round(predict_seconds + sum(row["seconds"] for row in trained.history), 3),
        "cpu_seconds": round(trained.meta.cpu_seconds + time.process_time() - cpu_started, 3),
        "predict_images_per_second": round((len(valid_rows) + len(test_rows)) / predict_seconds, 2),
        **loss_fn.run_facts(*loss_fn.evaluate(oof_outputs, task.valid["label"].to_numpy())),
    }
    state = {name: value.cpu().numpy() for name, value in trained.model.state_dict().items()}
    return FoldResult(
        loss_fn.export_state(state),
        pd.DataFrame(trained.history).drop(columns="train_seconds"),
        loss_fn.predictions(oof_outputs),
        oof_features,
        loss_fn.predictions(test_outputs),
        test_features,
        facts,
    )


def _training_facts(task: FoldTask, trained: TrainedFold, device: torch.device) -> dict:
    history, target = trained.history, task.target
    train_seconds = sum(row["train_seconds"] for row in history)
    return {
        "kind": target.kind,
        "classes": list(target.classes),
        "device": str(device),
        "precision": trained.precision.name,
        "weights": trained.meta.weights_source,
        "epochs_run": len(history),
        "repeated_epoch": trained.meta.repeated_epoch,
        "soup": trained.soup,
        "parts_of_a_batch": trained.meta.accumulate,
        "training_step": trained.step,
        "shuffle": shuffle_mode(task.recipe, task.train_images),
        "images_per_second": round(len(history) * trained.epoch_images / train_seconds, 2),
        "peak_memory_mb": round(peak_memory_mb(device), 1),
        "settings": asdict(task.recipe),
        "versions": {"python": sys.version.split()[0], **versions()},
    }


def choose_views(
    model: InferenceModel, views: dict[str, InputFn], images: ImageSource, rows: pd.DataFrame, loss_fn: Loss
) -> list[str]:
    """Return the names of the views whose mean output has the least loss, by a greedy choice.

    The view of the least loss comes in first; another one only if the loss of the mean falls with it.

    Args:
        model: Predicts.
        views: The candidates by name.
        images: That they are views of.
        rows: To choose on (id, label): neither trained on nor scored.
        loss_fn: Evaluates the outputs.
    """
    positions, labels = images.images.rows(rows["id"].tolist()), rows["label"].to_numpy()
    outputs = {
        name: np.concatenate([batch for batch, _ in predict_batches(model, [view], positions, images.device)])
        for name, view in views.items()
    }

    def mean_loss(names: list[str]) -> float:
        return loss_fn.evaluate(np.mean([outputs[name] for name in names], axis=0), labels)[0]

    return greedy_average({name: mean_loss([name]) for name in views}, mean_loss, operator.lt)


def prediction_views(
    recipe: Recipe, names: Sequence[str], images: ImageSource, features: FeatureCache | None
) -> list[InputFn]:
    """Return the views of these names to average over; a classifier reads one view, the mean of their features."""
    views = [input_view(images, features, name) for name in names]
    if not recipe.classifier:
        return views
    return [lambda rows: sum(view(rows).float() for view in views) / len(views)]


def trained_recipe(name: str, folds: list[dict]) -> Recipe:
    """Return the recipe of the run `name` as it was when it was trained. folds: their run.json."""
    try:
        return Recipe(**folds[0]["settings"])
    except (KeyError, TypeError) as error:
        raise _other_version(name) from error


def require_network(name: str, recipe: Recipe) -> None:
    """Raise `InputError` for a run that cannot look at images."""
    if recipe.embeddings:
        raise InputError(
            f"runs/{name} learned from features/{recipe.embeddings}.npy and has no network that looks at new images; "
            "leave it out with --recipes"
        )


def _other_version(name: str) -> InputError:
    return InputError(f"runs/{name} was trained by another version of this program; train it again to predict with it")


def predict_folds(
    root: Path, name: str, folds: list[dict], images: ImageCache, device: torch.device, scratch: Path
) -> Iterator[FoldPrediction]:
    """Yield the predictions of each fold of the run `name`.

    Args:
        root: The folder that holds runs/.
        name: Of the run.
        folds: The run.json of each fold.
        images: With the preprocessing of the run's recipe.
        device: Where to predict.
        scratch: A folder for gigabytes of frozen stages' activations, in frozen/, which is removed at the end.
    """
    recipe, feature_dir, target = trained_recipe(name, folds), scratch / "frozen", recorded_task(folds[0])
    if recipe.precision == "float16" and device.type == "cpu":  # trained on a GPU; what predicts is checked below
        recipe = replace(recipe, precision="auto")
    scratch.mkdir(parents=True, exist_ok=True)
    model, _, precision = prepare_model(recipe, device, None, False, target.outputs)
    half = half_precision(recipe, precision, device)
    source, rows, features = ImageSource(images, device), np.arange(len(images.ids)), None
    try:
        for fold, run in enumerate(folds):
            state = {key: torch.from_numpy(value) for key, value in load_weights(root, name, fold).items()}
            try:
                model.load_state_dict(state)
            except RuntimeError as error:
                raise _other_version(name) from error
            if model.reads_activations and features is None:  # frozen, so the same in every fold
                features = FeatureCache(
                    feature_dir / "views",
                    "images",
                    images,
                    model.frozen_stages,
                    device,
                    frozen_precision(recipe, precision, device),
                )
            # Runs of earlier versions do not record their views, and did not choose them.
            views = prediction_views(recipe, run.get("tta", recipe.tta_views), source, features)
            inference = _inference_model(model, run, half, views[0](rows[:CHECKED_ROWS]))
            for line in inference.refused:
                print_progress(f"{name} fold {fold}: {line}")
            outputs, fold_features = predict_rows(inference, views, rows, scratch, device)
            yield FoldPrediction(exported_predictions(target, outputs), fold_features, inference.name)
    finally:
        shutil.rmtree(feature_dir, ignore_errors=True)


def _inference_model(model: Net, run: dict, half: Precision | None, example: torch.Tensor) -> InferenceModel:
    """Return the inference model that run.json records, or the fastest one if this device lacks its number format."""
    name = run["inference"]["form"]
    if name.startswith("float32") or (half and name.startswith(half.name)):
        return rebuild_inference_model(model, name, example)
    scaling = run.get("standardised")

    def standardise(outputs: torch.Tensor) -> torch.Tensor:
        return (outputs - scaling["mean"]) / scaling["std"]

    if scaling:
        return select_inference_model(model, half, example, standardise, MAELoss.difference)
    if recorded_task(run).multiclass:
        return select_inference_model(model, half, example, MulticlassLoss().comparable)
    return select_inference_model(model, half, example)


@dataclass(frozen=True)
class PredictTestJob:
    """Predict the test images by the `folds` folds of the run `name`, in place of the test predictions there are."""

    root: Path
    name: str
    folds: int

    def __str__(self) -> str:
        return f"{self.name}, test images"

    @property
    def recipe(self) -> Recipe:
        return trained_recipe(self.name, [read_json(fold_dir(self.root, self.name, 0) / "run.json")])

    def run(self, device: torch.device, position: int) -> None:
        directories = [fold_dir(self.root, self.name, fold) for fold in range(self.folds)]
        runs = [read_json(directory / "run.json") for directory in directories]
        for directory, run in zip(directories, runs, strict=True):
            if sha256_file(directory / WEIGHTS_FILE) != run["files"][WEIGHTS_FILE]:
                raise InputError(f"{directory / WEIGHTS_FILE} is not the file that training wrote (checksum differs)")
        images = open_cache(load_competition(self.root), "test", self.recipe.preprocessing)
        scratch = self.root / "cache" / "test" / self.name
        for fold, prediction in enumerate(predict_folds(self.root, self.name, runs, images, device, scratch)):
            replace_test_predictions(
                directories[fold], images.ids, prediction.prob, prediction.features, load_images_hash(self.root)
            )
            trained_with = runs[fold]["inference"]["form"]
            print(
                f"{self.name} fold {fold}: {len(images.ids):,} images predicted, {prediction.inference}"
                + (f" (when it was trained: {trained_with})" if prediction.inference != trained_with else ""),
                flush=True,
            )
