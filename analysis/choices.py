"""Figures of alternatives: to prefetch or not, link or host, bits or slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.cells import cells
from analysis.collect import need
from analysis.live import spread
from analysis.patterns import replayed
from analysis.published import HOBBIT
from analysis.routing import lookahead_recall
from analysis.speeds import SPEED, timed
from analysis.style import COLOURS, MARKERS, WIDE, caption, every, new
from analysis.tradeoffs import ACCURACY, scored

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

WAYS = ("fetch", "host", "hybrid")


def prefetch_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=prefetch_value."""
    rows = timed(table)
    if not len(rows):
        return rows
    rows = rows[(rows["prefetcher"] == "oracle") & (rows["policy"] == "lru")]
    rows = rows[rows["memory.staging"].isna() & (rows["memory.slots"] == 0.5)]
    return rows if (rows["prefetch.recall"] < 1).any() else rows[:0]


def prefetch_gains(table: pd.DataFrame) -> pd.DataFrame:
    """Gain over no prefetching in percent, by `load` (of an expert, in layers' time) and so on."""
    rows = prefetch_rows(table)
    columns = ["prefetch.recall", "prefetch.precision", "tokens_per_second"]
    need(rows, columns, "python run.py experiment=prefetch_value")
    layer_s = rows["hardware.visit_s"] + 2 * rows["hardware.expert_s"]  # top-2
    size = (rows["bytes_demand"] / rows["demand_misses"]).median()
    load_s = size / rows["hardware.link_bytes_per_s"].astype(float)
    rows = rows.assign(load=(load_s / layer_s).round(1), recall=rows["prefetch.recall"])
    rows = rows.assign(precision=rows["prefetch.precision"])
    found = cells(rows, ["load", "precision", "recall"], "tokens_per_second")
    bare = found[found["recall"] == 0].groupby("load")["middle"].first()
    found = found.assign(middle=100 * (found["middle"] / found["load"].map(bare) - 1))
    return found[found["recall"] > 0]


def prefetches(table: pd.DataFrame) -> Figure:
    """Gain against recall, a line a precision, one panel a link."""
    found, rows = prefetch_gains(table), prefetch_rows(table)
    loads = sorted(set(found["load"]), reverse=True)
    figure, axes = new(1, len(loads), (WIDE, 2.6))
    for axis, load in zip(axes[0], loads, strict=True):
        here = found[found["load"] == load]
        for number, (precision, line) in enumerate(here.groupby("precision")):
            look: dict[str, Any] = {"color": COLOURS[number], "marker": "osv^D"[number % 5]}
            axis.plot(line["recall"], line["middle"], label=f"{precision:g}", **look)
        axis.axhline(0, color="0.45", lw=0.8)
        axis.set_title(f"a load takes {load:g} x a layer")
        axis.set_xlabel("recall of the prefetches")
        axis.set_ylim(found["middle"].min() - 3, found["middle"].max() + 3)
    trace = replayed(rows)
    one = lookahead_recall(trace)
    one = one[(one["ahead"] == 1) & (one["fetched"] == trace.geometry.top_k)]["recall"]
    gate = (one.mean(), one.sum() / trace.geometry.layers)
    axes[0][0].set_ylabel("gain in tokens/s (%)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), title="precision", loc="outside right")
    text = (
        "Gain over no prefetching of an oracle degraded to a precision and a recall, one layer "
        "ahead; LRU, half the experts; simulated on a made-up machine. Wrong prefetches cross the "
        f"link like right ones, and demand overtakes them. Gate lookahead has precision "
        f"{gate[0]:.2f} and recall {gate[1]:.2f}. "
        f"{HOBBIT}"
    )
    return caption(figure, text, rows)


def host_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=host_fetch."""
    return table[(table["source"] == "sim") & (table["hardware"] == "toy_host")]


def live_host_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=host_fetch_live."""
    return table[(table["source"] == "live") & (table["hardware"] == "toy_host")]


def host_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds per token: `slots`, `miss`, `ratio` (seconds of a load over the host's), ..."""
    need(rows, ["tpot_s", "hardware.host_expert_s"], "python run.py experiment=host_fetch")
    fetched = rows[rows["miss"] == "fetch"]
    size = (fetched["bytes_demand"] / fetched["demand_misses"]).median()
    load_s = size / rows["hardware.link_bytes_per_s"].astype(float)
    rows = rows.assign(ratio=(load_s / rows["hardware.host_expert_s"]).round(3))
    return cells(rows.assign(ms=1000 * rows["tpot_s"]), ["slots", "miss", "ratio"], "ms")


def host_fetch(rows: pd.DataFrame) -> Figure:
    """Milliseconds per token over load / host time, one panel a capacity, one line a way."""
    found = host_cells(rows)
    sizes = sorted(set(found["slots"]))
    figure, axes = new(1, len(sizes), (WIDE if len(sizes) > 1 else 4.2, 2.5))
    for axis, slots in zip(axes[0], sizes, strict=True):
        for number, miss in enumerate(WAYS):
            line = found[(found["slots"] == slots) & (found["miss"] == miss)]
            look: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number]}
            look |= {"capsize": 2, "errorevery": every(len(line))}
            axis.errorbar(line["ratio"], line["middle"], spread(line), label=f"miss={miss}", **look)
        axis.set_xscale("log", base=2)
        ticks = [tick for tick in sorted(set(found["ratio"])) if np.log2(tick).is_integer()]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_title(f"{int(slots)} slots a layer")
        axis.set_xlabel("loading / computing on the host")
        axis.set_ylim(bottom=0)
    axes[0][0].set_ylabel("ms/token (decoding)")
    axes[0][0].legend()
    host_ms = 1000 * float(rows["hardware.host_expert_s"].iloc[0])
    live = (rows["source"] == "live").all()
    text = f"LRU, no prefetching; the host takes {host_ms:g} ms for an expert. " + (
        "Link and host are emulated; medians of repeats taken in turns, 95 % interval of the mean."
        if live
        else "The machine is made up. hybrid splits each visit's misses by constants, as if a "
        "fetched expert saved nothing later."
    )
    return caption(figure, text, rows)


def pareto_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=pareto: live, behind the toy machine's link, with accuracy."""
    rows = table[(table["source"] == "live") & (table["mode"] == "live")]
    rows = rows[(rows["hardware"] == "toy") & (rows["workload"] == "turns")]
    return rows[rows["tasks"].map(len) > 0]


def pareto_points(table: pd.DataFrame) -> pd.DataFrame:
    """One line a quantizer and capacity: `middle` tokens/s, `held` MB, `acc`, `stderr`, `front`.

    A quantizer's name is followed by the neuron selector that it was combined with. Accuracy is the
    mean over seeds: each has its own items, the same for every quantizer and capacity. On the
    front is what no other point beats or equals in memory, speed and accuracy.
    """
    rows = pareto_rows(table)
    need(rows, ["tokens_per_second", "capacity_bytes"], "python run.py experiment=pareto")
    chosen = rows["sparsity"].map(lambda name: "" if name == "none" else f" sparsity={name}")
    rows = rows.assign(quant=rows["quant"] + chosen)
    found = cells(rows, ["quant", "slots"], "tokens_per_second")
    held = (rows["capacity_bytes"] + rows["skeleton_bytes"]) / 1e6
    about = rows[["quant", "slots"]].assign(held=held).drop_duplicates(["quant", "slots"])
    scores = scored(rows).groupby("quant")
    acc = scores["acc"].mean()
    stderr = scores["stderr"].agg(lambda errors: (errors**2).sum() ** 0.5 / len(errors))
    about = about.join(acc, on="quant").join(stderr, on="quant")
    found = found.merge(about, on=["quant", "slots"])
    front = []
    for point in found.itertuples():
        as_good = (found["held"] <= point.held) & (found["middle"] >= point.middle)
        as_good &= found["acc"] >= point.acc
        front.append(int(as_good.sum()) == 1)
    return found.assign(front=front).sort_values(["quant", "slots"], ascending=[False, True])


def pareto(table: pd.DataFrame) -> Figure:
    """Speed and accuracy against the bytes held on the device, a line for each quantizer."""
    found = pareto_points(table)
    figure, axes = new(1, 2, (WIDE, 3.0))
    memory, scores = axes[0]
    quants = list(dict.fromkeys(name.partition(" ")[0] for name in found["quant"]))
    for name, group in found.groupby("quant", sort=False):
        line, (quant, _, selector) = group.sort_values("held"), name.partition(" ")
        number = quants.index(quant)
        look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "capsize": 2}
        look |= {"marker": MARKERS[number % len(MARKERS)]}
        look |= {"linestyle": "--", "markerfacecolor": "white"} if selector else {}
        memory.errorbar(line["held"], line["middle"], spread(line), label=f"quant={name}", **look)
        best = line.sort_values("middle").iloc[-1:]
        scores.errorbar(best["middle"], best["acc"], 1.96 * best["stderr"], spread(best), **look)
    scores.set_xlim(left=0)
    memory.set_xlabel("model, slots and staging on the device (MB)")
    memory.set_ylabel(SPEED)
    memory.set_ylim(bottom=0)
    figure.legend(*memory.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    scores.set_xlabel("tokens per second, fastest capacity")
    scores.set_ylabel(ACCURACY)
    text = (
        "A point is a capacity, medians of repeats taken in turns, 95 % interval of the mean; "
        "right: the fastest of each line, upright bars: 95 % intervals of the items. Dashed and "
        "hollow: with a neuron selector, whose predictor's bytes are counted. The link is "
        "the toy machine's, emulated; computing is this machine's, with its kernels."
    )
    return caption(figure, text, pareto_rows(table))
