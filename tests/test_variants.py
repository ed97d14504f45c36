"""Seeds and variants of a tiny recipe, trained in this process, resumed, blended, packed and predicted again."""

import json
import shutil
from contextlib import nullcontext

import pytest
import timm
import torch
from safetensors.torch import save_file

import run_all
import train
from command import RECIPE, call, refused, run, train_here
from facefold.runs import fold_dir, is_fold_sealed, run_names
from facefold.training import plan
from facefold.utils import processes
from facefold.utils.files import read_json, sha256_file
from tiny_fold import killed_after_an_epoch

NAMES = ["demo_cnn", "demo_cnn#1", "demo_cnn#2", "demo_cnn~lr=0.005~size=24@3#1"]


@pytest.fixture(autouse=True)
def quick_training(tmp_path, monkeypatch, one_thread):
    """Train in this process, which saves the seconds of each start."""
    train_here(tmp_path / "recipes", monkeypatch, demo_cnn=RECIPE)


@pytest.fixture
def root(tmp_path, make_competition):
    make_competition(tmp_path / "root", train=40, test=10, size=32, k=2)
    return tmp_path / "root"


def weights(root, name: str, fold: int = 0) -> bytes:
    return (fold_dir(root, name, fold) / "weights.safetensors").read_bytes()


def test_seeds_and_a_variant_blend_as_members_of_their_own(root, tmp_path):
    call("train", root, "--recipe", ",".join(NAMES[:3]))
    call("train", root, "--recipe", "demo_cnn#1", "-o", "size=24,epochs=3", "-o", "lr=5e-3")
    assert run_names(root) == NAMES
    runs = [read_json(fold_dir(root, name, 0) / "run.json") for name in NAMES]
    assert [run["seed"] for run in runs] == [0, 1, 2, 1] and [run["recipe"] for run in runs] == NAMES
    assert len({run["recipe_hash"] for run in runs}) == 2
    assert (runs[3]["settings"]["size"], runs[3]["settings"]["lr"], runs[3]["epochs_run"]) == (24, 0.005, 3)
    assert len({weights(root, name) for name in NAMES}) == 4

    listed = [f"{name}={weight}" for name, weight in zip(NAMES, (1, 1, 0.5, 2))]
    done = run("blend", root, "--recipes", ",".join(NAMES), "--weights", ",".join(listed), "--method", "weighted_mean")
    assert done.returncode == 0, done.stderr
    facts = read_json(root / "submissions" / "blend.json")
    assert [member["recipe"] for member in facts["members"]] == NAMES
    assert facts["weights"] == dict(zip(NAMES, (1, 1, 0.5, 2)))
    call("clean", root, "--recipes", "demo_cnn#1,demo_cnn#2")
    assert "by confident learning on demo_cnn#1, demo_cnn#2" in (root / "label_issues.html").read_text()
    call("report", root)
    page = (root / "report.html").read_text()
    assert "python src/train.py --recipe demo_cnn --seed 0\n" in page
    assert f"python src/train.py --recipe {','.join(NAMES[1:])}\n" in page

    # As kernel.py predicts in a notebook: what was packed, the steps and nothing else.
    submission = (root / "submissions" / "submission.csv").read_bytes()
    call("pack", root, "--out", tmp_path / "out", "--user", "me", "--competition", "faces", "--no-wheels")
    pack, there = tmp_path / "out" / "dataset", tmp_path / "there"
    settings = json.loads((pack / "facefold_pack.json").read_text())
    for name in ("folds", "runs"):
        shutil.copytree(pack / name, there / name)
    call("audit", there, "--data", root / "competition", *settings["audit"])
    for step in (["predict", "--test"], ["blend", *settings["blend"]]):
        call(step[0], there, *step[1:])
    assert (there / "submissions" / "submission.csv").read_bytes() == submission == (pack / "expected.csv").read_bytes()


def test_the_seed_of_a_name_is_the_seed_of_the_option(root, tmp_path):
    call("train", root, "--recipe", "demo_cnn,demo_cnn#5", "--fold", "0")
    other = tmp_path / "other"
    for name in ("competition", "folds", "cache"):
        shutil.copytree(root / name, other / name)
    call("train", other, "--recipe", "demo_cnn", "--seed", "5", "--fold", "0")
    assert weights(other, "demo_cnn") == weights(root, "demo_cnn#5") != weights(root, "demo_cnn")
    assert refused("train", other, "--recipe", "demo_cnn,demo_cnn#5", "--seed", "5") == (
        "demo_cnn and demo_cnn#5 are the same run, for both have seed 5; name one of the two"
    )
    assert refused("train", root, "--recipe", "demo_cnn", "--seed", "5").endswith(
        "To have both seeds, give one of them a run of its own: `train.py --recipe demo_cnn#5`."
    )


def test_a_killed_run_of_a_seed_continues_and_a_stale_one_is_refused(root, tmp_path, monkeypatch):
    name, options = "demo_cnn~width=4#1", ("--recipe", "demo_cnn~width=4#1", "--fold", "0")
    with killed_after_an_epoch(monkeypatch):
        call("train", root, *options)
    assert (fold_dir(root, name, 0) / "checkpoint.pt").exists() and run_names(root) == [name]
    call("train", root, *options)
    resumed = weights(root, name)
    shutil.rmtree(root / "runs")
    call("train", root, *options)
    assert weights(root, name) == resumed

    (tmp_path / "recipes" / "demo_cnn.toml").write_text(RECIPE + "lr = 5e-3\n")
    assert refused("train", root, *options) == (
        f"{root}/runs/{name}/fold_0 is stale: it was trained with another version of the recipe. Move it away, or "
        f"train over it with `train.py --recipe {name} --force`."
    )


def test_the_whole_job_plans_trains_and_blends_the_variants(root, monkeypatch, capsys):
    done = {}

    def run_step(name, *options):
        done[name] = dict(zip(options[::2], map(str, options[1::2])))
        if name == "train":
            call(name, root, *options[2:])
        if name == "report":
            raise SystemExit(0)
        return 1.0

    timed = [plan.Rates(1e-3, 1e-3, 0.0, 0.0)]
    monkeypatch.setattr(plan, "time_recipes", lambda some, *_: (timed * len(some), 1.0))
    monkeypatch.setattr(processes, "start_server", lambda: None)
    monkeypatch.setattr(run_all, "run_step", run_step)
    monkeypatch.setattr(train, "hold_root", lambda root: nullcontext())  # the job holds it
    with pytest.raises(SystemExit):
        call("run_all", root, "--recipes", "demo_cnn,demo_cnn#1", "-o", "width=4,lr=5e-3", "--budget", "1h")
    names = "demo_cnn~lr=0.005~width=4,demo_cnn~lr=0.005~width=4#1"
    assert done["train"]["--recipe"] == done["blend"]["--recipes"] == names
    assert ",".join(read_json(root / "cache" / "budget.json")["runs"]) == names
    assert "demo_cnn~lr=0.005~width=4#1 2 folds to go, about " in capsys.readouterr().out
    done.clear()
    assert refused("run_all", root, "--recipes", "demo_cnn", "-o", "width=8") == (
        "recipe 'demo_cnn~width=8': width = 8 is what demo_cnn has; leave it out"
    )
    assert not done


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_networks_that_cannot_be_built_are_named_before_anything_is_trained(root, tmp_path, force):
    (tmp_path / "recipes" / "unknown.toml").write_text('backbone = "resnet1800"\nsize = 32\n')
    (tmp_path / "recipes" / "untagged.toml").write_text('backbone = "test_resnet.r160"\nsize = 32\n')
    assert refused("train", root, "--recipe", "demo_cnn,demo_cnn~size=8,unknown,untagged", *force) == (
        "recipe demo_cnn~size=8: cnn3 halves the image four times: size = 8 should be 16 or more\n"
        f"recipe unknown: timm {timm.__version__} has no model 'resnet1800'\n"
        f"recipe untagged: timm {timm.__version__} has no weights 'r160' of test_resnet; it has: r160_in1k"
    )
    assert run_names(root) == [] and not list((root / "cache").rglob("*.npy"))


def test_folds_that_began_from_other_weights_are_named_before_the_rest_is_trained(root, tmp_path, monkeypatch):
    text = 'backbone = "test_resnet"\nweights = "hub"\nsize = 32\nepochs = 2\nbatch = 8\naugment = "none"\n'
    (tmp_path / "recipes" / "small.toml").write_text(text)
    for seed, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        torch.manual_seed(seed)
        save_file(timm.create_model("test_resnet").state_dict(), tmp_path / folder / "test_resnet.safetensors")
    first, second = (("--recipe", "small", "--weights-dir", tmp_path / folder) for folder in ("a", "b"))
    call("train", root, *first, "--fold", "0")
    directory = fold_dir(root, "small", 0)
    began = read_json(directory / "run.json")["weights"]
    sha256 = sha256_file(tmp_path / "b" / "test_resnet.safetensors")
    other = {"source": "test_resnet.safetensors", "sha256": sha256}
    hub = {"source": "hub:timm/test_resnet.r160_in1k"}
    for source, options in (
        (other, second),
        (other, (*second, "--fold", "1")),
        (other, (*second, "--fold", "1", "--force")),
        (hub, ("--recipe", "small")),
        (hub, ("--recipe", "small", "--force")),  # which may not be reached: a fold that is finished stays
    ):
        assert refused("train", root, *options) == (
            f"{directory} began from the weights {began}, and the other folds would begin from {source}. Name the "
            f"former with --weights-dir, or move {directory.parent} away to train all folds from the latter."
        )
        assert is_fold_sealed(root, "small", 0)
    shutil.rmtree(directory)
    with killed_after_an_epoch(monkeypatch):
        call("train", root, *first)
    text = refused("train", root, *second)
    assert text.startswith(f"{directory / 'checkpoint.pt'} was begun with the weights {{'source': 'test_resnet.safete")
    assert text.endswith("Name the former with --weights-dir, or train over it with --force.")
    call("train", root, *second, "--force")
    sources = [read_json(fold_dir(root, "small", fold) / "run.json")["weights"] for fold in (0, 1)]
    assert sources[0] == sources[1]
    call("train", root, "--recipe", "small")  # all is trained: its weights need not be there
