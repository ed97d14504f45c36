"""The pages: escaped, self-contained, and in colours that people tell apart."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import cv2
import jinja2
import numpy as np
import pandas as pd
import pytest

from facefold.report.bars import Axis
from facefold.report.html import PAGE, SERIES, TEMPLATES, breakable, inline_svg, list_headings, render_page
from facefold.report.pages import format_prediction, prediction_columns, predictions_page
from facefold.task import Task
from test_figures import DRAWINGS


def test_a_page_escapes_text_and_loads_nothing(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 20, 3), np.uint8))
    table = pd.DataFrame({"file": ['<b>"a" & b</b>'], "face": 1, "prob": 0.9, "label": 1})
    page = predictions_page(table, [tmp_path / "a.png"], "x & y <script>")
    assert "<h1>x &amp; y &lt;script&gt;</h1>" in page and "<script" not in page and "<b>" not in page
    assert 'alt="&lt;b&gt;&#34;a&#34; &amp; b&lt;/b&gt;, face 1"' in page and "<title>Predictions</title>" in page
    assert [source[:22] for source in re.findall(r'(?:src|href)="([^"]*)"', page)] == [
        "data:,",
        "data:image/jpeg;base64",
    ]
    assert "url(" not in page and "@import" not in page


def test_a_drawing_in_a_page_is_an_image_with_a_description():
    svg = inline_svg(DRAWINGS["confusion"](), 'counts "5" < 6')
    assert ElementTree.fromstring(svg).get("role") == "img"
    assert ElementTree.fromstring(svg).get("aria-label") == 'counts "5" < 6'
    assert "<metadata" not in svg and "<style" not in svg and "http://purl.org" not in svg


def test_the_names_of_runs_break_after_their_signs():
    assert breakable("a_b~c=0.1@3#1+d") == "a_<wbr>b~<wbr>c=<wbr>0.1@<wbr>3#<wbr>1+<wbr>d"
    assert breakable("<'&#>") == "&lt;&#39;&amp;#<wbr>&gt;"


def test_the_headings_of_a_page():
    page = '<h2 id="a">One &amp; all</h2><h3>x</h3><h2 id="b-c">Two</h2>'
    assert list_headings(page) == [("a", "One &amp; all"), ("b-c", "Two")]


def bar(axis: Axis, *numbers: float, mark: str = "") -> str:
    """Return the cell of a value, low and high."""
    return str(TEMPLATES.get_template("macros.html.j2").module.bar_cell(axis, *numbers, mark))


def test_an_interval_is_drawn_where_its_numbers_are():
    axis = Axis(0.0, 10.0, ((50.0, "5"),), 2.0)
    text = bar(axis, 4.0, 3.0, 8.0)
    assert '<line class="tick" x1="50.0%" x2="50.0%"' in text and 'class="reference" x1="20.0%" x2="20.0%"' in text
    assert '<line x1="30.0%" x2="80.0%" y1="50%" y2="50%"/>' in text and '<circle cx="40.0%"' in text
    assert '<rect x="40.0%"' in bar(axis, 4.0, 3.0, 8.0, mark="picked")
    assert "→" in bar(axis, 14.0, 3.0, 18.0) and "←" in bar(axis, -4.0, -9.0, 1.0)
    unknown = bar(axis, math.nan, 0.0, 1.0)
    assert not re.search("circle|rect|→|←|nan", unknown)


def test_a_template_without_its_data_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="'title' is undefined"):
        render_page("predictions.html.j2", faces=[], total=0)


def test_the_second_pass_in_words():
    second_pass = TEMPLATES.get_template("macros.html.j2").module.second_pass
    facts = {
        "rows": 96,
        "before": {"accuracy": 0.5, "low": 0.4, "high": 0.6},
        "after": {"accuracy": 0.625, "low": 0.52, "high": 0.72},
        "gain": {"gain": 0.125, "low": -0.01, "high": 0.26},
    }
    assert " ".join(second_pass(facts).split()) == (
        "The second pass decides 96 doubtful rows again: accuracy on them 0.5000 (0.4000 to 0.6000) before, "
        "0.6250 (0.5200 to 0.7200) after, +12.50 points [-1.00, +26.00]."
    )
    assert second_pass({"rows": 0}).strip() == (
        "The second pass found no band of doubtful rows in which a specialist decides better than the mean."
    )


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
    series = [pair[scheme] for pair in SERIES.values()]
    page = {name: pair[scheme] for name, pair in PAGE.items()}
    assert min(contrast(colour, page["paper"]) for colour in series) >= 3  # WCAG 1.4.11, graphics
    assert (
        min(contrast(page[text], page[ground]) for text in ("ink", "faint") for ground in ("paper", "soft")) >= 4.5
    )  # 1.4.3, text
    for name, eye in EYES.items():
        seen = [lab(eye @ linear(colour)) for colour in series]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 14, name


def test_the_three_likeliest_classes_are_named_and_the_table_has_all():
    four = Task(kind="multiclass", classes=("ant", "bee", "cow", "dog"))
    scores = np.array([[0.1, 0.25, 0.4, 0.25], [0.7, 0.1, 0.1, 0.1]])
    table = pd.DataFrame({"file": ["a.png", "b.png"], "face": [1, 1]})
    table = table.assign(**prediction_columns(scores, scores.argmax(axis=1), four), age=[31.42, 5.0])
    assert table.columns.tolist()[2:] == ["prob_ant", "prob_bee", "prob_cow", "prob_dog", "label", "age"]
    assert table["label"].tolist() == ["cow", "ant"] and table["prob_bee"].tolist() == [0.25, 0.1]
    first, second = (format_prediction(row, four) for _, row in table.iterrows())
    assert first == "label cow with 0.400, label bee with 0.250, label dog with 0.250, age 31.4"
    assert second.startswith("label ant with 0.700, label bee with 0.100, label cow with 0.100, age 5")


def test_two_classes_have_their_names():
    pets = Task(classes=("cat", "dog"))
    columns = prediction_columns(np.array([0.25, 0.5]), np.array([0, 1]), pets)
    assert columns["prob"].tolist() == [0.25, 0.5] and columns["label"].tolist() == ["cat", "dog"]
    row = pd.DataFrame(columns).loc[0]
    assert format_prediction(row, pets) == "label cat with 0.750, label dog with 0.250"
