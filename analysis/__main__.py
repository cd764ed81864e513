"""`python -m analysis`: draw every figure that there are results for.

python -m analysis                 # results/ -> results/figures/*.png and *.pdf
python -m analysis FOLDER
python -m analysis --simulate      # first run every simulated study, then draw
"""

from __future__ import annotations

import sys
import warnings
from argparse import ArgumentParser
from pathlib import Path

from analysis.catalogue import FIGURES, simulate_all
from analysis.cells import CONTEXT
from analysis.collect import collect
from analysis.style import save, styled


def main(words: list[str] | None = None) -> None:
    """Read the command line, run what is asked for, and draw."""
    parser = ArgumentParser("python -m analysis", description="Draw every figure of the results.")
    parser.add_argument("folder", nargs="?", default="results", type=Path)
    parser.add_argument("--simulate", action="store_true", help="run the simulated studies first")
    parser.add_argument("--out", type=Path, help="where figures go; default FOLDER/figures")
    parser.add_argument("overrides", nargs="*", help="with --simulate: words for every study")
    given = parser.parse_args(words)
    if given.simulate:
        simulate_all(given.folder, given.overrides)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        table = collect(given.folder)
    for line in noted:
        say(str(line.message))
    for path in draw(table, given.out or given.folder / "figures"):
        print(path)


def draw(table, folder: Path) -> list[Path]:  # type: ignore[no-untyped-def]
    """Draw all figures of a table into a folder; say which ones it has no rows for."""
    written = []
    for name, figure in FIGURES.items():
        rows = figure.rows(table)
        if not len(rows):
            say(f"{name}: no rows; make them with: {figure.command}")
            continue
        for number, (_, group) in enumerate(rows.groupby(CONTEXT, dropna=False)):
            with styled():
                suffix = f"-{number + 1}" if number else ""
                written += save(figure.draw(group), folder, f"{name}{suffix}")
    return written


def say(line: str) -> None:
    """A note on stderr."""
    print(f"analysis: {line}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"analysis: {error}")
