"""Say whether this Python already has what the project needs: exit 0, or 1 with what is missing.

    python src/environment.py [requirements.txt]

Reads the `# module>=version` comments of requirements.txt and needs nothing but the standard library. Lines without
such a comment (packages that only some recipes or the tests need) are not looked at.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2.4.1+cpu` gives (2, 4, 1)."""
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", version)[0].split("."))


def shortfalls(requirements: str) -> list[str]:
    """What is missing or too old, a phrase each. A module's version is asked of a process of its own: importing torch here
    would make this process as slow and as large as torch."""
    needed = re.findall(r"# (\w+)>=([\d.]+)\s*$", requirements, flags=re.MULTILINE)
    missing = [f"no {module}" for module, _ in needed if importlib.util.find_spec(module) is None]
    if missing:
        return missing
    code = "import importlib, sys\nfor name in sys.argv[1:]: print(importlib.import_module(name).__version__)"
    asked = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *[module for module, _ in needed]], capture_output=True, text=True,
                           env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"})
    if asked.returncode:
        return [f"an import fails: {asked.stderr.strip().splitlines()[-1]}"]
    found = asked.stdout.split()
    return [f"{module} {version}, {floor} or newer is needed" for (module, floor), version in zip(needed, found)
            if numbers(version) < numbers(floor)]


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "requirements.txt"
    found = shortfalls(path.read_text(encoding="utf-8"))
    if not (3, 11) <= sys.version_info[:2]:
        found.append(f"Python {sys.version.split()[0]}, 3.11 or newer is needed")
    if found:
        print("; ".join(found))
        raise SystemExit(1)


if __name__ == "__main__":
    main()
