"""The loop of one fold: what it learns, resumes, repeats and keeps."""

import dataclasses
import pickle
import re
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

from facefold.training import fold as fold_module
from facefold.training import optimizer
from facefold.training.dataset import AugmentedImages, ImageSource
from facefold.training.fold import Diverged, FoldTrainer
from facefold.training.fold_task import FoldTask, hold_out_monitor
from facefold.training.step import TrainingStep
from facefold.utils.errors import InputError
from tiny_fold import CPU, TINY, Killed, fit, fit_with_kills, images, killed_after_an_epoch, make_task, same

PLATEAU = {
    **TINY,
    "schedule": "plateau",
    "plateau_patience": 0,
    "monitor": 0.2,
    "early_stopping": 1,
    "epochs": 8,
    "warmup": 1.0,
}
pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_learns_and_fills_the_contract(tmp_path):
    result = fit(make_task(tmp_path, TINY))
    assert result.facts["metrics"]["accuracy"] > 0.9
    assert result.oof_prob.shape == (32,) and result.test_prob.shape == (10,)
    assert ((result.oof_prob > 0) & (result.oof_prob < 1)).all()
    assert result.oof_features.shape == (32, 256) and result.oof_features.dtype == np.float16
    assert list(result.history.columns) == [
        "epoch",
        "lr",
        "train_loss",
        "monitor_loss",
        "valid_loss",
        "valid_acc",
        "seconds",
    ]
    assert result.history["epoch"].tolist() == [0, 1, 2, 3] and result.facts["epochs_run"] == 4
    assert result.facts["precision"].endswith("channels_last") and result.facts["weights"] == {"source": "none"}


@pytest.mark.parametrize(
    "settings",
    [
        TINY,
        {**PLATEAU, "lr": 0.1},
        {**TINY, "epochs": 2, "optimizer": "sgd", "lr": 0.05, "ema": 0.0, "precision": "bfloat16"},
    ],
    ids=["adamw", "plateau", "sgd"],
)
def test_killed_and_resumed_gives_the_same_bytes(tmp_path, monkeypatch, settings):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = fit(make_task(tmp_path / "a", settings))
    assert same(whole, fit_with_kills(make_task(tmp_path / "b", settings), monkeypatch))


def test_pretrained_weights_are_resumed_too(tmp_path, monkeypatch):
    settings = {
        "backbone": "test_efficientnet",
        "weights": "package:test_efficientnet_weights",
        "size": 32,
        "batch": 32,
        "epochs": 2,
        "freeze_stages": 1,
        "ema": 0.5,
    }
    (tmp_path / "b").mkdir()
    whole, task = fit(make_task(tmp_path, settings)), make_task(tmp_path / "b", settings)
    with killed_after_an_epoch(monkeypatch):
        fit(task)
    resumed = fit(task)
    assert same(whole, resumed)
    assert resumed.facts["weights"] == whole.facts["weights"] and whole.facts["weights"]["source"].endswith(".pth")


def test_a_checkpoint_whose_parameters_had_another_order_does_not_continue(tmp_path, monkeypatch):
    """Earlier versions let the position embeddings of transformers decay, among the other weights."""
    task = make_task(tmp_path, TINY)
    with killed_after_an_epoch(monkeypatch):
        fit(task)
    groups = optimizer.parameter_groups
    monkeypatch.setattr(optimizer, "parameter_groups", lambda *args: groups(*args)[::-1])
    message = "checkpoint.pt was begun by another version of this program; delete it to start that fold again"
    with pytest.raises(InputError, match=f"{re.escape(message)}$"):
        fit(task)


def test_seed_and_fold_change_the_result(tmp_path):
    base = make_task(tmp_path, {**TINY, "epochs": 1})
    first = fit(base)
    base.checkpoint.unlink()
    assert not same(first, fit(dataclasses.replace(base, seed=1)))
    base.checkpoint.unlink()
    assert not same(first, fit(dataclasses.replace(base, fold=1)))


def test_cosine_warms_up_and_ends_near_zero(tmp_path):
    lr = fit(make_task(tmp_path, {**TINY, "warmup": 1.0, "epochs": 3})).history["lr"]
    assert 0.7 * 0.02 < lr.iloc[0] <= 0.02 and lr.iloc[-1] < 0.1 * 0.02


def test_plateau_lowers_the_rate_and_early_stopping_keeps_the_best_weights(tmp_path, monkeypatch):
    """The monitor's losses are dictated: the second epoch is the best, two worse ones follow."""
    losses, evaluate, states, monitored = iter([0.9, 0.1, 0.5, 0.6, 0.7]), FoldTrainer.evaluate, [], []

    def dictated(self):
        states.append(deepcopy(self.predictor.state_dict()))
        monitored.append(set(self.monitor["id"]))
        return {**evaluate(self), "monitor_loss": next(losses)}

    monkeypatch.setattr(FoldTrainer, "evaluate", dictated)
    settings = {**PLATEAU, "early_stopping": 2, "plateau_factor": 0.1}
    fold = make_task(tmp_path, settings)
    result = fit(fold)
    assert result.history["monitor_loss"].tolist() == [0.9, 0.1, 0.5, 0.6]
    assert result.history["lr"].round(9).tolist() == [
        0.015,
        0.02,
        0.02,
        0.002,
    ]  # the last of 3 warm-up steps is 3/4 of the rate
    assert all(np.array_equal(value, states[1][name]) for name, value in result.state.items())
    assert len(monitored[0]) in range(10, 16) and monitored[0] < set(fold.train["id"])


def test_early_stopping_on_accuracy_keeps_the_first_of_the_best(tmp_path, monkeypatch):
    """The monitor's accuracies are dictated; its losses, which would keep the last epoch, play no part."""
    scores, evaluate, states = iter([(0.9, 0.5), (0.8, 0.75), (0.7, 0.75), (0.6, 0.5)]), FoldTrainer.evaluate, []

    def dictated(self):
        states.append(deepcopy(self.predictor.state_dict()))
        loss, accuracy = next(scores)
        return {**evaluate(self), "monitor_loss": loss, "monitor_acc": accuracy}

    monkeypatch.setattr(FoldTrainer, "evaluate", dictated)
    settings = {
        **TINY,
        "schedule": "constant",
        "warmup": 1.0,
        "monitor": 0.2,
        "early_stopping": 2,
        "stop_on": "accuracy",
        "epochs": 8,
    }
    result = fit(make_task(tmp_path, settings))
    assert result.history["monitor_acc"].tolist() == [0.5, 0.75, 0.75, 0.5]
    assert result.history["lr"].round(9).tolist() == [0.015, 0.02, 0.02, 0.02]  # constant after the warm-up
    assert all(np.array_equal(value, states[1][name]) for name, value in result.state.items())


def frozen_task(tmp_path) -> FoldTask:
    """A head to train under a small frozen backbone, whose weights lie in a file."""
    state = timm.create_model("test_resnet").state_dict()
    save_file(state, tmp_path / "test_resnet.safetensors")
    settings = {
        "backbone": "test_resnet",
        "weights": "hub",
        "size": 32,
        "batch": 16,
        "epochs": 2,
        "freeze_backbone": True,
        "head": "average, dense 8, norm",
        "augment": "none",
        "tta": "none",
        "schedule": "constant",
        "monitor": 0.2,
        "early_stopping": 2,
    }
    return dataclasses.replace(make_task(tmp_path, settings), weights_dir=tmp_path)


def test_only_the_head_of_a_frozen_backbone_is_trained_and_kept(tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    saved, save = [], fold_module.save_checkpoint
    monkeypatch.setattr(fold_module, "save_checkpoint", lambda *args: (saved.append(args[-1]), save(*args)))
    fold = frozen_task(tmp_path)
    whole = fit(fold)
    monkeypatch.undo()
    assert (
        {name for part in ("model", "best") for name in saved[0][part]}
        == set(saved[0]["model"])
        == {name for name in whole.state if not name.startswith("frozen_stages.")}
    )
    views = {path.name: np.load(path).shape for path in (tmp_path / "cache").rglob("*.npy")}
    assert views == {"train_plain.npy": (96, 1, 1, 96), "test_plain.npy": (10, 1, 1, 96)}
    again = dataclasses.replace(fold, checkpoint=tmp_path / "b" / "checkpoint.pt")
    assert same(whole, fit_with_kills(again, monkeypatch))


def test_a_checkpoint_does_not_continue_with_other_frozen_weights(tmp_path, monkeypatch):
    fold, save = frozen_task(tmp_path), fold_module.save_checkpoint

    def dying_save(path, identity, meta, state):
        save(path, identity, dataclasses.replace(meta, weights_source={"source": "others.pth"}), state)
        raise Killed

    monkeypatch.setattr(fold_module, "save_checkpoint", dying_save)
    with pytest.raises(Killed):
        fit(fold)
    monkeypatch.undo()
    with pytest.raises(InputError, match="was begun with the weights {'source': 'others.pth'} and would continue with"):
        fit(fold)


def test_monitored_rows_are_not_learned_from_and_groups_stay_whole():
    table = pd.DataFrame(
        {"id": [str(i) for i in range(40)], "label": [0, 1] * 20, "group": [str(i // 4) for i in range(40)]}
    )
    learn, monitor = hold_out_monitor(table, 0.2, 0)
    assert (
        not set(learn["group"]) & set(monitor["group"]) and len(learn) + len(monitor) == 40 and 4 <= len(monitor) <= 12
    )
    assert hold_out_monitor(table, 0.0, 0)[1].empty


def test_batches_augmented_on_the_device_resume_too(tmp_path, monkeypatch):
    settings = {**TINY, "epochs": 2, "augmenter": "batch"}
    (tmp_path / "b").mkdir()
    whole = fit(make_task(tmp_path, settings))
    assert same(whole, fit_with_kills(make_task(tmp_path / "b", settings), monkeypatch))
    (tmp_path / "checkpoint.pt").unlink()
    assert not same(whole, fit(make_task(tmp_path, {**TINY, "epochs": 2})))


def test_another_number_format_does_not_continue_a_checkpoint(tmp_path, monkeypatch):
    save = fold_module.save_checkpoint

    def dying_save(*args):
        save(*args)
        raise Killed

    monkeypatch.setattr(fold_module, "save_checkpoint", dying_save)
    with pytest.raises(Killed):
        fit(make_task(tmp_path, {**TINY, "precision": "float32"}))
    monkeypatch.undo()
    with pytest.raises(
        InputError,
        match="was begun as float32 channels_last on cpu and would continue as bfloat16 channels_last on cpu",
    ):
        fit(make_task(tmp_path, {**TINY, "precision": "bfloat16"}))


def test_early_epochs_are_shown_smaller(tmp_path):
    settings = {
        "backbone": "test_efficientnet",
        "weights": "package:test_efficientnet_weights",
        "size": 64,
        "start_size": 32,
        "batch": 32,
        "epochs": 3,
        "freeze_stages": 1,
        "augment": "none",
    }
    fold = make_task(tmp_path, settings)
    large = [
        dataclasses.replace(some, pixels=some.pixels.repeat(2, 1).repeat(2, 2))
        for some in (images("a", 96)[0], images("te", 10)[0])
    ]
    fold = dataclasses.replace(fold, train_images=large[0], test_images=large[1])
    augmented = AugmentedImages(ImageSource(large[0], CPU), fold.recipe, 0)
    assert [augmented(epoch, np.arange(3)).shape[1:3] for epoch in range(3)] == [(32, 32), (48, 48), (64, 64)]
    assert np.array_equal(
        augmented(0, np.array([5]))[0].numpy(), images("a", 96)[0].pixels[5]
    )  # 2 x 2 equal pixels become one
    result = fit(fold)
    widths = {path.name: np.load(path).shape[1] for path in (tmp_path / "cache").rglob("*.npy")}
    assert [widths[f"train_epoch_{epoch}.npy"] for epoch in range(3)] == [16, 24, 32] and widths["test_plain.npy"] == 32
    assert len(result.history) == 3


def test_a_compiled_net_steps_in_training(tmp_path, monkeypatch):
    compiled, compile = [], torch.compile

    def eager(forward):
        compiled.append(forward)
        return compile(forward, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    settings = {**TINY, "epochs": 1, "precision": "float32", "dropout": 0.0}
    (tmp_path / "b").mkdir()
    plain = fit(make_task(tmp_path, settings))
    other = fit(make_task(tmp_path / "b", {**settings, "compile": True}))
    assert len(compiled) == 1 and list(other.state) == list(plain.state)
    np.testing.assert_allclose(other.oof_prob, plain.oof_prob, atol=1e-4)


def test_a_loss_that_is_not_finite_again_stops_with_advice(tmp_path, capsys):
    with pytest.raises(
        Diverged,
        match="tiny fold 0: the loss is not finite in epoch 1. Lower lr in the recipe, .*[(]since epoch 1 the rate "
        "was 0.1 times the recipe's already, for the same reason[)]",
    ) as caught:
        fit(make_task(tmp_path, {**TINY, "optimizer": "sgd", "lr": 1e30, "clip": 0.0}))
    assert list(caught.value.history) == []
    line = "the loss is not finite in epoch 1, which is repeated from the state before it, with 0.1 times"
    assert line in capsys.readouterr().out


def nan_once(monkeypatch, epoch: int, dies: bool = False) -> None:
    """Make the loss of that epoch NaN at the recipe's rate; `dies`: the repeated epoch is killed once."""
    train_epoch, update, deaths, rate = FoldTrainer.train_epoch, TrainingStep.update, [], []

    def failing_epoch(self, number):
        rate[:] = [self.recipe.lr]
        loss = train_epoch(self, number)
        return float("nan") if number == epoch and self.recipe.lr == TINY["lr"] else loss

    def dying_update(self, *args):
        loss = update(self, *args)
        if dies and not deaths and rate[0] < TINY["lr"]:
            deaths.append(1)
            raise Killed
        return loss

    monkeypatch.setattr(FoldTrainer, "train_epoch", failing_epoch)
    monkeypatch.setattr(TrainingStep, "update", dying_update)


def test_an_epoch_without_a_finite_loss_is_repeated_from_the_state_before_with_smaller_steps(tmp_path, monkeypatch):
    results = []
    for name, dies in (("a", False), ("b", False), ("c", True)):
        (tmp_path / name).mkdir()
        fold = make_task(tmp_path / name, TINY)
        nan_once(monkeypatch, 2, dies)
        if dies:
            with pytest.raises(Killed):
                fit(fold)
            monkeypatch.undo()
            nan_once(monkeypatch, 2)
        results.append(fit(fold))
        monkeypatch.undo()
    usual = fit(make_task(tmp_path, TINY))
    assert same(results[0], results[1]) and same(results[0], results[2]) and not same(results[0], usual)
    assert results[0].facts["repeated_epoch"] == 2 and usual.facts["repeated_epoch"] is None
    rates, expected = results[0].history["lr"], usual.history["lr"] * [1, 1, 0.1, 0.1]
    np.testing.assert_allclose(rates, expected)
    assert results[0].history["train_loss"].iloc[:2].tolist() == usual.history["train_loss"].iloc[:2].tolist()


def test_what_diverged_keeps_the_epochs_before(tmp_path, monkeypatch):
    train_epoch = FoldTrainer.train_epoch
    monkeypatch.setattr(
        FoldTrainer, "train_epoch", lambda self, number: train_epoch(self, number) if number < 2 else float("nan")
    )
    with pytest.raises(Diverged, match="tiny fold 0: the loss is not finite in epoch 3. Lower lr") as caught:
        fit(make_task(tmp_path, TINY))
    failure = pickle.loads(pickle.dumps(caught.value))  # as a worker's process sends it
    assert type(failure) is Diverged and str(failure) == str(caught.value)
    assert [row["epoch"] for row in failure.history] == [0, 1]
