"""Extra rows: training on labelled images from elsewhere, without a way from held-out labels into their own score."""

import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from command import RECIPE, call, few_methods, refused, run, train_here
from facefold.data import extra_rows
from facefold.data.competition import load_competition
from facefold.data.extra_rows import PREFIX, ExtraRow, ExtraRows, load_extra_rows
from facefold.data.folds import load_folds
from facefold.models import recipe as recipes
from facefold.models import requirements
from facefold.runs import fold_dir, load_predictions, run_names
from facefold.training import fold as fold_module
from facefold.training import workers
from facefold.utils.files import read_json, write_csv
from facefold.utils.npy import NpyRows
from test_pseudo_labels import MEMORISING, write_copies
from tiny_fold import FROZEN, killed_after_an_epoch

pytestmark = pytest.mark.usefixtures("one_thread")
NAME = "demo_cnn+extra"


@pytest.fixture(autouse=True)
def quick_training(tmp_path, monkeypatch):
    """Train in this process, which saves the seconds of each start."""
    train_here(tmp_path / "recipes", monkeypatch, demo_cnn=RECIPE)


@pytest.fixture(scope="module")
def competition(tmp_path_factory) -> Path:
    """Return a root of 20 train rows of noise, whose labels alternate, 20 test rows and two folds."""
    root = tmp_path_factory.mktemp("extra") / "root"
    write_copies(root, 20)
    folder, draw = root / "competition", np.random.default_rng(1)
    for path in (folder / "test").iterdir():  # no copies of the train images here
        write_noise(path, draw)
    write_csv(folder / "train.csv", pd.DataFrame({"id": range(20), "label": np.arange(20) % 2}))
    assert run("audit", root).returncode == 0
    call("split", root, "--folds", "2")
    return root


@pytest.fixture
def root(competition, tmp_path) -> Path:
    return shutil.copytree(competition, tmp_path / "root")


def write_noise(path: Path, draw: np.random.Generator) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = draw.integers(8, 248, (16, 16, 3)).astype(np.uint8)
    cv2.imwrite(str(path), pixels)
    return pixels


def brighter(source: Path, target: Path) -> None:
    """Write a near-duplicate in other bytes: brighter, larger and mirrored."""
    pixels = cv2.flip(cv2.imread(str(source)), 1)
    cv2.imwrite(str(target), cv2.resize(cv2.convertScaleAbs(pixels, alpha=0.8, beta=30), (32, 32)))


@pytest.fixture
def folder(root, tmp_path) -> Path:
    """Return extra rows: two of pictures of their own, near-duplicates of train rows 0 and 1, and of a test row."""
    folder, draw = tmp_path / "more", np.random.default_rng(2)
    for id in ("x", "y"):
        write_noise(folder / "train" / f"{id}.png", draw)
    images = root / "competition"
    for id, source in (("a", "train/0.png"), ("b", "train/1.png"), ("c", "test/20.png")):
        brighter(images / source, folder / "train" / f"{id}.png")
    (folder / "train.csv").write_text("id,source,label\nx,web,0\ny,web,1\na,web,0\nb,web,1\nc,web,1\n")
    return folder


def fold_of(root: Path, id: str) -> int:
    return int(load_folds(root).table.set_index("id").loc[id, "fold"])


def trained_ids(root: Path, monkeypatch: pytest.MonkeyPatch, *options: object) -> list[list[str]]:
    """Train; return the ids that each fold trained on."""
    seen, targets = [], fold_module.training_targets

    def record(train, soft, loss_fn):
        ids, labels, loss = targets(train, soft, loss_fn)
        seen.append(ids)
        return ids, labels, loss

    with monkeypatch.context() as patch:
        patch.setattr(fold_module, "training_targets", record)
        call("train", root, "--recipe", "demo_cnn", *options)
    return seen


def test_no_fold_trains_on_the_picture_of_a_held_out_row(root, folder, monkeypatch, capsys):
    seen, folds = trained_ids(root, monkeypatch, "--extra", folder), load_folds(root)
    held_out = {PREFIX + id: fold_of(root, train_id) for id, train_id in (("a", "0"), ("b", "1"))}
    left_out = [list(held_out.values()).count(fold) for fold in (0, 1)]
    for fold, ids in enumerate(seen):
        extra = [f"{PREFIX}x", f"{PREFIX}y", *(id for id in held_out if held_out[id] != fold)]
        assert ids == [*folds.train(fold)["id"], *extra]
        recorded = read_json(fold_dir(root, NAME, fold) / "run.json")
        assert recorded["extra_rows"] == {
            "rows": 4,
            "trained": 4 - left_out[fold],
            "dropped": ["c"],
            "sha256": recorded["extra"],
        }
        oof = load_predictions(fold_dir(root, NAME, fold) / "oof.csv")
        assert oof["id"].tolist() == folds.valid(fold)["id"].tolist()
    assert (
        f"--extra {folder}: 4 rows to train on; left out of folds 0 to 1, as they show held-out images: "
        f"{left_out[0]}, {left_out[1]}; dropped, as they show test images: 1 (c)\n"
    ) in capsys.readouterr().out
    call("train", root, "--recipe", "demo_cnn")
    assert "extra" not in (plain := read_json(fold_dir(root, "demo_cnn", 0) / "run.json")) and "extra_rows" not in plain


def test_a_row_whose_label_is_not_that_of_its_picture_in_train_csv_is_named(root, folder):
    path = folder / "train.csv"
    path.write_text(path.read_text().replace("b,web,1", "b,web,0"))
    folds = load_folds(root)
    text = load_extra_rows(folder, load_competition(root), folds).describe(folds)
    assert text.endswith("; with another label than a train row of the same picture: 1 (b)")


def test_rows_that_are_joined_through_extra_rows_share_a_picture():
    train = pd.DataFrame({"id": ["1", "2", "3"], "label": [0, 1, 0], "group": ["1", "2", "3"]})
    rows = [ExtraRow(id, 1, Path(), id, id, group) for id, group in (("a", "1"), ("b", "1"), ("c", ".extra/c"))]
    extra = ExtraRows(tuple(rows), (("1", "1"), ("3", "1")))
    for held_out, ids in ((["1"], ["c"]), (["3"], ["c"]), (["2"], ["a", "b", "c"]), ([], ["a", "b", "c"])):
        joined = extra.join(train, held_out)
        assert joined["id"].tolist() == ["1", "2", "3", *(PREFIX + id for id in ids)]
        assert joined["label"].dtype == np.int64
    # Where none is left, the labels are still whole numbers.
    alone = ExtraRows(tuple(rows[:2]), (("1", "1"),)).join(train, ["1"])
    assert alone["id"].tolist() == ["1", "2", "3"] and alone["label"].dtype == np.int64
    assert ExtraRows().join(train, ["1"]) is train and ExtraRows().facts(["1"]) == {} and ExtraRows().hash == ""


def test_the_monitor_has_no_extra_rows_and_none_of_its_pictures_is_trained_on(root, folder, monkeypatch):
    recipe = RECIPE + 'monitor = 0.3\nschedule = "plateau"\n'
    (recipes.RECIPES_DIR / "demo_cnn.toml").write_text(recipe)
    for id in range(20):
        shutil.copy(root / "competition" / "train" / f"{id}.png", folder / "train" / f"copy{id}.png")
    copies, recorded = "".join(f"copy{id},web,{id % 2}\n" for id in range(20)), []
    (folder / "train.csv").write_text("id,source,label\nx,web,0\n" + copies)
    for ids in trained_ids(root, monkeypatch, "--extra", folder):
        own = [id for id in ids if not id.startswith(PREFIX)]
        assert 0 < len(own) < 10 and ids == [*own, f"{PREFIX}x", *(f"{PREFIX}copy{id}" for id in own)]
        recorded.append(len(ids) - len(own))
    runs = [read_json(fold_dir(root, NAME, fold) / "run.json") for fold in (0, 1)]
    assert [run["extra_rows"]["trained"] for run in runs] == recorded


def test_a_folder_per_class(root, tmp_path):
    draw, competition, folds = np.random.default_rng(4), load_competition(root), load_folds(root)
    for name in ("0/p.png", "1/p.png", "1/q.png"):
        write_noise(tmp_path / "classes" / name, draw)
    expected = [("0/p.png", 0), ("1/p.png", 1), ("1/q.png", 1)]
    extra = load_extra_rows(tmp_path / "classes", competition, folds)
    assert [(row.id, row.label) for row in extra.rows] == expected
    shutil.copytree(tmp_path / "classes", tmp_path / "deep" / "train")
    shutil.copytree(tmp_path / "classes" / "1", tmp_path / "deep" / "test")
    deep = load_extra_rows(tmp_path / "deep", competition, folds)
    assert [(row.id.removeprefix("train/"), row.label) for row in deep.rows] == expected
    shutil.rmtree(tmp_path / "classes" / "0")  # of one class, as one may be rare
    assert [row.label for row in load_extra_rows(tmp_path / "classes", competition, folds).rows] == [1, 1]


def test_a_run_is_of_its_extra_rows_wherever_they_are(root, folder, tmp_path):
    train = partial(refused, "train", root, "--recipe", "demo_cnn", "--extra")
    call("train", root, "--recipe", "demo_cnn", "--extra", folder)
    assert run_names(root) == [NAME]
    moved = folder.rename(tmp_path / "moved")
    before = [path.stat().st_mtime_ns for path in fold_dir(root, NAME, 0).iterdir()]
    call("train", root, "--recipe", "demo_cnn", "--extra", moved)  # nothing to do
    assert before == [path.stat().st_mtime_ns for path in fold_dir(root, NAME, 0).iterdir()]
    stale = (
        f"{root}/runs/{NAME}/fold_0 is stale: it was trained with other extra rows. Move it away, or train over it "
        "with `train.py --recipe demo_cnn --extra DIR --force`."
    )
    csv, image = (moved / "train.csv").read_text(), (moved / "train" / "x.png").read_bytes()
    (moved / "train.csv").write_text(csv.replace("x,web,0", "x,web,1"))
    assert train(moved) == stale
    (moved / "train.csv").write_text(csv)
    write_noise(moved / "train" / "x.png", np.random.default_rng(9))
    assert train(moved) == stale
    (moved / "train" / "x.png").write_bytes(image)
    (moved / "train.csv").write_text(csv.replace("c,web,1\n", ""))  # a row that was dropped
    assert train(moved) == stale
    (moved / "train.csv").write_text(csv)
    call("train", root, "--recipe", "demo_cnn", "--extra", moved)


def test_what_cannot_be_used_is_named_before_training(root, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "run_jobs", lambda *_: pytest.fail("it trained"))
    extra = partial(refused, "train", root, "--recipe", "demo_cnn", "--extra")
    hint = "\nCorrect these, or take the rows and the images out. Nothing was trained."
    csv, images = folder / "train.csv", folder / "train"
    shutil.copy(images / "x.png", images / "z.png")
    (images / "y.png").write_bytes((images / "y.png").read_bytes()[:300])
    csv.write_text("id,label\nx,0\nx,1\ny,1\nz,1\na,woman\nnone,1\n../b,1\n")
    assert extra(folder) == (
        f"--extra {folder} cannot be used:\n"
        f"  - {csv}, row 3: id 'x' appears twice, first in row 2\n"
        f"  - {csv}, row 8: id '../b' would leave the folder\n"
        f"  - {csv}, row 6: label 'woman' is not 0 or 1\n"
        f"  - {images}/y.png (train.csv, row 4) is truncated\n"
        f"  - {images}/none.jpg (train.csv, row 7) is missing\n"
        f"  - {images}/x.png (train.csv, row 2) and {images}/x.png (train.csv, row 3) are the same image with the "
        f"labels 0 and 1\n"
        f"  - {images}/x.png (train.csv, row 2) and {images}/z.png (train.csv, row 5) are the same image with the "
        f"labels 0 and 1{hint}"
    )
    csv.write_text("id,label\nv/x,0\nw/x,0\n")
    assert extra(folder) == (
        f"--extra {folder} cannot be used:\n"
        f"  - {images}/x.png (train.csv, row 3) is the image of the id 'v/x' as well{hint}"
    )
    csv.write_text("name,label\nx,0\n")
    assert extra(folder) == (
        f"--extra {folder} cannot be used:\n  - {csv}, row 1: the header is 'name,label', expected 'id,label'{hint}"
    )
    csv.write_text("id,label\nc,1\n")
    assert extra(folder) == f"--extra {folder}: every image is that of a test row, so nothing is left to train on"
    csv.unlink()
    assert extra(folder) == (
        f"--extra {folder}: it holds neither a train.csv (or labels.csv) nor a folder for each class"
    )
    images.rename(folder / "2")
    (folder / "1").mkdir()
    (folder / "2" / "a.png").rename(folder / "1" / "a.png")
    (folder / "2" / "b.png").rename(folder / "b.png")
    for name in "xyz":
        (folder / "2" / f"{name}.png").unlink()
    assert extra(folder) == (
        f"--extra {folder} cannot be used:\n"
        f"  - {folder}/2/c.png: its folder '2' is none of the classes 0, 1\n"
        f"  - {folder}/b.png: it is in no folder of a class: 0, 1{hint}"
    )
    assert extra(tmp_path / "none") == f"--extra {tmp_path}/none: there is no such folder (a zip has to be unpacked)"
    assert extra(folder, "--budget", root / "budget.json") == (
        "--budget is for the runs that run_all.py plans, which have no extra rows; leave it out"
    )


def test_numbers_and_features_from_elsewhere_are_refused(root, folder):
    ids = [str(id) for id in range(20)]
    write_csv(root / "competition" / "meta.csv", pd.DataFrame({"id": ids, "age": np.arange(20.0)}))
    call("split", root, "--target", "age", "--folds", "2")
    assert refused("train", root, "--target", "age", "--recipe", "demo_cnn", "--extra", folder) == (
        "--extra takes labels of classes, and age is a number; leave --extra out"
    )
    features = root / "features"
    features.mkdir()
    all_ids = [str(id) for id in range(40)]
    write_csv(features / "mine.csv", pd.DataFrame({"id": all_ids}))
    np.save(features / "mine.npy", np.zeros((40, 3), dtype=np.float32))
    assert refused("train", root, "--features", "mine", "--classifier", "svm", "--extra", folder) == (
        "mine.svm: there are no features of extra rows; leave --extra out"
    )


def test_a_killed_run_continues_with_the_same_bytes(root, folder, monkeypatch):
    options = ("--recipe", "demo_cnn", "--extra", folder, "--fold", "0")
    with killed_after_an_epoch(monkeypatch):
        call("train", root, *options)
    path = fold_dir(root, NAME, 0) / "weights.safetensors"
    assert not path.exists()
    call("train", root, *options)
    resumed = path.read_bytes()
    shutil.rmtree(root / "runs")
    shutil.rmtree(root / "cache")
    call("audit", root)
    call("train", root, *options)
    assert path.read_bytes() == resumed


def test_frozen_stages_have_the_augmented_views_of_the_extra_rows_too(root, folder, monkeypatch):
    monkeypatch.setattr(requirements, "check_disk_space", lambda *_: "enough")  # which takes a process of its own
    lines = [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in FROZEN.items()]
    (recipes.RECIPES_DIR / "frozen.toml").write_text("\n".join(lines).replace("epochs = 4", "epochs = 1"))
    call("train", root, "--recipe", "frozen", "--extra", folder, "--fold", "0")
    caches = root / "cache" / "frozen" / "frozen+extra"
    views = {path.name: len(NpyRows([path])) for path in caches.rglob("*.npy")}
    assert views == {
        **dict.fromkeys(("train_extra_epoch_0.npy", "train_extra_plain.npy", "train_extra_mirror.npy"), 24),
        **dict.fromkeys(("test_plain.npy", "test_mirror.npy"), 20),
    }
    (key,) = (path.name for path in caches.iterdir())
    (folder / "train.csv").write_text((folder / "train.csv").read_text().replace("y,web,1\n", ""))
    call("train", root, "--recipe", "frozen", "--extra", folder, "--fold", "0", "--force")
    assert key not in [path.name for path in caches.iterdir()]  # activations of other images


def test_a_run_with_extra_rows_is_blended_reported_and_predicted_with_like_any_other(root, folder, monkeypatch):
    few_methods(monkeypatch)
    extra = ("--recipe", "demo_cnn", "--extra", folder)
    call("train", root, *extra)
    call("train", root, *extra, "--pseudo", NAME)
    names = [NAME, "demo_cnn+pseudo+extra"]
    assert run_names(root) == names
    both = read_json(fold_dir(root, names[1], 0) / "run.json")
    assert both["extra"] == read_json(fold_dir(root, NAME, 0) / "run.json")["extra"] and both["pseudo"]
    shutil.rmtree(folder)  # from here on it is not needed
    call("blend", root, "--method", "mean")
    assert [member["recipe"] for member in read_json(root / "submissions" / "blend.json")["members"]] == names
    call("report", root)
    page = (root / "report.html").read_text()
    for command in (
        "--recipe demo_cnn --seed 0 --extra DIR",
        f"--recipe demo_cnn --seed 0 --pseudo {NAME} --pseudo-weight 0.5 --extra DIR",
    ):
        assert f"python src/train.py {command}\n" in page
    assert "rows from outside of the competition" in page and both["extra_rows"]["sha256"] in page
    call("pack", root, "--out", root / "out", "--user", "me", "--competition", "faces", "--no-wheels")
    assert run_names(root / "out" / "dataset") == names
    tests = [fold_dir(root, name, fold) / "test.csv" for name in names for fold in (0, 1)]
    before = [path.read_bytes() for path in tests]
    call("predict", root, "--test", "--recipes", ",".join(names))
    assert [path.read_bytes() for path in tests] == before


def test_on_shuffled_labels_the_score_stays_at_chance(tmp_path, monkeypatch):
    root, folder, count = tmp_path / "shuffled", tmp_path / "copies", 48
    (recipes.RECIPES_DIR / "demo_cnn.toml").write_text(MEMORISING.replace("epochs = 12", "epochs = 8"))
    write_copies(root, count)
    for path in (root / "competition" / "test").iterdir():
        write_noise(path, np.random.default_rng(int(path.stem)))
    assert run("audit", root).returncode == 0
    call("split", root, "--folds", "2")
    folder.mkdir()
    shutil.copytree(root / "competition" / "train", folder / "train")
    shutil.copy(root / "competition" / "train.csv", folder)

    def accuracy() -> float:
        call("train", root, "--recipe", "demo_cnn", "--extra", folder, "--force", "--quiet")
        oof = load_predictions(root / "runs" / NAME / "oof.csv").set_index("id")["prob"]
        labels = pd.read_csv(root / "competition" / "train.csv", dtype={"id": str}).set_index("id")["label"]
        return float(((oof >= 0.5) == labels.loc[oof.index]).mean())

    honest = accuracy()
    shutil.rmtree(root / "runs")
    monkeypatch.setattr(extra_rows.ExtraRows, "kept", lambda self, held_out: list(self.rows))
    naive = accuracy()
    print(f"accuracy on {count} shuffled labels: {honest:.3f}; without the exclusion {naive:.3f}")
    assert abs(honest - 0.5) <= 3 * 0.5 / np.sqrt(count)
    assert naive > 0.9
