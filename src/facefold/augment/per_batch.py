"""Augment a whole batch on its device by the policies of policies.py, drawn as albumentations draws them.

The result of image `id` in epoch `e` depends on (seed, e, id) alone. Everything is drawn on the CPU and sent as one
small table, so the CPU never waits for a GPU. The images differ from those of per_image.py by the random numbers, and
because values stay real between the operations: albumentations rounds them down to whole grey levels and hues to 2
degrees, which leaves jittered images about one grey level darker.

Why our own code: on one CPU core it is 3.2 times (64 pixels) and 1.3 times (128 pixels) as fast as per_image.py for the
policy `light`, 2.2 and 1.2 times for `standard` (bench/augment.py; docs/results.md, "Augmenting in batches"), and a GPU
needs no worker processes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from facefold.augment.policies import (
    CONTRAST,
    HUE,
    ORDERS,
    SATURATION,
    AugmentParams,
    load_whole_batch_policy,
    sample_params,
)
from facefold.utils.seeding import derive_seed

# Bytes of float32 pixels processed at a time on the CPU, so that they stay in a core's second-level cache.
_CACHED_BYTES = 400_000
_STEPS = 5  # of colour: the four of the jitter and the change to grey, each three columns of the table
# The columns of the table: the row in the batch, the row in the sorted batch, hue shift, affine, hole, colour mixes.
_ROW, _SORTED_ROW, _HUE_SHIFT, _AFFINE, _HOLE, _MIX = 0, 1, 2, slice(3, 9), slice(9, 13), 13
_COLUMNS = _MIX + 3 * _STEPS


class BatchAugment:
    """`augment(pixels, epoch, ids)` augments uint8 (n, H, W, 3) by one policy to a new tensor on the same device.

    H and W are at least 2.
    """

    def __init__(self, policy: str, seed: int):
        self._policy, self._seed = load_whole_batch_policy(policy), seed

    def __call__(self, pixels: Tensor, epoch: int, ids: Sequence[str]) -> Tensor:
        if len(ids) != len(pixels):
            raise ValueError(f"{len(pixels)} images and {len(ids)} ids")
        seeds = np.array([derive_seed(self._seed, "augment", epoch, id) for id in ids], dtype=np.uint64)
        return apply_params(pixels, sample_params(self._policy, seeds, *pixels.shape[1:3]))


def apply_params(pixels: Tensor, params: AugmentParams) -> Tensor:
    """Augment image i of uint8 (n, H, W, 3) by row i of `params`; a new tensor, on the same device."""
    count, height, width, _ = pixels.shape
    hue_step = np.where(params.jitter, (ORDERS == HUE).argmax(1)[params.order], _STEPS)  # _STEPS: none
    changed = params.flip | params.affine | params.jitter | params.gray | params.erase
    group = np.where(changed, 2 * hue_step + params.affine, -1)  # images of a group take the same steps
    mirrored = params.flip & ~params.affine
    sort = np.lexsort((params.order, mirrored, group))
    host_table = _device_table(params, height, width)[sort]
    host_table[:, _ROW], host_table[sort, _SORTED_ROW] = sort, np.arange(count)
    table = torch.from_numpy(host_table)
    if pixels.device.type == "cuda":
        table = table.pin_memory()
    table = table.to(pixels.device, non_blocking=True)
    points_x, points_y = sample_points(table[:, _AFFINE], height, width)
    work = pixels.index_select(0, table[:, _ROW].long())  # changed in place, chunk by chunk
    most = max(1, _CACHED_BYTES // (12 * height * width)) if pixels.device.type == "cpu" else count
    for start, stop in _chunks(group[sort], most):
        chunk, images, first = slice(start, stop), sort[start:stop], sort[start]
        rows, host_rows = table[chunk, :, None, None, None], host_table[chunk]  # (m, columns, 1, 1, 1), (m, columns)
        if params.affine[first]:
            planes = _warp(work[chunk], points_x[chunk] + points_y[chunk])  # float32 (m, 3, H, W)
        else:
            planes = work[chunk].permute(0, 3, 1, 2).contiguous().float()
            upright = len(images) - int(mirrored[images].sum())
            planes[upright:] = planes[upright:].flip(3)
        for step in range(_STEPS):
            mix = slice(_MIX + 3 * step, _MIX + 3 * step + 3)
            if step == hue_step[first]:
                shift_hue(planes, rows[:, _HUE_SHIFT])
            elif (host_rows[:, mix.start] != 1).any():
                _mix(planes, rows[:, mix], host_rows[:, mix].any(axis=0))
        if params.erase[images].any():
            planes.mul_(hole_mask(rows[:, _HOLE], height, width))
        planes.add_(0.5)
        for channel in range(3):  # all channels at once take twice as long
            work[chunk, :, :, channel] = planes[:, channel]
    return work.index_select(0, table[:, _SORTED_ROW].long())


def _chunks(group: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the runs of equal numbers >= 0 in `group` (n,), cut into chunks of at most `most`."""
    start = 0
    for end in (np.flatnonzero(np.diff(group, append=-2)) + 1).tolist():
        if group[start] >= 0:
            yield from ((at, min(at + most, end)) for at in range(start, end, most))
        start = end


def _device_table(params: AugmentParams, height: int, width: int) -> np.ndarray:
    """Return all that the device needs, float32 (n, columns), without the first two columns."""
    table = np.zeros((len(params.flip), _COLUMNS), dtype=np.float32)
    # In sixths of the circle; OpenCV counts 180 hues and albumentations rounds down.
    table[:, _HUE_SHIFT] = np.floor(180 * params.factors[:, HUE]) / 30
    table[:, _AFFINE] = inverse_affine(params, height, width)
    table[:, _HOLE] = np.where(params.erase[:, None], params.hole, 0)
    mixes = np.zeros((len(table), _STEPS, 3))  # shares of the colour, of its grey, and of the mean grey of the image
    mixes[:, :, 0] = 1
    mixes[:, :HUE, 0] = params.factors[:, :HUE]
    mixes[:, SATURATION, 1] = 1 - params.factors[:, SATURATION]
    mixes[:, CONTRAST, 2] = 1 - params.factors[:, CONTRAST]
    order = np.where(params.jitter[:, None], ORDERS[params.order], HUE)  # the mix of HUE changes nothing
    mixes[:, : HUE + 1] = np.take_along_axis(mixes, order[:, :, None], axis=1)
    mixes[params.gray, -1] = (0, 1, 0)
    table[:, _MIX:] = mixes.reshape(-1, 3 * _STEPS)
    return table


def inverse_affine(params: AugmentParams, height: int, width: int) -> np.ndarray:
    """Return a to f, float64 (n, 6): the pixel at (x, y) comes from x' = ax + by + c and y' = dx + ey + f.

    All are from -1 to 1 between the centres of the outermost pixels. Forward it is flip, scale, rotate, then translate,
    about the centre of the image.
    """
    half = np.array([width - 1, height - 1]) / 2
    angle = np.deg2rad(params.rotate)
    rotation = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
    signs = np.stack([np.where(params.flip, -1, 1), np.ones(len(angle))], axis=1)
    linear = rotation * (signs / params.scale)[:, :, None]
    shift = -np.einsum("nij,nj->ni", linear, params.translate)
    return np.concatenate([linear * half / half[:, None], (shift / half)[:, :, None]], axis=2).reshape(-1, 6)


def sample_points(affine: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return two complex64, (n, 1, W) and (n, H, 1), whose sum (n, H, W) is where each pixel comes from, x + yi.

    As complex numbers, x and y take one addition. affine: (n, 6).
    """
    a, b, c, d, e, f = affine[:, :, None, None].unbind(1)  # (n, 1, 1)
    x = torch.linspace(-1, 1, width, device=affine.device)
    y = torch.linspace(-1, 1, height, device=affine.device)[:, None]
    return torch.complex(a * x, d * x), torch.complex(b * y + c, e * y + f)


def _warp(pixels: Tensor, points: Tensor) -> Tensor:
    """Sample uint8 (m, H, W, 3) at complex64 (m, H, W): float32 (m, 3, H, W).

    Bilinear, mirrored at the border without repeating its pixel (OpenCV's reflect-101).
    """
    planes = pixels.float().permute(0, 3, 1, 2)
    return grid_sample(planes, torch.view_as_real(points), "bilinear", "reflection", align_corners=True)


def luma(planes: Tensor) -> Tensor:
    """Convert (m, 3, H, W) to grey (m, 1, H, W), ITU-R BT.601 as in OpenCV."""
    red, green, blue = planes.split(1, dim=1)
    # Not by fused operations: their last bit depends on the position in memory.
    return red * 0.299 + green * 0.587 + blue * 0.114


def _mix(planes: Tensor, shares: Tensor, used: np.ndarray) -> None:
    """Mix (m, 3, H, W) in place: the colour, its grey and the mean grey of the image, clamped to 0..255.

    shares: (m, 3, 1, 1, 1), of the three. used: bool (3,), whether any share of each is not 0.
    """
    own, gray, mean = shares.unbind(1)
    others = []
    if used[1]:
        others.append(luma(planes) * gray)
    if used[2]:
        others.append(luma(planes.mean((2, 3), keepdim=True)) * mean)
    planes.mul_(own)
    if others:
        planes.add_(sum(others))
    planes.clamp_(0, 255)


def shift_hue(planes: Tensor, shift: Tensor) -> None:
    """Shift the hue in place by (m, 1, 1, 1) sixths of the circle, at most 1 either way, and keep HSV's other two.

    Along the circle of hues, a channel rises from the lowest l to the highest h in one sixth, stays for two, falls in
    one and stays for two. Unclamped it is a slope 2x - m on either side of its own hue, m the middle channel: clamp(2x
    - m, l, h) is x again. A shift moves along the slope: down if the next channel (after red: green) exceeds the one
    before, else up.
    """
    red, green, blue = planes.unbind(1)  # (m, H, W)
    low, high = planes.amin(1, keepdim=True), planes.amax(1, keepdim=True)
    middle = (red + green + blue)[:, None] - low - high
    ahead = torch.empty_like(planes)
    for channel, (after, before) in enumerate(((green, blue), (blue, red), (red, green))):
        torch.sub(after, before, out=ahead[:, channel])
    ahead.sign_().mul_((high - low) * shift)
    torch.clamp(planes.mul_(2).sub_(middle).sub_(ahead), low, high, out=planes)


def hole_mask(hole: Tensor, height: int, width: int) -> Tensor:
    """Return float32 (m, 1, H, W): 0 in each hole (m, 4, 1, 1, 1), 1 elsewhere."""
    left, top, right, bottom = hole.unbind(1)  # (m, 1, 1, 1)
    x, y = torch.arange(width, device=hole.device), torch.arange(height, device=hole.device)[:, None]
    return 1 - ((x >= left) & (x < right)).float() * ((y >= top) & (y < bottom)).float()
