"""`python -m analysis`: draw every figure that there are results for.

python -m analysis                 # results/ -> results/figures/*.png and *.pdf
python -m analysis FOLDER
python -m analysis --simulate      # first run every simulated study, then draw
python -m analysis --publish       # renew tables and pictures in experiments/*/*/ as well
python -m analysis --publish --force   # also where the published table has more rows
"""

from __future__ import annotations

import sys
import warnings
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.catalogue import FIGURES, simulate_all
from analysis.cells import CONTEXT
from analysis.collect import collect
from analysis.publish import publish
from analysis.style import save, styled

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, run what is asked for, and draw."""
    parser = ArgumentParser("python -m analysis", description="Draw every figure of the results.")
    parser.add_argument("folder", nargs="?", default="results", type=Path)
    parser.add_argument("--simulate", action="store_true", help="run the simulated studies first")
    parser.add_argument("--out", type=Path, help="where figures go; default FOLDER/figures")
    parser.add_argument(
        "--publish", action="store_true", help="renew the tables and pictures in experiments/*/*/"
    )
    parser.add_argument(
        "--force", action="store_true", help="publish over tables that were made of more rows, too"
    )
    parser.add_argument("overrides", nargs="*", help="with --simulate: overrides for every study")
    given = parser.parse_intermixed_args(arguments)
    if given.simulate:
        simulate_all(given.folder, overrides=given.overrides)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        table = collect(given.folder)
    for line in noted:
        say(str(line.message))
    paths, failed = draw(table, given.out or given.folder / "figures")
    for path in [*paths, *(publish(table, say=say, force=given.force) if given.publish else ())]:
        print(path)
    if failed:
        raise ValueError(f"{failed} of {len(FIGURES)} figures not drawn; lines above say why")


def draw(table: pd.DataFrame, folder: Path) -> tuple[list[Path], int]:
    """Draw all figures of a table into a folder; print which ones lack rows.

    Returns the files, and how many figures there were rows for that could not be drawn.
    """
    written, failed = [], 0
    for name, figure in FIGURES.items():
        try:
            rows = figure.rows(table)
            if not len(rows):
                say(f"{name}: no rows; make them with: {figure.command}")
            for number, (_, group) in enumerate(rows.groupby(CONTEXT, dropna=False)):
                with styled():
                    suffix = f"-{number + 1}" if number else ""
                    written += save(figure.draw(group), folder, f"{name}{suffix}")
        except (FileNotFoundError, ValueError) as error:
            say(f"{name}: {error}")
            failed += 1
        except KeyError as error:
            say(f"{name}: the results have no {error}; make it with: {figure.command}")
            failed += 1
    return written, failed


def say(line: str) -> None:
    """A note on stderr."""
    print(f"analysis: {line}", file=sys.stderr)


def run() -> None:
    """The command: one clear line for what is wrong."""
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"analysis: {error}")


if __name__ == "__main__":
    run()
