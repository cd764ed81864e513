"""Figures of what fewer bits cost in held-out loss: rows of experiments/12_quantization.

A row is a quantization of one model on the same windows of text: bits of `attention`, `gate_up`
and `down` (16: left alone), `group` of the experts (0: they have none), `bits_per_weight` from the
files, `more` nats a token than unquantized and `stderr`, paired by window; `model`, `windows`.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.published import TABLE_1, TABLE_1_SOURCE
from analysis.style import COLOURS, MARKERS, WIDE, caption, new
from analysis.tradeoffs import BITS, heat

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MORE = "nats a token over 16 bits"
GROUPS = {16: 0, 4: 64, 3: 64, 2: 16}
"""Group sizes of table 1: experts have groups of so many weights."""
KINDS = {"gate and up": "gate_up", "down": "down", "attention": "attention"}
STUDY = "python experiments/12_quantization/accuracy.py --text FOLDER"


def bits_table(table: pd.DataFrame) -> Figure:
    """Two grids of attention bits by expert bits in nats: ours, and the paper's table 1."""
    rows = table[table["gate_up"] == table["down"]]
    rows = rows[rows["group"] == rows["down"].map(GROUPS)]
    ours = _grid(rows, "more")
    if ours.notna().to_numpy().sum() < ours.size:
        raise ValueError(f"losses: not all of table 1's bits in {len(rows)} rows; try: {STUDY}")
    paper = ours.copy()
    for attention, experts in TABLE_1:
        paper.loc[attention, experts] = log(TABLE_1[attention, experts] / TABLE_1[16, 16])
    errors = _grid(rows, "stderr").to_numpy()
    figure, axes = new(1, 2, (WIDE, 2.7))
    notes = np.array([
        [f"{more:.3f}\n± {error:.3f}" for more, error in zip(*pair, strict=True)]
        for pair in zip(ours.to_numpy(), errors, strict=True)
    ])  # fmt: skip
    notes[0, 0] = "0"
    heat(axes[0][0], ours, notes, f"{_model(rows)} (here): {MORE}", ours.to_numpy().max())
    notes = np.array([[f"{more:.3f}" for more in line] for line in paper.to_numpy()])
    heat(axes[0][1], paper, notes, f"Mixtral-8x7B (printed): {MORE}", paper.to_numpy().max())
    text = (
        f"Left: HQQ, {_windows(rows)}, ± standard error, paired by document. Right: "
        f"{TABLE_1_SOURCE}, logarithm of the perplexities' ratio. Darkest: the worst cell of each "
        "grid. Two models and two texts: compare the patterns, never the sizes."
    )
    return caption(figure, text)


def _grid(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    grid = rows.pivot_table(index="attention", columns="gate_up", values=value)
    return grid.reindex(index=BITS, columns=BITS)


def sensitivity(table: pd.DataFrame) -> Figure:
    """Loss against bits, a line for each kind of weight, all others in 16 bits."""
    figure, axes = new(size=(4.2, 2.8))
    axis, shown = axes[0][0], []
    for number, (name, kind) in enumerate(KINDS.items()):
        others = [other for other in KINDS.values() if other != kind]
        alone = (table[others] == 16).all(axis=1) & (table[kind] < 16)
        line = table[alone].drop_duplicates(kind).sort_values(kind, ascending=False)
        shown.append(line)
        x = [BITS.index(bits) + 0.05 * (number - 1) for bits in line[kind]]
        axis.errorbar(x, line["more"], 1.96 * line["stderr"], label=name, **_look(number))
    if not all(map(len, shown)):
        raise ValueError(f"losses: no rows of one kind of weight alone; make them with: {STUDY}")
    axis.set_xticks(range(1, len(BITS)), BITS[1:])
    axis.set_xlabel("bits of this kind of weight, all others 16")
    axis.set_ylabel(MORE)
    axis.set_ylim(bottom=0)
    axis.legend()
    text = (
        f"{_model(table)}, HQQ (groups of 64, at 2 bits of 16), {_windows(table)}; bars: 95 % "
        "intervals, paired by document, moved apart a little."
    )
    return caption(figure, text)


def group_sizes(table: pd.DataFrame) -> Figure:
    """Loss against bits a weight, a point a group size, a line for each number of bits."""
    rows = table[(table["group"] > 0) & (table["attention"] == 16)]
    rows = rows[rows["gate_up"] == rows["down"]].drop_duplicates(["gate_up", "group"])
    figure, axes = new(size=(4.2, 2.8))
    axis = axes[0][0]
    for number, (bits, line) in enumerate(rows.groupby("gate_up", sort=False)):
        line = line.sort_values("group")
        if len(line) < 2:  # a single group size is no line
            continue
        x, y, half = line["bits_per_weight"], line["more"], 1.96 * line["stderr"]
        axis.errorbar(x, y, half, label=f"{bits} bits", **_look(number))
        look = {"rotation": 90, "ha": "center", "fontsize": 7}
        for at, top, size in zip(x, y + half, line["group"], strict=True):
            axis.annotate(f"g{size}", (at, top), (0, 4), textcoords="offset points", **look)
    if not axis.lines:
        raise ValueError(f"losses: no rows of several group sizes; make them with: {STUDY}")
    axis.set_xlabel("bits a weight of experts, scales and padding included")
    axis.set_ylabel(MORE)
    axis.margins(x=0.08, y=0.3)
    axis.set_ylim(bottom=0)
    axis.legend()
    text = (
        f"{_model(table)}, experts by HQQ in groups of 16 to 128, 8-bit scales and zeros, all else "
        f"16 bits; {_windows(table)}; bars: 95 % intervals, paired by document."
    )
    return caption(figure, text)


def _look(number: int) -> dict[str, Any]:
    look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "capsize": 2}
    return look | {"marker": MARKERS[number % len(MARKERS)]}


def _model(rows: pd.DataFrame) -> str:
    name = rows["model"].iloc[0]
    return "Bundled model" if name == "tiny" else str(name)


def _windows(rows: pd.DataFrame) -> str:
    return f"first 512 tokens of {rows['windows'].max()} held-out documents"
