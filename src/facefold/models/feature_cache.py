"""What the frozen part of a network makes of each image, computed once for all folds and epochs.

    cache/frozen/<run>/<key>/<split>_<view>.npy   float16 (n, h, w, C), row order that of the split's csv

A view is `plain`, `mirror` or an augmentation `epoch_<e>`; h and w are 1 where the frozen part ends in a pooling. As the
augmentation of row i in epoch e depends on (seed, e, id) alone, all folds share it. The key is the hash of whatever decides a
value, so activations of other settings, images or weights are never met; they are removed when the run's current ones are made.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import albumentations
import cv2
import numpy as np
import timm
import torch
from torch import nn

from facefold.augment.policies import policy_settings
from facefold.data.cache import ImageCache
from facefold.models.inference import fuse_frozen_stages
from facefold.models.precision import Precision
from facefold.models.recipe import Recipe
from facefold.utils.errors import InputError
from facefold.utils.files import (
    atomic_path,
    is_intact,
    lock_directory,
    npy_header,
    require_disk_space,
    sha256_text,
    write_checksum,
)
from facefold.utils.npy import NpyRows

CHUNK = 64  # rows computed together: always the same ones, since a convolution's last bits depend on its batch
Change = Callable[[int, np.ndarray], torch.Tensor]


def feature_dir(
    run: Path,
    recipe: Recipe,
    seed: int,
    images_hash: str,
    source: dict,
    fmt: Precision,
    device: torch.device,
    half: Precision | None = None,
) -> Path:
    """Where the activations lie, in the folder `run`. `source` is where the weights came from, as `zoo.build` says; `half` the
    format they are computed in, None for float32."""
    sizes = [recipe.size_in(epoch) for epoch in range(recipe.epochs)]
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
        fmt.channels_last,
        device.type,
        [module.__version__ for module in (torch, timm, albumentations, cv2)],
    ]
    if recipe.freeze_backbone:
        settings += [recipe.head]
    if half:
        settings += [half.name]
    return run / sha256_text(json.dumps(settings, sort_keys=True))[:16]


@dataclass(frozen=True)
class FeatureCache:
    """The views of one split. `augmented(epoch, rows)` gives changed pixels uint8 (N, size, size, 3), None where the recipe changes
    none; views: as in the recipe; half: the format to compute them in where it agrees with float32."""

    folder: Path
    split: str
    images: ImageCache
    trunk: nn.Module
    device: torch.device
    augmented: Change | None
    views: int = 0
    half: Precision | None = None

    def epoch(self, epoch: int) -> NpyRows:
        """The augmented view of that epoch, as `view`; with `views` of them the epochs take turns."""
        return self.view(_epoch_view(epoch, self.views) if self.augmented else "plain")

    def view(self, name: str) -> NpyRows:
        """float16 (n, h, w, C), read by the rows asked for; computed now where it is missing, or waited for where another process is at it."""
        path = self.folder / f"{self.split}_{name}.npy"
        if not path.exists():
            self.make(name)
        return NpyRows([path])

    def make(self, name: str) -> None:
        """Compute the view unless it is there whole: what a killed job left is trusted by its checksum only."""
        path = self.folder / f"{self.split}_{name}.npy"
        with lock_directory(path.with_suffix(".lock"), wait=True):
            if not is_intact(path):
                self._make(name, path)

    def _make(self, name: str, path: Path) -> None:
        for old in self.folder.parent.glob("*"):
            if old != self.folder:
                shutil.rmtree(old, ignore_errors=True)
        rows = np.arange(len(self.images.ids))
        trunk = fuse_frozen_stages(self.trunk, self._pixels("plain", rows[:CHUNK]), self.half)
        with atomic_path(path) as temporary, open(temporary, "wb") as out, torch.inference_mode():
            for start in range(0, len(rows), CHUNK):
                part = trunk(self._pixels(name, rows[start : start + CHUNK])).permute(0, 2, 3, 1).half().cpu().numpy()
                if not np.isfinite(part).all():
                    raise InputError(
                        f"what the frozen part of {self.folder.parent.name} makes of the images does not fit float16; "
                        "freeze less in the recipe"
                    )
                if start == 0:
                    require_disk_space(path.parent, len(rows) * part[0].nbytes, f"the view {name} of the frozen stages")
                    npy_header(out, part.dtype, (len(rows), *part.shape[1:]))
                out.write(np.ascontiguousarray(part).tobytes())
            out.flush()
            write_checksum(path, temporary)

    def _pixels(self, name: str, rows: np.ndarray) -> torch.Tensor:
        if name.startswith("epoch_"):
            return self.augmented(int(name.removeprefix("epoch_")), rows).to(self.device)
        pixels = torch.from_numpy(self.images.pixels[rows]).to(self.device)
        return pixels.flip(2) if name == "mirror" else pixels


def view_names(recipe: Recipe) -> list[tuple[str, str]]:
    """(split, view) of all that the folds of this recipe read, each once."""
    shown = ["plain"] + (["mirror"] if recipe.tta == "flip" else [])
    epochs = dict.fromkeys(_epoch_view(epoch, recipe.views) for epoch in range(recipe.epochs) if recipe.changes_images)
    return [("train", view) for view in epochs] + [(split, view) for split in ("train", "test") for view in shown]


def _epoch_view(epoch: int, views: int) -> str:
    return f"epoch_{epoch % views if views else epoch}"
