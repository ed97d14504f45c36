"""Training that goes wrong and goes on: a loss that is not finite, a GPU too small, a damaged checkpoint."""

import numpy as np
import pytest
import torch

from facefold.models.build import build_model
from facefold.models.precision import Precision
from facefold.models.recipe import parse_recipe
from facefold.training import fold as fold_module
from facefold.training.checkpoint import load_checkpoint_header, load_checkpoint_part, save_checkpoint
from facefold.training.step import GradientAccumulation
from facefold.utils.errors import InputError
from test_trainer import CPU, TINY, Killed, images, same, task

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_loss_that_is_not_finite_again_stops_with_advice(tmp_path, capsys):
    with pytest.raises(
        InputError,
        match="tiny fold 0: the loss is not finite in epoch 1. Lower lr in the recipe, .*[(]since epoch 1 the rate "
        "was 0.1 times the recipe's already, for the same reason[)]",
    ):
        fold_module.fit_fold(task(tmp_path, {**TINY, "optimizer": "sgd", "lr": 1e30, "clip": 0.0}), CPU)
    assert (
        "the loss is not finite in epoch 1, which is repeated from the state before it, with 0.1 times"
        in capsys.readouterr().out
    )


def nan_once(monkeypatch, epoch: int, dies: bool = False) -> None:
    """The loss of the second step of that epoch is NaN at the recipe's rate; `dies`: the repeated epoch is killed once."""
    step, deaths = fold_module.train_step, []

    def spoilt(net, forward, shown, labels, optimizer, scaler, fmt, recipe, *rest):
        loss = step(net, forward, shown, labels, optimizer, scaler, fmt, recipe, *rest)
        spoilt.steps += 1
        if (spoilt.steps - 1) // 4 == epoch and recipe.lr == TINY["lr"]:
            return loss * float("nan")
        if dies and not deaths and recipe.lr < TINY["lr"]:
            deaths.append(1)
            raise Killed
        return loss

    spoilt.steps = 0
    monkeypatch.setattr(fold_module, "train_step", spoilt)


def test_an_epoch_without_a_finite_loss_is_repeated_from_the_state_before_with_smaller_steps(tmp_path, monkeypatch):
    results = []
    for name, dies in (("a", False), ("b", False), ("c", True)):
        (tmp_path / name).mkdir()
        fold = task(tmp_path / name, TINY)
        nan_once(monkeypatch, 2, dies)
        if dies:
            with pytest.raises(Killed):
                fold_module.fit_fold(fold, CPU)
            monkeypatch.undo()
            nan_once(monkeypatch, 0)  # it was in epoch 2, the first one after going on
        results.append(fold_module.fit_fold(fold, CPU))
        monkeypatch.undo()
    usual = fold_module.fit_fold(task(tmp_path, TINY), CPU)
    assert same(results[0], results[1]) and same(results[0], results[2]) and not same(results[0], usual)
    assert results[0].facts["repeated_epoch"] == 2 and usual.facts["repeated_epoch"] is None
    rates, expected = results[0].history["lr"], usual.history["lr"] * [1, 1, 0.1, 0.1]
    np.testing.assert_allclose(rates, expected)
    assert results[0].history["train_loss"].iloc[:2].tolist() == usual.history["train_loss"].iloc[:2].tolist()


def test_parts_of_a_batch_add_up_to_its_gradient():
    """Without batch norm and dropout the step is the same; the targets of a batch in 3 parts of 6, 5 and 5 rows weigh alike."""
    recipe = parse_recipe("r", {**TINY, "clip": 0.0, "label_smoothing": 0.1}, "r.toml")
    shown, labels = torch.from_numpy(images("a", 16)[0].pixels), torch.arange(16).remainder(2).float()
    steps = {}
    for parts in (1, 3):
        torch.manual_seed(0)
        net, _ = build_model(recipe)
        net.eval()
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        loss = fold_module.train_step(
            net,
            net,
            shown,
            labels,
            optimizer,
            scaler,
            Precision(torch.float32, False),
            recipe,
            parts=parts,
        )
        steps[parts] = (loss, [value.clone() for value in net.parameters()])
    torch.testing.assert_close(steps[1][0], steps[3][0])
    torch.testing.assert_close(steps[1][1], steps[3][1], rtol=1e-4, atol=1e-6)


def test_a_batch_that_memory_does_not_hold_is_trained_in_parts_and_said(tmp_path, monkeypatch, capsys):
    step, seen = fold_module.train_step, []

    def small_gpu(net, forward, shown, labels, *rest):
        seen.append(rest[-1])
        if len(labels) / seen[-1] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(net, forward, shown, labels, *rest)

    monkeypatch.setattr(fold_module, "train_step", small_gpu)
    result = fold_module.fit_fold(task(tmp_path, {**TINY, "epochs": 1}), CPU)
    assert seen == [1, 2, 4, 4, 4, 4] and result.facts["parts_of_a_batch"] == 4
    said = capsys.readouterr().out
    assert (
        "tiny fold 0: the GPU's memory does not hold 16 rows: from here on a batch of 16 is trained in 2 parts with their gradients "
        "added up, the same step but for batch norm, which sees one part at a time\n"
    ) in said
    assert "does not hold 8 rows: from here on a batch of 16 is trained in 4 parts" in said


def test_parts_of_one_row_are_not_tried():
    def full(parts):
        tried.append(parts)
        raise torch.OutOfMemoryError("CUDA out of memory")

    tried = []
    with pytest.raises(torch.OutOfMemoryError):
        GradientAccumulation().step(full, 7, lambda line: None)
    assert tried == [1, 2]  # 3 rows or 4; in 4 parts one would have a single row


def test_any_damaged_byte_of_a_checkpoint_is_found(tmp_path):
    path = tmp_path / "c.safetensors"
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "c": torch.ones(2, dtype=torch.bfloat16)}
    save_checkpoint(path, {"history": [1.5]}, {"model": state})
    assert load_checkpoint_header(path) == {"history": [1.5]}
    whole = path.read_bytes()
    for place in range(8, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            header = load_checkpoint_header(path)
        except InputError as error:
            assert str(error).startswith(f"{path} is damaged (")
        else:  # the name of the checksum, or a blank: what was saved is as it was
            assert header == {"history": [1.5]}
            assert all(torch.equal(value, state[name]) for name, value in load_checkpoint_part(path, "model").items())
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is damaged"):
        load_checkpoint_header(path)
