"""The values that the settings of a recipe may have, and which of them go together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from facefold.augment.policies import POLICIES
from facefold.data.preprocessing import Shape

if TYPE_CHECKING:
    from facefold.models.recipe import Recipe

OWN_BACKBONES = ("cnn3", "cnn5")  # see cnn.py; all others are timm's
TTA_VIEWS = {
    "flip": ("plain", "mirror"),
    "none": ("plain",),
    "flip_zoom": ("plain", "mirror", "zoom", "zoom_mirror"),
    "choose": ("plain", "mirror", "zoom", "zoom_mirror"),
}
CLASSIFIERS = ("logistic", "svm", "network", "boosting")  # of scikit-learn, see models/classifiers.py
_CHOICES = {
    "augment": tuple(sorted(POLICIES)),
    "augmenter": ("albumentations", "batch"),
    "shuffle": ("auto", "rows", "blocks"),
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "plateau", "constant"),
    "stop_on": ("loss", "accuracy"),
    "frozen_precision": ("float32", "half"),
    "classifier": ("", *CLASSIFIERS),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "layout": ("auto", "channels_last", "channels_first"),
    "tta": tuple(TTA_VIEWS),
}
# What a classifier, which is fitted without gradients, does not read.
_GRADIENT_SETTINGS = (
    *(
        "start_size",
        "views",
        "dropout",
        "drop_path",
        "augment",
        "augmenter",
        "mixup",
        "cutmix",
        "shuffle",
        "batch",
        "epochs",
        "optimizer",
    ),
    *("lr", "layer_decay", "head_lr", "weight_decay", "momentum", "schedule", "warmup", "plateau_factor"),
    *("plateau_patience", "early_stopping", "stop_on", "monitor", "label_smoothing", "clip", "ema", "soup", "compile"),
    "grad_checkpointing",
)
_POSITIVE = ("size", "batch", "epochs", "lr", "layer_decay", "head_lr", "width")
_BELOW_ONE = ("dropout", "drop_path", "momentum", "label_smoothing", "ema", "monitor", "plateau_factor")


def find_problems(recipe: Recipe, settings: dict) -> list[str]:
    """Return all that is wrong with the settings of a recipe; settings: those that its file has."""
    return [
        *_invalid_settings(recipe),
        *_invalid_lists(recipe),
        *_misplaced_settings(recipe, settings),
        *(message for broken, message in _network_conflicts(recipe) if broken),
        *(message for broken, message in _image_conflicts(recipe) if broken),
        *(message for broken, message in _training_conflicts(recipe) if broken),
    ]


def split_list(text: str) -> list[str]:
    """Return the parts of a setting that names several."""
    return [part.strip() for part in text.split(",")]


def _invalid_settings(recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong with single settings."""
    for key, value in asdict(recipe).items():
        least = min(value) if isinstance(value, Shape) else value
        if value not in _CHOICES.get(key, (value,)):
            yield f"{key} = {value!r} is none of {', '.join(filter(None, _CHOICES[key]))}"
        elif key in _POSITIVE and not 0 < least < math.inf:
            yield f"{key} = {value} should be above 0"
        elif key == "crop" and not 0 < value <= 1:
            yield f"crop = {value} should be in 0 < crop <= 1"
        elif key in _BELOW_ONE and not 0 <= value < 1:
            yield f"{key} = {value} should be in 0 <= {key} < 1"
        elif not isinstance(value, str) and not 0 <= least < math.inf:
            yield f"{key} = {value} should not be negative"


def _invalid_lists(recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong with settings of several parts."""
    for scale in split_list(recipe.feature_scale) if recipe.feature_scale else []:
        if not re.fullmatch(r"\d+(\.\d+)?", scale) or not float(scale):
            yield f"feature_scale = {scale!r} is no number above 0"
    for weights in split_list(recipe.weights):
        if weights not in ("none", "hub") and not weights.startswith("package:"):
            yield f"weights = {weights!r} is none of none, hub, package:<name>"
    if recipe.head:
        from facefold.models.heads import parse_head  # with torch, which the steps need later if at all

        try:
            parse_head(recipe.head)
        except ValueError as error:
            yield str(error)


def _misplaced_settings(recipe: Recipe, settings: dict) -> Iterator[str]:
    """Yield settings that would silently do nothing, as what they belong to is not used.

    One that is written out is refused even if it has its default value, except the values that switch it off.
    """
    off = {"views": 0, "monitor": 0, "frozen_precision": "float32", "feature_scale": ""}
    plateau = recipe.schedule == "plateau"
    monitored = plateau or recipe.early_stopping or recipe.soup or recipe.tta == "choose"
    for key, applies, owner in (
        ("width", recipe.backbone in OWN_BACKBONES, "cnn3 and cnn5"),
        ("frozen_precision", recipe.has_frozen_stages, "freeze_stages or freeze_backbone"),
        ("views", recipe.has_frozen_stages, "freeze_stages or freeze_backbone"),
        (
            "feature_scale",
            "," in recipe.backbone and recipe.classifier != "boosting",
            "several backbones under an svm, a logistic regression or a network",
        ),
        ("stop_on", recipe.early_stopping > 0, "early_stopping"),
        ("momentum", recipe.optimizer == "sgd", 'optimizer = "sgd"'),
        ("plateau_factor", plateau, 'schedule = "plateau"'),
        ("plateau_patience", plateau, 'schedule = "plateau"'),
        ("monitor", monitored, 'early_stopping, soup, tta = "choose" or schedule = "plateau"'),
    ):
        if not applies and key in settings and settings[key] != off.get(key):
            yield f"{key} belongs to {owner} only"
    for key in _GRADIENT_SETTINGS if recipe.classifier else ():
        if key in settings:
            yield f'{key} belongs to training by gradients, which classifier = "{recipe.classifier}" replaces'


Conflict = tuple[object, str]  # whether it is there (truthy), and what it is


def _network_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """Yield settings of the network that contradict each other."""
    backbones, weights = split_list(recipe.backbone), split_list(recipe.weights)
    scales = split_list(recipe.feature_scale) if recipe.feature_scale else backbones
    own_cnn = any(backbone in OWN_BACKBONES for backbone in backbones)
    frozen = recipe.has_frozen_stages
    yield from (
        (
            own_cnn and (recipe.weights != "none" or recipe.drop_path > 0 or frozen),
            f"{recipe.backbone} has no pretrained weights, no drop_path and no stages to freeze",
        ),
        (own_cnn and recipe.head, f"{recipe.backbone} has a head of its own"),
        (frozen and "none" in weights, "freezing stages that were never trained"),
        (len(backbones) > 1 and not recipe.classifier, "several backbones are for a classifier"),
        (len(weights) != len(backbones), f"backbone names {len(backbones)}, and weights {len(weights)}: one for each"),
        (
            len(scales) != len(backbones),
            f"backbone names {len(backbones)}, and feature_scale {len(scales)}: one for each",
        ),
        (
            recipe.freeze_backbone and recipe.freeze_stages,
            "freeze_backbone freezes all stages: leave freeze_stages out",
        ),
        (
            recipe.classifier and (not recipe.freeze_backbone or recipe.head),
            "classifier reads the features of a frozen backbone: set freeze_backbone = true, and no head",
        ),
        (recipe.freeze_backbone and recipe.drop_path, "drop_path does nothing in a frozen backbone"),
        (recipe.layer_decay > 1, "layer_decay is at most 1: earlier layers learn more slowly"),
        (
            recipe.layer_decay < 1 and (own_cnn or recipe.freeze_backbone),
            "layer_decay is for a backbone of timm that learns",
        ),
        (
            recipe.grad_checkpointing and (own_cnn or frozen) and not recipe.classifier,
            "grad_checkpointing is for a backbone of timm that learns as a whole",
        ),
    )


def _image_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """Yield settings of sizes, augmentation and copies of images that contradict each other."""
    own_cnn = recipe.backbone in OWN_BACKBONES
    frozen, grows, side = recipe.has_frozen_stages, recipe.start_size > 0, min(recipe.shape)
    yield from (
        (grows and "flatten" in recipe.head, "start_size is not for a head that flattens, which has one size"),
        (
            grows and (own_cnn or recipe.start_size >= side),
            "start_size is below size, and not for cnn3 and cnn5, whose dense layer has one size",
        ),
        (
            grows and recipe.start_size < side and (side - recipe.start_size) % 16,
            "size - start_size is no multiple of 16",
        ),
        (
            grows and isinstance(recipe.size, Shape),
            "start_size is for square images: leave it out, or set size to one number",
        ),
        (grows and recipe.epochs == 1, "start_size needs a second epoch to grow in"),
        (grows and recipe.views, "the copies in views have one size: leave start_size or views out"),
        (
            recipe.augmenter == "batch" and recipe.augment in POLICIES and POLICIES[recipe.augment].per_image_only,
            f'augment = "{recipe.augment}" has operations that augmenter = "batch" lacks: use albumentations',
        ),
        (recipe.augmenter == "batch" and recipe.augment == "none", 'augmenter has nothing to do: augment = "none"'),
        (
            frozen and recipe.mixes and not recipe.classifier,
            "mixup and cutmix mix images, and frozen stages' activations are computed once for each image: leave them "
            "out, or freeze nothing",
        ),
        (
            frozen and recipe.views and recipe.augment == "none",
            'views are augmented copies: augment = "none" has none',
        ),
        (0 < recipe.epochs <= recipe.views, "views should be fewer than epochs; 0: a new copy per epoch"),
    )


def _training_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """Yield settings of the optimizer, the schedule, the epochs and the monitor that contradict each other."""
    yield from (
        (
            (recipe.schedule == "plateau" or recipe.early_stopping) and not recipe.monitor,
            "plateau and early_stopping need monitor > 0: the rows they watch",
        ),
        (
            recipe.schedule == "cosine" and recipe.early_stopping,
            "early_stopping would cut a cosine schedule off: use plateau",
        ),
        (
            recipe.batch == 1 and recipe.backbone == "cnn5",
            "batch = 1 leaves the batch norm of cnn5's dense layer nothing to compare an image with: take 2 or more",
        ),
        (recipe.monitor > 0.5, "monitor is above 0.5, and a fold learns from at least as many rows as it monitors"),
        (recipe.optimizer == "sgd" and not recipe.momentum, "sgd here is Nesterov's and needs momentum > 0"),
        (recipe.warmup >= recipe.epochs, "warmup is not shorter than epochs"),
        (
            recipe.tta == "choose" and recipe.classifier,
            'tta = "choose" needs monitor rows, which a classifier has none of: use flip, flip_zoom or none',
        ),
        (
            recipe.tta == "choose" and not recipe.classifier and not recipe.monitor,
            'tta = "choose" needs monitor > 0: the rows that choose the views',
        ),
        (recipe.soup == 1, "soup = 1 averages nothing: set at least 2, or 0 for none"),
        (recipe.soup > recipe.epochs, "soup is at most epochs: it averages the last ones"),
        (
            recipe.soup and recipe.early_stopping,
            "early_stopping keeps the weights of one epoch, soup averages several: leave one of them out",
        ),
    )
