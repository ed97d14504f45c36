"""Kill the whole job at random moments of every phase, run it again each time, and see that nothing is lost.

    python bench/kill.py [--kills 25] [--signals kill] [--phases audit,split,..] [--recipes demo_cnn] [--seed 0]
                         [--work DIR]

Writes a small synthetic competition (60 train, 20 test images of 32 pixels, 2 folds), runs `run_all.py` on it
undisturbed, and notes when each phase begins and how long it takes: audit, split (with the plan), cache (up to the
first epoch, frozen stages included), epochs, write (the last epochs, predictions, features, runs), blend, report. Then
a fresh copy is started again and again, its process group getting a signal at a moment drawn from the next phase in
turn; after the last phase the job runs to its end, and the next round begins with another fresh copy. --signals
kill,term,int takes turns: kill leaves nothing to say; term and int must end within 10 seconds with one line and exit
code 143 or 130.

Every round must end with the bytes of the undisturbed run (submissions, predictions, features, weights), and leave no
temporary file, checkpoint or lock. Prints a line per kill; exit code 1 when anything differs.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SRC))

from facefold.data.synthetic import write_synthetic_competition  # noqa: E402

SIGNALS = {"kill": (signal.SIGKILL, -9), "term": (signal.SIGTERM, 143), "int": (signal.SIGINT, 130)}
BEGINS = {  # the line of the job's output with which a phase begins, in the order of the phases
    "audit": re.compile("^== audit"),
    "split": re.compile("^== split"),
    "cache": re.compile("^== train"),
    "epochs": re.compile(r"fold \d+ epoch 1/"),
    "write": re.compile(r"fold \d+ epoch (\d+)/\1:"),
    "blend": re.compile("^== blend"),
    "report": re.compile("^== report"),
}
LINE = "stopped; nothing is lost, the same command continues where this one ended"
LONGEST = 10.0  # seconds from SIGTERM or Ctrl-C to the end


@dataclass
class Job:
    """A run of `run_all.py` in its own process group. begun: when each phase began, in seconds since the start."""

    root: Path
    recipes: str
    begun: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-u",
                str(SRC / "run_all.py"),
                "--root",
                str(self.root),
                "--recipes",
                self.recipes,
                "--folds",
                "2",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in a shell's background it is ignored
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._watch, daemon=True),
            threading.Thread(target=lambda: self._errors.extend(self.process.stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _watch(self) -> None:
        for line in self.process.stdout:
            for phase, begins in BEGINS.items():
                if phase not in self.begun and begins.search(line):
                    self.begun[phase] = time.monotonic() - self.started

    def reach(self, phase: str, seconds: float) -> bool:
        """Wait until `seconds` into the phase; return False if the job ended before."""
        while self.process.poll() is None:
            if phase in self.begun and time.monotonic() - self.started >= self.begun[phase] + seconds:
                return True
            time.sleep(0.01)
        return False

    def stop(self, how: str) -> tuple[int, float, str]:
        """Signal the whole group; return exit code, seconds until its last process ended, and standard error."""
        started = time.monotonic()
        os.killpg(self.process.pid, SIGNALS[how][0])
        code = self.process.wait()
        while subprocess.run(["pgrep", "-g", str(self.process.pid)], stdout=subprocess.DEVNULL).returncode == 0:
            time.sleep(0.02)
        return code, time.monotonic() - started, self._stderr()

    def end(self) -> tuple[int, str]:
        """Wait for the end; return exit code and standard error."""
        return self.process.wait(), self._stderr()

    def _stderr(self) -> str:
        for reader in self._readers:
            reader.join()
        return "".join(self._errors)


def results(root: Path) -> dict[str, bytes]:
    """Load the files that must not depend on how often the job was stopped, by name."""
    paths = [
        *root.glob("submissions/*.csv"),
        *root.glob("runs/*/oof.csv"),
        *root.glob("runs/*/fold_*/oof.csv"),
        *root.glob("runs/*/fold_*/test.csv"),
        *root.glob("runs/*/fold_*/*.npy"),
        *root.glob("runs/*/fold_*/*.safetensors"),
    ]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def litter(root: Path) -> list[str]:
    """List files that a finished job should not leave."""
    files = [
        path
        for path in root.rglob("*")
        if path.name.endswith((".part", ".old", ".lock")) or path.name.startswith("checkpoint")
    ]
    return sorted(str(path.relative_to(root)) for path in [*files, *root.glob("cache/frozen/*")])


def fault(how: str, code: int, seconds: float, errors: str) -> str:
    """Return what is wrong with the end of a signalled job, empty if nothing; `errors`: its standard error."""
    if code != SIGNALS[how][1]:
        return f"exit code {code}, expected {SIGNALS[how][1]}: {errors[-500:]}"
    if how == "kill":
        return ""
    if "Traceback" in errors or errors.count(LINE) != 1:
        return f"not one line but {errors[-2000:]}"
    return f"{seconds:.1f} s until it ended" if seconds > LONGEST else ""


def fresh(root: Path) -> Path:
    write_synthetic_competition(root, train=60, test=20, size=32)
    return root


def undisturbed(root: Path, recipes: str) -> tuple[dict[str, bytes], dict[str, float]]:
    """Run the job undisturbed; return its results and the length of each phase in seconds."""
    job = Job(fresh(root), recipes)
    code, errors = job.end()
    if code or litter(root) or list(job.begun) != list(BEGINS):
        raise SystemExit(
            f"the undisturbed job failed (exit code {code}, phases {list(job.begun)}, left {litter(root)}):\n{errors}"
        )
    times = [*job.begun.values(), time.monotonic() - job.started]
    return results(root), {phase: end - begin for phase, begin, end in zip(BEGINS, times, times[1:])}


def finish(root: Path, recipes: str, expected: dict[str, bytes], job: Job | None = None) -> str:
    """Let the job run to its end; return the differences from the undisturbed one, empty if there are none."""
    code, errors = (job or Job(root, recipes)).end()
    if code:
        return f"the resumed job failed with exit code {code}:\n{errors}"
    actual = results(root)
    different = sorted(name for name in expected.keys() | actual if expected.get(name) != actual.get(name))
    problems = {"other bytes": different, "left behind": litter(root)}
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names)


def rounds(work: Path, kills: int, signals: list[str], recipes: str, seed: int, phases: list[str]) -> list[str]:
    """Kill and resume the job `kills` times; return the faults."""
    draw, faults, done, number = random.Random(seed), [], 0, 0
    expected, lengths = undisturbed(work / "undisturbed", recipes)
    print("undisturbed: " + ", ".join(f"{phase} {length:.1f} s" for phase, length in lengths.items()), flush=True)
    while done < kills:
        number += 1
        root, job = fresh(work / f"round_{number}"), None
        for phase in phases:
            if done == kills:
                break
            how, moment = signals[done % len(signals)], lengths[phase] * draw.random()
            job = Job(root, recipes)
            if not job.reach(phase, moment):
                print(f"      {phase}: over before second {moment:.1f} of it", flush=True)
                continue
            code, seconds, errors = job.stop(how)
            wrong, done, job = fault(how, code, seconds, errors), done + 1, None
            faults += [wrong] if wrong else []
            print(
                f"{done:3}/{kills} {how:4} {moment:6.1f} s into {phase:7} ended in {seconds:.1f} s  {wrong or 'ok'}",
                flush=True,
            )
        wrong = finish(root, recipes, expected, job)
        faults += [wrong] if wrong else []
        print(f"round {number}: {wrong or 'the same bytes as undisturbed, nothing left behind'}", flush=True)
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--signals", default="kill", help="kill, term, int or several, in turns")
    parser.add_argument("--recipes", default="demo_cnn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phases", default=",".join(BEGINS), help="in turns (default: all)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep all roots there (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        faults = rounds(
            args.work or Path(temporary),
            args.kills,
            args.signals.split(","),
            args.recipes,
            args.seed,
            args.phases.split(","),
        )
    print(f"{args.kills} kills, {len(faults)} faults")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
