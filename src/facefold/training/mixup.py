"""MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019) of whole batches, by the formulas of `timm.data.Mixup`.

timm draws from numpy's global generator. Here each batch has a seed of its own, so an epoch that is resumed mixes the
same images in the same way.
"""

import numpy as np
import torch
from torch import Tensor

from facefold.models.recipe import Recipe


def mix_batch(images: Tensor, targets: Tensor, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor]:
    """Mix each image, and its target, with that of the reversed batch in one share for all.

    If the recipe has both `mixup` and `cutmix`, one of them is drawn with equal probability. The loss of a mixed target
    is the weighted mean of its two rows' losses: cross-entropy is linear in the label, so the label's shares are those
    of the rows times their weights.

    Args:
        images: uint8 (N, H, W, 3).
        targets: float32 (N, C + 1), soft labels and the weight, see `WeightedLoss`.
        recipe: Gives mixup and cutmix, the alphas of the Beta distributions; one of them is above 0.
        seed: Of the draws.
    """
    draw = np.random.default_rng(seed)
    cut = recipe.cutmix > 0 and (recipe.mixup == 0 or draw.random() < 0.5)
    alpha = recipe.cutmix if cut else recipe.mixup
    share = float(draw.beta(alpha, alpha))
    if cut:
        rows, columns, share = draw_box(*images.shape[1:3], share, draw)
        mixed = images.clone()
        mixed[:, rows, columns] = images.flip(0)[:, rows, columns]
    else:
        mixed = (share * images.float() + (1 - share) * images.flip(0).float()).add_(0.5).to(torch.uint8)
    return mixed, _mix_targets(targets, share)


def draw_box(height: int, width: int, share: float, draw: np.random.Generator) -> tuple[slice, slice, float]:
    """Draw the rows and columns to replace, 1 - share of the image; return them and the share that is left.

    It is more than `share` where the image's edge cuts the box.
    """
    ratio = np.sqrt(1 - share)
    cut_height, cut_width = int(height * ratio), int(width * ratio)
    row, column = int(draw.integers(height)), int(draw.integers(width))
    rows = slice(max(row - cut_height // 2, 0), min(row + (cut_height + 1) // 2, height))
    columns = slice(max(column - cut_width // 2, 0), min(column + (cut_width + 1) // 2, width))
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return rows, columns, 1 - area / (height * width)


def _mix_targets(targets: Tensor, share: float) -> Tensor:
    labels, weights = targets[:, :-1], targets[:, -1:]
    own, other = share * weights, (1 - share) * weights.flip(0)
    total = own + other
    return torch.cat([(own * labels + other * labels.flip(0)) / total, total], dim=1)
