"""Extra rows: labelled images from outside of the competition, which are trained on and never held out.

The folder has what `facefold.data.layout` reads as train data: a train.csv (labels.csv, ..) with the competition's
columns, and the images next to it or in train/; or a folder of images per class.

What shows the picture of a held-out row would pass its label on to the model that is scored on it. So the finder of
near-duplicates looks at train, test and extra images together: an extra row that shows a test image is dropped, and one
that shows a train row is left out of the fold that holds this row out.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from facefold.data.archive import open_archive
from facefold.data.audit import THUMBNAIL_SIDE, check_images, inspect_files, load_thumbnails
from facefold.data.class_folders import place_images
from facefold.data.competition import Competition
from facefold.data.csv_file import Findings, index_ids, quoted, read_table, row_id_fault
from facefold.data.folds import Folds
from facefold.data.image_names import find_file, has_image_suffix
from facefold.data.images import map_images, read_thumbnail
from facefold.data.source import TRAIN_FILES
from facefold.data.task_inference import label_indices
from facefold.task import Task
from facefold.utils.console import progress_bar
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_text

_SHOWN = 3
PREFIX = ".extra/"  # of their ids among those of the competition, none of which begins with a dot


class ExtraRow(NamedTuple):
    """One image and its label.

    id: of the csv file, or the path inside the folder. label: an index of the task's classes. path: of the image.
    where: what messages call the row. sha256: of the image, hex. group: equal for rows of one picture: if a train
    row shows it, that row's in folds.csv.
    """

    id: str
    label: int
    path: Path
    where: str
    sha256: str = ""
    group: str = ""


@dataclass(frozen=True)
class ExtraRows:
    """The extra rows of a run; none by default.

    rows: those that are trained on. pictures: (id, group) of the train rows whose picture an extra row shows. dropped:
    ids of the rows left out because they show a test image.
    """

    rows: tuple[ExtraRow, ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()

    @cached_property
    def hash(self) -> str:
        """Hex sha256 of ids, labels, images and what is left out, wherever the folder is; empty without any row."""
        rows = [(row.id, row.label, row.sha256, row.group) for row in self.rows]
        return sha256_text(json.dumps([rows, self.pictures, self.dropped])) if rows else ""

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def ids(self) -> list[str]:
        return [PREFIX + row.id for row in self.rows]

    def kept(self, held_out: Iterable[str]) -> list[ExtraRow]:
        """Return the rows that do not show the picture of one of the `held_out` train ids."""
        group_of = dict(self.pictures)
        hidden = {group_of[id] for id in held_out if id in group_of}
        return [row for row in self.rows if row.group not in hidden]

    def join(self, train: pd.DataFrame, held_out: Iterable[str]) -> pd.DataFrame:
        """Return the training rows (id, label, group), and after them the extra rows of `kept`."""
        kept = self.kept(held_out)
        if not kept:  # an empty table would make the labels' column one of objects
            return train
        cells = [(PREFIX + row.id, row.label, row.group) for row in kept]
        return pd.concat([train, pd.DataFrame(cells, columns=["id", "label", "group"])], ignore_index=True)

    def facts(self, held_out: Iterable[str]) -> dict:
        """Return what run.json records of a fold that holds these train ids out; empty without any row."""
        if not self.rows:
            return {}
        trained = len(self.kept(held_out))
        counts = {"rows": len(self.rows), "trained": trained, "dropped": list(self.dropped)}
        return {"extra_rows": {**counts, "sha256": self.hash}}

    def describe(self, folds: Folds) -> str:
        """Say how many rows there are, and how many are left out and why."""
        parts = [f"{len(self.rows):,} rows to train on"]
        left_out = [len(self.rows) - len(self.kept(folds.valid(fold)["id"])) for fold in range(folds.k)]
        if any(left_out):
            counts = ", ".join(f"{count:,}" for count in left_out)
            parts.append(f"left out of folds 0 to {folds.k - 1}, as they show held-out images: {counts}")
        if self.dropped:
            parts.append(f"dropped, as they show test images: {_some(self.dropped)}")
        if contradicting := self._contradicting(folds):
            parts.append(f"with another label than a train row of the same picture: {_some(contradicting)}")
        return "; ".join(parts)

    def _contradicting(self, folds: Folds) -> list[str]:
        """Return the ids of the rows that show a train row's picture and have another label than it."""
        label_of = dict(zip(folds.table["id"], folds.table["label"], strict=True))
        labels: dict[str, set[int]] = {}
        for id, group in self.pictures:
            labels.setdefault(group, set()).add(label_of[id])
        return [row.id for row in self.rows if labels.get(row.group, {row.label}) != {row.label}]


def _some(ids: Sequence[str]) -> str:
    return f"{len(ids):,} ({', '.join(ids[:_SHOWN])}{', ..' if len(ids) > _SHOWN else ''})"


NO_EXTRA_ROWS = ExtraRows()


def load_extra_rows(folder: Path, competition: Competition, folds: Folds) -> ExtraRows:
    """Read the extra rows in `folder`, check their images and compare them with those of the competition.

    One `InputError` lists the labels that are none of the classes, the images that are missing or unsound, those of
    several rows and those that have two labels. It is one as well if every row shows a test image.
    """
    task, findings = folds.target, Findings()
    if task.regression:
        raise InputError(f"--extra takes labels of classes, and {task.name} is a number; leave --extra out")
    if not folder.is_dir():
        raise InputError(f"--extra {folder}: there is no such folder (a zip has to be unpacked)")
    csv = next((folder / name for name in TRAIN_FILES if (folder / name).is_file()), None)
    rows = _read_csv_file(csv, task, findings) if csv else _read_class_folders(folder, task, findings)
    checked, first = [], {}
    for row, facts in zip(rows, inspect_files([row.path for row in rows]), strict=True):
        if isinstance(facts, str):
            findings.add(facts, f"{row.where} {facts}")
        elif (other := first.setdefault(row.path, row)).id != row.id:
            findings.add("shared", f"{row.where} is the image of the id {quoted(other.id)} as well")
        else:
            checked.append(row._replace(sha256=facts.sha256))
    _find_two_labels(checked, task, findings)
    hint = "Correct these, or take the rows and the images out. Nothing was trained."
    findings.raise_any(f"--extra {folder} cannot be used:", hint)
    extra = _compare(checked, competition, folds)
    if not extra.rows:
        raise InputError(f"--extra {folder}: every image is that of a test row, so nothing is left to train on")
    return extra


def _read_csv_file(path: Path, task: Task, findings: Findings) -> list[ExtraRow]:
    """Return the rows of a csv file with the columns of the competition's train.csv, and any others."""
    file, needed = read_table(path, str(path), findings), [task.id_column, *task.label_columns]
    if file is None:
        return []
    if not set(needed) <= set(file.header):
        found = quoted(",".join(file.header))
        findings.add("header", f"{path}, row 1: the header is {found}, expected '{','.join(needed)}'")
        return []
    file = index_ids(file, task.id_column, str(path), findings)
    labels = label_indices(task, file, str(path), findings)
    rows = []
    for (number, _), id, label in zip(file.rows, file.column(task.id_column), labels, strict=True):
        if not row_id_fault(id):
            image = _find_image(path.parent, id)
            rows.append(ExtraRow(id, label, image, f"{image} ({path.name}, row {number})"))
    return rows


def _find_image(folder: Path, id: str) -> Path:
    """Return the path of an image in the folder or in train/, which need not be there; an id may name folders."""
    tops = [top for top in (folder / "train", folder) if top.is_dir()]
    paths = [find_file(place, id) for place in (*(top / PurePosixPath(id).parent for top in tops), *tops)]
    return next((path for path in paths if path.exists()), paths[0])


def _read_class_folders(folder: Path, task: Task, findings: Findings) -> list[ExtraRow]:
    """Return a row for each image in a folder that is called like a class, sorted by path."""
    rows, index = [], {name: number for number, name in enumerate(task.classes)}
    with open_archive(folder) as members:
        of_path = {PurePosixPath("train") / member.path: member for member in members}
    for member in members:
        if member.problem and (member.is_folder or has_image_suffix(member.path.name)):
            findings.add(member.problem, f"{member.name} {member.problem}")
    places = place_images(path for path, member in of_path.items() if has_image_suffix(member.path.name))
    if not any(split == "train" and name for split, name in places.values()):
        raise InputError(f"--extra {folder}: it holds neither a train.csv (or labels.csv) nor a folder for each class")
    for path, (split, name) in sorted(places.items()):
        member = of_path[path]
        if split != "train" or member.problem:
            continue
        if name not in index:
            where = f"its folder {quoted(name)} is none of the classes" if name else "it is in no folder of a class:"
            findings.add("class", f"{member.name}: {where} {', '.join(task.classes)}")
        rows.append(ExtraRow(str(member.path), index.get(name, -1), folder / member.path, member.name))
    return rows


def _find_two_labels(rows: list[ExtraRow], task: Task, findings: Findings) -> None:
    first: dict[str, ExtraRow] = {}
    for row in rows:
        other = first.setdefault(row.sha256, row)
        if -1 < other.label != row.label > -1:
            labels = f"{task.classes[other.label]} and {task.classes[row.label]}"
            findings.add("two", f"{other.where} and {row.where} are the same image with the labels {labels}")


def _compare(rows: list[ExtraRow], competition: Competition, folds: Folds) -> ExtraRows:
    """Find what the rows show of the competition's images; see `ExtraRows`."""
    from facefold.data.duplicates import group_pictures  # it imports scipy, and workers need it not

    images, known = check_images(competition), load_thumbnails(competition).grey
    paths = [row.path for row in rows]
    thumbnails = map_images(lambda path: read_thumbnail(path, THUMBNAIL_SIDE)[0], paths)
    grey = np.concatenate([known, np.stack(list(progress_bar(thumbnails, len(rows), "thumbnails")))])
    sha256 = [*images["sha256"], *(row.sha256 for row in rows)]
    first = group_pictures(grey, pd.factorize(np.array(sha256))[0])
    of_images, of_rows = first[: len(images)], first[len(images) :]
    is_test = (images["split"] == "test").to_numpy()
    dropped = np.isin(of_rows, of_images[is_test])
    # Train rows come first, so the first image of a group that holds one is one.
    fold_groups = dict(zip(folds.table["id"], folds.table["group"], strict=True))
    names = [fold_groups.get(id) for id in images["id"]] + [PREFIX + row.id for row in rows]
    shown = np.isin(of_images, of_rows[~dropped]) & ~is_test
    named = [row._replace(group=names[group]) for row, group in zip(rows, of_rows, strict=True)]
    return ExtraRows(
        tuple(row for row, drop in zip(named, dropped, strict=True) if not drop),
        tuple((id, names[group]) for id, group in zip(images["id"][shown], of_images[shown], strict=True)),
        tuple(row.id for row, drop in zip(rows, dropped, strict=True) if drop),
    )
