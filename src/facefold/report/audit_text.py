"""The page that audit.py prints: what is in a competition before any model is trained, and what to do about it."""

from collections.abc import Iterable

import pandas as pd

from facefold.data.competition import Competition
from facefold.data.leaks import Cue

_NAMED = 5  # of a kind
_NAMED_BROKEN = 10


def describe_contents(competition: Competition, images: pd.DataFrame) -> list[str]:
    """Describe rows, labels, sizes and byte-identical files; `images` is the table of `check_images`."""

    def spread(column: str) -> str:
        values = images[column]
        return f"{values.min():,} / {values.median():,.0f} / {values.max():,}"

    labels, meta = competition.train["label"], competition.meta
    return [
        f"rows        {len(labels):,} train, {len(competition.test):,} test"
        + ("" if meta is None else f", {len(meta):,} in meta.csv"),
        f"labels      {(labels == 0).sum():,} of 0, {labels.sum():,} of 1: share of 1 is {labels.mean():.4f}",
        f"images      width {spread('width')}, height {spread('height')} pixels (min / median / max)",
        f"bytes       {spread('bytes')} per file, {images['bytes'].sum() / 1e6:,.1f} MB in all",
        *_describe_groups("identical", competition, images, "sha256"),
    ]


def groups_with_both_labels(competition: Competition, groups: pd.DataFrame) -> list[str]:
    """Name the train images of each group that has both labels; `groups` is the table of `find_duplicates`."""
    return [
        " and ".join(f"train/{row.id} ({row.label})" for row in rows.itertuples())
        for _, rows in _labelled(competition, groups).groupby("group", sort=False)
        if rows["label"].nunique() > 1
    ]


def describe_near_duplicates(competition: Competition, groups: pd.DataFrame, mixed: list[str]) -> list[str]:
    """Describe near-duplicates. groups: the table of `find_duplicates`; mixed: from `groups_with_both_labels`."""
    lines = _describe_groups("near", competition, groups, "group")
    return lines + ([f"            both labels: {_first_few(mixed, '; ')}"] if mixed else [])


def describe_duplicate_labels(competition: Competition, answers: pd.DataFrame) -> list[str]:
    """Describe what the duplicates of test images in train say; `answers` is the table of `labels_of_duplicates`."""
    have = answers[answers["zeros"] + answers["ones"] > 0]
    test, train = (have[have["split"] == split] for split in ("test", "train"))
    if not len(test):
        return ["duplicates  no test image shows a picture of train"]
    answered = train[train["answer"] >= 0].merge(competition.train, on="id", validate="one_to_one")
    correct = int((answered["answer"] == answered["label"]).sum())
    zero, one, neither = ((test["answer"] == answer).sum() for answer in (0, 1, -1))
    return [
        f"duplicates  the labels of their duplicates in train would give {zero:,} test images label 0, "
        f"{one:,} label 1, and contradict each other for {neither:,};",
        f"            of {len(answered):,} train images with such duplicates, {correct:,} have the label of these",
    ]


def describe_cues(cues: Iterable[Cue]) -> list[str]:
    """Describe how well each cue alone predicts the label, and what chance gives."""
    lines = []
    for cue in cues:
        verdict = "chance"
        if cue.leaks:
            verdict = "LEAK"
        elif cue.value - cue.centre > cue.margin:
            verdict = "more than chance, no more than harmless traits of images give"
        lines.append(
            f"{'' if lines else 'cues':12}{cue.name:17} {cue.measure:11} {cue.value:6.3f}   "
            f"chance {cue.centre:g} +- {cue.margin:.3f}   {verdict}"
        )
    return lines


def describe_broken_images(broken: pd.DataFrame) -> list[str]:
    """Describe images that may be broken; `broken` is the table of `find_broken_images`."""
    if not len(broken):
        return ["broken      no image is far darker, brighter or emptier than the rest"]
    names = [f"{row.split}/{row.id} ({row.why})" for row in broken.head(_NAMED_BROKEN).itertuples()]
    more = f", and {len(broken) - len(names):,} more" if len(broken) > len(names) else ""
    return [f"broken      {len(broken):,} images may be broken, the worst first: {', '.join(names)}{more}"]


def list_leaks(answers: pd.DataFrame, cues: Iterable[Cue]) -> list[str]:
    """List what gives test labels away, a sentence each: what `--strict` refuses."""
    lines = [
        f"the {cue.name} alone predicts the label ({cue.measure} {cue.value:.3f}, chance {cue.centre:g} "
        f"+- {cue.margin:.3f})"
        for cue in cues
        if cue.leaks
    ]
    shared = ((answers["split"] == "test") & (answers["zeros"] + answers["ones"] > 0)).sum()
    return lines + ([f"{shared:,} test images show a picture of train"] if shared else [])


def describe_actions(leaks: list[str], mixed: list[str], broken: pd.DataFrame) -> list[str]:
    """Describe what to do, a line for each kind of finding."""
    lines = []
    if leaks:
        lines.append("leaks say nothing about new images: blend.py uses none without --use-order or --use-duplicates")
    if mixed:
        lines.append("look at the images with both labels: at least one label of each group is wrong")
    if len(broken):
        lines.append(
            "look at the broken images; if nothing can be seen, remove the row from train.csv, never from test.csv"
        )
    return [f"{'' if number else 'to do':12}{line}" for number, line in enumerate(lines)]


def describe_images_without_row(names: list[str]) -> list[str]:
    """Describe images without a row, from `images_without_row`."""
    few = _first_few(names, ", ", 3)
    return [f"no row      {len(names):,} images have no row in the csv and are not used: {few}"] if names else []


def _describe_groups(title: str, competition: Competition, images: pd.DataFrame, column: str) -> list[str]:
    """Count groups of images with equal `column`, those with both labels, and the test images that are in one."""
    labelled = _labelled(competition, images)
    train = labelled.groupby(column)["label"].agg(["size", "nunique"])
    train = train[train["size"] > 1]
    sizes = images[column].value_counts()
    sizes = sizes[sizes > 1]
    test = images.loc[images["split"] == "test", column]
    return [
        f"{title:12}{len(sizes):,} groups in all ({sizes.sum():,} images); {len(train):,} inside train "
        f"({train['size'].sum():,} rows), {(train['nunique'] > 1).sum():,} of them with both labels;",
        f"            {test.isin(labelled[column]).sum():,} test images are also in train, "
        f"{test.duplicated(keep=False).sum():,} have a duplicate inside test",
    ]


def _labelled(competition: Competition, table: pd.DataFrame) -> pd.DataFrame:
    return table[table["split"] == "train"].merge(competition.train, on="id", validate="one_to_one")


def _first_few(names: list[str], separator: str, count: int = _NAMED) -> str:
    return separator.join(names[:count]) + (f"{separator}.." if len(names) > count else "")
