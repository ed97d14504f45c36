"""Write a small synthetic competition, to try everything without data. Its SYNTHETIC.txt says what it is.

Two kinds of cartoon face differ in hair, brows, lips, jaw and stubble. Each cue alone is unsure: the kinds overlap, and
position, colours, light, noise and glasses say nothing. Some labels are wrong and a few files are identical, as in real
data.
"""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from facefold.data.competition import SYNTHETIC_MARKER
from facefold.data.images import encode_jpeg
from facefold.data.staging import is_empty, staged_competition
from facefold.utils.errors import InputError
from facefold.utils.files import write_csv, write_text

WRONG_LABELS = 0.03
_SHIFT = 4  # OpenCV's coordinates are in 1/16 of a pixel


def is_synthetic(root: Path) -> bool:
    """Return whether root/competition is synthetic: scores on it mean nothing elsewhere."""
    return (root / "competition" / SYNTHETIC_MARKER).is_file()


def write_synthetic_competition(
    root: Path, *, train: int = 600, test: int = 200, size: int = 64, seed: int = 0
) -> bool:
    """Write a labelled competition of cartoon faces; return False if this very one is there.

    The same arguments give the same bytes. Raises `InputError` if a competition that is not synthetic is there.

    Args:
        root: The competition is written to root/competition.
        train: Rows of train.csv.
        test: Rows of test.csv.
        size: Pixels a side.
        seed: Another seed gives other faces.
    """
    if train < 20 or test < 10 or size < 16:
        raise InputError("a synthetic competition has at least 20 train rows, 10 test rows and 16 pixels")
    note = (
        f"This competition is synthetic: a program drew its images, and scores on it mean nothing elsewhere.\n"
        f"train {train}, test {test}, size {size}, seed {seed}; {WRONG_LABELS:.0%} of the train labels are wrong.\n"
        f"A real one replaces it: python src/audit.py --data ZIP.\n"
    )
    target = root / "competition"
    if not is_empty(target):
        if not is_synthetic(root):
            raise InputError(f"{target} holds a competition that is not synthetic; choose another --root")
        if (target / SYNTHETIC_MARKER).read_text(encoding="utf-8") == note:
            return False
    kinds, sources = _draw_kinds(train, test, seed)
    labels = [kind ^ int(_rng(seed, 1, row).random() < WRONG_LABELS) for row, kind in enumerate(kinds[:train])]
    labels[1] = 1 - labels[sources[1]]  # identical images with conflicting labels, for the audit to find
    ids = [str(number + 1) for number in range(train + test)]
    with staged_competition(root) as staged:
        for row, source in enumerate(sources):
            path = staged / ("train" if row < train else "test") / f"{ids[row]}.jpg"
            path.write_bytes(encode_jpeg(_draw_face(kinds[source], _rng(seed, 2, source), size), quality=90))
        write_csv(staged / "train.csv", pd.DataFrame({"id": ids[:train], "label": labels}))
        write_csv(staged / "test.csv", pd.DataFrame({"id": ids[train:]}))
        write_csv(staged / "sampleSubmit.csv", pd.DataFrame({"id": ids[train:], "label": 0}))
        write_text(staged / SYNTHETIC_MARKER, note)
    return True


def _draw_kinds(train: int, test: int, seed: int) -> tuple[list[int], list[int]]:
    """Draw the kind (0 or 1) of each row, and the row whose image it has: its own, except for a few duplicates."""
    kinds = [int(kind) for kind in _rng(seed, 0).integers(0, 2, train + test)]
    sources = list(range(train + test))
    copies = {1: 0, train // 2: train // 3, train - 1: train // 4, train + test - 1: 2, train + test // 2: train + 1}
    for row, source in copies.items():
        sources[row], kinds[row] = source, kinds[source]
    return kinds, sources


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _draw_face(kind: int, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a face as uint8 (size, size, 3) RGB."""
    unit = size / 64
    lean = rng.normal(1.0 if kind else -1.0, 0.45)  # how typical of its kind the face is

    def cue(spread: float) -> float:
        """Draw one cue in 0..1 that follows the lean, with noise of its own."""
        return float(1 / (1 + np.exp(-1.6 * (lean + rng.normal(0, spread)))))

    background = rng.uniform(40, 230, 3)
    hair_colour = rng.uniform(10, 110) * np.array([0.7, 0.85, 1.0]) + rng.uniform(0, 25, 3)
    skin = rng.uniform(90, 215) * np.array([0.72, 0.85, 1.0]) + rng.uniform(-8, 8, 3)
    x, y = 32 + rng.normal(0, 2), 33 + rng.normal(0, 2)
    width, height = 15 + rng.normal(0, 1.2), 20 + rng.normal(0, 1.2)
    hair, jaw, brow, lip, stubble = cue(0.6), cue(0.6), cue(0.5), cue(0.5), cue(0.6)
    canvas = np.full((size, size, 3), background, dtype=np.uint8)

    def ellipse(centre, radii, colour, angle=0, arc=(0, 360), thickness=-1) -> None:  # centre: from that of the face
        centre = int((x + centre[0]) * unit * 16), int((y + centre[1]) * unit * 16)
        radii = [int(max(radius, 0.3) * unit * 16) for radius in radii]
        colour = np.clip(colour, 0, 255).tolist()
        cv2.ellipse(canvas, centre, radii, angle, *arc, colour, thickness, cv2.LINE_AA, _SHIFT)

    ellipse((0, -5 + 9 * hair), (width + 3 + 3 * hair, 17 + 12 * hair), hair_colour)
    ellipse((0, 19), (6 + 3 * (1 - jaw), 12), skin * 0.85)
    ellipse((0, 0), (width, height), skin)
    ellipse((0, 9), (width - 1 - 4 * jaw, height - 8), skin)
    ellipse((0, 11), (width - 4, 8), skin * (0.78 + 0.22 * stubble), arc=(0, 180))
    ellipse((0, -14), (width, 6 + 3 * rng.random()), hair_colour, arc=(180, 360))
    for side in (-1, 1):
        ellipse((side * 6, -3), (3, 1.7), (235, 240, 240))
        ellipse((side * 6 + rng.normal(0, 0.5), -3), (1.4, 1.5), rng.uniform(20, 90, 3))
        ellipse((side * 6, -7.5 - 0.8 * brow), (4, 1.9 - 1.3 * brow), hair_colour * 0.8, angle=side * (4 + 8 * brow))
    ellipse((0, 3), (1.5, 3.5), skin * 0.88)
    mouth = skin * np.array([0.75, 0.7, 0.85]) + lip * np.array([-10, -35, 45])
    ellipse((rng.normal(0, 0.5), 11.5), (5, 1.1 + 1.3 * lip), mouth)
    if rng.random() < 0.2:
        for side in (-1, 1):
            ellipse((side * 6, -3), (4.5, 3.6), (30, 30, 30), thickness=1)
    return _photograph(canvas, rng)[..., ::-1]


def _photograph(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add tilt, light from one side, noise, and sometimes an object in front of the face."""
    size = canvas.shape[0]
    rotation = cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 7), rng.normal(1, 0.06))
    image = cv2.warpAffine(canvas, rotation, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    if rng.random() < 0.15:
        corner = rng.integers(0, size, 2)
        opposite = corner + rng.integers(size // 6, size // 3, 2)
        cv2.rectangle(image, corner.tolist(), opposite.tolist(), rng.uniform(0, 255, 3).tolist(), -1)
    ramp = np.linspace(-1, 1, size)
    light = rng.uniform(0.75, 1.2) * (
        1 + rng.normal(0, 0.12) * ramp[None, :, None] + rng.normal(0, 0.12) * ramp[:, None, None]
    )
    return np.clip(image * light + rng.normal(0, 9, image.shape), 0, 255).astype(np.uint8)
