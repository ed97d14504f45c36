import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facefold.data import audit, duplicates
from facefold.data.audit import THUMBNAIL_SIDE, THUMBNAIL_VERSION, check_images, load_thumbnails
from facefold.data.competition import load_competition
from facefold.data.image_hashes import load_images_hash
from facefold.data.images import read_thumbnail
from facefold.data.layout import install_competition
from facefold.data.synthetic import write_synthetic_competition
from facefold.utils.errors import InputError
from facefold.utils.files import write_text

SHARED = Path(__file__).resolve().parents[2] / "shared"
CHANGES = {
    "quality 40": lambda picture: jpeg(picture, 40),
    "quality 75": lambda picture: jpeg(picture, 75),
    "smaller": lambda picture: jpeg(cv2.resize(picture, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)),
    "larger": lambda picture: jpeg(cv2.resize(picture, None, fx=1.2, fy=1.2, interpolation=cv2.INTER_CUBIC)),
    "brighter": lambda picture: jpeg(np.clip(picture * 1.2 + 10, 0, 255).astype(np.uint8)),
    "darker": lambda picture: jpeg((picture * 0.7).astype(np.uint8)),
    "mirrored": lambda picture: jpeg(picture[:, ::-1]),
}


def jpeg(picture, quality=92):
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def scene(seed, size=96):
    """A picture unlike those of other seeds: clouds of a few sizes, uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    clouds = sum(cv2.GaussianBlur(rng.normal(size=(size, size, 3)), (0, 0), blur) * blur for blur in (1.5, 4, 12))
    return np.clip(128 + 100 * clouds, 0, 255).astype(np.uint8)


def write_competition(root, train, test):
    """A competition of these JPEG bytes {id: bytes}, checked; labels take turns."""
    for split, pictures in (("train", train), ("test", test)):
        (root / "competition" / split).mkdir(parents=True)
        for id, data in pictures.items():
            (root / "competition" / split / f"{id}.jpg").write_bytes(data)
    write_text(
        root / "competition" / "train.csv", "id,label\n" + "".join(f"{id},{n % 2}\n" for n, id in enumerate(train))
    )
    write_text(root / "competition" / "test.csv", "id\n" + "".join(f"{id}\n" for id in test))
    write_text(root / "competition" / "sampleSubmit.csv", "id,label\n" + "".join(f"{id},0\n" for id in test))
    competition = load_competition(root)
    check_images(competition)
    return competition


def find(competition):
    return duplicates.find_duplicates(competition, check_images(competition))


def groups_of(table):
    """The groups of more than one image, each as its names in order."""
    names = table["split"] + "/" + table["id"]
    parts = [part.tolist() for _, part in names.groupby(table["group"].to_numpy(), sort=False)]
    return [part for part in parts if len(part) > 1]


def test_every_change_is_seen_through_and_nothing_else_is_joined(tmp_path):
    train = {f"a{n}": jpeg(scene(n)) for n in range(60)}
    test = {f"t{n}": change(scene(n)) for n, change in enumerate(CHANGES.values())}
    competition = write_competition(tmp_path, train, test)
    assert groups_of(find(competition)) == [[f"train/a{n}", f"test/t{n}"] for n in range(len(CHANGES))]


def test_a_group_is_named_by_its_first_image_and_closed_over_train_and_test(tmp_path):
    competition = write_competition(
        tmp_path,
        {"9": jpeg(scene(0)), "1": jpeg(scene(1)), "5": jpeg(scene(0)[:, ::-1])},
        {"3": jpeg(scene(2)), "2": jpeg(scene(0), 60), "4": jpeg(scene(2), 50)},
    )
    table = find(competition)
    assert list(table.columns) == ["split", "id", "group"]
    assert (table["split"] + "/" + table["id"]).tolist() == [
        "train/9",
        "train/1",
        "train/5",
        "test/3",
        "test/2",
        "test/4",
    ]
    assert table["group"].tolist() == ["train/9", "train/1", "train/9", "test/3", "train/9", "test/3"]


def test_pictures_without_features_are_joined_by_their_bytes_alone(tmp_path):
    flat = {name: jpeg(np.full((40, 40, 3), shade, np.uint8)) for name, shade in (("1", 90), ("2", 91), ("3", 90))}
    assert groups_of(find(write_competition(tmp_path, flat, {"7": jpeg(np.full((40, 40, 3), 90, np.uint8), 50)}))) == [
        ["train/1", "train/3"]
    ]


def test_a_second_call_opens_nothing_and_a_changed_image_is_seen(tmp_path, monkeypatch):
    competition = write_competition(tmp_path, {"1": jpeg(scene(1)), "2": jpeg(scene(2))}, {"3": jpeg(scene(1), 70)})
    first = find(competition)
    with monkeypatch.context() as patch:
        patch.setattr(audit, "read_thumbnail", lambda *_: pytest.fail("an image was opened"))
        patch.setattr(duplicates, "candidate_pairs", lambda *_: pytest.fail("pairs were searched"))
        assert find(competition).equals(first)
    competition.image_path("test", "3").write_bytes(jpeg(scene(2), 70))
    assert groups_of(find(competition)) == [["train/2", "test/3"]]
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    sha256 = load_images_hash(tmp_path)[:12]
    sealed = [
        f"duplicates_{duplicates.VERSION}_{sha256}.csv",
        f"thumbnails_{THUMBNAIL_VERSION}_{sha256}.csv",
        f"thumbnails_{THUMBNAIL_VERSION}_{sha256}.npy",
    ]
    assert kept == sorted(["images.csv", "images.json", *sealed, *(f"{name}.sha256" for name in sealed)])


def test_images_must_be_checked_before(tmp_path):
    competition = write_competition(tmp_path, {"1": jpeg(scene(1)), "2": jpeg(scene(2))}, {"3": jpeg(scene(3))})
    table = check_images(competition)
    (tmp_path / "cache" / "images.csv").unlink()
    with pytest.raises(
        InputError, match=re.escape("the images were not checked yet. Run `python src/audit.py` first.")
    ):
        duplicates.find_duplicates(competition, table)


def candidates(*hashes: np.ndarray) -> np.ndarray:
    """All pairs, each once, sorted."""
    return np.unique(np.concatenate(list(duplicates.candidate_pairs(*hashes))), axis=0)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_set_bits_are_counted(words):
    assert duplicates._count_bits(np.array(words, dtype=np.uint64)).tolist() == [word.bit_count() for word in words]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.4))
def test_no_pair_that_correlates_is_ruled_out_by_the_lowest_frequencies(seed, noise):
    rng = np.random.default_rng(seed)
    base = np.stack([cv2.resize(scene(k)[..., 0], (32, 32), interpolation=cv2.INTER_AREA) for k in range(4)]).astype(
        float
    )
    others = base[:, :, ::-1] if seed % 2 else base
    grey = np.clip(np.concatenate([base, others + noise * 60 * rng.normal(size=base.shape)]), 0, 255).astype(np.uint8)
    pairs = np.array([[a, b, seed % 2] for a in range(4) for b in range(4, 8)])
    standard = duplicates._standardise(grey)
    seen = standard[:, :, ::-1] if seed % 2 else standard
    correlation = np.array([(standard[a] * seen[b]).mean() for a, b, _ in pairs])
    may = duplicates.compute_fingerprints(grey, np.arange(8)).may_match(pairs)
    assert may[correlation >= duplicates.WHOLE].all() and not may[correlation < 0.3].any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sets(st.integers(0, duplicates.BITS - 1), max_size=7), st.booleans())
def test_hashes_that_differ_in_seven_bits_are_always_compared(seed, flipped, mirrored):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (2, 50, duplicates.BITS), dtype=np.uint8)  # of 50 pictures and their mirror images
    bits[int(mirrored), 33] = bits[0, 12]
    bits[int(mirrored), 33, list(flipped)] ^= 1
    assert [12, 33, int(mirrored)] in candidates(*np.packbits(bits, axis=2)).tolist()


def test_far_hashes_are_no_candidates_and_a_picture_is_no_candidate_of_itself():
    bits = np.zeros((2, 4, duplicates.BITS), dtype=np.uint8)
    bits[:, 1, : duplicates.MAX_DISTANCE] = 1
    bits[:, 2, : duplicates.MAX_DISTANCE + 1] = 1
    bits[:, 3, 64:] = 1
    pairs = candidates(*np.packbits(bits, axis=2))
    assert pairs.tolist() == [[0, 1, 0], [0, 1, 1], [1, 2, 0], [1, 2, 1]]


def test_hundreds_of_copies_are_one_group_without_all_their_pairs():
    rng = np.random.default_rng(0)
    grey = np.stack([cv2.resize(scene(0)[..., 0], (32, 32), interpolation=cv2.INTER_AREA)] * 400)
    grey = np.clip(grey + rng.integers(-2, 3, grey.shape), 0, 255).astype(np.uint8)
    assert (duplicates.group_pictures(grey, np.arange(400)) == 0).all()
    prints = duplicates.compute_fingerprints(grey, np.arange(400))
    pairs = candidates(prints.hashes, prints.mirrored)
    assert prints.may_match(pairs).all()
    assert (np.diff(pairs[:, :2]) > 0).all() and len(pairs) < 400 * 399 // 4


def test_same_picture_by_its_whole_and_by_what_is_fine_in_it():
    base = cv2.resize(scene(0)[..., 0], (32, 32), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(base, (0, 0), 2)
    other = cv2.resize(scene(1)[..., 0], (32, 32), interpolation=cv2.INTER_AREA).astype(float)
    other_detail = np.clip(blurred + 0.4 * (other - cv2.GaussianBlur(other, (0, 0), 2)), 0, 255).astype(
        np.uint8
    )  # other detail
    grey = np.stack([base, (base * 0.6 + 20).astype(np.uint8), base[:, ::-1], blurred, other_detail])
    zeros = np.zeros(4, dtype=np.int64)
    same = duplicates.same_picture(grey, zeros, np.arange(1, 5), np.array([0, 1, 0, 0]))
    assert same[:2].tolist() == [True, True] and not same[3]
    assert not duplicates.same_picture(grey, zeros[:1], np.array([2]), zeros[:1])[0]


def test_cartoons_of_one_style_are_not_joined(tmp_path):
    write_synthetic_competition(tmp_path, train=300, test=100)
    competition = load_competition(tmp_path)
    table = check_images(competition)
    first = (table["split"] + "/" + table["id"]).groupby(table["sha256"]).transform("first")
    assert (duplicates.find_duplicates(competition, table)["group"] == first).all() and first.nunique() == 395


@pytest.mark.skipif(
    not (SHARED / "competition-mini.zip").exists(), reason="../shared, with the mini competition, is not here"
)
def test_real_faces_are_found_again_and_none_is_joined_to_another(tmp_path):
    install_competition(SHARED / "competition-mini.zip", tmp_path)
    competition = load_competition(tmp_path)
    check_images(competition)
    grey = np.array(load_thumbnails(competition).grey)
    own = duplicates.group_pictures(grey, np.arange(len(grey)))
    assert 10 <= (own != np.arange(len(grey))).sum() <= 20  # true ones, looked at: 15 pairs
    chosen = np.random.default_rng(0).choice(np.flatnonzero(own == np.arange(len(grey)))[:2000], 60, replace=False)
    ids = competition.train["id"].tolist()
    for name, change in CHANGES.items():
        copies = []
        for row in chosen:
            (tmp_path / "copy.jpg").write_bytes(change(cv2.imread(str(competition.image_path("train", ids[row])))))
            copies.append(read_thumbnail(tmp_path / "copy.jpg", THUMBNAIL_SIDE)[0])
        group = duplicates.group_pictures(np.concatenate([grey, copies]), np.arange(len(grey) + len(copies)))
        assert (group[: len(grey)] == own).all(), name
        assert set(group[len(grey) :]) <= {*own[chosen], *range(len(grey), len(group))}, name
        assert (group[len(grey) :] == own[chosen]).mean() >= 0.95, name
