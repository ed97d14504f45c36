"""Three classes: trained, resumed, predicted again and joined; and what is refused of their predictions."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import torch

from facefold.data.cache import ImageCache, build_caches
from facefold.data.folds import load_folds, make_folds, write_folds
from facefold.data.image_hashes import load_images_hash
from facefold.data.preprocessing import Preprocessing
from facefold.models import recipe as recipes
from facefold.models.build import build_model
from facefold.models.inference import select_inference_model
from facefold.models.recipe import parse_recipe
from facefold.report.comparison import CompareJob
from facefold.runs import (
    Identity,
    fold_dir,
    join_folds,
    load_predictions,
    recorded_task,
    replace_test_predictions,
    seal_fold,
    write_history,
    write_predictions,
    write_weights,
)
from facefold.task import LABEL, Task, task_named
from facefold.training import jobs, timing
from facefold.training.loss import MulticlassLoss
from facefold.training.predict import PredictTestJob
from facefold.utils.errors import InputError
from facefold.utils.files import read_csv, read_json, sha256_file, write_text
from tiny_fold import CPU, TINY, fit, fit_with_kills, make_task, same

pytestmark = pytest.mark.usefixtures("one_thread")
THREE = Task(kind="multiclass", classes=("ant", "bee", "cow"))
COLUMNS = ["prob_ant", "prob_bee", "prob_cow"]


def bright(prefix: str, count: int) -> tuple[ImageCache, np.ndarray]:
    """Return squares whose brightness is their class, 0 to 2."""
    draw, labels = np.random.default_rng(len(prefix)), np.arange(count) % 3
    noise = draw.integers(0, 80, (count, 32, 32, 3), dtype=np.uint8)
    return ImageCache(
        [f"{prefix}{row}" for row in range(count)], noise + (labels * 80).astype(np.uint8)[:, None, None, None]
    ), labels


def three_task(tmp_path, settings: dict | None = None):
    cache, labels = bright("a", 96)
    table = pd.DataFrame({"id": cache.ids, "label": labels, "group": cache.ids})
    task = make_task(tmp_path, {**TINY, **(settings or {})})
    return dataclasses.replace(task, train=table[:64], valid=table[64:], train_images=cache, target=THREE)


def test_three_classes_are_learned_and_their_probabilities_sum_to_one(tmp_path):
    result = fit(three_task(tmp_path, {"augment": "none"}))
    assert result.oof_prob.shape == (32, 3) and result.test_prob.shape == (10, 3)
    assert result.oof_prob.dtype == np.float64 and result.oof_prob.sum(axis=1) == pytest.approx(1, abs=1e-12)
    assert (result.oof_prob.argmax(axis=1) == np.arange(64, 96) % 3).mean() > 0.9
    assert result.state["output.weight"].shape == (3, result.oof_features.shape[1])
    assert result.facts["kind"] == "multiclass" and result.facts["classes"] == ["ant", "bee", "cow"]
    accuracy = (result.oof_prob.argmax(axis=1) == np.arange(64, 96) % 3).mean()
    assert result.facts["metrics"]["accuracy"] == accuracy and "valid_acc" in result.history


def test_killed_and_resumed_gives_the_same_bytes(tmp_path, monkeypatch):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    settings = {"monitor": 0.25, "schedule": "plateau", "early_stopping": 2, "stop_on": "accuracy"}
    whole = fit(three_task(tmp_path / "whole", settings))
    assert same(whole, fit_with_kills(three_task(tmp_path / "killed", settings), monkeypatch))
    assert "monitor_acc" in whole.history


@pytest.mark.parametrize("augmenter", ["albumentations", "batch"])
def test_a_class_without_training_rows_and_one_with_a_single_row_are_trained(tmp_path, augmenter):
    task = three_task(tmp_path, {"augmenter": augmenter, "monitor": 0.2, "schedule": "plateau"})
    label = np.where(np.arange(64) == 5, 1, 0)
    result = fit(dataclasses.replace(task, train=task.train.assign(label=label)))
    assert result.oof_prob.shape == (32, 3) and np.isfinite(result.history["valid_loss"]).all()


def test_one_output_is_squeezed_and_drawn_as_before():
    recipe = parse_recipe("r", TINY, "r.toml")
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    nets = []
    for outputs, shape in ((1, (2,)), (3, (2, 3))):
        torch.manual_seed(0)
        nets.append(build_model(recipe, outputs=outputs)[0].eval())
        assert nets[-1](images)[0].shape == shape
    assert all(map(torch.equal, *(net.backbone.state_dict().values() for net in nets)))


def test_forms_of_inference_are_compared_by_the_largest_difference_of_a_probability():
    torch.manual_seed(0)
    net, _ = build_model(parse_recipe("r", TINY, "r.toml"), outputs=3)
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    loss = MulticlassLoss()
    model = select_inference_model(net, None, images, loss.comparable, loss.difference)
    plain = net.eval()(images)[0].softmax(1)
    assert model.fused and model.difference == float((model(images)[0].softmax(1) - plain).abs().max().detach())


def test_batches_of_three_classes_are_timed(monkeypatch):
    monkeypatch.setattr(timing, "TIMED_SECONDS", 0.0)
    assert timing.time_batches(parse_recipe("r", TINY, "r.toml"), CPU, THREE).train > 0


# Runs


@pytest.fixture
def root(tmp_path, monkeypatch, make_competition):
    """A drawn competition of three classes in two folds, and the recipe tiny."""
    monkeypatch.setattr(recipes, "RECIPES_DIR", tmp_path / "recipes")
    write_text(tmp_path / "recipes" / "tiny.toml", "size = 32\ncrop = 0.75\nwidth = 4\nbatch = 16\nepochs = 1\n")
    competition = make_competition(tmp_path, 60, 12, 32, 2)
    build_caches(competition, Preprocessing(32, 0.75))
    write_text(tmp_path / "competition" / "task.toml", THREE.text())
    train = competition.train.assign(label=np.arange(60) % 3)
    groups = pd.Series(train["id"].tolist(), index=train["id"])
    sha256 = sha256_file(tmp_path / "competition" / "train.csv")
    write_folds(tmp_path, make_folds(train, groups, 2, 0, sha256, "none", THREE), force=True)
    for module in ("training.jobs", "training.predict"):
        monkeypatch.setattr(f"facefold.{module}.load_competition", lambda root: competition)
    return tmp_path


def test_two_folds_are_trained_joined_and_predicted_again(root):
    split = load_folds(root, THREE)
    recipe = recipes.load_recipe("tiny")
    images_hash = load_images_hash(root)
    identity = Identity("tiny", recipe.hash, split.hash, images_hash, 0, "", "label", THREE.hash)
    for fold in range(2):
        jobs.FoldJob(root, recipe, identity, jobs.NO_CORRECTIONS, fold, None, 0).run(CPU, 0)
    test_ids = [str(id) for id in read_csv(root / "competition" / "test.csv", {"id": str})["id"]]
    member = join_folds(root, identity, split, test_ids)
    assert list(member.oof.columns) == COLUMNS and member.oof.index.tolist() == split.table["id"].tolist()
    assert member.test[1].shape == (12, 3) and list(member.test[0].columns) == COLUMNS
    assert member.test.index.tolist() == test_ids and member.test.shape == (12, 6)
    assert member.oof.sum(axis=1).to_numpy() == pytest.approx(1)
    joined = load_predictions(root / "runs" / "tiny" / "oof.csv", THREE)
    assert joined.set_index("id").equals(member.oof)
    run = read_json(fold_dir(root, "tiny", 0) / "run.json")
    assert (run["kind"], run["classes"], run["task"]) == ("multiclass", ["ant", "bee", "cow"], THREE.hash)
    assert recorded_task(run) == THREE
    before = [sha256_file(fold_dir(root, "tiny", fold) / "test.csv") for fold in range(2)]
    PredictTestJob(root, "tiny", 2).run(CPU, 0)
    assert [sha256_file(fold_dir(root, "tiny", fold) / "test.csv") for fold in range(2)] == before


def test_heads_are_compared_on_three_classes(root):
    job = CompareJob(
        root, recipes.load_recipe("tiny"), 0, 0, load_images_hash(root), load_folds(root, THREE).hash, None
    )
    job.run(CPU, 0)
    assert job.finished and len(job.history()) == 1 and job.identity["task"] == THREE.hash


def test_runs_of_before_there_were_classes_are_binary_or_a_regression():
    assert recorded_task({}) == LABEL and recorded_task({"target": "age"}) == task_named("age")
    assert recorded_task({"kind": "binary", "classes": ["cat", "dog"]}).classes == ("cat", "dog")
    assert recorded_task({"target": "age", "kind": "regression", "classes": []}) == task_named("age")


@pytest.mark.parametrize(
    "rows, message",
    [
        ("a,0.2,0.3,0.5\nb,0.5,1.5,-1\n", "row 3: prob_bee 1.5 is not a probability"),
        ("a,0.2,nan,0.5\n", "row 2: prob_bee nan is not a probability"),
        ("a,0.2,0.3,0.5\nb,0.2,0.3,0.4998\n", "row 3: the probabilities sum to 0.9998, not to 1"),
    ],
)
def test_what_is_no_probability_is_named_by_file_and_row(tmp_path, rows, message):
    path = tmp_path / "oof.csv"
    write_text(path, "id,prob_ant,prob_bee,prob_cow\n" + rows)
    text = f"{path}, {message}; delete the fold's folder and train it again"
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        load_predictions(path, THREE)


def test_rounding_to_seven_digits_is_no_error(tmp_path):
    path = tmp_path / "oof.csv"
    write_text(path, "id,prob_ant,prob_bee,prob_cow\na,0.3333333,0.3333333,0.3333333\nb,0.2,0.3,0.49995\n")
    assert load_predictions(path, THREE)[COLUMNS].to_numpy()[1].tolist() == [0.2, 0.3, 0.49995]


def test_test_predictions_are_replaced_in_the_columns_of_the_run(tmp_path):
    directory, prob = fold_dir(tmp_path, "cnn", 0), np.array([[0.2, 0.3, 0.5]])
    write_weights(directory, {"w": np.ones(2, dtype=np.float32)})
    write_history(directory, pd.DataFrame({"epoch": [0]}))
    for part in ("oof", "test"):
        write_predictions(directory, part, ["x"], prob, np.ones((1, 3)), THREE)
    identity = Identity("cnn", "recipe", "folds", "images", 0, task=THREE.hash)
    seal_fold(directory, identity, {"kind": THREE.kind, "classes": list(THREE.classes)})
    replace_test_predictions(directory, ["y"], prob[:, ::-1], np.ones((1, 3)), "others")
    assert (directory / "test.csv").read_text() == "id,prob_ant,prob_bee,prob_cow\ny,0.5,0.3,0.2\n"
