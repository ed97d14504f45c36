"""The notebook that trains on Kaggle, in the format of Jupyter (nbformat 4.5)."""

import json
from collections.abc import Sequence

from facefold.kaggle.kernel import MARK

NOTEBOOK = "train.ipynb"
_TITLE = """# Train {recipes} for {competition}

Image classifiers are trained on folds, in sessions. A session stops at the end of an epoch before its time is over,
and leaves what there is in its output. **To go on, run the notebook again** once it has ended: `kaggle kernels push`.
The output of its last version is one of its inputs (in the editor: look for an update of that input, then *Save
Version*), and it continues from there, to the result of one long session. Two GPUs train two folds at a time.

`submission.csv` is the blend of the recipes whose folds are all trained. Once all recipes are, a further version trains
nothing: it predicts the test images that it finds, also those of a hidden test set. Submit that version."""
_SETTINGS = """RECIPES = {recipes}  # files in src/recipes of the data set
SESSION = {session}  # Kaggle ends a session after 12 hours, and then keeps nothing of it
AUDIT = {audit}  # how the competition is read: options of audit.py
OPTIONS = []  # further options of run_all.py, such as "--folds", "10"
RETRAIN = ""  # runs that are stale, such as "lite0,lite1": what the former session has of them is left out, once
INPUT, OUTPUT, SCRATCH = "/kaggle/input", "/kaggle/working", "/kaggle/temp\""""
_FIND = """import sys
from pathlib import Path

packs = [path.parent for path in Path(INPUT).rglob("{mark}")]
assert len(packs) == 1, f"{{INPUT}} has {{len(packs)}} data sets of pack.py: add {dataset} as an input, once"
sys.path.insert(0, str(packs[0] / "src"))

from facefold.kaggle.session import Session

session = Session(packs[0], INPUT, OUTPUT, SCRATCH)"""


def training_notebook(
    competition: str, dataset: str, recipes: Sequence[str], session: str, audit: Sequence[str]
) -> dict:
    """Return the notebook's json.

    Args:
        competition: Kaggle's name of it.
        dataset: The id of the data set, `user/name`.
        recipes: What it trains.
        session: The time of a session, as `8h30m`.
        audit: Options of audit.py.
    """
    settings = {"recipes": ",".join(recipes), "session": session, "audit": list(audit)}
    literals = {name: json.dumps(value, ensure_ascii=False) for name, value in settings.items()}
    cells = [
        _markdown(_TITLE.format(recipes=", ".join(recipes), competition=competition)),
        _code(_SETTINGS.format(**literals)),
        _markdown("## Find the source and the competition"),
        _code(_FIND.format(mark=MARK, dataset=dataset)),
        _markdown("## Take over what is trained"),
        _code("session.restore(RETRAIN)"),
        _markdown("## Train until the session is over"),
        _code("session.train(RECIPES, SESSION, AUDIT, OPTIONS)"),
        _markdown("## Keep what the next session needs"),
        _code("session.keep()"),
    ]
    return {
        "cells": [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def _code(text: str) -> dict:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": text}
