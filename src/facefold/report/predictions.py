"""Predictions on new images as a page to look at: each face as the models saw it, beside what they made of it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from facefold.data.images import encode_thumbnail
from facefold.report import html

SHOWN = 200  # faces on the page, which stays below 10 MB
_PIXELS = 128


def page(table: pd.DataFrame, cut: Sequence[Path], lead: str) -> str:
    """One self-contained page on the first `SHOWN` rows of `table` (file, face, prob, label, ..); cut: the image of each row."""
    parts = [html.heading(lead, 1)]
    if len(table) > SHOWN:
        parts.append(html.paragraph(f"The first {SHOWN} of {len(table)} faces; all are in the csv."))
    for (_, row), path in zip(table.head(SHOWN).iterrows(), cut):
        photo = html.photo(
            encode_thumbnail(path, _PIXELS), f"face {row['face']} of {row['file']}", f"label {row['label']}"
        )
        parts.append(html.card([photo], f"{row['file']}, face {row['face']}: {in_words(row)}."))
    return html.page("Predictions", parts)


def in_words(row: pd.Series) -> str:
    """`label 1 with 0.973, label 0 with 0.027, age 31.4`: the likelier label first, then the numbers that follow prob, label."""
    pair = sorted([(row["prob"], 1), (1 - row["prob"], 0)], reverse=True)
    said = [f"label {label} with {value:.3f}" for value, label in pair]
    return ", ".join(said + [f"{name} {value:.3g}" for name, value in row.loc["label":].iloc[1:].items()])
