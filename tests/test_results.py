"""What the steps wrote is known by its path, all of it; nothing else is removed with a synthetic competition."""

import pytest

from facefold.data.results import find_results, remove_results
from facefold.ensemble.leaks import LEAKS
from facefold.ensemble.methods import METHOD_NAMES, REGRESSION_METHOD_NAMES
from facefold.runs import CHECKPOINT_FILE, RESULT_FILES
from facefold.utils.errors import InputError

HASH = "0123456789ab"
PER_TARGET = [
    "report.html",
    "cache/budget.json",
    "cache/session.json",
    "cache/steps/run_all.json",
    "cache/frozen/vgg16/0123abcd/train_epoch_0.npy",
    "cache/teachers/face_svm/0123456789abcdef/without_0_1.csv",
    "cache/teachers/face_svm/0123456789abcdef/without_0_1.csv.sha256",
    "folds/folds.csv",
    "folds/folds.json",
    "folds/fold_10_train.csv",
    "folds/fold_0_valid.csv",
    "runs/label_issues.csv",
    "runs/lite0+corrected/oof.csv",
    *(f"runs/cnn5/fold_0/{name}" for name in (*RESULT_FILES, "run.json", CHECKPOINT_FILE)),
    *(f"submissions/{name}.csv" for name in (*METHOD_NAMES, *REGRESSION_METHOD_NAMES, *LEAKS)),
    *(f"submissions/{name}.csv" for name in ("submission", "leaderboard", "oof_blend", "test_blend", "log")),
    "submissions/blend.json",
    "submissions/added_my.mate_oof.csv",
    "submissions/added_my.mate_test.csv",
    "submissions/added_lite0~size=160@3#1+corrected_oof.csv",
    "tensorboard/cnn5/fold_0/events.out.tfevents.1700000000.host.1.0",
    "tensorboard/cnn5/summary/events.out.tfevents.1700000000.host.1.0",
]
OURS = [
    *PER_TARGET,
    *(f"targets/age/{name}" for name in PER_TARGET),
    "label_issues.html",
    "cache/images.csv",
    "cache/images.json",
    f"cache/thumbnails_1_{HASH}.csv",
    f"cache/thumbnails_1_{HASH}.npy",
    f"cache/duplicates_1_{HASH}.csv",
    f"cache/train_96px_{HASH}_0.npy",
    f"cache/train_96px_crop0.88_{HASH}_0.npy",
    f"cache/extra_96x64px_crop0.88_{HASH}_0.npy",
    f"cache/train_96px_{HASH}_0.npy.sha256",
    f"cache/.train_96px_{HASH}_1.npy.part",
    "cache/.ray_" + "0" * 32,
    "cache/frozen/sweep_lite0/0123abcd/0123abcd/train_plain.npy",
    "compare/comparison.csv",
    "compare/comparison.png",
    "compare/resnet18_0123abcd/history.csv",
    "compare/resnet18_0123abcd/result.json",
    "compare/resnet18_0123abcd/checkpoint.pt",
    "sweep/lite0/sweep.csv",
    "sweep/lite0/lite0~lr=0.001_0123abcd/result.json",
]
FOREIGN = [
    "cache/wheels/1",
    "cache/thumbnails_mine.csv",
    "compare/table.csv",
    "folds/fold_0_train_backup.csv",
    "runs/exp1/events.out.tfevents.1",
    "runs/cnn5/notes.txt",
    "runs/cnn5/fold_0/notes.txt",
    "submissions/added_notes.csv",
    "submissions/my best.csv",
    "sweep/lite0/notes.txt",
    "targets/age/notes.txt",
    "tensorboard/exp1/events.out.tfevents.1",
]


def write(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_all_that_the_steps_write_is_removed(tmp_path):
    write(tmp_path, OURS)
    (tmp_path / "cache" / "frozen" / "vgg16" / "0123abcd" / "train_plain.lock").mkdir()
    remove_results(find_results(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_readme_hidden_files_and_links_to_another_disk_stay(tmp_path):
    root, disk = tmp_path / "root", tmp_path / "disk"
    kept = ["folds/README.md", "runs/.DS_Store", "runs/cnn5/.ipynb_checkpoints/run.json"]
    write(root, [*kept, "folds/folds.csv", "runs/cnn5/fold_0/run.json"])
    disk.mkdir()
    write(disk, ["images.csv"])
    (root / "cache").symlink_to(disk)
    remove_results(find_results(root))
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) == kept
    assert (root / "cache").is_symlink() and not list(disk.iterdir())


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_named_and_nothing_is_removed(tmp_path, name):
    write(tmp_path, [*OURS, name])
    with pytest.raises(InputError) as caught:
        find_results(tmp_path)
    assert str(caught.value).split("\n")[1:-1] == [f"  - {tmp_path / name}"]
    assert str(caught.value).endswith("Nothing was changed.")


def test_a_link_among_the_results_is_foreign(tmp_path):
    write(tmp_path, OURS)
    (tmp_path / "runs" / "shared").symlink_to("/etc")
    with pytest.raises(InputError, match=f"  - {tmp_path}/runs/shared\n"):
        find_results(tmp_path)
