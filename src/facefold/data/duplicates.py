"""Find near-duplicates: the same picture in other bytes (re-encoded, resized, brighter, mirrored), in train and test.

    cache/duplicates_<version>_<images hash>.csv   split,id,group, rows as in images.csv

Perceptual hashes propose pairs (`compute_fingerprints`, `candidate_pairs`) and the pixels of the thumbnails decide
(`same_picture`). Not all pairs are compared: sorting the hashes brings similar ones next to each other, so time grows
as n log n. Pairs are decided as they come, most of them by their lowest frequencies alone (`Fingerprints.may_match`),
so memory grows with the images, not with the pairs, however similar the images of a data set are. Cropped and rotated
copies are not found.

Why our own index: 210,000 images take 7 s of one core and 0.5 GB, with recall 0.997 and no false join
(bench/duplicates.py). Deciding pairs as they come is 1.2 times faster than collecting all of them first
(docs/results.md, "Finding near-duplicates").
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from facefold.data.audit import check_images, load_thumbnails
from facefold.data.competition import Competition
from facefold.data.folds import Folds, group_rows
from facefold.data.image_hashes import load_images_hash
from facefold.utils.files import HASHED, is_intact, lock_directory, read_csv, remove_files, write_checksum, write_csv
from facefold.utils.npy import NpyRows

VERSION = 1  # raise it when other pairs count as duplicates
BITS = 128
MAX_DISTANCE = 28  # bits; of 664 duplicate pairs of faces none differs in over 24, of others 1 in 10,000 in at most 28
NEIGHBOURS = 32
WHOLE, DETAIL = 0.97, 0.8  # least correlations; of 280 million pairs of other faces none has over 0.963 and 0.76
BLUR = 2.0  # pixels of the thumbnail: what is finer is detail
FLAT = 4.0  # grey levels: an image that varies by less has no features to compare
_COLUMNS = {"split": str, "id": str, "group": str}
_BLOCK = 4096  # images or pairs at a time: bounds the memory
_ROUNDING = 0.005  # an upper bound of what float16 changes in a correlation


def find_duplicates(competition: Competition, images: pd.DataFrame) -> pd.DataFrame:
    """Group the images that show the same picture; return split, id, group in the order of `images`.

    images: the table of `check_images`. group: `<split>/<id>` of the first image of the group; byte-identical images
    always share one. If a matches b and b matches c, all three are a group. The result is kept for the next call.
    """
    path = competition.root / "cache" / f"duplicates_{VERSION}_{load_images_hash(competition.root)[:12]}.csv"
    if not is_intact(path):
        names = images["split"] + "/" + images["id"]
        first = group_pictures(load_thumbnails(competition).grey, pd.factorize(images["sha256"])[0])
        with lock_directory(competition.root / "competition", wait=True):
            remove_files(path.parent, f"duplicates_[0-9]*_{HASHED}.*")
            write_csv(path, images[["split", "id"]].assign(group=names.to_numpy()[first]))
            write_checksum(path)
    return read_csv(path, _COLUMNS)


def picture_groups(competition: Competition, images: pd.DataFrame, grouping: str | None) -> pd.Series:
    """Return the picture of each train id (the index): the first id that shows it.

    images: as of `check_images`. grouping: what one picture is, as `split.py --groups` says it: near (None as well),
    bytes or none.
    """
    if grouping in ("bytes", "none"):
        return group_rows(images, "sha256" if grouping == "bytes" else "id")
    return group_rows(find_duplicates(competition, images), "group")


def rows_by_picture(competition: Competition, folds: Folds) -> pd.DataFrame:
    """Return id, label, group of the train rows, by picture alone: the groups of the folds may be patients as well."""
    pictures = picture_groups(competition, check_images(competition), folds.grouping)
    return folds.table[["id", "label"]].assign(group=folds.table["id"].map(pictures))


def group_pictures(grey: np.ndarray | NpyRows, identical: np.ndarray) -> np.ndarray:
    """Return for each thumbnail, uint8 (n, s, s), the row of the first one of its group, int64 (n,).

    identical: (n,), equal if the files are byte-identical.
    """
    group = _first_rows(identical)
    first = np.unique(group)  # one row per distinct file: a thousand copies of one cost no more than one
    rows = first[np.concatenate([grey[first[block]].std(axis=(1, 2)) >= FLAT for block in _blocks(first)])]
    prints = compute_fingerprints(grey, rows)
    for pairs in candidate_pairs(prints.hashes, prints.mirrored):
        left, right = group[rows[pairs[:, :2]]].T
        pairs = pairs[left != right]
        pairs = pairs[prints.may_match(pairs)]
        left, right = rows[pairs[:, :2]].T
        same = same_picture(grey, left, right, pairs[:, 2])
        group = _join_groups(group, left[same], right[same])
    return group


class Fingerprints(NamedTuple):
    """The fingerprints of n thumbnails.

    hashes, mirrored: perceptual hashes of the image and of its mirror image, uint8 (n, BITS / 8).
    coefficients: float16 (n, BITS), those of the lowest frequencies of an image of unit energy.
    residual_norms: float32 (n,), the norm of the other coefficients.
    signs: (BITS,), -1 for the frequencies that a mirror negates, else 1.
    """

    hashes: np.ndarray
    mirrored: np.ndarray
    coefficients: np.ndarray
    residual_norms: np.ndarray
    signs: np.ndarray

    def may_match(self, pairs: np.ndarray) -> np.ndarray:
        """Return whether the images of each pair (p, 3), as of `candidate_pairs`, may correlate by `WHOLE`: bool (p,).

        The lowest frequencies are known, and the others add at most the product of the residual norms
        (Cauchy-Schwarz), so no pair is lost.
        """
        may = np.zeros(len(pairs), dtype=bool)
        for block in _blocks(pairs):
            left, right, mirrored = pairs[block].T
            signs = np.where(mirrored[:, None] == 1, self.signs, 1)
            known = np.einsum(
                "ij,ij->i",
                self.coefficients[left].astype(np.float32),
                self.coefficients[right] * signs,
                dtype=np.float32,
            )
            may[block] = known + self.residual_norms[left] * self.residual_norms[right] >= WHOLE - _ROUNDING
        return may


def compute_fingerprints(grey: np.ndarray | NpyRows, rows: np.ndarray) -> Fingerprints:
    """Compute the fingerprints of the thumbnails `rows`.

    A perceptual hash: a bit is the sign of one of the lowest coefficients of the cosine transform, without the constant
    one. Mirroring flips the sign of odd horizontal frequencies. Brightness and contrast change no sign, JPEG and
    resizing only those of coefficients near 0.
    """
    side = grey.shape[1]
    lowest = sorted((down + across, down, across) for down in range(side) for across in range(side))[1 : BITS + 1]
    down, across = np.array(lowest)[:, 1:].T
    odd = across % 2 == 1
    hashes, mirrored = (np.empty((len(rows), BITS // 8), dtype=np.uint8) for _ in range(2))
    coefficients, residual_norms = np.empty((len(rows), BITS), dtype=np.float16), np.empty(len(rows), dtype=np.float32)
    for block in _blocks(rows):
        values = dctn(_standardise(grey[rows[block]]), axes=(1, 2), norm="ortho")[:, down, across] / side
        hashes[block], mirrored[block] = np.packbits(values > 0, axis=1), np.packbits((values > 0) ^ odd, axis=1)
        coefficients[block], residual_norms[block] = values, np.sqrt(np.maximum(1 - np.square(values).sum(axis=1), 0))
    return Fingerprints(hashes, mirrored, coefficients, residual_norms, np.where(odd, -1, 1).astype(np.float16))


def candidate_pairs(hashes: np.ndarray, mirrored: np.ndarray) -> Iterator[np.ndarray]:
    """Yield pairs that may show the same picture, int64 (p, 3): row, later row, 1 if one is to be mirrored.

    A pair may come more than once. hashes, mirrored: those of `Fingerprints`, uint8 (n, BITS / 8).

    The bits are divided into parts of 16, in two ways. For each part the hashes are sorted with it as the leading key
    (Charikar 2002; Manku, Jain and Das Sarma 2007), and each is compared with the next `NEIGHBOURS` ones that have
    the same part. Hashes that differ in 7 bits or fewer always share a part; so do most other near ones. If more than
    `NEIGHBOURS` hashes share one, only the nearest in the order of the other bits are compared; pairs missed here are
    connected through the other members of their group.
    """
    rows = len(hashes)
    both = np.concatenate([hashes, mirrored])
    words = np.ascontiguousarray(both.view(np.uint64).T)
    for bits in (np.arange(BITS), np.arange(BITS).reshape(16, -1).T.ravel()):
        packed = np.empty_like(both)
        for block in _blocks(both):
            packed[block] = np.packbits(np.unpackbits(both[block], axis=1)[:, bits], axis=1)
        for part in range(BITS // 16):
            order = np.lexsort(np.ascontiguousarray(np.roll(packed, -2 * part, axis=1)).view(">u8").T[::-1])
            yield from _neighbours(words, order, packed.view(np.uint16)[order, part], rows)


def _neighbours(words: np.ndarray, order: np.ndarray, part: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Yield the pairs (as `candidate_pairs`) of near hashes that are close in `order` and share `part`.

    words: uint64 (BITS / 64, 2 * rows), the hashes. order: (2 * rows,), sorts them. part: uint16 (2 * rows,), sorted.
    """
    for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
        shared = np.flatnonzero(part[step:] == part[:-step])
        if not len(shared):
            break
        a, b = order[shared], order[shared + step]
        distance = sum(_count_bits(word[a] ^ word[b]) for word in words)
        near = (distance <= MAX_DISTANCE) & ((a < rows) | (b < rows)) & (a % rows != b % rows)
        a, b = a[near], b[near]
        left, right = a % rows, b % rows
        yield np.column_stack([np.minimum(left, right), np.maximum(left, right), (a >= rows) ^ (b >= rows)])


def _count_bits(words: np.ndarray) -> np.ndarray:
    """Count the set bits of each uint64 (Warren, Hacker's Delight, 5-1); numpy before 2.0 has no bitwise_count."""
    words = words - (words >> 1 & 0x5555555555555555)
    words = (words & 0x3333333333333333) + (words >> 2 & 0x3333333333333333)
    return (words + (words >> 4) & 0x0F0F0F0F0F0F0F0F) * 0x0101010101010101 >> 56


def same_picture(grey: np.ndarray | NpyRows, left: np.ndarray, right: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Compare the thumbnails of rows `left` and `right` (p,), the second mirrored if `mirrored` is 1: bool (p,).

    Both the whole images and their detail must correlate: two faces in the same pose and light share the first.

    Args:
        grey: All thumbnails, uint8 (n, s, s).
        left: Rows of `grey`.
        right: Rows of `grey`.
        mirrored: 0 or 1 for each pair.
    """
    same = np.zeros(len(left), dtype=bool)
    for block in _blocks(left):
        a, b = _standardise(grey[left[block]]), _standardise(grey[right[block]])
        b = np.where(mirrored[block, None, None] == 1, b[:, :, ::-1], b)
        close = np.flatnonzero((a * b).mean(axis=(1, 2)) >= WHOLE)
        a, b = (_standardise(side[close] - gaussian_filter(side[close], (0, BLUR, BLUR))) for side in (a, b))
        same[block.start + close] = (a * b).mean(axis=(1, 2)) >= DETAIL
    return same


def _blocks(rows: np.ndarray) -> Iterator[slice]:
    """Yield the slices that cut `rows` into blocks of `_BLOCK`."""
    return (slice(start, start + _BLOCK) for start in range(0, len(rows), _BLOCK))


def _standardise(images: np.ndarray) -> np.ndarray:
    """Shift and scale each image of (n, s, s) to mean 0 and standard deviation 1, float32."""
    centred = images - images.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return centred / np.maximum(centred.std(axis=(1, 2), keepdims=True), 1e-6)


def _join_groups(group: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Join the groups of rows `left` and `right` (p,), pair by pair. group: (n,), the first row of each row's group."""
    firsts, ends = np.unique(np.concatenate([group[left], group[right]]), return_inverse=True)
    links = coo_matrix((np.ones(len(left), bool), tuple(ends.reshape(2, -1))), shape=(len(firsts), len(firsts)))
    joined = np.arange(len(group))
    joined[firsts] = firsts[_first_rows(connected_components(links, directed=False)[1])]
    return joined[group]


def _first_rows(codes: np.ndarray) -> np.ndarray:
    """Return for each row the first row with the same code, int64 (n,)."""
    _, first, own = np.unique(codes, return_index=True, return_inverse=True)
    return first[own]
