"""Check whether this Python has what pyproject.toml asks for: exit 0, or 1 and a line with what is missing.

    python src/facefold/utils/environment.py [PACKAGE ..]

Needs nothing but the standard library and imports no package, so it answers at once. Packages that only tests or single
recipes need are named on the command line.
"""

from __future__ import annotations  # an older Python shall get as far as the line that says so

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"
# Other distributions of the same package, as notebooks have them, or that do as well.
ALTERNATIVES = {
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "tensorboard": ("tensorboardX",),
    "mlflow": ("mlflow-skinny",),
}


def parse_version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `2.4.1+cpu` gives (2, 4, 1); none, ()."""
    return tuple(int(part) for part in re.match(r"(?:\d+(?:\.\d+)*)?", text)[0].split(".") if part)


def installed_version(package: str) -> str | None:
    """Return the version of a distribution, or of an alternative to it; None if there is none."""
    for name in (package, *ALTERNATIVES.get(package, ())):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def find_shortfalls(requirements: list[str]) -> list[str]:
    """Return what is missing or too old, a phrase each. requirements: `name` or `name>=version`."""
    shortfalls = []
    for requirement in requirements:
        name, _, minimum = requirement.partition(">=")
        installed = installed_version(name)
        if installed is None:
            shortfalls.append(f"no {name}")
        elif parse_version(installed) < parse_version(minimum):
            shortfalls.append(f"{name} {installed}, {minimum} or newer is needed")
    return shortfalls


def main() -> None:
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        import tomllib  # which an older Python lacks

        project = tomllib.loads(PYPROJECT.read_text())["project"]
        shortfalls = find_shortfalls([*project["dependencies"], *sys.argv[1:]])
    else:
        shortfalls = [f"Python {sys.version.split()[0]}, 3.11 to 3.13 is needed"]
    if shortfalls:
        print("; ".join(shortfalls))
        raise SystemExit(1)


if __name__ == "__main__":
    main()
