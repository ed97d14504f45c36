r"""Compare training by timm and fastai with ours: same split, weights, pixels, cores; seconds and accuracy by epoch.

    python bench/peers.py --root DIR --timm-train FILE --fastai-python PYTHON --epochs-timm 10 --epochs-fastai 4 \
        --recipe lite0

DIR holds a competition with folds (audit.py and split.py have run). Compared on fold 0:

    ours     python src/train.py --recipe lite0, folds 0 and 1 side by side, a thread each, from an empty cache of
             pixels (only the audit's table of checksums is copied); after the epochs it also predicts the test rows
    timm     FILE is the training script `train.py` of timm's repository (it is not in the wheel; take the version
             nearest to the installed one). Its own defaults: batch 128, SGD, lr 0.05, RandomResizedCrop, colour jitter,
             label smoothing 0.1, cosine with five epochs of warm-up, 4 loader workers, float32. Only the model,
             the weights, two classes, the size, the epochs and the CPU are set. --timm-flags "--channels-last .."
             adds others
    fastai   vision_learner(..).fine_tune(N) with its defaults, in another Python (PYTHON) that has fastai, timm and
             torch: batch 64, Resize, aug_transforms(), one frozen epoch before the N

Without --timm-train or --fastai-python that peer is left out, and the output says so. Both peers read an ImageFolder of
symlinks to the competition's jpgs and start from the weights that the recipe starts from, in timm's names.

The three take turns on the same cores, the others stopped (SIGSTOP), so that a machine whose speed drifts drifts for
all: the one that had the least time so far runs until the end of its epoch. With --limit N a peer is ended as soon as
the end of its next epoch, as long as the last one, would come after N times our CPU seconds a fold (of five): what it
has not reached, it reaches later. Seconds are those in which a peer ran. An epoch is training and validation; the first
has the start in it (imports; ours: decoding), so images per second are of the later ones where there are any. CPU
seconds and memory are those of all processes of a peer: VmHWM summed (pages that forked loader workers share are
counted in each). Timm and fastai use both cores for one fold; on a busy machine their threads wait for one another and
burn CPU seconds: compare on a quiet one.

Five folds: a peer's seconds x 5. Ours: what comes before the first epoch once (the cache is made for all folds; the
imports, a few seconds a fold, are thereby counted once), and the rest x 5 / cores, as the engine runs a fold a core. An
odd fold at the end leaves a core to the next recipe; where there is none it makes 3 rounds of 2.5, which is printed as
well. Linux only.

With --device cuda each trains one fold at a time on the first GPU, with all cores for its loaders, timm in the formats
that --timm-flags names ("--amp --amp-dtype bfloat16 --channels-last" are those of our recipes).
"""

import argparse
import csv
import hashlib
import json
import math
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

import tree

PROJECT = Path(__file__).resolve().parents[1]
FOLDS = 5
OURS = re.compile(r"fold (\d+) epoch (\d+)/(\d+):.*?valid accuracy ([\d.]+)")
TIMM = re.compile(r"Test: \[ *(\d+)/(\d+)\].*Acc@1: *[\d.]+ +\( *([\d.]+)\)")
FASTAI = re.compile(r"fastai epoch (\d+) accuracy ([\d.]+)")


def ours_mark(line: str) -> tuple[int, float] | None:
    """Return the fold and the accuracy in a line that ends an epoch; the peers train fold 0 only."""
    match = OURS.search(line)
    return (int(match[1]), float(match[4])) if match else None


def timm_mark(line: str) -> tuple[int, float] | None:
    match = TIMM.search(line)
    return (0, float(match[3]) / 100) if match and match[1] == match[2] else None


def fastai_mark(line: str) -> tuple[int, float] | None:
    match = FASTAI.search(line)
    return (0, float(match[2])) if match else None


@dataclass
class Peer:
    """A training that takes turns.

    mark: parses (fold, accuracy) from a line that ends an epoch. images: trained per epoch, of all `folds` side by
    side. rows: one per epoch, {seconds, cpu_seconds (both since its start), accuracy of fold 0}.
    """

    name: str
    command: list
    mark: Callable[[str], tuple[int, float] | None]
    images: int
    folder: Path
    folds: int = 1
    rows: list[dict] = field(default_factory=list)
    peaks: tree.Peaks = field(default_factory=tree.Peaks)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    done: bool = False
    process: subprocess.Popen | None = None
    last_lines: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Start it, stopped."""
        self._lines: queue.Queue = queue.Queue()
        self._accuracies: list[list[float]] = [[] for _ in range(self.folds)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
        environment.pop("OMP_NUM_THREADS", None)  # as many threads as each takes by itself
        self.process = tree.start(
            self.command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        tree.send_signal(self.process.pid, signal.SIGSTOP)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def turn(self) -> None:
        """Let it run until an epoch ends, or to its end."""
        started = time.perf_counter()
        tree.send_signal(self.process.pid, signal.SIGCONT)
        while min(map(len, self._accuracies)) <= len(self.rows) and not self.done:
            self.peaks.sample(self.process.pid)
            try:
                line = self._lines.get(timeout=0.5)
            except queue.Empty:
                continue
            if line is None:
                self.done = True
                break
            self.last_lines = [*self.last_lines[-30:], line]
            if mark := self.mark(line):
                fold, accuracy = mark
                self._accuracies[fold].append(accuracy)
        tree.send_signal(self.process.pid, signal.SIGSTOP)
        self.seconds += time.perf_counter() - started
        self.cpu_seconds = tree.waited(self.process) if self.done else tree.cpu_seconds(self.process.pid)
        if self.done and self.process.returncode:
            raise SystemExit(f"{self.name} ended with exit code {self.process.returncode}:\n{''.join(self.last_lines)}")
        if not self.done:
            accuracy = self._accuracies[0][len(self.rows)]
            self.rows.append({"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "accuracy": accuracy})

    def beyond(self, cpu_seconds: float) -> bool:
        """Return whether its next epoch would end after `cpu_seconds`."""
        if self.done or not self.rows:
            return False
        last = self.rows[-1]["cpu_seconds"] - (self.rows[-2]["cpu_seconds"] if len(self.rows) > 1 else 0)
        return self.cpu_seconds + last > cpu_seconds

    def stop(self) -> None:
        """End it where it is."""
        tree.end(self.process)
        self.done = True


def rows_of(path: Path) -> list[tuple[str, str]]:
    """Load (id, label) of each row of a folds csv."""
    with open(path, newline="", encoding="utf-8") as handle:
        return [(row["id"], row["label"]) for row in csv.DictReader(handle)]


def image_folder(root: Path, target: Path) -> int:
    """Link fold 0's images as target/<train|validation>/<label>/<id>.jpg; return the number of training rows."""
    for part, name in (("train", "train"), ("validation", "valid")):
        table = rows_of(root / "folds" / f"fold_0_{name}.csv")
        for id, label in table:
            link = target / part / label / f"{id}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((root / "competition" / "train" / f"{id}.jpg").resolve())
    return len(list(target.glob("train/*/*")))


def own_root(root: Path, target: Path) -> None:
    """Make a root with the same competition, folds and table of images, without a cache of pixels and without runs."""
    (target / "cache").mkdir(parents=True)
    for name in ("competition", "folds"):
        (target / name).symlink_to((root / name).resolve())
    for name in ("images.csv", "images.json"):
        shutil.copy2(root / "cache" / name, target / "cache" / name)


def write_weights(recipe_name: str, target: Path) -> str:
    """Write the recipe's pretrained weights under timm's names, as safetensors; return the backbone's name."""
    sys.path.insert(0, str(PROJECT / "src"))
    from safetensors.torch import save_file

    from facefold.models.pretrained import build_backbone
    from facefold.models.recipe import load_recipe

    chosen = load_recipe(recipe_name)
    if chosen.weights == "none":
        raise SystemExit(f"recipe {recipe_name} has no pretrained weights that the peers could start from")
    model, _ = build_backbone(chosen, drop_head=False)
    save_file(model.state_dict(), target)
    return chosen.backbone


def fastai_driver(folder: str, weights: str, backbone: str, epochs: int, size: int) -> None:
    """Train as fastai's users do, in the Python of --fastai-python; print a line per epoch."""
    from fastai.vision.all import Callback, ImageDataLoaders, Resize, accuracy, aug_transforms, set_seed, vision_learner

    class Say(Callback):
        order = 90  # after the recorder

        def after_epoch(self) -> None:
            Say.done = getattr(Say, "done", 0) + 1
            print(f"fastai epoch {Say.done} accuracy {self.recorder.values[-1][-1]:.6f}", flush=True)

    set_seed(0)
    loaders = ImageDataLoaders.from_folder(
        folder, train="train", valid="validation", item_tfms=Resize(size), batch_tfms=aug_transforms()
    )
    # pretrained=True, so that it freezes and normalises as always; timm reads the file instead of the hub.
    learner = vision_learner(loaders, backbone, metrics=accuracy, pretrained_cfg_overlay={"file": weights}, cbs=Say())
    with learner.no_bar():
        learner.fine_tune(epochs)


def versions(args: argparse.Namespace) -> dict[str, str]:
    """Return the versions that are compared, for the head of the output."""
    compared = {name: version(name) for name in ("torch", "timm")}
    if args.timm_train:
        compared["timm's train.py, sha256"] = hashlib.sha256(args.timm_train.read_bytes()).hexdigest()[:12]
    if args.fastai_python:
        code = "from importlib.metadata import version as v\n"
        code += "print(*[f'{name} {v(name)}' for name in ('fastai', 'torch', 'timm')])"
        done = subprocess.run([args.fastai_python, "-c", code], check=True, capture_output=True, text=True)
        compared["the Python of fastai"] = done.stdout.strip()
    return compared


def peers_of(args: argparse.Namespace, work: Path) -> list[Peer]:
    rows = image_folder(args.root, work / "images")
    backbone = write_weights(args.recipe, work / "weights.safetensors")
    own_root(args.root, work / "ours")
    side_by_side = ",".join(str(fold) for fold in range(args.at_once))
    peers = [
        Peer(
            "ours",
            [
                sys.executable,
                PROJECT / "src" / "train.py",
                "--root",
                work / "ours",
                "--recipe",
                args.recipe,
                "--device",
                args.device,
                "--fold",
                side_by_side,
                "--workers",
                args.at_once,
            ],
            ours_mark,
            args.at_once * rows,
            work,
            folds=args.at_once,
        )
    ]
    if args.timm_train:
        peers.append(
            Peer(
                "timm",
                [
                    sys.executable,
                    args.timm_train.resolve(),
                    "--data-dir",
                    work / "images",
                    "--model",
                    backbone,
                    "--pretrained",
                    "--pretrained-path",
                    work / "weights.safetensors",
                    "--num-classes",
                    2,
                    "--img-size",
                    args.img_size,
                    "--epochs",
                    args.epochs_timm,
                    "--device",
                    args.device,
                    *shlex.split(args.timm_flags),
                ],
                timm_mark,
                rows // 128 * 128,
                work,
            )
        )
    else:
        print("timm is not compared: --timm-train FILE is missing")
    if args.fastai_python:
        peers.append(
            Peer(
                "fastai",
                [
                    args.fastai_python,
                    Path(__file__).resolve(),
                    "--drive-fastai",
                    work / "images",
                    work / "weights.safetensors",
                    backbone,
                    args.epochs_fastai,
                    args.img_size,
                ],
                fastai_mark,
                rows // 64 * 64,
                work,
            )
        )
    else:
        print("fastai is not compared: --fastai-python PYTHON is missing")
    return peers


def before_first_epoch(peer: Peer, work: Path, recipe: str) -> float:
    """Return our seconds before the first epoch, which all folds share; history.csv has the first epoch's own."""
    seconds = []
    for path in (work / "ours" / "runs" / recipe).glob("fold_*/history.csv"):
        with open(path, newline="", encoding="utf-8") as handle:
            seconds.append(float(next(csv.DictReader(handle))["seconds"]))
    return max(0.0, peer.rows[0]["seconds"] - max(seconds))


def five_folds(peer: Peer, seconds: float, once: float, cores: int) -> float:
    """Return seconds of all cores for five folds, from those of one fold (ours: one per core) up to here."""
    return once + (seconds - once) * FOLDS / cores if peer.name == "ours" else seconds * FOLDS


def rates(peer: Peer) -> dict:
    """Return images per second over the epochs after the first (or the only one): medians and their number."""
    points = [{"seconds": 0.0, "cpu_seconds": 0.0}, *peer.rows]
    spans = list(zip(points, points[1:]))[1 if len(peer.rows) > 1 else 0 :]
    wall = [peer.images / (after["seconds"] - before["seconds"]) for before, after in spans]
    cpu = [peer.images / (after["cpu_seconds"] - before["cpu_seconds"]) for before, after in spans]
    return {"wall": median(wall), "cpu": median(cpu), "n": len(spans), "wall_least": min(wall), "wall_most": max(wall)}


def report(peers: list[Peer], args: argparse.Namespace, work: Path) -> dict:
    ours = peers[0]
    once = before_first_epoch(ours, work, args.recipe)
    with open(work / "ours" / "runs" / args.recipe / "fold_0" / "run.json", encoding="utf-8") as handle:
        run = json.load(handle)
    ours.rows.append(
        {"seconds": ours.seconds, "cpu_seconds": ours.cpu_seconds, "accuracy": run["metrics"]["accuracy"], "end": True}
    )
    print(f"\n{'':8}{'epoch':>6}{'seconds':>10}{'CPU s':>10}{'accuracy':>10}{'five folds, s':>15}")
    for peer in peers:
        for epoch, row in enumerate(peer.rows, 1):
            row["five_folds"] = five_folds(peer, row["seconds"], once, args.at_once)
            name = "end" if row.get("end") else epoch
            print(
                f"{peer.name:8}{name:>6}{row['seconds']:>10.1f}{row['cpu_seconds']:>10.1f}{row['accuracy']:>10.4f}"
                f"{row['five_folds']:>15.0f}"
            )
    print(
        f"(end of ours: held-out and test rows are predicted, each with its mirror image; {once:.1f} s before its "
        "first epoch)"
    )
    result = {}
    print(
        f"\n{'':8}{'images/s':>10}{'least':>8}{'most':>8}{'images/CPU s':>14}{'n':>4}{'peak MiB':>10}"
        f"{'ours by wall':>14}{'by CPU':>8}"
    )
    ours.rows, end = ours.rows[:-1], ours.rows[-1]
    reference = rates(ours)
    for peer in peers:
        rate = rates(peer)
        print(
            f"{peer.name:8}{rate['wall']:>10.1f}{rate['wall_least']:>8.1f}{rate['wall_most']:>8.1f}{rate['cpu']:>14.1f}"
            f"{rate['n']:>4}{peer.peaks.high_water:>10.0f}{reference['wall'] / rate['wall']:>13.2f}x"
            f"{reference['cpu'] / rate['cpu']:>7.2f}x"
        )
        points = [*peer.rows, end] if peer is ours else peer.rows
        result[peer.name] = {
            "epochs": points,
            "images_per_second": rate,
            "peak_mib": peer.peaks.high_water,
            "anonymous_mib": peer.peaks.anonymous,
            "command": shlex.join(str(part) for part in peer.command),
        }
    print(f"(images trained by {args.place} a second of an epoch, its validation included; medians of n epochs)")
    print(f"\nseconds of {args.place} until five folds reach {args.target} (fold 0's accuracy, taken for all):")
    for peer in peers:
        points = result[peer.name]["epochs"]
        reached = next((row["five_folds"] for row in points if row["accuracy"] > args.target), None)
        result[peer.name]["reached"] = reached
        best = max(row["accuracy"] for row in points)
        print(
            f"{peer.name:8}"
            + (f"{reached:.0f}" if reached else f"not reached in {len(peer.rows)} epochs (best {best:.4f})")
        )
    rounds = once + (end["seconds"] - once) * math.ceil(FOLDS / args.at_once)
    print(
        f"(ours to its end: {end['five_folds']:.0f}"
        + (f", and {rounds:.0f} where no other recipe fills the last round's cores)" if args.device == "cpu" else ")")
    )
    return {
        "peers": result,
        "once": once,
        "place": args.place,
        "target": args.target,
        "img_size": args.img_size,
        "versions": versions(args),
    }


def take_turns(peers: list[Peer], args: argparse.Namespace, work: Path) -> None:
    """Run all peers to their ends, the one with the least time next; end those that come late beyond --limit."""
    ours = peers[0]
    while running := [peer for peer in peers if not peer.done]:
        peer = min(running, key=lambda peer: peer.seconds)
        peer.turn()
        if not peer.done:
            accuracy = peer.rows[-1]["accuracy"]
            print(f"{peer.name} epoch {len(peer.rows)}: accuracy {accuracy:.4f}, {peer.seconds:.0f} s", flush=True)
        if args.limit and ours.done:
            once = before_first_epoch(ours, work, args.recipe) * ours.cpu_seconds / ours.seconds
            for late in running:
                if late.beyond(args.limit * five_folds(ours, ours.cpu_seconds, once, args.at_once) / FOLDS):
                    late.stop()


def main() -> None:
    if sys.argv[1:2] == ["--drive-fastai"]:
        folder, weights, backbone, epochs, size = sys.argv[2:]
        return fastai_driver(folder, weights, backbone, int(epochs), int(size))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root",
        type=Path,
        default=PROJECT,
        metavar="DIR",
        help="holds competition/, folds/ and cache/ (default: the project)",
    )
    parser.add_argument(
        "--recipe", default="lite0", help="ours; its backbone and weights are the peers' too (default: lite0)"
    )
    parser.add_argument("--timm-train", type=Path, metavar="FILE", help="timm's train.py; without it timm is left out")
    parser.add_argument("--timm-flags", default="", metavar="FLAGS", help="further flags of it, in one string")
    parser.add_argument(
        "--fastai-python", metavar="PYTHON", help="a Python that has fastai; without it fastai is left out"
    )
    parser.add_argument("--epochs-timm", type=int, default=10)
    parser.add_argument("--epochs-fastai", type=int, default=4, help="after the frozen one (default: 4)")
    parser.add_argument(
        "--img-size", type=int, default=128, help="pixels a side of the peers (default: 128, the size of lite0)"
    )
    parser.add_argument(
        "--cores", type=int, default=2, help="cores for each, and folds of ours side by side (default: 2)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--limit",
        type=float,
        metavar="N",
        help="end a peer whose next epoch is beyond N times our CPU seconds (default: never)",
    )
    parser.add_argument("--target", type=float, default=0.9345)
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="where the temporary folder is made (default: the system's)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    for needed in ("folds/fold_0_train.csv", "cache/images.json"):
        if not (args.root / needed).exists():
            parser.error(f"{args.root / needed} is missing: run audit.py and split.py with this --root first")
    args.at_once = args.cores if args.device == "cpu" else 1  # folds of ours
    args.place = f"{args.cores} cores" if args.device == "cpu" else "a GPU"
    if args.device == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work, peers = Path(tempfile.mkdtemp(prefix="peers_", dir=args.work)), []
    try:
        print("; ".join(f"{name} {value}" for name, value in versions(args).items()))
        peers = peers_of(args, work)
        for peer in peers:
            peer.start()
        take_turns(peers, args, work)
        result = report(peers, args, work)
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    finally:
        for peer in peers:
            if peer.process is not None:
                tree.end(peer.process)
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
