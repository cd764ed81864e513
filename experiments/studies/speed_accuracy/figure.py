"""Speed against accuracy over the share of neurons that counts: one line, no picked point.

    python experiments/studies/speed_accuracy/figure.py --accuracy results --speed SURFACE.jsonl ...

Accuracy comes from rows of `mode=eval sparsity=corm`, speed from lines of
`experiments/studies/neurons/bench.py surface --fraction F`; they are joined where fraction, mode
and rank agree, and what has no partner is named. Writes speed_accuracy.png beside this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.collect import collect
from analysis.style import COLOURS, MARKERS, WIDE, caption, new, styled
from analysis.tradeoffs import evaluated, scored
from experiments.harness import arguments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure

KEYS = ["fraction", "mode", "rank"]


def accuracies(table: pd.DataFrame) -> pd.DataFrame:
    """A row a setting of the trained selector: points of accuracy less than the exact model's.

    Raises:
        ValueError: none was evaluated beside the exact model.
    """
    rows = evaluated(table)
    rows = rows[(rows["sparsity"] == "corm") & (rows["quant"] == "none")]
    found = scored(rows) if len(rows) else rows.assign(apart=None)
    found = found[found["apart"].notna()]
    if not len(found):
        raise ValueError(
            "table: no accuracy of sparsity=corm beside the exact model's; make it with: "
            "python run.py mode=eval, then python run.py experiment=corm_sparsity"
        )
    ranks = found.get("sparsity.rank")
    return pd.DataFrame(
        {
            "fraction": found["sparsity.fraction"].astype(float),
            "mode": found["sparsity.mode"],
            "rank": 0 if ranks is None else ranks.fillna(0).astype(int),
            "apart": found["apart"],
            "apart_stderr": found["apart_stderr"],
            "items": [_items(rows) for rows in found["tasks"]],
        }
    )


def _items(rows: list[dict[str, Any]]) -> int:
    """Items of the task that has fewest; subtasks do not count."""
    return min(row["n"] for row in rows if "/" not in row["task"])


def speeds(lines: Iterable[str]) -> pd.DataFrame:
    """Rows of the bench's surface; the ceiling (no load time) left out."""
    rows = [json.loads(line) for line in lines if line.strip()]
    rows = [row for row in rows if row.get("case") == "surface" and row["selector"] == "corm"]
    table = pd.DataFrame(rows)
    if not len(table):
        raise ValueError(
            "speed: no line of the surface of sparsity=corm; make some with: "
            "python experiments/studies/neurons/bench.py surface --fraction 0.3 --out FILE"
        )
    table["rank"] = table["rank"].fillna(0).astype(int)
    return table[table["load_over_layer"] > 0]


def join(accuracy: pd.DataFrame, speed: pd.DataFrame) -> pd.DataFrame:
    """Every speed with its accuracy; prints to stderr what has no partner."""
    both = speed.merge(accuracy, on=KEYS, how="outer", indicator=True)
    for row in both[both["_merge"] != "both"].drop_duplicates(KEYS).to_dict("records"):
        lacks = "no accuracy" if row["_merge"] == "left_only" else "no speed"
        named = ", ".join(f"{key} {row[key]}" for key in KEYS)
        print(f"{named}: {lacks}", file=sys.stderr)
    both = both[both["_merge"] == "both"]
    if not len(both):
        raise ValueError("nothing to draw: no speed and accuracy of one fraction, mode and rank")
    return both.sort_values("fraction")


def draw(found: pd.DataFrame) -> Figure:
    """A panel a number of slots, a line a load time; along it the fraction."""
    sizes = sorted(set(found["slots"]))
    figure, axes = new(1, len(sizes), (WIDE, 2.8))
    for axis, slots in zip(axes[0], sizes, strict=True):
        some = found[found["slots"] == slots]
        for number, (load, line) in enumerate(some.groupby("load_over_layer")):
            look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)]}
            look |= {"marker": MARKERS[number % len(MARKERS)], "capsize": 2}
            across = [line["speedup"] - line["low"], line["high"] - line["speedup"]]
            half = 1.96 * line["apart_stderr"]
            axis.errorbar(
                line["speedup"], line["apart"], half, across, label=f"r = {load:g}", **look
            )
            if load != some["load_over_layer"].max():
                continue
            for row in line.itertuples():
                slot = (row.speedup, row.apart)
                axis.annotate(
                    f" {row.fraction:.0%}", slot, fontsize=6, va="bottom", xytext=(1, 1),
                    textcoords="offset points",
                )  # fmt: skip
        axis.axhline(0, color="0.45", linewidth=0.8)
        axis.axhline(-1, color="0.45", linestyle=(0, (1, 1.5)))
        axis.axvline(2.14, color="0.45", linestyle="--")
        axis.set(title=f"{slots} slots of 8", xlabel="speed over whole experts")
    axes[0][0].legend(loc="lower left")
    axes[0][0].set_ylabel("accuracy, points from the exact model")
    text = (
        "Bundled model, neurons by sparsity=corm against LRU and gate lookahead at equal device "
        "bytes, emulated link; r: time to load an expert over a layer's; percentages: share of the "
        f"neurons. Bars: 95 %, {int(found['items'].min())} items a task or more. Dashed: CORM's "
        "up to 2.14; dotted: 1 point."
    )
    return caption(figure, text)


def main() -> None:
    """Read, join, draw."""
    args = arguments(
        __doc__,
        accuracy=(Path("results"), "a results folder"),
        speed=(Path, "surface's lines"),
        out=Path(__file__).with_name("speed_accuracy.png"),
    )
    try:
        lines = [line for path in args.speed for line in path.read_text().splitlines()]
        found = join(accuracies(collect(args.accuracy)), speeds(lines))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    with styled():
        draw(found).savefig(args.out, dpi=120, metadata={"Software": None})
    print(found[[*KEYS, "slots", "load_over_layer", "speedup", "apart", "apart_stderr"]])


if __name__ == "__main__":
    main()
