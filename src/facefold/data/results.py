"""Remove what the steps wrote for a synthetic competition, and nothing else.

Folders of such names (runs, cache, targets) are common, so a file is ours only if its whole path is one that a step
writes. Hidden files that are not, such as those of a desktop or an editor, stay where they are.
"""

import re
from pathlib import Path

from facefold.data.staging import README
from facefold.utils.errors import InputError

FOLDERS = ("submissions", "runs", "folds", "cache", "targets", "compare", "tensorboard", "sweep")
_FROZEN = r"frozen/[^/]+/([^/]+/){0,2}[^/]+(\.npy|\.lock)"
_TEACHERS = r"teachers/[^/]+/[0-9a-f]{16}/without_\d+_\d+\.(csv|lock)"
_CACHE = (
    r"images\.(csv|json)|(thumbnails|duplicates)_\d+_[0-9a-f]{12}\.(csv|npy)|"
    r"(train|test|extra)_\d+(x\d+)?px(_crop[0-9.e-]+)?_[0-9a-f]{12}_\d+\.npy|"
    rf"(budget|session)\.json|steps/[a-z_]+\.json|\.ray_[0-9a-f]{{32}}|{_FROZEN}|{_TEACHERS}|test/[^/]+/.+\.(npy|lock)"
)
_FOLD = r"weights\.safetensors|history\.csv|(oof|test)\.csv|features_(oof|test)\.npy|run\.json|checkpoint\.pt"
_SUBMISSIONS = (
    "submission|leaderboard|oof_blend|test_blend|log|order|duplicates|mean|best_single|majority|logit_mean|rank_mean|"
    "calibrated_mean|weighted_mean|weighted_votes|greedy|stack_probs|stack_features|second_pass|median|ridge"
)
_OURS = re.compile(
    rf"""(targets/[^/]+/)?(
      (report|label_issues)\.html
    | cache/({_CACHE})
    | folds/(folds\.(csv|json)|fold_\d+_(train|valid)\.csv)
    | runs/(label_issues\.csv|[^/]+/oof\.csv|[^/]+/fold_\d+/({_FOLD}))
    | submissions/(({_SUBMISSIONS}|added_[A-Za-z0-9_.~=@\#+-]+_(oof|test))\.csv|blend\.json)
    | tensorboard/[^/]+/(fold_\d+|summary)/events\.out\.tfevents\.[^/]+
    | sweep/[^/]+/(sweep\.csv|[^/]+_[0-9a-f]{{8}}/(history\.csv|result\.json|checkpoint\.pt))
    | compare/(comparison\.(csv|png)|[^/]+_[0-9a-f]{{8}}/(history\.csv|result\.json|checkpoint\.pt))
    )""",
    re.VERBOSE,
)


def find_results(root: Path) -> list[Path]:
    """Return the files under `root` that the steps wrote, and their folders after them.

    Raises `InputError` if the folders of the results hold anything else.
    """
    files, folders, foreign = [], [], []
    for top in [root / name for name in ("report.html", "label_issues.html", *FOLDERS)]:
        for path in sorted([top, *top.rglob("*")], reverse=True):  # what a folder holds comes before it
            inside = path.relative_to(root)
            if path.is_dir() and (path == top or not path.is_symlink()):
                folders += [] if path.is_symlink() else [path]  # results may lie on another disk
            elif _is_ours(inside):
                files.append(path)
            elif path.name != README and path.exists() and not any(part.startswith(".") for part in inside.parts):
                foreign.append(path)
    if foreign:
        raise InputError.of(
            f"{root} holds files that no step wrote, in folders that are removed with the synthetic competition:",
            map(str, sorted(foreign)),
            "Move them away, or choose another folder with --root. Nothing was changed.",
            limit=10,
        )
    return [path for path in files if path.exists()] + folders


def remove_results(paths: list[Path]) -> None:
    """Remove the files and folders of `find_results`; a folder that holds anything else stays."""
    for path in paths:
        if not path.is_dir():
            path.unlink(missing_ok=True)
        elif not any(path.iterdir()):
            path.rmdir()


def _is_ours(path: Path) -> bool:
    """Return whether a step writes a file of this path, relative to the root, or leaves it if it is killed."""
    name = path.name
    if name.startswith(".") and name.endswith(".part"):
        name = name.removeprefix(".").removesuffix(".part")
    name = name.removesuffix(".sha256")
    return _OURS.fullmatch(path.with_name(name).as_posix()) is not None
