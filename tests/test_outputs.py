"""Outputs and features of a network, batch by batch."""

import numpy as np
import torch

from facefold.data.cache import ImageCache
from facefold.models.build import build_model
from facefold.models.inference import InferenceModel
from facefold.models.precision import Precision
from facefold.models.recipe import parse_recipe
from facefold.training import dataset
from facefold.training.outputs import predict_rows
from tiny_fold import CPU, TINY, images, make_task


def test_flip_tta_is_the_mean_of_both_views(tmp_path):
    torch.manual_seed(0)
    fold = make_task(tmp_path, TINY)
    net, _ = build_model(fold.recipe)
    form = InferenceModel(net.eval().forward_inputs, Precision(torch.float32, False))
    cache, rows = fold.test_images, np.arange(10)
    mirrored = ImageCache(cache.ids, np.ascontiguousarray(cache.pixels[:, :, ::-1]))
    plain, mirror = (
        predict_rows(form, [dataset.input_view(dataset.ImageSource(some, CPU), None, "plain")], rows, tmp_path)[0]
        for some in (cache, mirrored)
    )
    views = [dataset.input_view(dataset.ImageSource(cache, CPU), None, name) for name in ("plain", "mirror")]
    both, features = predict_rows(form, views, rows, tmp_path)
    np.testing.assert_allclose(both, (plain + mirror) / 2, atol=1e-6)
    reverse, reverse_features = predict_rows(form, views, rows[::-1].copy(), tmp_path)
    np.testing.assert_allclose(reverse[::-1], both, atol=1e-6)
    np.testing.assert_allclose(reverse_features[:][::-1], features, atol=1e-3)


def test_logits_keep_their_digits_in_bfloat16(tmp_path):
    torch.manual_seed(0)
    net, _ = build_model(parse_recipe("r", TINY, "r.toml"))
    fmt = Precision(torch.bfloat16, True)
    cache, _ = images("a", 96)
    form = InferenceModel(net.set_memory_format(True).eval().forward_inputs, fmt)
    logits, _ = predict_rows(
        form, [dataset.input_view(dataset.ImageSource(cache, CPU), None, "plain")], np.arange(96), tmp_path
    )
    assert len(np.unique(logits)) > 90  # 8 bits would leave a handful
