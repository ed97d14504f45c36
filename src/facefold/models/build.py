"""The network of a recipe: frozen stages, a trainable backbone that gives penultimate features, and a linear output."""

from pathlib import Path

import numpy as np
import torch
from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)
from torch import Tensor, nn

from facefold.data.preprocessing import Shape
from facefold.models.classifiers import Classifier
from facefold.models.cnn import CNNS
from facefold.models.heads import build_head, parse_head
from facefold.models.pretrained import build_backbone, nearest_multiples
from facefold.models.recipe import Recipe
from facefold.models.stages import FeatureMaps, example_output, freeze_backbone, split_frozen_stages
from facefold.utils.errors import InputError

_FROZEN_PREFIX = "frozen_stages."


class FrozenStages(nn.Module):
    """What never trains: normalisation, stem and first stages. Maps images uint8 (N, H, W, 3) to float (N, C, h, w)."""

    def __init__(self, mean: tuple, std: tuple, stages: list[nn.Module]):
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.stages.requires_grad_(False)
        self.channels_last = False
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        # The permuted view of (N, H, W, 3) is channels_last already: no copy but the conversion to float.
        x = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return self.stages(x if self.channels_last else x.contiguous())

    def train(self, mode: bool = True) -> "FrozenStages":
        return super().train(False)  # frozen batch norm keeps its pretrained statistics


class FrozenBackbones(nn.Module):
    """Several frozen backbones: maps images uint8 (N, H, W, 3) to their features side by side, float (N, F, 1, 1)."""

    def __init__(self, backbones: list[FrozenStages]):
        super().__init__()
        self.stages = nn.ModuleList(backbones)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([backbone(images) for backbone in self.stages], dim=1)

    @property
    def channels_last(self) -> bool:
        return self.stages[0].channels_last

    @channels_last.setter
    def channels_last(self, value: bool) -> None:
        for backbone in self.stages:
            backbone.channels_last = value

    def train(self, mode: bool = True) -> "FrozenBackbones":
        return super().train(False)


class Net(nn.Module):
    """Frozen stages, backbone, dropout and a linear layer of `outputs` numbers.

    `reads_activations`: whether training and prediction read the activations of the frozen stages from the disk, as
    they do unless that is set otherwise. A recipe's classifier replaces dropout and linear layer; it multiplies
    standardised features by `feature_scale` (F,) or 1. Each forward method returns logits float32 (of a classifier
    float64), (N,) of one output or (N, outputs), and penultimate features float32 (N, F).
    """

    def __init__(
        self,
        frozen_stages: FrozenStages | FrozenBackbones,
        backbone: nn.Module,
        features: int,
        dropout: float,
        outputs: int = 1,
    ):
        super().__init__()
        self.feature_scale: np.ndarray | float = 1.0
        self.reads_activations = len(frozen_stages.stages) > 0
        self.frozen_stages = frozen_stages
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(features, outputs)
        # Near zero: timm's EfficientNets draw a one-output head from U(-1, 1), whose logits near +-20 cost the first
        # epoch.
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the whole network on images uint8 (N, H, W, 3)."""
        return self._forward_backbone(self.frozen_stages(images))

    def forward_from_stages(self, activations: Tensor) -> tuple[Tensor, Tensor]:
        """Run what follows the frozen stages on their activations float (N, h, w, C), as `FeatureCache` keeps them."""
        return self._forward_backbone(self._channels_first(activations))

    def features_from_stages(self, activations: Tensor) -> Tensor:
        """Return the features alone, which a classifier is fitted on."""
        return self.backbone(self._channels_first(activations)).float()

    def _channels_first(self, activations: Tensor) -> Tensor:
        x = activations.permute(0, 3, 1, 2).float()
        return x if self.channels_last else x.contiguous()

    def forward_inputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Run on what training and prediction read: activations if `reads_activations`, else images."""
        return self.forward_from_stages(inputs) if self.reads_activations else self(inputs)

    def _forward_backbone(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(x)
        # A bfloat16 logit has 8 bits: 2.123 and 2.13 would be the same.
        with torch.autocast(x.device.type, enabled=False):
            features = features.float()
            return self.output(self.dropout(features)).squeeze(1), features  # (N, outputs) if there are several

    @property
    def has_frozen_stages(self) -> bool:
        """Whether more than the normalisation is frozen, so that its activations are worth caching."""
        return len(self.frozen_stages.stages) > 0

    @property
    def channels_last(self) -> bool:
        return self.frozen_stages.channels_last

    def set_memory_format(self, channels_last: bool) -> "Net":
        """Set the memory layout of weights and inputs."""
        self.frozen_stages.channels_last = channels_last
        return self.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the state without the frozen stages, which are loaded with the pretrained weights."""
        return {name: value.clone() for name, value in self.state_dict().items() if not name.startswith(_FROZEN_PREFIX)}

    def load_trainable_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load what `trainable_state_dict` returned; the frozen stages stay as they are."""
        self.load_state_dict({**self.frozen_stages.state_dict(prefix=_FROZEN_PREFIX), **state})


def build_model(
    recipe: Recipe, weights_dir: Path | None = None, pretrained: bool = True, outputs: int = 1
) -> tuple[Net, dict]:
    """Build the recipe's network and return it with the source of its pretrained weights ({source, sha256}).

    Parts without pretrained weights are drawn from torch's global generator. Raises `InputError` if weights are
    missing, or if backbone, head, size, frozen stages and gradient checkpointing do not fit together.

    Args:
        recipe: Backbone, head, sizes and frozen stages.
        weights_dir: Folder of local weights for recipes with weights = "hub"; None to ask the hub.
        pretrained: False builds the structure only, for a state that is loaded next.
        outputs: Of the last layer, see `Task.outputs`.
    """
    if recipe.backbone in CNNS:
        backbone = CNNS[recipe.backbone](recipe.width, recipe.shape, recipe.dropout)
        normalisation = FrozenStages(IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD, [])
        return Net(normalisation, backbone, backbone.num_features, recipe.dropout, outputs), {"source": "none"}
    if recipe.embeddings:  # they take the part of the frozen stages' activations
        net = Net(FrozenStages(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, [nn.Identity()]), nn.Flatten(), 1, 0.0)
        net.output = Classifier()
        return net, {"source": "none"}
    if len(recipe.parts) > 1:
        return _build_several(recipe, weights_dir, pretrained)
    model, source = build_backbone(recipe, weights_dir, pretrained=pretrained)
    for shape in sorted({recipe.shape_in(epoch) for epoch in range(recipe.epochs)}):
        _require_shape(model, shape)
    if recipe.grad_checkpointing:
        _set_grad_checkpointing(recipe, model)
    layers = parse_head(recipe.head)
    if recipe.freeze_backbone:
        stages, layers = freeze_backbone(model, layers, recipe.shape)
        backbone = build_head(layers, example_output(nn.Sequential(*stages), recipe.shape))
    else:
        backbone = FeatureMaps(model, recipe.shape) if layers else model
        head_input = example_output(backbone, recipe.shape)
        stages = split_frozen_stages(backbone, model, recipe) if recipe.freeze_stages else []
        if layers:
            backbone = nn.Sequential(backbone, *build_head(layers, head_input))
    features = example_output(nn.Sequential(*stages, backbone), recipe.shape).shape[1]
    mean = model.pretrained_cfg.get("mean", IMAGENET_DEFAULT_MEAN)
    std = model.pretrained_cfg.get("std", IMAGENET_DEFAULT_STD)
    net = Net(FrozenStages(mean, std, stages), backbone, features, recipe.dropout, outputs)
    if recipe.classifier:
        net.output = Classifier()
    return net, source


def _require_shape(model: nn.Module, shape: Shape) -> None:
    """Raise `InputError` if the backbone does not accept images of that shape, with the nearest ones that it may."""
    try:
        example_output(model, shape)
    except InputError as error:
        stride = max((stage["reduction"] for stage in getattr(model, "feature_info", [])), default=1)
        # Windows and position biases of MaxViT, CoAtNet, Hiera and LeViT fit whole last maps only.
        if any(side % stride for side in shape):
            raise InputError(f"{error}; take a multiple of {stride}: {nearest_multiples(shape, stride)}") from error
        raise


def _set_grad_checkpointing(recipe: Recipe, model: nn.Module) -> None:
    try:
        model.set_grad_checkpointing()
    except (AttributeError, AssertionError) as error:  # timm's models that have none assert so
        raise InputError(
            f"recipe {recipe.name}: timm has no gradient checkpointing for {recipe.backbone}; leave grad_checkpointing "
            "out: a batch that the GPU's memory does not hold is trained in parts"
        ) from error


def _build_several(recipe: Recipe, weights_dir: Path | None, pretrained: bool) -> tuple[Net, dict]:
    """Build a network whose classifier reads the features of several frozen backbones, see `build_model`.

    `feature_scale` gives each backbone the same part in the distance of two images, times the recipe's own weight.
    """
    nets, sources = zip(*(build_model(part, weights_dir, pretrained) for part in recipe.parts), strict=True)
    net = Net(FrozenBackbones([net.frozen_stages for net in nets]), nn.Flatten(), 1, 0.0)
    image = torch.zeros((1, *recipe.shape, 3), dtype=torch.uint8)
    with torch.inference_mode():
        sizes = [backbone(image).shape[1] for backbone in net.frozen_stages.stages]
    equal = np.sqrt(sum(sizes) / len(sizes) / np.array(sizes))
    net.output, net.feature_scale = Classifier(), np.repeat(equal * recipe.feature_scales, sizes)
    keys = dict.fromkeys(key for source in sources for key in source)
    return net, {key: ", ".join(source.get(key, "none") for source in sources) for key in keys}
