"""Outputs and features of a network, batch by batch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from facefold.data.cache import ImageCache
from facefold.models.build import build_model
from facefold.models.inference import InferenceModel
from facefold.models.precision import Precision
from facefold.models.recipe import parse_recipe
from facefold.training import dataset, outputs
from facefold.training.outputs import predict_batches, predict_rows
from tiny_fold import CPU, TINY, images, make_task


def test_flip_tta_is_the_mean_of_both_views(tmp_path):
    torch.manual_seed(0)
    fold = make_task(tmp_path, TINY)
    net, _ = build_model(fold.recipe)
    form = InferenceModel(net.eval().forward_inputs, Precision(torch.float32, False))
    cache, rows = fold.test_images, np.arange(10)
    mirrored = ImageCache(cache.ids, np.ascontiguousarray(cache.pixels[:, :, ::-1]))
    plain, mirror = (
        predict_rows(form, [dataset.input_view(dataset.ImageSource(some, CPU), None, "plain")], rows, tmp_path, CPU)[0]
        for some in (cache, mirrored)
    )
    views = [dataset.input_view(dataset.ImageSource(cache, CPU), None, name) for name in ("plain", "mirror")]
    both, features = predict_rows(form, views, rows, tmp_path, CPU)
    np.testing.assert_allclose(both, (plain + mirror) / 2, atol=1e-6)
    reverse, reverse_features = predict_rows(form, views, rows[::-1].copy(), tmp_path, CPU)
    np.testing.assert_allclose(reverse[::-1], both, atol=1e-6)
    np.testing.assert_allclose(reverse_features[:][::-1], features, atol=1e-3)


def test_logits_keep_their_digits_in_bfloat16(tmp_path):
    torch.manual_seed(0)
    net, _ = build_model(parse_recipe("r", TINY, "r.toml"))
    fmt = Precision(torch.bfloat16, True)
    cache, _ = images("a", 96)
    form = InferenceModel(net.set_memory_format(True).eval().forward_inputs, fmt)
    logits, _ = predict_rows(
        form, [dataset.input_view(dataset.ImageSource(cache, CPU), None, "plain")], np.arange(96), tmp_path, CPU
    )
    assert len(np.unique(logits)) > 90  # 8 bits would leave a handful


def test_a_gpu_meets_batches_of_one_size(monkeypatch):
    monkeypatch.setattr(outputs, "GPU_BATCH", 4)
    seen = []

    def model(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(inputs.tolist())
        return inputs.float(), inputs[:, None].float()

    batches = list(predict_batches(model, [torch.from_numpy], np.arange(6), SimpleNamespace(type="cuda")))
    assert seen == [[0, 1, 2, 3], [4, 5, 5, 5]]
    assert [values.tolist() for values, _ in batches] == [[0, 1, 2, 3], [4, 5]]
    assert [values.tolist() for _, values in batches] == [[[0], [1], [2], [3]], [[4], [5]]]


def test_a_batch_that_a_gpu_does_not_hold_is_halved(monkeypatch):
    monkeypatch.setattr(outputs, "GPU_BATCH", 64)
    seen = []

    def model(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(inputs))
        if len(inputs) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inputs.float(), inputs[:, None].float()

    limit, gpu = 16, SimpleNamespace(type="cuda")
    rows = np.concatenate([values for values, _ in predict_batches(model, [torch.from_numpy], np.arange(40), gpu)])
    assert rows.tolist() == list(range(40)) and seen == [64, 32, 16, 16, 16]
    limit = 4
    with pytest.raises(torch.OutOfMemoryError):
        list(predict_batches(model, [torch.from_numpy], np.arange(40), gpu))
