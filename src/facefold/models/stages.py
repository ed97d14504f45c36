"""Take out of a backbone what is frozen (its stem and first stages, or all of it), and read its last feature map."""

import math

import torch
from timm.models.vgg import VGG
from torch import Tensor, nn

from facefold.data.preprocessing import Shape
from facefold.models.heads import STATELESS, Layer
from facefold.models.recipe import Recipe
from facefold.utils.errors import InputError

ModuleRef = tuple[nn.Module, str]  # a module's parent and its name there


class FeatureMaps(nn.Module):
    """A timm model's last feature map, float (N, C, h, w), without its pooling and classifier.

    The tokens of a transformer become a map of one column, (N, C, tokens, 1).
    """

    def __init__(self, model: nn.Module, shape: Shape):
        super().__init__()
        self.model = model
        self.nhwc = getattr(model, "output_fmt", "NCHW") == "NHWC"
        used = set()
        hooks = [module.register_forward_hook(lambda module, *_: used.add(module)) for module in model.modules()]
        example_output(self, shape)
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


def example_output(module: nn.Module, shape: Shape) -> Tensor:
    """Return the output of `module` in eval mode for one image of that shape; train mode follows.

    Raises `InputError` if it does not accept it.
    """
    module.eval()
    try:
        with torch.inference_mode():
            return module(_example_image(shape))
    except (AssertionError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["no reason stated"])[0]
        raise InputError(f"the backbone does not accept {shape.height} x {shape.width} pixels: {reason}") from error
    finally:
        module.train()


def _example_image(shape: Shape) -> Tensor:
    return torch.linspace(-1, 1, 3 * math.prod(shape)).view(1, 3, *shape)


def freeze_backbone(model: nn.Module, layers: list[Layer], shape: Shape) -> tuple[list[nn.Module], list[Layer]]:
    """Return the frozen modules and the head's layers that remain to be trained.

    Frozen are all of `model` and the head's first layers if they have no weights and no randomness. The trainable
    layers read a map (N, C, h, w); h and w are 1 if the frozen modules end in a pooling.
    """
    if not layers:
        return [model, nn.Unflatten(1, (-1, 1, 1))], [("flatten", 0.0)]
    frozen: list[nn.Module] = [FeatureMaps(model, shape)]
    while layers[0][0] in STATELESS:
        (kind, _), *layers = layers
        if kind == "average":
            return [*frozen, nn.AdaptiveAvgPool2d(1)], [("flatten", 0.0), *layers]
        frozen.append(nn.MaxPool2d(2))
    return frozen, layers


def split_frozen_stages(backbone: nn.Module, model: nn.Module, recipe: Recipe) -> list[nn.Module]:
    """Take the stem and the first `freeze_stages` stages out of `model` and return them; `nn.Identity` replaces them.

    `backbone` is the module to call: `model` itself, or the `FeatureMaps` around it. Stages follow the order in
    which timm's models list their modules. Raise `InputError` for a backbone that is not a chain of stages: without
    some of them its output would change.
    """
    stages = _list_stages(model)
    if len(stages) <= recipe.freeze_stages + 1:
        raise InputError(
            f"recipe {recipe.name}: freeze_stages = {recipe.freeze_stages} does not fit {recipe.backbone}, "
            f"which has {len(stages) - 1 if stages else 'no'} stages"
        )
    backbone.eval()
    image = _example_image(recipe.shape)
    frozen = []
    with torch.inference_mode():
        expected = backbone(image)
        for parent, name in sum(stages[: recipe.freeze_stages + 1], []):
            frozen.append(getattr(parent, name))
            setattr(parent, name, nn.Identity())
        try:
            same = torch.allclose(backbone(nn.Sequential(*frozen).eval()(image)), expected, rtol=1e-4, atol=1e-5)
        except (RuntimeError, TypeError, AttributeError):
            same = False
    if not same:
        raise InputError(
            f"recipe {recipe.name}: the stem and first stages of {recipe.backbone} cannot be separated from the rest; "
            "set freeze_stages = 0"
        )
    backbone.train()
    return frozen


def _list_stages(model: nn.Module) -> list[list[ModuleRef]]:
    """Return the modules of the stem, then those of each stage; nothing for a model without stages that we know."""
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
        return [children[: names.index("layer1")], *([child] for child in children if child[1].startswith("layer"))]
    for chain_name in ("blocks", "stages"):
        if chain_name in names:
            chain = getattr(model, chain_name)
            return [children[: names.index(chain_name)], *([(chain, name)] for name, _ in chain.named_children())]
    return []
