"""Outputs and penultimate features of a network, batch by batch."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from facefold.models.inference import InferenceModel
from facefold.training.dataset import InputFn
from facefold.utils.errors import InputError
from facefold.utils.files import npy_header
from facefold.utils.npy import NpyRows

PREDICT_BATCH = 128
GPU_BATCH = 512  # of every batch, so that a GPU meets one shape: each new one costs it seconds
MIN_GPU_BATCH = 8


def predict_rows(
    model: InferenceModel, views: list[InputFn], rows: np.ndarray, folder: Path, device: torch.device
) -> tuple[np.ndarray, NpyRows]:
    """Return outputs float64 (n,) or (n, C) and penultimate features float16 (n, F) of the rows (n,).

    They are means over the views. Raise `InputError` if a value is not finite.

    Args:
        model: Predicts.
        views: What it reads of rows.
        rows: To predict.
        folder: On whose disk the features lie, in an unnamed file, so that memory need not hold them.
        device: Where the model and the views are.
    """
    outputs, file = [], tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    for batch_outputs, batch_features in predict_batches(model, views, rows, device):
        if not (np.isfinite(batch_outputs).all() and np.isfinite(batch_features).all()):
            raise InputError('predictions are not finite; set precision = "float32" in the recipe, or lower lr')
        if not outputs:
            npy_header(file, batch_features.dtype, (len(rows), batch_features.shape[1]))
        outputs.append(batch_outputs)
        file.write(batch_features.tobytes())
    file.flush()
    return np.concatenate(outputs), NpyRows([file])


def predict_batches(
    model: InferenceModel, views: list[InputFn], rows: np.ndarray, device: torch.device
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield outputs float64 (b,) or (b, C) and features float16 (b, F) per batch, means over the views.

    Every batch on a GPU has as many rows, the last one by repeating its last row; where the GPU's memory does not hold
    them, half as many from then on.
    """
    size, start = GPU_BATCH if device.type == "cuda" else PREDICT_BATCH, 0
    while start < len(rows):
        batch = rows[start : start + size]
        padding = size - len(batch) if device.type == "cuda" else 0
        try:
            outputs, features = _mean_over_views(model, views, np.pad(batch, (0, padding), mode="edge"))
        except torch.OutOfMemoryError:
            if size // 2 < MIN_GPU_BATCH:
                raise
            size //= 2
            continue
        yield outputs[: len(batch)], features[: len(batch)]
        start += len(batch)


def _mean_over_views(model: InferenceModel, views: list[InputFn], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    results = [model(view(rows)) for view in views]
    return (
        sum(outputs.double() for outputs, _ in results).div(len(results)).cpu().numpy(),
        sum(features for _, features in results).div(len(results)).half().cpu().numpy(),
    )
