"""Notebooks say what their sources say, and run from top to bottom."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jupytext
import nbformat
import pytest

pytestmark = pytest.mark.study

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9]*.py"))
HELP = "python notebooks/run.py renews them"


def texts(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_its_source_executed(source):
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert texts(notebook) == texts(jupytext.read(source)), HELP
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count, HELP
            assert not [output for output in cell.outputs if output.output_type == "error"]
    assert source.with_suffix(".ipynb").stat().st_size < 400_000
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in outputs for kind in output.get("data", ())}
    assert "image/png" in kinds, "no figure"


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own making
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_runs(source):
    spec = importlib.util.spec_from_file_location("run_notebooks", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    runner.execute(source)
