"""Recipes: one small TOML file per model, read into one frozen dataclass; a profile names the recipes of a job."""

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

from facefold.data.preprocessing import Preprocessing, Shape
from facefold.models.run_name import RunName, add_settings, parse_run_name
from facefold.models.settings import CLASSIFIERS, TTA_VIEWS, find_problems, split_list
from facefold.utils.errors import InputError, did_you_mean
from facefold.utils.files import sha256_text

_EMBEDDINGS = "features:"
EMBEDDINGS_NAME = "[A-Za-z0-9][A-Za-z0-9_-]*"  # of a file under features/
RECIPES_DIR = Path(__file__).resolve().parents[2] / "recipes"

# Which recipes run_all.py trains; if a budget does not suffice for all, the first come first. The order of `cpu` and
# `images` is that of the out-of-fold accuracy on the 18,000 faces, of the mean of the first, the first two, ..: 0.9469,
# 0.9495, 0.9501 and 0.9402, 0.9419, 0.9426, 0.9431. They were chosen on these rows, as the most accurate sets that two
# cores train in about 100 minutes, `images` without what knows faces. `quick` is for faces. The other profiles were not
# measured that way, and the two for GPUs not at all.
PROFILES: dict[str, tuple[str, ...]] = {
    "demo": ("demo_cnn", "demo_lite0"),
    "quick": ("face_lite0_svm",),
    "cpu": ("face_lite0_svm", "lite0_96_aligned", "face_svm"),
    "images": ("lite0_160", "lite0_96_aligned", "lite0", "cnn5"),
    "regression": ("lite0_age",),
    "gpu": ("convnextv2_tiny", "eva02_small", "clip_base", "efficientnetv2_s"),
    "gpu_offline": ("lite2_224", "lite1_208", "lite0_192", "mobilenetv2_192"),
    "articles": ("cnn3", "cnn5", "vgg16", "vgg16_bn", "vgg19", "resnet50_conv", "resnet50_scratch", "resnet101v2_gap"),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a model is built and trained. A recipe file sets what differs from these defaults."""

    name: str
    about: str = ""  # one line for the plan and the report; not part of the hash

    backbone: str = "cnn5"  # a timm name, or cnn3 or cnn5; "A, B": a classifier reads the features of both
    # none | hub (timm's) | package:<python module of the package that ships them>; of several backbones "W, V"
    weights: str = "none"
    size: int | Shape = 128  # of a square in pixels, or [height, width]
    crop: float = 1.0  # share of each side that the network sees, the middle, resized to `size`; 1: all of the image
    start_size: int = 0  # the first epoch's, growing to a square `size` in steps of 16 pixels; 0: `size` throughout
    # The stem and this many first stages keep their pretrained weights and statistics. Their activations are computed
    # once for all folds and cached until the last fold is finished.
    freeze_stages: int = 0
    freeze_backbone: bool = False  # the whole backbone stays as pretrained and is computed once: only the head learns
    frozen_precision: str = "float32"  # of what is frozen: float32 | half (if fast on the device and near float32)
    # What reads the features of a frozen backbone: "" (a linear output trained by gradient descent) or a classifier of
    # models/classifiers.py: logistic | svm | network | boosting. It reads the mean of the features
    # of the views in tta.
    classifier: str = ""
    feature_scale: str = ""  # several backbones: the weight of each one's features, as "1, 0.3"; "": all the same
    head: str = ""  # layers before the output, see heads.py; "": the pooling that timm gives the backbone
    views: int = 0  # frozen stages: number of augmented copies of the images, used in turn; 0: a new one per epoch
    dropout: float = 0.0  # before the output layer; cnn3 and cnn5 have one before their dense layer as well
    drop_path: float = 0.0  # stochastic depth, timm backbones only
    width: int = 32  # channels of the first block, cnn3 and cnn5 only

    augment: str = "standard"  # a policy of augment/policies.py: none | light | aligned | standard | articles
    # albumentations: image by image, for a GPU in loader processes | batch: whole batches, on the network's device
    augmenter: str = "albumentations"
    # Alphas of MixUp and CutMix, which mix the images of a batch and their labels; 0: off. Of both a batch draws one.
    mixup: float = 0.0
    cutmix: float = 0.0
    # rows: any order | blocks: see EpochSampler | auto: blocks if the train images take more than 8 GiB
    shuffle: str = "auto"
    batch: int = 32
    epochs: int = 4
    optimizer: str = "adamw"  # adamw | sgd (timm's: with Nesterov momentum)
    lr: float = 1e-3
    layer_decay: float = 1.0  # each layer of a timm backbone learns at this times the rate of the next one
    head_lr: float = 1.0  # times lr: the rate of the head and of the output layer
    weight_decay: float = 0.01
    momentum: float = 0.9  # sgd only
    schedule: str = "cosine"  # cosine (per step) | plateau (per epoch, on the monitor loss) | constant
    warmup: float = 0.0  # epochs of linear warm-up, fractions allowed
    plateau_factor: float = 0.3  # plateau: multiply the rate by this ..
    plateau_patience: int = 2  # .. after this many epochs without a better monitor loss
    early_stopping: int = 0  # stop after this many epochs without a better monitor loss, best weights kept; 0: never
    stop_on: str = "loss"  # what early stopping compares, on the monitor rows: loss | accuracy
    monitor: float = 0.0  # share of the training rows held out for plateau, early stopping, soup and tta = "choose"
    label_smoothing: float = 0.0
    clip: float = 1.0  # largest gradient norm; 0: no clipping
    ema: float = 0.0  # decay per step of the averaged weights that predict; 0: the last weights predict
    # Number of last epochs whose weights (those of EMA if there is one) are averaged to predict; 0: none. With monitor
    # the epochs are tried from the least monitor loss on, and one is taken if the average's loss does not rise.
    soup: int = 0
    # A timm backbone keeps few activations and computes the others again for the gradient: less memory, more time.
    grad_checkpointing: bool = False
    compile: bool = False  # torch.compile for the training steps: takes a minute or more, so for long GPU runs
    precision: str = "auto"  # auto | float32 | bfloat16 | float16
    layout: str = "auto"  # auto | channels_last | channels_first
    # Views whose mean logit predicts: flip (the image and its mirror) | flip_zoom (these and the centre, enlarged, and
    # its mirror) | none (the image) | choose (those of flip_zoom that the fold's monitor rows choose)
    tta: str = "flip"

    def __post_init__(self) -> None:
        if not isinstance(self.size, int):  # the list of a recipe file or of run.json; a square has one spelling
            shape = Shape.of(self.size)
            object.__setattr__(self, "size", shape if shape.height != shape.width else shape.height)

    @property
    def shape(self) -> Shape:
        """Height and width of the images that the network reads."""
        return Shape.of(self.size)

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed with each other, and so are their labels."""
        return self.mixup > 0 or self.cutmix > 0

    def shape_in(self, epoch: int) -> Shape:
        """Return height and width of the training images in that epoch, counted from 0."""
        if not self.start_size or epoch >= self.epochs - 1:
            return self.shape
        # Never above `size`, from which `start_size` differs by a multiple of 16.
        return Shape.of(self.start_size + 16 * round((self.size - self.start_size) * epoch / (self.epochs - 1) / 16))

    def augmented_epoch(self, epoch: int) -> int:
        """Return the epoch whose augmented images that epoch trains on: `views` of them are taken in turn."""
        return _in_turn(epoch, self.views)

    def caches_stages(self, device: str) -> bool:
        """Whether the activations of what is frozen are computed once and read from the disk; device: cpu or cuda.

        A GPU computes frozen stages again sooner than the disk gives their activations, but for a whole backbone.
        """
        return self.has_frozen_stages and (self.freeze_backbone or device == "cpu")

    @property
    def preprocessing(self) -> Preprocessing:
        """What the cached images went through."""
        return Preprocessing(self.size, self.crop)

    @property
    def has_frozen_stages(self) -> bool:
        """Whether a part of the network is frozen, so that its activations are computed once."""
        return not self.embeddings and (self.freeze_backbone or self.freeze_stages > 0)

    @cached_property
    def parts(self) -> tuple["Recipe", ...]:
        """This recipe with each of its backbones alone."""
        names, weights = (split_list(text) for text in (self.backbone, self.weights))
        if len(names) == 1:
            return (self,)
        return tuple(replace(self, backbone=name, weights=own) for name, own in zip(names, weights, strict=True))

    @property
    def feature_scales(self) -> list[float]:
        """The weight of each backbone's features."""
        if not self.feature_scale:
            return [1.0] * len(self.parts)
        return [float(text) for text in split_list(self.feature_scale)]

    @property
    def embeddings(self) -> str:
        """The name of the file under features/ that its classifier reads; empty if it reads images."""
        return self.backbone.removeprefix(_EMBEDDINGS) if self.backbone.startswith(_EMBEDDINGS) else ""

    @property
    def changes_images(self) -> bool:
        """Whether training images differ from the cached ones, by augmentation or by size."""
        return not self.classifier and (self.augment != "none" or self.start_size > 0)

    @property
    def tta_views(self) -> tuple[str, ...]:
        """The views of `view_images` that predict, or of which a fold chooses."""
        return TTA_VIEWS[self.tta]

    @cached_property
    def hash(self) -> str:
        """Hex sha256 of the settings that differ from their defaults.

        A new setting thus leaves the runs of recipes without it valid. In return a default must never change.
        """
        settings = {
            key: value
            for key, value in asdict(self).items()
            if key not in ("about", "name") and value != getattr(Recipe, key)
        }
        return sha256_text(json.dumps(settings, sort_keys=True))


def view_names(recipe: Recipe) -> list[tuple[str, str]]:
    """Return (split, view) of each view that the folds of this recipe read."""
    epochs = range(recipe.epochs if recipe.changes_images else 0)
    augmented = dict.fromkeys(epoch_view_name(epoch, recipe.views) for epoch in epochs)
    plain = recipe.tta_views
    return [("train", view) for view in augmented] + [(split, view) for split in ("train", "test") for view in plain]


def epoch_view_name(epoch: int, views: int) -> str:
    """Return the name of the view that this epoch trains on; `views` are taken in turn, 0: each epoch has its own."""
    return f"epoch_{_in_turn(epoch, views)}"


def _in_turn(epoch: int, views: int) -> int:
    return epoch % views if views else epoch


def recipe_names() -> list[str]:
    """Return the names of all recipe files, sorted."""
    return sorted(path.stem for path in RECIPES_DIR.glob("*.toml"))


def load_recipe(text: str) -> Recipe:
    """Read the recipe of a run's name, such as lite0, lite0@3 or lite0~size=160#1; see run_name.py.

    `<features>.<classifier>` has no file: it is that classifier on features/<features>.npy. Raises `InputError` for
    unknown keys, wrong types, settings that contradict each other, and a variant whose setting is the recipe's own.
    """
    names = recipe_names()
    name = RunName(text) if text in names else parse_run_name(text)
    if name == RunName(name.stem, seed=name.seed) and (recipe := _on_embeddings(name)):
        return recipe
    if name.stem in names and (name.stem == "blend" or re.search("[~@#+]", name.stem)):
        raise InputError(
            f"{RECIPES_DIR / name.stem}.toml: the report calls the blend so, and ~, @, # and + mark variants, epochs, "
            "seeds and runs on other labels; give it another name"
        )
    if name.suffixes or name.stem not in names:
        unknown = text if name.suffixes else name.stem
        raise InputError(f"there is no recipe '{unknown}'{did_you_mean(unknown, names)}; there are: {', '.join(names)}")
    path = RECIPES_DIR / f"{name.stem}.toml"
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not valid TOML: {error}") from error
    recipe = parse_recipe(name.stem, settings, path.name)
    recipe = _change_settings(recipe, name, settings) if name.changes else recipe
    return replace(recipe, name=text, about=recipe.about + _describe_seed(name))


def _describe_seed(name: RunName) -> str:
    return "" if name.seed is None else f"; seed {name.seed}"


def _on_embeddings(name: RunName) -> Recipe | None:
    """Return the recipe of a classifier on the features of another program, None if `name` is none."""
    features, _, classifier = name.stem.rpartition(".")
    if not (re.fullmatch(EMBEDDINGS_NAME, features) and classifier in CLASSIFIERS):
        return None
    about = f"{classifier} on features/{features}.npy" + _describe_seed(name)
    return Recipe(str(name), about, _EMBEDDINGS + features, classifier=classifier, tta="none")


def _change_settings(own: Recipe, name: RunName, settings: dict) -> Recipe:
    """Return the recipe `own`, whose file has these `settings`, with the changes in `name`."""
    changes, about = name.changes, own.about
    if "about" in changes:
        raise InputError(f"recipe '{name}': about describes a recipe, and makes no other one; edit {own.name}.toml")
    source = f"'{name}', {own.name}.toml with {', '.join(f'{key} = {value}' for key, value in changes.items())},"
    recipe = parse_recipe(str(name), {**settings, **changes}, source)
    for key in changes:
        value, before = getattr(recipe, key), getattr(own, key)
        if value == before:
            raise InputError(f"recipe '{name}': {key} = {before} is what {own.name} has; leave it out")
        about += f"; {value} epochs instead of {before}" if key == "epochs" else f"; {key} {value} instead of {before}"
    return replace(recipe, about=about)


def load_recipes(text: str, options: Sequence[str] = ()) -> list[Recipe]:
    """Load the recipes of a comma-separated list; one named twice is loaded once.

    options: settings that all of them take, in the words of -o, such as `["size=160,lr=3e-4"]`.
    """
    names = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise InputError(f"'{text}' names no recipe; there are: {', '.join(recipe_names())}")
    return [load_recipe(str(add_settings(parse_run_name(name), options)) if options else name) for name in names]


def parse_recipe(name: str, settings: dict, source: str) -> Recipe:
    """Return the recipe with these settings. Raises one `InputError` that lists all that is wrong in its `source`."""
    types = {field.name: type(field.default) for field in fields(Recipe) if field.name != "name"}
    problems, values = [], {}
    for key, value in settings.items():
        if key not in types:
            problems.append(f"unknown key '{key}'{did_you_mean(key, types)}; known are {', '.join(types)}")
        elif key == "size":
            sides = value if isinstance(value, list | tuple) else [value, value]
            if [type(side) for side in sides] == [int, int]:
                values[key] = value
            else:
                problems.append(
                    f"size = {value!r} should be a whole number, or height and width: [192, 128], and 192x128 in the "
                    "name of a variant"
                )
        elif type(value) is not types[key] and (type(value), types[key]) != (int, float):
            problems.append(f"{key} = {value!r} should be of type {types[key].__name__}")
        else:
            values[key] = types[key](value)
    if not problems:
        recipe = Recipe(name, **values)
        problems = find_problems(recipe, settings)
    if problems:
        raise InputError.of(f"{source} is not a recipe:", problems)
    return recipe
