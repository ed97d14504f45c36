"""The report: its numbers by hand, and the whole page in a browser, where there is one."""

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import browser
from command import call, few_methods
from facefold.data.folds import load_folds, make_folds, write_folds
from facefold.ensemble.blend import Blend
from facefold.ensemble.calibration import CALIBRATION_C, cross_fitted
from facefold.report import galleries
from facefold.report.calibration import doubtful_section, reliability_bins
from facefold.report.groups import MAX_GROUPS, accuracy_by_column, band_edges, group_column, parse_numbers
from facefold.report.html import PAGE
from facefold.report.pages import nearest_neighbours
from facefold.report.sections import regression_sections
from facefold.runs import fold_dir, write_predictions
from facefold.task import task_named
from facefold.utils.files import csv_text, sha256_text
from test_blend_report import fabricate


def oof(labels: list[int], preds: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"{number:03}" for number in range(len(labels))], "label": labels, "pred": preds})


def test_groups_of_words_and_of_numbers():
    rows = oof([0, 0, 1, 1, 1], [0, 1, 1, 1, 0])
    meta = pd.DataFrame(
        {
            "id": ["004", "003", "002", "001", "000", "900"],
            "side": ["b", "a", "a", "", "a", "b"],
            "same": ["x"] * 6,
            "note": [f"word {number}" for number in range(6)],
        }
    )
    tables = accuracy_by_column(meta, rows)
    assert list(tables) == ["side", "note"]  # one value makes no groups
    side = tables["side"].set_index("group")
    assert side["rows"].to_dict() == {"a": 3, "b": 1} and side["accuracy"].to_dict() == {
        "a": 1.0,
        "b": 0.0,
    }  # 001 is in none
    assert side["label_0"]["a"] == 1 and side["label_1"]["b"] == 0 and math.isnan(side["label_0"]["b"])
    assert side["high"]["a"] == 1 and side["low"]["a"] == pytest.approx(
        0.4385, abs=1e-4
    )  # Wilson, 3 of 3: 3 / (3 + 1.96 ** 2)
    assert accuracy_by_column(None, rows) == {}


def test_bands_of_a_number_hold_their_lower_edge():
    ages = pd.Series([str(age) for age in [*range(20), 20, 39, 116]] + [""])
    banded = group_column(ages)
    assert list(banded.cat.categories) == [
        "0-9",
        "10-19",
        "20-29",
        "30-39",
        *(f"{low}-{low + 9}" for low in range(40, 120, 10)),
    ]
    assert banded.iloc[[0, 9, 10, 20, 21, 22]].tolist() == ["0-9", "0-9", "10-19", "20-29", "30-39", "110-119"]
    assert pd.isna(banded.iloc[23])
    assert group_column(pd.Series(["1", "2", "4", "10"])).cat.categories.tolist() == [
        "1",
        "2",
        "4",
        "10",
    ]  # codes, in their order
    assert parse_numbers(pd.Series([*map(str, range(20)), "many"])) is None
    assert group_column(pd.Series([f"name {number}" for number in range(13)])) is None


def test_bands_of_large_numbers_have_different_names():
    dates = group_column(pd.Series([str(20230101 + day) for day in range(31)]))
    assert dates.cat.categories.tolist() == [f"{low}-{low + 4}" for low in range(20230100, 20230131, 5)]
    assert dates.iloc[[0, 30]].tolist() == ["20230100-20230104", "20230130-20230134"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30).filter(lambda values: max(values) - min(values) > 1e-3))
def test_every_number_is_in_one_of_at_most_twelve_bands(values):
    numbers = np.array(values)
    cuts = band_edges(numbers)
    assert 2 <= len(cuts) <= MAX_GROUPS + 1 and cuts[0] <= numbers.min() and numbers.max() < cuts[-1]
    assert np.allclose(np.diff(cuts), cuts[1] - cuts[0], rtol=1e-6)


def test_the_smallest_number_below_zero_has_a_band():
    edges = band_edges(np.array([11.0, -5e-324]))
    assert edges[0] < 0 and edges[-1] > 11 and len(edges) <= MAX_GROUPS + 1


OTHER_SCALE = "the second pass's is of mean probabilities"


@pytest.mark.parametrize(
    ("change", "band", "default"),
    [
        ({}, (0.4, 0.6), ""),
        ({"picked": "second_pass"}, (0.3, 0.7), OTHER_SCALE),
        ({"picked": "rank_mean"}, (0.3, 0.7), OTHER_SCALE),
        ({"threshold": 0.41}, (0.3, 0.7), OTHER_SCALE),
        ({"leaks": {"order": {"used": True}}}, (0.3, 0.7), OTHER_SCALE),
        ({"leaks": {"order": {"used": False}}}, (0.4, 0.6), ""),
        ({"notes": {"second_pass": {"band": [0.5, 0.5]}}}, (0.3, 0.7), "the second pass found none on all rows"),
        ({"notes": {}}, (0.3, 0.7), "the second pass found none on all rows"),
    ],
)
def test_the_second_passs_band_is_taken_on_its_own_scale_only(change, band, default):
    oof = pd.DataFrame({"prob": [0.35, 0.45, 0.55, 0.9], "pred": [0, 0, 1, 1], "label": [0, 1, 1, 1]})
    test = pd.DataFrame({"prob": [0.65, 0.5]})
    facts = {"picked": "mean", "threshold": 0.5, "leaks": {}, "notes": {"second_pass": {"band": [0.4, 0.6]}}}
    section = doubtful_section(Blend(pd.DataFrame(), oof, test, {}, {**facts, **change}))
    assert (section["band"], section["default"]) == (band, default)
    rows = (section["train"], section["correct"], section["test"])
    assert rows == ((3, 2, 2) if default else (2, 1, 1))


def test_reliability_bins_by_hand():
    bins = reliability_bins(np.array([0.02, 0.08, 0.55, 1.0]), np.array([0, 1, 1, 1]))
    assert bins["rows"].tolist() == [2, 1, 1] and bins["share"].tolist() == [0.5, 1, 1]
    assert bins["mean"].tolist() == pytest.approx([0.05, 0.55, 1.0])
    assert (bins["low"] < bins["share"]).all() and (bins["share"] <= bins["high"]).all()


def test_recalibration_learns_on_the_other_folds_and_corrects_what_is_too_sure():
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 1.5, 4000)
    labels, fold = (rng.random(4000) < 1 / (1 + np.exp(-logit))).astype(int), np.arange(4000) % 2
    calibrated = cross_fitted(3 * logit[:, None], labels, fold, CALIBRATION_C)
    assert np.abs(calibrated - 1 / (1 + np.exp(-logit))).max() < 0.05
    turned = cross_fitted(3 * logit[:, None], np.where(fold == 0, 1 - labels, labels), fold, CALIBRATION_C)
    assert (
        np.corrcoef(turned[fold == 0], calibrated[fold == 0])[0, 1] > 0.99
    )  # the labels of the other fold are as they were
    assert np.corrcoef(turned[fold == 1], calibrated[fold == 1])[0, 1] < -0.99


def test_the_most_wrong_come_first():
    rows = pd.DataFrame(
        {"id": ["a", "b", "c", "d"], "label": [0, 1, 1, 0], "prob": [0.7, 0.1, 0.9, 0.9], "pred": [1, 0, 1, 1]}
    )
    assert galleries.most_wrong(rows)["id"].tolist() == ["b", "d", "a"]
    assert galleries.most_wrong(rows.iloc[2:3]).empty and galleries.most_wrong(rows.iloc[:1])["id"].tolist() == ["a"]
    assert galleries.most_doubtful(rows[["id", "prob", "pred"]])["id"].tolist() == ["a", "b", "c", "d"]


def test_neighbours_are_held_out_rows_of_the_same_fold(tmp_path):
    train = pd.DataFrame({"id": [f"{row:02d}" for row in range(16)], "label": [0, 1] * 8})
    split = make_folds(train, pd.Series(train["id"].tolist(), index=train["id"]), 2, 0, "sha")
    angles = {id: place * np.pi / 4 for k in (0, 1) for place, id in enumerate(split.valid(k)["id"])}  # around a circle
    for name, turn in (("a", 0.0), ("b", 1.0)):
        for k in (0, 1):
            ids = split.valid(k)["id"].tolist()[::-1]
            seen = np.array([[np.cos(angles[id] + turn), np.sin(angles[id] + turn)] for id in ids]) + 7 * k
            write_predictions(fold_dir(tmp_path, name, k), "oof", ids, np.full(8, 0.5), seen)
    own = split.valid(1).set_index("id")["label"]
    near = nearest_neighbours(tmp_path, ["a", "b"], split, [own.index[0]])
    assert near["id"].unique().tolist() == [own.index[0]] and near["rank"].tolist() == [1, 2, 3, 4, 5]
    assert near["similarity"].tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 0, 0, -(0.5**0.5)], abs=0.01)  # float16
    assert set(near["neighbour"][:2]) == {own.index[1], own.index[7]} and set(near["neighbour"][2:4]) == {
        own.index[2],
        own.index[6],
    }
    assert near["label"].tolist() == own.loc[near["neighbour"]].tolist()


META = "id,hair,one row,one known,blank,stamp,$items^$ _\n"


@pytest.mark.parametrize("wrong, class_in_all_folds", [(0, True), (1, False), (60, False)])
def test_none_one_and_all_rows_wrong_and_a_fold_without_a_class(tmp_path, make_competition, wrong, class_in_all_folds):
    competition = make_competition(tmp_path, 60, 10, 16, 3)
    if not class_in_all_folds:
        folds = load_folds(tmp_path)
        table = folds.table.assign(fold=np.where(folds.table["label"] == 1, np.arange(60) % 2, np.arange(60) % 3))
        write_folds(tmp_path, replace(folds, table=table, hash=sha256_text(csv_text(table))))
    rows = [
        f"{id},{('red', 'blue', '')[n % 3]},{'odd' if n == 7 else 'rest'},{'x' if n == 5 else ''},,{10**17 + n},"
        f"{('$a_$', 'b$_$')[n % 2]}\n"
        for n, id in enumerate([*competition.ids("train"), *competition.ids("test")])
    ]
    (tmp_path / "competition" / "meta.csv").write_text(META + "".join(rows))
    fabricate(tmp_path, {"lite0": 0.0, "mobilenetv2": 0.3}, competition.ids("train")[:wrong])
    with pytest.MonkeyPatch.context() as patch:
        few_methods(patch)
        for step in ("blend", "report", "clean"):
            call(step, tmp_path)
    text = (tmp_path / "report.html").read_text()
    count = int(re.search(r"<dt>train rows wrong</dt><dd>(\d+)<small>of 60</small></dd>", text)[1])
    assert count == wrong if wrong < 60 else count >= 20  # a threshold saves some of all
    assert ("These are not the models' probabilities: " in text) == (wrong == 60)
    assert not re.search(r"\bnan\b", text)
    shown = re.search(r"<h3>The most wrong</h3>(.*?)<h3>", text, flags=re.DOTALL)[1]
    assert shown.count('alt="train image ') == min(count, galleries.PHOTOS) and ("<p>None.</p>" in shown) == (not wrong)
    assert '<th scope="row">odd</th>' in text
    assert not {'<th scope="col">one known</th>', '<th scope="col">stamp</th>'} & set(re.findall("<th.*?</th>", text))


def test_numbers_that_bands_cannot_tell_apart_make_none():
    for numbers in (
        [1e17 + n for n in range(20)],
        [n * 1e-320 for n in range(20)],
        [n * 1e307 for n in range(-17, 17)],
    ):
        assert parse_numbers(pd.Series(map(str, numbers))) is None
    stamps = pd.Series([str(1_700_000_000_000 + 86_400_000 * day) for day in range(20)])
    assert group_column(stamps).value_counts().sum() == 20


def test_one_prediction_for_all_rows_has_no_correlation():
    oof = pd.DataFrame({"id": list("abc"), "label": [1.0, 2.0, 9.0], "pred": [3.0] * 3, "fold": [0, 0, 1]})
    score = {"mae": 2.0, "low": 1.0, "high": 3.0, "rmse": 3.0, "bias": 0.5}
    blend = Blend(pd.DataFrame(), oof, oof, {}, {"score": score})
    assert regression_sections(blend, task_named("age"))["correlation"] is None
    moving = replace(blend, oof=oof.assign(pred=oof["label"]))
    assert regression_sections(moving, task_named("age"))["correlation"] == pytest.approx(1)


LONG = "lite0~lr=0.0003~size=160~tta=flip_zoom~weight_decay=0.01@3#1"


@pytest.fixture(scope="module")
def page(tmp_path_factory, make_competition) -> Path:
    """Write the report of fabricated runs on a synthetic competition with meta.csv; only the quick methods run."""
    root = tmp_path_factory.mktemp("report")
    competition = make_competition(root, 160, 40, 32, 2)
    ids = [*competition.train["id"], *competition.test["id"]]
    rows = [f"{id},{number % 97},{('red', 'blue', '')[number % 3]}\n" for number, id in enumerate(ids)]
    (root / "competition" / "meta.csv").write_text("id,age,hair\n" + "".join(rows))
    fabricate(root, {"lite0": 2.0, "lite0~size=96": 2.2, "lite0+extra": 1.8, LONG: 2.3, "mobilenetv2": 2.4})
    with pytest.MonkeyPatch.context() as patch:
        few_methods(patch)
        for step in ("blend", "report"):
            call(step, root)
    return root / "report.html"


def test_the_page_says_what_is_asked_of_it(page):
    text = page.read_text()
    assert text.count("<h1>") == 1
    assert re.search(
        r"<h1>Synthetic competition, not real data\. Upload submissions/submission\.csv: nested accuracy "
        r"0\.\d{4} \[.*\] by \w+\. No leak was used\.</h1>",
        text,
    )
    headings = re.findall(r'<h2 id="[^"]*">(.*?)</h2>', text)
    assert headings == [
        "What each means gained",
        "Leaderboard",
        "Errors",
        "Probabilities",
        "Groups",
        "Who corrects whom",
        "Errors and doubts in pictures",
        "The data",
        "Learning curves",
        "Time and memory",
        "How to repeat it",
    ]
    nav = re.search(r"<nav.*?</nav>", text)[0]
    assert re.findall(r'<a href="#[^"]*">(.*?)</a>', nav) == headings
    levels = [int(level) for level in re.findall(r"<h(\d)", text)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    assert '<th scope="col">age</th>' in text and all(
        f'<th scope="row">{name}</th>' in text for name in ("90-99", "blue")
    )
    assert "<th>" not in text and "<td>age" not in text
    assert "size=<wbr>96<small>over lite0</small>" in text and "extra rows<small>over lite0</small>" in text
    assert "lite0+extra learned from 1,200 rows from outside of the competition, 1,199 to 1,200 in a fold" in text
    assert "lite0+extra: 1,200, 1,199 to 1,200 in a fold, 2 dropped" in text and "e" * 64 in text
    assert re.search(r'aria-label="lite0 is right on \d+ rows that lite0\+extra has wrong; lite0 is right on', text)
    assert re.search(
        r'alt="train image \d+: label [01], predicted [01], p = 0\.\d{3}" src="[^"]*"><figcaption>\d+\n'
        r"label [01]\npredicted [01]\np = 0\.\d{3}</figcaption>",
        text,
    )
    assert re.search(
        r'alt="test image \d+: predicted [01], p = 0\.\d{3}" src="[^"]*"><figcaption>\d+\n'
        r"predicted [01]\np = 0\.\d{3}</figcaption>",
        text,
    )
    assert 'class="sets"' in text  # the synthetic competition holds a picture with both labels
    assert "python src/train.py --recipe lite0,lite0~size=96,mobilenetv2 --seed 5" in text and len(text) < 10e6


SIZES = """[...document.querySelectorAll('figure img, figure svg')].filter(figure => {
    const box = figure.getBoundingClientRect(), label = figure.alt || figure.getAttribute('aria-label');
    const loaded = figure.tagName != 'IMG' || figure.complete && figure.naturalWidth > 40;
    return !(box.width > 40 && box.height > 40 && label && loaded);
}).length"""


ROWS = "[...document.querySelector('table.sortable').tBodies[0].rows].filter(row => !row.hidden)"
NAMES = ROWS + ".map(row => [...row.cells[0].childNodes].map(node => node.data || '').join(''))"
PRESS = "document.querySelectorAll('table.sortable th[scope=col] button')[{}].click()"
SORTED = "[...document.querySelectorAll('table.sortable th')].map(th => th.ariaSort).filter(Boolean).join()"
TYPE = "document.querySelector('.filter input').value = '{}'"
FILTER = "document.querySelector('.filter input').dispatchEvent(new Event('input'))"


def sort_and_filter(session: browser.Browser) -> None:
    """Click and type in the leaderboard, and compare what is there then."""
    before = session.evaluate(NAMES)
    assert session.evaluate(SORTED) == "descending" and len(before) > 8
    session.evaluate(PRESS.format(0))  # name
    assert session.evaluate(SORTED) == "ascending"
    names = session.evaluate(NAMES)
    assert sorted(names) == sorted(before) and names[0] == "auto" and names[-1] == "second_pass"
    session.evaluate(PRESS.format(0))
    assert session.evaluate(SORTED) == "descending" and session.evaluate(NAMES)[-1] == "auto"
    session.evaluate(PRESS.format(1))  # accuracy
    scores = session.evaluate(ROWS + ".map(row => Number(row.cells[1].dataset.value))")
    assert scores == sorted(scores, reverse=True) and session.evaluate(SORTED) == "descending"
    for text, rows in (("LITE0 recipe", 4), ("", len(before))):
        session.evaluate(TYPE.format(text))
        session.evaluate(FILTER)
        names = session.evaluate(NAMES)
        assert len(names) == rows and set(names) >= {"lite0", "lite0~size=96", "lite0+extra", LONG}
        assert session.evaluate("document.querySelector('.filter output').value") == f"{rows} of {len(before)} rows"


@pytest.mark.skipif(browser.find() is None, reason="no Chromium is installed (on Debian: apt install chromium)")
def test_in_a_browser_all_of_it_is_drawn_on_a_phone_in_the_dark_and_on_paper(page, tmp_path):
    with browser.Browser(tmp_path) as session:
        for width, scheme in ((1280, "light"), (390, "dark")):
            session.show(width, 844, scheme)
            session.open(page.as_uri())
            assert session.evaluate("document.querySelectorAll('figure').length") > 60
            assert session.evaluate(SIZES) == 0, f"figures without their size at {width}"
            assert session.evaluate("document.documentElement.scrollWidth") <= width, (
                "the page is wider than the window"
            )
            sort_and_filter(session)
            ink, paper = (PAGE[name][scheme == "dark"] for name in ("ink", "paper"))
            colour = "(part => getComputedStyle(part)[{!r}])(document.querySelector({!r}))"
            for selector, style, expected in (
                ("body", "backgroundColor", paper),
                ("figure svg g[style*='--ink']", "fill", ink),
            ):
                rgb = f"rgb({', '.join(str(int(expected[at : at + 2], 16)) for at in (1, 3, 5))})"
                assert session.evaluate(colour.format(style, selector)) == rgb
        session.show(794, 1123, "dark", "print")  # A4
        assert session.evaluate("document.documentElement.scrollWidth") <= 794
        assert session.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        for hidden in ("nav", ".filter"):
            assert session.evaluate(f"getComputedStyle(document.querySelector('{hidden}')).display") == "none"
        urls = {event["request"]["url"] for event in session.parameters("Network.requestWillBeSent")}
        assert {url for url in urls if not url.startswith("data:")} == {page.as_uri()}
        assert (
            session.parameters("Log.entryAdded")
            == session.parameters("Runtime.exceptionThrown")
            == session.parameters("Runtime.consoleAPICalled")
            == []
        )
