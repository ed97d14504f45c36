"""On Kaggle, without internet: predict the test images with the packed weights, blend them, and leave submission.csv.

    python kernel.py [INPUT OUTPUT]    default: /kaggle/input and /kaggle/working

pack.py puts this file next to kernel-metadata.json. It looks below INPUT for what pack.py packed and for the
competition, and needs nothing else: packages that the notebook's image lacks come from the packed wheels. It ends with
whether the submission is the one that was packed, byte for byte. On another kind of processor, another torch or a GPU,
probabilities differ in their last digits, so that a row near 0.5 may get another label; it prints how many did.
"""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

MARK = "facefold_pack.json"


def single_folder(folders: list[Path], what: str, source: Path | str) -> Path:
    """Return the only one of `folders`; exit with a message if there is none, or more than one."""
    if len(folders) != 1:
        raise SystemExit(
            f"{source} holds {len(folders) or 'no'} {what}{': ' if folders else ''}{', '.join(map(str, folders))}; "
            "add the data set of pack.py and the competition to the notebook's input, each once"
        )
    return folders[0]


def competition_folders(source: Path) -> list[Path]:
    """Return the folders below `source` with train.csv and test.csv, or else with a sample submission.

    A competition may have neither, but a folder per class, say. Then it is each input that pack.py and a session did
    not write, of the competitions if Kaggle keeps these apart.
    """
    both = [path.parent for path in source.rglob("test.csv") if (path.parent / "train.csv").exists()]
    names = re.compile("sample[-_ ]?(submit|submission)", re.IGNORECASE)
    if found := both or sorted({path.parent for path in source.rglob("*.csv*") if names.match(path.name)}):
        return found
    inputs = source / "competitions" if (source / "competitions").is_dir() else source
    folders = sorted(path for path in inputs.iterdir() if path.is_dir())
    return [folder for folder in folders if not any(folder.rglob("facefold_*.json"))]


def install_wheels(pack: Path, target: Path, packages: Sequence[str] = ()) -> dict[str, str]:
    """Return the steps' environment variables; install the packed wheels into `target` if the image lacks packages.

    packages: that are needed besides those of pyproject.toml.
    """
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    check = [sys.executable, str(pack / "src" / "facefold" / "utils" / "environment.py"), *packages]
    missing = subprocess.run(check, env=env, stdout=subprocess.PIPE, encoding="utf-8", errors="replace")
    if not missing.returncode:
        return env
    wheels = sorted(map(str, (pack / "wheels").glob("*.whl")))
    if wheels:
        print(f"not in this image: {missing.stdout.strip()}; installing the packed wheels", flush=True)
        options = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--target", str(target))
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels], check=True)
        env["PYTHONPATH"] = str(target)
        missing = subprocess.run(check, env=env, stdout=subprocess.PIPE, encoding="utf-8", errors="replace")
    if missing.returncode:
        raise SystemExit(
            f"this image cannot run it: {missing.stdout.strip()}. Choose a newer image, or pack again with --python "
            f"{sys.version_info.major}.{sys.version_info.minor}"
        )
    return env


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder, writable: what lies below INPUT is not."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def compare_submissions(submission: Path, expected: Path, made_with: str) -> str:
    """Return a line that compares two files of id,label; `made_with` names the versions that wrote `expected`."""
    content = submission.read_bytes()
    if content == expected.read_bytes():
        return f"the same bytes as when it was packed (sha256 {hashlib.sha256(content).hexdigest()})"
    old, new = (
        {row[0]: row[1:] for row in csv.reader(path.read_text(encoding="utf-8").splitlines())}
        for path in (expected, submission)
    )
    if set(old) != set(new):
        return "of other test rows than when it was packed"
    differ = sum(old[id] != new[id] for id in new)
    return f"{differ:,} of {len(new) - 1:,} labels differ from those when it was packed (with {made_with})"


def main() -> None:
    source, output = (Path(part) for part in (sys.argv[1:3] or ("/kaggle/input", "/kaggle/working")))
    pack = single_folder([path.parent for path in source.rglob(MARK)], "data set of pack.py", source)
    data = single_folder(competition_folders(source), "competition", source)
    settings = json.loads((pack / MARK).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="facefold_") as folder:
        root = Path(folder) / "root"
        env = install_wheels(pack, Path(folder) / "packages")
        for name in ("folds", "runs"):
            copy_folder(pack / name, root / name)
        audit = ["audit", "--data", str(data), *settings["audit"]]
        for step, *options in (audit, ["predict", "--test"], ["blend", *settings["blend"]]):
            print(f"== {step}", flush=True)
            done = subprocess.run(
                [sys.executable, str(pack / "src" / f"{step}.py"), "--root", str(root), *options], env=env
            )
            if done.returncode:
                raise SystemExit(done.returncode)
            if step == "audit":  # a person may have put the classes into another order
                (root / "competition" / "task.toml").write_text(settings["task"], encoding="utf-8")
        output.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / "submissions" / "submission.csv", output / "submission.csv")
    submission = output / "submission.csv"
    print(f"{submission}: {compare_submissions(submission, pack / 'expected.csv', settings['made_with'])}")


if __name__ == "__main__":
    main()
