"""Match the rows of a competition with the images of its source, by the names of the files and of their folders."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from facefold.data.archive import Member, printable
from facefold.data.class_folders import Row, place_images
from facefold.data.competition import SPLITS
from facefold.data.csv_file import quoted
from facefold.data.image_names import flat_name, has_image_suffix, name_key, name_keys
from facefold.data.images import MAX_BYTES


class ImageMatches:
    """Which image belongs to which row, and what is wrong with that.

    Attributes:
        files: The images by the name that they get.
        own: That name of the image of each row that has one.
        problems: A line each.
    """

    def __init__(
        self,
        members: Sequence[Member],
        rows: Sequence[Row],
        assigned: Mapping[Row, PurePosixPath],
        image_folders: Mapping[str, PurePosixPath],
    ) -> None:
        """Match the rows.

        Args:
            members: The files of the source and of zips inside.
            rows: Split and id.
            assigned: The image of each row, if the rows were written from the images; else empty.
            image_folders: Where a person says the images of a split are.
        """
        self._assigned, self._image_folders = assigned, image_folders
        self._images = [member for member in members if has_image_suffix(member.path.name)]
        self.files: dict[str, Member] = {}
        self.own: dict[Row, str] = {}
        self.problems: list[str] = []
        self._names: dict[str, str] = {}  # by the name in one Unicode form
        self._row_of: dict[PurePosixPath, Row] = {}
        self._by_path = {member.path: member for member in self._images}
        self._places = place_images(self._by_path)
        self._by_key = _index_by_key(self._images, max((id.count("/") for _, id in rows), default=0))
        self._rows_with_name = Counter((split, _base_key(id)) for split, id in rows)
        for row in rows:
            if candidates := self._candidates(*row):
                name = self._add(row[0], row[1], candidates[0])
                self.own[row] = name
                self._check_one(row, name, candidates)

    def add_without_row(self) -> None:
        """Add the images of train/ and test/ that are of no row and can be read.

        Not those whose name would be taken for that of a row: a__1.jpg for a/1.
        """
        used = {id(member) for member in self.files.values()}
        flat = {(split, _base_key(flat_name(row, row.rpartition("/")[2]))) for split, row in self.own if "/" in row}
        for member in self._images:
            split = next((split for split in SPLITS if _in_own_folder(member.path, split)), "")
            chosen = self._assigned or split in self._image_folders
            taken = any((split, key) in flat for key in name_keys(member.path.name))
            if split and id(member) not in used and not (member.problem or chosen or taken):
                self._add(split, member.path.stem, member)

    def _candidates(self, split: str, id: str) -> list[Member]:
        """Return the images that fit the row best: that share most folders of the id, then in the best folder.

        The last name of an id is enough, unless other rows have it too.
        """
        if path := self._assigned.get((split, id)):
            return [self._by_path[path]] if path in self._by_path else []
        parts = name_key(id).split("/")
        least = 2 if self._has_namesake(split, id) else 1
        for at in range(max(1, len(parts) - least + 1)):
            fitting = self._by_key.get("/".join(parts[at:]), [])
            ranked = [(self._rank(member.path, split), member) for member in fitting]
            best = min((rank for rank, _ in ranked if rank is not None), default=None)
            if best is not None:
                found = [member for rank, member in ranked if rank == best]
                base = unicodedata.normalize("NFC", id.rpartition("/")[2])
                return [one for one in found if unicodedata.normalize("NFC", one.path.name) == base] or found
        return []

    def _has_namesake(self, split: str, id: str) -> bool:
        """Return whether an id with folders has the last name of another row."""
        return "/" in id and self._rows_with_name[split, _base_key(id)] > 1

    def _rank(self, path: PurePosixPath, split: str) -> int | None:
        """Return how well the folder of an image suits the split, 0 best; None if it is another's."""
        if asked := self._image_folders.get(split):
            return 0 if path.is_relative_to(asked) else None
        if _in_own_folder(path, split):
            return 0
        return {split: 1, "": 2}.get(self._places[path][0])

    def _check_one(self, row: Row, name: str, candidates: list[Member]) -> None:
        """Add a problem if several files fit the row, or its file is that of another row."""
        first = candidates[0]
        if len(candidates) > 1:
            second = candidates[1]
            apart = first.path.parent != second.path.parent  # else no name of a folder would choose one of the two
            where = f"; name their folder with --images {row[0]}=DIR" if apart else ""
            name = printable(unicodedata.normalize("NFC", name))
            self.problems.append(f"{first.name} and {second.name} would both be {name}{where}")
        other = self._row_of.setdefault(first.path, row)
        if other != row:
            (split, id), (other_split, other_id) = row, other
            self.problems.append(
                f"{first.name} would be the image of the {other_split} id {quoted(other_id)} and of the {split} id "
                f"{quoted(id)}; each row needs a file of its own"
            )

    def _add(self, split: str, id: str, member: Member) -> str:
        """Add an image; return the name that it gets."""
        name = f"{split}/{self._file_name(split, id, member)}"
        other = self._names.setdefault(unicodedata.normalize("NFC", name), name)
        if member.problem:
            self.problems.append(f"{member.name} {member.problem}")
        if other in self.files and self.files[other] is not member:
            self.problems.append(f"{self.files[other].name} and {member.name} would both be {printable(name)}")
        if member.size > MAX_BYTES:
            self.problems.append(f"{member.name} is larger than {MAX_BYTES >> 20} MiB")
        self.files[name] = member
        return name

    def _file_name(self, split: str, id: str, member: Member) -> str:
        """Return the name of an image in competition/<split>: its own, but every other JPEG suffix becomes .jpg.

        That of an id that shares its last name with other rows has the folders of the id as well.
        """
        suffix, base = member.path.suffix, id.rpartition("/")[2]
        if has_image_suffix(base):
            name = base if self._assigned else member.path.name
        else:
            stem = base if self._assigned else member.path.stem
            name = stem + (".jpg" if suffix.lower() in (".jpg", ".jpeg") else suffix)
        return flat_name(id, name) if self._has_namesake(split, id) else name


def _index_by_key(images: Sequence[Member], folders: int) -> dict[str, list[Member]]:
    """Return the images by their `name_keys`, without and with up to so many of their folders: 1, a/1, b/a/1."""
    by_key: dict[str, list[Member]] = {}
    for member in images:
        parents = [unicodedata.normalize("NFC", part) for part in member.path.parent.parts]
        for key in name_keys(member.path.name):
            for count in range(min(folders, len(parents)) + 1):
                by_key.setdefault("/".join([*parents[len(parents) - count :], key]), []).append(member)
    return by_key


def _base_key(id: str) -> str:
    return name_key(id.rpartition("/")[2])


def _in_own_folder(path: PurePosixPath, split: str) -> bool:
    """Return whether an image is in train/, train/train/ or train.zip, of `split`, whatever the case."""
    parts = tuple(part.lower().removesuffix(".zip") for part in path.parent.parts)
    return parts in ((split,), (split, split), (split, split, split))
