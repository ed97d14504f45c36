"""Files that are there whole or not at all: write beside the target, fsync, `os.replace`."""

import csv
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.errors import InputError

_UMASK = os.umask(0o022)
os.umask(_UMASK)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well the file written there becomes `path`.

    The temporary name is the same each time, so what a killed process left is overwritten by the next one,
    not collected.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # safetensors writes files that only their owner may read
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def locked(directory: Path, wait: bool = False) -> Iterator[None]:
    """Hold `directory` (made if need be) for this process alone; the lock ends with the process, however it ends.

    When another process holds it: with `wait` until it does no more, else an `InputError`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InputError(f"{directory}: another process is at work here; wait for it, or end it, then run the same command again")
        yield
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> dict:
    """The object in a json file; `InputError` naming the file when it is missing or torn."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing")
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable as json ({error}); delete it and run the step that writes it again")
    if not isinstance(value, dict):
        raise InputError(f"{path} should hold one json object; delete it and run the step that writes it again")
    return value


def write_csv(path: Path, table: pd.DataFrame, float_format: str = "%.9g") -> None:
    """Write a table with \\n line ends, no index, floats with 9 significant digits."""
    write_text(path, table.to_csv(index=False, lineterminator="\n", float_format=float_format, quoting=csv.QUOTE_MINIMAL))


def read_csv(path: Path, columns: dict[str, type]) -> pd.DataFrame:
    """Read one of our own tables: exactly these columns, ids kept as text. `InputError` names the file otherwise."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if list(table.columns) != list(columns):
            raise ValueError(f"columns {','.join(table.columns)}, expected {','.join(columns)}")
        if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus fields for an index
            raise ValueError("rows with more fields than the header")
        return table.astype(columns)
    except FileNotFoundError:
        raise InputError(f"{path} is missing")
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run the step that writes it again")


def write_npy(path: Path, array: np.ndarray) -> None:
    with replacing(path) as temporary:
        with open(temporary, "wb") as handle:
            np.save(handle, array, allow_pickle=False)


def read_npy(path: Path, mmap: bool = False) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path} is missing")
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run the step that writes it again")


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hex sha256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
