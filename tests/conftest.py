"""Puts src/ on the path, as running a step does, and keeps a test's torch in one thread, as the trainer's is."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import pytest  # noqa: E402
import torch  # noqa: E402

from facefold import files  # noqa: E402
from facefold.data import drawn, folds, integrity  # noqa: E402
from facefold.data.competition import Competition  # noqa: E402


@pytest.fixture(scope="session")
def deal():
    """`deal(root, train, test, size, k)` draws a competition into `root`, deals it into k folds and returns it."""

    def dealt(root: Path, train: int, test: int, size: int, k: int) -> Competition:
        drawn.draw(root, train=train, test=test, size=size)
        contest, images = integrity.load(root)
        folds.write(
            root,
            folds.make(
                contest.train, folds.groups(images), k, 0, files.sha256_file(root / "competition" / "train.csv")
            ),
        )
        return contest

    return dealt


@pytest.fixture(scope="module")
def one_thread():
    """torch in one thread, as the trainer's is, while the module's tests run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
