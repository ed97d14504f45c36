"""The upload folder for Kaggle; test_run_all.py runs the whole job in it."""

import json
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from facefold.kaggle import kernel, pack
from facefold.utils import environment
from facefold.utils.errors import InputError


def test_the_metadata_name_one_data_set_and_a_notebook_without_internet(tmp_path):
    pack.clear_upload(tmp_path / "out")
    pack.write_metadata(tmp_path / "out", "someone", "face-gender", gpu=False)
    dataset = json.loads((tmp_path / "out/dataset/dataset-metadata.json").read_text())
    metadata = json.loads((tmp_path / "out/kernel/kernel-metadata.json").read_text())
    assert dataset["id"] == metadata["id"] == "someone/facefold-face-gender" and metadata["dataset_sources"] == [
        dataset["id"]
    ]
    assert metadata["title"].replace(" ", "-") == "facefold-face-gender" and 6 <= len(dataset["title"]) <= 50
    assert metadata["competition_sources"] == ["face-gender"] and metadata["code_file"] == "kernel.py"
    assert metadata["enable_internet"] is metadata["enable_gpu"] is False and metadata["is_private"] is True


def test_a_long_name_is_cut_to_what_kaggle_takes(tmp_path):
    pack.clear_upload(tmp_path / "out")
    pack.write_metadata(tmp_path / "out", "someone", "a" * 40 + "-" + "b" * 40, gpu=True)
    metadata = json.loads((tmp_path / "out/kernel/kernel-metadata.json").read_text())
    assert metadata["id"] == "someone/facefold-" + "a" * 40 and metadata["enable_gpu"] is True


@pytest.mark.parametrize(
    "user, slug, message", [("Some One", "face", "--user Some One: "), ("someone", "c/face", "--competition c/face: ")]
)
def test_invalid_names_are_refused(tmp_path, user, slug, message):
    with pytest.raises(InputError, match=message + "it is the last part of its page's address"):
        pack.write_metadata(tmp_path, user, slug, gpu=False)


def test_only_an_earlier_upload_folder_is_replaced(tmp_path):
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(InputError, match="is there and is no upload folder of this program: choose another --out"):
        pack.clear_upload(tmp_path)
    assert (tmp_path / "thesis.doc").exists()
    out = tmp_path / "out"
    pack.clear_upload(out)
    (out / "dataset" / pack.MARK).write_text("{}")
    (out / "dataset" / "old").write_text("of before")
    pack.clear_upload(out)
    assert sorted(path.name for path in out.rglob("*")) == ["dataset", "kernel"]


def test_the_folds_are_packed_without_their_readme(tmp_path):
    out, root = tmp_path / "out", tmp_path / "root"
    pack.clear_upload(out)
    for name in ("folds/README.md", "folds/folds.csv", "submissions/submission.csv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    options = {"method": "auto", "weights": "auto", "recipes": ["a"], "leaks": []}
    pack.fill_upload(out, root, {"options": options, "members": []}, folds=2)
    assert [path.name for path in (out / "dataset" / "folds").iterdir()] == ["folds.csv"]
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
            {"method": "mean", "weights": "auto", "recipes": ["a"], "leaks": ["order"], "labels": True},
            ["--recipes", "a", "--method", "mean", "--weights=auto", "--use-order", "--labels"],
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
        pack.fetch_wheels(tmp_path, "11")


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
