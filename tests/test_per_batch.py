"""Augmentation of batches: what a result depends on, each operation by hand, and all against albumentations."""

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from albumentations.augmentations.geometric import functional as geometric
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from facefold.augment import per_batch
from facefold.augment.branchless import BranchlessAugment, apply_table, parameter_table
from facefold.augment.per_batch import BatchAugment, apply_params
from facefold.augment.policies import ORDERS, POLICIES, AugmentParams, sample_params
from facefold.utils.errors import InputError

SEEDS = np.arange(4000)
STANDARD = POLICIES["standard"]
WHOLE_BATCHES = sorted(name for name, policy in POLICIES.items() if not policy.per_image_only)
JITTER = A.ColorJitter(STANDARD.brightness, STANDARD.contrast, STANDARD.saturation, STANDARD.hue, p=1)


def noise(count: int, height: int = 9, width: int = 7) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def smooth(count: int, size: int = 64) -> torch.Tensor:
    coarse = np.random.default_rng(1).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return torch.from_numpy(
        np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in coarse])
    )


def identity_params(count: int = 1, **changed: object) -> AugmentParams:
    """AugmentParams that change nothing except `changed`, one value for all images."""
    params = {
        "flip": False,
        "affine": False,
        "scale": (1.0, 1.0),
        "rotate": 0.0,
        "translate": (0.0, 0.0),
        "jitter": False,
        "factors": (1.0, 1.0, 1.0, 0.0),
        "order": 0,
        "gray": False,
        "erase": False,
        "hole": (0, 0, 0, 0),
    }
    return AugmentParams(**{name: np.array([value] * count) for name, value in {**params, **changed}.items()})


def ids(count: int) -> list[str]:
    return [f"{row:04d}" for row in range(count)]


# What a change depends on


@given(st.lists(st.integers(0, 39), min_size=1, max_size=40, unique=True), st.sampled_from(WHOLE_BATCHES))
@settings(max_examples=40, deadline=None)
def test_an_image_does_not_depend_on_the_others_of_its_batch(rows, policy):
    pixels, augment = noise(40), BatchAugment(policy, 3)
    together = augment(pixels, 2, ids(40))
    assert torch.equal(augment(pixels[rows], 2, [ids(40)[row] for row in rows]), together[rows])


@pytest.mark.parametrize("images_at_once", [1, 3, 40])
def test_the_size_of_a_chunk_changes_nothing(monkeypatch, images_at_once):
    together = BatchAugment("standard", 3)(noise(40), 2, ids(40))
    monkeypatch.setattr(per_batch, "_CACHED_BYTES", images_at_once * 12 * 9 * 7)
    assert torch.equal(BatchAugment("standard", 3)(noise(40), 2, ids(40)), together)


def test_seed_epoch_and_id_each_change_the_draw():
    pixels = noise(1)
    augmented = [
        BatchAugment("standard", seed)(pixels, epoch, [id]).numpy().tobytes()
        for seed, epoch, id in ((0, 0, "1"), (1, 0, "1"), (0, 1, "1"), (0, 0, "01"))
    ]
    assert len(set(augmented)) == 4
    assert augmented[0] == BatchAugment("standard", 0)(pixels, 0, ["1"]).numpy().tobytes()


@pytest.mark.parametrize("policy", WHOLE_BATCHES)
def test_shape_and_type_stay_and_the_input_is_not_changed(policy):
    pixels = noise(12, 10, 6)
    before = pixels.clone()
    augmented = BatchAugment(policy, 0)(pixels, 0, ids(12))
    assert augmented.shape == (12, 10, 6, 3) and augmented.dtype == torch.uint8
    assert torch.equal(pixels, before)
    assert torch.equal(augmented, pixels) == (policy == "none")


def test_a_policy_for_single_images_is_refused():
    with pytest.raises(InputError, match="augmentation policy 'articles' has operations for single images only"):
        BatchAugment("articles", 0)
    with pytest.raises(InputError, match='use augmenter = "albumentations"$'):
        BranchlessAugment("articles", 0)


def test_an_empty_batch_stays_empty():
    assert BatchAugment("standard", 0)(noise(0), 0, []).shape == (0, 9, 7, 3)


def test_nothing_is_read_back_from_the_device():
    nothing = noise(40).to("meta")  # a device without values: asking for one is an error
    branchless = BranchlessAugment("standard", 0)
    table = torch.from_numpy(branchless.table(0, ids(40), 9, 7)).to("meta")
    for augmented in (BatchAugment("standard", 0)(nothing, 0, ids(40)), branchless(nothing, table)):
        assert augmented.device.type == "meta" and augmented.shape == (40, 9, 7, 3)


@pytest.mark.parametrize("policy", WHOLE_BATCHES)
def test_both_ways_give_the_same_images(policy):
    pixels, branchless = smooth(200, 24), BranchlessAugment(policy, 3)
    grouped = BatchAugment(policy, 3)(pixels, 2, ids(200))
    difference = (branchless(pixels, torch.from_numpy(branchless.table(2, ids(200), 24, 24))).int() - grouped).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3  # a level where a half is rounded


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_same_within_a_level():
    pixels = smooth(60)
    here, there = (BatchAugment("standard", 0)(pixels.to(device), 0, ids(60)).cpu().int() for device in ("cpu", "cuda"))
    assert (here - there).abs().max() <= 1


def test_an_unknown_policy_lists_those_there_are():
    with pytest.raises(
        InputError,
        match="^there is no augmentation policy 'heavy'; there are: aligned, articles, light, none, standard$",
    ):
        BatchAugment("heavy", 0)


def test_ids_must_be_as_many_as_images():
    with pytest.raises(ValueError, match="^2 images and 1 ids$"):
        BatchAugment("light", 0)(noise(2), 0, ["1"])


# Each operation by hand, by both ways


def apply_branchless(pixels: torch.Tensor, params: AugmentParams) -> torch.Tensor:
    table = torch.from_numpy(parameter_table(params, *pixels.shape[1:3]))
    return apply_table(pixels, table, STANDARD)


@pytest.fixture(params=[apply_params, apply_branchless], ids=["grouped", "branchless"])
def augment(request):
    return request.param


def test_a_flip_is_a_flip_with_and_without_an_affine(augment):
    pixels = noise(2)
    assert torch.equal(augment(pixels, identity_params(2, flip=True)), pixels.flip(2))
    assert torch.equal(augment(pixels, identity_params(2, flip=True, affine=True)), pixels.flip(2))


@pytest.mark.parametrize("x,y", [(2, 0), (0, -3), (-1, 4)])
def test_whole_pixels_of_translation_are_a_shifted_slice_of_the_mirrored_image(augment, x, y):
    pixels = noise(1)
    wide = np.pad(pixels[0].numpy(), ((5, 5), (5, 5), (0, 0)), mode="reflect")  # numpy's word for reflect-101
    augmented = augment(pixels, identity_params(affine=True, translate=(float(x), float(y))))
    assert np.array_equal(augmented[0].numpy(), wide[5 - y : 14 - y, 5 - x : 12 - x])


def test_the_flip_comes_before_the_translation(augment):
    pixels = noise(1)
    augmented = augment(pixels, identity_params(flip=True, affine=True, translate=(2.0, 0.0)))
    assert torch.equal(augmented[:, :, 2:], pixels.flip(2)[:, :, :-2])


def test_a_quarter_turn_is_counter_clockwise(augment):
    pixels = noise(1, 8, 8)
    assert torch.equal(augment(pixels, identity_params(affine=True, rotate=90.0)), torch.rot90(pixels, 1, (1, 2)))


def test_twice_the_width_reads_half_as_far_from_the_middle(augment):
    pixels = torch.tensor([10, 20, 40, 80, 160], dtype=torch.uint8)[None, None, :, None].expand(1, 2, 5, 3)
    augmented = augment(pixels, identity_params(affine=True, scale=(2.0, 1.0)))
    assert augmented[0, 0, :, 0].tolist() == [20, 30, 40, 60, 80]


def one(red: int, green: int, blue: int) -> torch.Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8).expand(1, 2, 2, 3).contiguous()


@pytest.mark.parametrize(
    "factors,expected",
    [
        ((1.2, 1.0, 1.0, 0.0), (120, 60, 255)),  # 240 * 1.2 is cut
        ((1.0, 0.5, 1.0, 0.0), (93, 68, 163)),  # luma 86.61: half the way to it
        ((1.0, 1.0, 0.5, 0.0), (93, 68, 163)),  # one colour: the image's mean grey is each pixel's own
        ((1.0, 1.0, 1.0, 0.0), (100, 50, 240)),
        (
            (1.0, 1.0, 1.0, 1 / 60),
            (119, 50, 240),
        ),  # 3 of 180 hues: a tenth of a sixth, of 190 levels, from blue on to red
        ((1.0, 1.0, 1.0, -0.001), (94, 50, 240)),  # rounded down to -1 of 180: 190 / 30 back
    ],
)
def test_colour_factors(augment, factors, expected):
    assert augment(one(100, 50, 240), identity_params(jitter=True, factors=factors))[0, 0, 0].tolist() == list(expected)


def test_contrast_goes_by_the_mean_of_the_image_and_saturation_by_the_pixel(augment):
    pixels = torch.tensor([[[[0, 0, 0], [200, 200, 200]]] * 2], dtype=torch.uint8)
    contrast = augment(pixels, identity_params(jitter=True, factors=(1.0, 0.5, 1.0, 0.0)))
    saturation = augment(pixels, identity_params(jitter=True, factors=(1.0, 1.0, 0.5, 0.0)))
    assert contrast[0, 0, :, 0].tolist() == [50, 150] and torch.equal(saturation, pixels)


def test_the_order_of_the_jitter_counts_as_every_step_is_cut_to_255(augment):
    brighter_first, contrast_first = (ORDERS.tolist().index(order) for order in ([0, 1, 2, 3], [1, 0, 2, 3]))
    pixels = torch.tensor([[[[100] * 3, [240] * 3]] * 2], dtype=torch.uint8)
    first, second = (
        augment(pixels, identity_params(jitter=True, factors=(1.2, 0.5, 1.0, 0.0), order=order))[0, 0, :, 0].tolist()
        for order in (brighter_first, contrast_first)
    )
    assert first == [154, 221]  # 120, 255; about their mean 187.5: 153.75, 221.25
    assert second == [162, 246]  # about 170: 135, 205; then 162, 246


def test_grey_is_the_weighted_mean(augment):
    assert augment(one(100, 50, 240), identity_params(gray=True))[0, 0, 0].tolist() == [87] * 3  # 29.9 + 29.35 + 27.36


def test_a_hole_is_black_inside_its_edges_alone(augment):
    pixels = noise(1) | 1
    augmented = augment(pixels, identity_params(erase=True, hole=(2, 1, 5, 4)))
    assert (augmented == 0).all(3).nonzero()[:, 1:].tolist() == [[y, x] for y in (1, 2, 3) for x in (2, 3, 4)]
    augmented[:, 1:4, 2:5] = pixels[:, 1:4, 2:5]
    assert torch.equal(augmented, pixels)


# Against albumentations: the same pixels by the same parameters, and parameters of the same distribution


def test_an_affine_is_albumentations(augment):
    pixels, params = smooth(60), sample_params(STANDARD, SEEDS[:60], 64, 64)
    params = AugmentParams(
        **{
            **vars(identity_params(60)),
            "affine": np.ones(60, bool),
            "scale": params.scale,
            "rotate": params.rotate,
            "translate": params.translate,
        }
    )
    for row, augmented in enumerate(augment(pixels, params).numpy()):
        matrix = geometric.create_affine_transformation_matrix(
            dict(zip("xy", params.translate[row], strict=True)),
            {"x": 0, "y": 0},
            dict(zip("xy", params.scale[row], strict=True)),
            params.rotate[row],
            geometric.center((64, 64)),
        )
        theirs = geometric.warp_affine(
            pixels[row].numpy(), matrix, cv2.INTER_LINEAR, 0, cv2.BORDER_REFLECT_101, (64, 64)
        )
        difference = np.abs(augmented.astype(int) - theirs)
        assert difference.mean() < 0.6 and difference.max() <= 5  # OpenCV before 5 knows positions to 1/32 of a pixel


def test_a_jitter_is_albumentations_but_for_whole_levels(augment):
    pixels, params = smooth(60), sample_params(STANDARD, SEEDS[:60], 64, 64)
    params = AugmentParams(
        **{**vars(identity_params(60)), "jitter": np.ones(60, bool), "factors": params.factors, "order": params.order}
    )
    for row, augmented in enumerate(augment(pixels, params).numpy()):
        factors = dict(zip(("brightness", "contrast", "saturation", "hue"), params.factors[row], strict=True))
        theirs = JITTER.apply(pixels[row].numpy(), **factors, order=ORDERS[params.order[row]])
        difference = np.abs(augmented.astype(int) - theirs)
        assert difference.mean() < 2 and difference.max() <= 12


def test_grey_is_albumentations(augment):
    pixels = smooth(8)
    ours = augment(pixels, identity_params(8, gray=True)).numpy().astype(int)
    theirs = np.stack([A.ToGray(p=1)(image=image)["image"] for image in pixels.numpy()])
    assert np.abs(ours - theirs).max() <= 1


def draw_numbers() -> dict[str, np.ndarray]:
    params = sample_params(STANDARD, SEEDS, 64, 48)
    return {
        **{f"scale {side}": params.scale[:, at] for at, side in enumerate("xy")},
        "rotate": params.rotate,
        **{f"translate {side}": params.translate[:, at] for at, side in enumerate("xy")},
        **{name: params.factors[:, at] for at, name in enumerate(("brightness", "contrast", "saturation", "hue"))},
        **{name: params.hole[:, at] for at, name in enumerate(("left", "top", "right", "bottom"))},
    }


def draw_numbers_by_albumentations() -> dict[str, list[float]]:
    affine = A.Affine(scale=STANDARD.scale, rotate=STANDARD.rotate, translate_percent=STANDARD.translate, p=1)
    hole = A.CoarseDropout((1, 1), STANDARD.hole, STANDARD.hole, p=1)
    for seed, transform in enumerate((affine, hole, JITTER)):
        transform.set_random_seed(seed)
    shape, middle = {"shape": (64, 48, 3)}, np.array([23.5, 31.5, 1])
    rows = []
    for _ in SEEDS:
        moved = affine.get_params_dependent_on_data(shape, {})
        shift = np.round((moved["matrix"] @ middle - middle)[:2], 6)
        box = hole.get_params_dependent_on_data(shape, {})["holes"][0]
        rows.append(
            {
                **{f"scale {side}": moved["scale"][side] for side in "xy"},
                "rotate": moved["rotate"],
                **dict(zip(("translate x", "translate y"), shift, strict=True)),
                **{name: value for name, value in JITTER.get_params().items() if name != "order"},
                **dict(zip(("left", "top", "right", "bottom"), box, strict=True)),
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_numbers_are_drawn_as_albumentations_draws_them():
    ours, theirs = draw_numbers(), draw_numbers_by_albumentations()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ks_2samp(ours[name], theirs[name]).pvalue > 0.001, name
        assert np.std(ours[name]) == pytest.approx(np.std(theirs[name]), rel=0.05), name
        assert min(ours[name]) == pytest.approx(min(theirs[name]), abs=0.03 * np.ptp(theirs[name])), name
        assert max(ours[name]) == pytest.approx(max(theirs[name]), abs=0.03 * np.ptp(theirs[name])), name


def test_holes_lie_inside_the_image():
    left, top, right, bottom = sample_params(STANDARD, SEEDS, 64, 48).hole.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= 48).all() and (bottom <= 64).all()
    assert set(right - left) == set(range(4, 15)) and set(bottom - top) == set(range(6, 20))


@pytest.mark.parametrize(
    "name,probability", [("flip", 0.5), ("affine", 0.9), ("jitter", 0.7), ("gray", 0.1), ("erase", 0.25)]
)
def test_operations_are_as_frequent_as_the_policy_says(name, probability):
    share = getattr(sample_params(STANDARD, SEEDS, 64, 48), name).mean()
    assert share == pytest.approx(probability, abs=4 * np.sqrt(probability * (1 - probability) / len(SEEDS)))


def test_all_orders_are_equally_frequent():
    counts = np.bincount(sample_params(STANDARD, SEEDS, 64, 48).order, minlength=24)
    assert ((counts - 4000 / 24) ** 2 / (4000 / 24)).sum() < 52.6  # chi square of 23 degrees of freedom: 1 in 2,500


def test_draws_are_independent():
    params = sample_params(STANDARD, SEEDS, 64, 48)
    columns = np.column_stack(
        [
            params.flip,
            params.affine,
            params.scale,
            params.rotate,
            params.translate,
            params.jitter,
            params.factors,
            params.order,
            params.gray,
            params.erase,
            params.hole[:, :2],
        ]
    )
    correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 0.07  # 4.4 deviations
