"""Draw and sum up what study.py measured: coverage at equal prefetched bytes, and the figure.

    python experiments/11_predictors/shown.py OUT/tables.json

Prints the README's tables and writes predictors.png beside this file. A predictor's coverage at
given bytes lies on the line between its own numbers of names; differences are paired by text.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.style import COLOURS, MARKERS, WIDE, caption, new, styled
from moex.paired import T95

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("gate", "mlp", "gate_norm", "popularity", "random")
Row = dict[str, Any]


def lines(rows: list[Row], name: str, horizon: int) -> list[Row]:
    """A predictor's rows by how many experts it names."""
    found = [row for row in rows if (row["predictor"], row["horizon"]) == (name, horizon)]
    return sorted(found, key=lambda row: row["width"])


def at_bytes(rows: list[Row], text: int, megabytes: float) -> float:
    """Coverage of one text at so many megabytes prefetched a token."""
    spent = [0.0, *(row["mb_by_text"][text] for row in rows)]
    covered = [0.0, *(row["coverage_by_text"][text] for row in rows)]
    return float(np.interp(megabytes, spent, covered))


def equal_bytes(rows: list[Row]) -> list[Row]:
    """Coverage of mlp where it prefetches the bytes of gate, and the paired difference."""
    found = []
    for horizon in (1, 2, 3):
        gates, networks = lines(rows, "gate", horizon), lines(rows, "mlp", horizon)
        for gate in gates:
            apart, theirs = [], []
            for text, (spent, covered) in enumerate(
                zip(gate["mb_by_text"], gate["coverage_by_text"], strict=True)
            ):
                theirs.append(at_bytes(networks, text, spent))
                apart.append(theirs[-1] - covered)
            count = len(apart)
            half = T95[min(count, len(T95) + 1) - 2] * np.std(apart, ddof=1) / count**0.5
            found.append(
                {"horizon": horizon, "named": gate["width"]}
                | {"MB a token": float(np.mean(gate["mb_by_text"]))}
                | {"gate": float(np.mean(gate["coverage_by_text"])), "mlp": float(np.mean(theirs))}
                | {"apart": float(np.mean(apart)), "half": float(half)}
            )
    return found


def draw(tables: dict[str, list[Row]]) -> Figure:
    """Above recall against names, below coverage against bytes; a column a horizon."""
    figure, axes = new(2, 3, (WIDE, 4.2))
    for column, horizon in enumerate((1, 2, 3)):
        experts = [row for row in tables["experts"] if row["horizon"] == horizon]
        named = sorted({row["named"] for row in experts})
        for number, (name, field) in enumerate((("gate", "gate_recall"), ("mlp", "recall"))):
            look: Row = {"color": COLOURS[number], "marker": MARKERS[number], "label": name}
            means = [np.mean([r[field] for r in experts if r["named"] == n]) for n in named]
            axes[0][column].plot(named, means, **look)
        axes[0][column].set(ylim=(0, 1.03), xlabel="experts named", xticks=named)
        axes[0][column].set_title(f"{horizon} layer{'s'[: horizon - 1]} ahead")
        for number, name in enumerate(NAMES):
            mine = lines(tables["replays"], name, horizon)
            if mine and name != "gate_norm":  # it lies on gate
                look = {"color": COLOURS[number], "marker": MARKERS[number % 4], "label": name}
                spent = [0, *(row["mb_prefetched_per_token"] for row in mine)]
                axes[1][column].plot(spent, [0, *(row["coverage"] for row in mine)], **look)
        for row in lines(tables["replays"], "oracle", horizon):
            spent = row["mb_prefetched_per_token"]
            look = {"color": "0.45", "marker": "*", "linestyle": "", "markersize": 9}
            axes[1][column].plot(spent, row["coverage"], label="oracle", **look)
        axes[1][column].set(ylim=(0, 1.03), xlabel="MB prefetched a token")
    axes[0][0].set_ylabel("recall of the two experts")
    axes[1][0].set_ylabel("coverage")
    axes[0][0].legend(loc="lower right")
    axes[1][2].legend(*axes[1][0].get_legend_handles_labels(), loc="upper left")
    text = (
        "Bundled model, text that neither it nor the predictors have read. Above: mean over the "
        "layers that can be named, 16,384 tokens. Below: replays of 12 decodings of 128 tokens, "
        "LRU, 3 slots of 8, cold; points name 1 to 4 experts. Coverage: share of loads begun early."
    )
    return caption(figure, text)


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", type=Path, help="what study.py wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("predictors.png"))
    args = parser.parse_args()
    tables = json.loads(args.tables.read_text())
    print(
        "| horizon | gate names | MB a token | gate | mlp | mlp - gate (95 %) |\n"
        + "|---" * 6
        + "|"
    )
    for row in equal_bytes(tables["replays"]):
        shares = f"{row['gate']:.3f} | {row['mlp']:.3f}"
        apart = f"{row['apart']:+.3f} ± {row['half']:.3f}"
        print(
            f"| {row['horizon']} | {row['named']} | {row['MB a token']:.2f} | {shares} | {apart} |"
        )
    kept = ("predictor", "horizon", "width", "coverage", "precision", "timeliness")
    kept += ("mb_prefetched_per_token", "mb_wasted_per_token", "pollution_per_token")
    print("\n| " + " | ".join(kept) + " |\n" + "|---" * len(kept) + "|")
    for row in tables["replays"]:
        cells = [row[name] for name in kept]
        print(
            "| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |"
        )
    with styled():
        draw(tables).savefig(args.out, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
