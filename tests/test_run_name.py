"""The names of runs: one spelling for each, and what -o makes of a name."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facefold.models.recipe import load_recipe, load_recipes
from facefold.models.run_name import (
    MAX_LENGTH,
    MAX_SEED,
    SUFFIXES,
    RunName,
    _format_value,
    _parse_value,
    parse_run_name,
    run_suffix,
)
from facefold.utils.errors import InputError

WORDS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789._-", min_size=1, max_size=12)
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False))
VALUES = st.one_of(WORDS, NUMBERS.map(str)).filter(lambda text: "+" not in text)
KEYS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12).filter(lambda key: key != "epochs")
STEMS = st.text(st.characters(exclude_characters="~@#+"), min_size=1, max_size=12)


def canonical(settings: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, _format_value(_parse_value(value))) for key, value in settings.items()))


NAMES = st.builds(
    RunName,
    STEMS,
    st.dictionaries(KEYS, VALUES, max_size=3).map(canonical),
    st.none() | st.integers(0, 10**9),
    st.none() | st.integers(1, MAX_SEED),
    st.sampled_from([some for count in range(len(SUFFIXES) + 1) for some in combinations(SUFFIXES, count)]),
).filter(lambda name: len(str(name)) <= MAX_LENGTH)


def refusal(text: str, *options: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipes(text, options) if options else parse_run_name(text)
    return str(caught.value)


@given(NAMES)
def test_a_name_is_read_as_it_is_written(name):
    assert parse_run_name(str(name)) == name
    assert str(parse_run_name(name.recipe)) == name.recipe and str(name) == name.recipe + run_suffix(
        name.corrected, name.pseudo, name.extra
    )


@given(st.lists(st.sampled_from(["r", "~", "@", "#", "+", "a=1", "a=1.0", "b=x", "3", "03", "0", *SUFFIXES])))
def test_no_other_spelling_of_a_name_is_taken(parts):
    text = "".join(parts)
    try:
        name = parse_run_name(text)
    except InputError:
        return
    assert str(name) == text


@given(NUMBERS)
def test_the_canonical_spelling_of_a_number_is_that_number(number):
    text = _format_value(_parse_value(str(number)))
    assert float(_parse_value(text)) == float(number) and _format_value(_parse_value(text)) == text
    assert not set(text) & set("+~@#,/ ")


@pytest.mark.parametrize(
    "text, spelling",
    [
        ("3e-4", "0.0003"),
        ("0.00030", "0.0003"),
        (".5", "0.5"),
        ("1e-5", "1e-05"),
        ("2.0", "2"),
        ("1e3", "1000"),
        ("1e22", "10000000000000000000000"),
        ("160.0", "160"),
        ("007", "7"),
        ("-0.0", "0"),
        ("1_000", "1000"),
        ("true", "true"),
        ("True", "True"),
        ("aligned", "aligned"),
        ("resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("inf", "inf"),
    ],
)
def test_a_value_has_one_spelling(text, spelling):
    assert _format_value(_parse_value(text)) == spelling
    assert math.isinf(_parse_value("inf"))


def test_the_parts_of_a_name():
    name = parse_run_name("lite0~augment=aligned~lr=0.0003@3#1+corrected")
    assert name == RunName("lite0", (("augment", "aligned"), ("lr", "0.0003")), 3, 1, ("+corrected",))
    assert name.recipe == "lite0~augment=aligned~lr=0.0003@3#1"
    assert name.changes == {"augment": "aligned", "lr": 0.0003, "epochs": 3}
    both = parse_run_name("lite0#1+corrected+pseudo")
    assert both.corrected and both.pseudo and both.recipe == "lite0#1" and not name.pseudo
    assert parse_run_name("lite0+pseudo+extra").extra and not both.extra
    assert parse_run_name("lite0#1").changes == {} == parse_run_name("lite0").changes


SEED = "what follows # is a seed, a whole number from 1 to 4294967295"
FORM = (
    "is no name of a run, which is recipe[~key=value]..[@epochs][#seed], in this order, and +corrected, +pseudo, "
    "+extra last"
)
FOLDER = "which takes letters, digits, '.', '-' and '_'; write a recipe of its own in src/recipes/"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", f"'' {FORM}"),
        ("#1", f"'#1' {FORM}"),
        ("lite0@3~size=160", f"'lite0@3~size=160' {FORM}"),
        ("lite0#1@3", f"'lite0#1@3' {FORM}"),
        ("lite0+corrected#1", f"'lite0+corrected#1' {FORM}"),
        ("lite0+x", f"'lite0+x' {FORM}"),
        ("lite0+pseudo+corrected", f"'lite0+pseudo+corrected' {FORM}"),
        ("lite0+pseudo+pseudo", f"'lite0+pseudo+pseudo' {FORM}"),
        ("lite0#0", "recipe 'lite0#0': without # the seed is 0, or what --seed says; leave #0 out"),
        ("lite0#01", f"recipe 'lite0#01': {SEED}"),
        ("lite0#", f"recipe 'lite0#': {SEED}"),
        (
            "lite0#4294967296",
            f"recipe 'lite0#4294967296': {SEED}",
        ),
        ("lite0@1_0", "recipe 'lite0@1_0': what follows @ is a number of epochs"),
        ("lite0~epochs=3", "recipe 'lite0~epochs=3': the number of epochs follows @, as in lite0@3"),
        ("lite0~lr=3e-4", "recipe 'lite0~lr=3e-4': write it as lite0~lr=0.0003, for a run has one name"),
        ("lite0~size=96~lr=1", "recipe 'lite0~size=96~lr=1': write it as lite0~lr=1~size=96, for a run has one name"),
        ("lite0~size=96x96", "recipe 'lite0~size=96x96': write it as lite0~size=96, for a run has one name"),
        ("lite0~size=096x9", "recipe 'lite0~size=096x9': write it as lite0~size=96x9, for a run has one name"),
        ("lite0~size=96~size=160", "recipe 'lite0~size=96~size=160': size appears twice"),
        ("lite0~", "recipe 'lite0~': '' is not key=value, a setting of a recipe such as size=160"),
        ("lite0~size", "recipe 'lite0~size': 'size' is not key=value, a setting of a recipe such as size=160"),
        (
            "lite0~weights=package:x",
            f"recipe 'lite0~weights=package:x': weights = 'package:x' cannot stand in the name of a folder, {FOLDER}",
        ),
        ("lite0~head=", f"recipe 'lite0~head=': head = '' cannot stand in the name of a folder, {FOLDER}"),
        (
            f"lite0~backbone={'x' * 200}",
            f"recipe 'lite0~backbone={'x' * 200}': more than 200 characters, too long for the name of a folder; write "
            "a recipe of its own in src/recipes/",
        ),
    ],
)
def test_what_is_no_name_is_refused(text, message):
    assert refusal(text) == message


def test_options_name_the_variant_of_every_recipe():
    names = [recipe.name for recipe in load_recipes("lite0, cnn5#2", ["size=160.0,lr=3e-4", "epochs=3"])]
    assert names == ["lite0~lr=0.0003~size=160@3", "cnn5~lr=0.0003~size=160@3#2"]
    spellings = [load_recipes("lite0", [text])[0] for text in ("lr=3e-4", "lr=0.0003", "lr=3.0e-04")]
    assert spellings == [load_recipe("lite0~lr=0.0003")] * 3
    assert load_recipes("lite0~size=160", ["lr=3e-4"]) == [load_recipe("lite0~lr=0.0003~size=160")]


def test_height_and_width_of_a_variant():
    own, variant = load_recipe("lite0"), load_recipe("lite0~size=192x128@3")
    assert variant.shape == (192, 128) and variant.about == (
        f"{own.about}; size 192x128 instead of 128; 3 epochs instead of 5"
    )
    assert load_recipes("lite0@3", ["size=192x128"]) == [variant]
    assert load_recipes("lite0", ["size=160x160"]) == load_recipes("lite0", ["size=160"])


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("lite0", ["size=96", "size=97"], "-o size=96,size=97: size appears twice"),
        ("lite0", ["size"], "-o size: 'size' is not key=value, a setting of a recipe such as size=160"),
        ("lite0", ["size=96,"], "-o size=96,: '' is not key=value, a setting of a recipe such as size=160"),
        (
            "lite0",
            ["head=dense 3"],
            f"-o head=dense 3: head = 'dense 3' cannot stand in the name of a folder, {FOLDER}",
        ),
        ("lite0", ["epochs=2.5"], "-o epochs=2.5: epochs is a whole number"),
        (
            "cnn5,lite0~size=96",
            ["size=160"],
            "-o size=160: recipe 'lite0~size=96' has size in its name; leave it out of one of the two",
        ),
        (
            "lite0@3",
            ["epochs=2"],
            "-o epochs=2: recipe 'lite0@3' has epochs in its name; leave it out of one of the two",
        ),
    ],
)
def test_wrong_options_are_refused(text, options, message):
    assert refusal(text, *options) == message


def test_a_variant_is_a_recipe_of_its_own_and_a_seed_is_not():
    own, variant = load_recipe("lite0"), load_recipe("lite0~augment=aligned~size=160@3#1")
    assert (variant.augment, variant.size, variant.epochs, variant.lr) == ("aligned", 160, 3, own.lr)
    assert variant.about == (
        f"{own.about}; augment aligned instead of standard; size 160 instead of 128; 3 epochs instead of 5; seed 1"
    )
    assert variant.hash == load_recipe("lite0~augment=aligned~size=160@3").hash != own.hash
    assert load_recipe("lite0#1").hash == own.hash and load_recipe("lite0#1").name == "lite0#1"


@pytest.mark.parametrize(
    "text, message",
    [
        ("lite0~size=128", "recipe 'lite0~size=128': size = 128 is what lite0 has; leave it out"),
        ("lite0~clip=1", "recipe 'lite0~clip=1': clip = 1.0 is what lite0 has; leave it out"),
        ("lite0~about=x", "recipe 'lite0~about=x': about describes a recipe, and makes no other one; edit lite0.toml"),
        (
            "lite0~size=abc",
            "'lite0~size=abc', lite0.toml with size = abc, is not a recipe:\n  - size = 'abc' should be a whole "
            "number, or height and width: [192, 128], and 192x128 in the name of a variant",
        ),
        (
            "lite0~compile=1~lr=0@3#2",
            "'lite0~compile=1~lr=0@3#2', lite0.toml with compile = 1, lr = 0, epochs = 3, is not a recipe:\n"
            "  - compile = 1 should be of type bool",
        ),
        (
            "cnn5~drop_path=0.1",
            "'cnn5~drop_path=0.1', cnn5.toml with drop_path = 0.1, is not a recipe:\n"
            "  - cnn5 has no pretrained weights, no drop_path and no stages to freeze",
        ),
    ],
)
def test_what_a_recipe_refuses_names_the_variant(text, message):
    with pytest.raises(InputError) as caught:
        load_recipe(text)
    assert str(caught.value) == message


def test_an_unknown_key_names_the_variant_and_the_keys():
    with pytest.raises(
        InputError, match=r"unknown key 'sizes' \(did you mean size\?\); known are about, backbone, weights, size"
    ):
        load_recipe("lite0~sizes=3")
