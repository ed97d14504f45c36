"""Each layout from the download to the submission, which answers in the words and columns of the sample."""

import numpy as np
import pandas as pd
import pytest

from command import few_methods, run, train_here
from facefold.task import Task
from layouts import AGES, GENDER, GROUP, LAYOUTS, TEST, WORDS, write

RECIPE = """
backbone = "cnn3"
size = 16
width = 8
batch = 4
epochs = 10
lr = 5e-3
augment = "none"
"""


@pytest.fixture
def quick_training(tmp_path, monkeypatch, one_thread):
    """Train a tiny recipe in this process, which saves the seconds of each start."""
    train_here(tmp_path / "recipes", monkeypatch, demo_cnn=RECIPE)
    few_methods(monkeypatch)


def answers(layout: str, task: Task) -> np.ndarray:
    """Return the class of each test image, as an index."""
    if layout == "text":
        return np.array([task.classes.index(WORDS[number]) for number in TEST])
    if task.kind == "binary":
        return np.array([GENDER[number] for number in TEST])
    names = [AGES[GROUP[number]] if set(task.classes) == set(AGES) else str(GROUP[number]) for number in TEST]
    return np.array([task.classes.index(name) for name in names])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_a_submission_in_the_form_of_its_sample(layout, tmp_path, quick_training):
    files, options, task, _, ids = LAYOUTS[layout]
    contents, root = files(), tmp_path / "root"
    source = write(tmp_path / "source", contents)
    for step, *more in [
        ("audit", "--data", source, *options),
        ("split", "--folds", "2"),
        ("train", "--recipe", "demo_cnn"),
        ("blend", "--method", "best_single" if task.kind == "binary" and layout != "text" else "auto"),
    ]:
        done = run(step, root, *more)
        assert done.returncode == 0, (step, done.stderr)
    submission = pd.read_csv(root / "submissions" / "submission.csv", dtype=str)
    samples = [name for name in contents if name in ("sample_submission.csv", "sampleSubmit.csv")]
    header, labels = ["id", "label"], answers(layout, task)
    if samples:
        sample = pd.read_csv(source / samples[0], dtype=str)
        header = list(sample)
        assert submission.iloc[:, 0].tolist() == sample.iloc[:, 0].tolist()
    assert list(submission) == header and submission.iloc[0, 0] == ids[1] and len(submission) == len(TEST)
    if task.submission == "labels":
        named = submission.iloc[:, 1].map(task.classes.index).to_numpy()
        assert (named == labels).mean() > (0.8 if task.kind == "binary" else 0.4)
    elif task.kind == "binary":
        prob = submission.iloc[:, 1].astype(float).to_numpy()
        assert prob[labels == 1].min() > prob[labels == 0].max() and len(set(prob)) > 2
    else:
        prob = submission[list(task.classes)].astype(float).to_numpy()
        assert prob.sum(axis=1) == pytest.approx(1, abs=1e-6) and (prob.argmax(axis=1) == labels).mean() > 0.4
    if layout == "text":
        assert run("report", root).returncode == 0
        page = (root / "report.html").read_text()
        assert "of label man, " in page and "predicted woman" in page and "of label 1" not in page
