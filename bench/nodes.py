"""Compare the whole job on a Ray cluster of two nodes (processes on loopback), one killed in mid-fold, with one
machine.

    python bench/nodes.py [--data DIR] [--recipes demo_cnn] [--folds 2] [--work DIR]

--data is a root with a competition/ (default: a synthetic one of 400 and 100 images). Trains it with `--engine local`,
then a copy of it with `--engine ray` on two nodes of one CPU each; as soon as a fold on each has a checkpoint, the
first node gets SIGKILL. Prints the seconds of both and the sha256 of the submission and of all folds' weights, OOF and
test predictions; exit code 1 where they differ. Needs requirements-cluster.txt.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SRC))

from facefold.data.synthetic import write_synthetic_competition  # noqa: E402

CPUS = 1
MEMORY = 100 << 20  # bytes of a node's object store


def job(root: Path, recipes: str, folds: int, *options: str) -> subprocess.Popen:
    """Start run_all.py in its own process, with one thread per fold."""
    return subprocess.Popen(
        [
            sys.executable,
            str(SRC / "run_all.py"),
            "--root",
            str(root),
            "--recipes",
            recipes,
            "--folds",
            str(folds),
            "--device",
            "cpu",
            *options,
        ],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def results(root: Path) -> dict[str, str]:
    """Return the sha256 of the files that must not depend on machines, by name."""
    paths = [
        root / "submissions" / "submission.csv",
        *root.glob("runs/*/oof.csv"),
        *root.glob("runs/*/fold_*/*.csv"),
        *root.glob("runs/*/fold_*/weights.safetensors"),
    ]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
        if path.name != "history.csv"
    }


def on_two_nodes(root: Path, recipes: str, folds: int) -> tuple[float, bool]:
    """Return seconds of the job on a cluster that loses a node, and whether it lost it in mid-fold."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "object_store_memory": MEMORY,
            "_system_config": {"worker_niceness": 0},
        },
    )
    nodes = [cluster.add_node(num_cpus=CPUS, object_store_memory=MEMORY) for _ in range(2)]
    started = time.monotonic()
    process = job(root, recipes, folds, "--engine", "ray", "--address", cluster.address)
    killed = False
    while process.poll() is None:
        if not killed and len(list(root.glob("runs/*/fold_*/checkpoint.pt"))) >= min(2, folds):
            cluster.remove_node(nodes[0], allow_graceful=False)
            killed = True
            print(f"== killed a node after {time.monotonic() - started:.0f} s", flush=True)
        time.sleep(0.05)
    seconds = time.monotonic() - started
    cluster.shutdown()
    if process.returncode:
        raise SystemExit(process.returncode)
    return seconds, killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--recipes", default="demo_cnn")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the roots there (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        alone, cluster = ((args.work or Path(temporary)) / name for name in ("alone", "cluster"))
        for root in (alone, cluster):
            if args.data:
                shutil.copytree(args.data / "competition", root / "competition")
            else:
                write_synthetic_competition(root, train=400, test=100, size=64)
        started = time.monotonic()
        if code := job(alone, args.recipes, args.folds).wait():
            raise SystemExit(code)
        seconds = time.monotonic() - started
        lost, killed = on_two_nodes(cluster, args.recipes, args.folds)
        expected, actual = results(alone), results(cluster)
    print(f"\n{'file':44} {'this machine':14} two nodes, one killed")
    for name in sorted(expected.keys() | actual.keys()):
        print(
            f"{name:44} {expected.get(name, '')[:12]:14} {actual.get(name, '')[:12]} "
            f"{'' if expected.get(name) == actual.get(name) else 'DIFFERS'}"
        )
    print(f"{seconds:.0f} s alone, {lost:.0f} s on two nodes; a node was {'' if killed else 'NOT '}killed in mid-fold")
    raise SystemExit(expected != actual or not killed)


if __name__ == "__main__":
    main()
