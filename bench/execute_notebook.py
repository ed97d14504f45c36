"""Execute docs/notebook.ipynb in place, and store the hash of its code next to its outputs.

    pip install -r requirements-notebook.txt
    python bench/execute_notebook.py

A test compares the hash: code that was edited and not executed again is found. It writes to docs/example/.
"""

import hashlib
import json
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebook.ipynb"


def code_hash(cells: list[dict]) -> str:
    """Return the sha256 (hex) of the sources of the code cells."""
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def execute(path: Path) -> None:
    """Execute the notebook in its folder, and replace its outputs."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(book, timeout=None, record_timing=False, resources=resources).execute()
    # Without the versions of Python and IPython, which say nothing of what is shown.
    book.metadata |= {"language_info": {"name": "python"}, "executed_code_sha256": code_hash(book.cells)}
    nbformat.write(book, path)


if __name__ == "__main__":
    execute(NOTEBOOK)
