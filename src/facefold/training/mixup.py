"""MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019) of whole batches, by the formulas of `timm.data.Mixup`.

timm draws from numpy's global generator. Here each batch has a seed of its own, so an epoch that is resumed mixes the
same images in the same way. What is drawn is a few numbers, by which any batch is mixed in the same steps: a GPU can
record and repeat them.
"""

import numpy as np
import torch
from torch import Tensor

from facefold.models.recipe import Recipe

# Shares of an image and of its partner outside of a box, which is the partner's; its top, bottom, left and right; the
# shares of their labels.
MIX_NUMBERS = 8


def draw_mix(recipe: Recipe, height: int, width: int, seed: int) -> Tensor:
    """Draw how a batch of images of height x width pixels is mixed, float32 (MIX_NUMBERS,), for `mix_batch`.

    If the recipe has both `mixup` and `cutmix`, one of them is drawn with equal probability.

    Args:
        recipe: Gives mixup and cutmix, the alphas of the Beta distributions; one of them is above 0.
        height: In pixels.
        width: In pixels.
        seed: Of the draws.
    """
    draw = np.random.default_rng(seed)
    cut = recipe.cutmix > 0 and (recipe.mixup == 0 or draw.random() < 0.5)
    alpha = recipe.cutmix if cut else recipe.mixup
    share = float(draw.beta(alpha, alpha))
    own, box = share, (0, 0, 0, 0)
    if cut:
        *box, share = draw_box(height, width, share, draw)
        own = 1.0
    return torch.tensor([own, 1 - own, *box, share, 1 - share])


def draw_box(height: int, width: int, share: float, draw: np.random.Generator) -> tuple[int, int, int, int, float]:
    """Draw a box of 1 - share of the image; return top, bottom, left, right and the share that is left.

    It is more than `share` where the image's edge cuts the box.
    """
    ratio = np.sqrt(1 - share)
    cut_height, cut_width = int(height * ratio), int(width * ratio)
    row, column = int(draw.integers(height)), int(draw.integers(width))
    top, bottom = max(row - cut_height // 2, 0), min(row + (cut_height + 1) // 2, height)
    left, right = max(column - cut_width // 2, 0), min(column + (cut_width + 1) // 2, width)
    return top, bottom, left, right, 1 - (bottom - top) * (right - left) / (height * width)


def mix_batch(images: Tensor, targets: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each image, and its target, with that of the reversed batch in one share for all.

    The loss of a mixed target is the weighted mean of its two rows' losses: cross-entropy is linear in the label, so
    the label's shares are those of the rows times their weights.

    Args:
        images: uint8 (N, H, W, 3).
        targets: float32 (N, C + 1), soft labels and the weight, see `WeightedLoss`.
        mix: float32 (MIX_NUMBERS,) from `draw_mix`, on the same device.
    """
    own, other, top, bottom, left, right, label, other_label = mix.unbind()
    y = torch.arange(images.shape[1], device=images.device)[:, None, None]
    x = torch.arange(images.shape[2], device=images.device)[:, None]
    outside = ((y < top) | (y >= bottom) | (x < left) | (x >= right)).float()
    mixed = own * outside * images.float() + (1 - outside + other * outside) * images.flip(0).float()
    return mixed.add_(0.5).to(torch.uint8), _mix_targets(targets, label, other_label)


def _mix_targets(targets: Tensor, own_share: Tensor, other_share: Tensor) -> Tensor:
    labels, weights = targets[:, :-1], targets[:, -1:]
    own, other = own_share * weights, other_share * weights.flip(0)
    total = own + other
    return torch.cat([(own * labels + other * labels.flip(0)) / total, total], dim=1)
