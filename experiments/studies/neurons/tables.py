"""The README's table of `bench.py surface`, and the numbers in its text, from its rows.

    python experiments/studies/neurons/tables.py results/surface.jsonl

Prints Markdown to paste. `--headline 4 3` is the cell (load time over a layer's, slots) that the
project's README names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.harness import arguments, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

Row = dict[str, Any]
HEAD = (
    "| r | slots | neurons: slots x rows | predictor's share | whole, ms | neurons, ms | "
    "speedup (95 % over prompts) | single pairs | whole, of ceiling | neurons, of ceiling |"
)


def table(rows: list[Row]) -> Iterator[str]:
    """A line a cell; shares of the ceiling where the cell without load time was measured."""
    ceilings = {row["slots"]: row for row in rows if not row["load_over_layer"]}
    yield HEAD
    yield "|" + "---|" * HEAD[1:-1].count("|") + "---|"
    for row in rows:
        ceiling = ceilings.get(row["slots"])
        of = [
            "" if ceiling is None else f"{ceiling[s] / row[s]:.2f}"
            for s in ("whole_s", "neurons_s")
        ]
        cells = [
            f"{row['load_over_layer']:g}" if row["load_over_layer"] else "none (ceiling)",
            row["slots"],
            f"{row['neurons_slots_made']} x {row['rows']:.2f}",
            f"{row['predictor_share']:.0%}",
            *(f"{1e3 * row[name]:.1f}" for name in ("whole_s", "neurons_s")),
            interval(row),
            f"{row['runs_least']:.2f} to {row['runs_most']:.2f}",
            *of,
        ]
        yield f"| {' | '.join(map(str, cells))} |"


def interval(row: Row) -> str:
    """The median prompt's speedup and its interval over prompts."""
    return f"{row['speedup']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def headline(row: Row) -> str:
    """The sentence of the project's README about one cell."""
    return (
        f"{row['speedup']:.2f}x [{row['low']:.2f}, {row['high']:.2f}] over {row['prompts']} "
        f"prompts of {row['prompt_tokens']} tokens ({row['runs']} pairs of runs, "
        f"{row['runs_least']:.2f}x to {row['runs_most']:.2f}x)"
    )


def by_load(rows: list[Row]) -> Iterator[str]:
    """The least and most speedup over slots at every load time, and the largest drift."""
    for ratio in dict.fromkeys(row["load_over_layer"] for row in rows):
        found = [row for row in rows if row["load_over_layer"] == ratio]
        ups = [row["speedup"] for row in found]
        drift = max(row["drift"] for row in found)
        layers = [1e3 * row["layer_s"] for row in found]
        yield (
            f"r = {ratio:g}: {min(ups):.2f} to {max(ups):.2f}, a layer {min(layers):.2f} to "
            f"{max(layers):.2f} ms, drift at most {drift:.0%}"
        )


def main() -> None:
    """Read and print."""
    args = arguments(
        __doc__, _lines=(Path, "what bench.py surface wrote with --out"), headline=[4.0, 3.0]
    )
    rows = read_rows(args.lines)
    print(*table(rows), "", *by_load(rows), "", sep="\n")
    for row in rows:
        if (row["load_over_layer"], row["slots"]) == tuple(args.headline):
            print(f"README.md: {headline(row)}")


if __name__ == "__main__":
    main()
