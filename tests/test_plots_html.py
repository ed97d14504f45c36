"""The pieces of the report: escaped, self-contained, the same bytes for the same numbers."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from facefold.report import figures, html, palette

HISTORY = pd.DataFrame({"epoch": [1, 2], "train_loss": [0.6, 0.4], "valid_loss": [0.5, 0.45], "valid_acc": [0.8, 0.85]})
BINS = pd.DataFrame({"mean": [0.1, 0.9], "share": [0.2, 0.8], "low": [0.1, 0.7], "high": [0.3, 0.9], "rows": [5, 5]})
DRAWINGS = {
    "intervals": lambda: figures.intervals(
        ["a", "b"], *np.array([[0.9, 0.8], [0.85, 0.75], [0.95, 0.85]]), xlabel="accuracy"
    ),
    "learning_curves": lambda: figures.learning_curves([HISTORY, HISTORY]),
    "one_epoch": lambda: figures.learning_curves([HISTORY[:1]]),
    "confusion": lambda: figures.confusion(np.array([[5, 1], [0, 4]])),
    "picked": lambda: figures.intervals(
        ["a", "b"], *np.array([[0.9, 0.8], [0.85, 0.75], [0.95, 0.85]]), "accuracy", reference=0.8, picked=1
    ),
    "agreement": lambda: figures.agreement(["long_name_a", "b"], np.array([[0, 3], [2, 0]])),
    "no_disagreement": lambda: figures.agreement(["a", "b"], np.zeros((2, 2), int)),
    "roc": lambda: figures.roc(
        {"blend": (np.array([0, 0.1, 1]), np.array([0, 0.9, 1])), "a": (np.array([0, 1]), np.array([0, 1]))}
    ),
    "reliability": lambda: figures.reliability(BINS, BINS[:1]),
    "probabilities": lambda: figures.probabilities(np.array([0.0, 0.4, 1.0]), np.array([0, 0, 1]), (0.3, 0.7)),
    "balance": lambda: figures.balance({"train": (5, 3), "test": (0, 0)}),
    "histogram": lambda: figures.histogram(np.array([1.0, 2.0, 5.0]), np.array([0, 1, 0]), np.array([0, 5, 10]), "age"),
    "violins": lambda: figures.violins(np.array([1.0, 2.0, 5.0]), np.array([0, 1, 0]), ["a", "b"], "age"),
    "one_label": lambda: figures.confusion(np.array([[5, 1], [0, 0]])),
    "fold_accuracy": lambda: figures.fold_accuracy(pd.DataFrame({"a": [0.8, 0.9], "blend": [0.85, 0.95]})),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings_are_svg_and_repeat_themselves(name):
    first = DRAWINGS[name]()
    assert ElementTree.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"
    assert first == DRAWINGS[name]()
    assert b"<dc:date>" not in first and len(first) < 200_000


def test_page_escapes_and_asks_the_network_for_nothing():
    figure = html.figure(DRAWINGS["confusion"](), 'counts "5" < 6', "caption & more")
    page = html.page(
        "a < b", [html.heading("x & y", 1), html.paragraph("<script>"), html.code("a && b"), html.figures([figure])]
    )
    assert "<title>a &lt; b</title>" in page and "<h1>x &amp; y</h1>" in page and "<script>" not in page
    assert 'aria-label="counts &quot;5&quot; &lt; 6"' in page and "caption &amp; more" in page
    assert all(source.startswith(("data:", "#")) for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    svg = re.search(r"<svg.*?</svg>", page, re.DOTALL)[0]
    assert ElementTree.fromstring(svg).get("role") == "img"
    assert "<metadata" not in svg and "<style" not in svg and "http://purl.org" not in svg


def test_a_drawing_in_a_page_has_the_pages_colours_and_ids_of_its_own():
    first, second = (html.figure(DRAWINGS[name](), "alt", "caption") for name in ("probabilities", "reliability"))
    for text in (first, second):
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r"(href=\"|url\()#", "", text)), (
            "a colour that would not follow the page into the dark"
        )
        used, there = set(re.findall(r'(?:href="|url\()#([^")]*)', text)), re.findall(r' id="([^"]*)"', text)
        assert used == set(there) and len(there) == len(used)
    assert not set(re.findall(r' id="([^"]*)"', first)) & set(re.findall(r' id="([^"]*)"', second))
    assert re.search(r"<svg [^>]*viewBox=", first) and not re.search(r"<svg [^>]*(width|height)=", first)


def test_contents_link_to_the_sections():
    parts = [
        html.heading("Who corrects & whom"),
        html.paragraph("x"),
        html.heading("small", 3),
        html.heading("The data"),
    ]
    assert html.contents(parts) == (
        '<nav><a href="#who-corrects-whom">Who corrects &amp; whom</a><a href="#the-data">The data</a></nav>'
    )
    assert parts[0] == '<h2 id="who-corrects-whom">Who corrects &amp; whom</h2>'


def linear(colour: str) -> np.ndarray:
    """Linear RGB (3,) of an sRGB colour `#rrggbb`."""
    value = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of luminances."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (3,) of linear RGB (3,)."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    f = np.array(
        [value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in xyz / [0.9505, 1, 1.089]]
    )
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


EYES = {  # Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as such an eye sees it
    "all colours": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_stand_out_and_every_eye_tells_them_apart(scheme):
    series = [pair[scheme] for pair in palette.SERIES.values()]
    page = {name: pair[scheme] for name, pair in palette.PAGE.items()}
    assert min(contrast(colour, page["paper"]) for colour in series) >= 3  # WCAG 1.4.11, graphics
    assert (
        min(contrast(page[text], page[ground]) for text in ("ink", "faint") for ground in ("paper", "soft")) >= 4.5
    )  # 1.4.3, text
    for name, eye in EYES.items():
        seen = [lab(eye @ linear(colour)) for colour in series]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 14, name


def test_table_marks_numbers_and_the_picked_row():
    got = html.table(["name", "n"], [("<b>", 1), ("c", 2)], numbers=[1], picked=1)
    assert '<tr><th>name</th><th class="number">n</th></tr>' in got
    assert '<tr><td>&lt;b&gt;</td><td class="number">1</td></tr>' in got
    assert '<tr class=picked><td>c</td><td class="number">2</td></tr>' in got
