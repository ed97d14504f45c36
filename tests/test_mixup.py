"""MixUp and CutMix: timm's formulas with draws of our own, and targets with weights."""

import dataclasses
from itertools import chain

import numpy as np
import pytest
import timm.data
import torch

from facefold.data.cache import join_caches
from facefold.models.recipe import parse_recipe
from facefold.task import Task
from facefold.training.loss import BinaryLoss, MulticlassLoss, WeightedLoss
from facefold.training.mixup import draw_box, draw_mix, mix_batch
from facefold.training.soft_labels import SoftLabels
from tiny_fold import TINY, fit, fit_with_kills, make_task, same

pytestmark = pytest.mark.usefixtures("one_thread")
THREE = Task(kind="multiclass", classes=("ant", "bee", "cow"))
MIXED = {**TINY, "epochs": 2, "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}


def make_batch(rows: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (rows, 20, 24, 3), dtype=torch.uint8, generator=draw), torch.arange(rows) % 3


@pytest.mark.parametrize("settings", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_a_batch_is_mixed_as_by_timm(monkeypatch, settings):
    recipe, (images, labels) = parse_recipe("r", settings, "r.toml"), make_batch()
    alphas = {f"{name}_alpha": settings.get(name, 0.0) for name in ("mixup", "cutmix")}
    by_timm = timm.data.Mixup(**alphas, label_smoothing=0.1, num_classes=3)
    one_hot = MulticlassLoss(0.1).soften(labels, 3)
    targets = torch.cat([one_hot, torch.ones(6, 1)], dim=1)
    for seed in range(8):
        draw = np.random.default_rng(seed)
        uniform = chain([0.0], iter(draw.random, None))  # the first is for prob, that of mixing at all, which is 1
        monkeypatch.setattr(np.random, "rand", lambda: next(uniform))
        monkeypatch.setattr(np.random, "beta", draw.beta)
        monkeypatch.setattr(np.random, "randint", lambda low, high, size: draw.integers(low, high))
        expected, expected_targets = by_timm(images.permute(0, 3, 1, 2).float(), labels)
        mixed, mixed_targets = mix_batch(images, targets, draw_mix(recipe, 20, 24, seed))
        assert mixed.dtype is torch.uint8
        assert (mixed.permute(0, 3, 1, 2).float() - expected).abs().max() <= 0.5 + 1e-4
        torch.testing.assert_close(mixed_targets, torch.cat([expected_targets, torch.ones(6, 1)], dim=1))


def test_the_loss_of_a_mixed_batch_is_the_weighted_mean_of_its_rows_losses():
    images, labels = make_batch()
    weights = torch.tensor([1.0, 1.0, 0.5, 0.5, 1.0, 0.2])
    recipe = parse_recipe("r", {"mixup": 0.8}, "r.toml")
    share = np.random.default_rng(3).beta(0.8, 0.8)
    for loss, outputs, soft in (
        (MulticlassLoss(), torch.randn(6, 3), MulticlassLoss().soften(labels, 3)),
        (BinaryLoss(), torch.randn(6), torch.rand(6, 1)),
    ):
        targets = torch.cat([soft, weights[:, None]], dim=1)
        _, mixed = mix_batch(images, targets, draw_mix(recipe, 20, 24, 3))
        own, other = (loss(outputs, labels.reshape(outputs.shape), "none") for labels in (soft, soft.flip(0)))
        expected = (share * weights * own + (1 - share) * weights.flip(0) * other).mean()
        torch.testing.assert_close(WeightedLoss(loss)(outputs, mixed), expected, check_dtype=False)


def test_a_box_at_the_edge_leaves_more_of_the_image():
    class Corner:
        def integers(self, high: int) -> int:
            return 0

    # half of each side, of which the edge leaves a half
    assert draw_box(20, 24, 0.75, Corner()) == (0, 5, 0, 6, 1 - 30 / 480)


@pytest.mark.parametrize("pseudo", [False, True])
def test_a_fold_that_mixes_survives_kills_with_the_same_bytes(tmp_path, monkeypatch, pseudo):
    def task(folder: str, settings: dict):
        (tmp_path / folder).mkdir()
        plain = dataclasses.replace(make_task(tmp_path, settings), checkpoint=tmp_path / folder / "checkpoint.pt")
        test = plain.test_images
        soft = SoftLabels(test.ids, np.linspace(0, 1, len(test.ids))[:, None], 0.5)
        images = join_caches(plain.train_images, test)
        return dataclasses.replace(plain, train_images=images, soft=soft) if pseudo else plain

    once = fit(task("once", MIXED))
    assert same(once, fit_with_kills(task("killed", MIXED), monkeypatch))
    assert not same(once, fit(task("plain", {**MIXED, "mixup": 0.0, "cutmix": 0.0})))


def test_classes_are_mixed_as_shares(tmp_path):
    plain = make_task(tmp_path, {**MIXED, "epochs": 1})
    train, valid = (table.assign(label=np.arange(len(table)) % 3) for table in (plain.train, plain.valid))
    task = dataclasses.replace(plain, train=train, valid=valid, target=THREE)
    assert np.allclose(fit(task).oof_prob.sum(axis=1), 1)
