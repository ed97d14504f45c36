"""Losses for labels and numbers."""

import re

import numpy as np
import pytest
import torch

from facefold.models.recipe import load_recipe, parse_recipe
from facefold.models.requirements import require_loss_settings
from facefold.task import Task, task_named
from facefold.training.loss import MAELoss, make_loss
from facefold.utils.errors import InputError

AGE = task_named("age")


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
