"""An upload folder is pushed by Kaggle's client; a stand-in on the PATH checks what is sent."""

import json
import os
import sys
from pathlib import Path

import pytest

from facefold.kaggle import client
from facefold.kaggle.pack import staged_upload, write_metadata
from facefold.utils.errors import InputError

# It answers each command with the first line of the file answers/<words of the command>, which it takes out.
STAND_IN = """#!{python}
import json, pathlib, sys
here = pathlib.Path({folder!r})
command = "_".join(sys.argv[1:3])
with open(here / "calls", "a") as calls:
    print(*sys.argv[1:], file=calls)
if "-p" in sys.argv:
    folder = pathlib.Path(sys.argv[sys.argv.index("-p") + 1])
    name = "kernel-metadata.json" if "kernels" in sys.argv else "dataset-metadata.json"
    metadata = json.loads((folder / name).read_text())
    assert (folder / metadata.get("code_file", name)).is_file() and len(metadata["title"]) <= 50
path = here / "answers" / command
first, *others = path.read_text().splitlines()
path.write_text("\\n".join(others or [first]))
code, _, text = first.partition(" ")
print(text.replace("|", "\\n"))
sys.exit(int(code))
"""
STARTED = "0 Kernel version {} successfully pushed.  Please check progress at https://www.kaggle.com/code/me/f"
CREATED = "0 Starting upload for file src.zip|Your private Dataset is being created. Please check .."
NO_SOURCE = "The following are not valid {} sources and could not be added to the kernel: ['me/facefold-faces-train']"


@pytest.fixture
def push(tmp_path, monkeypatch):
    """`push(answers)` pushes an upload folder; an answer of a command is its exit code and its lines."""
    with staged_upload(tmp_path / "out") as staged:
        write_metadata(staged, "me", "faces", gpu=True, trains=True)
        (staged / "kernel" / "train.ipynb").write_text("{}")
    program = tmp_path / "bin" / "kaggle"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable, folder=str(tmp_path)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(client, "_READY_SECONDS", 120)

    def run(**answers: str) -> list[str]:
        (tmp_path / "answers").mkdir(exist_ok=True)
        known = {"datasets_status": "0 ready", "datasets_version": CREATED, "kernels_push": STARTED.format(1)}
        for command, text in (known | answers).items():
            (tmp_path / "answers" / command).write_text(text)
        return client.push_upload(tmp_path / "out")

    return run


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().replace(f"{tmp_path}/", "").splitlines()


def test_a_new_data_set_is_created_and_the_notebook_waits_for_it(tmp_path, push):
    forbidden = "1 403 Client Error: Forbidden for url: .."  # for a moment after it was created as well
    status = f"{forbidden}\n{forbidden}\n0 ready"
    first = f"0 {NO_SOURCE.format('kernel')}|{STARTED.format(1)[2:]}"  # it has no output before its first session
    lines = push(datasets_status=status, datasets_create=CREATED, kernels_push=first)
    assert lines == ["Your private Dataset is being created. Please check ..", STARTED.format(1)[2:]]
    assert calls(tmp_path) == [
        "datasets status me/facefold-faces-train",
        "datasets create -p out/dataset --dir-mode zip",
        "datasets status me/facefold-faces-train",
        "datasets status me/facefold-faces-train",
        "kernels push -p out/kernel",
    ]


def test_a_data_set_that_is_there_gets_a_new_version(tmp_path, push):
    push(kernels_push=STARTED.format(2))
    assert calls(tmp_path)[1] == "datasets version -m pack.py -p out/dataset --dir-mode zip"
    metadata = json.loads((tmp_path / "out" / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["kernel_sources"] == metadata["dataset_sources"] == ["me/facefold-faces-train"]


@pytest.mark.parametrize(
    "answers, message",
    [
        (
            {"datasets_status": "1 401 - Unauthorized"},
            "the data set was not uploaded: the token is not valid any more. Create a new one at "
            "https://www.kaggle.com/settings.\nKaggle's client answered:\n  401 - Unauthorized",
        ),
        (
            {"datasets_version": "0 Dataset version creation error: too large"},
            "the data set was not uploaded.\nKaggle's client answered:\n  Dataset version creation error: too large",
        ),
        (
            {"kernels_push": "0 Kernel push error: Maximum batch GPU session count of 2 reached."},
            "the notebook was not uploaded.\nKaggle's client answered:\n  Kernel push error: Maximum batch GPU session "
            "count of 2 reached.",
        ),
        (
            {"kernels_push": f"0 {NO_SOURCE.format('kernel')}|{STARTED.format(3)[2:]}"},
            "the notebook runs without one of its inputs (kernel sources): stop it on its page. The rules of the "
            "competition must be accepted, and the last version of the notebook must have ended without an error.\n"
            f"Kaggle's client answered:\n  {NO_SOURCE.format('kernel')}\n  {STARTED.format(3)[2:]}",
        ),
        (
            {"kernels_push": f"0 {NO_SOURCE.format('competition')}|{STARTED.format(1)[2:]}"},
            "the notebook runs without one of its inputs (competition sources): stop it on its page. ",
        ),
        (
            {"datasets_status": "0 ready\n1 401 - Unauthorized\n0 ready"},
            "the data set me/facefold-faces-train was uploaded, and whether it is ready is not known: the token is not "
            "valid any more. Create a new one at https://www.kaggle.com/settings. Look at its page; when it is, run "
            "`kaggle kernels push`. Kaggle's client answered:\n  401 - Unauthorized",
        ),
        ({"datasets_status": "0 ready\n0 running"}, "the data set me/facefold-faces-train is not ready after 2 min"),
    ],
)
def test_what_goes_wrong_is_said(push, answers, message):
    with pytest.raises(InputError) as caught:
        push(**answers)
    assert str(caught.value).startswith(message)


def test_without_the_client_the_browser_does_it(tmp_path, push, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError) as caught:
        push()
    assert str(caught.value) == (
        "there is no `kaggle` on the PATH: install Kaggle's client with `pip install kaggle`, or upload "
        f"{tmp_path}/out in the browser"
    )
