"""The pictures that a person names, as a table of faces and a file for each that a model can be shown."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.faces import Detector, cut_face, encode_jpeg
from facefold.data.images import ImageProblem, open_photograph
from facefold.utils.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_COLUMNS = ["file", "face", "x", "y", "width", "height"]


def list_photographs(given: Sequence[Path]) -> list[Path]:
    """The pictures named, and those in folders named (sorted), each once. `InputError` for what is missing or holds none."""
    paths, wrong = [], []
    for path in given:
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS) if path.is_dir() else [path]
        if not path.exists():
            wrong.append(f"{path} is missing")
        elif not inside:
            wrong.append(f"{path} holds no picture ({', '.join(ENDINGS)})")
        paths += inside
    if wrong:
        raise InputError.of("these pictures cannot be had:", wrong)
    return list(dict.fromkeys(paths))


def whole_photographs(paths: Sequence[Path]) -> tuple[pd.DataFrame, list[Path]]:
    """Pictures that are cut as the training images are: file, face (1), x, y, width, height of all of it, and the pictures."""
    facts = [(path, 1, 0, 0, pixels.shape[1], pixels.shape[0]) for path, pixels in _opened(paths)]
    return pd.DataFrame(facts, columns=_COLUMNS), list(paths)


def cut_out_faces(
    paths: Sequence[Path], train: Sequence[Path], scratch: Path
) -> tuple[pd.DataFrame, list[Path], list[Path]]:
    """The faces in photographs: file, face (1 is the largest of a file), x, y, width, height in its pixels; a file in `scratch`
    for each, cut as the images `train` are; and the photographs without a face.

    Raises `InputError` without the detector, where it does not know the faces of `train`, and where no photograph has a face.
    """
    detector = Detector()
    frame = detector.measure(train)
    facts, cut, without = [], [], []
    for path, photo in _opened(paths):
        found = detector.find(photo)
        for number, face in enumerate(found, start=1):
            facts.append((path, number, *face.box))
            cut.append(scratch / f"{len(facts):06}.jpg")
            cut[-1].write_bytes(encode_jpeg(cut_face(photo, face, frame)))
        without += [] if found else [path]
    if not facts:
        raise InputError.of(
            "no face was found in:", map(str, without), "If they are cut as the training images are, say --no-detect."
        )
    return pd.DataFrame(facts, columns=_COLUMNS), cut, without


def _opened(paths: Sequence[Path]) -> Iterator[tuple[Path, np.ndarray]]:
    """Each picture with its pixels. Those that cannot be read are one `InputError`, when all others have been yielded."""
    wrong = []
    for path in paths:
        try:
            yield path, open_photograph(path)
        except ImageProblem as problem:
            wrong.append(f"{path} {problem}")
    if wrong:
        raise InputError.of("some pictures cannot be read:", wrong, "Leave them out, or convert them to JPEG.")
