"""Activations of a network's frozen stages for each image, computed once for all folds and epochs.

    cache/frozen/<run>/<key>/<split>_<view>.npy   float16 (n, h, w, C), rows in the order of the split's csv; a run that
                                                  trains on more has the split train_test, train_extra or
                                                  train_test_extra

A view is one of `view_images` or an augmented copy of all images, `epoch_<e>`; h and w are 1 if the frozen stages end
in a pooling. All folds share an augmented copy, because the augmentation of an image in epoch e depends on (seed, e,
id) alone. The key is a hash of whatever decides a value, so activations of other settings, images or weights are never
read; they are removed when the run's current ones are computed.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import albumentations
import cv2
import numpy as np
import timm
import torch

from facefold.augment.policies import policy_settings
from facefold.data.cache import ImageCache
from facefold.models.build import FrozenStages, build_model
from facefold.models.inference import fuse_frozen_stages
from facefold.models.precision import Precision
from facefold.models.recipe import Recipe, epoch_view_name, view_names
from facefold.models.views import view_images
from facefold.utils.errors import InputError
from facefold.utils.files import (
    is_intact,
    lock_directory,
    require_disk_space,
    sha256_text,
    write_npy_blocks,
)
from facefold.utils.npy import NpyRows

CHUNK = 64  # rows per forward pass: always the same ones, since a convolution's last bits depend on its batch


def feature_dir(
    run_dir: Path,
    recipe: Recipe,
    seed: int,
    images_hash: str,
    source: dict,
    precision: Precision,
    device: torch.device,
) -> Path:
    """Return the folder of the activations in `run_dir`.

    Args:
        run_dir: The run's folder under cache/frozen.
        recipe: Its frozen stages, size, crop and augmentation decide the values.
        seed: Of the augmentation.
        images_hash: Of the competition's images, and of the extra rows.
        source: Where the weights come from, as `build_model` returns it.
        precision: The format of the activations, from `frozen_precision`.
        device: Where they are computed.
    """
    sizes = [recipe.shape_in(epoch).height for epoch in range(recipe.epochs)]  # of squares, where they grow
    settings = [
        recipe.backbone,
        recipe.freeze_stages,
        recipe.size,
        sizes if recipe.start_size else 0,
        recipe.augmenter,
        policy_settings(recipe.augment),
        seed,
        images_hash,
        source,
        precision.channels_last,
        device.type,
        [module.__version__ for module in (torch, timm, albumentations, cv2)],
    ]
    if recipe.crop != 1:
        settings.append({"crop": recipe.crop})
    if recipe.freeze_backbone:
        settings.append(recipe.head)
    if precision.dtype is not torch.float32:
        settings.append(precision.name)
    return run_dir / sha256_text(json.dumps(settings, sort_keys=True))[:16]


@dataclass(frozen=True)
class FeatureCache:
    """The activations of one split's images, one file per view.

    precision: from `frozen_precision`. augmented(epoch, rows): augmented images uint8 (N, H, W, 3), None if the
    recipe does not augment. views: number of augmented copies that the epochs take in turn; 0: a new one per epoch.
    """

    folder: Path
    split: str
    images: ImageCache
    frozen_stages: FrozenStages
    device: torch.device
    precision: Precision
    augmented: Callable[[int, np.ndarray], torch.Tensor] | None = None
    views: int = 0

    def epoch_view(self, epoch: int) -> NpyRows:
        """Return the augmented view of that epoch as `view` does."""
        return self.view(epoch_view_name(epoch, self.views) if self.augmented else "plain")

    def view(self, name: str) -> NpyRows:
        """Return a view, float16 (n, h, w, C), that reads the rows it is indexed by.

        A missing view is computed now, or waited for if another process computes it.
        """
        path = self.folder / f"{self.split}_{name}.npy"
        if not path.exists():
            self.compute_view(name)
        return NpyRows([path])

    def compute_view(self, name: str) -> None:
        """Compute a view unless its file is intact, by its checksum: a job may have been killed."""
        path = self.folder / f"{self.split}_{name}.npy"
        with lock_directory(path.with_suffix(".lock"), wait=True):
            if not is_intact(path):
                self._write_view(name, path)

    def _write_view(self, name: str, path: Path) -> None:
        for folder in self.folder.parent.glob("[0-9a-f]" * 16):
            if folder != self.folder:
                shutil.rmtree(folder, ignore_errors=True)
        rows, stages = np.arange(len(self.images.ids)), self._fast_stages

        def compute() -> Iterator[np.ndarray]:
            for start in range(0, len(rows), CHUNK):
                activations = stages(self._load_images(name, rows[start : start + CHUNK]))
                values = activations.permute(0, 2, 3, 1).half().cpu().numpy()
                if not np.isfinite(values).all():
                    raise InputError(
                        f"the activations of the frozen stages of {self.folder.parent.name} do not fit float16; "
                        "freeze less in the recipe"
                    )
                if start == 0:
                    size = len(rows) * values[0].nbytes
                    require_disk_space(path.parent, size, f"the view {name} of the frozen stages")
                yield values

        with torch.inference_mode():
            write_npy_blocks(path, len(rows), compute())

    @cached_property
    def _fast_stages(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The frozen stages as `fuse_frozen_stages` returns them; it compares plain images, whatever the view."""
        images = self._load_images("plain", np.arange(min(CHUNK, len(self.images.ids))))
        return fuse_frozen_stages(self.frozen_stages, images, self.precision)

    def _load_images(self, name: str, rows: np.ndarray) -> torch.Tensor:
        if name.startswith("epoch_"):
            return self.augmented(int(name.removeprefix("epoch_")), rows).to(self.device)
        images = torch.from_numpy(self.images.pixels[rows]).to(self.device)
        return view_images(images, name)


def feature_cache_bytes(recipe: Recipe, train_rows: int, test_rows: int) -> int:
    """Return the bytes of all views of the recipe's frozen stages, from their structure; 0 if nothing is frozen."""
    if not recipe.has_frozen_stages:
        return 0
    stages, total = build_model(recipe, pretrained=False)[0].frozen_stages.eval(), 0
    with torch.inference_mode():
        image_bytes = 2 * stages(torch.zeros(1, *recipe.shape, 3, dtype=torch.uint8)).numel()
    for split, view in view_names(recipe):
        shape = recipe.shape_in(int(view.removeprefix("epoch_"))) if view.startswith("epoch_") else recipe.shape
        rows = train_rows if split == "train" else test_rows
        total += rows * image_bytes * math.prod(shape) // math.prod(recipe.shape)
    return total
