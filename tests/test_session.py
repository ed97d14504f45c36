"""A session on Kaggle with steps that are stand-ins; test_sessions.py runs the real ones."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from command import SRC
from facefold.kaggle import session
from facefold.kaggle.session import SESSION_MARK, Session

AUDIT = """import json, pathlib, sys
root = pathlib.Path(sys.argv[2])
(root / "competition").mkdir(exist_ok=True)
(root / "competition" / "task.toml").write_text('kind = "multiclass"\\nclasses = ["b", "a"]\\nmetric = "auc"\\n')
(root / "cache").mkdir(exist_ok=True)
(root / "cache" / "images.csv").write_text("split,id,sha256\\ntrain,1,a\\ntest,2,b\\n")
(root / "options").write_text(" ".join(sys.argv[3:]))
print("a page")
"""
ROWS = {"train": '[["train", "1", "a"]]', "test": '[["test", "2", "b"]]'}  # that this audit writes
IMAGES = {split: hashlib.sha256(rows.encode()).hexdigest() for split, rows in ROWS.items()}
OTHER_TEST = IMAGES | {"test": "of other images"}
PRINT = "import pathlib, sys\nprint(pathlib.Path(sys.argv[0]).stem, *sys.argv[3:])\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """A folder with input/, what pack.py packed in it, and a competition; return a function that begins a session."""
    monkeypatch.setattr(session, "install_wheels", lambda *_: {})
    for name, text in {"audit": AUDIT, "run_all": PRINT, "predict": PRINT, "blend": PRINT}.items():
        write(tmp_path / "input" / "pack" / "src" / f"{name}.py", text)
    for name in ("train.csv", "test.csv"):
        write(tmp_path / "input" / "faces" / name, "")

    def begin(images: dict | None = None, classes: list[str] | None = None) -> Session:
        settings = {"images": images, "classes": classes or [], "packages": []}
        write(tmp_path / "input" / "pack" / "facefold_pack.json", json.dumps(settings))
        folders = (str(tmp_path / name) for name in ("input", "working", "temp"))
        return Session(tmp_path / "input" / "pack", *folders)

    return begin


def write_fold(base: Path, run: str, fold: int, finished: bool, text: str = "") -> None:
    write(base / "folds" / "folds.json", '{"k": 2}')
    write(base / "runs" / run / f"fold_{fold}" / ("run.json" if finished else "checkpoint.pt"), text)


def kept(folder: Path) -> dict[str, str]:
    runs = folder / "runs"
    return {str(path.relative_to(runs)): path.read_text() for path in sorted(runs.rglob("*")) if path.is_file()}


def test_of_two_states_of_a_fold_the_finished_one_is_taken_else_that_of_the_former_session(tmp_path, kaggle, capsys):
    pack, former = tmp_path / "input" / "pack", tmp_path / "input" / "notebooks" / "facefold"
    write_fold(pack, "lite0", 0, True, "packed")
    write_fold(pack, "lite0", 1, False, "packed")
    write_fold(former, "lite0", 0, False, "former")
    write_fold(former, "lite0", 1, False, "former")
    write(former / SESSION_MARK, json.dumps({"images": IMAGES}))
    begun = kaggle(OTHER_TEST)
    begun.restore()
    assert kept(begun.root) == {"lite0/fold_0/run.json": "packed", "lite0/fold_1/checkpoint.pt": "former"}
    assert begun.images == IMAGES
    assert capsys.readouterr().out.splitlines()[-1] == "continuing with lite0 (1 of 2 folds finished)"


def test_the_steps_get_the_options_and_the_time_that_is_left(tmp_path, kaggle, capsys):
    write(tmp_path / "input" / "pack" / "weights" / "resnet50.safetensors", "")
    begun = kaggle(classes=["a", "b"])
    begun.train("lite0, cnn5", "8h30m", ["--metric", "auc"], ["--folds", "3"])
    out = capsys.readouterr().out
    assert "\n== audit\n\n== run_all\n" in out  # whose page the job shows
    assert (begun.root / "options").read_text() == f"--data {tmp_path}/input/faces --in-place --metric auc"
    line = re.search(r"== run_all\nrun_all --recipes lite0,cnn5 --session (\d+)s (.*)\n", out)
    assert 30000 < int(line[1]) <= 30600
    assert line[2] == f"--weights-dir {tmp_path}/input/pack/weights --folds 3"
    task = (begun.root / "competition" / "task.toml").read_text()
    assert task == 'kind = "multiclass"\nclasses = ["a", "b"]\nmetric = "auc"\n'  # as packed


@pytest.mark.parametrize("name, option", [("train.ZIP", ""), ("sub/test.zip", ""), ("train.csv.zip", " --in-place")])
def test_images_inside_a_zip_do_not_stay_where_they_are(tmp_path, kaggle, capsys, name, option):
    write(tmp_path / "input" / "faces" / name, "")
    begun = kaggle()
    begun.train("lite0", "8h30m")
    assert (begun.root / "options").read_text() == f"--data {tmp_path}/input/faces{option}"


def test_class_folders_with_equal_names_are_found_and_copied(tmp_path, kaggle, capsys):
    for name in ("train.csv", "test.csv"):
        (tmp_path / "input" / "faces" / name).unlink()
    (tmp_path / "input" / "faces").rmdir()
    data, root = tmp_path / "input" / "pets", tmp_path / "temp" / "facefold"
    for number, name in enumerate(("train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "train/dog/3.png")):
        write(data / name, "")
        Image.new("RGB", (8, 8), (60 * number, 90, 120)).save(data / name)
    write(data / "test" / "4.png", "")
    Image.new("RGB", (8, 8), (200, 10, 10)).save(data / "test" / "4.png")
    write(tmp_path / "input" / "notebooks" / "facefold" / SESSION_MARK, json.dumps({"images": None}))
    step = f"import runpy, sys\nsys.path[0] = {str(SRC)!r}\nrunpy.run_path('{SRC}/audit.py', run_name='__main__')\n"
    write(tmp_path / "input" / "pack" / "src" / "audit.py", step)
    begun = kaggle()
    assert begun.data == data
    begun.train("lite0", "1h")
    assert begun.failed == 0
    names = sorted(path.name for path in (root / "competition" / "train").iterdir())
    assert names == ["cat_1.png", "cat_2.png", "dog_1.png", "dog_3.png"]
    out = capsys.readouterr().out
    assert "or another name than the id; leave --in-place out, so that they are copied\nthe images are copied\n" in out


def test_an_audit_that_fails_for_another_reason_is_not_repeated(tmp_path, kaggle, capsys):
    write(tmp_path / "input" / "pack" / "src" / "audit.py", "import sys\nprint('broken')\nsys.exit(2)\n")
    begun = kaggle()
    begun.train("lite0", "1h")
    assert capsys.readouterr().out.endswith("\n== audit\nbroken\n\naudit.py FAILED with exit code 2, see above\n")


def test_no_more_is_kept_than_kaggle_keeps_finished_folds_first(tmp_path, kaggle, monkeypatch, capsys):
    begun = kaggle()
    write_fold(begun.root, "a", 0, False, "x" * 500)
    write_fold(begun.root, "a", 1, True, "x" * 300)
    write_fold(begun.root, "b", 0, True, "x" * 300)
    write_fold(begun.root, "b", 1, False, "x" * 90)
    monkeypatch.setattr(session, "LIMIT", 720)
    begun.keep()
    names = ["a/fold_1/run.json", "b/fold_0/run.json", "b/fold_1/checkpoint.pt"]
    assert list(kept(tmp_path / "working" / "facefold")) == names
    left_out = "0 MB: a fold_0. Leave recipes out: these folds would be trained again"
    assert capsys.readouterr().out.splitlines()[3].endswith(left_out)


def test_a_step_that_fails_costs_nothing_that_is_trained(tmp_path, kaggle, capsys):
    write(tmp_path / "input" / "pack" / "src" / "run_all.py", "import sys\nprint('lite9?')\nsys.exit(2)\n")
    begun = kaggle()
    begun.train("lite9", "1h")
    assert capsys.readouterr().out.endswith("lite9?\n\nrun_all.py FAILED with exit code 2, see above\n")
    with pytest.raises(SystemExit) as stop:
        begun.keep()  # there is nothing: Kaggle may show the notebook as failed
    assert stop.value.code == 2
    write_fold(begun.root, "lite0", 0, True)
    begun.keep()
    assert list(kept(tmp_path / "working" / "facefold")) == ["lite0/fold_0/run.json"]
    assert "\nto go on: run the notebook again (kaggle kernels push), with the output" in capsys.readouterr().out


def test_other_test_images_are_predicted_by_complete_runs_alone(tmp_path, kaggle, capsys):
    pack = tmp_path / "input" / "pack"
    for run, folds in {"lite0+corrected": (0, 1), "cnn5": (0,), "old": (0, 1)}.items():
        for fold in folds:
            write_fold(pack, run, fold, True)
    begun = kaggle(OTHER_TEST)
    begun.restore()
    begun.train("cnn5,lite0", "1h")
    out = capsys.readouterr().out
    assert "lite0+corrected predict them" in out and "run_all" not in out
    assert "predict --test --recipes lite0+corrected\n" in out and "blend --recipes lite0+corrected\n" in out
    begun.keep()
    mark = json.loads((tmp_path / "working" / "facefold" / SESSION_MARK).read_text())
    assert mark == {"images": OTHER_TEST, "retrain": []}
    begun.train("cnn5", "1h")
    assert "FAILED: the test images are others than before, and no run is complete" in capsys.readouterr().out


def test_other_train_images_are_refused_and_are_no_rerun(tmp_path, kaggle, capsys):
    write_fold(tmp_path / "input" / "pack", "lite0", 0, True)
    other = IMAGES | {"train": "of other images"}
    begun = kaggle(other)
    begun.restore()
    begun.train("lite0", "1h")
    pack = tmp_path / "input" / "pack"
    assert f"\nFAILED: other train images than those of the runs in {pack}: add their " in capsys.readouterr().out
    assert begun.failed == 2 and not begun.rerun
    begun.keep()
    assert json.loads((tmp_path / "working" / "facefold" / SESSION_MARK).read_text())["images"] == other


def test_the_images_of_a_split_are_those_of_its_rows_alone(tmp_path):
    write(tmp_path / "cache" / "images.csv", "split,id,sha256\ntrain,1,a\ntest,2,b\n")
    assert session.hash_splits(tmp_path) == IMAGES
    write(tmp_path / "cache" / "images.csv", "split,id,sha256\ntrain,1,a\ntest,3,b\n")
    assert session.hash_splits(tmp_path)["train"] == IMAGES["train"]
    assert session.hash_splits(tmp_path)["test"] != IMAGES["test"]


@pytest.mark.parametrize(
    "options",
    [["-o", "size=160"], ["-osize=160"], ["--folds", "3", "--target=age"], ["--targ", "age"], ["--root", "."]],
)
def test_options_whose_runs_would_not_be_kept_are_refused(kaggle, capsys, options):
    begun = kaggle()
    begun.train("lite0", "1h", options=options)
    refused = next(option for option in options if option not in ("--folds", "3"))
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"FAILED: OPTIONS {refused}: the notebook keeps the runs of RECIPES alone, which predict the label. Leave -o, "
        "--target and --root out, and name a variant in RECIPES, such as lite0~size=160"
    )
    assert begun.failed == 2 and not (begun.root / "options").exists()  # before the audit


def test_other_options_are_not_taken_for_those(kaggle, capsys):
    begun = kaggle()
    begun.train("lite0~size=160", "1h", options=["--seed", "3", "--corrections", "c.csv"])
    assert begun.failed == 0 and " --seed 3 --corrections c.csv\n" in capsys.readouterr().out
    begun.train("", "1h")
    assert capsys.readouterr().out == "FAILED: RECIPES is empty: name what to train, such as lite0,lite1\n"


def test_a_stale_run_is_left_out_once(tmp_path, kaggle, capsys):
    pack, former = tmp_path / "input" / "pack", tmp_path / "input" / "notebooks" / "facefold"
    write_fold(pack, "lite0", 1, False, "packed")
    for run in ("lite0", "cnn5"):
        write_fold(former, run, 0, True, "former")
    write(former / SESSION_MARK, json.dumps({"images": IMAGES}))
    begun = kaggle(IMAGES)
    with pytest.raises(SystemExit, match="^RETRAIN lite9: the former session has no such run; its runs: cnn5, lite0$"):
        begun.restore("lite0,lite9")
    begun.restore("lite0")
    assert "\nleft out, to be trained again: lite0\n" in capsys.readouterr().out
    assert kept(begun.root) == {"cnn5/fold_0/run.json": "former", "lite0/fold_1/checkpoint.pt": "packed"}
    begun.keep()

    session.shutil.rmtree(former)
    (tmp_path / "working" / "facefold").rename(former)  # the next session, with the same settings
    write_fold(former, "lite0", 0, True, "trained again")
    session.shutil.rmtree(tmp_path / "temp")
    capsys.readouterr()
    begun = kaggle(IMAGES)
    begun.restore("lite0")
    assert kept(begun.root)["lite0/fold_0/run.json"] == "trained again"
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, message",
    [
        ("8h30", "SESSION 8h30: a number and a unit are needed"),
        (
            "12h",
            "SESSION 12h: Kaggle ends a session after 12 hours and then keeps nothing of it; take less, such as 11h",
        ),
    ],
)
def test_a_time_that_is_none_costs_nothing_that_is_trained(tmp_path, kaggle, capsys, text, message):
    begun = kaggle(IMAGES)
    write_fold(begun.root, "lite0", 0, True)
    begun.train("lite0", text)
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"FAILED: {message}")
    begun.keep()
    assert list(kept(tmp_path / "working" / "facefold")) == ["lite0/fold_0/run.json"]


def test_a_second_output_of_a_session_is_refused(tmp_path, kaggle):
    for name in ("one", "two"):
        write(tmp_path / "input" / name / SESSION_MARK, '{"images": null}')
    with pytest.raises(SystemExit, match="holds 2 output of a session: "):
        kaggle()
