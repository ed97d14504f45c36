"""What the notebook of `pack.py --train` does in a session on Kaggle, a call for each cell.

Kaggle ends a session after some hours. Of one that ended well it keeps what is in OUTPUT, and the next session finds
that below INPUT. What is in SCRATCH, such as the cached images, is gone.

OUTPUT/facefold/        facefold_session.json (images, ..), folds/, runs/: finished folds, checkpoints of others
OUTPUT/submission.csv   of the runs that are complete; likewise OUTPUT/report.html

Nothing but the standard library is needed, as packages may have to be installed first.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from facefold.data.image_hashes import hash_splits
from facefold.data.image_names import has_image_suffix
from facefold.kaggle.kernel import MARK, competition_folders, copy_folder, install_wheels, single_folder
from facefold.utils.console import parse_budget
from facefold.utils.errors import InputError
from facefold.utils.files import format_bytes, read_json, write_json

SESSION_MARK = "facefold_session.json"
LIMIT = 20_000_000_000  # bytes that Kaggle keeps of OUTPUT
SECONDS = 12 * 3600  # after which Kaggle ends a session
_REFUSED = ("--target", "--root")  # options of run_all.py whose runs are in another folder than those that are kept


class Session:
    """A session of training: its input, the `root` in which it trains, and its output.

    former: the output of the session before, None in the first one. images: the hashes (`hash_splits`) of the images
    that the runs are of, None without runs. retrain: the runs that are trained again. rerun: whether the test images
    are others now. only_predicts: whether all was trained before. failed: the exit code of a step that failed.
    """

    def __init__(self, pack: Path, source: str, output: str, scratch: str):
        """Find the competition and the former session below `source`; install what the image lacks.

        Args:
            pack: What pack.py packed.
            source: The folder of all input.
            output: What Kaggle keeps of this session.
            scratch: What it does not keep.
        """
        self.started, self.output, self.root = time.monotonic(), Path(output), Path(scratch) / "facefold"
        self.pack = pack
        self.root.mkdir(parents=True, exist_ok=True)
        self.data = single_folder(competition_folders(Path(source)), "competition", source)
        former = [path.parent for path in Path(source).rglob(SESSION_MARK)]
        self.former = single_folder(former, "output of a session", source) if former else None
        self.settings = read_json(self.pack / MARK)
        before = read_json(self.former / SESSION_MARK) if self.former else self.settings
        self.images, self._retrained, self._left_out = before["images"], before.get("retrain", []), []
        self.retrain, self.recipes, self.rerun, self.only_predicts, self.failed = [], [], False, False, 0
        self.env = install_wheels(self.pack, Path(scratch) / "packages", self.settings["packages"])
        self.env["PYTHONUNBUFFERED"] = "1"
        print(f"source: {self.pack}\ncompetition: {self.data}\nformer session: {self.former or 'none'}")

    def restore(self, retrain: str = "") -> None:
        """Take over the folds and runs of the former session, and those that were packed.

        retrain: names of runs, as `lite0,lite1`. What the former session has of them is left out, unless that session
        left them out as well: then it has what was trained since. Exit with a message for a run that it does not have.
        """
        self.retrain = _split_names(retrain)
        there = {path.name for path in (self.former / "runs").glob("*")} if self.former else set()
        if unknown := [name for name in self.retrain if name not in {*there, *self._retrained}]:
            known = ", ".join(sorted(there)) or "none"
            raise SystemExit(f"RETRAIN {','.join(unknown)}: the former session has no such run; its runs: {known}")
        self._left_out = [name for name in self.retrain if name not in self._retrained]
        if self._left_out:
            print(f"left out, to be trained again: {', '.join(self._left_out)}")
        self._restore_to(self.root)
        print(f"continuing with {self._describe()}" if self._runs() else "nothing is trained yet")

    def train(self, recipes: str, session: str, audit: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        """Train what is left of the recipes until the session is over, and blend what is complete.

        Where the test images alone are others than before, as when Kaggle runs a submitted notebook again, nothing is
        trained: the complete runs predict them. What fails is reported, so that what is trained can be kept.

        Args:
            recipes: Their names, as `lite0,lite1`.
            session: Its time, counted from when the notebook began, as `8h30m`.
            audit: Options of audit.py: how the competition is read.
            options: Further options of run_all.py.
        """
        self.recipes = _split_names(recipes)
        self.only_predicts = not self._unfinished()
        try:
            _check_settings(self.recipes, options)
            seconds = parse_session(session, "SESSION")
            self._audit(audit)
            self._order_classes()
            images = hash_splits(self.root)
            if self.images and self.images["train"] != images["train"]:
                raise InputError(
                    f"other train images than those of the runs in {self.former or self.pack}: add their competition "
                    "to the notebook's input, or take the runs out (a former output is an input; or pack without them)"
                )
            self.rerun = self.images not in (None, images)
            if self.rerun:
                self._predict()
                return
            self.images = images
            left = max(1, int(seconds - (time.monotonic() - self.started)))
            weights = ["--weights-dir", str(self.pack / "weights")] if (self.pack / "weights").is_dir() else []
            self._step("run_all", "--recipes", ",".join(self.recipes), "--session", f"{left}s", *weights, *options)
        except subprocess.CalledProcessError as error:
            self.failed = error.returncode
            print(f"\n{Path(error.cmd[1]).name} FAILED with exit code {error.returncode}, see above")
        except InputError as error:
            self.failed = 2
            print(f"FAILED: {error}")

    def keep(self) -> None:
        """Leave in the output what the next session needs, at most `LIMIT` bytes, and say how to go on.

        After a failure too: of a notebook that ends with an error Kaggle offers no output to the next session.
        """
        target = self.output / "facefold"
        shutil.rmtree(target, ignore_errors=True)  # of this session, if the cell is run again
        self.output.mkdir(parents=True, exist_ok=True)
        for file in (self.root / "submissions" / "submission.csv", self.root / "report.html"):
            if file.exists():
                shutil.copyfile(file, self.output / file.name)
                print(f"wrote {self.output / file.name}")
        if self._runs():
            if self.rerun:  # its runs are of other test images now
                self._restore_to(target)
            else:
                self._keep_runs(target, LIMIT - _size(self.output))
            write_json(target / SESSION_MARK, {"images": self.images, "retrain": self.retrain})
            print(f"kept {format_bytes(_size(target))} in {target}: {self._describe()}")
        elif self.failed:
            raise SystemExit(self.failed)
        print(self._advice())

    def _restore_to(self, target: Path) -> None:
        """Copy the folds and runs there are to `target`; of two states of a fold take the finished, or later, one."""
        bases = [base for base in (self.former, self.pack) if base and (base / "folds").is_dir()]
        for base in bases:
            _copy_new(base / "folds", target / "folds")
        for finished in (True, False):
            for base in bases:
                for fold in sorted((base / "runs").glob("*/fold_*")):
                    left_out = base == self.former and fold.parent.name in self._left_out
                    if not left_out and (fold / "run.json").exists() == finished:
                        _copy_new(fold, target / fold.relative_to(base))

    def _keep_runs(self, target: Path, room: int) -> None:
        """Copy folds and runs to `target`, finished folds first, as far as there is room for so many bytes."""
        copy_folder(self.root / "folds", target / "folds")
        room -= _size(target)
        left_out = []
        folds = [fold for run in self._runs() for fold in sorted((self.root / "runs" / run).glob("fold_*"))]
        for fold in sorted(folds, key=lambda fold: not (fold / "run.json").exists()):
            size = _size(fold)
            if size > room:
                left_out.append(f"{fold.parent.name} {fold.name}")
                continue
            room -= size
            copy_folder(fold, target / fold.relative_to(self.root))
        if left_out:
            print(
                f"NOT KEPT, as Kaggle keeps no more than {format_bytes(LIMIT)}: {', '.join(left_out)}. Leave recipes "
                "out: these folds would be trained again"
            )

    def _audit(self, options: Sequence[str]) -> None:
        """Install the competition: in place, or else copied, as where images of two classes have the same name."""
        command = ("audit", "--data", str(self.data))
        if not _has_zips_alone(self.data):
            try:
                self._step(*command, "--in-place", *options, silent=True)  # run_all shows the page
                return
            except subprocess.CalledProcessError as error:
                if "leave --in-place out" not in (error.output or ""):
                    raise
            print("the images are copied")
        self._step(*command, *options, silent=True)

    def _step(self, name: str, *options: str, silent: bool = False) -> None:
        """Run a step and print what it prints, of a `silent` one only if it fails.

        Raise `subprocess.CalledProcessError` then, with what it printed.
        """
        print(f"\n== {name}", flush=True)
        command = [sys.executable, str(self.pack / "src" / f"{name}.py"), "--root", str(self.root), *options]
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
        lines = []
        with subprocess.Popen(command, env=self.env, **out) as process:  # a notebook shows its own output alone
            for line in process.stdout:
                lines.append(line)
                if not silent:
                    print(line, end="", flush=True)
        if process.returncode:
            print("".join(lines) if silent else "", end="")
            raise subprocess.CalledProcessError(process.returncode, command, "".join(lines))

    def _order_classes(self) -> None:
        """Put the classes into the order that they have where this was packed, which a person may have chosen."""
        path, classes = self.root / "competition" / "task.toml", self.settings["classes"]
        if classes:
            line = f"classes = {json.dumps(classes, ensure_ascii=False)}"
            text = re.sub(r"^classes = .*$", lambda _: line, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            path.write_text(text, encoding="utf-8")

    def _predict(self) -> None:
        """Predict other test images than before by the complete runs."""
        complete = self._complete()
        if not complete:
            self.failed = 1
            print("\nFAILED: the test images are others than before, and no run is complete that could predict them")
            return
        print(f"\nthe test images are others than before: nothing is trained, {', '.join(complete)} predict them")
        self._step("predict", "--test", "--recipes", ",".join(complete))
        self._step("blend", "--recipes", ",".join(complete))

    def _advice(self) -> str:
        if self.failed or self._unfinished():
            return (
                "to go on: run the notebook again (kaggle kernels push), with the output of this version as an input; "
                "it continues where this one ended"
            )
        if self.only_predicts:
            return "all was trained before: this version only predicts, and can be submitted"
        return (
            "all is trained. Where the competition runs the notebook again on hidden test images, run it once more, "
            "which only predicts, and submit that version"
        )

    def _complete(self) -> list[str]:
        """Return the runs of the recipes whose folds are all finished."""
        return [run for run, count in self._runs().items() if self._recipe_of(run) and count == self._k]

    def _unfinished(self) -> set[str]:
        """Return the recipes without such a run."""
        return set(self.recipes) - set(map(self._recipe_of, self._complete()))

    @property
    def _k(self) -> int:
        return read_json(self.root / "folds" / "folds.json")["k"]

    def _runs(self) -> dict[str, int]:
        """Return the number of finished folds of each run that has begun, in the order of the recipes."""
        found = {fold.parent.name: 0 for fold in sorted((self.root / "runs").glob("*/fold_*"))}
        names = [run for recipe in self.recipes for run in found if self._recipe_of(run) == recipe]
        ordered = dict.fromkeys([*names, *found])
        return {run: len(list((self.root / "runs" / run).glob("fold_*/run.json"))) for run in ordered}

    def _recipe_of(self, run: str) -> str:
        """Return which of the recipes a run is of, lite0+corrected of lite0; empty for another one."""
        recipe = run.partition("+")[0]
        return recipe if recipe in self.recipes else ""

    def _describe(self) -> str:
        return ", ".join(f"{run} ({count} of {self._k} folds finished)" for run, count in self._runs().items())


def parse_session(text: str, option: str) -> float:
    """Return the seconds of a session, as `8h30m`. Raise `InputError` for no time, and for one that Kaggle cuts off."""
    seconds = parse_budget(text, option)
    if seconds >= SECONDS:
        limit = f"Kaggle ends a session after {SECONDS // 3600} hours and then keeps nothing of it"
        raise InputError(f"{option} {text}: {limit}; take less, such as 11h")
    return seconds


def _check_settings(recipes: Sequence[str], options: Sequence[str]) -> None:
    """Raise `InputError` without recipes, and for an option by which runs would be others than these, or elsewhere."""
    if not recipes:
        raise InputError("RECIPES is empty: name what to train, such as lite0,lite1")
    for option in options:
        name = option.partition("=")[0]
        elsewhere = len(name) > 2 and any(full.startswith(name) for full in _REFUSED)  # argparse takes --targ, too
        if elsewhere or name.startswith("-o"):
            raise InputError(
                f"OPTIONS {option}: the notebook keeps the runs of RECIPES alone, which predict the label. Leave -o, "
                "--target and --root out, and name a variant in RECIPES, such as lite0~size=160"
            )


def _has_zips_alone(folder: Path) -> bool:
    """Return whether the images below a folder are in zips, out of which they have to be copied: none is loose."""
    names = [path.name.lower() for path in folder.rglob("*")]
    zipped = any(name.endswith(".zip") and not name.endswith(".csv.zip") for name in names)
    return zipped and not any(map(has_image_suffix, names))


def _split_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _copy_new(source: Path, target: Path) -> None:
    """Copy a folder if `target` is not there, which then appears as a whole."""
    if not target.exists():
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        copy_folder(source, part)
        part.rename(target)
