"""Measure how many planted label errors `find_label_issues` finds, next to loss and to cleanlab's other filters.

    python bench/label_issues.py --competition DIR [--rate 0.03] [--seeds 5]   DIR holds train.csv and train/
    python bench/label_issues.py --oof OOF_CSV TRAIN_CSV                      the out-of-fold probabilities of a run

The labels of rows drawn with a seed are changed. With --competition the features of lite0 with its ImageNet weights as
they are, and a logistic regression cross-fitted over 5 folds of the changed labels, give the probabilities. With --oof
they are those of the run, whose models did not train on the changed labels: that is easier than in practice. Errors
that were there before count as false alarms, so precision is a lower bound.

2,000 faces, a model of accuracy 0.839, 3 % (60 labels) planted, 10 seeds: mean (sd). `loss` is cut where our list ends.
Measured with our own confident learning, whose list was cleanlab's row for row; now it comes from cleanlab.
                                recall at n  precision at n          length          recall       precision
    find_label_issues         0.447 (0.046)   0.447 (0.046)        201 (10)   0.723 (0.049)   0.216 (0.012)
    loss                      0.447 (0.046)   0.447 (0.046)        201 (10)   0.735 (0.043)   0.219 (0.012)
    confident_learning        0.447 (0.046)   0.447 (0.046)         136 (7)   0.652 (0.054)   0.288 (0.019)
    rank adjusted             0.442 (0.042)   0.442 (0.042)        201 (10)   0.723 (0.049)   0.216 (0.012)
cleanlab's other filters differ in the length of the list. Two classes rank the same by loss, self-confidence and
margin, so ranking by loss is as good: confident learning says where to stop, and with a model that is wrong on 16 % of
the rows it says so too late (201 where 60 were planted: the model's own errors look the same).

Points of accuracy against the original labels, over training on the planted ones: the planted rows themselves dropped
+0.30 (0.25), relabelled +0.24 (0.32); as many suspects dropped +0.13 (0.37), relabelled +0.20 (0.41); all suspects
dropped +0.15 (0.61), relabelled +0.28 (0.57). That is a logistic regression on frozen features; a model that can
memorise labels may gain more.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cleanlab.filter import find_label_issues
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from facefold.data.corrections import DROPPED, Corrections  # noqa: E402
from facefold.data.images import decode_image  # noqa: E402
from facefold.ensemble import label_issues  # noqa: E402
from facefold.ensemble.scores import decide, row_losses  # noqa: E402
from facefold.models.build import build_model  # noqa: E402
from facefold.models.recipe import load_recipe  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--competition", type=Path, metavar="DIR")
    source.add_argument("--oof", nargs=2, metavar=("OOF_CSV", "TRAIN_CSV"))
    parser.add_argument("--rate", type=float, default=0.03, help="share of the labels to change (default: 0.03)")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    if args.oof:
        text = {"id": str}
        table = pd.read_csv(args.oof[0], dtype=text).merge(
            pd.read_csv(args.oof[1], dtype=text), on="id", validate="one_to_one"
        )
        predict = partial(saved_predictions, table["prob"].to_numpy())
    else:
        table = pd.read_csv(args.competition / "train.csv", dtype={"id": str})
        x = pooled_features(args.competition, table["id"])
        predict = partial(cross_fitted, x)
    original = table["label"].to_numpy()
    prob = predict(original, 0)
    print(f"without planted errors: accuracy {(decide(prob) == original).mean():.4f}")
    scores = pd.concat([score_lists(predict, original, args.rate, seed) for seed in range(args.seeds)])
    print(
        f"{args.rate:.1%} planted, {args.seeds} seeds: mean (sd)\n{'':30}"
        + "".join(f"{name:>16}" for name in scores.columns[1:])
    )
    for name, part in scores.groupby("list", sort=False):
        cells = (
            f"{part[column].mean():.{digits}f} ({part[column].std():.{digits}f})"
            for column, digits in zip(part.columns[1:], (3, 3, 0, 3, 3), strict=True)
        )
        print(f"{name:30}" + "".join(f"{cell:>16}" for cell in cells))
    if args.competition:
        gains = 100 * pd.DataFrame([correction_gains(x, original, args.rate, seed) for seed in range(args.seeds)])
        print("points of accuracy against the original labels, over training on the planted ones:")
        for name in gains:
            print(f"  {name:28}{gains[name].mean():+.2f} ({gains[name].std():.2f})")


def plant(original: np.ndarray, rate: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows whose label is changed, and the labels after."""
    wrong = np.random.default_rng(seed).choice(len(original), round(rate * len(original)), replace=False)
    labels = original.copy()
    labels[wrong] = 1 - labels[wrong]
    return wrong, labels


def correction_gains(x: np.ndarray, original: np.ndarray, rate: float, seed: int) -> dict[str, float]:
    """Return the gain on held-out rows of dropping or relabelling suspects in training, by the original labels."""
    wrong, labels = plant(original, rate, seed)
    prob = cross_fitted(x, labels, seed)
    suspects, ids = suspicious_rows(prob, labels), [str(row) for row in range(len(labels))]
    gains = {}
    for name, rows in {
        "the planted ones": wrong,
        "as many suspects": suspects[: len(wrong)],
        "all suspects": suspects,
    }.items():
        for action in ("drop", "relabel"):
            learned = Corrections({str(row): action for row in rows}).labels(ids, labels)
            right = (cross_fitted(x, labels, seed, learned) >= 0.5) == original
            gains[f"{action} {name}"] = right.mean() - ((prob >= 0.5) == original).mean()
    return gains


def score_lists(
    predict: Callable[[np.ndarray, int], np.ndarray], original: np.ndarray, rate: float, seed: int
) -> pd.DataFrame:
    """Return recall and precision of each list, cut at the number of planted errors and whole, and its length."""
    wrong, labels = plant(original, rate, seed)
    prob = predict(labels, seed)
    rows = []
    for name, (order, end) in rank_suspects(prob, labels).items():
        hits = np.isin(order, wrong)
        first, whole = hits[: min(len(wrong), end)], hits[:end]
        rows.append((name, first.sum() / len(wrong), first.mean(), end, whole.sum() / len(wrong), whole.mean()))
    return pd.DataFrame(rows, columns=["list", "recall at n", "precision at n", "length", "recall", "precision"])


def rank_suspects(prob: np.ndarray, labels: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """Return each list as an order of rows and its length; ranking by loss has none and takes that of our list."""
    suspects = suspicious_rows(prob, labels)
    by_loss = np.argsort(-row_losses(prob, labels), kind="stable")
    both = np.column_stack([1 - prob, prob])
    orders = {"find_label_issues": (suspects, len(suspects)), "loss": (by_loss, len(suspects))}
    for name in ("prune_by_class", "confident_learning", "low_self_confidence"):
        order = find_label_issues(labels, both, return_indices_ranked_by="self_confidence", filter_by=name, n_jobs=1)
        orders[name] = (order, len(order))
    adjusted = find_label_issues(
        labels, both, return_indices_ranked_by="normalized_margin", n_jobs=1, rank_by_kwargs={"adjust_pred_probs": True}
    )
    orders["rank adjusted"] = (adjusted, len(adjusted))
    return orders


def suspicious_rows(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rows of `label_issues.find_label_issues`, the most suspicious first."""
    ids = [f"{row:06d}" for row in range(len(prob))]
    issues = label_issues.find_label_issues(pd.DataFrame({"id": ids, "label": labels, "group": ids}), prob)
    return issues["id"].astype(int).to_numpy()


def cross_fitted(x: np.ndarray, labels: np.ndarray, seed: int, learned: np.ndarray | None = None) -> np.ndarray:
    """Return out-of-fold probabilities (n,); `learned` (n,): corrected labels to train on, without DROPPED rows."""
    learned, prob = labels if learned is None else learned, np.empty(len(labels))
    for train, held in StratifiedKFold(5, shuffle=True, random_state=seed).split(x, labels):
        train = train[learned[train] != DROPPED]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000)).fit(x[train], learned[train])
        prob[held] = model.predict_proba(x[held])[:, 1]
    return prob


def saved_predictions(prob: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    return prob


def pooled_features(folder: Path, ids: pd.Series) -> np.ndarray:
    """Return lite0's pooled features with its ImageNet weights, float32 (n, 1280)."""
    torch.set_num_threads(1)
    recipe = load_recipe("lite0")
    model = build_model(recipe)[0].set_memory_format(channels_last=True).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(ids), 64):
            paths = [folder / "train" / f"{id}.jpg" for id in ids[start : start + 64]]
            pixels = [decode_image(path, recipe.size, recipe.crop) for path in paths]
            parts.append(model(torch.from_numpy(np.stack(pixels)))[1].numpy())
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
