"""A number instead of a label: the objective, the scores, the methods, and the whole job on synthetic images."""

import json
import re

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from command import call
from facefold.data.audit import audit_competition
from facefold.data.cache import ImageCache
from facefold.data.synthetic import write_synthetic_competition
from facefold.ensemble.blend import _fold_medians, make_blend
from facefold.ensemble.leaderboard import format_headline
from facefold.ensemble.members import OofMatrix, Rows
from facefold.ensemble.methods import METHOD_NAMES, REGRESSION_METHOD_NAMES, blend_methods, check_options
from facefold.ensemble.selection import cross_predict
from facefold.ensemble.stacking import fit_feature_stackers
from facefold.models import recipe as recipes
from facefold.models.build import build_model
from facefold.report.sections import errors_by_band
from facefold.runs import load_predictions
from facefold.task import Task, task_named
from facefold.training import workers
from facefold.training.fold import train_fold
from facefold.training.fold_task import FoldTask
from facefold.training.predict import predict_fold
from facefold.utils.errors import InputError
from facefold.utils.files import write_csv

AGE = task_named("age")
CPU = torch.device("cpu")


def test_a_net_learns_a_number_and_its_weights_predict_it_in_its_unit(tmp_path):
    draw = np.random.default_rng(0)
    values = draw.integers(0, 100, 96).astype(float)
    pixels = (draw.integers(0, 60, (96, 32, 32, 3)) + values[:, None, None, None] * 1.9).astype(np.uint8)
    cache = ImageCache([str(row) for row in range(96)], pixels)
    table = pd.DataFrame({"id": cache.ids, "label": values, "group": cache.ids})
    settings = {
        "size": 32,
        "width": 4,
        "batch": 16,
        "epochs": 10,
        "lr": 0.02,
        "precision": "float32",
        "tta": "none",
        "augment": "none",
        "schedule": "plateau",
        "monitor": 0.2,
    }
    task = FoldTask(
        recipes.parse_recipe("tiny", settings, "tiny.toml"),
        0,
        0,
        table.iloc[:64],
        table.iloc[64:],
        cache,
        cache,
        tmp_path / "c.safetensors",
        {"recipe": "tiny"},
        tmp_path,
        target=AGE,
    )
    result = predict_fold(task, train_fold(task, CPU), CPU)
    error = np.abs(result.oof_prob - values[64:]).mean()
    assert error < 15 < np.abs(values - values.mean()).mean() and result.facts["metrics"] == {
        "mae": pytest.approx(error)
    }
    assert result.history["valid_mae"].iloc[-1] == pytest.approx(error, rel=1e-3) and "valid_acc" not in result.history
    assert result.facts["standardised"]["std"] == pytest.approx(values[:64].std(), rel=0.2)
    net, _ = build_model(task.recipe)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in result.state.items()})
    with torch.inference_mode():
        assert net.eval()(torch.from_numpy(pixels[64:]))[0].numpy() == pytest.approx(result.oof_prob, abs=0.01)


def members(noises: list[float], rows: int = 200) -> OofMatrix:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 100, rows)
    pred = values[:, None] + rng.normal(size=(rows, len(noises))) * noises
    ids = [str(row) for row in range(rows)]
    return OofMatrix(
        ids,
        values,
        np.arange(rows) % 4,
        np.array(ids),
        [f"m{j}" for j in range(len(noises))],
        pred,
        ["t"],
        np.full((4, 1, len(noises)), 50.0),
        AGE,
    )


def blend_of(matrix: OofMatrix, rule: str | np.ndarray = "auto"):
    return make_blend(matrix, fit_feature_stackers(matrix, None), "auto", rule)


def test_the_simplest_unbeaten_method_is_picked():
    blend = blend_of(members([10, 10]))
    assert blend.facts["picked"] == "mean"
    assert blend.facts["why"].startswith(
        "mean is the simplest candidate and no other beats it by a real margin on the same rows "
    )
    assert blend.facts["gain_over_best_single"]["gain"] > 1 and blend.oof.columns.tolist() == [
        "id",
        "label",
        "pred",
        "fold",
    ]
    assert blend.submissions["mean"].to_dict("list") == {"id": ["t"], "age": [50.0]}
    board = blend.leaderboard.set_index("name")
    assert board["mae"].is_monotonic_increasing and set(board.index) == {
        "m0",
        "m1",
        *REGRESSION_METHOD_NAMES,
        "auto",
        "median",
    }
    assert board.loc["mean", "mae"] == pytest.approx(
        np.abs(blend.oof["label"] - members([10, 10]).prob.mean(axis=1)).mean()
    )
    poor = blend_of(members([1, 50]))
    assert poor.facts["picked"] == "best_single" and format_headline(poor.facts).endswith("] by best_single")
    assert poor.facts["why"].startswith(
        "best_single is the simplest method that no other beats by a real margin on the same rows "
        "(paired absolute errors, p < 0.05); the next simpler one, mean, is "
    )


def test_of_one_recipe_there_is_nothing_to_choose():
    """In the choice among methods an unlucky ridge once gave a worse headline than that of the submitted recipe."""
    matrix = members([10], rows=8)
    blend = blend_of(matrix)
    assert blend.facts["picked"] == "best_single" and blend.facts["score"] == blend.facts["picked_score"]
    assert blend.oof["pred"].tolist() == matrix.prob[:, 0].tolist()
    board = blend.leaderboard.set_index("name")
    assert "auto" not in board.index and board.loc["median", "kind"] == "baseline"


def test_the_baseline_is_the_median_of_the_other_folds():
    medians = _fold_medians(np.array([1.0, 2.0, 3.0, 10.0, 20.0, 40.0]), np.array([0, 0, 1, 1, 2, 2]))
    assert medians.tolist() == [15, 15, 11, 11, 2.5, 2.5]


def test_weights_given_by_hand_are_used():
    blend = blend_of(members([10, 10]), np.array([3.0, 1.0]))
    assert blend.facts["picked"] == "weighted_mean" and blend.facts["weights"] == {"m0": 3, "m1": 1}
    expected = members([10, 10]).prob @ np.array([0.75, 0.25])
    assert blend.oof["pred"].to_numpy() == pytest.approx(expected)


def test_no_method_sees_the_rows_that_score_it():
    matrix = members([30, 30])
    data = (Rows(matrix.prob, np.zeros(200)), matrix.labels, matrix.fold)
    changed = matrix.labels.copy()
    changed[matrix.fold == 2] = 999.0
    for fit in blend_methods(AGE, "auto").values():
        before, after = cross_predict(fit, *data), cross_predict(fit, data[0], changed, matrix.fold)
        assert np.array_equal(before[matrix.fold == 2], after[matrix.fold == 2])


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ("majority", "auto", []),
            "--method majority is for labels, and age is a number. "
            "With --target age there are auto, mean, best_single, weighted_mean, ridge",
        ),
        (("auto", "auto", ["order"]), "--use-order is for labels; with --target age leave it out"),
        (("auto", "auto", ["duplicates"]), "--use-duplicates is for labels; with --target age leave it out"),
        (("auto", "accuracy", []), "--weights accuracy: age has none; say auto, equal, or name=w,name=w"),
        (
            ("ridge", "a=1", []),
            "--method ridge has no weights to set; leave --weights out, or take --method weighted_mean",
        ),
    ],
)
def test_what_belongs_to_labels_is_refused_with_its_reason(options, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_options(AGE, *options)


def test_methods_belong_to_labels_or_to_numbers_or_to_both():
    assert set(REGRESSION_METHOD_NAMES) - set(METHOD_NAMES) == {"ridge"}
    for method in set(METHOD_NAMES) - set(REGRESSION_METHOD_NAMES):
        with pytest.raises(InputError, match=f"^--method {method} is for labels, and age is a number"):
            check_options(AGE, method, "auto", [])
    with pytest.raises(InputError, match="^--method ridge predicts numbers: it belongs to --target$"):
        check_options(Task(), "ridge", "auto", [])


def test_bands_lie_between_round_numbers():
    bands = errors_by_band(pd.DataFrame({"label": [0.0, 9.0, 10.0, 100.0], "pred": [1.0, 9.0, 13.0, 99.0]}))
    assert bands["band"].tolist() == ["0 to 10", "10 to 20", "90 to 100"] and bands["rows"].tolist() == [2, 1, 1]
    assert bands["mae"].tolist() == [0.5, 3, 1] and bands["bias"].tolist() == [0.5, 3, -1]


def test_the_whole_job_of_a_number(tmp_path, monkeypatch, capsys):
    """Run it in one process, which saves the seconds of each start; test_run_all runs each step in its own."""
    monkeypatch.setattr(workers, "run_jobs", lambda jobs, *_: [job.run(CPU, 0) for job in jobs])
    (tmp_path / "recipes").mkdir()
    for name, width in (("demo_cnn", 8), ("cnn5", 4)):
        text = f'backbone = "cnn5"\nsize = 32\nwidth = {width}\nbatch = 32\nepochs = 2\nema = 0.0\n'
        (tmp_path / "recipes" / f"{name}.toml").write_text(text)
    monkeypatch.setattr(recipes, "RECIPES_DIR", tmp_path / "recipes")
    write_synthetic_competition(tmp_path, train=60, test=20, size=32)
    folder = tmp_path / "competition"
    train = pd.read_csv(folder / "train.csv", dtype=str)
    light = [cv2.imread(str(folder / "train" / f"{id}.jpg")).mean() for id in train["id"]]
    write_csv(folder / "meta.csv", pd.DataFrame({"id": train["id"], "light": light}))
    audit_competition(tmp_path)
    for name, options in [
        ("split", ("--folds", "2")),
        ("train", ("--recipe", "demo_cnn,cnn5")),
        ("blend", ()),
        ("report", ()),
    ]:
        call(name, tmp_path, "--target", "light", *options)
    output = capsys.readouterr().out
    target_root = tmp_path / "targets" / "light"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cache",
        "competition",
        "recipes",
        "targets",
    ]  # nothing of the label's
    identity = json.loads((target_root / "runs/cnn5/fold_1/run.json").read_text())
    assert identity["target"] == "light" and set(identity["metrics"]) == {"mae"}
    assert (target_root / "runs/cnn5/oof.csv").read_text().splitlines()[0] == "id,pred"
    assert re.search(
        r"\ncnn5: OOF mean absolute error \d+\.\d+ \[.*\] on 60 rows, targets/light/runs/cnn5/oof.csv\n", output
    )
    assert re.search(
        r"upload .*/light/submissions/submission.csv: nested mean absolute error \d+\.\d+ \[.*\] by mean; "
        r"learned weights do not beat the mean\n",
        output,
    )
    submission = pd.read_csv(target_root / "submissions" / "submission.csv", dtype={"id": str})
    sample = pd.read_csv(folder / "sampleSubmit.csv", dtype={"id": str})
    assert submission.columns.tolist() == ["id", "light"] and submission["id"].tolist() == sample["id"].tolist()
    facts = json.loads((target_root / "submissions" / "blend.json").read_text())
    assert submission.equals(pd.read_csv(target_root / "submissions" / f"{facts['picked']}.csv", dtype={"id": str}))
    text = (target_root / "report.html").read_text()
    assert "Upload targets/light/submissions/submission.csv: nested mean absolute error " in text
    assert "python src/train.py --target light --recipe cnn5,demo_cnn" in text and 'alt=""' not in text

    run = target_root / "runs/cnn5/fold_0/run.json"
    run.write_text(run.read_text().replace('"target": "light"', '"target": "age"'))
    stale = (
        f"{run.parent} is stale: it was trained with another target. Move it away, or train over it with "
        "`train.py --recipe cnn5 --target light --force`."
    )
    with pytest.raises(InputError, match=f"^{re.escape(stale)}$"):
        call("blend", tmp_path, "--target", "light")
    (target_root / "runs/cnn5/fold_0/run.json").unlink()
    with pytest.raises(
        InputError,
        match=re.escape(
            "targets/light/runs/cnn5 is incomplete: fold 0 of 2 not finished. Run "
            "`python src/train.py --recipe cnn5 --target light`"
        ),
    ):
        call("blend", tmp_path, "--target", "light")
    with pytest.raises(InputError, match="^--corrections corrects labels; with --target light leave it out$"):
        call("train", tmp_path, "--target", "light", "--recipe", "cnn5", "--corrections", "x.csv")


def test_a_prediction_that_is_no_number_is_refused(tmp_path):
    path = tmp_path / "oof.csv"
    path.write_text("id,pred\n7,31.5\n8,inf\n")
    with pytest.raises(
        InputError, match=re.escape(f"{path}, row 3: pred inf is not a finite number; delete the fold's folder")
    ):
        load_predictions(path, AGE)
    with pytest.raises(InputError, match="columns id,pred, expected id,prob"):
        load_predictions(path)
