"""Near-duplicates: the same picture in other bytes (re-encoded, resized, brighter, mirrored), in train, in test and across.

    cache/duplicates_<version>_<fingerprint>.csv   split,id,group, rows as in images.csv

A perceptual hash (`fingerprints`) proposes pairs and the pixels of the small pictures decide (`same_picture`). No pair is
looked for among all: equal parts of hashes bring likely ones side by side (`candidates`), so time grows as n log n. Pairs are
decided as they come, most of them by the lowest frequencies alone (`Fingerprints.may_be_one`): however alike the pictures of a data set
are, memory grows with the pictures, not with the pairs. Cropped and turned copies are not looked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from facefold.data.audit import load_images_hash
from facefold.data.competition import Competition
from facefold.data.thumbnails import load_thumbnails
from facefold.utils.files import is_intact, lock_directory, read_csv, write_checksum, write_csv
from facefold.utils.npy import NpyRows

VERSION = 1  # raise it when other pairs count as duplicates
BITS = 128
FAR = 28  # bits; of 664 pairs of faces that are one picture none differs by more than 24, of others 1 in 10,000 by 28 or fewer
NEIGHBOURS = 32
WHOLE, DETAIL = (
    0.97,
    0.8,
)  # least correlations of one picture: of 280 million pairs of faces no others pass 0.963, 0.76 there
BLUR = 2.0  # pixels of the small picture: what is finer is detail
FLAT = 4.0  # grey levels: a picture that varies by less has no features to compare
_COLUMNS = {"split": str, "id": str, "group": str}
_BLOCK = 4096  # pictures or pairs at a time: bounds the memory
_ROUNDING = 0.005  # more than float16 can change a correlation by


def find_duplicates(competition: Competition, images: pd.DataFrame) -> pd.DataFrame:
    """Table split, id, group of all images, in the order of `images`, the table of `integrity.check`.

    group: `<split>/<id>` of the first image, in that order, of those that show the same picture; byte-identical ones always
    do. Groups are the closure of pairs. A second call reads what the first one kept.
    """
    path = competition.root / "cache" / f"duplicates_{VERSION}_{load_images_hash(competition.root)[:12]}.csv"
    if not is_intact(path):
        names = images["split"] + "/" + images["id"]
        first = group_pictures(load_thumbnails(competition).grey, pd.factorize(images["sha256"])[0])
        with lock_directory(competition.root / "competition", wait=True):
            for old in path.parent.glob("duplicates_*"):
                old.unlink()
            write_csv(path, images[["split", "id"]].assign(group=names.to_numpy()[first]))
            write_checksum(path)
    return read_csv(path, _COLUMNS)


def group_pictures(grey: np.ndarray | NpyRows, identical: np.ndarray) -> np.ndarray:
    """For each small picture, uint8 (n, s, s), the row of the first one that shows the same, int64 (n,).

    identical: (n,), equal where the files are byte for byte the same.
    """
    _, first, own = np.unique(identical, return_index=True, return_inverse=True)
    first.sort()  # one row for each distinct file: a thousand copies of one cost no more than one
    distinct = np.flatnonzero(
        [
            spread >= FLAT
            for start in range(0, len(first), _BLOCK)
            for spread in grey[first[start : start + _BLOCK]].std(axis=(1, 2))
        ]
    )
    rows = first[distinct]
    group, prints = _first_of(own), compute_fingerprints(grey, rows)
    for pairs in candidate_pairs(prints.plain, prints.mirrored):
        pairs = pairs[group[rows[pairs[:, 0]]] != group[rows[pairs[:, 1]]]]
        pairs = pairs[prints.may_be_one(pairs)]
        left, right = rows[pairs[:, 0]], rows[pairs[:, 1]]
        sure = same_picture(grey, left, right, pairs[:, 2])
        group = _joined(group, left[sure], right[sure])
    return group


@dataclass(frozen=True)
class Fingerprints:
    """Of n pictures. plain, mirrored: perceptual hashes of them and of their mirror images, uint8 (n, BITS / 8). lowest: float16
    (n, BITS), their lowest frequencies, of unit energy with all others, whose part is rest ** 2, float32 (n,). flips: (BITS,), -1
    where a mirror negates a frequency, else 1."""

    plain: np.ndarray
    mirrored: np.ndarray
    lowest: np.ndarray
    rest: np.ndarray
    flips: np.ndarray

    def may_be_one(self, pairs: np.ndarray) -> np.ndarray:
        """Whether the whole pictures of each pair (p, 3), as of `candidates`, may correlate by `WHOLE`: bool (p,). By the lowest
        frequencies, and the most that the others can add (Cauchy and Schwarz): no pair is lost."""
        may = np.zeros(len(pairs), dtype=bool)
        for start in range(0, len(pairs), _BLOCK):
            left, right, mirrored = pairs[start : start + _BLOCK].T
            signs = np.where(mirrored[:, None] == 1, self.flips, 1)
            known = np.einsum(
                "ij,ij->i", self.lowest[left].astype(np.float32), self.lowest[right] * signs, dtype=np.float32
            )
            may[start : start + _BLOCK] = known + self.rest[left] * self.rest[right] >= WHOLE - _ROUNDING
        return may


def compute_fingerprints(grey: np.ndarray | NpyRows, rows: np.ndarray) -> Fingerprints:
    """The fingerprints of the pictures `rows`.

    A bit is the sign of one of the lowest frequencies of the picture's cosine transform (mean light left out); a mirror negates
    every second one across. Light and contrast change no sign, and JPEG and scaling only those near 0.
    """
    side = grey.shape[1]
    lowest = sorted((down + across, down, across) for down in range(side) for across in range(side))[1 : BITS + 1]
    down, across = np.array(lowest)[:, 1:].T
    odd = across % 2 == 1
    plain, mirrored = (np.empty((len(rows), BITS // 8), dtype=np.uint8) for _ in range(2))
    low, rest = np.empty((len(rows), BITS), dtype=np.float16), np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        found = dctn(_standard(grey[rows[block]]), axes=(1, 2), norm="ortho")[:, down, across] / side
        plain[block], mirrored[block] = np.packbits(found > 0, axis=1), np.packbits((found > 0) ^ odd, axis=1)
        low[block], rest[block] = found, np.sqrt(np.maximum(1 - np.square(found).sum(axis=1), 0))
    return Fingerprints(plain, mirrored, low, rest, np.where(odd, -1, 1).astype(np.float16))


def candidate_pairs(plain: np.ndarray, mirrored: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs that may show one picture, int64 (p, 3): row, later row, 1 where one of the two is to be mirrored; piece by piece, a pair
    in one piece or in several.

    plain, mirrored: `fingerprints`, uint8 (n, BITS / 8). The bits are dealt to parts of 16 in two ways. For each part the
    hashes are sorted with it in front (Charikar 2002; Manku, Jain and Das Sarma 2007), and each is compared with those of the
    next `NEIGHBOURS` that have the same part. Hashes that differ in 7 bits or fewer share a part, those that differ in more
    mostly do; where more than `NEIGHBOURS` share one, the nearest in the order of the other bits are met, and the groups join
    the rest.
    """
    rows = len(plain)
    hashes = np.concatenate([plain, mirrored])
    words = np.ascontiguousarray(hashes.view(np.uint64).T)
    for dealt in (np.arange(BITS), np.arange(BITS).reshape(16, -1).T.ravel()):
        packed = np.empty_like(hashes)
        for start in range(0, len(hashes), _BLOCK):
            packed[start : start + _BLOCK] = np.packbits(
                np.unpackbits(hashes[start : start + _BLOCK], axis=1)[:, dealt], axis=1
            )
        for part in range(BITS // 16):
            order = np.lexsort(np.ascontiguousarray(np.roll(packed, -2 * part, axis=1)).view(">u8").T[::-1])
            yield from _neighbours(words, order, packed.view(np.uint16)[order, part], rows)


def _neighbours(words: np.ndarray, order: np.ndarray, part: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """The pairs (as of `candidates`) of near hashes that stand near each other in `order` and share `part`.

    words: uint64 (BITS / 64, 2 * rows), the hashes; order: (2 * rows,) sorts them; part: uint16 (2 * rows,) in that order.
    """
    for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
        at = np.flatnonzero(part[step:] == part[:-step])
        if not len(at):
            break
        a, b = order[at], order[at + step]
        apart = sum(_ones(word[a] ^ word[b]) for word in words)
        near = (apart <= FAR) & ((a < rows) | (b < rows)) & (a % rows != b % rows)
        a, b = a[near], b[near]
        yield np.column_stack(
            [np.minimum(a % rows, b % rows), np.maximum(a % rows, b % rows), (a >= rows) ^ (b >= rows)]
        )


def _ones(words: np.ndarray) -> np.ndarray:
    """How many bits of each uint64 are set (Warren, Hacker's Delight, 5-1: pairs, fours and bytes are added up side by side)."""
    words = words - (words >> 1 & 0x5555555555555555)
    words = (words & 0x3333333333333333) + (words >> 2 & 0x3333333333333333)
    return (words + (words >> 4) & 0x0F0F0F0F0F0F0F0F) * 0x0101010101010101 >> 56


def same_picture(grey: np.ndarray | NpyRows, left: np.ndarray, right: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Whether the pictures of rows `left` and `right` (p,) are one, the second mirrored where `mirrored` is 1: bool (p,).

    Both the whole pictures and what is fine in them must correlate: two faces in the same pose and light share the first.
    """
    same = np.zeros(len(left), dtype=bool)
    for start in range(0, len(left), _BLOCK):
        block = slice(start, start + _BLOCK)
        a, b = _standard(grey[left[block]]), _standard(grey[right[block]])
        b = np.where(mirrored[block, None, None] == 1, b[:, :, ::-1], b)
        close = np.flatnonzero((a * b).mean(axis=(1, 2)) >= WHOLE)
        fine = [_standard(part[close] - gaussian_filter(part[close], (0, BLUR, BLUR))) for part in (a, b)]
        same[start + close] = (fine[0] * fine[1]).mean(axis=(1, 2)) >= DETAIL
    return same


def _standard(pictures: np.ndarray) -> np.ndarray:
    """Pictures (n, s, s) with mean 0 and deviation 1 each, float32."""
    moved = pictures - pictures.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return moved / np.maximum(moved.std(axis=(1, 2), keepdims=True), 1e-6)


def _joined(group: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`group` (n,), the first row of each row's group, after those of rows `left` and `right` (p,) have become one, pair by pair."""
    names, places = np.unique(np.concatenate([group[left], group[right]]), return_inverse=True)
    links = coo_matrix((np.ones(len(left), bool), tuple(places.reshape(2, -1))), shape=(len(names), len(names)))
    renamed = np.arange(len(group))
    renamed[names] = names[_first_of(connected_components(links, directed=False)[1])]
    return renamed[group]


def _first_of(codes: np.ndarray) -> np.ndarray:
    """For each row the first row with the same code, int64 (n,)."""
    _, first, own = np.unique(codes, return_index=True, return_inverse=True)
    return first[own]
