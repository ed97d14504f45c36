import os
import re

import numpy as np
import pandas as pd
import pytest

from facefold import files
from facefold.errors import InputError


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "a.txt"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError):
        with files.replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_csv_comes_back_with_ids_as_text_and_nine_digits(tmp_path):
    table = pd.DataFrame({"id": ["0042", "NA"], "prob": [0.123456789123, 1.0]})
    files.write_csv(tmp_path / "a.csv", table)
    assert (tmp_path / "a.csv").read_bytes() == b"id,prob\n0042,0.123456789\nNA,1\n"
    assert files.read_csv(tmp_path / "a.csv", {"id": str, "prob": float})["id"].tolist() == ["0042", "NA"]


@pytest.mark.parametrize("content", ["id\n1\n", "id,prob\n1,x\n", "", "id,prob\n1,0.5,3,4\n"])
def test_a_damaged_csv_is_named(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'a.csv'} is damaged (")):
        files.read_csv(tmp_path / "a.csv", {"id": str, "prob": float})


def test_missing_and_torn_files_are_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01")
    for read, name, message in [(files.read_json, "b.json", "is missing"), (files.read_json, "a.json", "is not readable as json"),
                                (files.read_npy, "b.npy", "is missing"), (files.read_npy, "a.npy", "is damaged")]:
        with pytest.raises(InputError, match=re.escape(f"{tmp_path / name} {message}")):
            read(tmp_path / name)


def test_npy_and_json_come_back(tmp_path):
    files.write_npy(tmp_path / "a.npy", np.arange(3, dtype=np.float16))
    assert files.read_npy(tmp_path / "a.npy").tolist() == [0, 1, 2]
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    assert files.read_json(tmp_path / "a.json") == {"a": [2], "b": 1}


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    with files.locked(tmp_path / "fold_0"):
        with pytest.raises(InputError, match="fold_0: another process is at work here; wait for it, or end it"):
            with files.locked(tmp_path / "fold_0"):
                pass
    with files.locked(tmp_path / "fold_0"):
        assert os.listdir(tmp_path / "fold_0") == []
