"""The drawings of the report, as bytes that are the same for the same numbers, in the light colours of the palette.

Those of pages are SVG, transparent and without a white or black of their own: `html.inline_svg` lets them follow the
page into the dark. A notebook's and compare.py's are PNG.
"""

import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from facefold.report.html import COLOURS, FAINT, INK, PAPER

MAX_SHARES = 5  # classes of a confusion matrix whose cells have room for a share
MAX_NAME = 26  # characters of a name that is drawn
WIDTH = 4.2  # inches: the width of a phone, so that letters stay readable there
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (8, 2)))
_STYLE = {
    "svg.hashsalt": "facefold",
    "svg.fonttype": "none",  # text remains text: a browser has letters that the fonts here lack, such as Chinese ones
    "font.size": 9.5,
    "font.family": "sans-serif",
    "font.sans-serif": "DejaVu Sans",
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
_DIAGONAL = {"color": COLOURS[5], "linewidth": 0.8, "linestyle": LINES[2]}


def _drawing(draw: Callable[..., Figure]) -> Callable[..., bytes]:
    """Decorate `draw`: draw in the report's style, and return the figure as bytes: SVG, or PNG on white paper."""

    @wraps(draw)
    def as_bytes(*args, format: Literal["svg", "png"] = "svg", **kwargs) -> bytes:
        buffer = io.BytesIO()
        settings = {"svg": {"facecolor": "none", "metadata": {"Date": None}}}
        settings["png"] = {"facecolor": PAPER, "dpi": 150, "metadata": {"Software": None}}
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # of the fonts here, not of the browser's
            draw(*args, **kwargs).savefig(buffer, format=format, **settings[format])
        return buffer.getvalue()

    return as_bytes


def _new_figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _literal(text: str) -> str:
    """Return a person's text so that matplotlib draws it as it is: between two dollars it would read mathematics.

    Of a name that would leave no room for the drawing the middle is left out: variants differ at the end.
    """
    if len(text) > MAX_NAME:
        text = f"{text[: MAX_NAME // 2 - 1]}..{text[-(MAX_NAME // 2 - 1) :]}"
    return text.replace("$", r"\$")


@_drawing
def draw_intervals(
    names: Sequence[str],
    table: pd.DataFrame,
    xlabel: str,
    reference: float | None = None,
    picked: int | None = None,
) -> Figure:
    """Draw a dot with its interval for each name, from top to bottom.

    Args:
        names: the names (n,).
        table: n rows; its first three columns are value, low and high.
        xlabel: the unit.
        reference: a value to compare with, a dashed line.
        picked: the row that gets a square.
    """
    figure, axes = _new_figure(0.8 + 0.25 * len(names))
    values, low, high = table.iloc[:, :3].to_numpy(float).T
    rows = np.arange(len(names))
    if reference is not None:
        axes.axvline(reference, color=COLOURS[5], linestyle=LINES[1], linewidth=1.2)
    for own, colour, marker in ((rows != picked, COLOURS[0], "o"), (rows == picked, COLOURS[1], "s")):
        if own.any():
            spread = np.maximum([(values - low)[own], (high - values)[own]], 0)
            axes.errorbar(values[own], rows[own], xerr=spread, fmt=marker, color=colour, markersize=4.5, capsize=2.5)
    axes.set_yticks(rows, [_literal(name) for name in names])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(xlabel=xlabel, ylim=(len(names) - 0.5, -0.5))
    return figure


@_drawing
def draw_learning_curves(
    histories: Mapping[str, pd.DataFrame], column: str = "valid_acc", ylabel: str = "validation accuracy"
) -> Figure:
    """Draw one recipe, a colour and marker per name, which are its folds: losses above (train dashed), `column` below.

    Each history has the columns epoch (from 0), train_loss, valid_loss and `column`.
    """
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    lines = _plot_histories(figure, histories, column, ylabel, markersize=3.5, linewidth=1.2)
    _add_legend(figure, lines, histories, ncols=5, columnspacing=1, handlelength=1.2)
    return figure


@_drawing
def draw_backbones(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the learning curves of backbones, a colour each; histories as in `draw_learning_curves`."""
    figure = Figure(figsize=(1.5 * WIDTH, 6.0), layout="constrained")
    lines = _plot_histories(figure, histories, "valid_acc", "validation accuracy", markersize=3)
    _add_legend(figure, lines, histories, ncols=3, fontsize=8)
    return figure


def _plot_histories(
    figure: Figure, histories: Mapping[str, pd.DataFrame], column: str, ylabel: str, **style
) -> list[Artist]:
    """Plot losses and `column`, and return a line of each name."""
    losses, metric = figure.subplots(2, 1, sharex=True)
    lines = []
    for number, history in enumerate(histories.values()):
        marker = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        line = {"color": COLOURS[number % len(COLOURS)], "marker": marker, **style}
        epoch = history["epoch"] + 1
        losses.plot(epoch, history["train_loss"], linestyle=LINES[1], **line)
        losses.plot(epoch, history["valid_loss"], **line)
        lines += metric.plot(epoch, history[column], **line)
    losses.set_ylabel("loss (train dashed)")
    metric.set(xlabel="epoch", ylabel=ylabel)
    metric.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return lines


@_drawing
def draw_density(values: np.ndarray, pred: np.ndarray, name: str) -> Figure:
    """Draw how many rows have a value and a prediction, both (n,), logarithmically; a line where they are equal."""
    low, high = min(values.min(), pred.min()), max(values.max(), pred.max())
    counts, _, _ = np.histogram2d(pred, values, bins=60, range=[(low, high)] * 2)
    figure, axes = _new_figure(WIDTH)
    axes.grid(False)
    shades = np.log1p(np.ma.masked_equal(counts, 0))
    axes.imshow(shades, origin="lower", extent=(low, high, low, high), cmap="Blues", vmin=-1)
    axes.plot([low, high], [low, high], color=COLOURS[1], linewidth=1)
    axes.set(xlabel=f"actual {_literal(name)}", ylabel=f"predicted {_literal(name)}")
    return figure


@_drawing
def draw_confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw counts int (C, C) by label and prediction, with the share of each label's rows; names: of the classes."""
    shares, classes = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), range(len(names))
    if len(names) <= MAX_SHARES:
        texts = [[f"{counts[i, j]:,}\n{100 * shares[i, j]:.1f} %" for j in classes] for i in classes]
    else:
        texts = [[f"{counts[i, j]:,}" for j in classes] for i in classes]
    names = [_literal(name) for name in names]
    return _draw_cells(shares, texts, names, ("prediction", "label"), 12 if len(names) == 2 else 8)


@_drawing
def draw_agreement(names: Sequence[str], fixes: np.ndarray) -> Figure:
    """Draw int (m, m): the rows that the recipe of each line has right and the recipe of each column wrong.

    Columns have the numbers of the lines: names have no room there.
    """
    shares = fixes / max(fixes.max(), 1)
    texts = [["" if i == j else f"{fixes[i, j]:,}" for j in range(len(names))] for i in range(len(names))]
    size = min(9.5, 60 / len(names))
    lines = [f"{_literal(name)}  {number}" for number, name in enumerate(names, 1)]
    return _draw_cells(shares, texts, lines, ("wrong by", "right by"), size, range(1, len(names) + 1))


def _draw_cells(
    shares: np.ndarray,
    texts: Sequence[Sequence[str]],
    names: Sequence[str],
    labels: tuple[str, str],
    fontsize: float,
    columns: Sequence[object] = (),
) -> Figure:
    """Draw a square of cells, darker for a larger share; a cell without text is left out.

    Args:
        shares: 0 to 1, (m, m).
        texts: Of the cells.
        names: Of the lines.
        labels: Of the axes.
        fontsize: Of the texts, in points.
        columns: What the columns are called, if not like the lines.
    """
    figure, axes = _new_figure(max(3.0, 1.0 + 0.42 * len(names)))
    axes.grid(False)
    for row, column in np.ndindex(shares.shape):
        if texts[row][column]:
            style = {"facecolor": COLOURS[0], "alpha": 0.06 + 0.44 * shares[row, column], "linewidth": 0}
            axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, **style))
            axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=fontsize)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel=labels[0], ylabel=labels[1])
    columns = [str(name) for name in columns or names]
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, columns)) > 6 else {}
    axes.set_xticks(range(len(names)), columns, **slanted)
    axes.set_yticks(range(len(names)), names)
    return figure


def _add_legend(figure: Figure, handles: Sequence[Artist], names: Iterable[str], **style) -> None:
    """Add a legend above a figure. The names are not those of the artists: matplotlib leaves out a label like `_a`."""
    names = [_literal(name) for name in names]
    figure.legend(handles, names, loc="outside upper center", **{"ncols": _legend_columns(names), **style})


def _legend_columns(names: Iterable[str]) -> int:
    """Return how many columns of these names fit above a figure."""
    return max(1, min(3, 54 // max(map(len, names))))


@_drawing
def draw_fold_scores(scores: pd.DataFrame, intervals: Sequence[tuple[float, float]], ylabel: str) -> Figure:
    """Draw a line per column of scores (k folds, recipes); the last column, the blend, is thick with its intervals."""
    figure, axes = _new_figure(3.2)
    *recipes, blend = scores.columns
    lines = []
    for i, name in enumerate(recipes):
        line = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4.5}
        lines += axes.plot(scores.index, scores[name], linewidth=1.2, **line)
    lines += axes.plot(scores.index, scores[blend], color=INK, linewidth=2.6)
    axes.vlines(scores.index, *zip(*intervals, strict=True), color=INK, linewidth=1.2)
    axes.set(xticks=scores.index, xlabel="fold", ylabel=ylabel)
    _add_legend(figure, lines, scores, columnspacing=1)
    return figure


@_drawing
def draw_roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], lead: bool = True) -> Figure:
    """Draw ROC curves: name -> (false positive rate, true positive rate), both (n,).

    lead: whether the first one is thick. An inset enlarges the corner.
    """
    figure, axes = _new_figure(4.0)
    corner = axes.inset_axes((0.42, 0.14, 0.55, 0.55), facecolor=PAPER)
    lines = []
    for i, (false_positive, true_positive) in reversed(list(enumerate(curves.values()))):
        style = {"color": COLOURS[(i - lead) % len(COLOURS)], "linewidth": 1.2, "linestyle": LINES[i % len(LINES)]}
        if lead and i == 0:
            style |= {"color": INK, "linewidth": 2.2, "zorder": 3}
        lines += axes.plot(false_positive, true_positive, **style)
        corner.plot(false_positive, true_positive, **style)
    axes.plot([0, 1], [0, 1], **_DIAGONAL)
    limits = (-0.01, 1.01)
    axes.set(xlim=limits, ylim=limits, xlabel="false positive rate", ylabel="true positive rate")
    corner.set(xlim=(0, 0.2), ylim=(0.8, 1))
    corner.tick_params(labelsize=8)
    _add_legend(figure, lines[::-1], curves, columnspacing=1)
    return figure


@_drawing
def draw_reliability(curves: Mapping[str, pd.DataFrame], what: str) -> Figure:
    """Draw the share of `what` against the mean probability, by the name of the curve.

    Its table has the columns mean, share, low and high, a row per bin.
    """
    figure, axes = _new_figure(4.0)
    axes.plot([0, 1], [0, 1], **_DIAGONAL)
    for i, (name, bins) in enumerate(curves.items()):
        spread = np.maximum([bins["share"] - bins["low"], bins["high"] - bins["share"]], 0)
        line = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": LINES[i], "markersize": 4.5, "linewidth": 1.2}
        axes.errorbar(bins["mean"], bins["share"], yerr=spread, label=name, capsize=2.5, **line)
    limits, what = (-0.02, 1.02), _literal(what)
    axes.set(xlim=limits, ylim=limits, xlabel=f"mean probability of {what}", ylabel=f"share of {what}")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@_drawing
def draw_histogram(
    values: np.ndarray,
    labels: np.ndarray,
    edges: np.ndarray,
    xlabel: str,
    names: Sequence[str],
    band: tuple[float, float] | None = None,
) -> Figure:
    """Draw histograms of numbers by label; around a doubtful band, which is shaded, logarithmically.

    Args:
        values: The numbers (n,).
        labels: 0 or 1 (n,).
        edges: Of the bins.
        xlabel: What the numbers are.
        names: Of the two labels.
        band: The doubtful ones.
    """
    figure, axes = _new_figure(3.4)
    handles = [] if band is None else [axes.axvspan(*band, color=COLOURS[4], alpha=0.22, linewidth=0)]
    for label in (0, 1):
        line = {"color": COLOURS[label], "linewidth": 1.5, "linestyle": LINES[label]}
        handles += axes.hist(values[labels == label], bins=edges, histtype="step", **line)[2]
    if band is not None:
        axes.set(yscale="log", xlim=(edges[0], edges[-1]))
    axes.set(xlabel=_literal(xlabel), ylabel="rows")
    _add_legend(figure, handles, [*["doubtful band"] * (band is not None), *names], ncols=len(handles))
    return figure


@_drawing
def draw_balance(shares: Mapping[str, tuple[int, int]], names: Sequence[str]) -> Figure:
    """Draw a bar per name of `shares` with those of its rows that have each of the two labels, which `names` names."""
    figure, axes = _new_figure(0.7 + 0.5 * len(shares))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    bars = []
    for row, counts in enumerate(shares.values()):
        start, rows = 0.0, max(sum(counts), 1)
        for label, count in enumerate(counts):
            style = {"color": COLOURS[label], "alpha": 0.4, "linewidth": 0, "height": 0.6}
            bars.append(axes.barh(row, count / rows, left=start, **style))
            axes.text(start + 0.02, row, f"{count:,} ({100 * count / rows:.1f} %)", va="center", fontsize=9)
            start += count / rows
    axes.set_yticks(range(len(shares)), shares)
    axes.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5), xticks=[])
    axes.tick_params(length=0)
    _add_legend(figure, bars[:2], names, ncols=2)
    return figure


@_drawing
def draw_violins(values: np.ndarray, groups: np.ndarray, names: Sequence[str], ylabel: str) -> Figure:
    """Draw a violin and a box (quartiles, whiskers of 1.5 box lengths) of values (n,) for each group 0, 1, .. (n,)."""
    figure, axes = _new_figure(3.4)
    for group in range(len(names)):
        own, colour = values[groups == group], COLOURS[group % len(COLOURS)]
        if len(np.unique(own)) > 1:  # a density needs two values
            body = axes.violinplot(own, positions=[group], widths=0.85, showextrema=False)["bodies"][0]
            body.set(facecolor=colour, edgecolor="none", alpha=0.3)
        lines = dict.fromkeys(("boxprops", "whiskerprops", "capprops"), {"color": colour, "linewidth": 1.2})
        median = {"color": INK, "linewidth": 1.6}
        axes.boxplot(own, positions=[group], widths=0.2, showfliers=False, medianprops=median, **lines)
    axes.set_xticks(range(len(names)), [_literal(name) for name in names])
    axes.set(xlim=(-0.6, len(names) - 0.4), ylabel=_literal(ylabel))
    return figure
