"""What the frozen part of a network makes of each image, computed once for all folds and epochs.

    cache/frozen/<recipe>/<key>/<split>_<view>.npy   float16 (n, h, w, C), row order that of the split's csv

A view is `plain`, `mirror` or an augmentation `epoch_<e>`. As the augmentation of row i in epoch e depends on (seed, e, id) alone, all
folds share it. The key is the hash of whatever decides a value, so activations of another recipe, other images or another form
are never met; they are removed when the recipe's current ones are made.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from facefold import files
from facefold.data.cache import ImageCache
from facefold.errors import InputError
from facefold.models import inference
from facefold.models.precision import Precision
from facefold.models.recipe import Recipe

CHUNK = 64  # rows computed together: always the same ones, since a convolution's last bits depend on its batch
Augmented = Callable[[int, np.ndarray], torch.Tensor]


def folder(cache: Path, recipe: Recipe, seed: int, images_hash: str, source: dict, fmt: Precision, device: torch.device) -> Path:
    """Where the activations lie. `source` is where the weights came from, as `zoo.build` says."""
    sizes = [recipe.size_in(epoch) for epoch in range(recipe.epochs)]
    settings = (recipe.backbone, recipe.freeze_stages, recipe.size, sizes if recipe.start_size else 0, recipe.augment, recipe.augmenter, seed, images_hash, source, fmt.name, device.type,
                torch.__version__)
    return cache / "frozen" / recipe.name / files.sha256_text(json.dumps(settings, sort_keys=True))[:16]


@dataclass(frozen=True)
class Activations:
    """The views of one split. `augmented(epoch, rows)` gives changed pixels uint8 (N, size, size, 3); views: as in the recipe."""

    folder: Path
    split: str
    images: ImageCache
    trunk: nn.Module
    device: torch.device
    augmented: Augmented
    views: int = 0

    def epoch(self, epoch: int) -> np.ndarray:
        """The augmented view of that epoch, as `view`; with `views` of them the epochs take turns."""
        return self.view(_epoch_view(epoch, self.views))

    def view(self, name: str) -> np.ndarray:
        """float16 (n, h, w, C), mapped read-only; computed now where it is missing."""
        path = self.folder / f"{self.split}_{name}.npy"
        if not path.exists():
            self._make(name, path)
        return files.read_npy(path, mmap=True)

    def _make(self, name: str, path: Path) -> None:
        for old in self.folder.parent.glob("*"):
            if old != self.folder:
                shutil.rmtree(old, ignore_errors=True)
        rows, values = np.arange(len(self.images.ids)), None
        trunk = inference.fused_trunk(self.trunk, self._pixels("plain", rows[:CHUNK]))
        with files.locked(path.with_suffix(".lock")), files.replacing(path) as temporary, torch.inference_mode():
            for start in range(0, len(rows), CHUNK):
                part = trunk(self._pixels(name, rows[start:start + CHUNK])).permute(0, 2, 3, 1).half().cpu().numpy()
                if not np.isfinite(part).all():
                    raise InputError(f"the activations of {self.folder.parent.name} at its frozen stages do not fit float16; set freeze_stages "
                                     "lower in the recipe")
                if values is None:
                    values = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=(len(rows), *part.shape[1:]))
                values[start:start + CHUNK] = part
            values.flush()
        path.with_suffix(".lock").rmdir()

    def _pixels(self, name: str, rows: np.ndarray) -> torch.Tensor:
        if name.startswith("epoch_"):
            return self.augmented(int(name.removeprefix("epoch_")), rows).to(self.device)
        pixels = torch.from_numpy(self.images.pixels[rows]).to(self.device)
        return pixels.flip(2) if name == "mirror" else pixels


def names(recipe: Recipe) -> list[tuple[str, str]]:
    """(split, view) of all that a fold of this recipe reads, in the order it does."""
    shown = ["plain"] + (["mirror"] if recipe.tta == "flip" else [])
    epochs = dict.fromkeys(_epoch_view(epoch, recipe.views) for epoch in range(recipe.epochs))
    return [("train", view) for view in epochs] + [(split, view) for split in ("train", "test") for view in shown]


def _epoch_view(epoch: int, views: int) -> str:
    return f"epoch_{epoch % views if views else epoch}"


def discard(cache: Path, recipe: str) -> None:
    """Remove a recipe's activations: several gigabytes that no fold will read again."""
    shutil.rmtree(cache / "frozen" / recipe, ignore_errors=True)
