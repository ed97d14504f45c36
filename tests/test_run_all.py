"""The whole job on a tiny synthetic competition, as a user runs it: in its own processes, killed and resumed."""

import fcntl
import hashlib
import importlib
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

import run_all
from command import apart, call, refused, run, train_here, words, work_here
from facefold import cli
from facefold.cli import hold_root
from facefold.data.synthetic import write_synthetic_competition
from facefold.ensemble.blend import load_blend
from facefold.models import recipe as recipes
from facefold.task import LABEL
from facefold.training import plan
from facefold.utils.console import QUIET_VARIABLE, is_quiet
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory
from facefold.utils.processes import STARTER
from recorder import record

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import kill  # noqa: E402

FEW = ("--recipes", "demo_cnn", "--folds", "2")
STOPPED = "\nrun_all.py: stopped; nothing is lost, the same command continues where this one ended\n"


def tiny(root: Path) -> Path:
    write_synthetic_competition(root, train=60, test=20, size=32)
    return root


def submission(root: Path) -> str:
    return hashlib.sha256((root / "submissions" / "submission.csv").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, one_thread) -> Path:
    """Run the steps one after the other in this process; once for all processes of the tests. Return the root.

    What a job leaves that trains its folds side by side, is stopped, or runs elsewhere has to be the same.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    shared.mkdir(exist_ok=True)
    with open(shared / "lock", "w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        work_here(patch)
        if not (shared / "done").exists():
            root = tiny(shared / "root")
            for name, *options in [
                ("audit",),
                ("split", "--folds", "2"),
                ("train", "--recipe", "demo_cnn", "--fold", "1"),
                ("train", "--recipe", "demo_cnn"),
                ("blend", "--weights", "auto"),
                ("report",),
            ]:
                done = run(name, root, *options)
                assert done.returncode == 0, done.stderr
            (shared / "done").touch()
    return shared / "root"


@pytest.fixture
def whole(undisturbed, tmp_path) -> Path:
    """Copy that root, to work in the copy."""
    return shutil.copytree(undisturbed, tmp_path / "whole")


def steps_here(monkeypatch, apart: tuple[str, ...] = ()) -> list[tuple[str, bool]]:
    """Have a job run its steps in this process, which saves the seconds of their imports, except those in `apart`.

    Return the names of the steps that have begun, and whether quietly.
    """
    begun = []

    def run_step(name, *options):
        begun.append((name, is_quiet()))
        if name in apart:
            return cli.run_step(name, *options)
        with monkeypatch.context() as patch:
            patch.setenv(STARTER, "1")  # the job holds the root
            call(name, options[1], *options[2:])
        return 1.0

    monkeypatch.setattr(run_all, "run_step", run_step)
    return begun


def wait_for_an_epoch(process: subprocess.Popen, root: Path) -> None:
    """Wait for a checkpoint."""
    deadline = time.monotonic() + 600
    while not list(root.glob("runs/demo_cnn/fold_*/checkpoint.pt")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)


def start(arguments: list[str]) -> subprocess.Popen:
    """Start it in its own session with Ctrl-C enabled: tests in a shell's background ignore it."""
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_a_step_that_is_killed_alone_is_reported(tmp_path):
    root = tiny(tmp_path)
    process = start(words("run_all", root, *FEW))
    try:
        os.kill(step_of(process, "audit.py", root), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 137
    assert errors == (
        "audit.py was killed (signal 9, often for want of memory); nothing is lost, "
        "the same command continues where it ended\n"
    )


@pytest.mark.parametrize("how, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_while_a_step_imports_is_one_line_and_its_exit_code(tmp_path, how, code):
    root = tiny(tmp_path)
    process = start(words("run_all", root, *FEW))
    try:
        step_of(process, "audit.py", root)
        os.killpg(process.pid, how)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code and errors == STOPPED


def step_of(process: subprocess.Popen, name: str, root: Path) -> int:
    """Wait for the process of this step of the job and return its id."""
    deadline = time.monotonic() + 120
    while not (pids := [int(pid.name) for pid in Path("/proc").glob("[0-9]*") if is_step(pid, name, root)]):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    return pids[0]


def is_step(process: Path, name: str, root: Path) -> bool:
    try:
        arguments = (process / "cmdline").read_bytes().decode().split("\0")
    except OSError:
        return False
    return len(arguments) > 1 and arguments[1].endswith(f"/{name}") and str(root) in arguments


def wait_for_the_end_of_its_group(process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while subprocess.run(["pgrep", "-g", str(process.pid)], stdout=subprocess.DEVNULL).returncode == 0:
        assert time.monotonic() < deadline, "a process outlived the one that started it"
        time.sleep(0.1)


def test_a_job_that_is_killed_alone_takes_its_step_along(tmp_path):
    root = tiny(tmp_path)
    process = start(words("run_all", root, *FEW))
    step_of(process, "audit.py", root)
    process.kill()
    process.wait()
    wait_for_the_end_of_its_group(process)


def test_killed_in_the_blend_and_run_again_it_ends_with_the_same_bytes(undisturbed, whole):
    shutil.rmtree(whole / "submissions")
    process = start(words("blend", whole))
    deadline = time.monotonic() + 120
    while not list((whole / "submissions").glob("*")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert run("blend", whole).returncode == 0
    assert kill.results(whole) == kill.results(undisturbed) and kill.litter(whole) == []


def test_the_kill_script_sees_what_was_lost(undisturbed, tmp_path):
    for name in (
        "runs/demo_cnn/fold_0/checkpoint.pt",
        "submissions/.submission.csv.part",
        "cache/frozen/demo_cnn/left",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert kill.litter(tmp_path) == [
        "cache/frozen/demo_cnn",
        "runs/demo_cnn/fold_0/checkpoint.pt",
        "submissions/.submission.csv.part",
    ]
    assert kill.fault("term", 143, 0.5, f"\nrun_all.py: {kill.LINE}\n") == "" and kill.fault("kill", -9, 0.5, "") == ""
    assert kill.fault("int", 1, 0.5, "x") == "exit code 1, expected 130: x"
    assert kill.fault("int", 130, 11.0, kill.LINE) == "11.0 s until it ended"
    assert kill.fault("term", 143, 0.5, f"{kill.LINE}{kill.LINE}").startswith("not one line")
    assert {"submissions/submission.csv", "runs/demo_cnn/oof.csv", "runs/demo_cnn/fold_1/weights.safetensors"} <= set(
        kill.results(undisturbed)
    )


def test_stopped_in_training_the_same_command_does_only_what_is_missing_to_the_same_bytes(
    undisturbed, tmp_path, monkeypatch
):
    root = shutil.copytree(undisturbed, tmp_path / "root", ignore=shutil.ignore_patterns("runs", "submissions"))
    process = start(words("train", root, "--recipe", "demo_cnn"))
    wait_for_an_epoch(process, root)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    wait_for_the_end_of_its_group(process)
    assert process.returncode == 130 and errors == STOPPED.replace("run_all.py", "train.py")
    assert not list(root.glob("runs/*/*/run.json"))

    finished = root / "runs" / "demo_cnn" / "fold_1"
    shutil.rmtree(finished, ignore_errors=True)
    shutil.copytree(undisturbed / "runs" / "demo_cnn" / "fold_1", finished)
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    steps_here(monkeypatch, apart=("train",))  # which has processes of its own to start and to end
    again = run("run_all", root, *FEW, "--budget", "20h")
    assert again.returncode == 0 and again.stderr == ""
    lines = again.stdout.strip().splitlines()
    assert re.search(
        r"plan: 60 train and 20 test images, 2 folds, \d+ at a time on cpu\n"
        r"  demo_cnn +1 folds to go, about .* each: a small",
        again.stdout,
    )
    assert "  budget 20 h 00 min, " in again.stdout and re.fullmatch(r"budget 20 h 00 min: .* used", lines[-5])
    assert re.fullmatch(r"took   .*: audit .*, split .*, train .*, blend .*, report .*", lines[-6])
    assert lines[-4:-1] == [
        "helped demo_cnn alone: there is nothing to blend it with",
        "next   real data, as the score of these synthetic images says that the job works here, nothing else: "
        "./run_all.sh --data <the competition's zip as downloaded>",
        f"read   {root}/report.html",
    ]
    assert re.fullmatch(
        rf"upload {root}/submissions/submission.csv: nested accuracy 0\.\d{{4}} \[.*\] by .*", lines[-1]
    )
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before
    assert kill.results(root) == kill.results(undisturbed) and kill.litter(root) == []
    assert (root / "report.html").is_file() and not list(root.rglob("*.part"))


def test_a_finished_job_run_again_quietly_trains_nothing_and_prints_what_to_upload(whole, monkeypatch):
    begun, tracker = steps_here(monkeypatch), record(monkeypatch)
    before = kill.results(whole)
    times = {path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("fold_*/*")}
    options = ("--recipes", "demo_cnn", "--log", "mlflow:faces", "--quiet")
    finished = run("run_all", whole, *options)  # the folds are those that are there
    assert finished.returncode == 0 and finished.stderr == ""
    assert re.fullmatch(rf"upload {whole}/submissions/submission\.csv: nested accuracy .*\n", finished.stdout)
    assert begun == [(name, True) for name in ("audit", "split", "train", "blend", "report")]
    assert {path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("fold_*/*")} == times
    assert kill.results(whole) == before
    assert [(run.run.name, [event[0] for event in run.events]) for run in tracker.runs] == [
        ("demo_cnn", ["open", "close"]),
        *((f"demo_cnn/fold_{fold}", ["open", *["log"] * 10, "close"]) for fold in range(2)),
        ("demo_cnn", ["open", "figures", "close"]),
        *[("blend", ["open", "figures", "artifact", "close"])] * 2,
    ]
    blended, reported = tracker.runs[-2:]
    assert blended.run == reported.run and blended.run.config["picked"] == "best_single"
    score = load_blend(whole).facts["score"]
    names = {"nested/accuracy": "accuracy", "nested/accuracy_low": "low", "nested/accuracy_high": "high"}
    figures = blended.events[1][1]
    assert {name: figures[name] for name in names} == {name: score[key] for name, key in names.items()}
    assert (blended.events[2], reported.events[2]) == (("artifact", "leaderboard.csv"), ("artifact", "report.html"))


@pytest.mark.parametrize("quiet, output", [("0", "the step\n"), ("1", "")])
def test_a_quiet_job_shows_no_output_of_its_steps(tmp_path, monkeypatch, capfd, quiet, output):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "step.py").write_text("print('the step')")
    monkeypatch.setattr(cli, "PROJECT", tmp_path)
    monkeypatch.setenv(QUIET_VARIABLE, quiet)
    cli.run_step("step")
    assert capfd.readouterr().out.removeprefix("\n== step\n") == output


def test_the_submission_has_the_header_the_ids_and_the_labels_of_the_sample(undisturbed):
    rows = (undisturbed / "submissions" / "submission.csv").read_text().splitlines()
    assert rows[0] == "id,label"
    assert [row.split(",")[0] for row in rows[1:]] == [str(number) for number in range(61, 81)]
    assert {row.split(",")[1] for row in rows[1:]} <= {"0", "1"}


@pytest.mark.parametrize(
    "name, options", [("run_all", ()), ("audit", ()), ("split", ()), ("train", ("--recipe", "demo_cnn"))]
)
def test_a_second_job_on_a_root_is_refused_by_the_process_id_of_the_first(tmp_path, monkeypatch, name, options):
    monkeypatch.setattr(sys, "argv", [name, "--root", str(tmp_path), *options])
    main = importlib.import_module(name).main
    with (
        lock_directory(tmp_path),
        pytest.raises(InputError, match=f"^{tmp_path} is in use by (process {os.getpid()}|another process)"),
    ):
        main()
    assert list(tmp_path.iterdir()) == []


def test_steps_of_a_job_are_held_by_the_job(tmp_path, monkeypatch):
    with lock_directory(tmp_path):
        monkeypatch.setenv(STARTER, "1")
        with hold_root(tmp_path, alone=True):
            pass
        monkeypatch.delenv(STARTER)
        with pytest.raises(InputError), hold_root(tmp_path):
            pass
    with hold_root(tmp_path), hold_root(tmp_path):  # folds may be trained side by side
        with pytest.raises(InputError), hold_root(tmp_path, alone=True):
            pass
    with hold_root(tmp_path / "none"):
        assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "options, passed",
    [
        ((), []),
        (("--metric", "auc", "--id-column", "name"), ["--metric", "auc", "--id-column", "name"]),
        (("--data", ".", "--images", "train=a,test=b/", "--in-place"), ["--images", "train=a,test=b", "--in-place"]),
        (("--target", "age", "--recipes", "lite0_age"), []),
    ],
)
def test_options_of_the_audit_are_passed_on(tmp_path, monkeypatch, options, passed):
    def end_after_audit(name, *options):
        raise InputError(
            f"{name} {[option for option in options[2:] if option != '--data' and 'path' not in repr(option).lower()]}"
        )

    monkeypatch.setattr(run_all, "run_step", end_after_audit)
    assert refused("run_all", tiny(tmp_path), *options) == f"audit {passed}"


def test_images_in_place_need_data(tmp_path):
    assert refused("run_all", tiny(tmp_path), "--in-place") == (
        "--images and --in-place say how --data is installed; name the source with --data as well"
    )


def test_a_stale_run_is_refused_and_force_trains_over_it(whole):
    stale = run("train", whole, "--recipe", "demo_cnn", "--seed", "5")
    assert stale.returncode == 2
    assert stale.stderr == (
        f"train.py: {whole}/runs/demo_cnn/fold_0 is stale: it was trained with another seed. Move it away, or train "
        "over it with `train.py --recipe demo_cnn --force`. To have both seeds, give one of them a run of its own: "
        "`train.py --recipe demo_cnn#5`.\n"
    )
    forced = run("train", whole, "--recipe", "demo_cnn", "--seed", "5", "--fold", "0", "--force")
    assert forced.returncode == 0, forced.stderr
    assert '"seed": 5' in (whole / "runs/demo_cnn/fold_0/run.json").read_text()


def test_an_image_that_changed_after_the_audit_makes_old_runs_stale(whole):
    other = (whole / "competition/train/20.jpg").read_bytes()
    assert (whole / "competition/train/10.jpg").read_bytes() != other
    (whole / "competition/train/10.jpg").write_bytes(other)
    stale = run("train", whole, "--recipe", "demo_cnn")
    assert stale.returncode == 2 and "it was trained with other images" in stale.stderr


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("run_all", ("--recipes", "lite9"), "there is no recipe 'lite9'; there are: "),
        ("train", ("--recipe", "demo_cnn", "--fold", "7"), "--fold 7: the folds are 0 to 1, or all"),
        ("train", ("--recipe", "demo_cnn", "--workers", "0"), "--workers 0: at least one"),
        ("split", ("--folds", "3"), "--force"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(whole, name, options, message):
    done = run(name, whole, *options)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_a_step_that_fails_ends_the_job_with_its_sentence_and_exit_code(tmp_path):
    done = apart("run_all", tmp_path, "--data", "no.zip")
    assert (
        done.returncode == 2
        and done.stderr
        == "audit.py: no.zip does not exist; use the zip as downloaded, or the folder it was unpacked to\n"
    )


def test_gpu_recipes_without_a_hub_are_a_clear_error(whole, tmp_path, monkeypatch):
    text = (recipes.RECIPES_DIR / "resnet50.toml").read_text()
    train_here(tmp_path / "recipes", monkeypatch, resnet50=text)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    done = run("train", whole, "--recipe", "resnet50", "--fold", "0")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        "recipe resnet50: the pretrained weights of resnet50.a1_in1k could not be loaded from timm's hub" in done.stderr
    )
    assert not list(whole.glob("runs/resnet50/*/run.json"))


def offline(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Run without a network: in an empty network namespace if that is allowed, else with Python's connections off."""
    env = os.environ.copy()
    cut = ["unshare", "-rn"]
    if not shutil.which("unshare") or subprocess.run([*cut, "true"], capture_output=True).returncode:
        cut = []
        (folder / "sitecustomize.py").write_text(
            "import socket\n\ndef refuse(*_):\n    raise OSError('no network')\n\n"
            "socket.socket.connect = socket.getaddrinfo = refuse\n"
        )
        env["PYTHONPATH"] = str(folder)
    return subprocess.run([*cut, *arguments], capture_output=True, text=True, timeout=900, cwd=folder, env=env)


def test_the_packed_job_gives_the_same_submission_elsewhere_without_a_network(whole, tmp_path):
    root, upload, kaggle = whole, tmp_path / "upload", tmp_path / "kaggle"
    packed = run("pack", root, "--out", str(upload), "--user", "someone", "--competition", "faces", "--no-wheels")
    assert packed.returncode == 0, packed.stderr
    assert f"kaggle kernels push -p {upload}/kernel" in packed.stdout
    assert not list(upload.rglob("*test.csv")) and not list(upload.rglob("features_test.npy"))
    shutil.copytree(upload / "dataset", kaggle / "input" / "facefold-faces")
    shutil.copytree(root / "competition", kaggle / "input" / "competitions" / "faces")
    expected = kaggle / "input" / "facefold-faces" / "expected.csv"
    assert expected.read_bytes() == (root / "submissions" / "submission.csv").read_bytes()
    expected.write_text("id,label\n")  # nothing but the weights knows the answers

    done = offline(
        [sys.executable, str(upload / "kernel" / "kernel.py"), str(kaggle / "input"), str(kaggle / "working")], tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr  # albumentations warns when it cannot ask the network for its version
    assert re.search(r"demo_cnn fold 1: 20 images predicted, \w+ channels_last fused\n", done.stdout)
    assert (kaggle / "working" / "submission.csv").read_bytes() == (
        root / "submissions" / "submission.csv"
    ).read_bytes()
    assert (
        done.stdout.splitlines()[-1] == f"{kaggle}/working/submission.csv: of other test rows than when it was packed"
    )
    assert [path.name for path in (kaggle / "working").iterdir()] == ["submission.csv"]


def job_on_the_cpu(root: Path, profile: str | None = None) -> run_all.Job:
    args = Namespace(root=root, target=LABEL, profile=profile, device="cpu", settings={}, engine="local")
    return run_all.Job(args, budget=math.inf, session=math.inf)


def test_real_images_get_the_recipes_of_faces_and_are_told_of_the_others(tmp_path, capsys):
    assert [recipe.name for recipe in job_on_the_cpu(tmp_path).profile_recipes()] == [*recipes.PROFILES["cpu"]]
    assert capsys.readouterr().out == (
        "the recipes are those of --profile cpu, for faces; if these are none, take --profile images\n"
    )
    for profile in ("cpu", "images"):
        chosen = job_on_the_cpu(tmp_path, profile).profile_recipes()
        assert [recipe.name for recipe in chosen] == [*recipes.PROFILES[profile]]
        assert capsys.readouterr().out == ""


def test_the_next_recipes_are_of_faces_where_one_was_trained_already(tmp_path):
    job = job_on_the_cpu(tmp_path)
    assert job.next_recipes(["lite0_160#1", "face_svm~tta=none#2+corrected"]) == recipes.PROFILES["cpu"]
    assert job.next_recipes(["lite0_96_aligned", "cnn5"]) == recipes.PROFILES["images"]
    write_synthetic_competition(tmp_path, train=20, test=10, size=16)
    assert job.next_recipes(["face_svm"]) == recipes.PROFILES["demo"]


@pytest.mark.parametrize(
    ("budget", "session", "turned"), [(math.inf, math.inf, True), (60, math.inf, False), (math.inf, 60, False)]
)
def test_the_order_of_the_recipes_is_kept_where_time_is_limited(
    tmp_path, make_competition, monkeypatch, budget, session, turned
):
    make_competition(tmp_path, 20, 10, 16, 2)
    job = job_on_the_cpu(tmp_path)
    job.args.corrections = job.args.folds = None
    job.budget, job.session = budget, session
    workload = SimpleNamespace(longest_first=lambda recipes: recipes[::-1])
    monkeypatch.setattr(plan, "measure_workload", lambda *_: workload)
    monkeypatch.setattr(run_all.Job, "count_left", lambda *_: 0)

    def planned(_, recipes, *_rest):
        raise InputError(",".join(recipe.name for recipe in recipes))

    monkeypatch.setattr(plan, "make_plan", planned)
    with pytest.raises(InputError, match="^cnn5,lite0$" if turned else "^lite0,cnn5$"):
        job.make_plan(recipes.load_recipes("lite0,cnn5"))
