"""Classifiers on frozen features: what they predict, what they are refused with, and a whole job of two recipes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from command import call, run, train_here
from facefold.models import classifiers, svm
from facefold.models import recipe as recipes
from facefold.models.boosting import BOOSTING_SETTINGS
from facefold.models.build import build_model
from facefold.models.classifiers import Classifier, apply_classifier, fit_classifier
from facefold.models.recipe import CLASSIFIERS, load_recipe, parse_recipe
from facefold.runs import RESULT_FILES, fold_dir, load_fold_features, load_history, load_weights
from facefold.task import LABEL, Task, task_named
from facefold.training import timing
from facefold.training.classifier import fit_fold
from facefold.training.plan import Rates, Workload, rates_key
from facefold.training.predict import predict_fold, prediction_views
from facefold.utils.errors import InputError
from tiny_fold import make_task, same

THREE = Task(kind="multiclass", classes=("a", "b", "c"))
CPU = torch.device("cpu")
TOML = """
about = "a classifier on tiny images"
backbone = "test_efficientnet"
weights = "package:test_efficientnet_weights"
size = 32
freeze_backbone = true
classifier = "{}"
"""
FROZEN = {
    "backbone": "test_efficientnet",
    "weights": "package:test_efficientnet_weights",
    "size": 32,
    "freeze_backbone": True,
}


TWO = {
    **FROZEN,
    "backbone": "test_efficientnet, test_resnet",
    "weights": "package:test_efficientnet_weights, package:test_resnet_weights",
    "classifier": "svm",
}


def rows(classes: int, count: int = 120, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return features whose first columns overlap by class, and labels."""
    draw = np.random.default_rng(classes)
    labels = draw.permutation(np.arange(count) % classes)
    features = 3 + draw.normal(size=(count, width)) * np.arange(1, width + 1)
    features[:, 0] += 1.5 * labels
    features[:, 1] -= 2.0 * (labels == 1)
    return features.astype(np.float32), labels


def fit(kind: str, classes: int, task: Task | None = None) -> tuple[dict, np.ndarray, np.ndarray]:
    features, labels = rows(classes)
    task = task or (LABEL if classes == 2 else THREE)
    return fit_classifier(kind, features, labels, np.arange(len(labels)), task, 0), features, labels


def log_prob(outputs: np.ndarray) -> np.ndarray:
    """Return log probabilities (n, C) of logits (n,) or log probabilities (n, C)."""
    return -np.logaddexp(0, np.stack([outputs, -outputs], axis=1)) if outputs.ndim == 1 else outputs


# Applying


@pytest.mark.parametrize("classes", [2, 3])
def test_a_logistic_regression_agrees_with_scikit_learn(classes, monkeypatch):
    monkeypatch.setattr(classifiers, "LOGISTIC_C", (0.1,))
    state, features, labels = fit("logistic", classes)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(
        features.astype(float), labels
    )
    assert np.abs(log_prob(apply_classifier(state, features)) - model.predict_log_proba(features)).max() < 1e-4
    exact = model[1].fit(classifiers._standardise(state, features).astype(float), labels)
    expected = exact.predict_log_proba(classifiers._standardise(state, features))
    assert np.abs(log_prob(apply_classifier(state, features)) - expected).max() < 1e-6


@pytest.mark.parametrize("classes", [2, 3])
def test_a_network_agrees_with_scikit_learn(classes):
    state, features, labels = fit("network", classes)
    x = classifiers._standardise(state, features).astype(float)
    with pytest.warns(Warning, match="Maximum iterations"):
        model = MLPClassifier((64,), alpha=10.0, max_iter=30, random_state=0).fit(x, labels)
    assert np.abs(log_prob(apply_classifier(state, features)) - model.predict_log_proba(x)).max() < 1e-6


@pytest.mark.parametrize("classes", [2, 3])
def test_the_margins_of_an_svm_agree_with_scikit_learn(classes, monkeypatch):
    monkeypatch.setattr(classifiers, "BLOCK", 50)  # so that rows come in several blocks
    state, features, labels = fit("svm", classes)
    x = classifiers._standardise(state, features).astype(float)
    model = SVC(C=4, gamma="scale", kernel="rbf")
    model = (model if classes == 2 else OneVsRestClassifier(model)).fit(x, labels)
    margins = svm.svm_margins(state, x)
    assert np.abs(margins - model.decision_function(x).reshape(len(x), -1)).max() < 1e-6
    logits = margins @ state["weight_0"] + state["bias_0"]
    outputs = apply_classifier(state, features)
    assert outputs == pytest.approx(logits[:, 0] if classes == 2 else np.log(softmax(logits, axis=1)))
    assert state["support_vectors"].dtype == np.float32


@pytest.mark.parametrize("classes", [2, 3])
def test_boosting_agrees_with_scikit_learn(classes):
    state, features, labels = fit("boosting", classes)
    x = classifiers._standardise(state, features).astype(float)
    model = HistGradientBoostingClassifier(**BOOSTING_SETTINGS, random_state=0).fit(x, labels)
    new = np.concatenate([features, features + np.random.default_rng(5).normal(size=features.shape)]).astype(np.float32)
    expected = model.predict_proba(classifiers._standardise(state, new).astype(float))
    assert np.exp(log_prob(apply_classifier(state, new))) == pytest.approx(expected, abs=1e-6)


def test_platts_scaling_learns_from_margins_of_rows_that_the_svm_has_not_seen():
    """On noise an SVM separates its own rows by margins of 1; their probabilities are near one half all the same."""
    features = np.random.default_rng(0).normal(size=(200, 300)).astype(np.float32)
    labels = np.arange(200) % 2
    state = fit_classifier("svm", features, labels, np.arange(200), LABEL, 0)
    margins = svm.svm_margins(state, classifiers._standardise(state, features).astype(float))[:, 0]
    assert ((margins > 0) == labels).all() and np.abs(apply_classifier(state, features)).max() < 1


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_number_is_predicted_in_its_own_unit(kind):
    features, labels = rows(3)
    values = 40.0 + 10 * labels
    state = fit_classifier(kind, features, values, np.arange(len(values)), task_named("age"), 0)
    outputs, x = apply_classifier(state, features), classifiers._standardise(state, features).astype(float)
    scaled = (values - values.mean()) / values.std()
    model = {
        "svm": SVR(C=4),
        "logistic": Ridge(alpha=1000.0),
        "boosting": HistGradientBoostingRegressor(**BOOSTING_SETTINGS, random_state=0),
    }.get(kind)
    if model:
        expected = values.mean() + values.std() * model.fit(x, scaled).predict(x)
        assert np.abs(outputs - expected).max() < 1e-5
    assert outputs.shape == (120,) and np.abs(outputs - values).mean() < values.std()


# Rows


def test_inner_folds_divide_no_group(monkeypatch):
    seen = []
    fit_rows = svm.RbfKernel.fit
    monkeypatch.setattr(svm.RbfKernel, "fit", lambda self, *args: seen.append(args[1]) or fit_rows(self, *args))
    features, labels = rows(2)
    group = np.arange(120) // 4
    fit_classifier("svm", features, labels, group, LABEL, 0)
    assert len(seen) == classifiers.INNER_FOLDS + 1 and len(seen[-1]) == 120
    for learned in seen[:-1]:
        assert len(learned) == 80 and not set(group[learned]) & set(np.delete(group, learned))


def test_a_kernel_that_is_too_large_for_the_memory_gives_the_same(monkeypatch):
    whole, features, _ = fit("svm", 3)
    monkeypatch.setattr(svm, "KERNEL_BYTES", 0)
    assert apply_classifier(fit("svm", 3)[0], features) == pytest.approx(apply_classifier(whole, features), abs=1e-3)


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("present", [(0,), (2,), (0, 2), (0, 1, 2)])
def test_a_class_without_rows_has_the_probability_of_less_than_a_row(kind, present):
    features, labels = rows(3)
    kept = np.isin(labels, present)
    state = fit_classifier(kind, features[kept], labels[kept], np.arange(kept.sum()), THREE, 0)
    prob = np.exp(apply_classifier(state, features))
    absent = [number for number in range(3) if number not in present]
    assert prob[:, absent] == pytest.approx(1 / (kept.sum() + 1))
    assert prob[:, list(present)].sum(axis=1) == pytest.approx(1)
    if len(present) > 1:
        assert (prob[kept].argmax(axis=1) == labels[kept]).mean() > 0.6


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("label", [0, 1])
def test_one_of_two_classes_alone_is_predicted_everywhere(kind, label):
    features, _ = rows(2)
    state = fit_classifier(kind, features, np.full(120, label), np.arange(120), LABEL, 0)
    assert (apply_classifier(state, features) == (2 * label - 1) * np.log(121)).all()


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_shuffled_labels_are_not_learned(kind):
    """Each row is predicted by a classifier of the other half: what is above chance would be a leak."""
    draw = np.random.default_rng(1)
    features, labels = draw.normal(size=(600, 20)).astype(np.float32), draw.permutation(np.arange(600) % 2)
    half, right = np.arange(600) % 2 == draw.integers(2), 0
    for learned in (half, ~half):
        state = fit_classifier(kind, features[learned], labels[learned], np.flatnonzero(learned), LABEL, 0)
        right += ((apply_classifier(state, features[~learned]) >= 0) == labels[~learned]).sum()
    assert abs(right / 600 - 0.5) < 0.08  # four standard errors


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_fit_has_the_same_bytes_again(kind):
    one, other = fit(kind, 3)[0], fit(kind, 3)[0]
    assert {name: value.tobytes() for name, value in one.items()} == {
        name: value.tobytes() for name, value in other.items()
    }


def test_a_module_takes_the_state_of_a_file():
    state, features, _ = fit("svm", 2)
    module = Classifier()
    with pytest.raises(RuntimeError, match="Missing key"):
        torch.nn.Sequential(module).load_state_dict({})
    torch.nn.Sequential(module).load_state_dict({f"0.{name}": torch.from_numpy(value) for name, value in state.items()})
    assert module(torch.from_numpy(features)).squeeze(1).numpy() == pytest.approx(apply_classifier(state, features))
    assert module.state_dict().keys() == state.keys()


# Recipes


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"classifier": "forest"}, "classifier = 'forest' is none of logistic, svm, network, boosting"),
        ({"epochs": 4}, 'epochs belongs to training by gradients, which classifier = "svm" replaces'),
        (
            {"tta": "choose"},
            'tta = "choose" needs monitor rows, which a classifier has none of: use flip, flip_zoom or none',
        ),
        ({"soup": 2}, 'soup belongs to training by gradients, which classifier = "svm" replaces'),
        ({"augment": "none"}, 'augment belongs to training by gradients, which classifier = "svm" replaces'),
        (
            {"freeze_backbone": False},
            "classifier reads the features of a frozen backbone: set freeze_backbone = true, and no head",
        ),
        (
            {"head": "average"},
            "classifier reads the features of a frozen backbone: set freeze_backbone = true, and no head",
        ),
    ],
)
def test_settings_that_do_nothing_are_refused(settings, message):
    with pytest.raises(InputError) as caught:
        parse_recipe("c", {**FROZEN, "classifier": "svm", **settings}, "c.toml")
    assert message in str(caught.value).splitlines()[1:] or f"  - {message}" in str(caught.value).splitlines()


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"weights": "package:test_efficientnet_weights"},
            "backbone names 2, and weights 1: one for each",
        ),
        ({"feature_scale": "1, 1, 1"}, "backbone names 2, and feature_scale 3: one for each"),
        ({"feature_scale": "1, half"}, "feature_scale = 'half' is no number above 0"),
        ({"feature_scale": "1, 0"}, "feature_scale = '0' is no number above 0"),
        ({"weights": "hub, none"}, "freezing stages that were never trained"),
        ({"classifier": ""}, "several backbones are for a classifier"),
        ({"backbone": "cnn3, vgg16"}, "cnn3, vgg16 has no pretrained weights, no drop_path and no stages to freeze"),
    ],
)
def test_what_several_backbones_need(settings, message):
    with pytest.raises(InputError) as caught:
        parse_recipe("c", {**TWO, **settings}, "c.toml")
    assert f"  - {message}" in str(caught.value).splitlines()


def test_the_features_of_two_backbones_stand_side_by_side(one_thread):
    recipe = parse_recipe("c", {**TWO, "feature_scale": "2, 0.5"}, "c.toml")
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features, sources = [], []
    for part in (recipe, *recipe.parts):
        net, source = build_model(part)
        with torch.inference_mode():
            features.append(net.features_from_stages(net.frozen_stages(images).permute(0, 2, 3, 1)))
        sources.append(source["sha256"])
    assert torch.equal(features[0], torch.cat(features[1:], dim=1)) and features[0].shape == (3, 256 + 96)
    assert sources[0] == ", ".join(sources[1:]) and sources[1] != sources[2]
    net = build_model(recipe)[0]
    # Of 176 features on average.
    assert net.feature_scale == pytest.approx([2 * np.sqrt(176 / 256)] * 256 + [0.5 * np.sqrt(176 / 96)] * 96)
    assert not net.trainable_state_dict()


def test_a_scale_of_features_is_that_of_the_kernel():
    """Two blocks of 6 and 2 features have the same part in a squared distance, and then the second has a quarter."""
    features, labels = rows(2)
    scale = np.repeat(np.sqrt(8 / 2 / np.array([6, 2])) * [1, 0.5], [6, 2])
    state = fit_classifier("svm", features, labels, np.arange(len(labels)), LABEL, 0, scale)
    x = StandardScaler().fit_transform(features) * scale
    model = SVC(C=svm.SVM_C, gamma=1 / (8 * x.var())).fit(x, labels)
    margins = svm.svm_margins(state, (features - state["mean"]) / state["scale"])[:, 0]
    assert margins == pytest.approx(model.decision_function(x), abs=1e-2)
    first, second = (np.square(x[:, block]).sum(axis=1).mean() for block in (slice(6), slice(6, 8)))
    assert second == pytest.approx(first / 4)


def test_another_number_of_epochs_is_refused():
    with pytest.raises(InputError, match="epochs belongs to training by gradients"):
        load_recipe("lite2_svm@3")


def test_no_augmented_view_is_computed():
    views = [("train", "plain"), ("train", "mirror"), ("test", "plain"), ("test", "mirror")]
    assert recipes.view_names(load_recipe("mobilenetv2_svm")) == views


def test_the_features_of_all_views_are_averaged():
    values = {"plain": 1.0, "mirror": 2.0, "zoom": 3.0, "zoom_mirror": 8.0}
    features = SimpleNamespace(view=lambda name: np.full((5, 1, 1, 2), values[name], np.float16))
    recipe = parse_recipe("c", {**FROZEN, "classifier": "svm", "tta": "flip_zoom"}, "c.toml")
    (view,) = prediction_views(recipe, recipe.tta_views, SimpleNamespace(device=CPU), features)
    assert view(np.arange(3)).tolist() == np.full((3, 1, 1, 2), 3.5).tolist()


# Folds


def test_a_fold_leaves_what_others_leave_and_the_same_again(tmp_path, one_thread):
    task = make_task(tmp_path, {**FROZEN, "classifier": "svm"})
    results = [predict_fold(task, fit_fold(task, CPU), CPU) for _ in range(2)]
    assert same(*results) and not task.checkpoint.exists()
    result = results[0]
    assert result.facts["metrics"]["accuracy"] > 0.9 and result.facts["epochs_run"] == 1
    assert result.facts["inference"]["difference"] == 0
    assert list(result.history) == ["epoch", "lr", "train_loss", "monitor_loss", "valid_loss", "valid_acc", "seconds"]
    assert result.oof_features[:].shape == (32, 256) and result.oof_features[:].dtype == np.float16
    state = {name.removeprefix("output."): value for name, value in result.state.items() if name.startswith("output.")}
    outputs = apply_classifier(state, result.oof_features[:].astype(np.float32))
    assert 1 / (1 + np.exp(-outputs)) == pytest.approx(result.oof_prob, abs=1e-3)


def test_one_view_is_read_without_tta(tmp_path, one_thread):
    task = make_task(tmp_path, {**FROZEN, "classifier": "logistic", "tta": "none"})
    result = predict_fold(task, fit_fold(task, CPU), CPU)
    assert result.facts["metrics"]["accuracy"] > 0.9
    assert sorted(path.stem for path in (tmp_path / "cache").rglob("*.npy")) == ["test_plain", "train_plain"]


@pytest.mark.parametrize("target", [THREE, task_named("age")], ids=lambda target: target.kind)
def test_a_fold_of_more_classes_and_of_a_number(tmp_path, target, one_thread):
    task = make_task(tmp_path, {**FROZEN, "classifier": "svm"})
    scale = 10.0 if target.regression else 1
    tables = {
        name: getattr(task, name).assign(label=scale * getattr(task, name)["label"]) for name in ("train", "valid")
    }
    task = replace(task, target=target, **tables)
    result = predict_fold(task, fit_fold(task, CPU), CPU)
    labels = task.valid["label"].to_numpy()
    if target.regression:
        error = np.abs(result.oof_prob - labels).mean()
        assert error < 3 and result.facts["metrics"]["mae"] == pytest.approx(error)
        assert result.history["valid_mae"].tolist() == pytest.approx([error])
    else:
        assert result.oof_prob.shape == (32, 3) and result.oof_prob.sum(axis=1) == pytest.approx(1)
        assert (result.oof_prob.argmax(axis=1) == labels).mean() == result.facts["metrics"]["accuracy"] > 0.9
    state = {name.removeprefix("output."): value for name, value in result.state.items() if name.startswith("output.")}
    outputs = apply_classifier(state, result.oof_features[:].astype(np.float32))
    assert (outputs if target.regression else np.exp(outputs)) == pytest.approx(result.oof_prob, abs=0.02)


def test_the_time_of_a_fit_is_estimated(one_thread, monkeypatch):
    monkeypatch.setattr(timing, "TIMED_SECONDS", 0.0)
    rates = timing.time_batches(parse_recipe("r", {**FROZEN, "classifier": "svm"}, "r.toml"), CPU)
    assert min(rates.train, rates.predict, rates.freeze) > 0 == rates.augment
    cost, rates = {}, Rates(0.01, 0.002, 0.0, 0.1)
    for kind in CLASSIFIERS:
        recipe = parse_recipe("r", {**FROZEN, "classifier": kind}, "r.toml")
        work = Workload(1000, 300, 5, ["cpu"], lambda _: 5, {rates_key(recipe): rates}, {}, 0.0)
        cost[kind] = work.plan_recipe(recipe, 5).cost
    assert {one.shared for one in cost.values()} == {2 * 1300 * 0.1}
    assert cost["logistic"].fold == pytest.approx(800 * 0.01 + 1500 * 0.002) == cost["network"].fold
    assert cost["svm"].fold == pytest.approx(800 / 2000 * cost["logistic"].fold)


# The whole job


@pytest.fixture
def root(tmp_path, monkeypatch, make_competition, one_thread):
    """A synthetic competition in two folds, its recipes trained in this process, one on two backbones."""
    two = TOML.replace('_efficientnet"', '_efficientnet, test_resnet"')
    two = two.replace('_weights"', '_weights, package:test_resnet_weights"')
    texts = {"tiny_svm": TOML.format("svm"), "tiny_logistic": two.format("logistic")}
    train_here(tmp_path / "recipes", monkeypatch, **texts)
    make_competition(tmp_path / "root", 80, 20, 32, 2)
    return tmp_path / "root"


def test_two_recipes_are_trained_blended_and_predict_new_images(root):
    call("train", root, "--recipe", "tiny_svm,tiny_logistic", "--device", "cpu")
    for name in ("tiny_svm", "tiny_logistic"):
        folder = fold_dir(root, name, 0)
        assert sorted(path.name for path in folder.iterdir()) == sorted([*RESULT_FILES, "run.json"])
        history = load_history(root, name, 0)
        assert len(history) == 1 and all(np.issubdtype(kind, np.number) for kind in history.dtypes)
        assert load_fold_features(root, name, 0, "test").shape == (20, 256 if name == "tiny_svm" else 256 + 96)
        assert json.loads((folder / "run.json").read_text())["weights"]["source"].endswith(".pth")
    assert "output.support_vectors" in load_weights(root, "tiny_svm", 0)
    assert not list((root / "cache" / "frozen").rglob("*.npy"))
    tests = [(fold_dir(root, name, k) / "test.csv") for name in ("tiny_svm", "tiny_logistic") for k in range(2)]
    before = [path.read_bytes() for path in tests]
    call("predict", root, "--test", "--device", "cpu")
    assert [path.read_bytes() for path in tests] == before
    call("blend", root, "--method", "stack_features")
    call("predict", root, "--no-detect", root / "competition" / "test", "--device", "cpu")
    predicted = pd.read_csv(root / "predictions.csv")["prob"]
    blended = pd.read_csv(root / "submissions" / "test_blend.csv")["prob"]
    assert np.sort(predicted) == pytest.approx(np.sort(blended))
    assert run("clean", root).returncode == 0
