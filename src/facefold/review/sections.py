"""The sections of the report, each a list of HTML parts made from a blend and its members."""

import numpy as np
import pandas as pd

from facefold.combine.outcome import Outcome
from facefold.combine.scores import decide, wilson
from facefold.data.folds import grouping
from facefold.review import html, plots
from facefold.runs import CORRECTED, Member


def verdict(facts: dict) -> list[str]:
    """Why this submission, and what blending brought."""
    gain = facts["gain_over_best_single"]
    interval = f"[{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]"
    if facts["order"]:
        by_order = ", ".join(f"{name} {100 * got['gain']:+.2f} points [{100 * got['low']:+.2f}, {100 * got['high']:+.2f}]"
                             for name, got in facts["order"]["gains"].items())
        order = [html.paragraph(f"The order of the ids, over the same predictions without it: {by_order}. {facts['order']['why']}")]
    else:
        order = []
    if told := facts["twins"]:
        order.append(html.paragraph(_twins(told)))
    brought = (f"Over the best single recipe: {100 * gain['gain']:+.2f} points {interval}, "
               f"{gain['wins']} rows mended and {gain['losses']} spoilt (McNemar p = {gain['p']:.2g}). ")
    return [html.paragraph(facts["why"]), *order, *_corrections(facts["corrections"]),
            html.paragraph(brought + "Every score counts rows that had no part in learning or choosing what predicted them; "
                                     "brackets are 95 % intervals.")]


def _twins(told: dict) -> str:
    gain = told["gain"]
    return (f"Twins: {told['answered']} of {told['test_rows']} test images are answered by their twins in train; of "
            f"{told['train_rows']} train images, each left out in turn, {told['train_answered']} would be. Of the labels of these "
            f"the twins tell {told['right']:.4f}, the predictions {told['before']:.4f}: {100 * gain['gain']:+.2f} points on all rows "
            f"[{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]. {told['why']}")


def _corrections(facts: dict | None) -> list[str]:
    if not facts:
        return []
    got = facts["score"]
    return [html.paragraph(f"Some recipes learned from corrected labels ({facts['changes']}). Scores are against the given labels "
                           f"unless called otherwise. Against the corrected ones the blend has {got['accuracy']:.4f} "
                           f"({got['low']:.4f} to {got['high']:.4f}) on {got['rows']:,} rows, which flatters where predictions "
                           "like these chose the corrections.")]


def leaderboard(made: Outcome) -> list[str]:
    """All recipes and methods with their intervals, as a table and as a drawing."""
    def spread(row, name: str, form: str = "{:.4f}") -> str:
        value, low, high = (form.format(getattr(row, name + end)) for end in ("", "_low", "_high"))
        return f"{value} ({low} to {high})"

    board, mended = made.leaderboard, made.facts["corrections"] is not None
    points = board.assign(**{name: 100 * board[name] for name in ("gain", "gain_low", "gain_high")})
    rows = [(row.name, row.kind, f"{row.accuracy:.4f}", f"{row.low:.4f} to {row.high:.4f}", spread(row, "gain", "{:+.2f}"),
             *(spread(row, name) for name in ("log_loss", "auc", "ece")),
             *([f"{row.corrected_accuracy:.4f} ({row.corrected_low:.4f} to {row.corrected_high:.4f})"] if mended else []),
             row.weights.replace(",", ", "))
            for row in points.itertuples(index=False)]
    header = ["name", "kind", "accuracy", "95 % interval", "points over best single", "log loss", "AUC", "calibration error",
              *(["accuracy against corrected labels"] if mended else []), "weights"]
    picked = board.index[(board["name"] == made.facts["picked"]) & (board["kind"] == "method")][0]
    alt = "Nested accuracy: " + ", ".join(f"{row.name} {row.accuracy:.4f}" for row in board.itertuples())
    drawing = plots.intervals(board["name"].tolist(), *(board[column].to_numpy() for column in ("accuracy", "low", "high")),
                              xlabel="nested accuracy")
    return [html.heading("Leaderboard"), html.table(header, rows, numbers=range(2, len(header) - 1), picked=picked),
            html.paragraph(_second_pass(made.facts["second_pass"])),
            html.figures([html.figure(drawing, alt, "Nested accuracy of recipes and methods with 95 % intervals.")])]


def _second_pass(facts: dict) -> str:
    if facts["rows"] == 0:
        return "The second pass found no band of doubtful rows in which a specialist decides better than the mean."
    before, after = (f"{part['accuracy']:.4f} ({part['low']:.4f} to {part['high']:.4f})"
                     for part in (facts["before"], facts["after"]))
    gain = facts["gain"]
    return (f"The second pass decides {facts['rows']} doubtful rows anew: accuracy on them {before} before, {after} after, "
            f"{100 * gain['gain']:+.2f} points [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}].")


def errors(made: Outcome, members: list[Member]) -> list[str]:
    """Accuracy by fold and the confusion matrix of the blend's nested predictions."""
    oof = made.oof.set_index("id")
    right = pd.DataFrame({member.recipe: decide(member.oof.reindex(oof.index)) == oof["label"] for member in members})
    right["blend"] = oof["pred"] == oof["label"]
    accuracy = right.groupby(oof["fold"]).mean()
    rows = []
    for fold, part in right["blend"].groupby(oof["fold"]):
        low, high = wilson(int(part.sum()), len(part))
        rows.append((fold, len(part), *(f"{value:.4f}" for value in accuracy.loc[fold]), f"{low:.4f} to {high:.4f}"))
    counts = np.bincount(2 * oof["label"] + oof["pred"], minlength=4).reshape(2, 2)
    by_fold = "; ".join(f"{name} {', '.join(f'{value:.4f}' for value in accuracy[name])}" for name in accuracy)
    confused = "; ".join(f"label {i} predicted as {j}: {counts[i, j]} rows" for i in (0, 1) for j in (0, 1))
    drawings = [html.figure(plots.fold_accuracy(accuracy), f"Accuracy by fold: {by_fold}",
                            "Accuracy by fold; the blend is thick and black."),
                html.figure(plots.confusion(counts), f"Confusion matrix: {confused}",
                            "Confusion matrix of the blend's nested predictions.")]
    header = ["fold", "rows", *accuracy.columns, "blend, 95 % interval"]
    return [html.heading("Folds and errors"), html.table(header, rows, numbers=range(1, len(header))), html.figures(drawings)]


def learning_curves(histories: dict[str, list[pd.DataFrame]]) -> list[str]:
    """A drawing a recipe, from its folds' histories."""
    parts = []
    for name, folds in histories.items():
        ends = ", ".join(f"{history['valid_acc'].iloc[-1]:.4f}" for history in folds)
        alt = f"Learning curves of {name}: validation accuracy at the end of each fold {ends}"
        parts.append(html.figure(plots.learning_curves(folds), alt, name))
    return [html.heading("Learning curves"), html.figures(parts)]


def cost(members: list[Member]) -> list[str]:
    """Time and memory from run.json, '-' where a run does not say."""
    def of(member: Member, key: str, join, form: str = "{:,.0f}") -> str:
        values = [run[key] for run in member.runs if run.get(key) is not None]
        return form.format(join(values)) if values else "-"

    def kinds(values: list[str]) -> str:
        return ", ".join(sorted(set(values)))

    rows = [(member.recipe, of(member, "seconds", sum), of(member, "cpu_seconds", sum), of(member, "images_per_second", np.mean),
             of(member, "peak_memory_mb", max), of(member, "device", kinds, "{}"), of(member, "precision", kinds, "{}"))
            for member in members]
    header = ["recipe", "seconds, all folds", "CPU seconds", "images/s, mean", "peak memory, MB", "device", "precision"]
    return [html.heading("Time and memory"), html.table(header, rows, numbers=range(1, 5))]


def repeat(facts: dict) -> list[str]:
    """The commands and the hashes of everything that went in."""
    options, folds, recipes = facts["options"], facts["folds"], ",".join(facts["options"]["recipes"])
    target = f" --target {facts['target']}" if "target" in facts else ""
    seeds = ",".join(sorted({str(member["seed"]) for member in facts["members"]}))
    groups = grouping(folds["method"])
    corrected = [name.removesuffix(CORRECTED) for name in options["recipes"] if name.endswith(CORRECTED)]
    given = [name for name in options["recipes"] if not name.endswith(CORRECTED)]
    trained = [f"python src/train.py{target} --recipe {','.join(names)} --seed {seeds}{option}\n"
               for names, option in ((given, ""), (corrected, " --corrections FILE")) if names]
    commands = (f"python src/split.py{target} --folds {folds['k']} --seed {folds['seed']}"
                + (f" --groups {groups}\n" if groups else "\n") + "".join(trained) +
                f"python src/blend.py{target} --recipes {recipes} --method {options['method']} --weights '{options['weights']}'"
                + (" --use-order" if options["use_order"] else "")
                + (" --use-twins" if options["use_twins"] else ""))
    hashes = [("submission.csv", facts["files"]["submission.csv"]), ("folds.csv", folds["hash"]),
              ("images", facts["images_hash"])]
    hashes += [(f"recipe {member['recipe']}, seed {member['seed']}", member["recipe_hash"]) for member in facts["members"]]
    if corrected:
        hashes.append(("corrections (FILE; they are in each run.json under corrected)", facts["corrections"]["hash"]))
    return [html.heading("How to repeat it"), html.code(commands), html.table(["what", "sha256"], hashes)]
