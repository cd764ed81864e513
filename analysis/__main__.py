"""`python -m analysis`: draw every figure that there are results for.

python -m analysis                 # results/ -> results/figures/*.png and *.pdf
python -m analysis FOLDER
python -m analysis --simulate      # first run every simulated study, then draw
"""

from __future__ import annotations

import re
import sys
import warnings
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.catalogue import FIGURES, ROOT, simulate_all
from analysis.cells import CONTEXT
from analysis.collect import collect
from analysis.style import save, styled

if TYPE_CHECKING:
    import pandas as pd


def main(words: list[str] | None = None) -> None:
    """Read the command line, run what is asked for, and draw."""
    parser = ArgumentParser("python -m analysis", description="Draw every figure of the results.")
    parser.add_argument("folder", nargs="?", default="results", type=Path)
    parser.add_argument("--simulate", action="store_true", help="run the simulated studies first")
    parser.add_argument("--out", type=Path, help="where figures go; default FOLDER/figures")
    parser.add_argument(
        "--publish", action="store_true", help="renew the pictures in experiments/*/"
    )
    parser.add_argument("overrides", nargs="*", help="with --simulate: words for every study")
    given = parser.parse_intermixed_args(words)
    if given.simulate:
        simulate_all(given.folder, overrides=given.overrides)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        table = collect(given.folder)
    for line in noted:
        say(str(line.message))
    for path in draw(table, given.out or given.folder / "figures"):
        print(path)
    if given.publish:
        publish(table)


def draw(table: pd.DataFrame, folder: Path) -> list[Path]:
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


def publish(table: pd.DataFrame) -> None:
    """Redraw the pictures that experiments/*/README.md show, small."""
    for readme in sorted(ROOT.glob("experiments/*/README.md")):
        for name in re.findall(r"\((\w+)\.png\)", readme.read_text()):
            rows = FIGURES[name].rows(table) if name in FIGURES else []
            if len(rows):
                with styled():
                    picture = readme.with_name(f"{name}.png")
                    FIGURES[name].draw(rows).savefig(picture, dpi=120, metadata={"Software": None})
                print(picture)


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
