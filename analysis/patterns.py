"""Figures of a trace: Eliseev & Mazur's figures 1 and 2 (right), and sequential replay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np

from analysis.published import ADAPMOE_MEAN, ADAPMOE_SOURCE
from analysis.routing import lookahead_recall, pattern
from analysis.style import COLOURS, COLUMN, WIDE, caption, new
from moex.paths import trace_path
from moex.trace.format import read_trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from moex.trace.format import Trace


def replayed(table: pd.DataFrame) -> Trace:
    """The trace that the rows of a table were replayed from.

    Raises:
        ValueError: rows of several traces.
        FileNotFoundError: the file has gone.
    """
    names = set(table["trace"])
    if len(names) != 1:
        raise ValueError(f"table: rows of {len(names)} traces ({', '.join(map(str, names))})")
    path = trace_path(str(names.pop()))
    if not Path(path).is_file():
        raise FileNotFoundError(f"trace={path}: no such file; try trace=tiny")
    return read_trace(path)


def pattern_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=fig1_expert_pattern."""
    rows = table[(table["source"] == "sim") & (table["policy"] == "lru") & (table["slots"] == 2)]
    rows = rows[(rows["prefetcher"] == "none") & (rows["pool"] == "layer")]
    return rows[rows["hardware"] == "auto"]


def expert_pattern(table: pd.DataFrame, tokens: int = 60) -> Figure:
    """Experts of consecutive tokens, shaded by weight; frames mark LRU's residents."""
    rows = pattern_rows(table)
    trace = replayed(rows)
    last = trace.geometry.layers - 1
    layers = sorted({0, (last + 1) // 2, last})
    found = pattern(trace, trace.geometry.top_k, layers, tokens)
    figure, axes = new(len(layers), 1, (WIDE, 0.5 + 1.1 * len(layers)))
    image: Any = None
    for axis, layer in zip(axes[:, 0], layers, strict=True):
        here = found[found["layer"] == layer]
        weights = here.pivot(index="expert", columns="token", values="weight").to_numpy()
        image = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
        held = here[here["resident"]]
        axis.scatter(
            held["token"], held["expert"], s=11, marker="s", linewidths=0.6, facecolors="none",
            edgecolors=COLOURS[1],
        )  # fmt: skip
        axis.set_ylabel(f"layer {layer}\nexpert")
        axis.grid(visible=False)
        axis.set_yticks(range(0, trace.geometry.experts, 2))
        if axis is not axes[-1, 0]:
            axis.set_xticklabels([])
    axes[-1, 0].set_xlabel("decoded token")
    figure.colorbar(image, ax=list(axes[:, 0]), label="router weight", fraction=0.03, pad=0.01)
    hits = found[found["weight"] > 0].groupby("layer")["resident"].mean()
    text = (
        f"Blue: experts that each token uses; squares: the {trace.geometry.top_k} that LRU holds "
        "before it. Hit rate of the tokens shown: "
        + ", ".join(f"layer {layer} {rate:.2f}" for layer, rate in hits.items())
        + "."
    )
    return caption(figure, text, rows)


def recall_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=fig2b_speculative_recall."""
    rows = table[(table["source"] == "sim") & (table["prefetcher"] == "gate")]
    return rows[(rows["policy"] == "none") & (rows["hardware"] == "auto")]


def speculative_recall(table: pd.DataFrame) -> Figure:
    """Recall of lookahead against the number of experts fetched, and layer by layer."""
    rows = recall_rows(table)
    trace = replayed(rows)
    found = lookahead_recall(trace)
    figure, axes = new(1, 2, (WIDE, 2.5))
    mean, layers = axes[0]
    top_k = trace.geometry.top_k
    for ahead, dashes in ((1, "-"), (2, "--"), (3, ":")):
        here = found[found["ahead"] == ahead]
        look: dict[str, Any] = {"color": COLOURS[ahead - 1], "linestyle": dashes}
        look |= {"marker": "os^"[ahead - 1], "label": f"{ahead} layer{'s' * (ahead > 1)} ahead"}
        line = here.groupby("fetched")["recall"].mean()
        mean.plot(line.index, line, **look)
        line = here[here["fetched"] == top_k].set_index("layer")["recall"]
        layers.plot(line.index, line, **look)
    experts = trace.geometry.experts
    mean.plot(
        range(1, experts + 1), np.arange(1, experts + 1) / experts, color="0.45", lw=0.9,
        linestyle=(0, (1, 1.5)), label="random",
    )  # fmt: skip
    mean.set_xlabel("experts fetched for the layer")
    mean.set_ylabel("recall")
    mean.set_title("mean over layers")
    mean.legend()
    layers.set_xlabel("MoE layer that is predicted")
    layers.set_title(f"{top_k} experts fetched")
    layers.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    for axis in (mean, layers):
        axis.set_ylim(0, 1.02)
    text = (
        "Recall: share of the demanded experts that are fetched. Gate lookahead without a cache: "
        "the next layers' routers on this layer's input. The paper shows 1, 2 and 10 layers "
        f"ahead on Mixtral-8x7B without numbers; {ADAPMOE_MEAN} for one was {ADAPMOE_SOURCE}."
    )
    return caption(figure, text, rows)


def replay_order(found: pd.DataFrame, text: str) -> Figure:
    """What per-access replay does to hit rates: `policy`, `slots`, `order`, `hit_rate`."""
    sizes = sorted(set(found["slots"]))
    figure, axes = new(1, len(sizes), (WIDE if len(sizes) > 1 else COLUMN, 2.4))
    orders, names = list(dict.fromkeys(found["order"])), list(dict.fromkeys(found["policy"]))
    for axis, slots in zip(axes[0], sizes, strict=True):
        for number, order in enumerate(orders):
            here = found[(found["slots"] == slots) & (found["order"] == order)]
            here = here.set_index("policy").reindex(names)
            x = np.arange(len(names)) + (number - (len(orders) - 1) / 2) * 0.2
            axis.bar(x, here["hit_rate"], 0.18, color=COLOURS[number], label=order)
        axis.set_xticks(range(len(names)), names)
        axis.set_title(f"{int(slots)} slots")
        axis.grid(visible=False, axis="x")
    axes[0][0].set_ylabel("hit rate (resident / demanded)")
    top = 1.3 * max(axis.get_ylim()[1] for axis in axes[0])
    for axis in axes[0]:
        axis.set_ylim(0, top)
    axes[0][0].legend(ncols=2, loc="upper left")
    return caption(figure, text)
