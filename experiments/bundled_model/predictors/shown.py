"""Summarize and draw what study.py measured: coverage at equal prefetched bytes, and the figure.

    python experiments/bundled_model/predictors/shown.py OUT/tables.json

Prints the README's tables and writes predictors.png beside this file. A predictor's coverage at
given bytes is interpolated between its own numbers of predictions; differences are paired by text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.paired import T95
from analysis.style import COLOURS, MARKERS, WIDE, caption, new, styled
from experiments.harness import arguments, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINED = ("gate_resid", "linear", "mlp")
LOOKS = {
    name: {"color": COLOURS[number], "marker": MARKERS[number % len(MARKERS)], "label": name}
    for number, name in enumerate(("gate", "mlp", "linear", "gate_resid", "popularity", "random"))
}
"""Of the predictors in the figure; gate_norm would coincide with gate."""
Row = dict[str, Any]


def lines(rows: list[Row], name: str, horizon: int) -> list[Row]:
    """A predictor's rows by how many experts it predicts."""
    found = [row for row in rows if (row["predictor"], row["horizon"]) == (name, horizon)]
    return sorted(found, key=lambda row: row["width"])


def at_bytes(rows: list[Row], text: int, megabytes: float) -> float:
    """Coverage of one text at so many megabytes prefetched per token."""
    spent = [0.0, *(row["mb_by_text"][text] for row in rows)]
    covered = [0.0, *(row["coverage_by_text"][text] for row in rows)]
    return float(np.interp(megabytes, spent, covered))


def equal_bytes(rows: list[Row], name: str) -> list[Row]:
    """Coverage where a predictor prefetches the bytes of gate, and the paired difference."""
    found = []
    for horizon in (1, 2, 3):
        gates, networks = lines(rows, "gate", horizon), lines(rows, name, horizon)
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
                | {"MB/token": float(np.mean(gate["mb_by_text"]))}
                | {"gate": float(np.mean(gate["coverage_by_text"]))}
                | {"coverage": float(np.mean(theirs))}
                | {"apart": float(np.mean(apart)), "half": float(half)}
            )
    return found


def cells_of(row: Row) -> list[Any]:
    """A row of `equal_bytes` as it is printed."""
    apart = f"{row['apart']:+.3f} ± {row['half']:.3f}"
    megabytes = f"{row['MB/token']:.2f}"
    return [row["horizon"], row["named"], megabytes, row["gate"], row["coverage"], apart]


def recalls(rows: list[Row]) -> None:
    """Print recall by layer with top-k predicted, and means over layers by number predicted."""
    names, least = ("gate", *TRAINED), min(row["named"] for row in rows)
    found: dict[tuple, list[float]] = {}
    for row in rows:
        where = row["horizon"], row["named"]
        found.setdefault((row["predictor"], *where), []).append(row["recall"])
        if row["named"] == least:
            found[row["predictor"], row["horizon"], "layer", row["layer"]] = [row["recall"]]
    cells = dict.fromkeys(key[1:] for key in found)
    for head, keys in (
        (["layers ahead", "layer predicted"], [key for key in cells if len(key) == 3]),
        (["layers ahead", "predicted"], [key for key in cells if len(key) == 2]),
    ):
        means = (
            [key[0], key[-1], *(float(np.mean(found[n, *key])) for n in names)] for key in keys
        )
        table([*head, *names], means)


def draw(tables: dict[str, list[Row]]) -> Figure:
    """Above recall against predictions, below coverage against bytes; a column a horizon."""
    figure, axes = new(2, 3, (WIDE, 4.2))
    for column, horizon in enumerate((1, 2, 3)):
        experts = [row for row in tables["experts"] if row["horizon"] == horizon]
        named = sorted({row["named"] for row in experts})
        for name in ("gate", *TRAINED):
            mine = [row for row in experts if row["predictor"] == name]
            means = [np.mean([r["recall"] for r in mine if r["named"] == n]) for n in named]
            axes[0][column].plot(named, means, **LOOKS[name])
        axes[0][column].set(ylim=(0, 1.03), xlabel="experts predicted", xticks=named)
        axes[0][column].set_title(f"{horizon} layer{'s'[: horizon - 1]} ahead")
        for name, look in LOOKS.items():
            if mine := lines(tables["replays"], name, horizon):
                spent = [0, *(row["mb_prefetched_per_token"] for row in mine)]
                axes[1][column].plot(spent, [0, *(row["coverage"] for row in mine)], **look)
        for row in lines(tables["replays"], "oracle", horizon):
            spent = row["mb_prefetched_per_token"]
            star: Row = {"color": "0.45", "marker": "*", "linestyle": "", "markersize": 9}
            axes[1][column].plot(spent, row["coverage"], label="oracle", **star)
        axes[1][column].set(ylim=(0, 1.03), xlabel="MB prefetched/token")
    axes[0][0].set_ylabel("recall of the two experts")
    axes[1][0].set_ylabel("coverage")
    axes[0][0].legend(loc="lower right")
    handles = axes[1][0].get_legend_handles_labels()
    axes[1][2].legend(*handles, loc="upper left", bbox_to_anchor=(0, 0.94), ncols=2)
    text = (
        "Bundled model, text that neither it nor the predictors have read. Above: mean over the "
        "layers that can be predicted, 16,384 tokens. Below: replays of 12 decodings of 128 "
        "tokens, LRU, 3 slots of 8, cold; points: 1 to 4 predictions. "
        "Coverage: share of loads begun early."
    )
    return caption(figure, text)


def main() -> None:
    """Print and draw."""
    args = arguments(
        __doc__,
        _tables=(Path, "what study.py wrote"),
        out=Path(__file__).with_name("predictors.png"),
    )
    tables = json.loads(args.tables.read_text())
    recalls(tables["experts"])
    for name in TRAINED:
        head = ["horizon", "gate predicts", "MB/token", "gate", name, f"{name} - gate (95 %)"]
        table(head, map(cells_of, equal_bytes(tables["replays"], name)))
    kept = ("predictor", "horizon", "width", "coverage", "precision", "timeliness")
    kept += ("mb_prefetched_per_token", "mb_wasted_per_token", "pollution_per_token")
    table(list(kept), ([row[name] for name in kept] for row in tables["replays"]))
    with styled():
        draw(tables).savefig(args.out, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
