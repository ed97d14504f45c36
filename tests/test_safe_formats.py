"""Nothing that is read from a file can run code: no pickle, and none of what unpickles behind one's back."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from facefold.models.pretrained import read_state_dict
from facefold.utils.errors import InputError
from facefold.utils.files import read_npy

PROJECT = Path(__file__).resolve().parents[1]
CODE = sorted([*PROJECT.glob("src/**/*.py"), *PROJECT.glob("bench/*.py")])
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def name_of(call: ast.Call) -> str:
    return ast.unparse(call.func)


def unsafe(tree: ast.AST) -> list[str]:
    """What in a module could unpickle or run what a file says."""
    unsafe = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            unsafe += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            unsafe += [node.module] if (node.module or "").split(".")[0] in MODULES else []
        elif isinstance(node, ast.Call):
            arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            name = name_of(node)
            if name.endswith("torch.load") and arguments.get("weights_only") != "True" or name.endswith("torch.save"):
                unsafe.append(name)
            if name in ("np.load", "numpy.load", "np.save", "numpy.save") and arguments.get("allow_pickle") != "False":
                unsafe.append(name)
            if name in ("eval", "exec") or name.split(".")[-1] in ("read_pickle", "to_pickle"):
                unsafe.append(name)
    return unsafe


def test_no_code_of_the_project_unpickles():
    """Checkpoints are written by torch.save, read with weights_only=True, and name the error that this raises."""
    assert len(CODE) > 50
    found = {path.relative_to(PROJECT).as_posix(): unsafe(ast.parse(path.read_text())) for path in CODE}
    checkpoint = "src/facefold/training/checkpoint.py"
    assert {path: names for path, names in found.items() if names} == {checkpoint: ["pickle", "torch.save"]}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.save(state, path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "table.to_pickle(path)",
        "eval(text)",
    ],
)
def test_the_search_finds_what_it_is_for(line):
    assert unsafe(ast.parse(line))
    assert not unsafe(ast.parse("torch.load(path, weights_only=True); np.load(path, allow_pickle=False); net.eval()"))


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def test_a_pickle_in_the_place_of_an_array_or_of_weights_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", np.array([Harmful()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="a.npy is damaged"):
        read_npy(tmp_path / "a.npy")
    torch.save({"w": Harmful()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="a.pth is not readable as weights"):
        read_state_dict(tmp_path / "a.pth")
    assert not (tmp_path / "harm").exists()
