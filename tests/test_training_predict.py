"""A trained fold, loaded again, predicts the test images as right after training, byte for byte."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from facefold.data.cache import ImageCache
from facefold.models import precision
from facefold.runs import (
    RESULT_FILES,
    WEIGHTS_FILE,
    Identity,
    fold_dir,
    replace_test_predictions,
    seal_fold,
    write_history,
    write_predictions,
    write_weights,
)
from facefold.training.dataset import ImageSource
from facefold.training.loss import BinaryLoss, MAELoss, MulticlassLoss
from facefold.training.predict import (
    FoldPrediction,
    FoldResult,
    PredictTestJob,
    choose_views,
    predict_folds,
    trained_recipe,
)
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, sha256_file, write_json
from tiny_fold import CPU, TINY, fit, images, make_task, same

FROZEN = {
    "backbone": "test_efficientnet",
    "weights": "package:test_efficientnet_weights",
    "size": 32,
    "batch": 32,
    "epochs": 1,
    "freeze_stages": 1,
    "ema": 0.5,
}


def leave(root, settings: dict) -> FoldResult:
    """Train fold 0 and leave what a run leaves of it, for a recipe that has no file."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        task = make_task(root, settings)
        result = fit(task)
    finally:
        torch.set_num_threads(threads)
    directory = fold_dir(root, "tiny", 0)
    write_weights(directory, result.state)
    write_history(directory, result.history)
    write_predictions(directory, "oof", task.valid["id"].tolist(), result.oof_prob, result.oof_features)
    write_predictions(directory, "test", task.test_images.ids, result.test_prob, result.test_features)
    seal_fold(directory, Identity("tiny", task.recipe.hash, "folds", "images", 0), result.facts)
    return result


@pytest.mark.parametrize(
    "settings",
    [
        {**TINY, "epochs": 1},
        {**FROZEN, "tta": "choose", "monitor": 0.2},
        {**TINY, "epochs": 2, "soup": 2, "tta": "flip_zoom"},
    ],
    ids=["cnn5", "frozen stages, chosen views", "soup, zoom"],
)
def test_the_same_bytes_as_in_training(tmp_path, settings):
    result = leave(tmp_path, settings)
    [prediction] = predict(tmp_path, images("te", 10)[0])
    assert (
        prediction.prob.tobytes() == result.test_prob.tobytes()
        and prediction.features[:].tobytes() == result.test_features[:].tobytes()
    )
    assert prediction.inference == result.facts["inference"]["form"]
    assert not list((tmp_path / "scratch").rglob("*"))


def predict(root, images) -> list[FoldPrediction]:
    run = read_json(fold_dir(root, "tiny", 0) / "run.json")
    return list(predict_folds(root, "tiny", [run], images, CPU, root / "scratch"))


def test_other_images_get_other_answers(tmp_path):
    result, test_images = leave(tmp_path, {**TINY, "epochs": 1}), images("te", 10)[0]
    [prediction] = predict(tmp_path, dataclasses.replace(test_images, pixels=test_images.pixels // 2))
    assert not (prediction.prob == result.test_prob).any()


def test_another_number_format_is_used_if_the_recorded_one_is_missing(tmp_path, monkeypatch):
    result = leave(tmp_path, {**TINY, "epochs": 1})
    directory = fold_dir(tmp_path, "tiny", 0)
    run = read_json(directory / "run.json")
    write_json(directory / "run.json", {**run, "inference": {"form": "bfloat16 channels_last fused"}})
    monkeypatch.setattr(precision, "_fast_half", lambda device: None)
    [prediction] = predict(tmp_path, images("te", 10)[0])
    assert (
        prediction.inference == "float32 channels_last fused" and abs(prediction.prob - result.test_prob).max() < 0.02
    )


@pytest.mark.parametrize("settings", [{**TINY, "epochs": 1}, {**FROZEN, "frozen_precision": "half"}])
def test_a_run_in_float16_of_a_gpu_is_predicted_on_the_cpu(tmp_path, settings):
    result = leave(tmp_path, settings)
    path = fold_dir(tmp_path, "tiny", 0) / "run.json"
    run = read_json(path)
    form = {"form": "float16 channels_last"}  # as of a GPU
    write_json(path, {**run, "settings": {**run["settings"], "precision": "float16"}, "inference": form})
    [prediction] = predict(tmp_path, images("te", 10)[0])
    assert not prediction.inference.startswith("float16")
    assert abs(prediction.prob - result.test_prob).max() < 0.02


def test_a_fold_is_sealed_again_with_its_new_test_predictions(tmp_path):
    leave(tmp_path, {**TINY, "epochs": 1})
    directory = fold_dir(tmp_path, "tiny", 0)
    replace_test_predictions(directory, ["x"], [0.25], [[1.0]], "other images")
    run = read_json(directory / "run.json")
    assert run["images_hash"] == "other images" and (directory / "test.csv").read_text() == "id,prob\nx,0.25\n"
    assert all(run["files"][name] == sha256_file(directory / name) for name in RESULT_FILES)


def test_damaged_weights_and_runs_of_another_version_are_refused(tmp_path):
    leave(tmp_path, {**TINY, "epochs": 1})
    directory = fold_dir(tmp_path, "tiny", 0)
    weights = directory / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="weights.safetensors is not the file that training wrote"):
        PredictTestJob(tmp_path, "tiny", 1).run(CPU, 0)
    with pytest.raises(
        InputError, match="runs/tiny was trained by another version of this program; train it again to predict with it"
    ):
        trained_recipe("tiny", [{"settings": {"colour": "blue"}}])


def test_each_fold_predicts_by_its_own_views(tmp_path):
    result = leave(tmp_path, {**TINY, "epochs": 1})
    path, test_images = fold_dir(tmp_path, "tiny", 0) / "run.json", images("te", 10)[0]
    run = read_json(path)
    assert run.pop("tta") == ["plain", "mirror"]

    def prob(test_images: ImageCache, **facts) -> np.ndarray:
        write_json(path, {**run, **facts})
        return predict(tmp_path, test_images)[0].prob

    assert prob(test_images).tobytes() == result.test_prob.tobytes()  # of an earlier version: the recipe's views
    mirrored = dataclasses.replace(test_images, pixels=test_images.pixels[:, :, ::-1].copy())
    assert prob(test_images, tta=["mirror"]) == pytest.approx(prob(mirrored, tta=["plain"]), abs=1e-6)
    assert not np.allclose(prob(test_images, tta=["plain", "zoom"]), prob(test_images, tta=["plain"]), atol=1e-6)


# Which views a fold chooses


def choose(outputs: dict[str, list], labels: list, loss_fn) -> list[str]:
    """Choose among views of dictated outputs."""
    views = {name: lambda rows, values=values: torch.tensor(values)[rows] for name, values in outputs.items()}
    rows = pd.DataFrame({"id": [str(row) for row in range(len(labels))], "label": labels})
    model = lambda inputs: (inputs, torch.zeros(len(inputs), 1))  # noqa: E731
    images = ImageSource(ImageCache(rows["id"].tolist(), np.empty(len(labels))), CPU)
    return choose_views(model, views, images, rows, loss_fn)


def test_a_view_is_chosen_if_the_loss_falls():
    """The mirror's error is 1; its mean with zoom or with a plain view of -4 has 1.5, with one of -2 it has 0.5."""
    outputs = {"plain": [-4.0, -4.0], "mirror": [1.0, 1.0], "zoom": [3.0, -3.0], "zoom_mirror": [9.0, 9.0]}
    assert choose(outputs, [0.0, 0.0], MAELoss(0.0, 1.0)) == ["mirror"]
    outputs["plain"] = [-2.0, -2.0]
    assert choose(outputs, [0.0, 0.0], MAELoss(0.0, 1.0)) == ["plain", "mirror"]


def test_views_are_chosen_by_the_loss_of_the_task():
    binary = {"plain": [2.0, -0.1], "mirror": [0.1, -2.0], "zoom": [-2.0, 2.0], "zoom_mirror": [2.0, -0.1]}
    assert choose(binary, [1, 0], BinaryLoss()) == ["plain", "mirror"]
    wrong = [[0.0, 3.0, 0.0], [3.0, 0.0, 0.0]]
    right = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert choose({"plain": wrong, "mirror": right, "zoom": wrong}, [0, 1], MulticlassLoss()) == ["mirror"]


def test_a_fold_leaves_out_a_view_that_harms_whatever_its_held_out_rows_say(tmp_path, capsys):
    """The brighter half is the left one if and only if the label is 1, so a mirror image has the other label."""
    results = []
    for name, turned in (("a", False), ("b", True)):
        (tmp_path / name).mkdir()
        task = make_task(tmp_path / name, {**TINY, "augment": "none", "ema": 0.0, "tta": "choose", "monitor": 0.2})
        pixels = np.random.default_rng(0).integers(0, 100, task.train_images.pixels.shape, dtype=np.uint8)
        pixels[0::2, :, 16:] += 100
        pixels[1::2, :, :16] += 100
        task = dataclasses.replace(task, train_images=ImageCache(task.train_images.ids, pixels))
        if turned:
            task = dataclasses.replace(task, valid=task.valid.assign(label=1 - task.valid["label"]))
        results.append(fit(task))
    first, second = results
    assert first.facts["metrics"]["accuracy"] > 0.9 and second.facts["metrics"]["accuracy"] < 0.1
    assert first.facts["tta"] == second.facts["tta"] and not {"mirror", "zoom_mirror"} & set(first.facts["tta"])
    assert same(first, second)
    assert f"tiny fold 0: chosen views: {', '.join(first.facts['tta'])}\n" in capsys.readouterr().out
