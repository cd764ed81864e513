"""A figure of results: one field against one key, a line for every value of another.

python -m analysis.plot --x slots --y hit_rate --by cache
python -m analysis.plot results hardware=t4 --x slots --y hit_rate --by prefetch --out f.pdf

Keys and rows are named as in `analysis.table`.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.cells import cells
from analysis.figures import coincident
from analysis.query import add_arguments, column, number, read
from analysis.style import (
    COLOURS,
    COLUMN,
    LINES,
    MARKERS,
    caption,
    every,
    new,
    policy_style,
    save,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(table: pd.DataFrame, x: str, y: str, by: str = "") -> Figure:
    """Return the figure; bands are intervals, as in `analysis.cells`.

    Raises:
        ValueError: a key or field that no row has, or rows that differ in what is not shown.
    """
    keys = [column(table, name) for name in (x, *([by] if by else ()))]
    field = number(table, y)
    rows = table.dropna(subset=[field, keys[0]])
    found = cells(rows, keys, field)
    ordered = pd.api.types.is_numeric_dtype(found[keys[0]].infer_objects())
    ticks = sorted(set(found[keys[0]]), key=float if ordered else str)
    figure, axes = new(size=(COLUMN, 2.6))
    axis = axes[0][0]
    lines = found.groupby(keys[1], dropna=False) if by else [("", found)]
    for index, (name, line) in enumerate(lines):
        line = line.sort_values(keys[0]) if ordered else line
        at = line[keys[0]] if ordered else line[keys[0]].map(ticks.index)
        look = _look(keys[-1], name, index)
        axis.plot(at, line["middle"], label=str(name), **look)
        if (line["high"] > line["low"]).any():
            below, above = line["middle"] - line["low"], line["high"] - line["middle"]
            bars = {"fmt": "none", "ecolor": look["color"], "capsize": 2}
            axis.errorbar(at, line["middle"], [below, above], errorevery=every(len(line)), **bars)
    if not ordered:
        axis.set_xticks(range(len(ticks)), map(str, ticks))
    elif len(ticks) <= 8:
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xlabel(x)
    axis.set_ylabel(y.replace("_", " "))
    if by:
        axis.legend(title=by)
    each = f", a line for every {by}" if by else ""
    same = coincident(found, keys[1], keys[:1]) if by else ""
    return caption(figure, f"{y.replace('_', ' ')} by {x}{each}.{same}", rows)


def _look(key: str, name: Any, index: int) -> dict[str, Any]:
    """A policy's own style; of anything else, colours and markers in turn."""
    if key == "policy":
        return policy_style(str(name))
    turn, colour = index % len(MARKERS), index % len(COLOURS)
    return {"color": COLOURS[colour], "marker": MARKERS[turn], "linestyle": LINES[colour]}


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and write the figure."""
    parser = ArgumentParser("python -m analysis.plot", description="A figure of results.")
    add_arguments(parser)
    parser.add_argument("--x", required=True, help="key along the axis")
    parser.add_argument("--y", required=True, help="field shown")
    parser.add_argument("--by", default="", help="key of the lines")
    parser.add_argument("--out", type=Path, help="file; default: figures/Y_by_X.png and .pdf there")
    given = parser.parse_intermixed_args(arguments)
    table = read(given)
    with styled():
        figure = plot(table, given.x, given.y, given.by)
        folder = Path(table["folder"].iloc[0]).parent / "figures"
        if given.out is None:
            paths = save(figure, folder, f"{given.y}_by_{given.x}")
        elif given.out.suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(
                f"--out {given.out}: expected .png, .pdf or .svg; try --out figure.pdf"
            )
        else:
            figure.savefig(given.out)
            paths = [given.out]
    print(*paths, sep="\n")


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"analysis: {error}")
