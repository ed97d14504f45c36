"""The names of runs: which recipe, with which settings, epochs, seed and labels. One spelling per run.

    <stem>[~<key>=<value>]..[@<epochs>][#<seed>][+corrected][+pseudo][+extra]

    lite0   lite0~lr=0.0003~size=160@3#1   lite0+corrected   lite0#1+pseudo

The suffixes say what a run learned from that is no part of the recipe; `SUFFIXES` has all of them in their order. The
keys of a variant are sorted, and its values are written in one way, so that a run has one folder: size=192x128 for a
height of 192 and a width of 128. A shell passes `~` and `#` on as they are inside a word.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from facefold.data.preprocessing import Shape
from facefold.utils.errors import InputError

CORRECTED_SUFFIX, PSEUDO_SUFFIX, EXTRA_SUFFIX = "+corrected", "+pseudo", "+extra"
SUFFIXES = (CORRECTED_SUFFIX, PSEUDO_SUFFIX, EXTRA_SUFFIX)  # in the order of a name
MAX_SEED = 2**32 - 1  # what numpy and scikit-learn take
MAX_LENGTH = 200  # of a variant's name, in characters: a file system takes 255 bytes

_NAME = re.compile(
    r"([^~@#+]+)((?:~[^~@#+]*)*)(?:@([^~@#+]*))?(?:#([^~@#+]*))?"
    + "".join(f"({re.escape(suffix)})?" for suffix in SUFFIXES)
)
_KEY, _VALUE = re.compile("[a-z_]+"), re.compile("[A-Za-z0-9._-]+")

Value = bool | int | float | str | Shape


@dataclass(frozen=True)
class RunName:
    """The parts of a run's name, which `str` puts together.

    stem: of the file src/recipes/<stem>.toml. settings: (key, value as it is written), sorted by key. epochs, seed:
    None where the name has none: then they are those of the recipe and of --seed. suffixes: of `SUFFIXES`, in their
    order.
    """

    stem: str
    settings: tuple[tuple[str, str], ...] = ()
    epochs: int | None = None
    seed: int | None = None
    suffixes: tuple[str, ...] = ()

    def __str__(self) -> str:
        settings = "".join(f"~{key}={value}" for key, value in self.settings)
        epochs = "" if self.epochs is None else f"@{self.epochs}"
        seed = "" if self.seed is None else f"#{self.seed}"
        return self.stem + settings + epochs + seed + "".join(self.suffixes)

    @property
    def recipe(self) -> str:
        """The name that --recipe takes; each suffix stands for another option, such as --corrections."""
        return str(replace(self, suffixes=()))

    @property
    def corrected(self) -> bool:
        """Whether the run learned from corrected labels."""
        return CORRECTED_SUFFIX in self.suffixes

    @property
    def pseudo(self) -> bool:
        """Whether the run learned from pseudo-labels."""
        return PSEUDO_SUFFIX in self.suffixes

    @property
    def extra(self) -> bool:
        """Whether the run learned from extra rows."""
        return EXTRA_SUFFIX in self.suffixes

    @property
    def changes(self) -> dict[str, Value]:
        """The settings and epochs that replace those of the recipe's file."""
        changes = {key: _parse_value(value) for key, value in self.settings}
        return changes if self.epochs is None else {**changes, "epochs": self.epochs}


def parse_run_name(text: str) -> RunName:
    """Return the parts of a run's name. Raise `InputError` unless it is spelled as `str` would spell it."""
    match = _NAME.fullmatch(text)
    if not match:
        raise InputError(
            f"'{text}' is no name of a run, which is recipe[~key=value]..[@epochs][#seed], in this order, and "
            f"{', '.join(SUFFIXES)} last"
        )
    stem, settings, epochs, seed, *suffixes = match.groups()
    if epochs is not None and not _is_number(epochs):
        raise InputError(f"recipe '{text}': what follows @ is a number of epochs")
    if seed == "0":
        raise InputError(f"recipe '{text}': without # the seed is 0, or what --seed says; leave #0 out")
    if seed is not None and not (_is_number(seed) and int(seed) <= MAX_SEED):
        raise InputError(f"recipe '{text}': what follows # is a seed, a whole number from 1 to {MAX_SEED}")
    variant = _parse_settings(f"recipe '{text}'", settings.split("~")[1:])
    if "epochs" in dict(variant):
        raise InputError(f"recipe '{text}': the number of epochs follows @, as in {stem}@3")
    return _require_spelling(
        text, RunName(stem, variant, epochs and int(epochs), seed and int(seed), tuple(filter(None, suffixes)))
    )


def run_suffix(corrected: bool, pseudo: bool, extra: bool) -> str:
    """Return what follows the recipe in the name of a run by what it learned from: corrections, pseudo-labels, ..."""
    return CORRECTED_SUFFIX * corrected + PSEUDO_SUFFIX * pseudo + EXTRA_SUFFIX * extra


def add_settings(name: RunName, options: Iterable[str]) -> RunName:
    """Return the variant of a run that has these settings as well, in any spelling: `["size=160,lr=3e-4"]`.

    Raise `InputError` for what is not key=value, values that cannot stand in a folder's name, and settings that the
    name has already.
    """
    source = "-o " + ",".join(options)
    settings = dict(name.settings)
    for key, value in _parse_settings(source, [part.strip() for text in options for part in text.split(",")]):
        if key in settings or (key == "epochs" and name.epochs is not None):
            raise InputError(f"{source}: recipe '{name}' has {key} in its name; leave it out of one of the two")
        settings[key] = value
    epochs = settings.pop("epochs", None)
    if epochs is not None and not _is_number(epochs):
        raise InputError(f"{source}: epochs is a whole number")
    variant = replace(name, settings=tuple(sorted(settings.items())), epochs=int(epochs) if epochs else name.epochs)
    return _require_spelling(str(variant), variant)


def _parse_settings(source: str, parts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return (key, canonical value) of each `key=value`, sorted by key; source: of the parts, for errors."""
    settings: dict[str, str] = {}
    for part in parts:
        key, sign, value = part.partition("=")
        if not sign or not _KEY.fullmatch(key):
            raise InputError(f"{source}: '{part}' is not key=value, a setting of a recipe such as size=160")
        if not _VALUE.fullmatch(value):
            raise InputError(
                f"{source}: {key} = '{value}' cannot stand in the name of a folder, which takes letters, digits, '.', "
                "'-' and '_'; write a recipe of its own in src/recipes/"
            )
        if key in settings:
            raise InputError(f"{source}: {key} appears twice")
        settings[key] = _format_value(_parse_value(value))
    return tuple(sorted(settings.items()))


def _parse_value(text: str) -> Value:
    """Return what TOML would read, a whole number for a float without a fraction (3.0, 1e3), a shape for 192x128."""
    if text in ("true", "false"):
        return text == "true"
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        number = float(text)
        return int(number) if number.is_integer() else number
    return Shape.parse(text) or text


def _format_value(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_number(text: str) -> bool:
    """Return whether the text is a whole number in its only spelling, without leading zeros."""
    return re.fullmatch("0|[1-9][0-9]{0,9}", text) is not None


def _require_spelling(text: str, name: RunName) -> RunName:
    if str(name) != text:
        raise InputError(f"recipe '{text}': write it as {name}, for a run has one name")
    if name.settings and len(text) > MAX_LENGTH:
        raise InputError(
            f"recipe '{text}': more than {MAX_LENGTH} characters, too long for the name of a folder; write a recipe of "
            "its own in src/recipes/"
        )
    return name
