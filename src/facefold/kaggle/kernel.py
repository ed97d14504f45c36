"""On Kaggle, without internet: predict the test images with the packed weights, blend them, and leave submission.csv.

    python kernel.py [INPUT OUTPUT]    default: /kaggle/input and /kaggle/working

pack.py puts this file beside kernel-metadata.json. It looks below INPUT for what pack.py packed and for the
competition, and needs nothing else: packages that the notebook's image lacks come from the packed wheels. It ends with
whether the submission is the one that was packed, byte for byte. On another kind of processor, another torch or a GPU,
probabilities differ in their last digits, so that a row near 0.5 may be decided otherwise; it says how many were.
"""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MARK = "facefold_pack.json"


def only(found: list[Path], what: str, source: Path) -> Path:
    """The one folder of that kind; leaves where there is none, or more than one."""
    if len(found) != 1:
        raise SystemExit(
            f"{source} holds {len(found) or 'no'} {what}{': ' if found else ''}{', '.join(map(str, found))}; "
            "add the data set of pack.py and the competition to the notebook's input, each once"
        )
    return found[0]


def install(pack: Path, target: Path) -> dict[str, str]:
    """The environment of the steps: the packed wheels before the image's packages, where the image lacks what they
    need.
    """
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    asked = [sys.executable, str(pack / "src" / "facefold" / "utils" / "environment.py")]
    lacks = subprocess.run(asked, env=env, stdout=subprocess.PIPE, text=True)
    if not lacks.returncode:
        return env
    wheels = sorted(map(str, (pack / "wheels").glob("*.whl")))
    if wheels:
        print(f"not in this image: {lacks.stdout.strip()}; installing the packed wheels", flush=True)
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-index",
                "--no-deps",
                "--target",
                str(target),
                *wheels,
            ],
            check=True,
        )
        env["PYTHONPATH"] = str(target)
        lacks = subprocess.run(asked, env=env, stdout=subprocess.PIPE, text=True)
    if lacks.returncode:
        raise SystemExit(
            f"this image cannot run it: {lacks.stdout.strip()}. Choose a newer image, or pack again with --python "
            f"{sys.version_info.major}.{sys.version_info.minor}"
        )
    return env


def bring(source: Path, target: Path) -> None:
    """Copy a folder, writable: what lies below INPUT is not."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def compare(made: Path, expected: Path, made_with: str) -> str:
    """What there is to say of the submission beside the packed one, both id,label."""
    if made.read_bytes() == expected.read_bytes():
        return f"the same bytes as when it was packed (sha256 {hashlib.sha256(made.read_bytes()).hexdigest()})"
    old, new = (dict(list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:]) for path in (expected, made))
    if set(old) != set(new):
        return "of other test rows than when it was packed"
    differ = sum(old[id] != new[id] for id in new)
    return f"{differ:,} of {len(new):,} labels differ from those when it was packed (with {made_with})"


def main() -> None:
    source, output = (Path(part) for part in (sys.argv[1:3] or ("/kaggle/input", "/kaggle/working")))
    pack = only([path.parent for path in source.rglob(MARK)], "data set of pack.py", source)
    data = only(
        [path.parent for path in source.rglob("test.csv") if (path.parent / "train.csv").exists()],
        "competition",
        source,
    )
    told = json.loads((pack / MARK).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="facefold_") as folder:
        root = Path(folder) / "root"
        env = install(pack, Path(folder) / "packages")
        for name in ("folds", "runs"):
            bring(pack / name, root / name)
        for step, *options in (["audit", "--data", str(data)], ["predict", "--test"], ["blend", *told["blend"]]):
            print(f"== {step}", flush=True)
            done = subprocess.run(
                [sys.executable, str(pack / "src" / f"{step}.py"), "--root", str(root), *options], env=env
            )
            if done.returncode:
                raise SystemExit(done.returncode)
        output.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / "submissions" / "submission.csv", output / "submission.csv")
    print(
        f"{output / 'submission.csv'}: {compare(output / 'submission.csv', pack / 'expected.csv', told['made_with'])}"
    )


if __name__ == "__main__":
    main()
