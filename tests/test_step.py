"""One optimiser step: in parts it is the step of the whole batch."""

import pytest
import torch

from facefold.models.build import build_model
from facefold.models.precision import Precision
from facefold.models.recipe import parse_recipe
from facefold.training.loss import BinaryLoss
from facefold.training.step import TrainingStep
from tiny_fold import TINY, fit, images, make_task

pytestmark = pytest.mark.usefixtures("one_thread")


def make_step(accumulate: int = 1) -> TrainingStep:
    recipe = parse_recipe("r", {**TINY, "clip": 0.0, "label_smoothing": 0.1}, "r.toml")
    torch.manual_seed(0)
    net, _ = build_model(recipe)
    optimizer, scaler = torch.optim.SGD(net.eval().parameters(), lr=1.0), torch.amp.GradScaler("cpu", enabled=False)
    return TrainingStep(net, optimizer, scaler, Precision(torch.float32, False), recipe, BinaryLoss(0.1), accumulate)


def test_parts_of_a_batch_add_up_to_its_gradient():
    """Without batch norm and dropout the step is the same; 3 parts have 6, 5 and 5 rows."""
    inputs, labels = torch.from_numpy(images("a", 16)[0].pixels), torch.arange(16).remainder(2).float()
    whole, parts = make_step(), make_step(3)
    torch.testing.assert_close(whole(inputs, labels), parts(inputs, labels))
    pairs = [[value.clone() for value in step.net.parameters()] for step in (whole, parts)]
    torch.testing.assert_close(*pairs, rtol=1e-4, atol=1e-6)


def test_a_batch_that_memory_does_not_hold_is_trained_in_parts_and_reported(tmp_path, monkeypatch, capsys):
    update, tried = TrainingStep.update, []

    def small_gpu(self, inputs, labels):
        tried.append(self.accumulate)
        if len(labels) / self.accumulate > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return update(self, inputs, labels)

    monkeypatch.setattr(TrainingStep, "update", small_gpu)
    result = fit(make_task(tmp_path, {**TINY, "epochs": 1}))
    assert tried == [1, 2, 4, 4, 4, 4] and result.facts["parts_of_a_batch"] == 4
    printed = capsys.readouterr().out
    assert (
        "tiny fold 0: the GPU's memory does not hold 16 rows: from now on a batch of 16 is trained in 2 parts whose "
        "gradients are added up, the same step except for batch norm, which sees one part at a time\n"
    ) in printed
    assert "does not hold 8 rows: from now on a batch of 16 is trained in 4 parts" in printed


def test_parts_of_one_row_are_not_tried(monkeypatch):
    def full(self, inputs, labels):
        tried.append(self.accumulate)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TrainingStep, "update", full)
    tried = []
    with pytest.raises(torch.OutOfMemoryError):
        make_step()(torch.zeros(7, 32, 32, 3, dtype=torch.uint8), torch.zeros(7), lambda line: None)
    assert tried == [1, 2]  # 3 rows or 4; in 4 parts one would have a single row
