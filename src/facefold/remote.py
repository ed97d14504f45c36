"""A root that lies elsewhere: at a URL that fsspec knows (s3://bucket/faces), or on the machine that drives a Ray cluster.

Steps work on files, so such a root has a copy on this machine's disk. Before a step what differs there is fetched, after it what
the step made, changed or removed is sent, run.json after the files it seals. What lies elsewhere counts: a file that changed here and
there is fetched, one that was removed there is removed here. The folder <copy>.book remembers which version of each file is here.

Not guarded: two machines at work on one URL (locks are a machine's own); of a file that both write the later one stays, and
checksums find folders that are mixed. A put is whole or not at all on object stores, not on every kind of URL. Activations of
frozen stages (cache/frozen) are not sent after a step: gigabytes, soon made again.
"""

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from facefold.utils.console import print_progress
from facefold.utils.errors import InputError
from facefold.utils.files import atomic_path, lock_directory, read_json, sha256_text, write_text

FOLDER = "FACEFOLD_MIRROR"  # the environment's variable for where copies lie
FROZEN = "cache/frozen/"
_THERE = ".copy"  # a file in each copy: one that was emptied while a step worked has it no more
_AT_ONCE = 16  # transfers: small files wait for the network, not for this machine
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # this machine's
_PACKAGES = "`pip install -r requirements-cluster.txt`"


class Store(Protocol):
    """Files by name, such as `runs/lite0/fold_0/run.json`. A stamp tells one version of a file from another; it begins with the size in
    bytes and a blank."""

    def names(self, prefix: str) -> dict[str, str]:
        """The stamp of each file whose name begins with `prefix`."""

    def get(self, name: str, path: Path) -> None:
        """Fetch a file to `path`, which is replaced when all of it has come."""

    def put(self, path: Path, name: str) -> None:
        """Send a file."""

    def remove(self, name: str) -> None:
        """Remove a file, where it is there."""


@dataclass(frozen=True)
class Url:
    """A folder at a URL that fsspec knows. Whatever goes wrong there is an `InputError`."""

    url: str

    def __str__(self) -> str:
        return self.url

    def names(self, prefix: str) -> dict[str, str]:
        with self._opened() as (system, base):
            system.invalidate_cache()
            folder, _, start = f"{base}/{prefix}".rpartition("/")
            fewer = {"prefix": start} if start and system.async_impl else {}  # object stores alone know it
            found = {
                path.removeprefix(base).lstrip("/"): info
                for path, info in system.find(folder, detail=True, **fewer).items()
                if info["type"] == "file"
            }
        return {name: _stamp(info) for name, info in found.items() if name.startswith(prefix)}

    def get(self, name: str, path: Path) -> None:
        with self._opened() as (system, base), atomic_path(path) as temporary:
            system.get_file(f"{base}/{name}", str(temporary))

    def put(self, path: Path, name: str) -> None:
        with self._opened() as (system, base):
            there = f"{base}/{name}"
            try:
                system.put_file(str(path), there)
            except FileNotFoundError:  # of a kind of store that has folders
                system.makedirs(there.rpartition("/")[0], exist_ok=True)
                system.put_file(str(path), there)

    def remove(self, name: str) -> None:
        with self._opened() as (system, base):
            if system.exists(f"{base}/{name}"):
                system.rm_file(f"{base}/{name}")

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        """The file system and the path in it of this folder."""
        try:
            import fsspec

            system, base = fsspec.core.url_to_fs(self.url)
            yield system, base.rstrip("/")
        except (
            Exception
        ) as error:  # each kind of store has exceptions of its own for no network, no such bucket, no credentials
            if isinstance(error, InputError) or getattr(error, "errno", None) in _OF_THE_DISK:
                raise
            said = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise InputError(f"{self.url}: {said}. {_mend(error)}")


def _mend(error: Exception) -> str:
    kind = type(error).__name__
    if isinstance(error, ImportError):
        return f"What speaks to such a URL is not installed: {_PACKAGES} has s3fs, for others see fsspec's list"
    if isinstance(error, PermissionError) or "Credential" in kind or "Token" in kind:
        return (
            "Give credentials that may read and write there, for s3 as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE "
            "(AWS_ENDPOINT_URL for a server that is not Amazon's)"
        )
    if isinstance(error, FileNotFoundError):
        return "Create the bucket first, or correct its name"
    if isinstance(error, ValueError):
        return "It should be like s3://bucket/folder"
    return "Check the network, then run the same command again: nothing is lost"


def _stamp(info: dict) -> str:
    """The size, and what the kind of store has to tell versions apart."""
    known = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "created")
    tags = (str(info[key]) for key in known if info.get(key))
    return f"{info['size']} {next(tags, '')}"


class Mirror:
    """The copy `root` of what `store` holds. Calls from several processes at once are in order."""

    def __init__(self, root: Path, store: Store):
        self.root, self.store = root, store
        self._folder = root.with_name(f"{root.name}.book")
        self._fetched: set[str] = set()

    def pull(self, *prefixes: str, exact: bool = False) -> None:
        """Fetch what differs of the names that begin with one of `prefixes`. exact: and keep no others of them here, but for frozen
        activations, which are trusted by their checksums."""
        with lock_directory(self._folder, wait=True):
            book, there = self._book(), {}
            for prefix in prefixes:
                there |= {name: stamp for name, stamp in self.store.names(prefix).items() if _kept(name, prefix)}
            here = {name for prefix in prefixes for name in self._here(prefix)}
            for name in here - there.keys():
                if name in book or (exact and FROZEN not in name):
                    (self.root / name).unlink(missing_ok=True)
                    book.pop(name, None)
            wanted = [name for name, stamp in there.items() if name not in here or book.get(name, [None])[0] != stamp]
            if len(wanted) > 1:
                print_progress(f"{self.store}: {len(wanted):,} files are fetched")

            def fetch(name: str) -> None:
                path, size = self._path(name), int(there[name].partition(" ")[0])
                self.store.get(name, path)
                if path.stat().st_size != size:
                    path.unlink()
                    raise InputError(
                        f"{self.store}: {name} came with other than its {size} bytes; run the same command again"
                    )
                book[name] = [there[name], *_facts(path)]

            self._each(fetch, wanted, book)
            self._fetched |= here & there.keys() | set(wanted)
            write_text(self.root / _THERE, f"{self.store}\n")

    def push(self) -> None:
        """Send what was made or changed since it was fetched or sent, and remove there what was here after `pull` and is no more.
        `InputError`, and nothing removed, where somebody removed the copy meanwhile."""
        with lock_directory(self._folder, wait=True):
            if not (self.root / _THERE).exists():
                raise InputError(
                    f"{self.root}, the copy of {self.store}, was removed while the step worked in it; nothing was removed there. "
                    "Run the same command again"
                )
            book, here = self._book(), {name: _facts(self.root / name) for name in self._here("")}
            changed = [name for name, facts in here.items() if book.get(name, [None])[1:] != facts]
            gone = sorted(self._fetched - here.keys())

            def send(name: str) -> None:
                self.store.put(self.root / name, name)

            def remove(name: str) -> None:
                self.store.remove(name)
                book.pop(name, None)

            seals = [name for name in changed if name.endswith("/run.json")]
            self._each(remove, [*gone, *(name for name in seals if name in book)], book)
            self._each(send, [name for name in changed if name not in seals], book)
            self._each(send, seals, book)
            self._fetched -= set(gone)
            if changed or gone:
                there = self.store.names("")  # one question, not one a file
                self._write({**book, **{name: [there[name], *here[name]] for name in changed if name in there}})
                print_progress(f"{self.store}: {len(changed):,} files sent, {len(gone):,} removed")

    def send(self, paths: Iterable[Path]) -> None:
        """Send these files, in this order; of those that are not there the ones elsewhere are removed."""
        for path in paths:
            name, facts = path.relative_to(self.root).as_posix(), _facts(path) if path.exists() else None
            self.store.put(path, name) if facts else self.store.remove(name)
            with lock_directory(self._folder, wait=True):
                book = self._book()
                book.pop(name, None)
                self._write({**book, **({name: [self.store.names(name)[name], *facts]} if facts else {})})

    def _each(self, work: Callable[[str], None], names: list[str], book: dict) -> None:
        """Do it for each name, several at once, and write down what was done, however it ends."""
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            for _ in pool.map(work, names):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
            if names:
                self._write(book)

    def _here(self, prefix: str) -> list[str]:
        """The names of the files here that begin with `prefix`."""
        return [name for name in listed(self.root, prefix) if _kept(name, prefix)]

    def _path(self, name: str) -> Path:
        """Where a file lies here; `InputError` for a name that would leave the folder."""
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            raise InputError(f"{self.store}: the name {name!r} would leave the folder; remove that file there")
        return self.root / name

    def _book(self) -> dict[str, list]:
        """name -> stamp there, bytes and time here, of each file that was fetched or sent."""
        path = self._folder / "files.json"
        return read_json(path) if path.exists() else {}

    def _write(self, book: dict) -> None:
        write_text(self._folder / "files.json", json.dumps(book))


def _kept(name: str, prefix: str) -> bool:
    """Whether a file belongs to the root: no lock and nothing hidden, frozen activations only where they are asked for."""
    hidden = name.endswith(".lock") or any(part.startswith(".") for part in PurePosixPath(name).parts if part != "..")
    return not hidden and (FROZEN not in name or FROZEN in prefix)


def listed(root: Path, prefix: str) -> dict[str, Path]:
    """The files under `root` whose names begin with `prefix`."""
    found = {
        path.relative_to(root).as_posix(): path
        for path in (root / prefix.rpartition("/")[0]).rglob("*")
        if path.is_file()
    }
    return {name: path for name, path in found.items() if name.startswith(prefix)}


def _facts(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def place(name: str, base: Path) -> Path:
    """The folder for the copy of a root of this name, under $FACEFOLD_MIRROR where that is set, else `base`."""
    return Path(os.environ.get(FOLDER) or base).resolve() / sha256_text(name)[:12]


def mirror(url: str) -> Mirror:
    """The copy of the root at a URL, as it is there now."""
    made = Mirror(place(url.rstrip("/"), Path.home() / ".cache" / "facefold"), Url(url.rstrip("/")))
    made.root.mkdir(parents=True, exist_ok=True)
    made.pull("")
    return made
