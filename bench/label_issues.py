"""What the finder of wrong labels finds: against planted errors, against ranking by loss, and against cleanlab.

    python bench/label_issues.py --competition DIR [--rate 0.03] [--seeds 5]   plants errors, needs train.csv and train/ in DIR
    python bench/label_issues.py --oof OOF_CSV TRAIN_CSV                      the labels as they are, compares the lists alone

Needs cleanlab (2.9), which the project itself does not: pip install it elsewhere and put it on PYTHONPATH.
Planted errors: labels drawn with a seed are flipped; features of lite0 with its ImageNet weights as they are and a logistic
regression, cross-fitted over 5 folds of the flipped labels, give the out-of-fold probabilities. Errors that were there before
count as false alarms, so precision is a lower bound.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from facefold.combine.scores import row_losses  # noqa: E402
from facefold.data import images  # noqa: E402
from facefold.models import recipe, zoo  # noqa: E402
from facefold.review import label_issues  # noqa: E402


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
        rows = pd.read_csv(args.oof[0], dtype=text).merge(pd.read_csv(args.oof[1], dtype=text), on="id", validate="one_to_one")
        compare(rows["prob"].to_numpy(), rows["label"].to_numpy())
        return
    table = pd.read_csv(args.competition / "train.csv", dtype={"id": str})
    x, given = features(args.competition, table["id"]), table["label"].to_numpy()
    clean = (cross_fitted(x, given, 0) >= 0.5) == given
    print(f"{len(given)} rows, accuracy without planted errors {clean.mean():.4f}")
    found = pd.concat([planted(x, given, args.rate, seed) for seed in range(args.seeds)])
    print(f"rate {args.rate}, {args.seeds} seeds, mean and sd")
    for name, part in found.groupby("list", sort=False):
        columns = (f"{column} {part[column].mean():.3f} ({part[column].std():.3f})" for column in part.columns[1:])
        print(f"{name:26}" + "  ".join(columns))


def planted(x: np.ndarray, given: np.ndarray, rate: float, seed: int) -> pd.DataFrame:
    """Recall and precision of each list at the number of planted errors, and of the whole list where it has an end."""
    rng = np.random.default_rng(seed)
    wrong = rng.choice(len(given), round(rate * len(given)), replace=False)
    labels = given.copy()
    labels[wrong] = 1 - labels[wrong]
    prob = cross_fitted(x, labels, seed)
    if seed == 0:
        compare(prob, labels)
    rows = []
    for name, (order, end) in lists(prob, labels).items():
        hits = np.isin(order, wrong)
        first, whole = hits[:min(len(wrong), end)], hits[:end]
        rows.append((name, first.sum() / len(wrong), first.mean(), end, whole.sum() / len(wrong), whole.mean()))
    return pd.DataFrame(rows, columns=["list", "recall@n", "precision@n", "length", "recall", "precision"])


def lists(prob: np.ndarray, labels: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """Each list as the order of rows, and where it ends; ranking by loss has no end, it is given the number that ours has."""
    own = ours(prob, labels)
    by_loss = np.argsort(-row_losses(prob, labels), kind="stable")
    both = np.column_stack([1 - prob, prob])
    made = {"ours": (own, len(own)), "loss": (by_loss, len(own))}
    for kind in ("prune_by_noise_rate", "prune_by_class", "confident_learning", "low_self_confidence"):
        order = find_label_issues(labels, both, return_indices_ranked_by="self_confidence", filter_by=kind, n_jobs=1)
        made[f"cleanlab {kind}"] = (order, len(order))
    adjusted = find_label_issues(labels, both, return_indices_ranked_by="normalized_margin", n_jobs=1,
                                 rank_by_kwargs={"adjust_pred_probs": True})
    made["cleanlab adjusted rank"] = (adjusted, len(adjusted))
    return made


def ours(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    ids = [f"{row:06d}" for row in range(len(prob))]
    table = label_issues.find(pd.DataFrame({"id": ids, "label": labels, "group": ids, "prob": prob})).table
    return table["id"].astype(int).to_numpy()


def compare(prob: np.ndarray, labels: np.ndarray) -> None:
    """The overlap of our list with cleanlab's, and of the two rankings of all rows."""
    both = np.column_stack([1 - prob, prob])
    own, cleanlabs = ours(prob, labels), lists(prob, labels)["cleanlab prune_by_noise_rate"][0]
    scores = get_label_quality_scores(labels, both, method="self_confidence")
    adjusted = get_label_quality_scores(labels, both, method="normalized_margin", adjust_pred_probs=True)
    confidence = -row_losses(prob, labels)
    print(f"{len(labels)} rows: ours lists {len(own)}, cleanlab {len(cleanlabs)}")
    for top in (50, 200, max(len(own), len(cleanlabs))):
        a, b = set(own[:top]), set(cleanlabs[:top])
        print(f"  top {top}: {len(a & b)} in both, {len(a - b)} ours alone, {len(b - a)} cleanlab's alone")
    print(f"  Spearman of all rows with self-confidence {spearmanr(confidence, scores)[0]:.4f}, "
          f"with the margin adjusted by class {spearmanr(confidence, adjusted)[0]:.4f}")


def cross_fitted(x: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000))
    return cross_val_predict(model, x, labels, cv=StratifiedKFold(5, shuffle=True, random_state=seed), method="predict_proba")[:, 1]


def features(folder: Path, ids: pd.Series) -> np.ndarray:
    """lite0's pooled features with its ImageNet weights, float32 (n, 1280)."""
    torch.set_num_threads(1)
    made = recipe.load("lite0")
    net = zoo.build(made)[0].lay_out(True).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(ids), 64):
            pixels = [images.decode(folder / "train" / f"{id}.jpg", made.size) for id in ids[start:start + 64]]
            parts.append(net(torch.from_numpy(np.stack(pixels)))[1].numpy())
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
