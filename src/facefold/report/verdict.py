"""The first screen of a report: what to upload, how good it is, what blending gained, and what is to be doubted."""

from typing import Any, NamedTuple

from facefold.ensemble.blend import Blend
from facefold.ensemble.decisions import SIGNIFICANT
from facefold.ensemble.leaderboard import format_headline
from facefold.ensemble.leaks import announce_leaks, describe_leaks, used_leaks
from facefold.ensemble.metrics import Metric, target_metric
from facefold.ensemble.trust import describe_added, knowing_members
from facefold.report.bars import make_axis
from facefold.report.gains import format_gain
from facefold.runs import Member
from facefold.task import Task

GOOD, LOOK, WARNING = "good", "look", "warning"  # the states of an answer, which the page marks by a colour as well


class Answer(NamedTuple):
    """An answer of the first screen: about what, its state, the state in words, and paragraphs.

    section: the id of the section that has more, and the words of the link to it; () for none.
    """

    about: str
    state: str
    mark: str
    texts: list[str]
    section: tuple[str, ...] = ()


def page_title(facts: dict, task: Task, synthetic: bool) -> str:
    """Return the page's first line by blend.json: what to upload, its score, and whether a leak was used."""
    title = f"Upload {task.folder}submissions/submission.csv: {format_headline(facts)}"
    if task.kind == "binary":
        leaks = announce_leaks(facts)
        unused = "A member seems to know its labels" if knowing_members(facts) else "No leak was used"
        title = f"{leaks} {title}" if leaks else f"{title}. {unused}."
    return f"Synthetic competition, not real data. {title}" if synthetic else title


def first_screen(blend: Blend, members: list[Member], target: Task, noise: Answer | None) -> dict[str, Any]:
    """Return the scores and gains that are drawn with their axes, and the answers.

    noise: of `label_noise`, None for a regression.
    """
    facts = blend.facts
    metric = target_metric(target).scaled(facts["score"])
    keys = [metric.key, *metric.interval_keys]
    board = blend.leaderboard
    scores = [("submission", f"by {facts['picked']}", *(facts["score"][key] for key in keys))]
    gains = []
    if len(members) > 1:
        gain = facts["gain_over_best_single"]
        gains = [("submission", "without the leak" * bool(used_leaks(facts)), gain["gain"], gain["low"], gain["high"])]
        methods = board[board["kind"] == "method"].set_index("name")
        names = {"mean": ("mean", f"of all {len(members)}"), "best_single": ("best single", "")}
        scores += [(*text, *methods.loc[name, keys]) for name, text in names.items()]
        gains.append((*names["mean"], *methods.loc["mean", ["gain", "gain_low", "gain_high"]]))
    gains = [(name, note, *(metric.gain_scale * value for value in values)) for name, note, *values in gains]
    answers = [_method(facts, members), *_blending(facts, members, metric), *_leaks(facts, target)]
    answers += [*([noise] if noise else []), *_added(facts), *_extra(members), *_corrections(facts)]
    gain_axis = make_axis([row[2:] for row in gains], 0.0, signed=True, whole=range(len(gains))) if gains else None
    return {
        "scores": scores,
        "score_axis": make_axis([row[2:] for row in scores], whole=range(len(scores))),
        "gains": gains,
        "gain_axis": gain_axis,
        "answers": answers,
    }


def label_noise(suspects: dict[str, Any], rows: int) -> Answer:
    """Return the answer about the labels; suspects: of `find_suspects`; rows: of train.csv."""
    confident, conflicts = len(suspects["confident"]), suspects["conflicts"]
    texts = []
    if confident:
        texts.append(
            f"{confident:,} of {rows:,} are likely wrong by confident learning ({100 * confident / rows:.1f} %)."
        )
    if conflicts:
        groups = "1 group" if len(conflicts) == 1 else f"{len(conflicts):,} groups"
        texts.append(f"Different labels for the same picture: {groups}.")
    if not texts:
        return Answer("Labels", GOOD, "no suspects", ["Confident learning finds no wrong label."])
    more = ("errors-and-doubts-in-pictures", "See them")
    return Answer("Labels", LOOK, f"{confident + sum(map(len, conflicts)):,} suspects", texts, more)


def extra_rows(members: list[Member]) -> list[dict[str, Any]]:
    """Return what the runs with extra rows learned from: name, rows, trained (in words), dropped, sha256."""
    found = []
    for member in members:
        folds = [run["extra_rows"] for run in member.runs if run.get("extra_rows")]
        if folds:
            trained = [fold["trained"] for fold in folds]
            words = " to ".join(dict.fromkeys(f"{rows:,}" for rows in (min(trained), max(trained))))
            found.append(folds[0] | {"name": member.name, "trained": words, "dropped": len(folds[0]["dropped"])})
    return found


def _method(facts: dict, members: list[Member]) -> Answer:
    models = sum(len(member.runs) for member in members)
    count = f"{len(members)} recipe{'s' if len(members) > 1 else ''}, {models} models"
    return Answer("Method", "", facts["picked"], [f"{facts['why']} ({count}.)"])


def _blending(facts: dict, members: list[Member], metric: Metric) -> list[Answer]:
    if len(members) < 2:
        return []
    gain = facts["gain_over_best_single"]
    value, interval = format_gain(gain["gain"], gain["low"], gain["high"], metric)
    text = f"{value}{' points' if metric.points else ''} ({interval}) over the best single recipe"
    text += ", without the leak" * bool(used_leaks(facts))
    if "wins" in gain:
        text += f"; {gain['wins']:,} rows fixed, {gain['losses']:,} broken"
    text += f" ({metric.test}, p = {gain['p']:.2g})."
    real = gain["p"] < SIGNIFICANT
    mark = ("a real gain" if gain["gain"] > 0 else "a real loss") if real else "no proven gain"
    return [Answer("Blending", GOOD if real and gain["gain"] > 0 else LOOK, mark, [text])]


def _leaks(facts: dict, target: Task) -> list[Answer]:
    if target.kind != "binary":  # no leak can be used
        return []
    used = [leak.name for leak, _ in used_leaks(facts)]
    texts = describe_leaks(facts) or ["Neither the order of the ids nor labels of duplicates."]
    return [Answer("Leaks", WARNING if used else GOOD, f"used: {', '.join(used)}" if used else "none used", texts)]


def _added(facts: dict) -> list[Answer]:
    texts = describe_added(facts)
    if not texts:
        return []
    knowing = knowing_members(facts)
    mark = "seems to know its labels" if knowing else "not verified here"
    return [Answer("Made elsewhere", WARNING if knowing else LOOK, mark, texts)]


def _extra(members: list[Member]) -> list[Answer]:
    texts = [
        f"{one['name']} learned from {one['rows']:,} rows from outside of the competition, {one['trained']} in a fold"
        + (f"; {one['dropped']:,} more show test images and were dropped." if one["dropped"] else ".")
        for one in extra_rows(members)
    ]
    return [Answer("Extra rows", LOOK, "do the rules allow them?", texts)] if texts else []


def _corrections(facts: dict) -> list[Answer]:
    corrections = facts["corrections"]
    if not corrections:
        return []
    score = corrections["score"]
    text = (
        f"Some recipes were trained on corrected labels ({corrections['changes']}). Scores are against the original "
        f"labels unless they say otherwise. Against the corrected ones the blend has accuracy {score['accuracy']:.4f} "
        f"({score['low']:.4f} to {score['high']:.4f}) on {score['rows']:,} rows, which is too high if predictions like "
        "these chose the corrections."
    )
    return [Answer("Corrections", LOOK, corrections["changes"], [text])]
