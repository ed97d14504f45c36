"""Tiny competitions in eleven layouts of real ones. The red of an image shows its age group, the green its gender."""

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from facefold.task import LABEL, Task

AGES = ["infant", "child", "young", "adult", "senior"]
TRAIN, TEST = range(1, 41), range(41, 49)
GROUP = {number: number % 5 for number in [*TRAIN, *TEST]}
GENDER = {number: number % 2 for number in [*TRAIN, *TEST]}


def image(number: int, suffix: str = "jpg") -> bytes:
    noise = np.random.default_rng(number).integers(0, 70, (16, 16, 3), np.uint8)
    pixels = noise + np.array([45 * GROUP[number], 170 * GENDER[number], 0], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG" if suffix == "png" else "JPEG")
    return buffer.getvalue()


def table(*rows: list) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def images(numbers, name, suffix: str = "jpg") -> dict[str, bytes]:
    return {name(number): image(number, suffix) for number in numbers}


def house(labels: dict, sample="0", suffix="jpg", name=str, extra=()) -> dict[str, bytes]:
    """Return the files of a competition id,label; extra: columns as (name, function of the number)."""
    head = ["id", "label", *(column for column, _ in extra)]
    return {
        "train.csv": table(head, *([name(n), labels[n], *(value(n) for _, value in extra)] for n in TRAIN)),
        "test.csv": table(["id"], *([name(n)] for n in TEST)),
        "sampleSubmit.csv": table(["id", "label"], *([name(n), sample] for n in TEST)),
        **images(TRAIN, f"train/{{}}.{suffix}".format, suffix),
        **images(TEST, f"test/{{}}.{suffix}".format, suffix),
    }


def cassava() -> dict[str, bytes]:
    return {
        "train.csv": table(["image_id", "label"], *([f"{n}.jpg", GROUP[n]] for n in TRAIN)),
        "sample_submission.csv": table(["image_id", "label"], *([f"{n}.jpg", 4] for n in TEST)),
        **images(TRAIN, "train_images/{}.jpg".format),
        **images(TEST, "test_images/{}.jpg".format),
    }


def melanoma() -> dict[str, bytes]:
    head = ["image_name", "patient_id", "age_approx"]
    rows = {n: [f"ISIC_{n}", f"IP_{n // 4}", n] for n in [*TRAIN, *TEST]}
    return {
        "train.csv": table([*head, "target"], *([*rows[n], GENDER[n]] for n in TRAIN)),
        "test.csv": table(head, *(rows[n] for n in TEST)),
        "sample_submission.csv": table(["image_name", "target"], *([f"ISIC_{n}", 0] for n in TEST)),
        **images(TRAIN, "jpeg/train/ISIC_{}.jpg".format),
        **images(TEST, "jpeg/test/ISIC_{}.jpg".format),
    }


def dogbreed() -> dict[str, bytes]:
    return {
        "labels.csv": table(["id", "breed"], *([f"{n:08x}", AGES[GROUP[n]]] for n in TRAIN)),
        "sample_submission.csv": table(["id", *sorted(AGES)], *([f"{n:08x}", *[0.2] * 5] for n in TEST)),
        **images(TRAIN, "train/{:08x}.jpg".format),
        **images(TEST, "test/{:08x}.jpg".format),
    }


def imagefolder() -> dict[str, bytes]:
    train = images(TRAIN, lambda n: f"train/{AGES[GROUP[n]]}/{AGES[GROUP[n]]}.{n}.jpg")
    return {**train, **images(TEST, "test/{}.jpg".format)}


def aptos() -> dict[str, bytes]:
    return {
        "train.csv": table(["id_code", "diagnosis"], *([f"{n:06x}", GROUP[n]] for n in TRAIN)),
        "test.csv": table(["id_code"], *([f"{n:06x}"] for n in TEST)),
        "sample_submission.csv": table(["id_code", "diagnosis"], *([f"{n:06x}", 0] for n in TEST)),
        **images(TRAIN, "train_images/{:06x}.png".format, "png"),
        **images(TEST, "test_images/{:06x}.png".format, "png"),
    }


def onehot() -> dict[str, bytes]:
    return {
        "train.csv": table(
            ["image_id", *AGES], *([f"Train_{n}", *(int(GROUP[n] == k) for k in range(5))] for n in TRAIN)
        ),
        "test.csv": table(["image_id"], *([f"Test_{n}"] for n in TEST)),
        "sample_submission.csv": table(["image_id", *AGES], *([f"Test_{n}", *[0.2] * 5] for n in TEST)),
        **images(TRAIN, "images/Train_{}.jpg".format),
        **images(TEST, "images/Test_{}.jpg".format),
    }


WORDS = {number: ("man", "woman")[gender] for number, gender in GENDER.items()}
DIGITS = ("0", "1", "2", "3", "4")


def five(**settings) -> Task:
    return Task(kind="multiclass", **settings)


LAYOUTS = {  # files, options, the task, the label of the first three train rows, ids of the first train and test row
    "cassava": (cassava, (), five(classes=DIGITS, id_column="image_id"), [1, 2, 3], ("1.jpg", "41.jpg")),
    "melanoma": (
        melanoma,
        ("--metric", "auc"),
        Task(metric="auc", submission="probabilities", id_column="image_name", label_columns=("target",)),
        [1, 0, 1],
        ("ISIC_1", "ISIC_41"),
    ),
    "dogbreed": (
        dogbreed,
        (),
        five(classes=tuple(sorted(AGES)), metric="log_loss", submission="probabilities", label_columns=("breed",)),
        [1, 4, 0],  # of adult, child, infant, senior, young
        ("00000001", "00000029"),
    ),
    "imagefolder": (imagefolder, (), five(classes=tuple(sorted(AGES))), [0, 0, 0], ("adult.13", "41")),
    "png": (lambda: house(GENDER, suffix="png"), (), LABEL, [1, 0, 1], ("1", "41")),
    "text": (lambda: house(WORDS, "man"), (), Task(classes=("man", "woman")), [1, 0, 1], ("1", "41")),
    "extension": (lambda: house(GENDER, name="{}.jpg".format), (), LABEL, [1, 0, 1], ("1.jpg", "41.jpg")),
    "extra": (
        lambda: house(GENDER, extra=[("age", int), ("patient_id", lambda n: f"p{n // 4}")]),
        (),
        LABEL,
        [1, 0, 1],
        ("1", "41"),
    ),
    "proba": (
        lambda: house(GENDER, "0.5"),
        (),
        Task(metric="auc", submission="probabilities"),
        [1, 0, 1],
        ("1", "41"),
    ),
    "aptos": (
        aptos,
        ("--metric", "qwk"),
        five(classes=DIGITS, metric="qwk", id_column="id_code", label_columns=("diagnosis",)),
        [1, 2, 3],
        ("000001", "000029"),
    ),
    "onehot": (
        onehot,
        ("--metric", "mean_auc"),
        five(
            classes=tuple(AGES),
            metric="mean_auc",
            submission="probabilities",
            id_column="image_id",
            label_columns=tuple(AGES),
        ),
        [1, 2, 3],
        ("Train_1", "Test_41"),
    ),
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
