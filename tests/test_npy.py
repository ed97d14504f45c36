"""Arrays in files, read by rows."""

import os
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facefold.utils import npy
from facefold.utils.errors import InputError
from facefold.utils.npy import NpyRows


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """An array of 11 rows as three files of 4, 5 and 2 rows."""
    folder = tmp_path_factory.mktemp("three")
    values = np.arange(11 * 6, dtype=np.int16).reshape(11, 3, 2)
    paths = [folder / f"{number}.npy" for number in range(3)]
    for path, part in zip(paths, np.split(values, [4, 9])):
        np.save(path, part)
    return values, paths


@given(rows=st.lists(st.integers(0, 10), max_size=30))
def test_any_rows_are_those_of_the_whole_array(three, rows):
    values, paths = three
    read = NpyRows(paths)[np.array(rows, dtype=np.int64)]
    assert read.dtype == np.int16 and read.shape == (len(rows), 3, 2) and np.array_equal(read, values[rows])


def test_it_looks_like_the_array(three):
    values, paths = three
    array = NpyRows(paths)
    assert (
        array.shape == (11, 3, 2) and len(array) == 11 and array.nbytes == values.nbytes and array.dtype == values.dtype
    )
    assert (
        np.array_equal(array[3:10:2], values[3:10:2])
        and np.array_equal(array[:], values)
        and np.array_equal(array[9], values[9])
    )
    assert np.array_equal(np.asarray(array, np.float32), values) and np.asarray(array, np.float32).dtype == np.float32
    assert np.array_equal(pickle.loads(pickle.dumps(array))[:], values)


def test_rows_that_are_not_there_are_refused(three):
    with pytest.raises(IndexError, match="rows 3 to 11 of 11"):
        NpyRows(three[1])[np.array([3, 11])]
    with pytest.raises(IndexError, match="rows -1 to -1 of 11"):
        NpyRows(three[1])[-1]
    with pytest.raises(TypeError, match="rows by their numbers, not bool"):
        NpyRows(three[1])[np.array([True, False])]


def test_consecutive_rows_are_prefetched_by_one_call(three, monkeypatch):
    advised = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda handle, start, count, advice: advised.append((start, count, advice))
    )
    array = NpyRows(three[1])
    array.prefetch(np.array([2, 6, 3, 4, 5, 10]))
    offset, row = 128, 12  # bytes of a .npy header and of a row
    assert advised == [
        (offset + 2 * row, 2 * row, os.POSIX_FADV_WILLNEED),
        (offset, 3 * row, os.POSIX_FADV_WILLNEED),
        (offset + row, row, os.POSIX_FADV_WILLNEED),
    ]


def test_a_read_may_return_fewer_bytes_than_asked_for(three, monkeypatch):
    values, paths = three
    preadv = os.preadv
    monkeypatch.setattr(npy.os, "preadv", lambda handle, buffers, offset: preadv(handle, [buffers[0][:5]], offset))
    assert np.array_equal(NpyRows(paths)[:], values)


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            "is damaged (its size is not what its header says); delete it and run",
        ),
        (lambda path: path.write_bytes(b"no array"), "is damaged ("),
        (lambda path: path.write_bytes(b""), "is damaged ("),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: np.save(path, np.array([{}], dtype=object)), "is damaged (it holds no numbers); delete it"),
        (lambda path: np.save(path, np.zeros((2, 2))), "is no part of the same array as"),
    ],
    ids=["torn", "no array", "empty", "missing", "objects", "another width"],
)
def test_a_damaged_file_is_named(tmp_path, damage, message):
    paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for path in paths:
        np.save(path, np.zeros((2, 3)))
    damage(paths[1])
    with pytest.raises(InputError, match=re.escape(f"{paths[1]} {message}")):
        NpyRows(paths)


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 100)))
    array = NpyRows([path])
    os.truncate(path, 1000)
    with pytest.raises(InputError, match=re.escape(f"{path} is damaged (it ends too early)")):
        array[np.array([3])]
