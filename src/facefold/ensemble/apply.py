"""Apply the last blend to new images: the models of all folds, blended as for the test rows.

A method that learns from out-of-fold rows (weights, calibration, stackers) is fitted again, with the same result: it is
deterministic, and the weights are compared with those of blend.json. The new images take the place of the test rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from facefold.data.cache import ImageCache
from facefold.data.competition import load_competition
from facefold.data.folds import load_folds
from facefold.data.images import ImageProblem, map_images, open_image
from facefold.data.preprocessing import Preprocessing
from facefold.ensemble.added import plain_name
from facefold.ensemble.blend import load_blend
from facefold.ensemble.decisions import Decision
from facefold.ensemble.members import Fit, Fitted, OofMatrix, Rows, join_members, load_blended_members, load_features
from facefold.ensemble.methods import FEATURE_METHODS, blend_methods, member_weights
from facefold.ensemble.stacking import fit_feature_stackers
from facefold.ensemble.weights import parse_weights
from facefold.runs import Member
from facefold.task import LABEL, Task, task_named
from facefold.training.predict import predict_folds, require_network, trained_recipe
from facefold.utils.errors import InputError
from facefold.utils.files import read_json, require_disk_space, write_npy_blocks
from facefold.utils.npy import NpyRows


@dataclass(frozen=True)
class BlendModel:
    """The last blend of a target, ready to predict.

    Attributes:
        directory: Holds its runs/.
        facts: The content of blend.json.
        members: In the order of the matrix's columns.
        matrix: Of the members.
        fit: The chosen method.
    """

    directory: Path
    facts: dict
    members: list[Member]
    matrix: OofMatrix
    fit: Fit

    @property
    def decision(self) -> Decision:
        """What turns scores into labels; a blend of an earlier version has a threshold at most."""
        facts, threshold = self.facts.get("decision"), self.facts["threshold"]
        if facts:
            return Decision(facts["kind"], tuple(facts["values"]))
        return Decision() if threshold == 0.5 else Decision("threshold", (threshold,))


def blended_targets(root: Path) -> list[Task]:
    """Return the regression targets that were blended; a copy of a target's folder is none."""
    blends = {path.parents[1].name: path for path in sorted((root / "targets").glob("*/submissions/blend.json"))}
    return [task_named(name) for name, path in blends.items() if read_json(path).get("target") == name]


def load_blend_model(root: Path, target: Task = LABEL) -> BlendModel:
    """Load the last blend. `InputError` if there is none, or runs or folds have changed since."""
    competition, folds, facts = load_competition(root), load_folds(root, target), load_blend(root, target).facts
    test_ids = competition.test["id"].tolist()
    members = load_blended_members(root, facts, folds, test_ids)
    matrix = join_members(members, folds, test_ids)
    rule, _ = parse_weights(facts["options"]["weights"], [plain_name(name) for name in matrix.names])
    fit = blend_methods(Task.from_facts(facts["task"]), rule)[facts["picked"]]
    return BlendModel(target.directory(root), facts, members, matrix, fit)


def predict_images(blend: BlendModel, paths: Sequence[Path], device: torch.device, scratch: Path) -> np.ndarray:
    """Predict images that are cropped as the training images are.

    Returns float64 (n,): scores in 0..1, of which 0.5 or more decides for label 1, or values of a regression target; or
    (n, C): scores of more than two classes, of which the largest decides.
    Raises `InputError` for a file that is no image, for a member whose recipe is of another version of this program,
    for an added one, which has no model (both unless their weight is 0), and if the method does not learn what it
    learned for the submission.

    Args:
        blend: The last blend.
        paths: n > 0 images.
        device: Where the models run.
        scratch: A folder for the decoded images and the outputs of frozen stages; empty or not there yet.
    """
    matrix, skipped = blend.matrix, np.zeros(len(blend.members), bool)
    uses_features = blend.facts["picked"] in FEATURE_METHODS
    if not uses_features:
        one = matrix.prob.shape[2:]  # of a row
        fitted, stacked = _fit(blend, np.full((len(matrix.ids), *one), np.nan)), np.full((len(paths), *one), np.nan)
        if len(fitted.weights):  # the models of a member with weight 0 need not run
            skipped = np.asarray(fitted.weights) == 0
    _require_models(matrix, skipped)
    prob, features = _predict_members(blend, skipped, paths, device, scratch, uses_features)
    if uses_features:

        def feature_loader(fold: int, part: str, ids: list[str]) -> np.ndarray:
            if part == "oof":
                return load_features(blend.directory, matrix.names, fold, part, ids, matrix.target)
            return np.concatenate(features[fold], axis=1, dtype=np.float32)

        names = [str(path) for path in paths]
        stackers = fit_feature_stackers(replace(matrix, test_ids=names, fold_test_prob=prob), feature_loader)
        fitted, stacked = _fit(blend, stackers.oof), stackers.test
    scores = blend.decision.apply(fitted.predict(Rows(prob.mean(axis=0), stacked)))
    if not np.isfinite(scores).all():
        raise ValueError(f"the blend {blend.facts['picked']} predicts scores that are not finite")
    return scores


def _predict_members(
    blend: BlendModel,
    skipped: np.ndarray,
    paths: Sequence[Path],
    device: torch.device,
    scratch: Path,
    uses_features: bool,
) -> tuple[np.ndarray, list[list[NpyRows]]]:
    """Return float64 (k, n, m) or (k, n, m, C) as `OofMatrix.fold_test_prob`, and by fold the members' features.

    These may be gigabytes, so they are none unless `uses_features`.
    """
    folds = len(np.unique(blend.matrix.fold))
    one = blend.matrix.prob.shape[2:]  # of a member and row
    even = 1 / one[0] if one else 0.5
    prob, features = np.full((folds, len(paths), len(blend.members), *one), even), [[] for _ in range(folds)]
    images: dict[Preprocessing, ImageCache] = {}
    members = [blend.members[j] for j in np.flatnonzero(~skipped)]
    for member in members:  # before the first of them takes its time
        require_network(member.name, trained_recipe(member.name, member.runs))
    for j, member in zip(np.flatnonzero(~skipped), members, strict=True):
        preprocessing = trained_recipe(member.name, member.runs).preprocessing
        if preprocessing not in images:
            images[preprocessing] = _decode(paths, preprocessing, scratch / f"{len(images)}.npy")
        by_fold = predict_folds(
            blend.directory, member.name, member.runs, images[preprocessing], device, scratch / member.name
        )
        for k, prediction in enumerate(by_fold):
            prob[k, :, j] = prediction.prob / prediction.prob.sum(axis=1, keepdims=True) if one else prediction.prob
            if uses_features:
                features[k].append(prediction.features)
    return prob, features


def _require_models(matrix: OofMatrix, skipped: np.ndarray) -> None:
    """Raise `InputError` if an added member has to predict. skipped: bool (m,), the members that need not."""
    asked = [name for name, skip in zip(matrix.names, skipped, strict=True) if name in matrix.added and not skip]
    if asked:
        raise InputError(
            f"{', '.join(asked)}: predictions made elsewhere have no model that could predict new images. Blend "
            f"without --add first: `python src/blend.py{matrix.target.option}`"
        )


def _decode(paths: Sequence[Path], preprocessing: Preprocessing, file: Path) -> ImageCache:
    """Decode the images into a file, from which batches are read: memory need not hold all of a folder."""
    size = len(paths) * preprocessing.image_bytes
    require_disk_space(file.parent, size, f"{len(paths):,} images at {preprocessing.size} pixels")
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = map_images(lambda path: _open(path, preprocessing), paths)
    write_npy_blocks(file, len(paths), (image[None] for image in pixels), checksum=False)
    return ImageCache([str(path) for path in paths], NpyRows([file]))


def _open(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    try:
        return open_image(path, preprocessing.size, preprocessing.crop)
    except ImageProblem as problem:
        raise InputError(f"{path} {problem}. Leave it out, or convert it to JPEG.") from None


def _fit(blend: BlendModel, stacked: np.ndarray) -> Fitted:
    """Fit the method on the out-of-fold rows (`Rows`). `InputError` if the weights differ from those of blend.json."""
    matrix = blend.matrix
    fitted = blend.fit(Rows(matrix.prob, stacked), matrix.labels, matrix.fold)
    if member_weights(matrix.names, fitted) != blend.facts["weights"]:
        raise InputError(
            f"the blend does not come out as in {matrix.target.folder}submissions/blend.json. "
            f"Run `python src/blend.py{matrix.target.option}` again."
        )
    return fitted
