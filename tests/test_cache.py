import resource
import shutil
import signal

import cv2
import numpy as np
import pytest

from facefold.data import cache, images
from facefold.data.audit import check_images, load_thumbnails
from facefold.data.competition import load_competition
from facefold.data.duplicates import find_duplicates
from facefold.data.image_hashes import load_images_hash
from facefold.data.images import decode_image
from facefold.data.preprocessing import Preprocessing, Shape
from facefold.data.synthetic import write_synthetic_competition
from facefold.utils.errors import InputError


@pytest.fixture
def competition(tmp_path):
    write_synthetic_competition(tmp_path, train=20, test=10, size=32)
    competition = load_competition(tmp_path)
    check_images(competition)
    return competition


def cached(competition, pattern):
    return sorted((competition.root / "cache").glob(pattern))


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("shard", [1 << 30, 7 * 24 * 24 * 3], ids=["one shard", "three shards"])
def test_each_image_in_the_order_of_the_csv(competition, monkeypatch, shard):
    monkeypatch.setattr(images, "_CHUNK", 3)
    monkeypatch.setattr(cache, "SHARD_BYTES", shard)
    assert cache.missing_cache_bytes(competition, Preprocessing(24)) == 30 * 24 * 24 * 3
    cache.build_caches(competition, Preprocessing(24))
    assert cache.missing_cache_bytes(competition, Preprocessing(24)) == 0
    for split, table in (("train", competition.train), ("test", competition.test)):
        opened = cache.open_cache(competition, split, Preprocessing(24))
        assert opened.ids == table["id"].tolist() and opened.pixels.dtype == np.uint8
        for row, id in enumerate(opened.ids):
            assert np.array_equal(opened.pixels[row], decode_image(competition.image_path(split, id), 24))


def test_height_and_width_are_in_the_name_and_in_the_images(competition):
    preprocessing = Preprocessing(Shape(24, 16))
    assert cache.missing_cache_bytes(competition, preprocessing) == 30 * 24 * 16 * 3
    cache.build_caches(competition, preprocessing)
    [path] = cached(competition, "train_*.npy")
    assert path.name == f"train_24x16px_{load_images_hash(competition.root)[:12]}_0.npy"
    opened = cache.open_cache(competition, "train", preprocessing)
    assert opened.pixels.shape == (20, 24, 16, 3)
    whole = decode_image(competition.image_path("train", opened.ids[3]))
    expected = cv2.resize(whole, (16, 24), interpolation=cv2.INTER_AREA)
    assert np.array_equal(opened.pixels[3], expected)


def test_other_caches_are_built_while_the_first_is_used(competition):
    sizes = [Preprocessing(size) for size in (16, 20, 24)]
    with cache.build_caches_ahead(competition, sizes, meanwhile=True):
        assert cache.missing_cache_bytes(competition, sizes[0]) == 0
        opened = cache.open_cache(competition, "test", sizes[2])  # waits, or builds it first
        assert np.array_equal(opened.pixels[0], decode_image(competition.image_path("test", opened.ids[0]), 24))
    assert not any(cache.missing_cache_bytes(competition, size) for size in sizes)


@pytest.mark.parametrize("meanwhile", [False, True])
def test_an_error_of_a_cache_that_is_built_meanwhile_is_raised_at_the_end(competition, monkeypatch, meanwhile):
    build, entered = cache.build_caches, []

    def build_or_fail(competition, preprocessing, extra):
        if preprocessing.size == 20:
            raise InputError("no room")
        build(competition, preprocessing, extra)

    monkeypatch.setattr(cache, "build_caches", build_or_fail)
    sizes = [Preprocessing(16), Preprocessing(20)]
    with (
        pytest.raises(InputError, match="^no room$"),
        cache.build_caches_ahead(competition, sizes, meanwhile=meanwhile),
    ):
        entered.append(meanwhile)
    assert entered == [True] * meanwhile


def test_a_crop_has_shards_of_its_own(competition):
    whole, middle = Preprocessing(16), Preprocessing(16, 0.75)
    for preprocessing in (whole, middle):
        cache.build_caches(competition, preprocessing)
    name = f"{load_images_hash(competition.root)[:12]}_0.npy"
    names = [path.name for path in cached(competition, "train_*px*.npy")]
    assert names == [f"train_16px_{name}", f"train_16px_crop0.75_{name}"]
    flip(cached(competition, "train_16px_crop0.75_*.npy")[0])
    kept = cached(competition, f"train_16px_{name}")[0].stat().st_mtime_ns
    cache.build_caches(competition, middle)
    assert cached(competition, f"train_16px_{name}")[0].stat().st_mtime_ns == kept
    for row, id in enumerate(competition.ids("train")):
        inner = decode_image(competition.image_path("train", id))[4:-4, 4:-4]
        expected = cv2.resize(inner, (16, 16), interpolation=cv2.INTER_AREA)
        assert np.array_equal(cache.open_cache(competition, "train", middle).pixels[row], expected)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_name(f"{path.name}.sha256").unlink(),
    ],
    ids=["flipped", "torn", "empty", "unsealed"],
)
def test_a_damaged_shard_is_named_and_written_again(competition, damage, capsys):
    cache.build_caches(competition, Preprocessing(16))
    (path,) = cached(competition, "train_16px_*.npy")
    content = path.read_bytes()
    damage(path)
    cache.build_caches(competition, Preprocessing(16))
    assert capsys.readouterr().out == f"{path} is not what was written (its checksum differs): it is computed again\n"
    assert path.read_bytes() == content and len(cached(competition, "train_16px_*")) == 2


def test_only_the_damaged_shard_is_written_again(competition, monkeypatch, capsys):
    monkeypatch.setattr(cache, "SHARD_BYTES", 8 * 16 * 16 * 3)
    cache.build_caches(competition, Preprocessing(16))
    shards = cached(competition, "train_16px_*.npy")
    assert [len(np.load(path)) for path in shards] == [8, 8, 4]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in shards]
    flip(shards[1])
    assert cache.estimate_cache_seconds(competition, Preprocessing(16)) == 0
    cache.build_caches(competition, Preprocessing(16))
    assert (
        capsys.readouterr().out == f"{shards[1]} is not what was written (its checksum differs): it is computed again\n"
    )
    after = [(path.read_bytes(), path.stat().st_mtime_ns) for path in shards]
    assert (
        after[0] == before[0] and after[2] == before[2] and after[1][0] == before[1][0] and after[1][1] > before[1][1]
    )
    shards[2].unlink()
    assert cache.missing_cache_bytes(competition, Preprocessing(16)) == 4 * 16 * 16 * 3


@pytest.mark.parametrize("pattern", ["thumbnails_*.npy", "thumbnails_*.csv", "duplicates_*.csv"])
def test_a_damaged_table_of_the_audit_is_named_and_written_again(competition, pattern, capsys):
    groups = find_duplicates(competition, check_images(competition))
    (path,) = cached(competition, pattern)
    content = path.read_bytes()
    flip(path)
    load_thumbnails(competition)
    again = find_duplicates(competition, check_images(competition))
    assert f"{path} is not what was written" in capsys.readouterr().out
    assert path.read_bytes() == content and again.equals(groups)


def test_an_edited_table_of_the_images_is_named_then_written_again(competition):
    path = competition.root / "cache" / "images.csv"
    before = load_images_hash(competition.root)
    flip(path)
    with pytest.raises(
        InputError, match="images.csv is not what the audit wrote .its checksum differs.. Run `python src/audit.py`"
    ):
        load_images_hash(competition.root)
    check_images(competition)
    assert load_images_hash(competition.root) == before


def test_a_disk_that_is_too_small_is_an_error_before_anything_is_decoded(competition, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(
        InputError, match="are needed there for the train images at 16 pixels and 0 MB are free; make room"
    ):
        cache.build_caches(competition, Preprocessing(16))
    assert not cached(competition, "*16px*") and not cached(competition, ".*16px*")


def test_a_disk_that_fills_leaves_nothing_and_the_work_goes_on_later(competition):
    """A map of a file would not fail but kill the process."""
    ignored, old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, old[1]))
    try:
        with pytest.raises(OSError) as caught:
            cache.build_caches(competition, Preprocessing(16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (
        "train_16px_" in caught.value.filename
        and not cached(competition, "*16px*")
        and not cached(competition, ".*16px*")
    )
    cache.build_caches(competition, Preprocessing(16))
    assert cache.open_cache(competition, "train", Preprocessing(16)).pixels.shape == (20, 16, 16, 3)
