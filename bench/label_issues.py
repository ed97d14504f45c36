"""Compare our list of label issues with planted errors, with ranking by loss, and with cleanlab's filters.

    python bench/label_issues.py --competition DIR [--rate 0.03] [--seeds 5]   DIR holds train.csv and train/
    python bench/label_issues.py --oof OOF_CSV TRAIN_CSV                      the out-of-fold probabilities of a run

Measured with our own confident learning; since then the list itself comes from cleanlab.
The labels of random rows (by seed) are flipped. With --competition the features of lite0 with its ImageNet weights as
they are, and a logistic regression cross-fitted over 5 folds of the flipped labels, give the probabilities. With --oof
they are those of the run, whose models did not train on the flipped labels: that is easier than real errors. Errors
that were there before count as false alarms, so precision is a lower bound.

2,000 faces, a model of accuracy 0.839, 3 % (60 labels) planted, 10 seeds: mean (sd). `loss` is cut where our list ends.
                                   recall at n  precision at n          length          recall       precision
    ours                         0.447 (0.046)   0.447 (0.046)        201 (10)   0.723 (0.049)   0.216 (0.012)
    loss                         0.447 (0.046)   0.447 (0.046)        201 (10)   0.735 (0.043)   0.219 (0.012)
    cleanlab prune_by_noise_rate 0.447 (0.046)   0.447 (0.046)        201 (10)   0.723 (0.049)   0.216 (0.012)
    cleanlab confident_learning  0.447 (0.046)   0.447 (0.046)         136 (7)   0.652 (0.054)   0.288 (0.019)
    cleanlab, rank adjusted      0.442 (0.042)   0.442 (0.042)        201 (10)   0.723 (0.049)   0.216 (0.012)
Our list is cleanlab's default one, row for row and in its order (Spearman with self-confidence 1.0000). Where its other
filters differ it is in the length; with the ranks adjusted by class Spearman is 0.999. Two classes rank alike by loss,
self-confidence and margin, so ranking by loss is as good: confident learning says where to stop, and with a model that
is wrong on 16 % of the rows it says so too late (201 where 60 were planted: the model's own errors look the same).

Points of accuracy by the labels before planting, over learning from the planted ones: the planted rows themselves
dropped +0.30 (0.25), flipped +0.24 (0.32); as many suspects dropped +0.13 (0.37), flipped +0.20 (0.41); all suspects
dropped +0.15 (0.61), flipped +0.28 (0.57). That is a logistic regression on frozen features; a net that can learn
labels by heart may gain more.
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
from cleanlab.rank import get_label_quality_scores
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from facefold.data.corrections import DROPPED, Corrections  # noqa: E402
from facefold.data.images import decode_image  # noqa: E402
from facefold.ensemble import label_issues  # noqa: E402
from facefold.ensemble.metrics import decide, row_losses  # noqa: E402
from facefold.models.build import build_model  # noqa: E402
from facefold.models.recipe import load_recipe  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--competition", type=Path, metavar="DIR")
    source.add_argument("--oof", nargs=2, metavar=("OOF_CSV", "TRAIN_CSV"))
    parser.add_argument("--rate", type=float, default=0.03, help="share of the labels to flip (default: 0.03)")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    if args.oof:
        text = {"id": str}
        table = pd.read_csv(args.oof[0], dtype=text).merge(
            pd.read_csv(args.oof[1], dtype=text), on="id", validate="one_to_one"
        )
        predict = partial(as_they_are, table["prob"].to_numpy())
    else:
        table = pd.read_csv(args.competition / "train.csv", dtype={"id": str})
        x = features(args.competition, table["id"])
        predict = partial(cross_fitted, x)
    labels = table["label"].to_numpy()
    prob = predict(labels, 0)
    print(f"without planted errors: accuracy {(decide(prob) == labels).mean():.4f}")
    compare(prob, labels)
    print("with them, seed 0:")
    scores = pd.concat([score_lists(predict, labels, args.rate, seed) for seed in range(args.seeds)])
    print(
        f"{args.rate:.1%} planted, {args.seeds} seeds: mean (sd)\n{'':30}"
        + "".join(f"{name:>16}" for name in scores.columns[1:])
    )
    for name, part in scores.groupby("list", sort=False):
        cells = (
            f"{part[column].mean():.{digits}f} ({part[column].std():.{digits}f})"
            for column, digits in zip(part.columns[1:], (3, 3, 0, 3, 3))
        )
        print(f"{name:30}" + "".join(f"{cell:>16}" for cell in cells))
    if args.competition:
        gains = 100 * pd.DataFrame([measure_gains(x, labels, args.rate, seed) for seed in range(args.seeds)])
        print("points of accuracy against the labels before planting, over learning from the planted ones:")
        for name in gains:
            print(f"  {name:28}{gains[name].mean():+.2f} ({gains[name].std():.2f})")


def plant_errors(true: np.ndarray, rate: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Flip a share `rate` of the labels; return the flipped rows and all labels."""
    wrong = np.random.default_rng(seed).choice(len(true), round(rate * len(true)), replace=False)
    labels = true.copy()
    labels[wrong] = 1 - labels[wrong]
    return wrong, labels


def measure_gains(x: np.ndarray, true: np.ndarray, rate: float, seed: int) -> dict[str, float]:
    """Return the gains on held-out rows, by their labels before planting, of dropping or flipping suspects."""
    wrong, labels = plant_errors(true, rate, seed)
    prob = cross_fitted(x, labels, seed)
    suspects, ids = ours(prob, labels), [str(row) for row in range(len(labels))]
    gains = {}
    for name, rows in {
        "the planted ones": wrong,
        "as many suspects": suspects[: len(wrong)],
        "all suspects": suspects,
    }.items():
        for action in ("drop", "flip"):
            learned = Corrections({str(row): action for row in rows}).labels(ids, labels)
            right = (cross_fitted(x, labels, seed, learned) >= 0.5) == true
            gains[f"{action} {name}"] = right.mean() - ((prob >= 0.5) == true).mean()
    return gains


def score_lists(
    predict: Callable[[np.ndarray, int], np.ndarray], true: np.ndarray, rate: float, seed: int
) -> pd.DataFrame:
    """Return each list's recall and precision, cut at the number of planted errors and whole, and its length."""
    wrong, labels = plant_errors(true, rate, seed)
    prob = predict(labels, seed)
    if seed == 0:
        compare(prob, labels)
    rows = []
    for name, (order, end) in lists(prob, labels).items():
        hits = np.isin(order, wrong)
        first, whole = hits[: min(len(wrong), end)], hits[:end]
        rows.append((name, first.sum() / len(wrong), first.mean(), end, whole.sum() / len(wrong), whole.mean()))
    return pd.DataFrame(rows, columns=["list", "recall at n", "precision at n", "length", "recall", "precision"])


def lists(prob: np.ndarray, labels: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """Return each list as the order of rows, and its length; ranking by loss has no end and takes the length of
    ours.
    """
    own = ours(prob, labels)
    by_loss = np.argsort(-row_losses(prob, labels), kind="stable")
    both = np.column_stack([1 - prob, prob])
    orders = {"ours": (own, len(own)), "loss": (by_loss, len(own))}
    for kind in ("prune_by_noise_rate", "prune_by_class", "confident_learning", "low_self_confidence"):
        order = find_label_issues(labels, both, return_indices_ranked_by="self_confidence", filter_by=kind, n_jobs=1)
        orders[f"cleanlab {kind}"] = (order, len(order))
    adjusted = find_label_issues(
        labels, both, return_indices_ranked_by="normalized_margin", n_jobs=1, rank_by_kwargs={"adjust_pred_probs": True}
    )
    orders["cleanlab, rank adjusted"] = (adjusted, len(adjusted))
    return orders


def ours(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    ids = [f"{row:06d}" for row in range(len(prob))]
    table = label_issues.find_label_issues(pd.DataFrame({"id": ids, "label": labels, "group": ids, "prob": prob}))
    return table["id"].astype(int).to_numpy()


def compare(prob: np.ndarray, labels: np.ndarray) -> None:
    """Print the overlap of our list with cleanlab's, and of the two rankings of all rows."""
    both = np.column_stack([1 - prob, prob])
    own, cleanlabs = ours(prob, labels), lists(prob, labels)["cleanlab prune_by_noise_rate"][0]
    scores = get_label_quality_scores(labels, both, method="self_confidence")
    adjusted = get_label_quality_scores(labels, both, method="normalized_margin", adjust_pred_probs=True)
    confidence = -row_losses(prob, labels)
    same = "" if np.array_equal(own, cleanlabs) else "not "
    print(f"  {len(labels)} rows: ours lists {len(own)}, cleanlab {len(cleanlabs)}, {same}in the same order")
    for top in (50, 200, max(len(own), len(cleanlabs))):
        a, b = set(own[:top]), set(cleanlabs[:top])
        print(f"  top {top}: {len(a & b)} in both, {len(a - b)} ours alone, {len(b - a)} cleanlab's alone")
    print(
        f"  Spearman of all rows with self-confidence {spearmanr(confidence, scores)[0]:.4f}, "
        f"with the margin adjusted by class {spearmanr(confidence, adjusted)[0]:.4f}"
    )


def cross_fitted(x: np.ndarray, labels: np.ndarray, seed: int, learned: np.ndarray | None = None) -> np.ndarray:
    """Return probabilities (n,) of held-out rows; `learned` (n,): labels to learn from instead, without DROPPED
    rows.
    """
    learned, prob = labels if learned is None else learned, np.empty(len(labels))
    for train, held in StratifiedKFold(5, shuffle=True, random_state=seed).split(x, labels):
        train = train[learned[train] != DROPPED]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000)).fit(x[train], learned[train])
        prob[held] = model.predict_proba(x[held])[:, 1]
    return prob


def as_they_are(prob: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    return prob


def features(folder: Path, ids: pd.Series) -> np.ndarray:
    """Compute lite0's pooled features with its ImageNet weights, float32 (n, 1280)."""
    torch.set_num_threads(1)
    recipe = load_recipe("lite0")
    net = build_model(recipe)[0].set_memory_format(channels_last=True).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(ids), 64):
            pixels = [decode_image(folder / "train" / f"{id}.jpg", recipe.size) for id in ids[start : start + 64]]
            parts.append(net(torch.from_numpy(np.stack(pixels)))[1].numpy())
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
