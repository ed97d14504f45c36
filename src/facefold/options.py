"""Options that several steps share: their arguments, and what they turn into."""

import argparse
import importlib.util
import re
from pathlib import Path

from facefold.cli import PROJECT, path_argument
from facefold.data.preprocessing import Shape
from facefold.models.run_name import MAX_SEED
from facefold.task import LABEL
from facefold.utils.errors import InputError


def added_argument(text: str) -> tuple[str, tuple[Path, Path]]:
    """Return the name and both files of NAME=OOF.csv,TEST.csv, predictions made elsewhere, for the type of --add.

    The name may be that of any run; one has `=` in its settings alone, which follow a `~`, and a path anywhere.
    """
    match = re.fullmatch(r"([\w.@#+-]+(?:~\w+=[\w.@#+-]+)*)=([^,]*),([^,]*)", text, re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text} is not NAME=OOF.csv,TEST.csv: a name of letters, digits, '.', '-' and '_', or of a run, and two "
            "files"
        )
    name, oof, test = match.groups()
    return name, (path_argument(oof), path_argument(test))


def add_seed_option(parser: argparse.ArgumentParser, help: str, default: int | None = 0) -> None:
    """Add --seed, by one rule for all steps: what numpy and scikit-learn take, 32 bits."""
    parser.add_argument("--seed", type=_seed, default=default, help=help)


def add_folds_option(parser: argparse.ArgumentParser, help: str) -> None:
    """Add --folds, the number of folds."""
    parser.add_argument("--folds", type=_fold_count, metavar="K", help=help)


def add_size_option(parser: argparse.ArgumentParser, help: str, default: int | None = None) -> None:
    """Add --size, of images: 224, or 192x128 for height and width."""
    parser.add_argument("--size", type=_size, default=default, metavar="N|HxW", help=help)


def add_weights_dir_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights-dir",
        type=path_argument,
        metavar="DIR",
        help="take pretrained weights from DIR/<timm name>.safetensors or .pth",
    )


def add_settings_option(parser: argparse.ArgumentParser) -> None:
    """Add -o, the settings that replace those of every recipe that is named, a list of texts (see `add_settings`)."""
    parser.add_argument(
        "-o",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE[,..]",
        help="take variants of the recipes, with these settings: -o size=160,lr=3e-4",
    )


def _seed(text: str) -> int:
    if not re.fullmatch("[0-9]+", text) or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text}: a seed is a whole number from 0 to {MAX_SEED}")
    return int(text)


def _fold_count(text: str) -> int:
    if not re.fullmatch("[0-9]+", text) or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text}: at least 2 folds are needed, 5 are usual")
    return int(text)


def add_target_option(parser: argparse.ArgumentParser) -> None:
    """Add --target to a step; all files of a target other than the label lie in a folder of its own."""
    parser.add_argument(
        "--target",
        default=LABEL.name,
        metavar="COLUMN",
        help="what to predict: label (default), or a column of numbers of meta.csv, such as age, by regression",
    )


def add_competition_options(parser: argparse.ArgumentParser) -> None:
    """Add what a person says of a competition, in place of what is inferred from its files; see audit.py."""
    metrics = "accuracy, auc, log_loss, macro_f1, balanced_accuracy; of more than two classes also qwk, mean_auc"
    parser.add_argument("--metric", default="", metavar="NAME", help=metrics)
    parser.add_argument("--submission", default="", choices=("labels", "probabilities"), help="what is submitted")
    parser.add_argument("--id-column", default="", metavar="NAME", help="the column of the ids")
    parser.add_argument("--label-column", default="", metavar="NAME", help="the column of the labels in train.csv")
    add_images_option(parser, "where the images are in --data")
    parser.add_argument("--in-place", action="store_true", help="leave the images in the folder --data")


def add_images_option(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--images", type=_image_folders, default={}, metavar="train=DIR,test=DIR", help=help)


def images_options(folders: dict[str, str]) -> list[str]:
    """Return the arguments of audit.py for the folders that --images named, by split."""
    named = ",".join(f"{split}={folder}" for split, folder in folders.items())
    return ["--images", named] if named else []


def _size(text: str) -> int | Shape:
    if not re.fullmatch("[0-9]+(x[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text}: a size is a number of pixels, or height and width as 192x128")
    return Shape.parse(text) or int(text)


def _image_folders(text: str) -> dict[str, str]:
    folders = dict(part.partition("=")[::2] for part in text.split(","))
    if not set(folders) <= {"train", "test"} or not all(folders.values()):
        raise argparse.ArgumentTypeError(f"{text!r} is not train=DIR,test=DIR or one of the two")
    return {split: folder.strip("/") for split, folder in folders.items()}


def check_competition_options(args: argparse.Namespace) -> None:
    """Raise `InputError` for options of `add_competition_options` that need --data."""
    if args.data is None and (args.images or args.in_place):
        raise InputError("--images and --in-place say how --data is installed; name the source with --data as well")


def competition_options(args: argparse.Namespace) -> list[str]:
    """Return the options of `add_competition_options` that were used, for audit.py."""
    names = ("metric", "submission", "id_column", "label_column")
    options = [
        part for name in names if getattr(args, name) for part in (f"--{name.replace('_', '-')}", getattr(args, name))
    ]
    return options + images_options(args.images) + (["--in-place"] if args.in_place else [])


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: CUDA if there is a GPU"
    )


def add_log_option(parser: argparse.ArgumentParser) -> None:
    """Add --log, a list of texts, to a step that has something to log (see `training.tracking.load_tracking`)."""
    parser.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="TRACKER",
        help="log to tensorboard, wandb:PROJECT or mlflow:EXPERIMENT; may be repeated",
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add --engine and --address to a step that trains on one machine or on a Ray cluster."""
    parser.add_argument(
        "--engine",
        default="local",
        choices=("local", "ray"),
        help="where folds are trained: on this machine (default), or on a Ray cluster",
    )
    parser.add_argument(
        "--address",
        default="auto",
        help="of the Ray cluster: auto (default), HOST:PORT, or local, started for this step",
    )


def check_engine_options(args: argparse.Namespace, local_options: dict[str, object]) -> None:
    """Raise `InputError` if Ray is asked for and not installed, or comes with a value for one of the local options."""
    if args.engine != "ray":
        return
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "--engine ray needs the package ray, which is not installed: `pip install -r requirements-cluster.txt`, on "
            "every machine of the cluster"
        )
    if used := [name for name, value in local_options.items() if value]:
        raise InputError(
            f"--engine ray: the cluster decides what runs side by side and when; leave {' and '.join(used)} out"
        )


def recipe_list() -> str:
    """Return the names of the recipes in src/recipes, for a help text."""
    return ", ".join(sorted(path.stem for path in (PROJECT / "src" / "recipes").glob("*.toml")))
