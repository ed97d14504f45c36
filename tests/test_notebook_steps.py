"""The steps as functions: docs/notebook.ipynb in this process and in a kernel; arguments, errors, and what is left."""

import errno
import json
import os
import re
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import notebook_steps
import split as split_step
from command import SRC, work_here
from facefold.cli import StepParser
from facefold.data.folds import Folds
from facefold.report.audit_text import findings_table
from facefold.report.tables import count_rows
from facefold.task import LABEL, Task, task_named
from facefold.training.trackers import CLIENT_ENVIRONMENT
from facefold.utils.errors import InputError
from facefold.utils.processes import ENVIRONMENT, set_environment

sys.path.insert(0, str(SRC.parent / "bench"))
from execute_notebook import NOTEBOOK, code_hash  # noqa: E402

BOOK = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CELLS = [cell for cell in BOOK["cells"] if cell["cell_type"] == "code"]
IMAGE = "image/png"
SMALL = {  # of the notebook's code: what takes less time
    "train=400, test=100, size=48": "train=40, test=10, size=32",
    "folds=3": "folds=2",
    '["demo_cnn", "demo_cnn#1"]': '"demo_cnn"',
    '"epochs": 8': '"epochs": 2, "size": 32, "width": 4',
}
RUN = "demo_cnn~size=32~width=4@2"
PACKAGES = ("nbclient", "nbformat", "ipykernel")


def sources() -> list[str]:
    """Return the code of the notebook's cells, for a competition that takes seconds."""
    code = "\0".join("".join(cell["source"]) for cell in CELLS)
    for part, smaller in SMALL.items():
        assert code.count(part) == 1
        code = code.replace(part, smaller)
    return code.split("\0")


def kinds(outputs: list[dict]) -> list[list[str]]:
    """Return what kind each output of a cell is of; one stream may come in parts."""
    found = [sorted(output.get("data", [output.get("name", "error")])) for output in outputs]
    return [kind for i, kind in enumerate(found) if kind != found[i - 1] or i == 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder docs/ next to src/, in which the notebook is executed."""
    folder = tmp_path_factory.mktemp("project") / "docs"
    folder.mkdir()
    (folder.parent / "src").symlink_to(SRC)
    return folder


@pytest.fixture(autouse=True)
def _same_server(monkeypatch):
    """Leave the server to the next test of the tests, which takes the same one."""
    for module in ("notebook_steps", "facefold.cli"):
        monkeypatch.setattr(f"{module}.stop_server", lambda: None)


@pytest.fixture(scope="module")
def shown(folder) -> dict:
    """Return the names that the notebook leaves, executed here; `printed` is what its cells print."""
    names = {}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        for module in ("notebook_steps", "facefold.cli"):
            patch.setattr(f"{module}.stop_server", lambda: None)
        patch.setattr(
            "facefold.report.blend_page.render_page", lambda *_, **__: '<!doctype html>"'
        )  # see test_blend_report
        work_here(patch)
        for source in sources():
            exec(source, names)
    return {**names, "printed": printed.getvalue()}


def test_the_example_returns_what_the_steps_wrote(shown, folder):
    root = folder / "example"
    board = pd.read_csv(root / "submissions" / "leaderboard.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(shown["blended"].leaderboard, board, check_dtype=False)
    assert shown["blended"].headline in shown["printed"] and shown["blended"].why in shown["printed"]
    scores, labels = shown["runs"].scores, pd.read_csv(root / "folds" / "folds.csv").set_index("id")["label"]
    assert scores["run"].tolist() == [RUN]
    for row in scores.itertuples():
        oof = pd.read_csv(root / "runs" / row.run / "oof.csv").set_index("id")["prob"]
        assert row.rows == 40 and row.accuracy == ((oof >= 0.5) == labels).mean()
        assert row.low < row.accuracy < row.high and row.seconds > 0
    drawing = shown["runs"].curves[RUN]
    assert drawing.png[:4] == shown["blended"].intervals.png[:4] == b"\x89PNG"
    assert drawing.table[["fold", "epoch"]].drop_duplicates().shape == (4, 2)
    page = shown["page"].page._repr_html_()
    assert shown["page"].path == root / "report.html" and '<iframe srcdoc="&lt;!doctype html&gt;&quot;" ' in page
    assert str(folder) not in shown["printed"]


@pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason="needs the packages of requirements-notebook.txt")
def test_a_kernel_trains_in_processes_of_its_own(shown, folder, monkeypatch, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    run = folder / "example" / "runs" / RUN
    before = (run / "oof.csv").read_bytes()
    (run / "fold_1" / "run.json").unlink()
    cells = [0, *(number for number, source in enumerate(sources()) if "runs" in source)]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(sources()[number]) for number in cells])
    refused = nbformat.v4.new_code_cell("train(rot=root)", metadata={"tags": ["raises-exception"]})
    book.cells += [refused, nbformat.v4.new_code_cell("runs")]
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    assert (run / "fold_1" / "run.json").exists() and (run / "oof.csv").read_bytes() == before
    *own, refused, result = [cell["outputs"] for cell in book.cells]
    assert list(map(kinds, own)) == [kinds(CELLS[number]["outputs"]) for number in cells]
    assert refused[0]["traceback"] == ["train: unrecognized arguments: --rot=example (did you mean --root?)"]
    table, name, png = ["text/html", "text/plain"], ["stdout"], [IMAGE, "text/plain"]
    assert kinds(result) == [table, name, png]


def test_the_example_is_committed_as_it_was_executed():
    assert BOOK["metadata"]["executed_code_sha256"] == code_hash(BOOK["cells"])
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data", "execute_result"}
    assert sum(IMAGE in output.get("data", {}) for output in outputs) == 2
    shown = [{kind: text for kind, text in output.get("data", output).items() if kind != IMAGE} for output in outputs]
    assert NOTEBOOK.stat().st_size < 300_000 and not re.search(
        r"/(tmp|home|root|work|usr|kaggle|content)\b|0x", json.dumps(shown)
    )


def test_what_a_step_returns_is_shown_part_by_part(monkeypatch, capsys):
    parts = []
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=parts.append))
    table, drawing, page = pd.DataFrame(), notebook_steps.Drawing(b"png", None), notebook_steps.Page(Path("a.html"))
    result = notebook_steps.Result(table=table, curves={"a": drawing}, page=page, path=Path("a.html"), why="printed")
    result._ipython_display_()
    assert parts == [table, drawing, page] and capsys.readouterr().out == "a\n"
    assert drawing._repr_png_() == b"png" and [repr(drawing), repr(page)] == ["Drawing", "Page('a.html')"]


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """`parsed(step, **options)` returns the arguments that the step is called with."""

    def parse(name: str, **options: object) -> Namespace:
        monkeypatch.setattr(f"{name}.{name}", lambda args, *_: args)
        return notebook_steps._call(name, {"root": tmp_path, **options})

    return parse


def test_arguments_are_the_options(parsed, tmp_path):
    assert parsed("split", folds=3, force=True, groups=None, group="", seed=7) == Namespace(
        root=tmp_path, folds=3, force=True, groups=None, group="", seed=7, time=None, folds_file=None, target=LABEL
    )
    assert parsed("split", group=["a", "b"], force=False, time=None).group == "a,b"
    train = parsed("train", recipes=("lite0", "cnn5"), settings={"size": 160, "ema": 0.9, "freeze_backbone": True})
    assert (train.recipe, train.settings) == ("lite0,cnn5", ["size=160", "ema=0.9", "freeze_backbone=true"])
    assert parsed("train", recipe="a", settings="size=160,lr=3e-4", workers=2).settings == ["size=160,lr=3e-4"]
    assert parsed("audit", data=Path("x"), images={"train": "a", "test": "b"}).images == {"train": "a", "test": "b"}


@pytest.mark.parametrize(
    "step, options, message",
    [
        ("train", {"recipee": None}, "unrecognized arguments: --recipee=None (did you mean --recipe?)"),
        ("train", {"recipe": "a", "detect": False}, "unrecognized arguments: --detect=false"),
        ("train", {"recipe": "a", "device": "tpu"}, "argument --device: invalid choice: 'tpu' (choose from"),
        ("train", {"recipe": "a", "quiet": 1}, "argument --quiet: ignored explicit argument '1'"),
        ("split", {"seed": True}, "argument --seed: expected one argument"),
        ("split", {"folds_file": "no.csv"}, "--folds-file no.csv: there is no such file"),
        ("audit", {"images": {"train": "a"}}, "--images and --in-place say how --data is installed"),
    ],
)
def test_errors_are_those_of_the_command_in_a_line(parsed, capsys, step, options, message):
    with pytest.raises(InputError) as caught:
        parsed(step, **options)
    (line,) = caught.value._render_traceback_()
    assert str(caught.value).startswith(message) and line == f"{step}: {caught.value}"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "stop, raised, line",
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "stopped; nothing is lost, the same call continues where this one"),
        (OSError(errno.ENOSPC, "No space left on device", "a"), InputError, "No space left on device: a; make room"),
        (ModuleNotFoundError(name="timm"), InputError, "this Python has no timm: run `source .venv/bin/activate`"),
    ],
)
def test_a_step_that_stops_leaves_the_process_as_it_was(parsed, monkeypatch, stop, raised, line):
    def end(_) -> None:
        set_environment()
        set_environment(CLIENT_ENVIRONMENT)
        del os.environ["WANDB_SERVICE"]
        os.environ["WANDB_MODE"] = "offline"
        assert sys.argv == ["split.py"]
        raise stop

    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"OMP_NUM_THREADS": "3", "WANDB_SERVICE": "1", "WANDB_MODE": "online"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(split_step, "split", end)
    argv, environment = list(sys.argv), dict(os.environ)
    with pytest.raises(raised) as caught:
        notebook_steps.split(root=".")
    assert caught.value._render_traceback_()[0].startswith(f"split: {line}")
    assert (sys.argv, dict(os.environ), StepParser.keywords) == (argv, environment, None)


def test_help_of_a_function_is_the_manual():
    for step in ("audit", "split", "train", "blend", "report"):
        manual = getattr(notebook_steps, step).__doc__
        assert manual.startswith("Return ") and f"usage: {step}.py" in manual and "--root DIR" in manual
        assert sys.modules[step].__doc__.strip() in manual


def test_findings_are_by_image():
    competition = SimpleNamespace(
        train=pd.DataFrame({"id": ["1", "2", "3", "4"], "label": [0, 1, 1, 1]}), task=Task(classes=("cat", "dog"))
    )
    groups = pd.DataFrame(
        {
            "split": ["train"] * 4 + ["test"] * 2,
            "id": ["1", "2", "3", "4", "1", "8"],
            "group": ["train/1", "train/1", "train/3", "train/4", "test/1", "train/3"],
        }
    )
    broken = pd.DataFrame({"split": ["train", "test"], "id": ["4", "1"], "why": ["very dark", "no detail"], "far": 2.0})
    assert findings_table(competition, groups, ["the size leaks"], broken, ["test/9.jpg"]).to_numpy().tolist() == [
        ["leak", "", "", "", "the size leaks"],
        ["different labels", "train", "1", "cat", "shows the picture of train/1"],
        ["different labels", "train", "2", "dog", "shows the picture of train/1"],
        ["duplicate", "train", "3", "dog", "shows the picture of train/3"],
        ["duplicate", "test", "8", "", "shows the picture of train/3"],
        ["broken", "train", "4", "dog", "very dark"],
        ["broken", "test", "1", "", "no detail"],
        ["no row", "", "", "", "test/9.jpg"],
    ]
    nothing = findings_table(competition, groups[3:5], [], broken[:0], [])
    assert nothing.empty and nothing.columns.tolist() == ["finding", "split", "id", "label", "detail"]


def test_rows_are_counted_by_class_and_fold():
    def folds(labels: list, target: Task) -> Folds:
        table = pd.DataFrame({"id": list("abcd"), "label": labels, "group": list("abcd"), "fold": [0, 0, 1, 1]})
        return Folds(table, 2, 0, "", "", "", target)

    counts = count_rows(folds([2, 2, 0, 2], Task(kind="multiclass", classes=("x", "y", "z"))))
    assert counts.index.tolist() == ["x", "y", "z"] and np.array_equal(counts, [[0, 1], [0, 0], [2, 1]])
    values = count_rows(folds([1.0, 4.0, 2.0, 2.0], task_named("age")))
    assert values.to_dict() == {
        0: {"rows": 2, "mean": 2.5, "min": 1.0, "max": 4.0},
        1: {"rows": 2, "mean": 2.0, "min": 2.0, "max": 2.0},
    }
