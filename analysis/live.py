"""Speeds measured live, repeats taken in turns: table 2's rows, slots beside a forecast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.cells import cells
from analysis.collect import need
from analysis.speeds import SPEED
from analysis.style import COLOURS, WIDE, caption, new
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.sim.simulator import simulate
from moex.trace.format import read_trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = (
    "all resident (stock transformers)",
    "full, experts in memory",
    "full",
    "no pre-loading",
    "no cache, no pre-loading",
    "naive (accelerate, files cached)",
)
"""What the live rows of table 2 are called, as the paper orders them."""


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Live rows of workload=turns without an emulated link."""
    rows = table[(table["source"] == "live") & (table["mode"] == "live") & ~table["emulated"]]
    return rows[rows["workload"] == "turns"]


def label(row: Any) -> str:
    """What a live row is called in table 2."""
    if row.runner == "stock":
        return ROWS[0]
    if row.runner == "accelerate":
        return ROWS[5]
    if row.policy == "none":
        return ROWS[4]
    if row.prefetcher == "none":
        return ROWS[3]
    return ROWS[1] if row.store == "ram" else ROWS[2]


def ablation_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=tab2_live; none without a baseline."""
    rows = measured(table)
    if rows["runner"].nunique() < 2:
        return rows[:0]
    shared = (rows["memory.slots"] < 1) | (rows["policy"] == "none")
    rows = rows[(rows["runner"] != "moex") | shared]
    return rows.assign(what=[label(row) for row in rows.itertuples()])


def ablation_cells(table: pd.DataFrame) -> pd.DataFrame:
    """One line a row of table 2, fastest first as the paper has it: `what`, `middle`, `low`, ..."""
    rows = ablation_rows(table)
    need(rows, ["tokens_per_second"], "python run.py experiment=tab2_live")
    found = cells(rows, ["what"], "tokens_per_second").set_index("what")
    return found.reindex([name for name in ROWS if name in found.index]).reset_index()


def ablation(table: pd.DataFrame) -> Figure:
    """Speeds of a live run with components removed, beside the baselines."""
    found = ablation_cells(table)[::-1]
    figure, axes = new(size=(WIDE, 0.9 + 0.28 * len(found)))
    axis, y = axes[0][0], np.arange(len(found))
    axis.barh(y, found["middle"], 0.6, color=COLOURS[5])
    axis.errorbar(
        found["middle"], y, xerr=spread(found), fmt="none", ecolor="black", capsize=2, lw=0.8
    )
    axis.set_yticks(y, found["what"])
    axis.set_xlabel(SPEED)
    axis.set_xlim(left=0)
    axis.grid(visible=False, axis="y")
    text = (
        f"Medians over {found['n'].max()} repeats taken in turns, 95 % interval of the mean. Half "
        "of the experts on the device. accelerate reads its files from the operating system's page "
        "cache, moex past it, except where experts are in memory."
    )
    return caption(figure, text, ablation_rows(table))


def spread(found: pd.DataFrame) -> Any:
    """Distances from the middle to both ends of the interval [2, lines], for error bars."""
    ends = [found["middle"] - found["low"], found["high"] - found["middle"]]
    return np.clip(np.asarray(ends), 0, None)


def slots_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=slots_speed_live."""
    rows = measured(table)
    if not len(rows):
        return rows
    rows = rows[(rows["runner"] == "moex") & (rows["policy"] == "lru") & (rows["store"] == "disk")]
    return rows[(rows["memory.slots"] > 1) & rows["prefetcher"].isin(PREFETCHERS)]


PREFETCHERS = {"none": NoPrefetch, "gate": Gate}


def machine(rows: pd.DataFrame, top_k: int) -> HardwareProfile:
    """A profile fitted to the two ends of the line without prefetching, and by nothing else.

    Most slots: what computing a visit takes, its experts included. Fewest: what a load
    adds to that, and the link's bandwidth, as bytes over the time that was waited for them.

    Raises:
        ValueError: one capacity only.
    """
    plain = rows[rows["prefetcher"] == "none"]
    if plain["slots"].nunique() < 2:
        raise ValueError(
            "forecast: needs two capacities without prefetching; make them with: python run.py "
            "experiment=slots_speed_live"
        )
    few = plain[plain["slots"] == plain["slots"].min()]
    many = plain[plain["slots"] == plain["slots"].max()]
    computing = [
        ((end["decode_s"] - end["stall_s"]) / end["requests"]).median() for end in (few, many)
    ]
    loads = [(end["demand_misses"] / end["requests"]).median() for end in (few, many)]
    load_s = max(0.0, (computing[0] - computing[1]) / (loads[0] - loads[1]))
    return HardwareProfile(
        "fitted to two ends",
        link_bytes_per_s=float((few["bytes_moved"] / few["stall_s"]).median()),
        visit_s=max(0.0, top_k * (computing[1] - loads[1] * load_s)),
        load_s=load_s,
    )


def forecast(table: pd.DataFrame) -> pd.DataFrame:
    """Measured beside simulated, one line a cell.

    Columns: `prefetcher`, `slots`, `measured`, `low`, `high`, `simulated`, `off` (simulated /
    measured - 1), `stall`, `simulated_stall` (shares), `sets_costs` (fitted to this cell).
    The trace is one that these runs recorded.

    Raises:
        FileNotFoundError: the runs' traces have gone.
    """
    rows = slots_rows(table)
    need(rows, ["tokens_per_second", "slots"], "python run.py experiment=slots_speed_live")
    path = Path(rows.sort_values("prefetcher")["folder"].iloc[0]) / "trace.parquet"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; make it again with: python run.py experiment=slots_speed_live "
            "force=true"
        )
    trace = read_trace(path)
    profile = machine(rows, trace.geometry.top_k)
    speeds = cells(rows, ["prefetcher", "slots"], "tokens_per_second")
    stalls = cells(rows, ["prefetcher", "slots"], "stall_share")["middle"]
    ends = {speeds["slots"].min(), speeds["slots"].max()}
    lines = []
    for row, stall in zip(speeds.itertuples(), stalls, strict=True):
        cache = ExpertCache(LRU(), trace.geometry, int(row.slots))
        report = simulate(trace, cache, PREFETCHERS[row.prefetcher](), profile)
        speed = report.tokens_per_second or 0.0
        lines.append(
            {
                "prefetcher": row.prefetcher, "slots": int(row.slots), "measured": row.middle,
                "low": row.low, "high": row.high, "simulated": speed,
                "off": speed / row.middle - 1, "stall": stall,
                "simulated_stall": report.stall_share or 0.0,
                "sets_costs": row.prefetcher == "none" and row.slots in ends,
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


def slots_speed_live(table: pd.DataFrame) -> Figure:
    """Tokens/s and waiting against slots, measured and simulated."""
    found = forecast(table)
    figure, axes = new(1, 2, (WIDE, 2.6))
    speed, waiting = axes[0]
    for number, name in enumerate(PREFETCHERS):
        line = found[found["prefetcher"] == name]
        look: dict[str, Any] = {"color": COLOURS[number], "marker": "os"[number]}
        bars = [line["measured"] - line["low"], line["high"] - line["measured"]]
        speed.errorbar(
            line["slots"], line["measured"], np.clip(np.asarray(bars), 0, None), capsize=2,
            label=f"prefetch {name}, measured", **look,
        )  # fmt: skip
        waiting.plot(line["slots"], line["stall"], **look)
        look |= {"linestyle": "--", "marker": ""}
        speed.plot(line["slots"], line["simulated"], label=f"prefetch {name}, simulated", **look)
        waiting.plot(line["slots"], line["simulated_stall"], **look)
    for axis, name in ((speed, SPEED), (waiting, "share of decoding spent waiting")):
        axis.set_xticks(sorted(set(found["slots"])))
        axis.set_xlabel("slots (experts per layer)")
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
    speed.legend(loc="lower right")
    others = found[~found["sets_costs"]]
    text = (
        "Solid: measured, medians of repeats taken in turns, 95 % interval of the mean. Dashed: a "
        "replay of the recorded routing with costs fitted to the two ends of the line without "
        f"prefetching; off by {others['off'].abs().mean():.1%} on average in the other "
        f"{len(others)} cells. LRU, experts on the disk."
    )
    return caption(figure, text, slots_rows(table))
