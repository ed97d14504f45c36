"""Compute features of images: by a frozen pretrained backbone, or by a function of another package."""

import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from facefold.data.audit import load_images_hash
from facefold.data.cache import build_caches, open_cache
from facefold.data.competition import SPLITS, Competition
from facefold.data.embeddings import write_embeddings
from facefold.models.build import build_model
from facefold.models.feature_cache import CHUNK
from facefold.models.inference import fuse_frozen_stages
from facefold.models.precision import choose_precision, frozen_precision
from facefold.models.recipe import Recipe
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_text


def embed_by_backbone(
    competition: Competition, name: str, recipe: Recipe, weights_dir: Path | None, device: torch.device
) -> Path:
    """Write the features of a recipe with a classifier: of the image, or the mean of it and its mirror.

    Args:
        competition: Whose images.
        name: Of the file.
        recipe: Its frozen backbone computes the features.
        weights_dir: See `build_model`.
        device: Where it does.
    """
    net, source = build_model(recipe, weights_dir)
    precision = choose_precision(recipe, net, device)
    net.to(device).set_memory_format(precision.channels_last)
    build_caches(competition, recipe.preprocessing)
    pixels = {split: open_cache(competition, split, recipe.preprocessing).pixels for split in SPLITS}
    example = torch.from_numpy(pixels["train"][np.arange(min(CHUNK, len(pixels["train"])))]).to(device)
    stages = fuse_frozen_stages(net.frozen_stages, example, frozen_precision(recipe, precision, device))

    @torch.inference_mode()
    def compute(split: str, rows: np.ndarray) -> np.ndarray:
        blocks = []
        for start in range(0, len(rows), CHUNK):
            images = torch.from_numpy(pixels[split][rows[start : start + CHUNK]]).to(device)
            views = [images, images.flip(2)] if recipe.tta == "flip" else [images]
            features = sum(stages(view).flatten(1).float() for view in views) / len(views)
            blocks.append(features.cpu().numpy())
        return np.concatenate(blocks)

    settings = {key: value for key, value in asdict(recipe).items() if key not in ("name", "about", "classifier")}
    return write_embeddings(competition, name, _key(competition, settings, source, precision.name), compute)


def embed_by_function(competition: Competition, name: str, reference: str) -> Path:
    """Write what `package.module:function` returns: (paths of n images) -> float (n, F).

    Raise `InputError` if there is no such function; modules in the current folder are found.
    """
    module, _, attribute = reference.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        function: Callable[[list[Path]], np.ndarray] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"--function {reference}: {error}; package.module:function is needed") from error

    def compute(split: str, rows: np.ndarray) -> np.ndarray:
        ids = competition.ids(split)
        return function([competition.image_path(split, ids[row]) for row in rows])

    return write_embeddings(competition, name, _key(competition, reference), compute)


def _key(competition: Competition, *settings: object) -> str:
    """Return a hash of whatever decides the features, as far as it is known."""
    values = [*settings, load_images_hash(competition.root), competition.ids("train"), competition.ids("test")]
    return sha256_text(json.dumps(values, sort_keys=True))[:16]
