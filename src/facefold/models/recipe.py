"""Recipes: one small TOML file a model, read into one frozen dataclass; a profile names the recipes of a job."""

import json
import math
import tomllib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from facefold.augment.policies import POLICIES
from facefold.models.heads import parse_head
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_text

RECIPES_DIR = Path(__file__).resolve().parents[2] / "recipes"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a model becomes. A recipe file sets what differs from these defaults."""

    name: str
    about: str = ""  # one line for the plan and the report; not part of the hash

    backbone: str = "cnn5"  # a timm name, or cnn3 or cnn5
    weights: str = "none"  # none | hub (timm's) | package:<python module of the package that ships them>
    size: int = 128  # pixels a side
    start_size: int = 0  # the first epoch's size, growing to `size` in steps of 16 pixels; 0: `size` throughout
    freeze_stages: int = 0  # stem and this many first stages keep their pretrained weights and statistics; what they
    # make of each image is computed once for all folds and kept until the last is done
    freeze_backbone: bool = False  # the whole backbone stays as pretrained and is computed once: only the head learns
    frozen_precision: str = (
        "float32"  # of what is frozen: float32 | half (where the device is fast in it and it agrees with float32)
    )
    head: str = ""  # layers before the output, see heads.py; "": the pooling that timm gives the backbone
    views: int = 0  # frozen stages: so many augmented views, in turn; 0: a new one each epoch
    dropout: float = 0.0  # before the output layer; cnn3 and cnn5 have one before their dense layer as well
    drop_path: float = 0.0  # stochastic depth, timm backbones only
    width: int = 32  # channels of the first block, cnn3 and cnn5 only

    augment: str = "standard"  # a policy of data/policies.py: none | light | aligned | standard | articles
    augmenter: str = "albumentations"  # albumentations (image by image; for a GPU in loader processes) | batch (whole batches, where the
    # net is)
    shuffle: str = (
        "auto"  # the order of an epoch: rows (any row next to any) | blocks (see EpochSampler) | auto (blocks where
    )
    # the train images take more than 8 GB)
    batch: int = 32
    epochs: int = 4
    optimizer: str = "adamw"  # adamw | sgd (timm's: with Nesterov momentum)
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9  # sgd only
    schedule: str = "cosine"  # cosine (per step) | plateau (per epoch, on the monitor loss) | constant
    warmup: float = 0.0  # epochs of linear warm-up, fractions allowed
    plateau_factor: float = 0.3  # plateau: multiply the rate by this ..
    plateau_patience: int = 2  # .. after this many epochs without a better monitor loss
    early_stopping: int = 0  # stop after this many epochs without a better monitor loss, best weights kept; 0: never
    stop_on: str = "loss"  # what early stopping looks at, of the monitor: loss | accuracy
    monitor: float = 0.0  # share of the training rows held out to be the monitor, for plateau and early stopping
    label_smoothing: float = 0.0
    clip: float = 1.0  # largest gradient norm; 0: no clipping
    ema: float = 0.0  # decay a step of the averaged weights that predict; 0: the last weights predict
    compile: bool = False  # torch.compile for the training steps: a minute or more to begin with, so for long GPU runs
    precision: str = "auto"  # auto | float32 | bfloat16 | float16
    layout: str = "auto"  # auto | channels_last | channels_first
    tta: str = "flip"  # flip (mean logit of the image and its mirror) | none

    def size_in(self, epoch: int) -> int:
        """Pixels a side of the training images of that epoch, counted from 0."""
        if not self.start_size or epoch >= self.epochs - 1:
            return self.size
        return self.start_size + 16 * round(
            (self.size - self.start_size) * epoch / (self.epochs - 1) / 16
        )  # never beyond size

    @property
    def freezes(self) -> bool:
        """Whether a part is frozen, so that what it makes of the images is computed once."""
        return self.freeze_backbone or self.freeze_stages > 0

    @property
    def changes_images(self) -> bool:
        """Whether an epoch shows the training images otherwise than they are."""
        return self.augment != "none" or self.start_size > 0

    @cached_property
    def hash(self) -> str:
        """Hex sha256 of everything that changes the model: the settings that are not the defaults, so that a setting that is new
        leaves the runs of recipes without it valid. A default therefore never changes; it would need another name."""
        settings = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("about", "name") and getattr(self, field.name) != field.default
        }
        return sha256_text(json.dumps(settings, sort_keys=True))


_CHOICES = {
    "augment": tuple(sorted(POLICIES)),
    "augmenter": ("albumentations", "batch"),
    "shuffle": ("auto", "rows", "blocks"),
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "plateau", "constant"),
    "stop_on": ("loss", "accuracy"),
    "frozen_precision": ("float32", "half"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "layout": ("auto", "channels_last", "channels_first"),
    "tta": ("flip", "none"),
}
_POSITIVE = ("size", "batch", "epochs", "lr", "width")
_NOT_NEGATIVE = (
    "start_size",
    "freeze_stages",
    "views",
    "weight_decay",
    "warmup",
    "plateau_patience",
    "early_stopping",
    "clip",
)
_BELOW_ONE = ("dropout", "drop_path", "momentum", "label_smoothing", "ema", "monitor", "plateau_factor")


def recipe_names() -> list[str]:
    """The recipes there are, sorted."""
    return sorted(path.stem for path in RECIPES_DIR.glob("*.toml"))


def load_recipe(name: str) -> Recipe:
    """Read recipes/<name>.toml; `<name>@<n>` is that recipe with n epochs instead of its own, another recipe with another hash.
    Unknown keys, wrong types and settings that contradict each other are `InputError`s."""
    of, shortened, epochs = name.partition("@")
    path = RECIPES_DIR / f"{of}.toml"
    if of not in recipe_names():
        raise InputError(f"there is no recipe '{of}'; there are: {', '.join(recipe_names())}")
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not valid TOML: {error}")
    return parse_recipe(name, _with_epochs(name, settings, epochs) if shortened else settings, path.name)


def _with_epochs(name: str, settings: dict, epochs: str) -> dict:
    """The settings of a recipe with as many epochs as its name says, in the one spelling that there is for each number."""
    if not epochs.isdecimal() or str(int(epochs)) != epochs:
        raise InputError(f"recipe '{name}': what follows @ is a number of epochs")
    own = settings.get("epochs", Recipe.epochs)
    if int(epochs) == own:
        raise InputError(f"recipe '{name}': {own} epochs are its own number; leave @{own} out")
    return {
        **settings,
        "epochs": int(epochs),
        "about": f"{settings.get('about', '')}; {epochs} epochs instead of {own}",
    }


def load_recipes(text: str) -> list[Recipe]:
    """The recipes of a comma-separated list as a person writes it; one named twice is taken once."""
    named = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    if not named:
        raise InputError(f"'{text}' names no recipe; there are: {', '.join(recipe_names())}")
    return [load_recipe(name) for name in named]


def parse_recipe(name: str, settings: dict, where: str) -> Recipe:
    """Make a recipe of settings; `where` names their file in the error, which lists every finding."""
    types = {field.name: type(field.default) for field in fields(Recipe) if field.name != "name"}
    findings = []
    for key, value in settings.items():
        if key not in types:
            findings.append(f"unknown key '{key}'; known are {', '.join(types)}")
        elif types[key] is float and type(value) is int:
            settings = {**settings, key: float(value)}
        elif type(value) is not types[key]:
            findings.append(f"{key} = {value!r} should be of type {types[key].__name__}")
    if findings:
        raise InputError.of(f"{where} is not a recipe:", findings)
    recipe = Recipe(name, **settings)
    findings = [
        f"{key} = {getattr(recipe, key)!r} is none of {', '.join(known)}"
        for key, known in _CHOICES.items()
        if getattr(recipe, key) not in known
    ]
    findings += [
        f"{key} = {getattr(recipe, key)} should be above 0"
        for key in _POSITIVE
        if not 0 < getattr(recipe, key) < math.inf
    ]
    findings += [
        f"{key} = {getattr(recipe, key)} should not be negative"
        for key in _NOT_NEGATIVE
        if not 0 <= getattr(recipe, key) < math.inf
    ]
    findings += [
        f"{key} = {getattr(recipe, key)} should be in 0 <= {key} < 1"
        for key in _BELOW_ONE
        if not 0 <= getattr(recipe, key) < 1
    ]
    findings += _contradictions(recipe, settings)
    if findings:
        raise InputError.of(f"{where} is not a recipe:", findings)
    return recipe


def _contradictions(recipe: Recipe, settings: dict) -> list[str]:
    """Settings that would silently do nothing."""
    own_cnn = recipe.backbone in ("cnn3", "cnn5")
    watches = recipe.schedule == "plateau" or recipe.early_stopping > 0
    rules = [
        (
            recipe.weights not in ("none", "hub") and not recipe.weights.startswith("package:"),
            f"weights = {recipe.weights!r} is none of none, hub, package:<name>",
        ),
        (watches and recipe.monitor == 0, "plateau and early_stopping need monitor > 0: the rows they watch"),
        (
            not watches and recipe.monitor > 0,
            "monitor holds rows out for nothing: neither plateau nor early_stopping uses it",
        ),
        (
            recipe.schedule == "cosine" and recipe.early_stopping > 0,
            "early_stopping would cut a cosine schedule off: use plateau",
        ),
        (recipe.warmup >= recipe.epochs, "warmup is not shorter than epochs"),
        (
            own_cnn and (recipe.weights != "none" or recipe.drop_path > 0 or recipe.freezes),
            f"{recipe.backbone} has no pretrained weights, no drop_path and no stages to freeze",
        ),
        (own_cnn and recipe.head != "", f"{recipe.backbone} has a head of its own"),
        (not own_cnn and "width" in settings, "width belongs to cnn3 and cnn5 only"),
        (recipe.freezes and recipe.weights == "none", "freezing stages that were never trained"),
        (
            recipe.freeze_backbone and recipe.freeze_stages > 0,
            "freeze_backbone freezes all stages: leave freeze_stages out",
        ),
        (recipe.freeze_backbone and recipe.drop_path > 0, "drop_path does nothing in a frozen backbone"),
        (
            not recipe.freezes and recipe.frozen_precision != "float32",
            "frozen_precision belongs to freeze_stages or freeze_backbone",
        ),
        (not recipe.early_stopping and "stop_on" in settings, "stop_on belongs to early_stopping only"),
        (
            recipe.start_size > 0 and "flatten" in recipe.head,
            "start_size is not for a head that flattens, which has one size",
        ),
        (
            recipe.freezes and recipe.augment == "none" and recipe.views > 0,
            'views are augmented images: augment = "none" has none',
        ),
        (
            recipe.augmenter == "batch" and recipe.augment in POLICIES and POLICIES[recipe.augment].per_image_only,
            f'augment = "{recipe.augment}" has operations that augmenter = "batch" has not: use albumentations',
        ),
        (
            recipe.start_size > 0 and (own_cnn or recipe.start_size >= recipe.size),
            "start_size is below size, and not for cnn3 and cnn5, whose dense layer has one size",
        ),
        (
            0 < recipe.start_size < recipe.size and (recipe.size - recipe.start_size) % 16 > 0,
            "size - start_size is no multiple of 16",
        ),
        (0 < recipe.epochs <= recipe.views, "views in turn are fewer than epochs; 0: a new one each epoch"),
        (recipe.augmenter == "batch" and recipe.augment == "none", 'augmenter has nothing to do: augment = "none"'),
        (recipe.start_size > 0 and recipe.epochs == 1, "start_size needs a second epoch to grow in"),
        (recipe.start_size > 0 and recipe.views > 0, "views in turn have one size: leave start_size or views out"),
        (
            recipe.views > 0 and not recipe.freezes,
            "views belongs to freeze_stages or freeze_backbone: nothing else is kept",
        ),
        (recipe.optimizer != "sgd" and "momentum" in settings, "momentum belongs to sgd only"),
        (
            recipe.schedule != "plateau" and ("plateau_factor" in settings or "plateau_patience" in settings),
            'plateau_factor and plateau_patience belong to schedule = "plateau" only',
        ),
    ]
    try:
        parse_head(recipe.head)
    except ValueError as error:
        rules.append((True, str(error)))
    return [text for wrong, text in rules if wrong]
