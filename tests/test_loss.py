"""Losses for labels and numbers."""

import re

import numpy as np
import pytest
import torch

from facefold.models.recipe import load_recipe, parse_recipe
from facefold.models.requirements import require_loss_settings
from facefold.task import Task, task_named
from facefold.training.loss import BinaryLoss, MAELoss, MulticlassLoss, make_loss
from facefold.utils.errors import InputError

AGE = task_named("age")
THREE = Task(kind="multiclass", classes=("ant", "bee", "cow"))


def test_the_loss_is_the_absolute_error_in_standard_deviations():
    loss = make_loss(AGE, parse_recipe("r", {}, "r.toml"), np.array([10.0, 30.0]))
    assert loss == MAELoss(20.0, 10.0)
    outputs = torch.tensor([1.0, -1.0])
    assert float(loss(outputs, torch.tensor([20.0, 20.0]))) == 1.0
    assert loss.predictions(np.array([1.0, -0.5])).tolist() == [30, 15]
    assert loss.evaluate(np.array([1.0, -0.5]), np.array([28.0, 15.0])) == (0.1, 1.0)
    state = loss.export_state(
        {"output.weight": np.array([[2.0]], np.float32), "output.bias": np.array([0.5], np.float32), "x": 1}
    )
    assert state["output.weight"].tolist() == [[20]] and state["output.bias"].tolist() == [25] and state["x"] == 1
    with pytest.raises(InputError, match="^age is 7 in every training row, which leaves nothing to learn$"):
        make_loss(AGE, parse_recipe("r", {}, "r.toml"), np.array([7.0, 7.0]))


def test_label_smoothing_has_no_meaning_for_a_number():
    with pytest.raises(
        InputError,
        match=re.escape(
            "recipe lite0 has label_smoothing = 0.05, and age is a number, not a label: "
            "take a recipe without it, e.g. lite0_age"
        ),
    ):
        require_loss_settings(load_recipe("lite0"), AGE)
    require_loss_settings(load_recipe("lite0_age"), AGE)
    require_loss_settings(load_recipe("lite0"), Task())


def test_numbers_are_not_mixed():
    mixed = parse_recipe("r", {"mixup": 0.2}, "r.toml")
    with pytest.raises(
        InputError,
        match=re.escape(
            "recipe r mixes images and their labels (mixup, cutmix), and age is a number, not a label: take a recipe "
            "without them, e.g. lite0_age"
        ),
    ):
        require_loss_settings(mixed, AGE)
    require_loss_settings(mixed, THREE)


def test_cross_entropy_of_three_classes_by_hand():
    loss = MulticlassLoss()
    outputs = np.log([[1.0, 2.0, 1.0], [6.0, 1.0, 1.0]])  # softmax: quarters, eighths
    assert loss.predictions(outputs).round(12).tolist() == [[0.25, 0.5, 0.25], [0.75, 0.125, 0.125]]
    log_loss, accuracy = loss.evaluate(outputs, np.array([1, 2]))
    assert log_loss == pytest.approx((np.log(2) + np.log(8)) / 2) and accuracy == 0.5
    logits = torch.tensor(outputs, dtype=torch.float32)
    assert float(loss(logits, torch.tensor([1, 2]))) == pytest.approx(log_loss)
    assert float(loss(logits, torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))) == pytest.approx(log_loss)
    assert loss.comparable(logits).sum(1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_two_classes_as_a_softmax_of_zero_and_the_logit_are_the_binary_loss(smoothing):
    draw = np.random.default_rng(0)
    logit, labels = draw.normal(scale=3, size=50), draw.integers(0, 2, 50)
    both = np.stack([np.zeros(50), logit], axis=1)
    one, two = BinaryLoss(smoothing), MulticlassLoss(smoothing)
    binary = float(one(torch.tensor(logit), torch.tensor(labels, dtype=torch.float64)))
    assert float(two(torch.tensor(both), torch.tensor(labels))) == pytest.approx(binary, abs=1e-6)
    assert two.evaluate(both, labels) == pytest.approx(one.evaluate(logit, labels), abs=1e-6)
    assert two.predictions(both)[:, 1] == pytest.approx(one.predictions(logit), abs=1e-6)


def test_the_kind_of_the_task_decides_for_a_loss():
    smooth, labels = parse_recipe("r", {"label_smoothing": 0.1}, "r.toml"), np.array([0, 1])
    assert make_loss(THREE, smooth, labels) == MulticlassLoss(0.1)
    assert make_loss(Task(classes=("cat", "dog")), smooth, labels) == BinaryLoss(0.1)
    require_loss_settings(smooth, THREE)
