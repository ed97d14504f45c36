"""The sections of the report, each a list of HTML parts made from a blend and its members."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from facefold.data.competition import Competition
from facefold.ensemble.blend import Blend
from facefold.ensemble.leaks import describe_leaks
from facefold.ensemble.metrics import auc_interval, decide, score_predictions, wilson_interval
from facefold.report import calibration_check, figures, groups, html
from facefold.runs import Member

_ROC_POINTS = 200
_EYE = (0.3, 0.7)  # the band to count doubtful rows in where no method has one of its own


def glance(made: Blend, members: Sequence[Member]) -> list[str]:
    """The figures to see first."""
    got, gain = made.facts["score"], made.facts["gain_over_best_single"]
    wrong = int((made.oof["label"] != made.oof["pred"]).sum())
    band = _band(made.facts)
    doubtful = int(made.test["prob"].between(*band).sum())
    return [
        html.tiles(
            [
                (
                    "accuracy, nested",
                    f"{100 * got['accuracy']:.2f} %",
                    f"{100 * got['low']:.2f} to {100 * got['high']:.2f}, {got['rows']:,} rows",
                ),
                (
                    "points over best single",
                    f"{100 * gain['gain']:+.2f}",
                    f"{100 * gain['low']:+.2f} to {100 * gain['high']:+.2f}",
                ),
                ("AUC", f"{got['auc']:.4f}", f"{got['auc_low']:.4f} to {got['auc_high']:.4f}"),
                ("train rows wrong", f"{wrong:,}", f"of {len(made.oof):,}"),
                ("doubtful test rows", f"{doubtful:,}", f"of {len(made.test):,}, {band[0]:g} to {band[1]:g}"),
                (
                    "models blended",
                    f"{len(members)} recipes",
                    f"{sum(len(member.runs) for member in members)} folds in all",
                ),
            ]
        )
    ]


def verdict(facts: dict) -> list[str]:
    """Why this submission, and what blending brought."""
    gain = facts["gain_over_best_single"]
    interval = f"[{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]"
    brought = (
        f"Over the best single recipe: {100 * gain['gain']:+.2f} points {interval}, "
        f"{gain['wins']} rows mended and {gain['losses']} spoilt (McNemar p = {gain['p']:.2g}). "
    )
    return [
        html.paragraph(facts["why"]),
        *map(html.paragraph, describe_leaks(facts)),
        *_corrections(facts["corrections"]),
        html.paragraph(
            brought + "Every score counts rows that had no part in learning or choosing what predicted them; "
            "brackets are 95 % intervals."
        ),
    ]


def _corrections(facts: dict | None) -> list[str]:
    if not facts:
        return []
    got = facts["score"]
    return [
        html.paragraph(
            f"Some recipes learned from corrected labels ({facts['changes']}). Scores are against the given labels "
            f"unless called otherwise. Against the corrected ones the blend has {got['accuracy']:.4f} "
            f"({got['low']:.4f} to {got['high']:.4f}) on {got['rows']:,} rows, which flatters where predictions "
            "like these chose the corrections."
        )
    ]


def leaderboard(made: Blend, members: list[Member]) -> list[str]:
    """All recipes and methods with their intervals, as a drawing and as a table, and their accuracy by fold."""

    def spread(row, name: str, form: str = "{:.4f}") -> str:
        value, low, high = (form.format(getattr(row, name + end)) for end in ("", "_low", "_high"))
        return f"{value} ({low} to {high})"

    board, mended = made.leaderboard, made.facts["corrections"] is not None
    points = board.assign(**{name: 100 * board[name] for name in ("gain", "gain_low", "gain_high")})
    rows = [
        (
            row.name,
            row.kind,
            f"{row.accuracy:.4f}",
            f"{row.low:.4f} to {row.high:.4f}",
            spread(row, "gain", "{:+.2f}"),
            *(spread(row, name) for name in ("log_loss", "auc", "ece")),
            *(
                [f"{row.corrected_accuracy:.4f} ({row.corrected_low:.4f} to {row.corrected_high:.4f})"]
                if mended
                else []
            ),
            row.weights.replace(",", ", "),
        )
        for row in points.itertuples(index=False)
    ]
    header = [
        "name",
        "kind",
        "accuracy",
        "95 % interval",
        "points over best single",
        "log loss",
        "AUC",
        "calibration error",
        *(["accuracy against corrected labels"] if mended else []),
        "weights",
    ]
    picked = int(board.index[(board["name"] == made.facts["picked"]) & (board["kind"] == "method")][0])
    alt = "Nested accuracy: " + ", ".join(f"{row.name} {row.accuracy:.4f}" for row in board.itertuples())
    drawing = figures.intervals(
        board["name"].tolist(),
        *(board[column].to_numpy() for column in ("accuracy", "low", "high")),
        xlabel="nested accuracy",
        picked=picked,
    )
    oof = made.oof.set_index("id")
    right = _right(made, members).assign(blend=oof["pred"] == oof["label"])
    by_fold = right.groupby(oof["fold"]).mean()
    each = "; ".join(f"{name} {', '.join(f'{value:.4f}' for value in by_fold[name])}" for name in by_fold)
    fold_rows = []
    for fold, part in right["blend"].groupby(oof["fold"]):
        low, high = wilson_interval(int(part.sum()), len(part))
        fold_rows.append(
            (fold, f"{len(part):,}", *(f"{value:.4f}" for value in by_fold.loc[fold]), f"{low:.4f} to {high:.4f}")
        )
    return [
        html.heading("Leaderboard"),
        html.figures(
            [
                html.figure(
                    drawing,
                    alt,
                    "Nested accuracy of recipes and methods with 95 % intervals; the submission's method is the "
                    "square. Where intervals overlap the paired gains in the table still tell them apart.",
                ),
                html.figure(
                    figures.fold_accuracy(by_fold), f"Accuracy by fold: {each}", "Accuracy by fold; the blend is thick."
                ),
            ]
        ),
        html.table(header, rows, numbers=range(2, len(header) - 1), picked=picked),
        html.paragraph(_second_pass(made.facts["second_pass"])),
        html.table(
            ["fold", "rows", *by_fold.columns, "blend, 95 % interval"],
            fold_rows,
            numbers=range(1, len(by_fold.columns) + 3),
        ),
    ]


def _second_pass(facts: dict) -> str:
    if facts["rows"] == 0:
        return "The second pass found no band of doubtful rows in which a specialist decides better than the mean."
    before, after = (
        f"{part['accuracy']:.4f} ({part['low']:.4f} to {part['high']:.4f})"
        for part in (facts["before"], facts["after"])
    )
    gain = facts["gain"]
    return (
        f"The second pass decides {facts['rows']} doubtful rows anew: accuracy on them {before} before, {after} after, "
        f"{100 * gain['gain']:+.2f} points [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]."
    )


def errors(made: Blend, members: list[Member]) -> list[str]:
    """The confusion matrix and the ROC curve of the blend's nested predictions."""
    oof = made.oof.set_index("id")
    counts = np.bincount(2 * oof["label"] + oof["pred"], minlength=4).reshape(2, 2)
    confused = "; ".join(f"label {i} predicted as {j}: {counts[i, j]} rows" for i in (0, 1) for j in (0, 1))
    curves = {"blend": oof["prob"], **{member.name: member.oof.reindex(oof.index) for member in members}}
    areas = ", ".join(
        f"{name} {auc_interval(prob.to_numpy(), oof['label'].to_numpy())[0]:.4f}" for name, prob in curves.items()
    )
    return [
        html.heading("Errors"),
        html.figures(
            [
                html.figure(
                    figures.confusion(counts),
                    f"Confusion matrix: {confused}",
                    "Confusion matrix of the blend's nested predictions.",
                ),
                html.figure(
                    figures.roc({name: _roc(prob, oof["label"]) for name, prob in curves.items()}),
                    f"ROC curves, area under each: {areas}",
                    f"ROC curves and, in the inset, their corner. Area: {areas}.",
                ),
            ]
        ),
    ]


def _roc(prob: pd.Series, labels: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The curve at `_ROC_POINTS` shares of label 0, close together at the beginning."""
    wrongly, found, _ = roc_curve(labels, prob)
    shares = np.linspace(0, 1, _ROC_POINTS) ** 2
    return shares, np.interp(shares, wrongly, found)


def calibration(made: Blend) -> list[str]:
    """Whether the probabilities mean what they say, and where the doubtful rows are."""
    prob, labels, fold = (made.oof[name].to_numpy() for name in ("prob", "label", "fold"))
    again = calibration_check.recalibrated(prob, labels, fold)
    before, after = (score_predictions(values, labels) for values in (prob, again))
    said = "; ".join(
        f"{name} {got.ece:.4f} ({got.ece_low:.4f} to {got.ece_high:.4f}), log loss {got.log_loss:.4f}"
        for name, got in (("as it is", before), ("calibrated", after))
    )
    band = _band(made.facts)
    doubt, test = (made.oof["prob"].between(*band).to_numpy(), made.test["prob"].between(*band))
    right = int((decide(prob) == labels)[doubt].sum())
    low, high = wilson_interval(right, int(doubt.sum()))
    inside = (
        f"{int(doubt.sum()):,} of {len(prob):,} train rows ({100 * doubt.mean():.1f} %) and {int(test.sum()):,} of "
        f"{len(test):,} test rows ({100 * test.mean():.1f} %) are between {band[0]:g} and {band[1]:g}"
    )
    if doubt.any():
        inside += f"; of the former {100 * right / doubt.sum():.1f} % are right ({100 * low:.1f} to {100 * high:.1f})"
    own = "the second pass's" if band != _EYE else "for the eye: no method has one of its own"
    return [
        html.heading("Probabilities"),
        html.paragraph(
            f"Calibration error, 0 is best: {said}. The calibration (Platt) of each fold was learned on the others; it "
            "is shown, and not part of the submission unless the picked method has one."
        ),
        html.figures(
            [
                html.figure(
                    figures.reliability(calibration_check.bins(prob, labels), calibration_check.bins(again, labels)),
                    f"Reliability diagram; calibration error {said}",
                    "Reliability of the blend's nested probabilities, in bins of a tenth with 95 % intervals. On the dotted "
                    "line a probability means what it says.",
                ),
                html.figure(
                    figures.probabilities(prob, labels, band),
                    f"Histogram of the blend's probabilities by label. {inside}",
                    f"The blend's nested probabilities by label, rows on a logarithmic scale. Doubtful band ({own}): "
                    f"{inside}.",
                ),
            ]
        ),
    ]


def by_group(made: Blend, competition: Competition) -> list[str]:
    """Accuracy by the columns of meta.csv, nothing where there are none that make groups."""
    tables = groups.tables(competition.meta, made.oof)
    if not tables:
        return []
    overall = made.facts["score"]["accuracy"]
    parts = [
        html.heading("Groups"),
        html.paragraph(
            "The blend's nested accuracy by the columns of meta.csv, which no model has seen. A small group has a wide "
            "interval, and of many intervals of 95 % some miss. Why groups differ this cannot say: how many rows "
            "there were to learn from, how hard the pictures are, how wrong the labels."
        ),
    ]
    drawings, listed = [], []
    for name, table in tables.items():
        each = ", ".join(f"{row.group} {row.accuracy:.3f} on {row.rows} rows" for row in table.itertuples())
        drawing = figures.intervals(
            [f"{row.group}  (n = {row.rows:,})" for row in table.itertuples()],
            *(table[column].to_numpy() for column in ("accuracy", "low", "high")),
            xlabel="accuracy",
            reference=overall,
        )
        drawings.append(
            html.figure(
                drawing,
                f"Accuracy by {name}: {each}",
                f"Accuracy by {name} with 95 % intervals; the dashed line is that of all rows, {overall:.4f}.",
            )
        )
        rows = [
            (
                row.group,
                f"{row.rows:,}",
                f"{row.accuracy:.4f}",
                f"{row.low:.4f} to {row.high:.4f}",
                *("-" if np.isnan(value) else f"{value:.4f}" for value in (row.label_0, row.label_1)),
            )
            for row in table.itertuples()
        ]
        header = [name, "rows", "accuracy", "95 % interval", "of label 0", "of label 1"]
        listed.append([html.table(header, rows, numbers=range(1, len(header)))])
    return [*parts, html.figures(drawings), html.columns(listed)]


def agreement(made: Blend, members: list[Member]) -> list[str]:
    """Who corrects whom, nothing with one recipe."""
    if len(members) < 2:
        return []
    right, names = _right(made, members).to_numpy(), [member.name for member in members]
    mends = np.array([[int((a & ~b).sum()) for b in right.T] for a in right.T])
    alt = "; ".join(
        f"{a} is right on {mends[i, j]} rows that {b} has wrong"
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i != j
    )
    every, none = int(right.all(axis=1).sum()), int((~right).all(axis=1).sum())
    said = (
        f"All recipes are right on {every:,} of {len(right):,} rows, all are wrong on {none:,}, which no vote of these recipes can "
        f"mend. On {len(right) - every - none:,} they disagree: what a blend has to win."
    )
    return [
        html.heading("Who corrects whom"),
        html.paragraph(said),
        html.figures(
            [
                html.figure(
                    figures.agreement(names, mends),
                    alt,
                    "How many train rows the recipe of the line predicts rightly and the recipe of the column wrongly.",
                )
            ]
        ),
    ]


def learning_curves(histories: dict[str, list[pd.DataFrame]]) -> list[str]:
    """A drawing a recipe, from its folds' histories."""
    parts = []
    for name, folds in histories.items():
        ends = ", ".join(f"{history['valid_acc'].iloc[-1]:.4f}" for history in folds)
        alt = f"Learning curves of {name}: validation accuracy at the end of each fold {ends}"
        parts.append(html.figure(figures.learning_curves(folds), alt, f"{name}, in one view as in training"))
    return [html.heading("Learning curves"), html.figures(parts)]


def data(made: Blend, competition: Competition) -> list[str]:
    """The balance of the labels, and the numbers of meta.csv by label and by right and wrong."""
    shares = {"train": competition.train["label"], "predicted test": made.test["pred"]}
    counts = {name: (int((labels == 0).sum()), int((labels == 1).sum())) for name, labels in shares.items()}
    said = "; ".join(f"{name}: {zeros:,} of label 0, {ones:,} of label 1" for name, (zeros, ones) in counts.items())
    drawings = [
        html.figure(
            figures.balance(counts),
            f"Class balance, {said}",
            "Class balance of the train labels and of the submission.",
        )
    ]
    meta = None if competition.meta is None else competition.meta.set_index("id").reindex(made.oof["id"]).fillna("")
    for name in [] if meta is None else meta.columns:
        numbers = groups.number(meta[name])
        if numbers is None:
            continue
        known = np.isfinite(numbers)
        values, labels = numbers[known], made.oof["label"].to_numpy()[known]
        wrong = (made.oof["label"] != made.oof["pred"]).to_numpy(np.int64)[known]
        middle, missed = _medians(values, labels, ("label 0", "label 1")), _medians(values, wrong, ("right", "wrong"))
        drawings += [
            html.figure(
                figures.histogram(values, labels, groups.edges(values, 40), name),
                f"Histogram of {name} by label; medians: {middle}",
                f"{name} of the train rows by label; medians: {middle}.",
            ),
            html.figure(
                figures.violins(values, labels, ["label 0", "label 1"], name),
                f"Violin and box of {name} by label; medians: {middle}",
                f"{name} by label: violin, and box with quartiles.",
            ),
            html.figure(
                figures.violins(values, wrong, ["right", "wrong"], name),
                f"Violin and box of {name} of rows predicted rightly and wrongly; medians: {missed}",
                f"{name} of the rows that the blend has right and wrong; medians: {missed}.",
            ),
        ]
    return [html.figures(drawings)]


def _medians(values: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> str:
    """The median of values (n,) in each group 0, 1, .. of groups (n,) that has any, in words."""
    return ", ".join(
        f"{name} {np.median(values[groups == i]):g}" for i, name in enumerate(names) if (groups == i).any()
    )


def _right(made: Blend, members: Sequence[Member]) -> pd.DataFrame:
    """Whether each recipe (the columns) is right on each train id, in the order of the blend's rows."""
    labels = made.oof.set_index("id")["label"]
    return pd.DataFrame({member.name: decide(member.oof.reindex(labels.index)) == labels for member in members})


def _band(facts: dict) -> tuple[float, float]:
    """The band of the second pass where it found one, else one for the eye."""
    low, high = facts["notes"].get("second_pass", {}).get("band", (0.5, 0.5))
    return (low, high) if low < high else _EYE
