"""The report's drawings, as SVG bytes that are the same for the same numbers, in the light colours of `palette`.

Transparent, and with no white or black of their own: `html.figure` makes them follow the page into the dark.
"""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from facefold.report.palette import COLOURS, FAINT, INK, PAPER

WIDTH = 4.2  # inches; drawn for a phone's width, so that letters stay readable there
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (8, 2)))
_SETTINGS = {
    "svg.hashsalt": "facefold",
    "svg.fonttype": "path",
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": FAINT,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def intervals(
    names: Sequence[str],
    values: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    xlabel: str,
    reference: float | None = None,
    picked: int | None = None,
) -> bytes:
    """A dot with its interval for each name, from top to bottom; values, low, high are (n,). `reference`: a line to compare with;
    `picked`: the row of a square."""
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _one(0.8 + 0.25 * len(names))
        rows = np.arange(len(names))
        if reference is not None:
            axes.axvline(reference, color=COLOURS[5], linestyle=LINES[1], linewidth=1.2)
        for own, colour, marker in ((rows != picked, COLOURS[0], "o"), (rows == picked, COLOURS[1], "s")):
            if own.any():
                spread = np.maximum([(values - low)[own], (high - values)[own]], 0)
                axes.errorbar(
                    values[own], rows[own], xerr=spread, fmt=marker, color=colour, markersize=4.5, capsize=2.5
                )
        axes.set_yticks(rows, names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(xlabel)
        return _svg(figure)


def learning_curves(
    histories: Sequence[pd.DataFrame], column: str = "valid_acc", ylabel: str = "validation accuracy"
) -> bytes:
    """One recipe, a colour and marker a fold: losses above (train dashed, validation solid), validation accuracy (or `column`) below.

    Each history has the columns epoch (from 0), train_loss, valid_loss, valid_acc.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        losses, accuracy = figure.subplots(2, 1, sharex=True)
        for fold, history in enumerate(histories):
            style = {
                "color": COLOURS[fold % len(COLOURS)],
                "marker": MARKERS[fold % len(MARKERS)],
                "markersize": 3.5,
                "linewidth": 1.2,
            }
            epoch = history["epoch"] + 1
            losses.plot(epoch, history["train_loss"], linestyle=LINES[1], **style)
            losses.plot(epoch, history["valid_loss"], **style)
            accuracy.plot(epoch, history[column], label=f"fold {fold}", **style)
        losses.set_ylabel("loss (train dashed)")
        accuracy.set_ylabel(ylabel)
        accuracy.set_xlabel("epoch")
        accuracy.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        figure.legend(loc="outside upper center", ncols=5, columnspacing=1, handlelength=1.2)
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


def comparison(histories: dict[str, pd.DataFrame]) -> bytes:
    """A colour a backbone: losses above (train dashed, validation solid), validation accuracy below. A PNG, to be shown anywhere.

    Each history has the columns epoch, train_loss, valid_loss, valid_acc.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(1.5 * WIDTH, 6.0), layout="constrained")
        losses, accuracy = figure.subplots(2, 1, sharex=True)
        for number, (name, history) in enumerate(histories.items()):
            style = {
                "color": COLOURS[number % len(COLOURS)],
                "marker": "os^Dv"[number // len(COLOURS) % 5],
                "markersize": 3,
            }
            losses.plot(history["epoch"] + 1, history["train_loss"], linestyle="--", **style)
            losses.plot(history["epoch"] + 1, history["valid_loss"], **style)
            accuracy.plot(history["epoch"] + 1, history["valid_acc"], label=name, **style)
        losses.set_ylabel("loss (train dashed)")
        accuracy.set_ylabel("validation accuracy")
        accuracy.set_xlabel("epoch")
        accuracy.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside upper center", fontsize=8, ncols=3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
        return buffer.getvalue()


def confusion(counts: np.ndarray) -> bytes:
    """The 2 x 2 counts int (label, prediction), with the share of each label's rows."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = [[f"{counts[i, j]:,}\n{100 * shares[i, j]:.1f} %" for j in (0, 1)] for i in (0, 1)]
    return _cells(shares, texts, ["0", "1"], "prediction", "label", 12)


def agreement(names: Sequence[str], mends: np.ndarray) -> bytes:
    """int (m, m): how many rows the recipe of each line has right of those that the recipe of each column has wrong."""
    shares = mends / max(mends.max(), 1)
    texts = [["" if i == j else f"{mends[i, j]:,}" for j in range(len(names))] for i in range(len(names))]
    return _cells(shares, texts, names, "wrong by", "right by", 9.5)


def fold_accuracy(accuracy: pd.DataFrame) -> bytes:
    """Accuracy (k folds as rows, a column a recipe or blend) as a line each; the last column, the blend, is drawn thick."""
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _one(3.2)
        for i, name in enumerate(accuracy.columns):
            last = i == len(accuracy.columns) - 1
            axes.plot(
                accuracy.index,
                accuracy[name],
                marker=MARKERS[i % len(MARKERS)],
                markersize=4.5,
                label=name,
                linewidth=2.6 if last else 1.2,
                color=INK if last else COLOURS[i % len(COLOURS)],
            )
        axes.set_xticks(accuracy.index)
        axes.set_xlabel("fold")
        axes.set_ylabel("accuracy")
        figure.legend(loc="outside upper center", ncols=3, columnspacing=1)
        return _svg(figure)


def roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """ROC curves: name -> (share of label 0 called 1, share of label 1 found), each (n,) from 0 to 1. The first one is drawn
    thick; an inset shows the corner."""
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _one(4.0)
        corner = axes.inset_axes((0.42, 0.14, 0.55, 0.55), facecolor=PAPER)
        for i, (name, (wrongly, found)) in reversed(list(enumerate(curves.items()))):
            style = {
                "color": INK if i == 0 else COLOURS[(i - 1) % len(COLOURS)],
                "linewidth": 2.2 if i == 0 else 1.2,
                "linestyle": LINES[0 if i == 0 else i % len(LINES)],
                "zorder": 3 if i == 0 else 2,
            }
            axes.plot(wrongly, found, label=name, **style)
            corner.plot(wrongly, found, **style)
        axes.plot([0, 1], [0, 1], color=COLOURS[5], linewidth=0.8, linestyle=LINES[2])
        axes.set(
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            xlabel="share of label 0 that is called 1",
            ylabel="share of label 1 that is found",
        )
        corner.set(xlim=(0, 0.2), ylim=(0.8, 1))
        corner.tick_params(labelsize=8)
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], names[::-1], loc="outside upper center", ncols=3, columnspacing=1)
        return _svg(figure)


def reliability(before: pd.DataFrame, after: pd.DataFrame) -> bytes:
    """Two tables mean, share, low, high, a row a bin of probabilities: the share of label 1 against the mean probability."""
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _one(4.0)
        axes.plot([0, 1], [0, 1], color=COLOURS[5], linewidth=0.8, linestyle=LINES[2])
        for i, (name, bins) in enumerate((("as it is", before), ("calibrated on the other folds", after))):
            spread = np.maximum([bins["share"] - bins["low"], bins["high"] - bins["share"]], 0)
            axes.errorbar(
                bins["mean"],
                bins["share"],
                yerr=spread,
                label=name,
                color=COLOURS[i],
                marker=MARKERS[i],
                markersize=4.5,
                capsize=2.5,
                linewidth=1.2,
                linestyle=LINES[i],
            )
        axes.set(
            xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="mean probability of label 1", ylabel="share of label 1"
        )
        figure.legend(loc="outside upper center", ncols=2)
        return _svg(figure)


def probabilities(prob: np.ndarray, labels: np.ndarray, band: tuple[float, float]) -> bytes:
    """Histogram of the probabilities (n,) of the rows of each label (n,), on a logarithmic scale; the doubtful band is shaded."""
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _one(3.4)
        axes.axvspan(*band, color=COLOURS[4], alpha=0.22, linewidth=0, label="doubtful band")
        for label in (0, 1):
            axes.hist(
                prob[labels == label],
                bins=np.linspace(0, 1, 41),
                histtype="step",
                color=COLOURS[label],
                linewidth=1.5,
                linestyle=LINES[label],
                label=f"label {label}",
            )
        axes.set_yscale("log")
        axes.set(xlim=(0, 1), xlabel="probability of label 1", ylabel="rows")
        figure.legend(loc="outside upper center", ncols=3)
        return _svg(figure)


def balance(shares: Mapping[str, tuple[int, int]]) -> bytes:
    """A bar for each name, its rows (of 0, of 1) side by side as shares."""
    with matplotlib.rc_context(
        {**_SETTINGS, "axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}
    ):
        figure, axes = _one(0.7 + 0.5 * len(shares))
        for row, (zeros, ones) in enumerate(shares.values()):
            start, rows = 0.0, max(zeros + ones, 1)
            for label, count in enumerate((zeros, ones)):
                axes.barh(
                    row,
                    count / rows,
                    left=start,
                    height=0.6,
                    color=COLOURS[label],
                    alpha=0.4,
                    linewidth=0,
                    label=f"label {label}" if row == 0 else None,
                )
                axes.text(start + 0.02, row, f"{count:,} ({100 * count / rows:.1f} %)", va="center", fontsize=9)
                start += count / rows
        axes.set_yticks(range(len(shares)), shares)
        axes.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5))
        axes.set_xticks([])
        axes.tick_params(length=0)
        figure.legend(loc="outside upper center", ncols=2)
        return _svg(figure)


def histogram(values: np.ndarray, labels: np.ndarray, edges: np.ndarray, xlabel: str) -> bytes:
    """Numbers (n,) of rows with labels (n,), counted by label in bins between `edges`."""
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _one(3.4)
        for label in (0, 1):
            axes.hist(
                values[labels == label],
                bins=edges,
                histtype="step",
                color=COLOURS[label],
                linewidth=1.5,
                linestyle=LINES[label],
                label=f"label {label}",
            )
        axes.set(xlabel=xlabel, ylabel="rows")
        figure.legend(loc="outside upper center", ncols=2)
        return _svg(figure)


def violins(values: np.ndarray, groups: np.ndarray, names: Sequence[str], ylabel: str) -> bytes:
    """Numbers (n,) as a violin with its box (quartiles, whiskers of 1.5 box lengths) for each of the named groups 0, 1, .. (n,)."""
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _one(3.4)
        for group in range(len(names)):
            own, colour = values[groups == group], COLOURS[group % len(COLOURS)]
            if len(np.unique(own)) > 1:  # a density needs two values
                body = axes.violinplot(own, positions=[group], widths=0.85, showextrema=False)["bodies"][0]
                body.set(facecolor=colour, edgecolor="none", alpha=0.3)
            line = {"color": colour, "linewidth": 1.2}
            axes.boxplot(
                own,
                positions=[group],
                widths=0.2,
                showfliers=False,
                boxprops=line,
                whiskerprops=line,
                capprops=line,
                medianprops={"color": INK, "linewidth": 1.6},
            )
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_ylabel(ylabel)
        return _svg(figure)


def _cells(
    shares: np.ndarray, texts: Sequence[Sequence[str]], names: Sequence[str], xlabel: str, ylabel: str, fontsize: float
) -> bytes:
    """A square of cells, each the deeper in colour the larger its share; empty texts are empty cells."""
    with matplotlib.rc_context({**_SETTINGS, "axes.grid": False}):
        figure, axes = _one(max(3.0, 1.0 + 0.42 * len(names)))
        for row, column in np.ndindex(shares.shape):
            if texts[row][column]:
                axes.add_patch(
                    Rectangle(
                        (column - 0.48, row - 0.48),
                        0.96,
                        0.96,
                        facecolor=COLOURS[0],
                        alpha=0.06 + 0.44 * shares[row, column],
                        linewidth=0,
                    )
                )
                axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=fontsize)
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel=xlabel, ylabel=ylabel)
        slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 6 else {}
        axes.set_xticks(range(len(names)), names, **slanted)
        axes.set_yticks(range(len(names)), names)
        return _svg(figure)


def _one(height: float) -> tuple:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    return buffer.getvalue()
