"""Folds as tasks of a Ray cluster of one machine on loopback."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from facefold.data.cache import build_caches
from facefold.data.corrections import NO_CORRECTIONS
from facefold.data.folds import load_folds
from facefold.data.image_hashes import load_images_hash
from facefold.data.pseudo_labels import PseudoLabels
from facefold.models.recipe import load_recipe
from facefold.runs import Identity
from facefold.training import ray_workers
from facefold.training.jobs import FoldJob, order_jobs
from facefold.training.machine import CLASSIFIER_BYTES
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file, write_text

if find_spec("ray") is None:
    pytest.skip("the package ray is not installed: pip install -r requirements-cluster.txt", allow_module_level=True)
ray = ray_workers.import_ray()  # a bare import would let ray drop lines of two folds that look alike

from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDS = [("lite0_96~size=32@1", 0), ("demo_cnn@15", 0), ("demo_cnn@15", 1)]
CPU = torch.device("cpu")
SRC = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture(scope="module")
def address():
    """Start a cluster of one machine with two CPUs; return its address."""
    started = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "object_store_memory": 80 << 20,
            "include_dashboard": False,
            "_system_config": {"worker_niceness": 0},
        },
    )
    yield started.address
    started.shutdown()


@pytest.fixture
def cluster(address, monkeypatch):
    """Return a function that connects to the cluster, whose processes run several jobs, as starting one takes
    seconds.
    """
    monkeypatch.setattr(ray_workers, "CALLS", 0)
    return lambda: ray_workers.RayWorkers(address, "auto")


def plan_jobs(root: Path, folds=FOLDS):
    folds_hash, images_hash = load_folds(root).hash, load_images_hash(root)
    jobs = []
    for name, fold in folds:
        identity = Identity(name, load_recipe(name).hash, folds_hash, images_hash, 0)
        jobs.append(FoldJob(root, load_recipe(identity.recipe), identity, NO_CORRECTIONS, fold, None, 0, waits=True))
    return order_jobs(jobs, ["cpu"])


def competition_in(make_competition, root: Path) -> Path:
    competition = make_competition(root, 60, 20, 48, 2)
    for name in {name for name, _ in FOLDS}:
        build_caches(competition, load_recipe(name).preprocessing)
    return root


def results(root: Path) -> dict[str, str]:
    """Return the sha256 of all files of the folds but run.json and history.csv, which hold times."""
    return {
        path.relative_to(root).as_posix(): sha256_file(path)
        for path in sorted(root.glob("runs/*/fold_*/*"))
        if path.name not in ("run.json", "history.csv")
    }


@pytest.fixture(scope="module")
def local(make_competition, tmp_path_factory) -> dict[str, str]:
    """Train the folds without Ray; return their files' sha256."""
    root = competition_in(make_competition, tmp_path_factory.mktemp("local"))
    for job in plan_jobs(root)[0]:
        job.run(CPU, 0)
    return results(root)


def test_stopped_dying_and_failing_jobs_leave_the_bytes_of_the_local_engine(
    make_competition, tmp_path, local, address, cluster, capfd
):
    root = competition_in(make_competition, tmp_path)
    step = [sys.executable, str(SRC / "train.py"), "--root", str(root), "--recipe", "demo_cnn@15", "--fold", "0"]
    process = subprocess.Popen([*step, "--engine", "ray", "--address", address], stderr=subprocess.PIPE, text=True)
    while not list(root.glob("runs/*/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.terminate()
    errors = process.communicate(timeout=300)[1].strip().splitlines()
    assert process.returncode == 143 and not list(root.rglob("run.json")) and "Traceback" not in "".join(errors), errors
    assert errors[-1] == "train.py: stopped; nothing is lost, the same command continues where this one ended"
    capfd.readouterr()

    class DyingJob(FoldJob):
        """Die by SIGKILL after an epoch, the first time. Ray sends a local class by value."""

        def run(self, device, position):
            from facefold.training import fold as fold_module

            died = self.root / "died"
            if not died.exists():
                save = fold_module.save_checkpoint
                fold_module.save_checkpoint = lambda *args: (
                    save(*args),
                    died.touch(),
                    os.kill(os.getpid(), signal.SIGKILL),
                )
            FoldJob.run(self, device, position)

    ordered, after = plan_jobs(root)
    stopped = next(job for job in ordered if isinstance(job, FoldJob) and "demo_cnn" in str(job) and job.fold == 0)
    dying = DyingJob(**{field.name: getattr(stopped, field.name) for field in fields(stopped)})
    ordered[ordered.index(stopped)] = dying
    after[dying] = after.pop(stopped)
    bad = replace(stopped, identity=replace(stopped.identity, target="age"))
    with pytest.raises(InputError, match="there are no folds yet. Run `python src/split.py --target age`.$"):
        cluster().run([*ordered, bad], {**after, bad: ordered})
    assert results(root) == local and len(local) == 3 * 5 and (root / "died").exists()
    again = capfd.readouterr().out.partition("demo_cnn@15 fold 0 is started again: its process or its machine died")[2]
    assert "demo_cnn@15 fold 0 epoch 15/15" in again
    for epoch in (1, 2):  # there was one before it was stopped, and one before it died
        assert f"demo_cnn@15 fold 0 epoch {epoch}/15" not in again
    assert not list(root.rglob("checkpoint*")) and not list((root / "cache").glob(".ray*"))
    assert (root / "cache" / "frozen" / "lite0_96~size=32@1").is_dir()  # fold 1 has not been trained


def test_a_job_that_fits_on_no_machine_is_refused(make_competition, tmp_path, cluster, monkeypatch, capsys):
    monkeypatch.setattr(ray_workers, "estimate_training_memory", lambda recipe: 10**15)
    monkeypatch.setattr(ray_workers, "_POLL", 0.1)
    root = competition_in(make_competition, tmp_path)
    connected = cluster()
    connected.patience = 1.0
    problem = "no machine of the cluster has 1 CPU, 1000000.0 GB of memory for one job"
    with pytest.raises(
        InputError,
        match=f"^{problem} .*, and none joined in 1 s. Add such a machine, or use a recipe with a smaller batch",
    ):
        connected.run(plan_jobs(root, FOLDS[1:])[0], {})
    assert f"ray: {problem}" in capsys.readouterr().out


def test_a_fold_that_fits_teachers_needs_the_memory_of_a_classifier(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_workers, "estimate_training_memory", lambda recipe: 1000)
    recipe = load_recipe("demo_cnn")
    plain = FoldJob(tmp_path, recipe, Identity("demo_cnn", "", "", "", 0), NO_CORRECTIONS, 0, None, 0)
    taught = replace(plain, pseudo=PseudoLabels((("mine.svm", ("a", "b", "c")),), share=0.5))
    needs = ray_workers.RayWorkers._needs(SimpleNamespace(loader_workers=0, _gpu=False), [plain, taught])
    assert needs == {plain: {"CPU": 1, "memory": 1000}, taught: {"CPU": 1, "memory": CLASSIFIER_BYTES}}


def test_a_cluster_that_cannot_be_joined_is_named(address):
    with pytest.raises(InputError, match="^--address 127.0.0.1:1: .* Start a cluster with `ray start --head` here and"):
        ray_workers.RayWorkers("127.0.0.1:1", "auto")
    with pytest.raises(InputError, match="^--address ray://x:1: run the step on a machine of the cluster"):
        ray_workers.RayWorkers("ray://x:1", "auto")
    with pytest.raises(
        InputError, match="^--device cuda: no machine of the cluster has a GPU; use --device cpu or auto$"
    ):
        ray_workers.RayWorkers(address, "cuda")


@pytest.fixture
def gate(monkeypatch):
    """Return the gate in this process, called as an actor is; Ray's references are the values themselves."""
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    monkeypatch.setattr(ray_workers.socket, "gethostname", lambda: "worker")
    gate = ray_workers._gate()()
    return SimpleNamespace(start=SimpleNamespace(remote=gate.start), close=SimpleNamespace(remote=gate.close))


@dataclass(frozen=True)
class Touch:
    """Write the file `path`; fail if it is called bad."""

    path: str

    def __str__(self):
        return self.path

    def run(self, _device, _position):
        if self.path == "bad":
            raise InputError("row 3 is wrong")
        Path(self.path).write_text("ran")


@pytest.fixture
def attempt(gate, tmp_path):
    """Return a function that runs a task for the job `Touch(path)`."""
    marker = tmp_path / "root" / "cache" / "marker"
    write_text(marker, "")

    def run_task(path, *before, marker=marker, versions=None):
        return ray_workers._attempt(Touch(path), "cpu", marker, gate, versions or ray_workers._versions(), *before)

    return run_task


def test_after_a_failure_nothing_starts(tmp_path, attempt):
    first, waits, late = (str(tmp_path / name) for name in ("first", "waits", "late"))
    assert attempt(first, None) is None and Path(first).exists()
    assert attempt(waits, None, InputError("no")) == "skipped" and not Path(waits).exists()
    assert str(attempt("bad")) == "row 3 is wrong"
    assert attempt(late) == "skipped" and not Path(late).exists()


def test_a_job_is_started_again_three_times(tmp_path, attempt, capsys):
    job = str(tmp_path / "job")
    assert [attempt(job) for _ in range(4)] == [None] * 4
    assert capsys.readouterr().out == f"{job} is started again: its process or its machine died\n" * 3
    assert str(attempt(job)).startswith(
        f"{job} died 4 times, with its process or its machine; often for want of memory"
    )
    assert attempt(str(tmp_path / "late")) == "skipped"


def test_on_a_machine_that_does_not_see_the_root_nothing_starts(tmp_path, attempt):
    job = str(tmp_path / "job")
    failure = attempt(job, marker=tmp_path / "other" / "cache" / "marker")
    assert str(failure).startswith(f"the machine worker (10.0.0.7) of the cluster does not see {tmp_path}/other. Mount")
    assert isinstance(failure, InputError) and not Path(job).exists() and attempt(job) == "skipped"


def test_a_machine_with_other_versions_is_refused(tmp_path, attempt):
    failure = attempt(str(tmp_path / "job"), versions={**ray_workers._versions(), "torch": "1.0"})
    assert isinstance(failure, InputError) and not (tmp_path / "job").exists()
    assert str(failure) == (
        f"the machine worker (10.0.0.7) of the cluster has torch {ray_workers._versions()['torch']} instead of 1.0, "
        "which gives other bytes. Install the same there: `pip install -r requirements.txt`"
    )
