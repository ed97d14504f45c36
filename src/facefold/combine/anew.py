"""The blend under submissions/ on images that are in no table: the models of all folds, joined as they were for the test rows.

A method that learned from out-of-fold rows (weights, calibration, stackers) learns from them once more, which gives the same:
it is deterministic, and the weights are compared with those of blend.json. The new images take the place of the test rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from facefold import runs, trained
from facefold.combine import members, methods, nested, outcome, regression, stacking, weights
from facefold.combine.members import OofMatrix, Rows
from facefold.data import competition, folds, images
from facefold.data.cache import ImageCache
from facefold.data.target import LABEL, Target
from facefold.errors import InputError
from facefold.stored import Stored

STACKED = ("stack_features", "second_pass")  # the methods that look at features


@dataclass(frozen=True)
class Blend:
    """The last blend of a target. place: where its runs lie; facts: blend.json; loaded: its members in the order of the matrix's
    columns; method: the one picked."""

    target: Target
    place: Path
    facts: dict
    loaded: list[runs.Member]
    matrix: OofMatrix
    method: methods.Method


def others(root: Path) -> list[Target]:
    """The targets beside the label that were blended."""
    return [Target(path.parents[1].name) for path in sorted((root / "targets").glob("*/submissions/blend.json"))]


def load(root: Path, target: Target = LABEL) -> Blend:
    """The last blend. `InputError` when there is none, or runs or folds are not those it was made of."""
    combine, place = regression if target.regression else outcome, target.place(root)
    contest, dealt, facts = competition.load(root), folds.load(root, target), combine.load(root, target).facts
    test_ids = contest.test["id"].tolist()
    loaded = members.of_blend(root, facts, dealt, test_ids)
    matrix = members.matrix(loaded, dealt, test_ids)
    rule = facts["options"]["weights"]
    rule = rule if rule in ("auto", "equal", "accuracy") else weights.parse(rule, matrix.names)[0]
    every = regression.methods(rule) if target.regression else methods.with_weights(rule)
    return Blend(target, place, facts, loaded, matrix, next(made for made in every if made.name == facts["picked"]))


def predict(blend: Blend, paths: Sequence[Path], device: torch.device, scratch: Path) -> np.ndarray:
    """Scores float64 (n,) in 0..1 of the images `paths` (n > 0), cut as the training images are; 0.5 or more decides for label 1.
    Of another target than the label its values.

    scratch: an empty folder for what frozen stages make of them. Raises `InputError` for a file that is no image, for a member
    whose recipe is of another version of this program, and where the method does not learn what it learned for the submission.
    """
    stacks = blend.method.name in STACKED
    fitted = None if stacks else _fitted(blend, np.full(len(blend.matrix.ids), np.nan))
    # A weight of 0 spares a member's models the work; methods without a weight for each member need them all.
    needed = (
        [True] * len(blend.loaded) if stacks or len(fitted.weights) == 0 else (np.asarray(fitted.weights) != 0).tolist()
    )
    prob = np.full((len(np.unique(blend.matrix.fold)), len(paths), len(blend.loaded)), 0.5)
    seen: dict[int, list[np.ndarray]] = {}
    pixels: dict[int, ImageCache] = {}
    names = [str(path) for path in paths]
    for j, member in enumerate(blend.loaded):
        if not needed[j]:
            continue
        size = trained.recipe_of(member.recipe, member.runs).size
        if size not in pixels:
            pixels[size] = ImageCache(names, np.stack([images.decode(path, size) for path in paths]))
        for k, (values, features) in enumerate(
            by_fold(blend.place, member, pixels[size], device, scratch / member.recipe)
        ):
            prob[k, :, j] = values
            seen.setdefault(k, []).append(features[:])
    answers = np.full(len(paths), np.nan)
    if stacks:

        def features(fold: int, part: str, ids: list[str]) -> np.ndarray:
            if part == "oof":
                return members.features(blend.place, blend.matrix.names, fold, part, ids)
            return np.concatenate(seen[fold], axis=1, dtype=np.float32)

        stacked = stacking.stack(replace(blend.matrix, test_ids=names, fold_test_prob=prob), features)
        fitted, answers = _fitted(blend, stacked.oof), stacked.test
    scores = fitted.predict(Rows(prob.mean(axis=0), answers))
    scores = scores if blend.target.regression else nested.shifted(scores, blend.facts["threshold"])
    if not np.isfinite(scores).all():
        raise ValueError(f"the blend {blend.method.name} gives scores that are not finite")
    return scores


def _fitted(blend: Blend, stacked: np.ndarray) -> methods.Fitted:
    matrix = blend.matrix
    fitted = blend.method.fit(Rows(matrix.prob, stacked), matrix.labels, matrix.fold)
    if {name: float(f"{weight:.6g}") for name, weight in zip(matrix.names, fitted.weights)} != blend.facts["weights"]:
        raise InputError(
            f"the blend does not come out as in {blend.target.folder}submissions/blend.json. "
            f"Run `python src/blend.py{blend.target.option}` again."
        )
    return fitted


def by_fold(
    place: Path, member: runs.Member, shown: ImageCache, device: torch.device, scratch: Path
) -> list[tuple[np.ndarray, Stored]]:
    """Of each fold's model: probabilities of label 1, or values, float64 (n,) and features float16 (n, F) of the images `shown`.
    place: what holds the runs, see `Target.place`. scratch: a folder for this alone; what else is in it is removed."""
    return [
        (told.prob, told.features)
        for told in trained.predict(place, member.recipe, member.runs, shown, device, scratch)
    ]
