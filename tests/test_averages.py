"""Averages, and soups of a fold's last epochs; the choice of views is in test_training_predict.py."""

import operator
from copy import deepcopy

import numpy as np
import pytest
import torch

from facefold.training import fold as fold_module
from facefold.training.averages import average_states, greedy_average
from facefold.training.fold import FoldTrainer, train_fold
from tiny_fold import CPU, TINY, fit, fit_with_kills, make_task, same

SMALL = {**TINY, "batch": 32, "precision": "float32", "augment": "none"}
pytestmark = pytest.mark.usefixtures("one_thread")


def test_states_are_averaged_number_by_number():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "h": torch.tensor([1.0], dtype=torch.bfloat16), "count": torch.tensor(3)},
        {"w": torch.tensor([2.0, 6.0]), "h": torch.tensor([3.0], dtype=torch.bfloat16), "count": torch.tensor(6)},
        {"w": torch.tensor([6.0, 1.0]), "h": torch.tensor([5.0], dtype=torch.bfloat16), "count": torch.tensor(9)},
    ]
    average = average_states(states)
    assert average["w"].tolist() == [3.0, 3.0] and average["count"].item() == 9
    assert average["h"].item() == 3.0 and average["h"].dtype == torch.bfloat16


@pytest.mark.parametrize("accepts, taken", [(operator.le, [1, 2, 4]), (operator.lt, [1, 4])])
def test_the_greedy_choice_by_hand(accepts, taken):
    """Epoch 4 alone is best; with 1 the loss falls, with 3 it rises, with 2 it stays."""
    losses, asked = {1: 0.5, 2: 0.8, 3: 0.6, 4: 0.4}, []
    averages = {(1, 4): 0.3, (1, 3, 4): 0.35, (1, 2, 4): 0.3}

    def average_loss(epochs: list[int]) -> float:
        asked.append(tuple(epochs))
        return averages[tuple(epochs)]

    assert greedy_average(losses, average_loss, accepts) == taken
    assert asked == [(1, 4), (1, 3, 4), (1, 2, 4)]


# Soups


def record_epochs(monkeypatch, losses: list[float] | None = None) -> list[dict]:
    """Keep the state that predicts after each epoch; dictate its monitor loss if there are `losses`."""
    states, evaluate = [], FoldTrainer.evaluate

    def recording(self) -> dict:
        states.append(deepcopy(self.predictor.state_dict()))
        row = evaluate(self)
        return {**row, "monitor_loss": losses[len(states) - 1]} if losses else row

    monkeypatch.setattr(FoldTrainer, "evaluate", recording)
    return states


def is_average(state: dict[str, np.ndarray], states: list[dict]) -> bool:
    means = {name: np.mean([one[name].numpy() for one in states], 0, np.float64) for name in state}
    return all(np.array_equal(value, means[name].astype(value.dtype)) for name, value in state.items() if value.ndim)


@pytest.mark.parametrize("ema", [0.5, 0.0])
def test_without_a_monitor_the_last_epochs_are_averaged(tmp_path, monkeypatch, capsys, ema):
    states = record_epochs(monkeypatch)
    result = fit(make_task(tmp_path, {**SMALL, "ema": ema, "soup": 3}))
    assert is_average(result.state, states[1:]) and not is_average(result.state, states)
    assert result.facts["soup"] == [1, 2, 3]
    assert any(name.endswith("running_var") for name in result.state)
    assert "tiny fold 0: averaged weights: epoch 2, 3, 4\n" in capsys.readouterr().out


def test_the_monitor_chooses_the_epochs(tmp_path, monkeypatch):
    """All losses are dictated: epoch 2 is the best of the window, 3 improves it, and 1 with these two is worse."""
    states = record_epochs(monkeypatch, [0.1, 0.5, 0.3, 0.4])
    score, dictated, scored = FoldTrainer.score, iter([0.2, 0.9]), []

    def dictated_score(self, rows):
        if len(self.history) < self.recipe.epochs:
            return score(self, rows)
        scored.append((set(rows["id"]), deepcopy(self.predictor.state_dict())))
        return next(dictated), 0.5

    monkeypatch.setattr(FoldTrainer, "score", dictated_score)
    task = make_task(tmp_path, {**SMALL, "soup": 3, "monitor": 0.2})
    result = fit(task)
    assert result.facts["soup"] == [2, 3] and is_average(result.state, states[2:])
    for (ids, state), epochs in zip(scored, ([2, 3], [1, 2, 3]), strict=True):
        assert ids < set(task.train["id"])
        assert is_average({name: value.numpy() for name, value in state.items()}, [states[e] for e in epochs])


def test_no_row_of_the_monitor_is_learned(tmp_path):
    task = make_task(tmp_path, {**SMALL, "soup": 2, "monitor": 0.2})
    trainer = FoldTrainer(task, CPU)
    monitor = set(trainer.monitor["id"])
    learned = {task.train_images.ids[row] for row in trainer.batches.dataset.cache_rows}
    assert monitor and not learned & monitor and learned | monitor == set(task.train["id"])


def test_a_soup_that_was_killed_has_the_same_bytes(tmp_path, monkeypatch):
    settings = {**SMALL, "epochs": 3, "soup": 2, "monitor": 0.2, "tta": "choose"}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = fit(make_task(tmp_path / "a", settings))
    resumed = fit_with_kills(make_task(tmp_path / "b", settings), monkeypatch)
    assert same(whole, resumed)
    assert all(whole.facts[key] == resumed.facts[key] for key in ("soup", "tta"))


def test_a_checkpoint_holds_the_epochs_of_the_window_alone(tmp_path, monkeypatch):
    saved, save = [], fold_module.save_checkpoint

    def recording_save(path, identity, meta, state):
        saved.append(list(state["soup"]))
        save(path, identity, meta, state)

    monkeypatch.setattr(fold_module, "save_checkpoint", recording_save)
    train_fold(make_task(tmp_path, {**SMALL, "epochs": 3, "soup": 2}), CPU)
    assert saved == [[], [1], [1, 2]]


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path, monkeypatch):
    task, save = make_task(tmp_path, {**SMALL, "epochs": 1}), fold_module.save_checkpoint

    def earlier_save(path, identity, meta, state):
        save(path, identity, meta, {name: value for name, value in state.items() if name != "soup"})

    monkeypatch.setattr(fold_module, "save_checkpoint", earlier_save)
    train_fold(task, CPU)
    assert fit(task).facts["soup"] == []
