"""Fit a recipe's classifier on one fold: the features of its frozen backbone, then seconds or minutes of scikit-learn.

There is no checkpoint. A fold that was killed starts again, from the cached features, and ends with the same bytes.
"""

import time
from dataclasses import replace

import numpy as np
import torch
from tqdm import tqdm

from facefold.data.embeddings import embeddings_source
from facefold.models.build import Net
from facefold.models.classifiers import apply_classifier, fit_classifier
from facefold.training.checkpoint import CheckpointMeta
from facefold.training.dataset import ImageSource, InputFn
from facefold.training.fold import TrainedFold
from facefold.training.fold_task import FoldTask, open_feature_caches, prepare_model
from facefold.training.loss import make_loss
from facefold.training.outputs import PREDICT_BATCH
from facefold.training.predict import prediction_views
from facefold.training.tracking import NO_TRACKER, Tracker
from facefold.utils.console import print_progress
from facefold.utils.seeding import derive_seed


def fit_fold(task: FoldTask, device: torch.device, tracker: Tracker = NO_TRACKER) -> TrainedFold:
    """Fit the classifier on the training rows of a fold; its history has one row, without a learning rate.

    Args:
        task: What to train on.
        device: Where the frozen backbone runs; the classifier runs on the CPU.
        tracker: Of the scores.
    """
    tracker.begin()
    recipe, target = task.recipe, task.target
    net, source, precision = prepare_model(recipe, device, task.weights_dir, True, target.outputs)
    images = ImageSource(task.train_images, device)
    if recipe.embeddings:
        source = embeddings_source(recipe.embeddings, {"train": task.train_images, "test": task.test_images})
    caches = open_feature_caches(task, net, source, precision, images)
    (view,) = prediction_views(recipe, recipe.tta_views, images, caches.get("train"))
    train = task.extra.join(task.train, task.valid["id"])
    labels = train["label"].to_numpy()
    loss_fn = make_loss(target, recipe, labels)
    if target.regression:
        loss_fn = replace(loss_fn, mean=0.0, std=1.0)  # the state predicts in the target's unit

    started, cpu_started = time.perf_counter(), time.process_time()
    features = read_features(net, view, task.train_images.rows(train["id"].tolist()))
    seed = derive_seed(task.seed, task.fold, "classifier")
    groups = train["group"].to_numpy()
    state = fit_classifier(recipe.classifier, features, labels, groups, target, seed, net.feature_scale)
    net.output.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    train_seconds = time.perf_counter() - started
    train_loss, _ = loss_fn.evaluate(apply_classifier(state, features), labels)
    held_out = read_features(net, view, task.train_images.rows(task.valid["id"].tolist()))
    valid_loss, metric = loss_fn.evaluate(apply_classifier(state, held_out), task.valid["label"].to_numpy())
    history = {"epoch": 0, "lr": None, "train_loss": train_loss, "monitor_loss": None, "valid_loss": valid_loss}
    history |= {loss_fn.history_column: metric, "train_seconds": train_seconds}
    history["seconds"] = time.perf_counter() - started
    tracker.log(history)
    print_progress(f"{task}: {recipe.classifier}, valid {loss_fn.metric} {metric:.4f}, {history['seconds']:.0f} s")
    return TrainedFold(
        net,
        precision,
        loss_fn,
        [history],
        CheckpointMeta(weights_source=source, cpu_seconds=time.process_time() - cpu_started),
        len(labels),
        images,
        caches,
        tqdm(disable=True),
    )


@torch.inference_mode()
def read_features(net: Net, view: InputFn, rows: np.ndarray) -> np.ndarray:
    """Return the features float32 (n, F) of the rows (n,) in a view of the frozen backbone's activations."""
    starts = range(0, len(rows), PREDICT_BATCH)
    blocks = [net.features_from_stages(view(rows[start : start + PREDICT_BATCH])) for start in starts]
    return torch.cat(blocks).cpu().numpy()
