"""Which number format and memory layout fits a model on a device: a rule, not a race, so that two runs never differ.

Measured on CPUs with bfloat16 units (training, channels_last): dense convolutions gain 1.5 to 4.4 times by bfloat16; networks of
depthwise ones lose in it (0.5) by two slow gradients of oneDNN, and gain 1.4 times once `depthwise.py` goes round these
(bench/steps.py --forms).
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


def choose_precision(recipe: Recipe, model: nn.Module, device: torch.device) -> Precision:
    """The recipe's own choice where it makes one, the rule's elsewhere."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    # A float32 channels_last 1x1 stride-2 convolution of 3 or 4 channels crashes torch 2.13 to 2.15 in backward on the CPU.
    crashes = device.type == "cpu" and any(
        conv.kernel_size == (1, 1) and conv.stride == (2, 2) and conv.in_channels in (3, 4) for conv in convolutions
    )
    if recipe.layout == "channels_last" and crashes:
        raise InputError(
            f'recipe {recipe.name}: layout = "channels_last" crashes this backbone\'s stem on the CPU; use channels_first'
        )
    channels_last = bool(convolutions) and not crashes if recipe.layout == "auto" else recipe.layout == "channels_last"
    if recipe.precision != "auto":
        if recipe.precision == "float16" and device.type == "cpu":
            raise InputError(
                f'recipe {recipe.name}: precision = "float16" needs a GPU; on the CPU use bfloat16 or float32'
            )
        return Precision(getattr(torch, recipe.precision), channels_last)
    if device.type == "cpu" and not channels_last and any(conv.groups == conv.in_channels > 1 for conv in convolutions):
        return Precision(torch.float32, channels_last)  # depthwise in bfloat16 is fast with channels last alone
    return Precision(_half(device) or torch.float32, channels_last)


def half_precision(recipe: Recipe, fmt: Precision, device: torch.device) -> Precision | None:
    """The half-precision format to predict in, in the layout of `fmt`: the recipe's own where it names one, else the one that
    is fast on `device`; None where there is none, or where the recipe asks for float32."""
    dtype = _half(device) if recipe.precision == "auto" else getattr(torch, recipe.precision)
    return Precision(dtype, fmt.channels_last) if dtype not in (None, torch.float32) else None


def _half(device: torch.device) -> torch.dtype | None:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    units = any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.bfloat16 if units else None
