"""Compare a frozen backbone whose features are computed once with one that runs in every fold and epoch.

    python bench/frozen.py --root DIR [--recipes lite0,mobilenetv2] [--rows 300] [--folds 5] [--epochs 10]
                           [--views 0] [--repeats 2]

Both ways train the same head (dropout 0.2, one output, on the averaged map) under the same backbone on rows of DIR's
train.csv, with the project's training loop; the naive one runs the frozen layers again for every image. They take
turns in one process and one thread. Printed are the CPU seconds of all folds together, with the features computed once,
and the ratio with its least and most: of all, and without building the networks, which both ways do once per fold and
which few rows make look large. Without views (no augmentation) both train on the same
pictures in the same order, so that their OOF accuracies differ by rounding alone (float16 on disk, half precision where
recipes allow it); with views, by these taking turns as well. --part stages: only the first stages are frozen, as in the
recipe named.
"""

import argparse
import dataclasses
import io
import sys
import tempfile
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch  # noqa: E402
from sklearn.model_selection import StratifiedKFold  # noqa: E402

from facefold.data.audit import check_images  # noqa: E402
from facefold.data.cache import ImageCache, open_cache  # noqa: E402
from facefold.data.competition import load_competition  # noqa: E402
from facefold.data.preprocessing import Preprocessing  # noqa: E402
from facefold.models.recipe import Recipe, load_recipes  # noqa: E402
from facefold.training import fold as fold_module  # noqa: E402
from facefold.utils.processes import set_environment  # noqa: E402

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a folder with competition/, audited")
    parser.add_argument("--recipes", default="lite0,mobilenetv2", help="whose backbones and weights")
    parser.add_argument("--part", choices=("backbone", "stages"), default="backbone")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--views", type=int, default=0, help="augmented views that the epochs take in turn; 0: none")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    competition = load_competition(args.root)
    check_images(competition)
    images = open_cache(competition, "train", Preprocessing(args.size))
    table = competition.train.iloc[: args.rows]
    images = ImageCache(images.ids[: args.rows], np.array(images.pixels[: args.rows]))
    print(
        f"{args.rows} rows, {args.size} pixels, {args.folds} folds, {args.epochs} epochs, {args.views} views, torch "
        f"{torch.__version__}"
    )
    for recipe in load_recipes(args.recipes):
        head = {"freeze_backbone": True, "freeze_stages": 0, "head": "average", "frozen_precision": "half"}
        head = head if args.part == "backbone" else {}
        benched = dataclasses.replace(
            recipe,
            size=args.size,
            epochs=args.epochs,
            views=args.views,
            ema=0.0,
            tta="none",
            start_size=0,
            augment=recipe.augment if args.views else "none",
            **head,
        )
        results: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
        for repeat in range(args.repeats):
            for cached in (False, True) if repeat % 2 else (True, False):
                results[cached].append(train_folds(benched, table, images, args.folds, cached))
                spent, building, accuracy = results[cached][-1]
                print(
                    f"  {benched.name} {'computed once' if cached else 'every epoch'}: {spent:.1f} CPU s, "
                    f"{building:.1f} of them building, OOF accuracy {accuracy:.4f}",
                    flush=True,
                )
        once, naive = (np.array(results[cached]) for cached in (True, False))
        print(
            f"{benched.name}: {ratio(naive[:, 0], once[:, 0])} fewer CPU seconds, "
            f"{ratio(naive[:, 0] - naive[:, 1], once[:, 0] - once[:, 1])} without building, n = {args.repeats}; "
            f"accuracy {once[0, 2]:.4f} instead of {naive[0, 2]:.4f}"
        )


def ratio(naive: np.ndarray, once: np.ndarray) -> str:
    """Return `12.0 times (11.5 to 12.5)`: the median of paired ratios, least and most."""
    ratios = naive / once
    return f"{np.median(ratios):.1f} times ({ratios.min():.1f} to {ratios.max():.1f})"


def train_folds(
    recipe: Recipe, table: pd.DataFrame, images: ImageCache, k: int, cached: bool
) -> tuple[float, float, float]:
    """CPU seconds of training all folds, what is computed once for them included; those of them that built the
    networks; OOF accuracy.
    """
    right, building, started, prepare = 0.0, 0.0, time.process_time(), fold_module.prepare_model

    def timed(*given: object, **named: object) -> tuple:
        nonlocal building
        begun = time.process_time()
        made = prepare(*given, **named)
        building += time.process_time() - begun
        return made

    uncached = nullcontext() if cached else mock.patch.object(Recipe, "caches_stages", lambda *_: False)
    with (
        tempfile.TemporaryDirectory() as place,
        uncached,
        mock.patch.object(fold_module, "prepare_model", timed),
        redirect_stdout(io.StringIO()),
    ):
        for fold, (train, valid) in enumerate(
            StratifiedKFold(k, shuffle=True, random_state=0).split(table["id"], table["label"])
        ):
            rows = table.assign(group=table["id"])
            task = fold_module.FoldTask(
                recipe,
                fold,
                0,
                rows.iloc[train],
                rows.iloc[valid],
                images,
                images,
                Path(place) / f"{fold}.pt",
                {"images_hash": "0"},
                Path(place) / "frozen",
            )
            trained = fold_module.train_fold(task, CPU)
            right += trained.history[-1]["valid_acc"] * len(valid)
    return time.process_time() - started, building, right / len(table)


if __name__ == "__main__":
    set_environment()
    main()
