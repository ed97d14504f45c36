"""Number format and memory layout of a model on a device: a rule and no timing, so that two runs never differ.

Measured on CPUs with bfloat16 units (training, channels_last): dense convolutions are 1.5 to 4.4 times as fast in
bfloat16. Networks of depthwise ones are 0.5 times as fast, because of two slow gradients of oneDNN, and 1.4 times as
fast once `depthwise.py` avoids these (bench/steps.py --forms).
"""

from dataclasses import dataclass

import torch
from torch import nn

from facefold.models.recipe import Recipe
from facefold.utils.errors import InputError


@dataclass(frozen=True)
class Precision:
    dtype: torch.dtype
    channels_last: bool

    @property
    def name(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {'channels_last' if self.channels_last else 'channels_first'}"

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, self.dtype, enabled=self.dtype is not torch.float32)


def choose_precision(recipe: Recipe, model: nn.Module, device: torch.device) -> Precision:
    """Return the recipe's format and layout; where it says "auto", those that suit `model` on `device`.

    Raises `InputError` if the device cannot train in what the recipe names.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    # A float32 channels_last 1x1 stride-2 convolution of 3 or 4 channels crashes torch 2.13 to 2.15 in backward on the
    # CPU.
    crashes = device.type == "cpu" and any(
        conv.kernel_size == (1, 1) and conv.stride == (2, 2) and conv.in_channels in (3, 4) for conv in convolutions
    )
    if recipe.layout == "channels_last" and crashes:
        raise InputError(
            f'recipe {recipe.name}: layout = "channels_last" crashes this backbone\'s stem on the CPU; '
            "use channels_first"
        )
    channels_last = bool(convolutions) and not crashes if recipe.layout == "auto" else recipe.layout == "channels_last"
    if recipe.precision != "auto":
        if recipe.precision == "float16" and device.type == "cpu":
            raise InputError(
                f'recipe {recipe.name}: precision = "float16" needs a GPU; on the CPU use bfloat16 or float32'
            )
        return Precision(getattr(torch, recipe.precision), channels_last)
    if device.type == "cpu" and not channels_last and any(conv.groups == conv.in_channels > 1 for conv in convolutions):
        return Precision(torch.float32, channels_last)  # depthwise bfloat16 is fast in channels_last only
    return Precision(_fast_half(device) or torch.float32, channels_last)


def half_precision(recipe: Recipe, precision: Precision, device: torch.device) -> Precision | None:
    """Return the half-precision format to predict in, in the layout of `precision`.

    It is the recipe's own or, for "auto", the one that is fast on `device`. None if there is none or if the recipe
    asks for float32.
    """
    dtype = _fast_half(device) if recipe.precision == "auto" else getattr(torch, recipe.precision)
    return Precision(dtype, precision.channels_last) if dtype not in (None, torch.float32) else None


def frozen_precision(recipe: Recipe, precision: Precision, device: torch.device) -> Precision:
    """Return the format for the frozen stages: half precision if the recipe and the device allow it, else float32."""
    half = half_precision(recipe, precision, device) if recipe.frozen_precision == "half" else None
    return half or Precision(torch.float32, precision.channels_last)


def _fast_half(device: torch.device) -> torch.dtype | None:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    has_units = any(
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return torch.bfloat16 if has_units else None
