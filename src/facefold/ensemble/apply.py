"""The blend under submissions/ on images that are in no table: the models of all folds, joined as they were for the test rows.

A method that learned from out-of-fold rows (weights, calibration, stackers) learns from them once more, which gives the same:
it is deterministic, and the weights are compared with those of blend.json. The new images take the place of the test rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from facefold.data.cache import ImageCache
from facefold.data.competition import load_competition
from facefold.data.folds import load_folds
from facefold.data.images import decode_image
from facefold.ensemble import blend as blend_module
from facefold.ensemble import regression
from facefold.ensemble.members import OofMatrix, Rows, join_members, load_blended_members, load_features
from facefold.ensemble.methods import Fitted, Method, with_weights
from facefold.ensemble.selection import shift_scores
from facefold.ensemble.stacking import fit_feature_stackers
from facefold.ensemble.weights import parse_weights
from facefold.runs import Member
from facefold.task import LABEL, Target
from facefold.training.predict import predict_folds, trained_recipe
from facefold.utils.errors import InputError
from facefold.utils.npy import NpyRows

FEATURE_METHODS = ("stack_features", "second_pass")  # the methods that look at features


@dataclass(frozen=True)
class BlendModel:
    """The last blend of a target. place: where its runs lie; facts: blend.json; loaded: its members in the order of the matrix's
    columns; method: the one picked."""

    target: Target
    place: Path
    facts: dict
    loaded: list[Member]
    matrix: OofMatrix
    method: Method


def blended_targets(root: Path) -> list[Target]:
    """The targets beside the label that were blended."""
    return [Target(path.parents[1].name) for path in sorted((root / "targets").glob("*/submissions/blend.json"))]


def load_blend_model(root: Path, target: Target = LABEL) -> BlendModel:
    """The last blend. `InputError` when there is none, or runs or folds are not those it was made of."""
    combine, place = regression if target.regression else blend_module, target.directory(root)
    competition, folds, facts = load_competition(root), load_folds(root, target), combine.load_blend(root, target).facts
    test_ids = competition.test["id"].tolist()
    loaded = load_blended_members(root, facts, folds, test_ids)
    matrix = join_members(loaded, folds, test_ids)
    rule = facts["options"]["weights"]
    rule = rule if rule in ("auto", "equal", "accuracy") else parse_weights(rule, matrix.names)[0]
    every = regression.regression_methods(rule) if target.regression else with_weights(rule)
    return BlendModel(
        target, place, facts, loaded, matrix, next(made for made in every if made.name == facts["picked"])
    )


def predict_images(blend: BlendModel, paths: Sequence[Path], device: torch.device, scratch: Path) -> np.ndarray:
    """Scores float64 (n,) in 0..1 of the images `paths` (n > 0), cut as the training images are; 0.5 or more decides for label 1.
    Of another target than the label its values.

    scratch: an empty folder for what frozen stages make of them. Raises `InputError` for a file that is no image, for a member
    whose recipe is of another version of this program, and where the method does not learn what it learned for the submission.
    """
    stacks = blend.method.name in FEATURE_METHODS
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
        size = trained_recipe(member.recipe, member.runs).size
        if size not in pixels:
            pixels[size] = ImageCache(names, np.stack([decode_image(path, size) for path in paths]))
        for k, (values, features) in enumerate(
            predict_by_fold(blend.place, member, pixels[size], device, scratch / member.recipe)
        ):
            prob[k, :, j] = values
            seen.setdefault(k, []).append(features[:])
    answers = np.full(len(paths), np.nan)
    if stacks:

        def features(fold: int, part: str, ids: list[str]) -> np.ndarray:
            if part == "oof":
                return load_features(blend.place, blend.matrix.names, fold, part, ids)
            return np.concatenate(seen[fold], axis=1, dtype=np.float32)

        stacked = fit_feature_stackers(replace(blend.matrix, test_ids=names, fold_test_prob=prob), features)
        fitted, answers = _fitted(blend, stacked.oof), stacked.test
    scores = fitted.predict(Rows(prob.mean(axis=0), answers))
    scores = scores if blend.target.regression else shift_scores(scores, blend.facts["threshold"])
    if not np.isfinite(scores).all():
        raise ValueError(f"the blend {blend.method.name} gives scores that are not finite")
    return scores


def _fitted(blend: BlendModel, stacked: np.ndarray) -> Fitted:
    matrix = blend.matrix
    fitted = blend.method.fit(Rows(matrix.prob, stacked), matrix.labels, matrix.fold)
    if {name: float(f"{weight:.6g}") for name, weight in zip(matrix.names, fitted.weights)} != blend.facts["weights"]:
        raise InputError(
            f"the blend does not come out as in {blend.target.folder}submissions/blend.json. "
            f"Run `python src/blend.py{blend.target.option}` again."
        )
    return fitted


def predict_by_fold(
    place: Path, member: Member, shown: ImageCache, device: torch.device, scratch: Path
) -> list[tuple[np.ndarray, NpyRows]]:
    """Of each fold's model: probabilities of label 1, or values, float64 (n,) and features float16 (n, F) of the images `shown`.
    place: what holds the runs, see `Target.place`. scratch: a folder for this alone; what else is in it is removed."""
    return [
        (told.prob, told.features) for told in predict_folds(place, member.recipe, member.runs, shown, device, scratch)
    ]
