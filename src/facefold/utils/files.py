"""Atomic writes (a temporary file in the same folder, fsync, `os.replace`), locks and checksums.

pandas and numpy are imported where they are used: a step that only reads json and checksums starts without them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from facefold.utils.errors import InputError
from facefold.utils.lock_files import NO_LOCKS, hold_lock_file

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from facefold.utils.npy import NpyRows

STAGED = ".staged.part"  # the folder of `staged_files`, which a killed process leaves
HASHED = "[0-9a-f]" * 12  # the pattern of the first digits of a hash in a file's name
_WRITE_AGAIN = "delete it and run the step that writes it again"
_CHUNK = 64 << 20  # bytes of an array written at a time: bounds the memory
_UMASK = os.umask(0o022)
os.umask(_UMASK)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; when the block ends well the file written there becomes `path`.

    The temporary name is the same each time, so what a killed process left is overwritten, not collected.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        with suppress(OSError):  # a mounted bucket may refuse it; the file is as good
            os.chmod(temporary, 0o666 & ~_UMASK)  # safetensors writes files that only their owner may read
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk names no file when bytes are written to an open one
        raise


@contextmanager
def lock_directory(directory: Path, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Hold `directory` (created if missing) for this process alone, or with others that share it.

    The lock ends with the process, however it ends. If another process holds it: wait until it is free if `wait`, else
    raise an `InputError` with that process's id. On a disk without locks a file takes its place, see `lock_files`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        with nullcontext() if _flock(handle, directory, wait, shared) else hold_lock_file(directory, wait, shared):
            yield
    finally:
        os.close(handle)


def _flock(handle: int, directory: Path, wait: bool, shared: bool) -> bool:
    """Lock the open folder; return False if its disk has no locks, and raise `InputError` if another process has it."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise InputError(
            f"{directory} is in use by {_holders(handle)}; wait for it, or end it, then run the same command again"
        ) from None
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        error.filename = str(directory)
        raise
    return True


def _holders(handle: int) -> str:
    """Who holds the lock on this open folder: `process 12`, or `another process` if the system does not tell."""
    try:
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        lines = []
    inode = str(os.fstat(handle).st_ino)
    pids = {line[4] for line in lines if len(line) > 5 and line[1] == "FLOCK" and line[5].rpartition(":")[2] == inode}
    return f"process {', '.join(sorted(pids, key=int))}" if pids else "another process"


def write_checksum(path: Path, written: Path | None = None) -> None:
    """Write <path>.sha256, the checksum of `path`.

    written: the file that is to become `path`; its checksum is then there first, so that a `path` without one was never
    finished.
    """
    write_text(checksum_path(path), sha256_file(written or path) + "\n")


def is_intact(path: Path) -> bool:
    """Return whether `path` is there and has its checksum; print its name if it is damaged or was never finished."""
    if not path.exists():
        return False
    recorded = checksum_path(path)
    if recorded.is_file() and recorded.read_bytes() == sha256_file(path).encode() + b"\n":
        return True
    print(f"{path} is not what was written (its checksum differs): it is computed again", flush=True)
    return False


def remove_files(folder: Path, pattern: str, keep: Collection[Path] = ()) -> None:
    """Remove the files that match `pattern`, but not `keep` and their checksums, and what a killed process left."""
    kept = {*keep, *map(checksum_path, keep)}
    for path in [*folder.glob(pattern), *folder.glob(f".{pattern}.part")]:
        if path not in kept and path.is_file():
            path.unlink()


@contextmanager
def staged_files(directory: Path, last: str, obsolete: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty folder; if the block ends well, its files replace those of the same name in `directory`.

    Until all of them are written nothing in `directory` changes, so that a full disk costs nothing that was there.

    Args:
        directory: Of the files that belong together.
        last: The file that comes last; where it holds the checksums of the others, they tell of a kill in between.
        obsolete: Files of `directory` that are removed before `last` is there.
    """
    staged = directory / STAGED
    shutil.rmtree(staged, ignore_errors=True)  # of a killed process
    staged.mkdir(parents=True)
    try:
        yield staged
        for path in [path for path in staged.iterdir() if path.name != last]:
            os.replace(path, directory / path.name)
        for name in obsolete:
            (directory / name).unlink(missing_ok=True)
        os.replace(staged / last, directory / last)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def checksum_path(path: Path) -> Path:
    """Return the path of the file with the checksum of `path`."""
    return path.with_name(f"{path.name}.sha256")


def require_disk_space(folder: Path, size: float, what: str) -> int:
    """Return the bytes free on the disk of `folder`, which need not exist yet.

    Raise `InputError` unless they are `size` bytes and 5 % more; `what` says what for.
    """
    existing = next(path for path in [folder, *folder.resolve().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if size * 1.05 > free:
        raise InputError(
            f"{folder}: {format_bytes(size)} are needed there for {what} and {format_bytes(free)} are free; "
            "make room, or choose another disk with --root"
        )
    return free


def format_bytes(size: float) -> str:
    """Return a size as `12.3 GB` or `450 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8; in the name of a file that is none, the bytes that it has on the disk."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> dict:
    """Read a json object. Raise `InputError` with the file's name if it is missing or torn."""
    with input_errors(path, "not readable as json"):
        value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise InputError(f"{path} should hold one json object; delete it and run the step that writes it again")
    return value


def write_csv(path: Path, table: pd.DataFrame) -> None:
    r"""Write a table with \n line ends, no index, floats with 9 significant digits."""
    write_text(path, csv_text(table, "%.9g"))


def csv_text(table: pd.DataFrame, float_format: str | None = None) -> str:
    r"""Return a table as csv with \n line ends and no index; floats in full unless `float_format` shortens them."""
    return table.to_csv(index=False, lineterminator="\n", float_format=float_format)


def read_csv(
    path: Path, columns: dict[str, type], encoding_errors: str = "strict", advice: str = _WRITE_AGAIN
) -> pd.DataFrame:
    """Read one of our own tables: exactly these columns, ids kept as text. Raise `InputError` with the file's name.

    Args:
        path: The csv file.
        columns: The type of each.
        encoding_errors: What becomes of bytes that are not UTF-8, as for `bytes.decode`.
        advice: What to do about a damaged file.
    """
    import pandas as pd

    with input_errors(path, advice=advice):
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors=encoding_errors)
        if list(table.columns) != list(columns):
            raise ValueError(f"columns {','.join(table.columns)}, expected {','.join(columns)}")
        if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus fields for an index
            raise ValueError("rows with more fields than the header")
        return table.astype(columns)


def write_npy(path: Path, array: np.ndarray | NpyRows) -> None:
    rows = max(1, _CHUNK * len(array) // max(1, array.nbytes))
    blocks = (array[start : start + rows] for start in range(0, max(1, len(array)), rows))
    write_npy_blocks(path, len(array), blocks, checksum=False)


def write_npy_blocks(path: Path, rows: int, blocks: Iterable[np.ndarray], checksum: bool = True) -> None:
    """Write an array of `rows` rows that comes in blocks of rows, at least one.

    Args:
        path: The .npy file.
        rows: The rows of all blocks together.
        blocks: The blocks, of one dtype and shape apart from their number of rows.
        checksum: Whether to write its checksum as well, before the file is there.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        for number, block in enumerate(blocks):
            if number == 0:
                npy_header(handle, block.dtype, (rows, *block.shape[1:]))
            handle.write(block.tobytes())  # numpy's own writing does not report a full disk
        handle.flush()
        if checksum:
            write_checksum(path, temporary)


def npy_header(handle: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Begin a .npy file whose values are then written in C order.

    It is not mapped: on a full disk a write to a map kills the process.
    """
    import numpy as np

    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(handle, header)


def read_npy(path: Path) -> np.ndarray:
    """Read an array. Raise `InputError` with the file's name if it is missing or damaged."""
    import numpy as np

    with input_errors(path):
        return np.load(path, allow_pickle=False)


@contextmanager
def input_errors(name: Path | str, what: str = "damaged", advice: str = _WRITE_AGAIN) -> Iterator[None]:
    """Turn what a missing or damaged file makes a reader raise into an `InputError` with the file's name."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name} is missing") from None
    except (ValueError, EOFError) as error:
        raise InputError(f"{name} is {what} ({str(error).strip()}); {advice}") from error


def sha256_file(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Return the sha256 (hex) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
