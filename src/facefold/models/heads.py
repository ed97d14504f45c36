"""Heads: the layers of a recipe between a backbone's last feature map and the output, written as a list.

    head = "average, dense 128, norm"

    average     mean over the map                                  conv N      3x3 convolution to N channels, ReLU
    pool        2x2 max pooling                                    dense N     linear layer to N, ReLU
    flatten     the map as one vector                              norm        batch norm
    dropout P   zero each number with probability P in training

Convolutions and dense layers start from He's normal distribution (He et al. 2015). The layers end in one vector per
image, the penultimate features; the recipe's `dropout` and the output follow. Without a list, the head is the pooling
(and whatever else precedes the classifier) that timm gives the backbone.
"""

import re

import torch
from torch import Tensor, nn

from facefold.utils.errors import InputError

STATELESS = ("average", "pool")  # no weights, no randomness: after a frozen backbone they are frozen too
_LAYER = re.compile(r"(average|pool|flatten|norm)|(conv|dense) +([1-9]\d*)|(dropout) +(0?\.\d*[1-9]\d*)")

Layer = tuple[str, float]


def parse_head(head: str) -> list[Layer]:
    """Return the layers as (kind, number), number 0 for kinds without one.

    Raises `ValueError` with the layer that is wrong and the reason.
    """
    layers: list[Layer] = []
    for text in filter(None, map(str.strip, head.split(","))):
        match = _LAYER.fullmatch(text)
        if not match:
            raise ValueError(
                f"head has no layer '{text}'; there are: average, pool, flatten, norm, conv N, dense N, dropout P "
                "(P below 1)"
            )
        kind, *number = filter(None, match.groups())
        layers.append((kind, float(*number)))
    kinds = [kind for kind, _ in layers]
    flat = next((index for index, kind in enumerate(kinds) if kind in ("average", "flatten")), None)
    if kinds and flat is None:
        raise ValueError("head has neither average nor flatten: the output needs one vector per image")
    for index, kind in enumerate(kinds):
        if (kind in ("conv", "pool", "average", "flatten") and index > flat) or (kind == "dense" and index < flat):
            raise ValueError(f"head has {kind} {'after' if index > flat else 'before'} {kinds[flat]}")
    return layers


def build_head(layers: list[Layer], example: Tensor) -> nn.Sequential:
    """Build the layers for inputs like `example`: a map float (1, C, h, w) or a vector float (1, F).

    Raises `InputError` if the map is too small for a layer.
    """
    head = nn.Sequential()
    for kind, number in layers:
        head.append(_build_layer(kind, number, example.shape))
        with torch.inference_mode():
            try:
                example = head[-1].eval()(example)
            except RuntimeError as error:
                size = " x ".join(map(str, example.shape[2:]))
                raise InputError(f"the head's {kind} does not fit a map of {size}: {error}") from error
    return head.train()


def _build_layer(kind: str, number: float, shape: torch.Size) -> nn.Module:
    width = int(number)
    match kind:
        case "average":
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case "pool":
            return nn.MaxPool2d(2)
        case "flatten":
            return nn.Flatten()
        case "dropout":
            return nn.Dropout(number)
        case "norm":
            return nn.BatchNorm2d(shape[1]) if len(shape) == 4 else nn.BatchNorm1d(shape[1])
        case "conv":
            return nn.Sequential(_init_he(nn.Conv2d(shape[1], width, 3, padding=1)), nn.ReLU(inplace=True))
        case "dense":
            return nn.Sequential(_init_he(nn.Linear(shape[1], width)), nn.ReLU(inplace=True))


def _init_he(module: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    nn.init.zeros_(module.bias)
    return module
