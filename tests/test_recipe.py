import json
import re
from dataclasses import asdict, replace

import pytest

from facefold.models.recipe import PROFILES, Recipe, load_recipe, load_recipes, parse_recipe, recipe_names
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_text


def test_every_recipe_file_loads_and_says_what_it_is():
    for name in recipe_names():
        assert load_recipe(name).about, name


def test_profiles_name_recipes_that_exist():
    for chosen in PROFILES.values():
        assert set(chosen) <= set(recipe_names())


def test_recipes_for_a_gpu_without_the_hub_need_none_and_freeze_nothing():
    for recipe in map(load_recipe, PROFILES["gpu_offline"]):
        assert recipe.weights.startswith("package:") and not recipe.has_frozen_stages and recipe.augmenter == "batch"


def test_hash_follows_what_changes_the_model_and_nothing_else():
    plain = parse_recipe("a", {"size": 64}, "a.toml")
    assert parse_recipe("b", {"size": 64, "about": "other words"}, "b.toml").hash == plain.hash
    assert parse_recipe("a", {"size": 65}, "a.toml").hash != plain.hash


def test_the_defaults_never_change():
    """The hash leaves defaults out, so a default that changed would make old runs pass for new ones."""
    assert asdict(Recipe("any")) == dict(
        name="any",
        about="",
        backbone="cnn5",
        weights="none",
        size=128,
        crop=1.0,
        start_size=0,
        freeze_stages=0,
        views=0,
        dropout=0.0,
        drop_path=0.0,
        width=32,
        augment="standard",
        augmenter="albumentations",
        batch=32,
        epochs=4,
        optimizer="adamw",
        lr=1e-3,
        layer_decay=1.0,
        feature_scale="",
        head_lr=1.0,
        weight_decay=0.01,
        momentum=0.9,
        schedule="cosine",
        warmup=0.0,
        plateau_factor=0.3,
        plateau_patience=2,
        early_stopping=0,
        monitor=0.0,
        label_smoothing=0.0,
        clip=1.0,
        ema=0.0,
        compile=False,
        precision="auto",
        layout="auto",
        tta="flip",
        freeze_backbone=False,
        frozen_precision="float32",
        head="",
        stop_on="loss",
        shuffle="auto",
        classifier="",
        soup=0,
        mixup=0.0,
        cutmix=0.0,
        grad_checkpointing=False,
    )


def test_hashes_of_runs_that_exist_never_change():
    assert {name: load_recipe(name).hash[:12] for name in (*PROFILES["images"], "mobilenetv2", "resnet50")} == {
        "lite0_160": "092a510bf34c",
        "lite0_96_aligned": "0738bfdcd48c",
        "lite0": "d3a553db70c9",
        "cnn5": "cc3462c303fa",
        "mobilenetv2": "b9d9804d8b75",
        "resnet50": "a572ec8b3558",
    }


def test_a_setting_at_its_default_is_no_other_recipe():
    assert parse_recipe("a", {"size": 64, "epochs": 4}, "a.toml").hash == parse_recipe("a", {"size": 64}, "a.toml").hash


def test_whole_numbers_are_taken_for_floats():
    assert parse_recipe("a", {"clip": 2}, "a.toml").clip == 2.0


def test_all_wrong_keys_and_types_are_named_at_once():
    with pytest.raises(InputError) as caught:
        parse_recipe("a", {"sizes": 64, "epochs": "4", "ema": True}, "a.toml")
    text = str(caught.value)
    assert text.startswith(
        "a.toml is not a recipe:\n  - unknown key 'sizes' (did you mean size?); known are about, backbone, "
    )
    assert "  - epochs = '4' should be of type int\n  - ema = True should be of type float" in text


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"optimizer": "lion"}, "optimizer = 'lion' is none of adamw, sgd"),
        ({"lr": 0.0}, "lr = 0.0 should be above 0"),
        ({"clip": -1.0}, "clip = -1.0 should not be negative"),
        ({"crop": 0.0}, "crop = 0.0 should be in 0 < crop <= 1"),
        ({"crop": 1.5}, "crop = 1.5 should be in 0 < crop <= 1"),
        ({"ema": 1.0}, "ema = 1.0 should be in 0 <= ema < 1"),
        ({"schedule": "plateau"}, "plateau and early_stopping need monitor > 0: the rows they watch"),
        ({"monitor": 0.1}, 'monitor belongs to early_stopping, soup, tta = "choose" or schedule = "plateau" only'),
        ({"tta": "zoom"}, "tta = 'zoom' is none of flip, none, flip_zoom, choose"),
        ({"tta": "choose"}, 'tta = "choose" needs monitor > 0: the rows that choose the views'),
        ({"soup": 1}, "soup = 1 averages nothing: set at least 2, or 0 for none"),
        ({"soup": -1}, "soup = -1 should not be negative"),
        ({"soup": 5, "epochs": 4}, "soup is at most epochs: it averages the last ones"),
        (
            {"soup": 2, "early_stopping": 3, "monitor": 0.1, "schedule": "plateau"},
            "early_stopping keeps the weights of one epoch, soup averages several: leave one of them out",
        ),
        ({"early_stopping": 3, "monitor": 0.1}, "early_stopping would cut a cosine schedule off: use plateau"),
        ({"warmup": 4.0, "epochs": 4}, "warmup is not shorter than epochs"),
        (
            {"schedule": "plateau", "monitor": 0.6},
            "monitor is above 0.5, and a fold learns from at least as many rows as it monitors",
        ),
        ({"optimizer": "sgd", "momentum": 0.0}, "sgd here is Nesterov's and needs momentum > 0"),
        ({"weights": "hub"}, "cnn5 has no pretrained weights, no drop_path and no stages to freeze"),
        ({"weights": "imagenet", "backbone": "resnet18"}, "weights = 'imagenet' is none of none, hub, package:<name>"),
        ({"backbone": "resnet18", "width": 16}, "width belongs to cnn3 and cnn5 only"),
        ({"backbone": "resnet18", "freeze_stages": 1}, "freezing stages that were never trained"),
        ({"start_size": 64}, "start_size is below size, and not for cnn3 and cnn5, whose dense layer has one size"),
        (
            {"start_size": 128, "backbone": "resnet18"},
            "start_size is below size, and not for cnn3 and cnn5, whose dense layer has one size",
        ),
        ({"start_size": 64, "backbone": "resnet18", "epochs": 1}, "start_size needs a second epoch to grow in"),
        (
            {"size": [192, 128], "start_size": 64, "backbone": "resnet18"},
            "start_size is for square images: leave it out, or set size to one number",
        ),
        ({"size": [0, 128]}, "size = 0x128 should be above 0"),
        ({"views": 2}, "views belongs to freeze_stages or freeze_backbone only"),
        ({"start_size": 100, "backbone": "resnet18"}, "size - start_size is no multiple of 16"),
        (
            {"views": 4, "backbone": "resnet18", "weights": "hub", "freeze_stages": 1},
            "views should be fewer than epochs; 0: a new copy per epoch",
        ),
        ({"augmenter": "batch", "augment": "none"}, 'augmenter has nothing to do: augment = "none"'),
        ({"momentum": 0.8}, 'momentum belongs to optimizer = "sgd" only'),
        ({"momentum": 0.9}, 'momentum belongs to optimizer = "sgd" only'),  # the default, but written out
        ({"stop_on": "loss"}, "stop_on belongs to early_stopping only"),
        ({"backbone": "resnet18", "freeze_backbone": True}, "freezing stages that were never trained"),
        (
            {"backbone": "resnet18", "weights": "hub", "freeze_backbone": True, "freeze_stages": 1},
            "freeze_backbone freezes all stages: leave freeze_stages out",
        ),
        (
            {"backbone": "resnet18", "weights": "hub", "freeze_backbone": True, "drop_path": 0.1},
            "drop_path does nothing in a frozen backbone",
        ),
        ({"frozen_precision": "half"}, "frozen_precision belongs to freeze_stages or freeze_backbone only"),
        ({"head": "flatten"}, "cnn5 has a head of its own"),
        ({"stop_on": "accuracy"}, "stop_on belongs to early_stopping only"),
        (
            {"backbone": "resnet18", "head": "flatten", "start_size": 64},
            "start_size is not for a head that flattens, which has one size",
        ),
        (
            {"backbone": "resnet18", "weights": "hub", "freeze_stages": 1, "views": 2, "augment": "none"},
            'views are augmented copies: augment = "none" has none',
        ),
        (
            {"augment": "articles", "augmenter": "batch"},
            'augment = "articles" has operations that augmenter = "batch" lacks: use albumentations',
        ),
        ({"grad_checkpointing": True}, "grad_checkpointing is for a backbone of timm that learns as a whole"),
        (
            {"backbone": "resnet18", "weights": "hub", "freeze_stages": 2, "grad_checkpointing": True},
            "grad_checkpointing is for a backbone of timm that learns as a whole",
        ),
        (
            {"feature_scale": "2"},
            "feature_scale belongs to several backbones under an svm, a logistic regression or a network only",
        ),
        ({"mixup": -0.2}, "mixup = -0.2 should not be negative"),
        (
            {"backbone": "resnet18", "weights": "hub", "freeze_stages": 1, "cutmix": 1.0},
            "mixup and cutmix mix images, and frozen stages' activations are computed once for each image: leave them "
            "out, or freeze nothing",
        ),
        ({"plateau_factor": 0.5}, 'plateau_factor belongs to schedule = "plateau" only'),
        ({"plateau_patience": 3}, 'plateau_patience belongs to schedule = "plateau" only'),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(InputError, match=re.escape(f"a.toml is not a recipe:\n  - {message}") + "$"):
        parse_recipe("a", settings, "a.toml")


def test_a_size_is_a_square_or_height_and_width():
    wide = parse_recipe("a", {"size": [96, 160]}, "a.toml")
    assert wide.size == wide.shape == (96, 160) and wide.shape_in(0) == wide.shape
    assert wide.hash == sha256_text('{"size": [96, 160]}')
    assert Recipe(**json.loads(json.dumps(asdict(wide)))) == wide  # as run.json keeps it
    assert len({wide, wide.preprocessing, replace(wide, epochs=2)}) == 3
    square = parse_recipe("a", {"size": 64}, "a.toml")
    assert square.shape == (64, 64) and square.hash == sha256_text('{"size": 64}')
    assert parse_recipe("a", {"size": [64, 64]}, "a.toml") == square
    assert parse_recipe("a", {"size": [128, 128]}, "a.toml").hash == Recipe("a").hash


@pytest.mark.parametrize("size", [[], [64], [64, 64, 3], [64.0, 32], [True, 32], "64x32", 64.0, True])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(InputError) as caught:
        parse_recipe("a", {"size": size}, "a.toml")
    assert str(caught.value) == (
        f"a.toml is not a recipe:\n  - size = {size!r} should be a whole number, or height and width: [192, 128], and "
        "192x128 in the name of a variant"
    )


def test_sizes_grow_evenly_to_the_full_one():
    grown = parse_recipe("r", {"backbone": "resnet18", "size": 128, "start_size": 64, "epochs": 5}, "r.toml")
    assert [grown.shape_in(epoch) for epoch in range(5)] == [(side, side) for side in (64, 80, 96, 112, 128)]
    assert [parse_recipe("r", {"epochs": 2}, "r.toml").shape_in(epoch) for epoch in range(2)] == [(128, 128)] * 2


def test_unknown_recipe_lists_those_there_are():
    with pytest.raises(
        InputError, match=re.escape(f"there is no recipe 'lite9'; there are: {', '.join(recipe_names())}")
    ):
        load_recipe("lite9")


@pytest.mark.parametrize("name", ["blend", "lite0+corrected", "lite0@3", "lite0#1", "my~net"])
def test_a_recipe_has_no_name_that_means_something_else(tmp_path, monkeypatch, name):
    monkeypatch.setattr("facefold.models.recipe.RECIPES_DIR", tmp_path)
    (tmp_path / f"{name}.toml").write_text("size = 32\n")
    with pytest.raises(InputError) as caught:
        load_recipe(name)
    assert str(caught.value) == (
        f"{tmp_path / name}.toml: the report calls the blend so, and ~, @, # and + mark variants, epochs, seeds and "
        "runs on other labels; give it another name"
    )


def test_a_list_of_recipes_as_a_person_writes_it():
    assert [recipe.name for recipe in load_recipes("lite1, lite0,lite1,")] == ["lite1", "lite0"]
    with pytest.raises(InputError, match="',' names no recipe; there are: "):
        load_recipes(",")


def test_a_recipe_with_another_number_of_epochs_is_another_recipe():
    own, short = load_recipe("lite0"), load_recipe("lite0@3")
    assert (short.name, short.epochs) == ("lite0@3", 3) and short.hash != own.hash
    assert short.about == f"{own.about}; 3 epochs instead of 5"
    assert {**asdict(short), "name": own.name, "about": own.about, "epochs": own.epochs} == asdict(own)


@pytest.mark.parametrize(
    "name, message",
    [
        ("lite0@5", "recipe 'lite0@5': epochs = 5 is what lite0 has; leave it out"),
        ("lite0@", "recipe 'lite0@': what follows @ is a number of epochs"),
        ("lite0@03", "recipe 'lite0@03': what follows @ is a number of epochs"),
        ("lite0@-1", "recipe 'lite0@-1': what follows @ is a number of epochs"),
        ("lite0@0", "'lite0@0', lite0.toml with epochs = 0, is not a recipe:\n  - epochs = 0 should be above 0"),
        ("cnn5@1", "'cnn5@1', cnn5.toml with epochs = 1, is not a recipe:\n  - warmup is not shorter than epochs"),
        ("lite9@3", "there is no recipe 'lite9'; there are: "),
        ("lite_0", "there is no recipe 'lite_0' (did you mean lite0?); there are: "),
    ],
)
def test_what_follows_the_at_sign_is_a_number_of_epochs(name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load_recipe(name)


def test_a_batch_of_one_image_is_not_for_cnn5():
    with pytest.raises(InputError) as caught:
        parse_recipe("a", {"batch": 1}, "a.toml")
    assert str(caught.value) == (
        "a.toml is not a recipe:\n  - batch = 1 leaves the batch norm of cnn5's dense layer nothing to compare an "
        "image with: take 2 or more"
    )
    assert parse_recipe("a", {"batch": 1, "backbone": "cnn3"}, "a.toml").batch == 1
