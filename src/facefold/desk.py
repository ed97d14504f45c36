"""What the driver of a Ray cluster answers to its tasks, by an actor on its own machine, through Ray's object store."""

from pathlib import Path
from typing import Any

from facefold.remote import listed
from facefold.utils.files import atomic_path

PIECE = 64 << 20  # bytes of a file that travel at once


class Desk:
    """An actor on the driver's machine: whether jobs may still begin, and the files of the root for machines that do not see it."""

    def __init__(self, root: Path):
        self._root, self._closed, self._begun, self._copies = root, False, {}, set()

    def begin(self, job: str) -> int | None:
        """How often this job has begun by now; None when it may not, for another one failed."""
        if not self._closed:
            self._begun[job] = self._begun.get(job, 0) + 1
        return None if self._closed else self._begun[job]

    def close(self) -> None:
        self._closed = True

    def note_copy(self, node: str, root: Path) -> None:
        self._copies.add((node, root))

    def copies(self) -> set[tuple[str, Path]]:
        """The machines (Ray's node ids) that have a copy of the root, and where."""
        return self._copies

    def names(self, prefix: str) -> dict[str, str]:
        there = {name: path.stat() for name, path in listed(self._root, prefix).items()}
        return {name: f"{stat.st_size} {stat.st_mtime_ns}" for name, stat in there.items()}

    def read(self, name: str, start: int) -> bytes:
        """A piece of a file, empty at its end."""
        with open(self._root / name, "rb") as handle:
            handle.seek(start)
            return handle.read(PIECE)

    def write(self, name: str, pieces: list[Any]) -> None:
        """Put a file of these pieces (references to bytes) in place."""
        import ray

        with atomic_path(self._root / name) as temporary, open(temporary, "wb") as out:
            for piece in pieces:
                out.write(ray.get(piece))

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)


class Served:
    """A `remote.Store`: the driver's root, by its desk."""

    def __init__(self, desk: Any):
        self._desk = desk

    def __str__(self) -> str:
        return "the driver's machine"

    def _ask(self, method: str, *args: Any) -> Any:
        import ray

        return ray.get(getattr(self._desk, method).remote(*args))

    def names(self, prefix: str) -> dict[str, str]:
        return self._ask("names", prefix)

    def get(self, name: str, path: Path) -> None:
        with atomic_path(path) as temporary, open(temporary, "wb") as out:
            while piece := self._ask("read", name, out.tell()):
                out.write(piece)

    def put(self, path: Path, name: str) -> None:
        import ray

        with open(path, "rb") as handle:
            pieces = [ray.put(piece) for piece in iter(lambda: handle.read(PIECE), b"")]
        self._ask("write", name, pieces)

    def remove(self, name: str) -> None:
        self._ask("remove", name)
