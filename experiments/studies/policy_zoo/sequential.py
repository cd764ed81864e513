"""What per-access replay does to hit rates, beside the event-atomic replay that moex does.

    python experiments/studies/policy_zoo/sequential.py [TRACE] [--tiny]

Prints a table and writes sequential.png beside this file (--tiny: neither more than a glance).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.patterns import replay_order
from analysis.routing import hit_rate, sequential
from analysis.style import styled
from experiments.harness import arguments
from moex.api import read_trace
from moex.cache.belady import Belady
from moex.cache.fifo import FIFO
from moex.cache.lfru import LFRU
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.static import Static

POLICIES = {"lru": LRU, "lfru": LFRU, "lfu": LFU, "fifo": FIFO, "static": Static, "belady": Belady}
ORDERS = ("routed", "ascending", "random")


def measure(name: str, tiny: bool = False) -> pd.DataFrame:
    """Hit rates by policy, slots and order of replay."""
    trace = read_trace(name)
    if tiny:
        trace = trace.select(slice(300))
    traces = {"event-atomic": trace}
    traces |= {f"per access, {order}": sequential(trace, order) for order in ORDERS}
    lines = [
        (policy, slots, order, hit_rate(replayed, make(), slots))
        for slots in (trace.geometry.top_k, 2 * trace.geometry.top_k)
        for policy, make in POLICIES.items()
        for order, replayed in traces.items()
    ]
    return pd.DataFrame(lines, columns=["policy", "slots", "order", "hit_rate"])


def main() -> None:
    """Print the table, draw the figure."""
    given = arguments(__doc__, _trace="tiny")
    found = measure(given.trace, given.tiny)
    table = found.pivot(index=["slots", "policy"], columns="order", values="hit_rate")
    print(table[list(dict.fromkeys(found["order"]))].round(3).to_string())
    if given.tiny:
        return
    text = (
        f"Hit rate of one trace ({given.trace}), replayed visit by visit and access by access; the "
        "order is that of the experts within a visit. Simulated."
    )
    with styled():
        figure = replay_order(found, text)
        figure.savefig(Path(__file__).with_name("sequential.png"), metadata={"Software": None})


if __name__ == "__main__":
    main()
