"""Say whether this Python already has what the project needs: exit 0, or 1 with what is missing.

    python src/environment.py [MODULE ..]

Reads the `# module>=version` comments of requirements.txt and needs nothing but the standard library. Lines without
such a comment (what only the tests need), and packages of weights, are asked for by name.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
_ASK = "import importlib, sys\nfor name in sys.argv[1:]: print('version of', name, importlib.import_module(name).__version__)"


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2.4.1+cpu` gives (2, 4, 1); none, ()."""
    return tuple(int(part) for part in re.match(r"(?:\d+(?:\.\d+)*)?", version)[0].split(".") if part)


def shortfalls(requirements: str, modules: list[str]) -> list[str]:
    """What is missing or too old, a phrase each. Versions are asked of a process of its own: importing torch here would make
    this one as slow and as large as torch."""
    needed = re.findall(r"# (\w+)>=([\d.]+)\s*$", requirements, flags=re.MULTILINE)
    missing = [f"no {module}" for module in [*dict(needed), *modules] if importlib.util.find_spec(module) is None]
    if missing:
        return missing
    asked = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ASK, *dict(needed)],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"},
    )
    if asked.returncode:
        return [f"an import fails: {asked.stderr.strip().splitlines()[-1]}"]
    found = dict(re.findall(r"^version of (\w+) (\S+)$", asked.stdout, flags=re.MULTILINE))
    return [
        f"{module} {found.get(module)}, {floor} or newer is needed"
        for module, floor in needed
        if numbers(found.get(module, "")) < numbers(floor)
    ]


def main() -> None:
    found = shortfalls(REQUIREMENTS.read_text(encoding="utf-8"), sys.argv[1:])
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        found.insert(0, f"Python {sys.version.split()[0]}, 3.11 to 3.13 is needed")
    if found:
        print("; ".join(found))
        raise SystemExit(1)


if __name__ == "__main__":
    main()
