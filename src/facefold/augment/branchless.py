"""Augment a batch by operations that are the same whatever was drawn, so that a GPU can record and repeat them.

Every image takes every operation of its policy; one that was not drawn for it has numbers that change nothing. The
images are those of per_batch.py, which groups images by what was drawn and does for each what it needs: the faster way
on a CPU, but its kernels differ from batch to batch, and a GPU waits for the processor that decides on them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from facefold.augment.per_batch import hole_mask, inverse_affine, luma, sample_points, shift_hue
from facefold.augment.policies import (
    CONTRAST,
    HUE,
    ORDERS,
    SATURATION,
    AugmentParams,
    Policy,
    load_whole_batch_policy,
    sample_params,
)
from facefold.utils.seeding import derive_seed

# The jitter's operations come in any order. Hue is not linear, the others mix colours: three mixes at most come before
# it and three after, and the last one is the change to grey. So hue is shifted once, for all images at once.
_BEFORE, _MIXES = 3, 7
# The columns of the table: affine, hole, hue shift, then three shares for each mix.
_AFFINE, _HOLE, _HUE_SHIFT, _MIX = slice(0, 6), slice(6, 10), 10, 11
COLUMNS = _MIX + 3 * _MIXES


class BranchlessAugment:
    """`augment(pixels, augment.table(epoch, ids, ..))` augments uint8 (n, H, W, 3) by one policy to a new tensor.

    The table is drawn on the CPU; the rest reads nothing back from the device and takes the same steps for any table.
    Raise `InputError` for a policy that has operations for single images only.
    """

    def __init__(self, policy: str, seed: int):
        self._policy, self._seed = load_whole_batch_policy(policy), seed

    def table(self, epoch: int, ids: Sequence[str], height: int, width: int) -> np.ndarray:
        """Draw the parameters of images by (seed, epoch, id), float32 (n, COLUMNS), for `__call__`."""
        seeds = np.array([derive_seed(self._seed, "augment", epoch, id) for id in ids], dtype=np.uint64)
        return parameter_table(sample_params(self._policy, seeds, height, width), height, width)

    def __call__(self, pixels: Tensor, table: Tensor) -> Tensor:
        """Augment image i of uint8 (n, H, W, 3) by row i of the table (n, COLUMNS) on the same device."""
        return apply_table(pixels, table, self._policy)


def parameter_table(params: AugmentParams, height: int, width: int) -> np.ndarray:
    """Return float32 (n, COLUMNS), in which what was not drawn for an image changes nothing."""
    table = np.zeros((len(params.flip), COLUMNS), dtype=np.float32)
    table[:, _AFFINE] = inverse_affine(params, height, width)
    unmoved = ~params.affine
    table[unmoved, _AFFINE] = np.where(params.flip[unmoved, None], (-1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 1, 0))
    table[:, _HOLE] = np.where(params.erase[:, None], params.hole, 0)
    # In sixths of the circle; OpenCV counts 180 hues and albumentations rounds down.
    table[:, _HUE_SHIFT] = np.where(params.jitter, np.floor(180 * params.factors[:, HUE]) / 30, 0)
    table[:, _MIX:] = _mixes(params).reshape(-1, 3 * _MIXES)
    return table


def _mixes(params: AugmentParams) -> np.ndarray:
    """Return float64 (n, 7, 3): the shares of the colour, of its grey and of the image's mean grey in each mix."""
    by_operation = np.zeros((len(params.flip), HUE + 1, 3))
    by_operation[:, :, 0] = 1
    by_operation[:, :HUE, 0] = params.factors[:, :HUE]
    by_operation[:, SATURATION, 1] = 1 - params.factors[:, SATURATION]
    by_operation[:, CONTRAST, 2] = 1 - params.factors[:, CONTRAST]
    mixes = np.zeros((len(by_operation), _MIXES, 3))
    mixes[:, :, 0] = 1
    for position in range(HUE + 1):
        operation = ORDERS[params.order, position]
        before = (ORDERS[params.order] == HUE).argmax(1) > position
        slot = np.where(before, position, position + _BEFORE - 1)
        rows = np.flatnonzero(params.jitter & (operation != HUE))
        mixes[rows, slot[rows]] = by_operation[rows, operation[rows]]
    mixes[params.gray, -1] = (0, 1, 0)
    return mixes


def apply_table(pixels: Tensor, table: Tensor, policy: Policy) -> Tensor:
    """Augment image i of uint8 (n, H, W, 3) by row i of `table`, by the operations that `policy` has.

    table: float32 (n, COLUMNS) from `parameter_table`, on the same device.
    """
    height, width = pixels.shape[1:3]
    planes = pixels.permute(0, 3, 1, 2).float()  # (n, 3, H, W)
    if policy.flip_p or policy.affine_p:
        points_x, points_y = sample_points(table[:, _AFFINE], height, width)
        points = torch.view_as_real(points_x + points_y)
        planes = grid_sample(planes, points, "bilinear", "reflection", align_corners=True)
    rows = table[:, :, None, None, None]  # (n, COLUMNS, 1, 1, 1)
    if policy.jitter_p:
        for mix in range(_BEFORE):
            planes = _mix(planes, rows, mix)
        shift_hue(planes, rows[:, _HUE_SHIFT])
        for mix in range(_BEFORE, _MIXES - 1):
            planes = _mix(planes, rows, mix)
    if policy.gray_p:
        planes = _mix(planes, rows, _MIXES - 1)
    if policy.hole_p:
        planes = planes * hole_mask(rows[:, _HOLE], height, width)
    return planes.add(0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _mix(planes: Tensor, rows: Tensor, mix: int) -> Tensor:
    """Mix (n, 3, H, W) by the table's rows (n, COLUMNS, 1, 1, 1): colour, its grey, mean grey; clamp to 0..255."""
    own, gray, mean = rows[:, _MIX + 3 * mix : _MIX + 3 * mix + 3].unbind(1)
    greys = luma(planes)
    return torch.addcmul(greys * gray + greys.mean((2, 3), keepdim=True) * mean, planes, own).clamp_(0, 255)
