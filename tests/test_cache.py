import resource
import signal

import numpy as np
import pytest

from facefold.data import cache, competition, drawn, duplicates, glance, images, integrity
from facefold.errors import InputError


@pytest.fixture
def contest(tmp_path):
    drawn.draw(tmp_path, train=20, test=10, size=32)
    found = competition.load(tmp_path)
    integrity.check(found)
    return found


def places(contest, pattern):
    return sorted((contest.root / "cache").glob(pattern))


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("shard", [1 << 30, 7 * 24 * 24 * 3], ids=["one shard", "three shards"])
def test_each_image_in_the_order_of_the_csv(contest, monkeypatch, shard):
    monkeypatch.setattr(cache, "_CHUNK", 3)
    monkeypatch.setattr(cache, "SHARD", shard)
    assert cache.missing_bytes(contest, 24) == 30 * 24 * 24 * 3
    cache.build(contest, 24)
    assert cache.missing_bytes(contest, 24) == 0
    for split, table in (("train", contest.train), ("test", contest.test)):
        got = cache.open_cache(contest, split, 24)
        assert got.ids == table["id"].tolist() and got.pixels.dtype == np.uint8
        for row, id in enumerate(got.ids):
            assert np.array_equal(got.pixels[row], images.decode(contest.image_path(split, id), 24))


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
def test_a_damaged_array_is_named_and_made_again(contest, damage, capsys):
    cache.build(contest, 16)
    (path,) = places(contest, "train_16px_*.npy")
    whole = path.read_bytes()
    damage(path)
    cache.build(contest, 16)
    assert capsys.readouterr().out == f"{path} is not what was written (its checksum differs): it is made again\n"
    assert path.read_bytes() == whole and len(places(contest, "train_16px_*")) == 2


def test_only_the_damaged_shard_is_made_again(contest, monkeypatch, capsys):
    monkeypatch.setattr(cache, "SHARD", 8 * 16 * 16 * 3)
    cache.build(contest, 16)
    shards = places(contest, "train_16px_*.npy")
    assert [len(np.load(path)) for path in shards] == [8, 8, 4]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in shards]
    flip(shards[1])
    assert cache.expected_seconds(contest, 16) == 0
    cache.build(contest, 16)
    assert capsys.readouterr().out == f"{shards[1]} is not what was written (its checksum differs): it is made again\n"
    after = [(path.read_bytes(), path.stat().st_mtime_ns) for path in shards]
    assert (
        after[0] == before[0] and after[2] == before[2] and after[1][0] == before[1][0] and after[1][1] > before[1][1]
    )
    shards[2].unlink()
    assert cache.missing_bytes(contest, 16) == 4 * 16 * 16 * 3


@pytest.mark.parametrize("pattern", ["glance_*.npy", "glance_*.csv", "duplicates_*.csv"])
def test_a_damaged_table_of_the_audit_is_named_and_made_again(contest, pattern, capsys):
    groups = duplicates.find(contest, integrity.check(contest))
    (path,) = places(contest, pattern)
    whole = path.read_bytes()
    flip(path)
    glance.load(contest)
    again = duplicates.find(contest, integrity.check(contest))
    assert f"{path} is not what was written" in capsys.readouterr().out
    assert path.read_bytes() == whole and again.equals(groups)


def test_an_edited_table_of_the_images_is_named_then_made_again(contest):
    path = contest.root / "cache" / "images.csv"
    mark = integrity.fingerprint(contest.root)
    flip(path)
    with pytest.raises(
        InputError, match="images.csv is not what the audit wrote .its checksum differs.. Run `python src/audit.py`"
    ):
        integrity.fingerprint(contest.root)
    integrity.check(contest)
    assert integrity.fingerprint(contest.root) == mark


def test_a_disk_that_is_too_small_is_told_before_anything_is_decoded(contest, monkeypatch):
    monkeypatch.setattr(cache.files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(
        InputError, match="are needed there for the train images at 16 pixels and 0 MB are free; make room"
    ):
        cache.build(contest, 16)
    assert not places(contest, "*16px*") and not places(contest, ".*16px*")


def test_a_disk_that_fills_leaves_nothing_and_the_work_goes_on_later(contest):
    """A map of a file would not fail but kill the process."""
    ignored, old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, old[1]))
    try:
        with pytest.raises(OSError) as caught:
            cache.build(contest, 16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "train_16px_" in caught.value.filename and not places(contest, "*16px*") and not places(contest, ".*16px*")
    cache.build(contest, 16)
    assert cache.open_cache(contest, "train", 16).pixels.shape == (20, 16, 16, 3)
