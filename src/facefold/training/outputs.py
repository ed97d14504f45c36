"""Outputs and penultimate features of a network, batch by batch."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facefold.models.inference import InferenceModel
from facefold.training.dataset import InputFn
from facefold.utils.errors import InputError
from facefold.utils.files import npy_header
from facefold.utils.npy import NpyRows

PREDICT_BATCH = 128


def predict_rows(
    model: InferenceModel, views: list[InputFn], rows: np.ndarray, folder: Path
) -> tuple[np.ndarray, NpyRows]:
    """Return outputs float64 (n,) or (n, C) and penultimate features float16 (n, F) of the rows (n,).

    They are means over the views. The features lie in an unnamed file on the disk of `folder`, so that memory need not
    hold them. Raise `InputError` if a value is not finite.
    """
    outputs, file = [], tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    for batch_outputs, batch_features in predict_batches(model, views, rows):
        if not (np.isfinite(batch_outputs).all() and np.isfinite(batch_features).all()):
            raise InputError('predictions are not finite; set precision = "float32" in the recipe, or lower lr')
        if not outputs:
            npy_header(file, batch_features.dtype, (len(rows), batch_features.shape[1]))
        outputs.append(batch_outputs)
        file.write(batch_features.tobytes())
    file.flush()
    return np.concatenate(outputs), NpyRows([file])


def predict_batches(
    model: InferenceModel, views: list[InputFn], rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield outputs float64 (b,) or (b, C) and features float16 (b, F) per batch, means over the views."""
    for start in range(0, len(rows), PREDICT_BATCH):
        batch = rows[start : start + PREDICT_BATCH]
        results = [model(view(batch)) for view in views]
        yield (
            sum(outputs.double() for outputs, _ in results).div(len(results)).cpu().numpy(),
            sum(features for _, features in results).div(len(results)).half().cpu().numpy(),
        )
