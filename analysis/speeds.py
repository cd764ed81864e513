"""Figures of speed: table 2, slots, buffers, and the oracle ladder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.cells import cells
from analysis.collect import need
from analysis.published import TABLE_2, TABLE_2_ROWS, TABLE_2_SOURCE
from analysis.style import COLOURS, ORACLES, WIDE, caption, new

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRETTY = {
    "a100": "A100",
    "rtx3080m": "RTX 3080 Mobile",
    "rtx3060_slow_link": "RTX 3060, 9.9 GB/s link",
    "t4": "T4",
}
SPEED = "tokens per second (decoding)"


def table_2_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=tab2_simulated."""
    rows = table[(table["source"] == "sim") & (table.get("trace") == "synthetic_mixtral")]
    return rows[rows["hardware"].isin([name for name, _ in TABLE_2])]


def table_2(table: pd.DataFrame) -> pd.DataFrame:
    """Eliseev & Mazur's table 2 beside its simulation.

    Columns: `gpu`, `slots`, `row`, `paper`, `simulated`, `off`.

    The naive row is not simulated: experiments/paper/seed1_table2 says why it is no count of loads.
    """
    rows = table_2_rows(table)
    need(rows, ["prefetch.recall"], "python run.py experiment=tab2_simulated")
    lines = []
    for (gpu, slots), published in TABLE_2.items():
        here = rows[(rows["hardware"] == gpu) & (rows["slots"] == slots)]
        for row, (cache, preload) in enumerate((("lru", True), ("lru", False), ("none", False))):
            hit = here[(here["policy"] == cache) & ((here["prefetch.recall"] > 0) == preload)]
            if len(hit):
                speed = float(hit["tokens_per_second"].iloc[0])
                off = speed / published[row] - 1
                lines.append((gpu, slots, TABLE_2_ROWS[row], published[row], speed, off))
        lines.append((gpu, slots, TABLE_2_ROWS[3], published[3], np.nan, np.nan))
    return pd.DataFrame(lines, columns=["gpu", "slots", "row", "paper", "simulated", "off"])


def table_2_bars(table: pd.DataFrame) -> Figure:
    """The paper's bars, hollow, and ours, filled, for its four GPUs."""
    found = table_2(table)
    figure, axes = new(size=(WIDE, 2.6))
    axis, gpus = axes[0][0], list(dict.fromkeys(found["gpu"]))
    for number, row in enumerate(TABLE_2_ROWS):
        here = found[found["row"] == row].set_index("gpu").reindex(gpus)
        x = np.arange(len(gpus)) + (number - 1.5) * 0.2
        title = None if here["simulated"].isna().all() else row
        axis.bar(x, here["simulated"], 0.17, color=COLOURS[number], label=title)
        axis.bar(x, here["paper"], 0.17, fill=False, edgecolor="black", linewidth=0.8)
    axis.bar(
        0, 0, fill=False, edgecolor="black", linewidth=0.8, label="printed (last of four: naive)"
    )
    slots = dict(zip(found["gpu"], found["slots"], strict=True))
    names = [f"{PRETTY[gpu]}\n{slots[gpu]} slots a layer" for gpu in gpus]
    axis.set_xticks(range(len(gpus)), names)
    axis.set_ylabel(SPEED)
    axis.grid(visible=False, axis="x")
    axis.legend(ncols=3, loc="upper right")
    axis.set_ylim(0, 1.35 * max(found["paper"].max(), found["simulated"].max()))
    text = (
        f"Filled: simulated; outlines: {TABLE_2_SOURCE}. Costs of computing come from the same "
        "table's rows without pre-loading, so only 'full' is a prediction; naive is not simulated."
    )
    return caption(figure, text, table_2_rows(table))


def timed(table: pd.DataFrame, hardware: str = "toy") -> pd.DataFrame:
    """Simulated rows of one made-up machine."""
    return table[(table["source"] == "sim") & (table["hardware"] == hardware)]


def slots_speed_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=slots_speed: default link and staging, lookahead of one layer."""
    rows = timed(table)
    if not len(rows):
        return rows
    plain = (rows["hardware.link_bytes_per_s"] == 5.75e8) & rows["memory.staging"].isna()
    rows = rows[plain & _whole(rows, "prefetch.depth") & rows["policy"].isin(["lru", "belady"])]
    return rows[_whole(rows, "prefetch.recall") & _whole(rows, "prefetch.precision")]


def _whole(rows: pd.DataFrame, name: str) -> pd.Series:
    """Where a setting is 1 or not there: lookahead of one layer, oracles that are not degraded."""
    return rows[name].fillna(1) == 1 if name in rows else pd.Series(True, rows.index)


def slots_speed(table: pd.DataFrame) -> Figure:
    """Tokens/s and waiting against slots, without, with and with perfect lookahead."""
    rows = slots_speed_rows(table)
    need(rows, ["tokens_per_second", "slots"], "python run.py experiment=slots_speed")
    figure, axes = new(1, 2, (WIDE, 2.6))
    _speed_lines(axes[0][0], rows, "tokens_per_second", SPEED)
    _speed_lines(axes[0][1], rows, "stall_share", "share of decoding spent waiting")
    axes[0][0].legend()
    text = (
        "Solid: LRU, dashed: Belady. The machine is made up: a load takes as long as a layer's "
        "computing; compare speeds with each other only."
    )
    return caption(figure, text, rows)


def _speed_lines(axis: Axes, rows: pd.DataFrame, value: str, name: str) -> None:
    found = cells(rows, ["policy", "prefetcher", "slots"], value)
    for number, prefetcher in enumerate(("none", "gate", "oracle")):
        for policy, dashes in (("lru", "-"), ("belady", "--")):
            line = found[(found["policy"] == policy) & (found["prefetcher"] == prefetcher)]
            look: dict[str, Any] = {"color": COLOURS[number], "linestyle": dashes}
            look["marker"] = "os^"[number]
            title = f"prefetch {prefetcher}" if policy == "lru" else None
            axis.plot(line["slots"], line["middle"], label=title, **look)
    axis.set_xticks(sorted(set(found["slots"])))
    axis.set_xlabel("slots (experts per layer)")
    axis.set_ylabel(name)
    axis.set_ylim(bottom=0)


def buffers_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=buffers."""
    rows = timed(table)
    if not len(rows):
        return rows
    return rows[rows["memory.staging"].notna() & (rows["prefetcher"] == "gate")]


def buffers(table: pd.DataFrame) -> Figure:
    """Speed against staging slots, for several link speeds and depths of lookahead."""
    rows = buffers_rows(table)
    need(
        rows,
        ["memory.staging", "prefetch.depth", "tokens_per_second"],
        "python run.py experiment=buffers",
    )
    rows = rows.assign(link=rows["hardware.link_bytes_per_s"], depth=rows["prefetch.depth"])
    rows = rows.assign(staging=rows["memory.staging"].astype(int))
    found = cells(rows, ["link", "depth", "staging"], "tokens_per_second")
    links = sorted(set(found["link"]))
    figure, axes = new(1, len(links), (WIDE, 2.4))
    for axis, link in zip(axes[0], links, strict=True):
        for number, depth in enumerate(sorted(set(found["depth"]))):
            line = found[(found["link"] == link) & (found["depth"] == depth)]
            look: dict[str, Any] = {"color": COLOURS[number], "marker": "os^"[number % 3]}
            axis.plot(line["staging"], line["middle"], label=f"{int(depth)} ahead", **look)
        axis.set_title(f"link {link / 1e9:.3g} GB/s")
        axis.set_xlabel("staging slots")
    axes[0][0].set_ylabel(SPEED)
    axes[0][-1].legend(title="gate lookahead, layers")
    text = (
        "Staging slots hold what is being loaded and prefetches not yet used; two are the "
        "demand of one visit and leave no room for prefetches. Made-up machine, LRU."
    )
    return caption(figure, text, rows)


RUNGS = (
    ("LRU on demand", "lru", "none", False),
    ("learnt while running", "learned", "none", False),
    ("best causal policy", "", "none", False),
    ("Belady, forced", "belady", "none", False),
    ("Belady with bypass", "belady_bypass", "none", False),
    ("+ perfect prefetch, 1 layer", "belady_bypass", "oracle", False),
    ("+ infinite link", "belady_bypass", "oracle", True),
)


LADDER_LINK = 5.75e8
"""Bytes a second of the ladder's own link; the last rung's is infinite."""


def ladder_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=oracle_ladder; none where its infinite link is missing."""
    rows = timed(table)
    if not len(rows) or not (rows["hardware.link_bytes_per_s"] > 1e14).any():
        return rows[:0]
    slots = set(rows[rows["hardware.link_bytes_per_s"] > 1e14]["slots"])
    rows = rows[rows["slots"].isin(slots) & rows["memory.staging"].isna()]
    return rows[_whole(rows, "prefetch.recall") & _whole(rows, "prefetch.precision")]


def rungs(table: pd.DataFrame) -> pd.DataFrame:
    """The fastest run of every rung, one line a rung and capacity: `rung`, `slots`, ..."""
    rows = ladder_rows(table)
    need(rows, ["tokens_per_second"], "python run.py experiment=oracle_ladder")
    rows = rows.assign(free=rows["hardware.link_bytes_per_s"] > 1e14)
    rows = rows[rows["free"] | (rows["hardware.link_bytes_per_s"] == LADDER_LINK)]
    rows = rows[rows["prefetcher"].isin(["none", "oracle"])]
    found = cells(rows, ["slots", "free", "prefetcher", "policy"], "tokens_per_second")
    best = []
    for name, policy, prefetcher, free in RUNGS:
        here = found[(found["free"] == free) & (found["prefetcher"] == prefetcher)]
        here = here[here["policy"] == policy] if policy else here[~here["policy"].isin(ORACLES)]
        here = here.sort_values("middle").groupby("slots").last().reset_index()
        best.append(here.assign(rung=name))
    return pd.concat(best)


def most_tokens_per_second(table: pd.DataFrame) -> pd.Series:
    """Tokens/s that the lower bound on decoding time leaves on the ladder's link, by slots."""
    rows = ladder_rows(table)
    need(rows, ["decode_lower_bound_s"], "python run.py experiment=oracle_ladder")
    rows = rows[rows["hardware.link_bytes_per_s"] == LADDER_LINK]
    speeds = rows["tokens_decode"] / rows["decode_lower_bound_s"]
    return speeds.groupby(rows["slots"]).max()


def ladder(table: pd.DataFrame) -> Figure:
    """What each kind of knowledge of the future would buy: one bar a rung, one group a capacity."""
    found = rungs(table)
    figure, axes = new(size=(WIDE, 2.6))
    axis, sizes = axes[0][0], sorted(set(found["slots"]))
    for number, (name, policy, _, _) in enumerate(RUNGS):
        here = found[found["rung"] == name].set_index("slots").reindex(sizes)
        x = np.arange(len(sizes)) + (number - (len(RUNGS) - 1) / 2) * 0.13
        colour = "0.45" if number == len(RUNGS) - 1 else COLOURS[number]
        axis.bar(x, here["middle"], 0.11, color=colour, label=name)
        for position, value, policy in zip(x, here["middle"], here["policy"], strict=True):
            axis.annotate(f"{value:.0f}", (position, value), ha="center", va="bottom", fontsize=5.5)
            if not policy:
                axis.text(
                    position, value / 2, policy, ha="center", va="center", rotation=90, fontsize=7,
                    color="white",
                )  # fmt: skip
    axis.set_xticks(range(len(sizes)), [f"{int(slots)} slots a layer" for slots in sizes])
    axis.set_ylabel(SPEED)
    axis.grid(visible=False, axis="x")
    axis.set_ylim(0, 1.45 * axis.get_ylim()[1])
    axis.legend(ncols=3, loc="upper left")
    text = "The oracle ladder on a made-up machine; all rungs above the third know the future."
    return caption(figure, text, ladder_rows(table))
