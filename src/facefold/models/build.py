"""Models: a backbone that gives penultimate features, and one output that gives the logit of label 1."""

from pathlib import Path

import torch
from torch import Tensor, nn

from facefold.models.heads import build_head, parse_head
from facefold.models.pretrained import build_backbone
from facefold.models.recipe import Recipe
from facefold.models.stages import FeatureMaps, example_output, freeze_backbone, freeze_first_stages
from facefold.utils.errors import InputError

IMAGENET_STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SYMMETRIC_STATS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Cnn3(nn.Module):
    """Three convolutions with large kernels (7x7 in steps of 2, 5x5, 5x5), each with ReLU and 2x2 max pooling; flattened into a
    dense layer of 256.

    The first model of the competition article, a shallow CNN without batch norm. Input float (N, 3, size, size), output features
    float (N, 256).
    """

    def __init__(self, width: int, size: int, dropout: float):
        super().__init__()
        if size // 16 < 1:
            raise InputError(f"cnn3 halves the image four times: size = {size} should be 16 or more")
        self.blocks = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.dense = nn.Sequential(
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * width * (size // 16) ** 2, 256), nn.ReLU(inplace=True)
        )
        self.num_features = 256

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.blocks(x))


class Cnn5(nn.Module):
    """Five 3x3 convolutions, each with batch norm, ReLU and 2x2 max pooling; flattened into a dense layer of 256.

    The second model of the competition article (five stacked 3x3 convolutions with batch norm, dense layers, dropout).
    Input float (N, 3, size, size), output features float (N, 256).
    """

    def __init__(self, width: int, size: int, dropout: float):
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width, 8 * width]
        if size // 32 < 1:
            raise InputError(f"cnn5 halves the image five times: size = {size} should be 32 or more")
        self.blocks = nn.Sequential(
            *[
                nn.Sequential(
                    nn.Conv2d(before, after, 3, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(inplace=True),
                    nn.MaxPool2d(2),
                )
                for before, after in zip(channels, channels[1:])
            ]
        )
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels[-1] * (size // 32) ** 2, 256, bias=False),
            nn.BatchNorm1d(256),
            nn.ReLU(inplace=True),
        )
        self.num_features = 256

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.blocks(x))


OWN_BACKBONES = {"cnn3": Cnn3, "cnn5": Cnn5}


class Trunk(nn.Module):
    """The part that never trains: normalisation, stem and frozen first stages. Maps uint8 (N, H, W, 3) to float (N, C, h, w)."""

    def __init__(self, mean: tuple, std: tuple, frozen: list[nn.Module]):
        super().__init__()
        self.stages = nn.Sequential(*frozen)
        self.stages.requires_grad_(False)
        self.channels_last = False
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        # The permuted view of (N, H, W, 3) is channels_last already: no copy but the conversion to float.
        x = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return self.stages(x if self.channels_last else x.contiguous())

    def train(self, mode: bool = True) -> "Trunk":
        return super().train(False)  # frozen batch norm keeps its pretrained statistics


class Net(nn.Module):
    """Trunk, backbone, dropout, one linear output.

    `forward` maps images uint8 (N, H, W, 3), or what the trunk made of them as float (N, h, w, C), to logits float32 (N,) and
    penultimate features float32 (N, F).
    """

    def __init__(
        self, backbone: nn.Module, features: int, dropout: float, mean: tuple, std: tuple, frozen: list[nn.Module]
    ):
        super().__init__()
        self.trunk = Trunk(mean, std, frozen)
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(features, 1)
        # Near zero: timm's EfficientNets draw a one-output head from U(-1, 1), whose logits near +-20 cost the first epoch.
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def forward(self, shown: Tensor) -> tuple[Tensor, Tensor]:
        if shown.dtype is torch.uint8:
            x = self.trunk(shown)
        else:
            x = shown.permute(0, 3, 1, 2).float()
            x = x if self.trunk.channels_last else x.contiguous()
        features = self.backbone(x)
        with torch.autocast(
            x.device.type, enabled=False
        ):  # a bfloat16 logit has 8 bits: 2.123 and 2.13 would be the same
            features = features.float()
            logits = self.output(self.dropout(features)).squeeze(1)
        return logits, features

    @property
    def frozen(self) -> bool:
        """Whether the trunk is more than the normalisation, so that its activations are worth keeping."""
        return len(self.trunk.stages) > 0

    def lay_out(self, channels_last: bool) -> "Net":
        """Set the memory layout of weights and inputs."""
        self.trunk.channels_last = channels_last
        return self.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def build_model(recipe: Recipe, weights_dir: Path | None = None, trained: bool = True) -> tuple[Net, dict]:
    """The recipe's network (random parts drawn from torch's global generator) and the source of its weights.

    trained: False leaves pretrained weights out, for a state that is loaded over them right after.
    """
    if recipe.backbone in OWN_BACKBONES:
        backbone = OWN_BACKBONES[recipe.backbone](recipe.width, recipe.size, recipe.dropout)
        return Net(backbone, backbone.num_features, recipe.dropout, *SYMMETRIC_STATS, frozen=[]), {"source": "none"}
    model, source = build_backbone(recipe, weights_dir, trained=trained)
    for side in sorted({recipe.size_in(epoch) for epoch in range(recipe.epochs)}):
        example_output(model, side)  # raises where the backbone does not take it
    layers = parse_head(recipe.head)
    if recipe.freeze_backbone:
        frozen, layers = freeze_backbone(model, layers, recipe.size)
        backbone = build_head(layers, example_output(nn.Sequential(*frozen), recipe.size))
    else:
        backbone = FeatureMaps(model, recipe.size) if layers else model
        ahead = example_output(backbone, recipe.size)
        frozen = freeze_first_stages(backbone, model, recipe) if recipe.freeze_stages else []
        if layers:
            backbone = nn.Sequential(backbone, *build_head(layers, ahead))
    config = model.pretrained_cfg
    width = example_output(nn.Sequential(*frozen, backbone), recipe.size).shape[1]
    return Net(
        backbone,
        width,
        recipe.dropout,
        config.get("mean", IMAGENET_STATS[0]),
        config.get("std", IMAGENET_STATS[1]),
        frozen,
    ), source
