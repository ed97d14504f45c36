import numpy as np
import pytest

from facefold.data.audit import check_images, images_without_row
from facefold.data.competition import load_competition
from facefold.data.images import decode_image
from facefold.data.synthetic import write_synthetic_competition, is_synthetic
from facefold.utils.errors import InputError


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_drawn_competition_keeps_the_contract_and_says_what_it_is(tmp_path):
    assert write_synthetic_competition(tmp_path, train=60, test=20, size=32)
    found = load_competition(tmp_path)
    table = check_images(found)
    assert (len(found.train), len(found.test)) == (60, 20)
    assert table[["width", "height"]].drop_duplicates().to_numpy().tolist() == [[32, 32]]
    assert images_without_row(found) == []
    assert is_synthetic(tmp_path)
    assert (tmp_path / "competition" / "DRAWN.txt").read_text().startswith("This competition is drawn by a program")


def test_the_same_arguments_give_the_same_bytes_another_seed_others(tmp_path):
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        write_synthetic_competition(tmp_path / name, train=20, test=10, size=32, seed=seed)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") != tree(tmp_path / "c")


def test_drawn_again_only_when_it_would_differ(tmp_path):
    write_synthetic_competition(tmp_path, train=20, test=10, size=32)
    assert not write_synthetic_competition(tmp_path, train=20, test=10, size=32)
    assert write_synthetic_competition(tmp_path, train=30, test=10, size=32)
    assert len(load_competition(tmp_path).train) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["competition"]


def test_it_has_twins_one_pair_of_them_labelled_differently(tmp_path):
    write_synthetic_competition(tmp_path, train=60, test=20, size=32)
    found = load_competition(tmp_path)
    table = check_images(found).set_index("id")
    labels = found.train.set_index("id")["label"]
    assert table["sha256"]["1"] == table["sha256"]["2"] and labels["1"] != labels["2"]
    train, test = (table.loc[table["split"] == split, "sha256"] for split in ("train", "test"))
    assert train.duplicated(keep=False).sum() == 6
    assert test.isin(train).sum() == 1


def test_the_two_kinds_differ_but_overlap(tmp_path):
    """Redness of the mouth alone tells the kinds apart better than chance and far from always."""
    write_synthetic_competition(tmp_path)
    found = load_competition(tmp_path)
    assert 0.4 < found.train["label"].mean() < 0.6
    mouths = [decode_image(found.image_path("train", id))[40:48, 26:38].astype(int) for id in found.train["id"]]
    red = np.array([(mouth[..., 0] - mouth[..., 1]).mean() / mouth.mean() for mouth in mouths])
    agreement = ((red > np.median(red)) == (found.train["label"] == 1)).mean()
    assert 0.65 < agreement < 0.92


def test_a_real_competition_is_never_drawn_over(tmp_path):
    (tmp_path / "competition").mkdir()
    (tmp_path / "competition" / "train.csv").write_text("id,label\n")
    with pytest.raises(InputError, match="holds a competition that was not drawn and is left as it is"):
        write_synthetic_competition(tmp_path)
    assert list(tree(tmp_path)) == ["competition/train.csv"]
    assert not is_synthetic(tmp_path)


def test_too_small_to_be_drawn(tmp_path):
    with pytest.raises(InputError, match="at least 20 train rows, 10 test rows and 16 pixels"):
        write_synthetic_competition(tmp_path, train=5)
