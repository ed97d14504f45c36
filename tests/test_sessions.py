"""The notebook that trains on Kaggle, run cell by cell in a folder that stands for /kaggle, session after session.

The steps run in this process, which saves the seconds of their imports, and the clock goes on by 1,000 s an epoch.
"""

import importlib
import json
import shutil
import subprocess
import sys
import time
from copy import copy
from pathlib import Path
from types import SimpleNamespace

import pytest

import run_all
from command import call, few_methods, run, work_here
from facefold.data.synthetic import SYNTHETIC_MARKER, write_synthetic_competition
from facefold.kaggle import session
from facefold.training import budget, fold, plan
from facefold.utils import processes
from facefold.utils.errors import InputError
from facefold.utils.processes import STARTER

RUN = "demo_cnn@3"  # in two folds: six epochs
STEPS = ("audit", "blend", "pack", "predict", "report", "run_all", "split", "train")
for step in STEPS:
    importlib.import_module(step)  # from src/, not from the packed copy that a notebook puts first on the path


@pytest.fixture(scope="module")
def patched(one_thread):
    """Run steps, jobs and timing in this process; yield the number of epochs that were trained.

    The report, three seconds, is written in sessions with `count.reports`.
    """
    count = SimpleNamespace(epochs=0, reports=False)
    save, started = fold.save_checkpoint, time.monotonic

    def step(self, name: str, *options: str, silent: bool = False) -> None:
        try:
            call(name, self.root, *options)
        except InputError as error:
            print(error)
            raise subprocess.CalledProcessError(2, ["python", f"{name}.py"]) from error

    def run_step(name: str, *options: object) -> float:
        if name == "report" and not count.reports:
            return 1.0
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(STARTER, "1")  # the job holds the root
            call(name, options[1], *options[2:])
        return 1.0

    def save_checkpoint(*arguments) -> None:
        save(*arguments)
        count.epochs += 1

    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        few_methods(patch)
        rates = plan.Rates(0.0, 0.0, 0.0, 0.0)
        patch.setattr(plan, "time_recipes", lambda recipes, devices, target: ([rates for _ in recipes], 0.0))
        patch.setattr(processes, "start_server", lambda: None)
        patch.setattr(session.Session, "_step", step)
        patch.setattr(run_all, "run_step", run_step)
        patch.setattr(fold, "save_checkpoint", save_checkpoint)
        patch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: started() + 1000 * count.epochs))
        patch.setattr(sys, "path", list(sys.path))
        yield count


class Kaggle:
    """A folder with input/, working/ and temp/, in which a notebook runs."""

    def __init__(self, folder: Path, upload: Path, competition: Path, count: SimpleNamespace):
        self.folder, self.count = folder, count
        self.notebook = json.loads((upload / "kernel" / "train.ipynb").read_text())
        shutil.copytree(upload / "dataset", folder / "input" / "datasets" / "someone" / "facefold-faces-train")
        shutil.copytree(competition, folder / "input" / "competitions" / "faces")

    @property
    def working(self) -> Path:
        return self.folder / "working"

    @property
    def root(self) -> Path:
        return self.folder / "temp" / "facefold"

    def run(self, time: str) -> int:
        """Run all cells in a session of this time, on what the one before left; return the epochs it trained."""
        shutil.rmtree(self.folder / "temp", ignore_errors=True)
        if self.working.exists():
            former = self.folder / "input" / "notebooks" / "someone" / "facefold-faces-train"
            shutil.rmtree(former, ignore_errors=True)
            former.parent.mkdir(parents=True, exist_ok=True)
            self.working.rename(former)
        self.count.epochs, names = 0, {}
        for cell in self.notebook["cells"]:
            source = cell["source"].replace('"/kaggle/', f'"{self.folder}/').replace('"8h30m"', f'"{time}"')
            if cell["cell_type"] == "code":
                exec(source.replace("OPTIONS = []", 'OPTIONS = ["--folds", "2"]'), names)
        return self.count.epochs

    def files(self) -> dict[str, bytes]:
        """Return what must not depend on where a session ended."""
        paths = [self.working / "submission.csv", *(path for path in (self.root / "runs").rglob("*") if path.is_file())]
        paths = [path for path in paths if path.name not in ("run.json", "history.csv")]  # with seconds in them
        assert len(paths) == 1 + 1 + 2 * 5
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def upload(tmp_path_factory, patched) -> Path:
    """Pack where there is no competition, for one on Kaggle; return the upload folder, next to the competition."""
    folder = tmp_path_factory.mktemp("upload")
    write_synthetic_competition(folder, train=40, test=10, size=32)
    (folder / "competition" / SYNTHETIC_MARKER).unlink()
    (folder / "empty").mkdir()
    options = ("--train", RUN, "--session", "8h30m", "--cpu", "--user", "someone", "--competition", "faces")
    packed = run("pack", folder / "empty", *options, "--no-wheels", "--out", folder / "out")
    assert packed.returncode == 0, packed.stderr
    return folder / "out"


@pytest.fixture(scope="module")
def undivided(tmp_path_factory, upload, patched) -> Kaggle:
    kaggle = Kaggle(tmp_path_factory.mktemp("undivided"), upload, upload.parent / "competition", patched)
    assert kaggle.run("8h30m") == 6
    return kaggle


def test_three_sessions_end_with_the_bytes_of_one(tmp_path, upload, undivided, patched, monkeypatch, capsys):
    kaggle = Kaggle(tmp_path, upload, upload.parent / "competition", patched)
    assert kaggle.run("1500s") == 2
    first = capsys.readouterr().out
    assert "former session: none" in first and "nothing is trained yet" in first
    assert f"{RUN} fold 0: the session is over after epoch 2 of 3; its checkpoint is kept" in first
    assert f"{RUN}: 2 of 2 folds are left, as the session is over" in first
    assert f"not finished: {RUN} (2 folds). The same command goes on with these" in first
    assert f"MB in {kaggle.working}/facefold: {RUN} (0 of 2 folds finished)\nto go on: run the notebook" in first
    assert not (kaggle.working / "submission.csv").exists()
    assert [path.name for path in kaggle.working.rglob("*.pt")] == ["checkpoint.pt"]

    assert kaggle.run("1500s") == 2  # the last of fold 0, the first of fold 1
    second = capsys.readouterr().out
    assert f"continuing with {RUN} (0 of 2 folds finished)" in second
    assert f"{RUN}: 1 of 2 folds are left" in second and f"facefold: {RUN} (1 of 2 folds finished)" in second

    monkeypatch.setattr(patched, "reports", True)
    assert kaggle.run("8h30m") == 2
    third = capsys.readouterr().out
    assert f"{RUN} (2 of 2 folds finished)\nall is trained. Where the competition runs" in third
    assert kaggle.files() == undivided.files()
    assert (kaggle.working / "report.html").is_file() and not list(kaggle.working.rglob("*.pt"))


def test_once_all_is_trained_hidden_test_images_of_any_number_are_predicted(undivided, tmp_path, patched, capsys):
    kaggle = copy(undivided)
    kaggle.folder = shutil.copytree(undivided.folder, tmp_path / "kaggle")
    rows = dict(line.split(",") for line in (kaggle.working / "submission.csv").read_text().splitlines()[1:])
    runs = {path.name: path.read_bytes() for path in (kaggle.working / "facefold").rglob("run.json")}
    data = kaggle.folder / "input" / "competitions" / "faces"
    ids = {f"hidden{id}": id for id in list(rows)[:7]}
    for id, former in ids.items():
        (data / "test" / f"{former}.jpg").rename(data / "test" / f"{id}.jpg")
    (data / "test.csv").write_text("id\n" + "".join(f"{id}\n" for id in ids))
    (data / "sampleSubmit.csv").write_text("id,label\n" + "".join(f"{id},0\n" for id in ids))
    assert kaggle.run("8h30m") == 0
    out = capsys.readouterr().out
    assert f"the test images are others than before: nothing is trained, {RUN} predict them" in out
    assert out.endswith("all was trained before: this version only predicts, and can be submitted\n")
    expected = "id,label\n" + "".join(f"{id},{rows[former]}\n" for id, former in ids.items())
    assert (kaggle.working / "submission.csv").read_text() == expected
    kept = {path.name: path.read_bytes() for path in (kaggle.working / "facefold").rglob("run.json")}
    assert kept == runs  # as before: they go on with the images that they are of
