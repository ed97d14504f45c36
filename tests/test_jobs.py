from pathlib import Path

from facefold import jobs, runs
from facefold.data.corrections import NONE


def fold(recipe: str, number: int) -> jobs.FoldJob:
    return jobs.FoldJob(Path("root"), runs.Identity(recipe, "hash", "folds", "images", 0), NONE, number, None, 0)


def test_a_recipe_with_frozen_stages_computes_their_views_before_its_folds():
    wanted = [fold("lite0", 0), fold("lite0", 1), fold("demo_cnn", 0)]
    ordered, after = jobs.plan(wanted, 2)
    assert [str(job) for job in ordered] == ["lite0 frozen stages", "lite0 frozen stages", "lite0 fold 0", "lite0 fold 1", "demo_cnn fold 0"]
    assert [job.part for job in ordered[:2]] == [0, 1]
    assert after == {wanted[0]: ordered[:2], wanted[1]: ordered[:2], wanted[2]: []}


def test_nothing_to_train_plans_nothing():
    assert jobs.plan([], 2) == ([], {})
