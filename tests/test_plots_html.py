"""The pieces of the report: escaped, self-contained, the same bytes for the same numbers."""

import base64
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from facefold.review import html, plots

HISTORY = pd.DataFrame({"epoch": [1, 2], "train_loss": [0.6, 0.4], "valid_loss": [0.5, 0.45], "valid_acc": [0.8, 0.85]})
DRAWINGS = {
    "intervals": lambda: plots.intervals(["a", "b"], *np.array([[0.9, 0.8], [0.85, 0.75], [0.95, 0.85]]), xlabel="accuracy"),
    "learning_curves": lambda: plots.learning_curves([HISTORY, HISTORY]),
    "one_epoch": lambda: plots.learning_curves([HISTORY[:1]]),
    "confusion": lambda: plots.confusion(np.array([[5, 1], [0, 4]])),
    "one_label": lambda: plots.confusion(np.array([[5, 1], [0, 0]])),
    "fold_accuracy": lambda: plots.fold_accuracy(pd.DataFrame({"a": [0.8, 0.9], "blend": [0.85, 0.95]})),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings_are_svg_and_repeat_themselves(name):
    first = DRAWINGS[name]()
    assert ElementTree.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"
    assert first == DRAWINGS[name]()
    assert b"<dc:date>" not in first and len(first) < 200_000


def test_page_escapes_and_asks_the_network_for_nothing():
    figure = html.figure(DRAWINGS["confusion"](), 'counts "5" < 6', "caption & more")
    page = html.page("a < b", [html.heading("x & y", 1), html.paragraph("<script>"), html.code("a && b"), html.figures([figure])])
    assert "<title>a &lt; b</title>" in page and "<h1>x &amp; y</h1>" in page and "<script>" not in page
    assert 'alt="counts &quot;5&quot; &lt; 6"' in page and "caption &amp; more" in page
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    svg = base64.b64decode(re.search(r"data:image/svg\+xml;base64,([^\"]+)", page)[1])
    assert ElementTree.fromstring(svg) is not None


def test_table_marks_numbers_and_the_picked_row():
    got = html.table(["name", "n"], [("<b>", 1), ("c", 2)], numbers=[1], picked=1)
    assert '<tr><th>name</th><th class="number">n</th></tr>' in got
    assert '<tr><td>&lt;b&gt;</td><td class="number">1</td></tr>' in got
    assert '<tr class=picked><td>c</td><td class="number">2</td></tr>' in got
