"""Heads: what a recipe puts between a backbone's last feature map and the output, written as a list of layers.

    head = "average, dense 128, norm"

    average     mean over the map                                  conv N      3x3 convolution to N channels, ReLU
    pool        2x2 max pooling                                    dense N     linear layer to N, ReLU
    flatten     the map as one row of numbers                      norm        batch norm
    dropout P   zero each number with probability P in training

Convolutions and dense layers start from He's normal distribution (He et al. 2015). The layers end in one row of numbers an
image, the penultimate features; the recipe's `dropout` and the output follow. A head without layers is the pooling, and whatever
else comes before its classes, that timm gives the backbone.
"""

import re

import torch
from torch import Tensor, nn

from facefold.utils.errors import InputError

NUMBERED = {"conv": int, "dense": int, "dropout": float}
PLAIN = ("average", "pool", "flatten", "norm")
STATELESS = ("average", "pool")  # they never change, so after a frozen backbone they are as frozen as it is

Layer = tuple[str, float]


def parse_head(head: str) -> list[Layer]:
    """The layers as (kind, number), number 0 where the kind takes none. `ValueError` says what is wrong with which layer."""
    layers = []
    for text in filter(None, (part.strip() for part in head.split(","))):
        found = re.fullmatch(r"(\w+)(?: +(\d+(?:\.\d+)?))?", text)
        kind, number = (found[1], found[2]) if found else (text, None)
        if kind in PLAIN and number is None:
            layers.append((kind, 0.0))
        elif kind in NUMBERED and number is not None and _fits(kind, number):
            layers.append((kind, float(number)))
        else:
            raise ValueError(
                f"head has no layer '{text}'; there are: {', '.join(PLAIN)}, conv N, dense N, dropout P (P below 1)"
            )
    kinds = [kind for kind, _ in layers]
    flat = next((place for place, kind in enumerate(kinds) if kind in ("average", "flatten")), None)
    if kinds and flat is None:
        raise ValueError("head has neither average nor flatten: the output needs one row of numbers an image")
    for place, kind in enumerate(kinds):
        if (kind in ("conv", "pool", "average", "flatten") and place > flat) or (kind == "dense" and place < flat):
            raise ValueError(f"head has {kind} {'after' if place > flat else 'before'} {kinds[flat]}")
    return layers


def _fits(kind: str, number: str) -> bool:
    return 0 < float(number) < 1 if kind == "dropout" else number.isdecimal() and int(number) > 0


def build_head(layers: list[Layer], example: Tensor) -> nn.Sequential:
    """The layers for what `example` is one of: a map float (1, C, h, w), or a row float (1, F). Raises `InputError` where the map
    is too small."""
    made = nn.Sequential()
    for kind, number in layers:
        made.append(_layer(kind, number, example.shape))
        with torch.inference_mode():
            try:
                example = made[-1].eval()(example)
            except RuntimeError as error:
                raise InputError(
                    f"the head's {kind} does not fit a map of {' x '.join(map(str, example.shape[2:]))}: {error}"
                )
    return made.train()


def _layer(kind: str, number: float, shape: torch.Size) -> nn.Module:
    count = int(number)
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
            return nn.Sequential(_started(nn.Conv2d(shape[1], count, 3, padding=1)), nn.ReLU(inplace=True))
        case "dense":
            return nn.Sequential(_started(nn.Linear(shape[1], count)), nn.ReLU(inplace=True))


def _started(module: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    nn.init.zeros_(module.bias)
    return module
