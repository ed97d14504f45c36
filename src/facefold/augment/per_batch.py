"""Augmentation of a whole batch on the device that holds it: the policies of policies.py, drawn as albumentations draws them.

The change of image `id` in epoch `e` depends on (seed, e, id) alone. Everything is drawn on the CPU and sent as one small
table, so a GPU is never waited for. Differs from augment.py in the random numbers, and in values that stay real between the
operations: albumentations cuts them down to whole grey levels and hues to 2 degrees, which leaves jittered images about one
grey level darker than here.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from facefold.augment.policies import BRIGHTNESS, CONTRAST, HUE, ORDERS, SATURATION, Draws, draw_batch, load_policy
from facefold.utils.errors import InputError
from facefold.utils.seeding import seed_of

_CACHED_BYTES = 400_000  # float32 pixels worked on at once on the CPU, so that they stay in a core's second-level cache
_STEPS = 5  # of colour: the four of the jitter and the change to grey, each three columns of the table
_PLACE, _RANK, _TURN, _AFFINE, _HOLE, _MIX, _COLUMNS = (
    0,
    1,
    2,
    slice(3, 9),
    slice(9, 13),
    13,
    13 + 3 * _STEPS,
)  # of the table


class BatchAugment:
    """One policy: `augment(pixels, epoch, ids)` maps uint8 (n, H, W, 3) to a new uint8 (n, H, W, 3) on the same device. H and W
    are at least 2."""

    def __init__(self, policy: str, seed: int):
        self._policy = load_policy(policy)
        if self._policy.by_image_only:
            raise InputError(
                f"augmentation policy '{policy}' has operations that are for images one by one: "
                'use augmenter = "albumentations"'
            )
        self._seed = seed

    def __call__(self, pixels: Tensor, epoch: int, ids: Sequence[str]) -> Tensor:
        if len(ids) != len(pixels):
            raise ValueError(f"{len(pixels)} images and {len(ids)} ids")
        seeds = np.array([seed_of(self._seed, "augment", epoch, id) for id in ids], dtype=np.uint64)
        return apply_draws(pixels, draw_batch(self._policy, seeds, *pixels.shape[1:3]))


def apply_draws(pixels: Tensor, draws: Draws) -> Tensor:
    """Change image i of uint8 (n, H, W, 3) as row i of `draws` says; a new tensor, on the same device."""
    count, height, width, _ = pixels.shape
    turn_at = np.where(draws.jitter, (ORDERS == HUE).argmax(1)[draws.order], _STEPS)  # the step that turns the hue
    touched = draws.flip | draws.affine | draws.jitter | draws.gray | draws.holed
    group = np.where(touched, 2 * turn_at + draws.affine, -1)  # images that take the same steps lie together
    mirrored = draws.flip & ~draws.affine
    sort = np.lexsort((draws.order, mirrored, group))
    host = _table(draws, height, width)[sort]
    host[:, _PLACE], host[sort, _RANK] = sort, np.arange(count)
    table = torch.from_numpy(host)
    if pixels.device.type == "cuda":
        table = table.pin_memory()
    table = table.to(pixels.device, non_blocking=True)
    from_x, from_y = _sources(table[:, _AFFINE], height, width)
    work = pixels.index_select(0, table[:, _PLACE].long())  # changed in place, chunk by chunk
    most = max(1, _CACHED_BYTES // (12 * height * width)) if pixels.device.type == "cpu" else count
    for start, stop in _chunks(group[sort], most):
        chunk, images, first = slice(start, stop), sort[start:stop], sort[start]
        rows, known = (
            table[chunk, :, None, None, None],
            host[chunk],
        )  # (m, columns, 1, 1, 1) and, on the CPU, (m, columns)
        if draws.affine[first]:
            planes = _moved(work[chunk], from_x[chunk] + from_y[chunk])  # float32 (m, 3, H, W)
        else:
            planes = work[chunk].permute(0, 3, 1, 2).contiguous().float()
            upright = len(images) - int(mirrored[images].sum())
            planes[upright:] = planes[upright:].flip(3)
        for step in range(_STEPS):
            if step == turn_at[first]:
                _turn(planes, rows[:, _TURN])
            elif (known[:, (own := _MIX + 3 * step)] != 1).any():
                _mix(planes, rows[:, own], *(rows[:, at] if known[:, at].any() else None for at in (own + 1, own + 2)))
        if draws.holed[images].any():
            planes.mul_(_outside(rows[:, _HOLE], height, width))
        planes.add_(0.5)
        for channel in range(3):  # in one go it takes twice as long
            work[chunk, :, :, channel] = planes[:, channel]
    return work.index_select(0, table[:, _RANK].long())


def _chunks(group: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """The runs of equal numbers in `group` (n,), those of -1 left out, in pieces of at most `most`: (start, stop)."""
    start = 0
    for end in (np.flatnonzero(np.diff(group, append=-2)) + 1).tolist():
        if group[start] >= 0:
            yield from ((at, min(at + most, end)) for at in range(start, end, most))
        start = end


def _table(draws: Draws, height: int, width: int) -> np.ndarray:
    """float32 (n, columns): all that the device needs to know, but for the first two columns."""
    table = np.zeros((len(draws.flip), _COLUMNS), dtype=np.float32)
    table[:, _TURN] = (
        np.floor(180 * draws.factors[:, HUE]) / 30
    )  # OpenCV counts 180 hues and albumentations rounds down; of 6
    table[:, _AFFINE] = _inverse(draws, height, width)
    table[:, _HOLE] = np.where(draws.holed[:, None], draws.hole, 0)
    mixes = np.zeros(
        (len(table), _STEPS, 3)
    )  # shares of the own colour, of its grey, and of the mean grey of the image
    mixes[:, :, 0] = 1
    for factor, other in ((BRIGHTNESS, None), (CONTRAST, 2), (SATURATION, 1)):
        mixes[:, factor, 0] = draws.factors[:, factor]
        if other:
            mixes[:, factor, other] = 1 - draws.factors[:, factor]
    order = np.where(draws.jitter[:, None], ORDERS[draws.order], HUE)  # the hue's mix changes nothing
    mixes[:, : HUE + 1] = np.take_along_axis(mixes, order[:, :, None], axis=1)
    mixes[draws.gray, -1] = (0, 1, 0)
    table[:, _MIX:] = mixes.reshape(-1, 3 * _STEPS)
    return table


def _inverse(draws: Draws, height: int, width: int) -> np.ndarray:
    """float64 (n, 6): where the pixel at (x, y) comes from, x' = ax + by + c and y' = dx + ey + f, all from -1 to 1 between the
    middles of the outermost pixels. Forward it is flip, scale, rotate, then translate, about the middle of the image."""
    half = np.array([width - 1, height - 1]) / 2
    angle = np.deg2rad(draws.rotate)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
    signs = np.stack([np.where(draws.flip, -1, 1), np.ones(len(angle))], axis=1)
    linear = turn * (signs / draws.scale)[:, :, None]
    shift = -np.einsum("nij,nj->ni", linear, draws.translate)
    return np.concatenate([linear * half / half[:, None], (shift / half)[:, :, None]], axis=2).reshape(-1, 6)


def _sources(affine: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two complex64, (n, 1, W) and (n, H, 1), whose sum (n, H, W) is where each pixel comes from, x + yi: as one number the
    two are added in one go. affine: (n, 6)."""
    a, b, c, d, e, f = affine[:, :, None, None].unbind(1)  # (n, 1, 1)
    x = torch.linspace(-1, 1, width, device=affine.device)
    y = torch.linspace(-1, 1, height, device=affine.device)[:, None]
    return torch.complex(a * x, d * x), torch.complex(b * y + c, e * y + f)


def _moved(pixels: Tensor, source: Tensor) -> Tensor:
    """float32 (m, 3, H, W) of uint8 (m, H, W, 3) and complex64 (m, H, W): bilinear, the border mirrored without repeating its
    pixel (OpenCV's reflect-101)."""
    return grid_sample(
        pixels.float().permute(0, 3, 1, 2),
        torch.view_as_real(source),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=True,
    )


def _luma(planes: Tensor) -> Tensor:
    """(m, 3, H, W) -> (m, 1, H, W), ITU-R BT.601 as in OpenCV."""
    red, green, blue = planes.split(1, dim=1)
    return (
        red * 0.299 + green * 0.587 + blue * 0.114
    )  # not in fused steps: their last bit varies with the place in memory


def _mix(planes: Tensor, own: Tensor, gray: Tensor | None, mean: Tensor | None) -> None:
    """In place: own * colour + gray * its grey + mean * the image's mean grey, cut to 0..255. The shares are (m, 1, 1, 1); None
    where all are 0."""
    others = []
    if gray is not None:
        others.append(_luma(planes) * gray)
    if mean is not None:
        others.append(_luma(planes.mean((2, 3), keepdim=True)) * mean)
    planes.mul_(own)
    if others:
        planes.add_(sum(others))
    planes.clamp_(0, 255)


def _turn(planes: Tensor, turn: Tensor) -> None:
    """Turn the hue in place by `turn` (m, 1, 1, 1), in sixths of the circle, at most 1 either way; HSV's other two stay.

    As the hue goes round, a channel rises from the lowest l to the highest h in one sixth, stays for two, falls in one and stays
    for two. Unclamped it is a slope 2x - m on either side of its own hue, m the middle channel: clamp(2x - m, l, h) is x again.
    A turn moves along the slope: down where the next channel (after red: green) exceeds the one before, else up.
    """
    red, green, blue = planes.unbind(1)  # (m, H, W)
    low, high = planes.amin(1, keepdim=True), planes.amax(1, keepdim=True)
    middle = (red + green + blue)[:, None] - low - high
    ahead = torch.empty_like(planes)
    for channel, (after, before) in enumerate(((green, blue), (blue, red), (red, green))):
        torch.sub(after, before, out=ahead[:, channel])
    ahead.sign_().mul_((high - low) * turn)
    torch.clamp(planes.mul_(2).sub_(middle).sub_(ahead), low, high, out=planes)


def _outside(hole: Tensor, height: int, width: int) -> Tensor:
    """float32 (m, 1, H, W): 0 in each hole (m, 4, 1, 1, 1), 1 elsewhere."""
    left, top, right, bottom = hole.unbind(1)  # (m, 1, 1, 1)
    x, y = torch.arange(width, device=hole.device), torch.arange(height, device=hole.device)[:, None]
    return 1 - ((x >= left) & (x < right)).float() * ((y >= top) & (y < bottom)).float()
