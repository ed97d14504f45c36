"""The synthetic competition keeps the rules, is the same for the same arguments, and never replaces a real one."""

import numpy as np
import pytest

from facefold.data.audit import check_images, images_without_row
from facefold.data.competition import load_competition
from facefold.data.images import decode_image
from facefold.data.synthetic import is_synthetic, write_synthetic_competition
from facefold.utils.errors import InputError


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_synthetic_competition_keeps_the_rules_and_says_what_it_is(tmp_path):
    assert write_synthetic_competition(tmp_path, train=60, test=20, size=32)
    competition = load_competition(tmp_path)
    images = check_images(competition)
    assert (len(competition.train), len(competition.test)) == (60, 20)
    assert images[["width", "height"]].drop_duplicates().to_numpy().tolist() == [[32, 32]]
    assert images_without_row(competition) == []
    assert is_synthetic(tmp_path)
    assert (tmp_path / "competition" / "SYNTHETIC.txt").read_text().startswith("This competition is synthetic: ")


def test_the_same_arguments_give_the_same_bytes_another_seed_others(tmp_path):
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        write_synthetic_competition(tmp_path / name, train=20, test=10, size=32, seed=seed)
    assert files(tmp_path / "a") == files(tmp_path / "b") != files(tmp_path / "c")


def test_it_is_written_again_only_if_it_would_differ(tmp_path):
    write_synthetic_competition(tmp_path, train=20, test=10, size=32)
    assert not write_synthetic_competition(tmp_path, train=20, test=10, size=32)
    assert write_synthetic_competition(tmp_path, train=30, test=10, size=32)
    assert len(load_competition(tmp_path).train) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["competition"]


def test_it_has_duplicates_one_pair_of_them_with_both_labels(tmp_path):
    write_synthetic_competition(tmp_path, train=60, test=20, size=32)
    competition = load_competition(tmp_path)
    images = check_images(competition).set_index("id")
    labels = competition.train.set_index("id")["label"]
    assert images["sha256"]["1"] == images["sha256"]["2"] and labels["1"] != labels["2"]
    train, test = (images.loc[images["split"] == split, "sha256"] for split in ("train", "test"))
    assert train.duplicated(keep=False).sum() == 6
    assert test.isin(train).sum() == 1


def test_the_two_kinds_differ_but_overlap(tmp_path):
    """Redness of the mouth alone separates the kinds better than chance and far from always."""
    write_synthetic_competition(tmp_path)
    competition = load_competition(tmp_path)
    train = competition.train
    assert 0.4 < train["label"].mean() < 0.6
    mouths = [decode_image(competition.image_path("train", id))[40:48, 26:38].astype(int) for id in train["id"]]
    red = np.array([(mouth[..., 0] - mouth[..., 1]).mean() / mouth.mean() for mouth in mouths])
    agreement = ((red > np.median(red)) == (train["label"] == 1)).mean()
    assert 0.65 < agreement < 0.92


def test_a_real_competition_is_never_overwritten(tmp_path):
    (tmp_path / "competition").mkdir()
    (tmp_path / "competition" / "train.csv").write_text("id,label\n")
    with pytest.raises(InputError, match="holds a competition that is not synthetic; choose another --root"):
        write_synthetic_competition(tmp_path)
    assert list(files(tmp_path)) == ["competition/train.csv"]
    assert not is_synthetic(tmp_path)


def test_a_competition_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least 20 train rows, 10 test rows and 16 pixels"):
        write_synthetic_competition(tmp_path, train=5)
