"""Write the csv files of a competition that has a folder of train images per class, and no csv file of the rows."""

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath

from facefold.data.archive import Member, memory_member, paths_in_zip
from facefold.data.competition import SPLITS
from facefold.data.csv_file import Findings, parse_records
from facefold.data.image_names import has_image_suffix
from facefold.utils.errors import InputError

Row = tuple[str, str]  # split, id


def write_csv_files(csv_files: dict[str, Member], members: list[Member]) -> dict[Row, PurePosixPath]:
    """Add the csv files that follow from a folder per class; return the image of each row.

    An id is the name of the file without its suffix; with it, if the ids of the sample or else of test.csv have it or
    two would be the same; with the class before it, if even these are.
    """
    paths = image_paths(members)
    places = place_images(paths)
    labels = class_images(places)
    test = [path for path in paths if places[path][0] == "test"]
    given = next((name for name in ("sampleSubmit.csv", "test.csv") if name in csv_files), "")
    header, test_ids = _read_ids(csv_files[given], given) if given else (["id", "label"], [])
    groups = [list(labels), [] if test_ids else test]
    taken = {unicodedata.normalize("NFC", id) for id in test_ids}
    namings = [
        lambda path: path.stem,
        lambda path: path.name,
        lambda path: f"{labels.get(path, path.parent.name)}_{path.name}",
    ]
    namings = namings[any(map(has_image_suffix, test_ids)) :]
    name = next((name for name in namings if _differ(groups, name, taken)), None)
    if name is None:
        raise InputError("the folders of the classes hold several images of the same name; give each its own")
    train = {name(path): path for path in labels}
    if not given:
        csv_files["test.csv"] = _csv_member("test.csv", [header[:1], *([name(path)] for path in test)])
    rows = [[id, labels[path]] for id, path in train.items()]
    csv_files["train.csv"] = _csv_member("train.csv", [header, *rows])
    assigned = {("train", id): path for id, path in train.items()}
    return assigned | ({} if test_ids else {("test", name(path)): path for path in test})


def _differ(groups: list[list[PurePosixPath]], name: Callable[[PurePosixPath], str], taken: set[str]) -> bool:
    names = [unicodedata.normalize("NFC", name(path)) for group in groups for path in group]
    return len(set(names)) == len(names) and taken.isdisjoint(names)


def _read_ids(member: Member, name: str) -> tuple[list[str], list[str]]:
    """Return the header that train.csv gets, and the ids; of the sample or else test.csv, which has no labels."""
    findings = Findings()
    rows = [cells for _, cells in parse_records(member.read(), findings.of_file(member.name))]
    findings.raise_any("the ids of the test images cannot be read:", "Fix the file, then run the same command again.")
    header = rows[0]
    names = [header[0] if header else "id", header[1] if len(header) == 2 and name != "test.csv" else "label"]
    return names, [row[0] for row in rows[1:] if row]


def _csv_member(name: str, rows: Iterable[list[str]]) -> Member:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return memory_member(name, text.getvalue().encode("utf-8", "surrogateescape"))


def image_paths(members: list[Member]) -> list[PurePosixPath]:
    """Return the paths of the images, also in zips inside, sorted."""
    paths = [member.path for member in members if has_image_suffix(member.path.name) and not member.problem]
    for member in members:
        if is_zip_of_images(member) and not member.problem:
            paths += [member.path / path for path in paths_in_zip(member) if has_image_suffix(path.name)]
    return sorted(paths)


def class_images(places: Mapping[PurePosixPath, tuple[str, str]]) -> dict[PurePosixPath, str]:
    """Return the class of each train image that is in a folder of its own below train/; places: of `place_images`."""
    return {path: name for path, (split, name) in places.items() if split == "train" and name}


def place_images(paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, tuple[str, str]]:
    """Return the split and class of each image, '' where no folder says it.

    The outermost folder or zip that says train or test is the split, the next level the class, whatever its name. No
    class but a part of the way are an only folder that is called like a split or holds folders, and the folders train
    and test of one folder.
    """
    paths = list(paths)
    folders = {folder for path in paths for folder in path.parents if folder.name}
    inside: dict[PurePosixPath, list[str]] = {}
    for folder in folders:
        inside.setdefault(folder.parent, []).append(folder.name)
    # once per folder, not per image: one may hold a folder for each of many thousand patients
    divided = {folder for folder, names in inside.items() if set(SPLITS) <= {_called(name) for name in names}}
    return {path: _place(path, inside, divided) for path in paths}


def _place(
    path: PurePosixPath, inside: Mapping[PurePosixPath, list[str]], divided: set[PurePosixPath]
) -> tuple[str, str]:
    """Return the split and class of an image. inside: the names of folders by parent. divided: hold train and test."""
    way = [folder for folder in reversed(path.parents) if folder.name]
    at = next((number for number, folder in enumerate(way) if _said(folder.name)), len(way))
    split = _said(way[at].name) if at < len(way) else ""
    for folder in way[at + 1 :]:
        names = inside[folder.parent]
        if folder.parent in divided or (len(names) == 1 and _called(folder.name)):
            split = _called(folder.name)
        elif len(names) > 1 or folder not in inside:
            return split, folder.name if split else ""
    return split, ""


def _said(part: str) -> str:
    """Return train or test if one of them is in the name of a folder, else ''."""
    said = [split for split in SPLITS if re.search(f"(?<![a-z]){split}", part.lower())]
    return said[0] if len(said) == 1 else ""


def _called(part: str) -> str:
    """Return train or test if the name of a folder says no more than that, else ''."""
    match = re.fullmatch(r"(train|test)(ing)?([-_ ]?(images?|imgs?|data|set))?(\.zip)?", part.lower())
    return match[1] if match else ""


def is_zip_of_images(member: Member) -> bool:
    name = member.path.name.lower()
    return name.endswith(".zip") and not name.endswith(".csv.zip")
