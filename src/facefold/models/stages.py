"""What is taken out of a backbone because it never learns: its stem and first stages, or all of it; and what a head reads of one."""

import torch
from timm.models.vgg import VGG
from torch import Tensor, nn

from facefold.models.heads import STATELESS, Layer
from facefold.models.recipe import Recipe
from facefold.utils.errors import InputError

ModuleRef = tuple[nn.Module, str]  # a module's parent and its name there


class FeatureMaps(nn.Module):
    """A timm model's last feature map, float (N, C, h, w), without what follows it there; tokens are a map of one column."""

    def __init__(self, model: nn.Module, size: int):
        super().__init__()
        self.model = model
        self.nhwc = getattr(model, "output_fmt", "NCHW") == "NHWC"
        used = set()
        hooks = [module.register_forward_hook(lambda module, *_: used.add(module)) for module in model.modules()]
        example_output(self, size)
        for hook in hooks:
            hook.remove()
        for name, child in list(model.named_children()):
            if not used & set(child.modules()):
                setattr(model, name, nn.Identity())  # the classifier, and VGG's hundred million weights before it

    def forward(self, x: Tensor) -> Tensor:
        x = self.model.forward_features(x)
        if x.ndim == 3:
            return x.transpose(1, 2).unsqueeze(3)
        return x.permute(0, 3, 1, 2) if self.nhwc else x


class PooledMap(nn.Module):
    """A timm model's own pooled features, float (N, F), as a map of one pixel (N, F, 1, 1)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[:, :, None, None]


def example_output(module: nn.Module, size: int) -> Tensor:
    """What `module`, in eval mode meanwhile, makes of one image of size x size pixels; `InputError` where it takes none of that size."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.inference_mode():
            return module(torch.linspace(-1, 1, 3 * size**2).view(1, 3, size, size))
    except (AssertionError, RuntimeError) as error:
        raise InputError(
            f"the backbone does not take {size} x {size} pixels: {(str(error).splitlines() or ['no reason given'])[0]}"
        )
    finally:
        for part, mode in modes.items():
            part.training = mode


def freeze_backbone(model: nn.Module, layers: list[Layer], size: int) -> tuple[list[nn.Module], list[Layer]]:
    """The frozen part, which is all of `model` and the head's first layers that never change, and the layers left to learn.

    What these begin with reads a map (N, C, h, w); one of a single pixel where the frozen part ends in a pooling.
    """
    if not layers:
        return [PooledMap(model)], [("flatten", 0.0)]
    frozen: list[nn.Module] = [FeatureMaps(model, size)]
    while layers[0][0] in STATELESS:
        (kind, _), *layers = layers
        frozen.append(nn.MaxPool2d(2) if kind == "pool" else nn.AdaptiveAvgPool2d(1))
        if kind == "average":
            return frozen, [("flatten", 0.0), *layers]
    return frozen, layers


def freeze_first_stages(backbone: nn.Module, model: nn.Module, recipe: Recipe) -> list[nn.Module]:
    """Take the stem and the first `freeze_stages` stages out of `model`, which passes its input on in their places.

    `backbone` is what uses `model`: itself, or a `Maps` of it. Stages are found by the order in which timm's models list their
    modules; a backbone that is more than a chain of these gives another output afterwards, and is refused.
    """
    stages = _stages(model)
    if len(stages) <= recipe.freeze_stages + 1:
        raise InputError(
            f"recipe {recipe.name}: freeze_stages = {recipe.freeze_stages} does not fit {recipe.backbone}, "
            f"which has {len(stages) - 1 if stages else 'no'} stages"
        )
    backbone.eval()
    pixels = torch.linspace(-1, 1, 3 * recipe.size**2).view(1, 3, recipe.size, recipe.size)
    with torch.inference_mode():
        expected = backbone(pixels)
    frozen = []
    for parent, name in sum(stages[: recipe.freeze_stages + 1], []):
        frozen.append(getattr(parent, name))
        setattr(parent, name, nn.Identity())
    with torch.inference_mode():
        try:
            same = torch.allclose(backbone(nn.Sequential(*frozen).eval()(pixels)), expected, rtol=1e-4, atol=1e-5)
        except (RuntimeError, TypeError, AttributeError):
            same = False
    if not same:
        raise InputError(
            f"recipe {recipe.name}: the stem and first stages of {recipe.backbone} could not be told from the rest; "
            "set freeze_stages = 0"
        )
    backbone.train()
    return frozen


def _stages(model: nn.Module) -> list[list[ModuleRef]]:
    """The places of the stem's modules, then those of each stage's; none where the model has no stages that are known."""
    children = [(model, name) for name, _ in model.named_children()]
    names = [name for _, name in children]
    if isinstance(model, VGG):  # a stage is a block of convolutions and the pooling that ends it
        stages: list[list[ModuleRef]] = [[], []]
        for name, module in model.features.named_children():
            stages[-1].append((model.features, name))
            if isinstance(module, nn.MaxPool2d):
                stages.append([])
        return stages[:-1]
    if "layer1" in names:  # ResNet
        return [children[: names.index("layer1")], *([place] for place in children if place[1].startswith("layer"))]
    found = next((name for name in ("blocks", "stages") if name in names), None)
    if found is None:
        return []
    chain = getattr(model, found)
    return [children[: names.index(found)], *([(chain, name)] for name, _ in chain.named_children())]
