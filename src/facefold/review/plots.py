"""The report's drawings, as SVG bytes that are the same for the same numbers. Colours of Okabe and Ito, for every eye."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WIDTH = 4.8  # inches; drawn for a phone's width, so that letters stay readable there
_SETTINGS = {"svg.hashsalt": "facefold", "svg.fonttype": "path", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3,
             "axes.spines.top": False, "axes.spines.right": False, "font.family": "DejaVu Sans"}


def intervals(names: Sequence[str], values: np.ndarray, low: np.ndarray, high: np.ndarray, xlabel: str) -> bytes:
    """A dot with its interval for each name, from top to bottom; values, low, high are (n,)."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.28 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        rows = np.arange(len(names))
        axes.errorbar(values, rows, xerr=[values - low, high - values], fmt="o", color=COLOURS[0], capsize=3)
        axes.set_yticks(rows, names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(xlabel)
        return _svg(figure)


def learning_curves(histories: Sequence[pd.DataFrame], column: str = "valid_acc", ylabel: str = "validation accuracy") -> bytes:
    """One recipe, a colour a fold: losses above (train dashed, validation solid), validation accuracy (or `column`) below.

    Each history has the columns epoch, train_loss, valid_loss, valid_acc.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        losses, accuracy = figure.subplots(2, 1, sharex=True)
        for fold, history in enumerate(histories):
            style = {"color": COLOURS[fold % len(COLOURS)], "marker": "o", "markersize": 3}
            losses.plot(history["epoch"], history["train_loss"], linestyle="--", **style)
            losses.plot(history["epoch"], history["valid_loss"], **style)
            accuracy.plot(history["epoch"], history[column], label=f"fold {fold}", **style)
        losses.set_ylabel("loss (train dashed)")
        accuracy.set_ylabel(ylabel)
        accuracy.set_xlabel("epoch")
        accuracy.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside upper center", fontsize=8, ncols=5)
        return _svg(figure)


def density(values: np.ndarray, pred: np.ndarray, name: str) -> bytes:
    """How many rows have which value and prediction, both (n,), on a logarithmic scale; a line where they are equal."""
    least, most = min(values.min(), pred.min()), max(values.max(), pred.max())
    counts, _, _ = np.histogram2d(pred, values, bins=60, range=[(least, most)] * 2)
    with matplotlib.rc_context({**_SETTINGS, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
        axes = figure.add_subplot()
        shades = np.log1p(np.ma.masked_equal(counts, 0))
        axes.imshow(shades, origin="lower", extent=(least, most, least, most), cmap="Blues", vmin=-1)
        axes.plot([least, most], [least, most], color=COLOURS[1], linewidth=1)
        axes.set_xlabel(f"given {name}")
        axes.set_ylabel(f"predicted {name}")
        return _svg(figure)


def confusion(counts: np.ndarray) -> bytes:
    """The 2 x 2 counts int (label, prediction), with the share of each label's rows."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with matplotlib.rc_context({**_SETTINGS, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(counts.shape):
            axes.text(column, row, f"{counts[row, column]:,}\n{100 * shares[row, column]:.1f} %", ha="center", va="center",
                      fontsize=12, color="white" if shares[row, column] > 0.5 else "black")
        axes.set_xticks([0, 1])
        axes.set_yticks([0, 1])
        axes.set_xlabel("prediction")
        axes.set_ylabel("label")
        return _svg(figure)


def fold_accuracy(accuracy: pd.DataFrame) -> bytes:
    """Accuracy (k folds as rows, a column a recipe or blend) as a line each; the last column, the blend, is drawn thick."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for i, name in enumerate(accuracy.columns):
            last = i == len(accuracy.columns) - 1
            axes.plot(accuracy.index, accuracy[name], marker="o", label=name, linewidth=3 if last else 1.2,
                      color=COLOURS[-1] if last else COLOURS[i % (len(COLOURS) - 1)])
        axes.set_xticks(accuracy.index)
        axes.set_xlabel("fold")
        axes.set_ylabel("accuracy")
        figure.legend(loc="outside upper center", fontsize=8, ncols=4)
        return _svg(figure)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
