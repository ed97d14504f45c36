"""Measure near-duplicates: recall of copies by kind, false joins, and CPU seconds as the competition grows.

    python bench/duplicates.py ROOT [--copies 200] [--rows 2000,18000,200000]

ROOT holds a competition that audit.py has checked. First `copies` of its train images are changed in each of several
ways and added to all images: recall is the share joined to their original, false joins are rows in a wrong group. Then
synthetic pictures like the thumbnails of ROOT are drawn (each frequency with its mean and deviation there, so that
hashes share what faces share); one in twenty has a copy with other light and noise, every second one mirrored.

    quality 30 to 95, size x 0.8 to 1.2, light x 0.6, mirrored    recall 1.000, 0 false joins
    light + 40, all at once                                       recall 0.995, 0 false joins
    light x 1.25 (what was bright is cut off)                     recall 0.980, 0 false joins

    synthetic  hash s  pairs s  pixels s     pairs  recall  false joins  peak MB
        2,100     0.0      0.0       0.0       100   0.990            0      184
       18,900     0.1      0.2       0.0       900   0.999            0      223
      210,000     1.2      5.1       0.3    10,153   0.997            0      535

(2,600 faces, one core. A third of the peak is the libraries, 1 kB per image the synthetic pictures themselves.)
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from scipy.fft import dctn, idctn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from facefold.data.audit import THUMBNAIL_SIDE, load_thumbnails  # noqa: E402
from facefold.data.competition import Competition, load_competition  # noqa: E402
from facefold.data.duplicates import candidate_pairs, compute_fingerprints, group_pictures, same_picture  # noqa: E402
from facefold.data.images import read_thumbnail  # noqa: E402

SHARE = 20  # one synthetic picture in so many has a copy


def scaled(picture: np.ndarray, factor: float) -> np.ndarray:
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=interpolation)


def lit(picture: np.ndarray, gain: float, offset: float) -> np.ndarray:
    return np.clip(gain * picture.astype(np.float32) + offset, 0, 255).astype(np.uint8)


KINDS = {  # what is done to a picture, and the quality it is saved with
    "quality 30": (lambda picture: picture, 30),
    "quality 50": (lambda picture: picture, 50),
    "quality 75": (lambda picture: picture, 75),
    "quality 95": (lambda picture: picture, 95),
    "size x 0.8": (lambda picture: scaled(picture, 0.8), 90),
    "size x 0.9": (lambda picture: scaled(picture, 0.9), 90),
    "size x 1.1": (lambda picture: scaled(picture, 1.1), 90),
    "size x 1.2": (lambda picture: scaled(picture, 1.2), 90),
    "light x 1.25": (lambda picture: lit(picture, 1.25, 0), 90),
    "light x 0.6": (lambda picture: lit(picture, 0.6, 0), 90),
    "light + 40": (lambda picture: lit(picture, 1, 40), 90),
    "mirrored": (lambda picture: picture[:, ::-1], 90),
    "all of it": (lambda picture: lit(scaled(picture[:, ::-1], 0.8), 1.15, 10), 50),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--copies", type=int, default=200)
    parser.add_argument("--rows", default="2000,18000,200000", help="sizes of the synthetic sets")
    args = parser.parse_args()
    competition = load_competition(args.root)
    grey = np.array(load_thumbnails(competition).grey)
    own = group_pictures(grey, np.arange(len(grey)))
    print(f"{len(grey):,} images, {(np.bincount(own) > 1).sum():,} groups among them as they are")
    measure_copies(competition, grey, own, args.copies)
    print(f"\n{'synthetic':>9}  hash s  pairs s  pixels s     pairs  recall  false joins  peak MB")
    for rows in map(int, args.rows.split(",")):
        measure_growth(grey, rows)


def measure_copies(competition: Competition, grey: np.ndarray, own: np.ndarray, copies: int) -> None:
    chosen = np.random.default_rng(0).choice(len(competition.train), copies, replace=False)
    ids = competition.train["id"]
    pictures = [cv2.imread(str(competition.image_path("train", ids[row]))) for row in chosen]
    print(f"{'':14}recall  false joins")
    for kind, (change, quality) in KINDS.items():
        thumbnails = []
        with tempfile.TemporaryDirectory() as folder:
            for picture in pictures:
                path = Path(folder) / "copy.jpg"
                cv2.imwrite(str(path), change(picture), [cv2.IMWRITE_JPEG_QUALITY, quality])
                thumbnails.append(read_thumbnail(path, THUMBNAIL_SIDE)[0])
        groups = group_pictures(np.concatenate([grey, thumbnails]), np.arange(len(grey) + copies))
        alone, right = groups[len(grey) :] >= len(grey), groups[len(grey) :] == own[chosen]
        print(f"{kind:14}{right.mean():6.3f}  {(~right & ~alone).sum() + (groups[: len(grey)] != own).sum():11}")


def measure_growth(like: np.ndarray, rows: int) -> None:
    """Time the three parts of `group_pictures` on synthetic pictures, and count its joins."""
    grey = synthetic_pictures(like, rows)
    copies = rows // SHARE
    indices, begun = np.arange(len(grey)), time.process_time()
    prints = compute_fingerprints(grey, indices)
    hashed = time.process_time()
    candidates = candidate_pairs(prints.hashes, prints.mirrored)
    pairs = np.concatenate([chunk[prints.may_match(chunk)] for chunk in candidates])
    paired = time.process_time()
    same_picture(grey, *pairs.T)
    checked = time.process_time()
    groups = group_pictures(grey, indices)
    original, copied = groups[:rows], groups[rows:]
    recall = (copied == np.arange(copies)).mean()
    false = (original != np.arange(rows)).sum() + ((copied != np.arange(copies)) & (copied < rows)).sum()
    print(
        f"{len(grey):9,}  {hashed - begun:6.1f}  {paired - hashed:7.1f}  {checked - paired:8.1f}  {len(pairs):8,}  "
        f"{recall:6.3f}  {false:11}  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:7,.0f}"
    )


def synthetic_pictures(like: np.ndarray, rows: int) -> np.ndarray:
    """Draw `rows` pictures and rows / SHARE copies of the first ones, uint8 (n, s, s)."""
    rng, side = np.random.default_rng(0), like.shape[1]
    sample = like[rng.choice(len(like), min(2000, len(like)), replace=False)].astype(np.float32)
    sample = dctn(sample, axes=(1, 2), norm="ortho")
    mean, spread = sample.mean(axis=0), sample.std(axis=0)
    grey = np.empty((rows + rows // SHARE, side, side), dtype=np.uint8)
    for start in range(0, rows, 4096):
        waves = mean + spread * rng.standard_normal((min(4096, rows - start), side, side), dtype=np.float32)
        grey[start : start + len(waves)] = np.clip(idctn(waves, axes=(1, 2), norm="ortho"), 0, 255)
    for row in range(rows // SHARE):
        copy = grey[row, :, ::-1] if row % 2 else grey[row]
        grey[rows + row] = lit(copy + rng.normal(0, 2, copy.shape), rng.uniform(0.7, 1.2), rng.uniform(-10, 10))
    return grey


if __name__ == "__main__":
    main()
