"""Execute the notebooks: python notebooks/run.py (their sources are the .py files beside them).

python notebooks/run.py           # every source -> executed .ipynb
python notebooks/run.py 02        # those whose names begin so
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def execute(source: Path) -> nbformat.NotebookNode:
    """Run a source from top to bottom; return the notebook with its outputs, without dates."""
    notebook = jupytext.read(source)
    NotebookClient(
        notebook,
        timeout=240,
        kernel_name="python3",
        resources={"metadata": {"path": FOLDER.parent}},
    ).execute()
    for number, cell in enumerate(notebook.cells):
        cell.metadata.pop("execution", None)
        cell.id = f"cell-{number}"
    return notebook


def main() -> None:
    """Execute what was asked for, or all."""
    begins = tuple(sys.argv[1:]) or ("",)
    for source in sorted(FOLDER.glob("[0-9]*.py")):
        if source.name.startswith(begins):
            nbformat.write(execute(source), source.with_suffix(".ipynb"))
            print(source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
