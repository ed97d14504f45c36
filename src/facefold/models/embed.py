"""Compute features of images: by a frozen pretrained backbone, or by a function of another package.

The process that only starts the jobs needs no torch.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facefold.data.cache import open_cache
from facefold.data.competition import SPLITS, Competition, load_competition
from facefold.data.embeddings import compute_blocks, write_embeddings
from facefold.data.image_hashes import load_images_hash
from facefold.models.recipe import Recipe
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file, sha256_text

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class EmbedJob:
    """Compute a part of the features of a recipe with a classifier: the mean over its views.

    Part `part`, from 0, of `parts` computes every `parts`-th block. A job of one part computes whatever is missing and
    writes the files. name: of these, inside `new_embeddings`. weights_dir: see `build_model`.
    """

    root: Path
    name: str
    recipe: Recipe
    weights_dir: Path | None
    part: int = 0
    parts: int = 1

    def __str__(self) -> str:
        return f"features {self.name}"

    def run(self, device: "torch.device", position: int) -> None:
        import torch

        from facefold.models.build import build_model
        from facefold.models.feature_cache import CHUNK
        from facefold.models.inference import fuse_frozen_stages
        from facefold.models.precision import choose_precision, frozen_precision
        from facefold.models.views import view_images

        recipe, competition = self.recipe, load_competition(self.root)
        net, source = build_model(recipe, self.weights_dir)
        precision = choose_precision(recipe, net, device)
        net.to(device).set_memory_format(precision.channels_last)
        pixels = {split: open_cache(competition, split, recipe.preprocessing).pixels for split in SPLITS}
        example = torch.from_numpy(pixels["train"][:CHUNK]).to(device)
        stages = fuse_frozen_stages(net.frozen_stages, example, frozen_precision(recipe, precision, device))

        @torch.inference_mode()
        def compute(split: str, rows: np.ndarray) -> np.ndarray:
            blocks = []
            for start in range(0, len(rows), CHUNK):
                images = torch.from_numpy(pixels[split][rows[start : start + CHUNK]]).to(device)
                views = [stages(view_images(images, view)).flatten(1).float() for view in recipe.tta_views]
                features = sum(views) / len(views)
                blocks.append(features.cpu().numpy())
            return np.concatenate(blocks)

        key = _key(competition, recipe.hash, source, precision.name)
        if self.parts > 1:
            compute_blocks(competition, self.name, key, compute, self.part, self.parts)
        else:
            write_embeddings(competition, self.name, key, compute)


def embed_jobs(whole: EmbedJob, parts: int) -> tuple[list[EmbedJob], dict[EmbedJob, list[EmbedJob]]]:
    """Divide a job of one part; return all jobs in order, and what each waits for."""
    jobs = [replace(whole, part=part, parts=parts) for part in range(parts)] if parts > 1 else []
    return [*jobs, whole], {whole: jobs}


def embed_by_function(competition: Competition, name: str, reference: str) -> None:
    """Write what `package.module:function` returns: (paths of n images) -> float (n, F).

    Raise `InputError` if there is no such function; modules in the current folder are found. Blocks of a job that was
    killed are used unless the module's file was edited since; what it imports is not looked at.
    """
    module, _, attribute = reference.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        imported = importlib.import_module(module)
        function: Callable[[list[Path]], np.ndarray] = getattr(imported, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"--function {reference}: {error}; package.module:function is needed") from error

    def compute(split: str, rows: np.ndarray) -> np.ndarray:
        ids = competition.ids(split)
        return function([competition.image_path(split, ids[row]) for row in rows])

    file = getattr(imported, "__file__", None)  # a namespace package has None
    write_embeddings(competition, name, _key(competition, reference, file and sha256_file(Path(file))), compute)


def _key(competition: Competition, *settings: object) -> str:
    """Return a hash of whatever decides the features, as far as it is known."""
    values = [*settings, load_images_hash(competition.root), competition.ids("train"), competition.ids("test")]
    return sha256_text(json.dumps(values, sort_keys=True))[:16]
