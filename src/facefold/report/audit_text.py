"""The numbers of the page that audit.py prints, which audit.txt.j2 puts into words, and its findings as a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from facefold.data.competition import Competition
from facefold.data.group_columns import find_group_columns
from facefold.data.leaks import Cue
from facefold.data.task_inference import describe_options, describe_other_reading, describe_task
from facefold.report.html import render_page


def audit_page(
    competition: Competition,
    images: pd.DataFrame,
    groups: pd.DataFrame,
    answers: pd.DataFrame,
    cues: Sequence[Cue],
    broken: pd.DataFrame,
    unused: Sequence[str],
) -> str:
    """Return the page as text.

    Args:
        competition: What was checked.
        images: The table of `check_images`.
        groups: The table of `find_duplicates`.
        answers: The table of `labels_of_duplicates`.
        cues: Of `find_cues`.
        broken: The table of `find_broken_images`.
        unused: Of `images_without_row`.
    """
    task, names = competition.task, competition.task.classes
    sample = [name for name in competition.sample.columns if name != "id"]
    values = competition.sample[sample[0]].tolist() if len(sample) == 1 else []
    data = {
        "train": competition.train,
        "test": competition.test,
        "meta": competition.meta,
        "task": task,
        "counts": [(name, int((competition.train["label"] == label).sum())) for label, name in enumerate(names)],
        "read_as": describe_task(task),
        "options": describe_options(task, len(sample)),
        "other_reading": describe_other_reading(task, values, _columns_with_classes(competition)),
        "group_columns": find_group_columns(competition),
        "images": images,
        "identical": _count_groups(competition, images, "sha256"),
        "near": _count_groups(competition, groups, "group"),
        "mixed": [
            " and ".join(f"train/{row.id} ({names[row.label]})" for row in rows.itertuples())
            for _, rows in _labelled(competition, groups).groupby("group", sort=False)
            if rows["label"].nunique() > 1
        ],
        "duplicates": _count_answers(competition, answers),
        "cues": cues,
        "broken": broken,
        "unused": unused,
        "leaks": list_leaks(answers, cues),
    }
    return render_page("audit.txt.j2", **data)


def findings_table(
    competition: Competition,
    groups: pd.DataFrame,
    leaks: Sequence[str],
    broken: pd.DataFrame,
    unused: Sequence[str],
) -> pd.DataFrame:
    """Return what a person should look at, a row each, all of it text.

    finding: leak, different labels (of images that show the same picture), duplicate, broken or no row. split, id and
    label (the class of a train image): of an image, empty where there is none. detail: in words.

    Args:
        competition: What was checked.
        groups: The table of `find_duplicates`.
        leaks: Of `list_leaks`.
        broken: The table of `find_broken_images`.
        unused: Of `images_without_row`.
    """
    classes = dict(zip(competition.train["id"], competition.train["label"], strict=True))
    classes = {id: competition.task.classes[label] for id, label in classes.items()}
    label = groups["id"].map(classes).where(groups["split"] == "train")
    pictures = groups.assign(label=label, detail="shows the picture of " + groups["group"])
    pictures = pictures[pictures["group"].duplicated(keep=False)]
    differ = pictures.groupby("group")["label"].transform("nunique") > 1
    pictures = pictures.assign(finding=np.where(differ, "different labels", "duplicate"))
    parts = [
        pd.DataFrame({"detail": leaks}).assign(finding="leak"),
        pictures.sort_values(["finding", "group"], kind="stable"),
        broken.assign(finding="broken", label=broken["id"].map(classes).where(broken["split"] == "train")).rename(
            columns={"why": "detail"}
        ),
        pd.DataFrame({"detail": unused}).assign(finding="no row"),
    ]
    columns = ["finding", "split", "id", "label", "detail"]
    return pd.concat(parts, ignore_index=True).reindex(columns=columns).fillna("")


def _columns_with_classes(competition: Competition) -> list[str]:
    """Return the further columns of train.csv of which every value is a class."""
    if competition.extra is None:
        return []
    table, classes = competition.extra.drop(columns="id"), competition.task.classes
    return [name for name in table.columns if table[name].isin(classes).all()]


def list_leaks(answers: pd.DataFrame, cues: Sequence[Cue]) -> list[str]:
    """List what gives test labels away, a sentence each: what `--strict` refuses."""
    lines = [
        f"the {cue.name} alone predicts the label ({cue.measure} {cue.value:.3f}, chance {cue.centre:g} "
        f"+- {cue.margin:.3f})"
        for cue in cues
        if cue.leaks
    ]
    shared = ((answers["split"] == "test") & (answers["known"] > 0)).sum()
    return lines + ([f"{shared:,} test images show a picture of train"] if shared else [])


def _count_answers(competition: Competition, answers: pd.DataFrame) -> dict[str, Any]:
    """Count what the duplicates of test images in train say, and how often they are right; empty without any."""
    answers = answers[answers["known"] > 0]
    test = answers[answers["split"] == "test"]
    train = _labelled(competition, answers[answers["answer"] >= 0])
    return (
        {}
        if test.empty
        else {
            "test_answers": [(test["answer"] == answer).sum() for answer in (0, 1, -1)],
            "answered": (test["answer"] >= 0).sum(),
            "train_answered": len(train),
            "train_correct": (train["answer"] == train["label"]).sum(),
        }
    )


def _count_groups(competition: Competition, images: pd.DataFrame, column: str) -> dict[str, int]:
    """Count groups of images with equal `column`, those with both labels, and the test images that are in one."""
    labelled = _labelled(competition, images)
    train = labelled.groupby(column)["label"].agg(["size", "nunique"])
    train = train[train["size"] > 1]
    sizes = images[column].value_counts()
    sizes = sizes[sizes > 1]
    test = images.loc[images["split"] == "test", column]
    return {
        "groups": len(sizes),
        "images": sizes.sum(),
        "train_groups": len(train),
        "train_rows": train["size"].sum(),
        "mixed": (train["nunique"] > 1).sum(),
        "test_in_train": test.isin(labelled[column]).sum(),
        "test_in_test": test.duplicated(keep=False).sum(),
    }


def _labelled(competition: Competition, table: pd.DataFrame) -> pd.DataFrame:
    return table[table["split"] == "train"].merge(competition.train, on="id", validate="one_to_one")
