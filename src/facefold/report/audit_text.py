"""The page that audit.py prints: what is in a competition before any model is trained, and what to do about it."""

from collections.abc import Iterable

import pandas as pd

from facefold.data.competition import Competition
from facefold.data.leaks import Cue

_SHOWN = 5  # of a kind, by name
_SUSPECTS = 10


def describe_contents(found: Competition, images: pd.DataFrame) -> list[str]:
    """Rows, labels, sizes and byte-identical files; `images` is the table of `integrity.check`."""

    def spread(column: str) -> str:
        values = images[column]
        return f"{values.min():,} / {values.median():,.0f} / {values.max():,}"

    ones = int(found.train["label"].sum())
    meta = "" if found.meta is None else f", {len(found.meta):,} in meta.csv"
    return [
        f"rows        {len(found.train):,} train, {len(found.test):,} test{meta}",
        f"labels      {len(found.train) - ones:,} of 0, {ones:,} of 1: share of 1 is {ones / len(found.train):.4f}",
        f"images      width {spread('width')}, height {spread('height')} pixels (min / median / max)",
        f"bytes       {spread('bytes')} a file, {images['bytes'].sum() / 1e6:,.1f} MB in all",
        *_alike("identical", found, images, "sha256"),
    ]


def describe_near_duplicates(found: Competition, groups: pd.DataFrame) -> list[str]:
    """Near-duplicates, byte-identical ones among them; `groups` is the table of `duplicates.find`. Both labels: named."""
    lines = _alike("near", found, groups, "group")
    labelled = _labelled(found, groups)
    mixed = labelled[labelled.groupby("group")["label"].transform("nunique") > 1]
    named = [
        " and ".join(f"train/{row.id} ({row.label})" for row in rows.itertuples())
        for _, rows in mixed.groupby("group", sort=False)
    ]
    return lines + ([f"            both labels: {_few(named, '; ')}"] if named else [])


def describe_shared_pictures(told: pd.DataFrame, found: Competition) -> list[str]:
    """What the twins of test images in train say; `told` is the table of `leaks.twins`."""
    test, train = (told[(told["split"] == split) & (told["zeros"] + told["ones"] > 0)] for split in ("test", "train"))
    if not len(test):
        return ["twins       no test image shows a picture of train"]
    answered = train[train["answer"] >= 0].merge(found.train, on="id", validate="one_to_one")
    right = int((answered["answer"] == answered["label"]).sum())
    said = test["answer"].value_counts()
    return [
        f"twins       the labels of their twins in train would give {said.get(0, 0):,} test images label 0, "
        f"{said.get(1, 0):,} label 1, and contradict each other for {said.get(-1, 0):,};",
        f"            of {len(answered):,} train images that have such twins, {right:,} have the label these give",
    ]


def describe_cues(found: Iterable[Cue]) -> list[str]:
    """How well each cue alone tells the label, beside chance."""
    lines = []
    for cue in found:
        verdict = (
            "LEAK"
            if cue.leaks
            else "more than chance, no more than harmless traits of pictures give"
            if cue.value - cue.centre > cue.margin
            else "chance"
        )
        lines.append(
            f"{'' if lines else 'cues':12}{cue.name:17} {cue.measure:11} {cue.value:6.3f}   "
            f"chance {cue.centre:g} +- {cue.margin:.3f}   {verdict}"
        )
    return lines


def describe_broken_images(found: pd.DataFrame) -> list[str]:
    """Images that may be broken, the farthest from the rest first; `found` is the table of `suspects.find`."""
    if not len(found):
        return ["suspects    no image is far darker, brighter or emptier than the rest"]
    named = [f"{row.split}/{row.id} ({row.why})" for row in found.head(_SUSPECTS).itertuples()]
    more = len(found) - len(named)
    return [
        f"suspects    {len(found):,} images may be broken, the worst first: {', '.join(named)}"
        + (f", and {more:,} more" if more else "")
    ]


def list_leaks(told: pd.DataFrame, found: Iterable[Cue]) -> list[str]:
    """What gives test labels away, a sentence each: what `--strict` refuses."""
    shared = int(((told["split"] == "test") & (told["zeros"] + told["ones"] > 0)).sum())
    lines = [
        f"the {cue.name} alone tells the label ({cue.measure} {cue.value:.3f}, chance {cue.centre:g} +- {cue.margin:.3f})"
        for cue in found
        if cue.leaks
    ]
    return lines + ([f"{shared:,} test images show a picture of train"] if shared else [])


def describe_actions(leaking: list[str], mixed: bool, broken: bool) -> list[str]:
    """The way out, a line for each kind of finding."""
    lines = []
    if leaking:
        lines.append(
            "leaks tell nothing about new images; none is used unless you say so (blend.py --use-order, --use-duplicates)"
        )
    if mixed:
        lines.append("look at the pictures with both labels: at least one label of each group is wrong")
    if broken:
        lines.append(
            "look at the suspects; where there is nothing to see, take the row out of train.csv (never out of test.csv)"
        )
    return [f"{'to do' if number == 0 else '':12}{line}" for number, line in enumerate(lines)]


def has_mixed_labels(found: Competition, groups: pd.DataFrame) -> bool:
    """Whether a group of the same picture has both labels."""
    return bool((_labelled(found, groups).groupby("group")["label"].nunique() > 1).any())


def describe_extras(names: list[str]) -> list[str]:
    """Images without a row, from `integrity.extras`."""
    return (
        [f"no row      {len(names):,} images have no row in the csv and are not used: {_few(names, ', ', 3)}"]
        if names
        else []
    )


def _alike(title: str, found: Competition, images: pd.DataFrame, column: str) -> list[str]:
    """Images with equal `column`: groups in all and inside train, those with both labels, test images that are in train too."""
    labelled = _labelled(found, images)
    groups = labelled.groupby(column)["label"].agg(["size", "nunique"])
    groups = groups[groups["size"] > 1]
    test = images.loc[images["split"] == "test", column]
    every = images[column].value_counts()
    every = every[every > 1]
    return [
        f"{title:12}{len(every):,} groups in all ({every.sum():,} images); {len(groups):,} inside train "
        f"({groups['size'].sum():,} rows), {(groups['nunique'] > 1).sum():,} of them with both labels;",
        f"            {test.isin(labelled[column]).sum():,} test images are also in train, "
        f"{test.duplicated(keep=False).sum():,} have a twin inside test",
    ]


def _labelled(found: Competition, table: pd.DataFrame) -> pd.DataFrame:
    return table[table["split"] == "train"].merge(found.train, on="id", validate="one_to_one")


def _few(names: list[str], between: str, shown: int = _SHOWN) -> str:
    return between.join(names[:shown]) + (f"{between}.." if len(names) > shown else "")
