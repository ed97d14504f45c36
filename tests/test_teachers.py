"""Distillation: soft labels of train rows by models that have seen neither the row nor the held-out fold."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from command import RECIPE, call, refused, train_here
from facefold.data.competition import load_competition
from facefold.data.folds import load_folds
from facefold.data.image_hashes import load_images_hash
from facefold.data.pseudo_labels import PseudoLabels
from facefold.models.classifiers import apply_classifier, fit_classifier
from facefold.runs import fold_dir, joined_oof_path
from facefold.task import LABEL
from facefold.training import teachers
from facefold.training.loss import BinaryLoss, MAELoss, MulticlassLoss
from facefold.training.soft_labels import SoftLabels, load_pseudo_labels, training_targets
from facefold.training.teachers import teacher_labels
from facefold.utils.errors import InputError
from facefold.utils.files import read_json
from facefold.utils.seeding import derive_seed

DISTILL = ("--recipe", "demo_cnn", "--pseudo", "mine.logistic", "--distill", "0.5")


@pytest.fixture
def root(tmp_path, monkeypatch, make_competition, one_thread):
    """Return a root with the finished run mine.logistic, in three folds."""
    train_here(tmp_path / "recipes", monkeypatch, demo_cnn=RECIPE)
    root = tmp_path / "root"
    competition = make_competition(root, train=48, test=12, size=32, k=3)
    ids = [*competition.ids("train"), *competition.ids("test")]
    (root / "features").mkdir()
    np.save(root / "features" / "mine.npy", np.random.default_rng(0).normal(size=(len(ids), 4)).astype(np.float16))
    pd.DataFrame({"id": ids}).to_csv(root / "features" / "mine.csv", index=False)
    call("train", root, "--features", "mine", "--classifier", "logistic")
    return root


def makers(root, *names: str) -> PseudoLabels:
    folds = load_folds(root)
    test_ids = load_competition(root).ids("test")
    return load_pseudo_labels(names, 0.5, 1.0, folds, load_images_hash(root), root, test_ids)


def test_a_row_is_taught_by_a_model_without_its_fold_and_without_the_held_out_one(root):
    folds = load_folds(root)
    taught = teacher_labels(root, makers(root, "mine.logistic"), folds, 2)
    assert taught.index.tolist() == folds.train(2)["id"].tolist() and taught.columns.tolist() == ["prob"]
    features = pd.DataFrame(np.load(root / "features" / "mine.npy")[:48].astype(np.float32), folds.table["id"])
    for own, left in ((0, 1), (1, 0)):
        rows, learned = (folds.table[folds.table["fold"] == fold] for fold in (own, left))
        state = fit_classifier(
            "logistic",
            features.loc[learned["id"]].to_numpy(),
            learned["label"].to_numpy(),
            learned["group"].to_numpy(),
            LABEL,
            derive_seed(0, own, 2, "teacher"),
        )
        expected = 1 / (1 + np.exp(-apply_classifier(state, features.loc[rows["id"]].to_numpy())))
        assert taught.loc[rows["id"], "prob"].to_numpy() == pytest.approx(expected, rel=1e-6)


def test_labels_of_the_held_out_fold_reach_no_teacher(root):
    folds = load_folds(root)
    turned = folds.table.assign(label=folds.table["label"].where(folds.table["fold"] != 0, 1 - folds.table["label"]))
    other = replace(folds, table=turned, hash="of other labels")
    before, after = (teacher_labels(root, makers(root, "mine.logistic"), either, 0) for either in (folds, other))
    pd.testing.assert_frame_equal(before, after)
    before, after = (teacher_labels(root, makers(root, "mine.logistic"), either, 1) for either in (folds, other))
    assert not before.equals(after)


def test_each_pair_of_folds_is_fitted_once_and_the_mean_of_the_runs_teaches(root, monkeypatch):
    call("train", root, "--features", "mine", "--classifier", "network")
    folds, fits = load_folds(root), []

    def fit(kind, features, *args):
        fits.append((kind, len(features)))
        return fit_classifier(kind, features, *args)

    monkeypatch.setattr(teachers, "fit_classifier", fit)
    names = ["mine.logistic", "mine.network"]
    both = [teacher_labels(root, makers(root, *names), folds, fold) for fold in range(3)]
    rows = sorted(folds.table["fold"].value_counts())  # those of the fold that a pair leaves
    assert sorted(fits) == [(kind, count) for kind in ("logistic", "network") for count in rows]
    single = [teacher_labels(root, makers(root, name), folds, 1) for name in names]
    assert len(fits) == 6
    assert both[1].to_numpy() == pytest.approx((single[0] + single[1]).to_numpy() / 2)


@pytest.mark.filterwarnings("error")
def test_a_train_row_learns_a_mixture_of_its_label_and_the_soft_one():
    rows = pd.DataFrame({"id": ["a", "b", "extra"], "label": [1, 0, 1]})
    taught = pd.DataFrame({"prob": [0.2, 0.6]}, index=["b", "a"])
    soft = SoftLabels(["t"], np.array([[0.3]]), 0.5, taught, share=0.25)
    ids, targets, _ = training_targets(rows, soft, BinaryLoss(0.1))
    assert ids == ["a", "b", "extra", "t"]
    mixed = [0.75 * 0.95 + 0.25 * 0.6, 0.75 * 0.05 + 0.25 * 0.2, 0.95, 0.3]
    assert torch.allclose(targets, torch.tensor([[value, 1] for value in mixed[:3]] + [[0.3, 0.5]]))


def test_a_distilled_run_says_so_and_is_another_than_one_with_pseudo_labels_alone(root):
    call("train", root, *DISTILL)
    directory = fold_dir(root, "demo_cnn+pseudo", 0)
    distilled = (directory / "weights.safetensors").read_bytes()
    assert read_json(directory / "run.json")["pseudo_labels"]["share"] == 0.5
    assert "it was trained with other pseudo-labels" in refused("train", root, *DISTILL[:-2])
    call("train", root, *DISTILL[:-2], "--force")
    assert "share" not in read_json(directory / "run.json")["pseudo_labels"]
    assert (directory / "weights.safetensors").read_bytes() != distilled
    call("train", root, *DISTILL, "--force")
    assert (directory / "weights.safetensors").read_bytes() == distilled
    call("blend", root, "--method", "mean")
    call("report", root)
    line = "python src/train.py --recipe demo_cnn --seed 0 --pseudo mine.logistic --pseudo-weight 0.5 --distill 0.5\n"
    assert line in (root / "report.html").read_text()


def test_what_cannot_teach_is_refused(root):
    call("train", root, "--recipe", "demo_cnn")
    command = ("train", root, "--recipe", "demo_cnn#1")
    assert refused(*command, "--pseudo", "demo_cnn,mine.logistic", "--distill", "0.5") == (
        "--distill: demo_cnn would have to be trained again for each pair of folds, which only a classifier on a "
        "frozen backbone is quick enough for, such as face_svm; name runs of these with --pseudo"
    )
    assert refused(*command, "--distill", "0.5") == "--distill belongs to --pseudo A,B"
    for share in ("0", "1.5", "nan"):
        assert refused(*command, "--pseudo", "mine.logistic", "--distill", share) == (
            f"--distill {share}: a share above 0, at most 1, of the soft label in that of a train row"
        )
    (root / "corrections.csv").write_text(f"id,action\n{load_folds(root).table['id'][0]},drop\n")
    corrected = ("--corrections", root / "corrections.csv")
    call("train", root, "--features", "mine", "--classifier", "logistic", *corrected)
    assert joined_oof_path(root, "mine.logistic+corrected").exists()
    assert refused(*command, "--pseudo", "mine.logistic+corrected", "--distill", "1") == (
        "--distill: mine.logistic+corrected learned from more than the labels; name runs that did not"
    )
    call("split", root, "--folds", "2", "--force")
    call("train", root, "--features", "mine", "--classifier", "logistic", "--force")
    assert refused(*command, "--pseudo", "mine.logistic", "--distill", "1") == (
        "--distill: a teacher leaves two folds out, so three are needed at least, not 2"
    )


@pytest.mark.parametrize(
    "loss, columns, taught, expected",
    [
        (MulticlassLoss(), ["prob_a", "prob_b"], [0.4, 0.6], [[0.8, 0.2], [0.5, 0.5]]),
        (MAELoss(10.0, 5.0), ["age"], [30.0], [[10.0], [20.0]]),
    ],
)
def test_classes_and_values_are_mixed_too(loss, columns, taught, expected):
    label = 0 if len(columns) == 2 else 0.0
    rows = pd.DataFrame({"id": ["a"], "label": [label]})
    soft = SoftLabels.of_no_image(len(columns))
    for share, value in zip((1 / 3, 5 / 6 if len(columns) == 2 else 2 / 3), expected, strict=True):
        mixed = replace(soft, train_values=pd.DataFrame([taught], ["a"], columns), share=share)
        assert torch.allclose(training_targets(rows, mixed, loss)[1], torch.tensor([[*value, 1.0]]))


def test_a_damaged_teacher_is_fitted_again_and_a_run_that_was_trained_again_is_refused(root):
    folds, pseudo = load_folds(root), makers(root, "mine.logistic")
    taught = teacher_labels(root, pseudo, folds, 0)
    for path in (root / "cache" / "teachers").rglob("*.csv"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    pd.testing.assert_frame_equal(teacher_labels(root, pseudo, folds, 0), taught)
    path = fold_dir(root, "mine.logistic", 2) / "test.csv"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(InputError, match="has changed since this training began; run the same command again"):
        teacher_labels(root, pseudo, folds, 0)
