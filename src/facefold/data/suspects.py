"""Images that may be broken: what a person should look at, told from the small grey pictures without a trained model.

Hardly any detail for this competition (a blur, one shade), or nearly black or white: of 23,708 faces these name five, a barcode
and four blurs in which nobody can see a face. How far a picture lies from the others as a whole (from their mean, or outside
their principal components) was tried and left out: of the 40 farthest three at most were no photograph of a face, and the
others were hats, glasses and dark skin before bright ground.
"""

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from facefold.utils.npy import NpyRows

BLUR = 6.0  # robust standard deviations below the median of the detail's logarithm; of faces the blurs had 8 to 11, the next 5.2
DARK, BRIGHT = 20, 235  # mean grey level; faces had 26 to 225
_LEAST = 0.1  # grey levels: detail below this is none; also the least spread of its logarithm
_BLOCK = 4096


def find_broken_images(rows: pd.DataFrame, grey: np.ndarray | NpyRows) -> pd.DataFrame:
    """Table split, id, why, far of the images that stand out, the farthest first.

    rows: split, id of the pictures `grey`, uint8 (n, s, s). why: no detail, very dark or very bright; far: how many times the
    limit.
    """
    detail, light = np.empty(len(grey)), np.empty(len(grey))
    for start in range(0, len(grey), _BLOCK):
        block = slice(start, start + _BLOCK)
        pictures = grey[block].astype(np.float32)
        detail[block] = (pictures - gaussian_filter(pictures, (0, 1, 1))).std(axis=(1, 2))
        light[block] = pictures.mean(axis=(1, 2))
    known = np.log(np.maximum(detail, _LEAST))
    below = np.median(known) - known
    spread = max(1.4826 * np.median(np.abs(below)), _LEAST)  # of a normal distribution this is its standard deviation
    far = np.column_stack([below / spread / BLUR, (255 - light) / (255 - DARK), light / BRIGHT])
    why = np.array(["no detail", "very dark", "very bright"])[far.argmax(axis=1)]
    table = rows[["split", "id"]].assign(why=why, far=far.max(axis=1))
    return table[table["far"] > 1].sort_values("far", ascending=False, kind="stable").reset_index(drop=True)
