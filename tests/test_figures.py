"""The drawings of the report: SVG that repeats itself, in the colours of the page."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from facefold.report import figures
from facefold.report.html import inline_svg

HISTORY = pd.DataFrame({"epoch": [1, 2], "train_loss": [0.6, 0.4], "valid_loss": [0.5, 0.45], "valid_acc": [0.8, 0.85]})
BINS = pd.DataFrame({"mean": [0.1, 0.9], "share": [0.2, 0.8], "low": [0.1, 0.7], "high": [0.3, 0.9], "rows": [5, 5]})
INTERVALS = pd.DataFrame({"accuracy": [0.9, 0.8], "low": [0.85, 0.75], "high": [0.95, 0.85]})
SCORES = pd.DataFrame({"$a_$": [0.8, 0.9], "b" * 40: [0.8, np.nan], "blend": [0.85, 0.95]})
NAMES = ("label $a$", "label b")
DRAWINGS = {
    "intervals": lambda: figures.draw_intervals(["a", "b"], INTERVALS, xlabel="accuracy"),
    "picked": lambda: figures.draw_intervals(["a", "b"], INTERVALS, "accuracy", reference=0.8, picked=1),
    "learning_curves": lambda: figures.draw_learning_curves({"fold 0": HISTORY, "fold 1": HISTORY}),
    "one_epoch": lambda: figures.draw_learning_curves({"fold 0": HISTORY[:1]}),
    "confusion": lambda: figures.draw_confusion(np.array([[5, 1], [0, 4]]), "ab"),
    "agreement": lambda: figures.draw_agreement(["long_name_a", "b"], np.array([[0, 3], [2, 0]])),
    "no_disagreement": lambda: figures.draw_agreement(["a", "b"], np.zeros((2, 2), int)),
    "roc": lambda: figures.draw_roc(
        {"blend": (np.array([0, 0.1, 1]), np.array([0, 0.9, 1])), "a": (np.array([0, 1]), np.array([0, 1]))}
    ),
    "reliability": lambda: figures.draw_reliability({"as it is": BINS, "calibrated": BINS[:1]}, "label 1"),
    "probabilities": lambda: figures.draw_histogram(
        np.array([0.0, 0.4, 1.0]),
        np.array([0, 0, 1]),
        np.linspace(0, 1, 41),
        "probability of label 1",
        NAMES,
        (0.3, 0.7),
    ),
    "balance": lambda: figures.draw_balance({"train": (5, 3), "test": (0, 0)}, NAMES),
    "histogram": lambda: figures.draw_histogram(
        np.array([1.0, 2.0, 5.0]), np.array([0, 1, 0]), np.array([0, 5, 10]), "age", NAMES
    ),
    "violins": lambda: figures.draw_violins(np.array([1.0, 2.0, 5.0]), np.array([0, 1, 0]), ["a", "b"], "age"),
    "dollars": lambda: figures.draw_agreement(["$a_$", "$^$"], np.array([[0, 3], [2, 0]])),
    "dollar_name": lambda: figures.draw_violins(np.array([1.0, 2.0]), np.array([0, 1]), ["a", "b"], "$^$"),
    "dollar_groups": lambda: figures.draw_violins(np.array([1.0, 2.0]), np.array([0, 1]), ["$^$", "b"], "age"),
    "dollar_class": lambda: figures.draw_reliability({"as it is": BINS}, "$^$"),
    "dollar_values": lambda: figures.draw_histogram(np.ones(2), np.array([0, 1]), np.array([0, 2]), "a$b_$", NAMES),
    "dollar_target": lambda: figures.draw_density(np.arange(3.0), np.zeros(3), "$^$"),
    "one_label": lambda: figures.draw_confusion(np.array([[5, 1], [0, 0]]), "ab"),
    "fold_scores": lambda: figures.draw_fold_scores(SCORES, [(0.8, 0.9), (0.9, 1.0)], "auc"),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings_are_svg_and_repeat_themselves(name):
    first = DRAWINGS[name]()
    assert ElementTree.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"
    assert first == DRAWINGS[name]()
    assert b"<dc:date>" not in first and len(first) < 200_000


CURVE = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
LEGENDS = {
    "learning_curves": lambda: figures.draw_learning_curves({"_a": HISTORY, "_b": HISTORY}),
    "backbones": lambda: figures.draw_backbones({"_a": HISTORY, "_b": HISTORY}),
    "fold_scores": lambda: figures.draw_fold_scores(
        pd.DataFrame({"_a": [0.8, 0.9], "_b": [0.7, 0.8]}), [(0.6, 0.9), (0.7, 0.9)], "auc"
    ),
    "roc": lambda: figures.draw_roc({"_a": CURVE, "_b": CURVE}, lead=False),
    "histogram": lambda: figures.draw_histogram(
        np.array([1.0, 2.0]), np.array([0, 1]), np.array([0, 3]), "age", ("_a", "_b"), (1.0, 2.0)
    ),
    "balance": lambda: figures.draw_balance({"train": (5, 3), "test": (1, 2)}, ("_a", "_b")),
}


def svg_texts(svg: bytes) -> list[str]:
    return [text for text in ElementTree.fromstring(svg).itertext() if text.strip()]


@pytest.mark.parametrize("name", LEGENDS)
def test_names_that_begin_with_an_underscore_are_in_the_legend(name):
    names = [text for text in svg_texts(LEGENDS[name]()) if text in ("_a", "_b", "doubtful band")]
    assert names == [*["doubtful band"] * (name == "histogram"), "_a", "_b"]


def test_a_legend_names_what_it_draws():
    texts = svg_texts(figures.draw_roc({"_a": CURVE, "b": CURVE, "c": CURVE}, lead=False))
    assert texts[-3:] == ["_a", "b", "c"]
    svg = figures.draw_roc({"_a": CURVE, "b": CURVE, "c": CURVE}, lead=False).decode()
    strokes = re.findall(r"stroke: (#[0-9a-f]{6})", svg[svg.index('id="legend_1"') :])
    assert strokes == list(figures.COLOURS[:3])


def test_a_name_in_chinese_is_left_to_the_fonts_of_the_browser(recwarn):
    texts = svg_texts(figures.draw_confusion(np.array([[5, 1], [0, 4]]), ["男性", "女性"]))
    assert texts.count("男性") == texts.count("女性") == 2 and not recwarn.list
    assert b"font-family: 'DejaVu Sans', sans-serif" in DRAWINGS["confusion"]()


def test_a_drawing_in_a_page_has_the_pages_colours_and_ids_of_its_own():
    first, second = (inline_svg(DRAWINGS[name](), "alt") for name in ("probabilities", "reliability"))
    for text in (first, second):
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r"(href=\"|url\()#", "", text)), (
            "a colour that would not follow the page into the dark"
        )
        used, there = set(re.findall(r'(?:href="|url\()#([^")]*)', text)), re.findall(r' id="([^"]*)"', text)
        assert used == set(there) and len(there) == len(used)
    assert not set(re.findall(r' id="([^"]*)"', first)) & set(re.findall(r' id="([^"]*)"', second))
    assert re.search(r"<svg [^>]*viewBox=", first) and not re.search(r"<svg [^>]*(width|height)=", first)


def test_a_legend_of_long_names_has_fewer_columns():
    assert [figures._legend_columns(["a" * length, "b"]) for length in (5, 18, 19, 27, 28, 80)] == [3, 3, 2, 2, 1, 1]


def test_a_long_name_leaves_room_for_the_drawing():
    assert figures._literal("face_svm~crop=0.88$+corrected") == r"face_svm~cro..8\$+corrected"
    assert figures._literal("a" * figures.MAX_NAME) == "a" * figures.MAX_NAME
