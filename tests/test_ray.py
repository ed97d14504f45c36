"""Folds as tasks of a Ray cluster on loopback: with a shared folder, without one, with a machine that dies."""

import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from facefold import desk
from facefold.data.audit import load_images_hash
from facefold.data.cache import build_caches
from facefold.data.corrections import NO_CORRECTIONS
from facefold.data.folds import load_folds
from facefold.desk import Served
from facefold.models.recipe import load_recipe
from facefold.remote import FOLDER, Store, mirror
from facefold.runs import Identity
from facefold.training import ray_workers
from facefold.training.jobs import FoldJob, order_jobs, run_job
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file, write_text

pytest.importorskip("ray", reason="the package ray is not installed: pip install -r requirements-cluster.txt")

from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
WANTED = [("lite0_96@1", 0), ("demo_cnn@15", 0), ("demo_cnn@15", 1)]
CPU = (torch.device("cpu"),)
SRC = Path(__file__).resolve().parents[1] / "src"
SMALL = {"object_store_memory": 80 << 20, "num_cpus": 1}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A cluster of a machine without CPUs, which drives, and two machines with one, by the folder of their copies of a root."""
    ray_workers.require_ray()
    made = Cluster(
        initialize_head=True,
        head_node_args={
            **SMALL,
            "num_cpus": 0,
            "include_dashboard": False,
            "_system_config": {
                "health_check_initial_delay_ms": 500,
                "health_check_period_ms": 500,
                "health_check_failure_threshold": 3,
                "worker_niceness": 0,
            },
        },
    )
    folders = [tmp_path_factory.mktemp("machine") for _ in range(2)]
    made.machines = {folder: made.add_node(**SMALL, env_vars={FOLDER: str(folder)}) for folder in folders}
    yield made
    made.shutdown()


@pytest.fixture
def cluster(nodes, monkeypatch):
    """The driver's end. A process takes several jobs: each one's start costs seconds."""
    monkeypatch.setattr(ray_workers, "CALLS", 0)
    return lambda: ray_workers.RayWorkers(nodes.address, "auto")


def planned(root: Path, wanted=WANTED, home: Store | None = None):
    split = load_folds(root)
    made = []
    for name, fold in wanted:
        identity = Identity(name, load_recipe(name).hash, split.hash, load_images_hash(root), 0)
        made.append(FoldJob(root, identity, NO_CORRECTIONS, fold, None, 0, home=home, waits=True))
    return order_jobs(made, 1)


def drawn(deal, root: Path) -> Path:
    competition = deal(root, 60, 20, 96, 2)
    for name in {name for name, _ in WANTED}:
        build_caches(competition, load_recipe(name).size)
    return root


def results(root: Path) -> dict[str, str]:
    """The sha256 of all that folds leave but times, which are in run.json and history.csv."""
    return {
        path.relative_to(root).as_posix(): sha256_file(path)
        for path in sorted(root.glob("runs/*/fold_*/*"))
        if path.name not in ("run.json", "history.csv")
    }


@pytest.fixture(scope="module")
def alone(deal, tmp_path_factory) -> dict[str, str]:
    """What the folds are without Ray."""
    root = drawn(deal, tmp_path_factory.mktemp("alone"))
    for job in planned(root)[0]:
        job.work(CPU[0], 0)
    return results(root)


def unseen(monkeypatch) -> None:
    """Let no task see the driver's root."""
    monkeypatch.setattr(ray_workers, "_marked", lambda root: nullcontext(root / "elsewhere"))


def test_without_a_shared_folder_and_with_a_machine_that_dies_the_bytes_are_the_same(
    deal, tmp_path, alone, nodes, cluster, monkeypatch, capsys
):
    root, fold, sealed = drawn(deal, tmp_path), "runs/demo_cnn@15/fold_0", []
    unseen(monkeypatch)

    def kill_in_mid_fold():
        while not (root / fold / "checkpoint.safetensors").exists():
            time.sleep(0.02)
        [at_it] = [folder for folder in nodes.machines if list(folder.glob(f"*/{fold}/checkpoint.safetensors"))]
        nodes.remove_node(nodes.machines.pop(at_it), allow_graceful=False)
        sealed.append((root / fold / "run.json").exists())

    killer = threading.Thread(target=kill_in_mid_fold)
    killer.start()
    ordered, after = planned(root)
    cluster().run(ordered, run_job, after)
    killer.join()
    assert sealed == [False] and results(root) == alone and len(alone) == 3 * 5
    assert "fold 0 epoch 1/15" not in capsys.readouterr().out.partition("fold 0 is started again")[2]
    assert not list(root.rglob("checkpoint*"))
    assert not [path for folder in nodes.machines for path in folder.iterdir()]
    assert (root / "cache" / "frozen" / "lite0_96@1").is_dir()  # fold 1 has not been trained


def test_in_a_shared_folder_a_job_that_was_stopped_goes_on_and_a_bad_one_is_told(deal, tmp_path, alone, cluster, nodes):
    root = drawn(deal, tmp_path)
    step = [sys.executable, str(SRC / "train.py"), "--root", str(root), "--recipe", "demo_cnn@15", "--fold", "0"]
    process = subprocess.Popen(
        [*step, "--engine", "ray", "--address", nodes.address], stderr=subprocess.PIPE, text=True
    )
    while not list(root.glob("runs/*/*/checkpoint.safetensors")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.terminate()
    said = process.communicate(timeout=300)[1].strip().splitlines()
    assert process.returncode == 143 and not list(root.rglob("run.json")) and "Traceback" not in "".join(said), said
    assert said[-1] == "train.py: stopped; nothing is lost, the same command goes on where this one ended"
    [fold], _ = planned(root, WANTED[1:2])
    bad = replace(fold, identity=replace(fold.identity, target="age"))
    with pytest.raises(InputError, match="there are no folds yet. Run `python src/split.py --target age`.$"):
        cluster().run([fold, bad], run_job, {bad: [fold]})
    assert results(root) == {name: sha for name, sha in alone.items() if "demo_cnn@15/fold_0" in name}
    assert not [path for folder in nodes.machines for path in folder.iterdir()] and not list(
        (root / "cache").glob(".ray*")
    )


def test_with_a_root_at_a_url_tasks_fetch_and_send_there(deal, tmp_path, alone, cluster, nodes, monkeypatch):
    home = drawn(deal, tmp_path / "home")
    monkeypatch.setenv(FOLDER, str(tmp_path / "copies"))
    copy = mirror(f"file://{home}")
    unseen(monkeypatch)
    ordered, after = planned(copy.root, WANTED[:1], copy.store)
    cluster().run(ordered, run_job, after)
    assert (
        results(home) == {name: sha for name, sha in alone.items() if "lite0_96@1" in name} and results(copy.root) == {}
    )
    copy.pull("")
    assert results(copy.root) == results(home)
    assert not [path for path in (home / "cache" / "frozen").rglob("*") if path.is_file()]
    assert not [path for folder in nodes.machines for path in folder.iterdir()]


def test_a_job_that_fits_on_no_machine_is_told(deal, tmp_path, cluster, monkeypatch, capsys):
    monkeypatch.setattr(ray_workers.space, "memory", lambda recipe: 10**15)
    monkeypatch.setattr(ray_workers, "_LOOK", 0.1)
    root = drawn(deal, tmp_path)
    made = cluster()
    made.patience = 1.0
    said = "no machine of the cluster has 1 CPU, 1000000.0 GB of memory for one job"
    with pytest.raises(
        InputError,
        match=f"^{said} .*, and none joined in 1 s. Add such a machine, or take a recipe with a smaller batch",
    ):
        made.run(*planned(root, WANTED[1:])[:1], run_job, {})
    assert f"ray: {said}" in capsys.readouterr().out


def test_what_cannot_be_joined_is_a_sentence(nodes):
    with pytest.raises(InputError, match="^--address 127.0.0.1:1: .* Begin a cluster with `ray start --head` here and"):
        ray_workers.RayWorkers("127.0.0.1:1", "auto")
    with pytest.raises(InputError, match="^--address ray://x:1: run the step on a machine of the cluster"):
        ray_workers.RayWorkers("ray://x:1", "auto")
    with pytest.raises(
        InputError, match="^--device cuda: no machine of the cluster has a GPU; use --device cpu or auto$"
    ):
        ray_workers.RayWorkers(nodes.address, "cuda")


class Actor:
    """A desk in this process, asked as an actor is."""

    def __init__(self, root: Path):
        self._desk = desk.Desk(root)

    def __getattr__(self, name: str):
        return SimpleNamespace(remote=getattr(self._desk, name))


@pytest.fixture
def at_once(monkeypatch):
    """Ray's references are the values themselves."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda value: value, put=lambda value: value))


def test_files_travel_in_pieces(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(desk, "PIECE", 4)
    write_text(tmp_path / "root" / "cache" / "train_8px_a", "0123456789")
    write_text(tmp_path / "root" / "cache" / "none", "")
    store = Served(Actor(tmp_path / "root"))
    assert list(store.names("cache/train_8px_")) == ["cache/train_8px_a"] and sorted(store.names("cache/")) == [
        "cache/none",
        "cache/train_8px_a",
    ]
    for name in store.names("cache/"):
        store.get(name, tmp_path / "copy" / name)
        store.put(tmp_path / "copy" / name, f"back/{name}")
        assert [(tmp_path / "root" / place).read_bytes() for place in (name, f"back/{name}")] == [
            (tmp_path / "copy" / name).read_bytes()
        ] * 2
    store.remove("cache/none")
    store.remove("cache/none")
    assert sorted(store.names("")) == ["back/cache/none", "back/cache/train_8px_a", "cache/train_8px_a"]


def fail(job, _device, _slot):
    if job == "bad":
        raise InputError("row 3 is wrong")
    Path(job).touch()


def test_after_a_failure_and_after_one_that_is_waited_for_nothing_begins(tmp_path, at_once, capsys):
    def attempt(job, *before):
        return ray_workers._attempt(fail, job, CPU, (marker, "name"), actor, ray_workers._versions(), *before)

    actor, marker = Actor(tmp_path), tmp_path / "marker"
    marker.touch()
    assert attempt(str(tmp_path / "first"), None) is None and (tmp_path / "first").exists()
    assert attempt(str(tmp_path / "waits"), None, InputError("no")) == "skipped" and not (tmp_path / "waits").exists()
    assert (
        attempt(str(tmp_path / "first")) is None
        and "first is started again: its process or its machine died" in capsys.readouterr().out
    )
    assert str(attempt("bad")) == "row 3 is wrong"
    assert attempt(str(tmp_path / "late")) == "skipped" and not (tmp_path / "late").exists()


def test_a_machine_with_other_versions_is_refused(tmp_path, at_once):
    versions = {**ray_workers._versions(), "torch": "1.0"}
    failure = ray_workers._attempt(fail, "job", CPU, (tmp_path, "name"), Actor(tmp_path), versions)
    assert isinstance(failure, InputError)
    assert str(failure) == (
        f"job: a machine of the cluster has torch {ray_workers._versions()['torch']} instead of 1.0, which gives other bytes. "
        "Install the same there: `pip install -r requirements.txt`"
    )


def test_options_of_one_machine_are_refused():
    with pytest.raises(
        InputError, match="^--engine ray: the cluster decides what runs side by side and when; leave --workers out$"
    ):
        ray_workers.check_engine_options("ray", {"--workers": 2, "--budget": None})
    ray_workers.check_engine_options("local", {"--workers": 2})


def test_without_the_package_ray_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        InputError,
        match="^--engine ray needs the package ray, which is not installed: `pip install -r requirements-cluster.txt`",
    ):
        ray_workers.check_engine_options("ray", {})
