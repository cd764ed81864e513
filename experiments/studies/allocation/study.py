"""Do slots by layer, fitted on some sequences, save loads on others?

Allocations are fitted with LRU on every second sequence of a trace (one sequence: on its first
half), and shown on the others: loads of decoding, of one total of slots shared out equally, by
marginal gain, by the dynamic program, and of one global pool. The interval is over the shown
sequences, of the ratio to equal slots; `same` is an allocation fitted on the shown ones: the most
that slots by layer can save there.

    python experiments/studies/allocation/study.py FOLDER_OR_FILE [--slots 4 8 16] [--tiny]

A folder holds arrays (`moex.trace.importers.arrays`); a file is a trace; `tiny` is the bundled one.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.paired import paired_ratio
from experiments.harness import arguments, emit, table
from moex.api import read_trace
from moex.cache.lru import LRU as Lru
from moex.sim.allocation import allocate, layer_loads, one_layer
from moex.sim.curves.compiled import LRU
from moex.sim.curves.stack import replayed_loads, visits_of
from moex.trace.importers import arrays
from moex.trace.trace import joined

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.trace.trace import Trace

HEAD = ("slots", "allocation", "fewest", "most", "loads/token", "to equal", "95 % interval")


def halves(trace: Trace) -> tuple[Trace, Trace]:
    """Every second sequence, and the others; of one sequence, its halves."""
    cuts = [0, *trace.sequence_starts().tolist(), len(trace)]
    if len(cuts) == 2:
        middle = len(trace) // trace.geometry.layers // 2 * trace.geometry.layers
        return trace.select(slice(middle)), trace.select(slice(middle, None))
    parts = [trace.select(slice(*span)) for span in pairwise(cuts)]
    return joined(parts[::2]), joined(parts[1::2])


def by_sequence(trace: Trace, loads: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum decoding loads of visits over sequences (of one sequence, over 20 spans of it)."""
    number = np.unique(trace.sequence, return_inverse=True)[1]
    if not number.max():
        number = np.arange(len(trace)) * 20 // len(trace)
    return np.bincount(number, loads * ~trace.prefill)


def shown(trace: Trace, slots: list[int], cold: bool) -> NDArray[np.float64]:
    """Loads of every sequence with slots by layer."""
    total = np.zeros(len(trace), np.int64)
    for layer, count in enumerate(slots):
        mine, alone = trace.layer == layer, one_layer(trace, layer)
        if not count:
            total[mine] = np.diff(alone.offsets)
        else:
            total[mine] = replayed_loads(
                alone, visits_of(alone, "layer", cold), LRU, count, "layer"
            )
    return by_sequence(trace, total)


def main() -> None:
    """Print a row an allocation."""
    given = arguments(
        __doc__,
        tiny={"slots": [3]},
        _trace="tiny",
        slots=[4, 8, 16],
        sequences=(0, "read from the arrays; 0: all"),
        cold=(False, "every sequence starts with an empty cache"),
        out=(None, "append the rows to this file", Path),
    )
    name = given.trace
    folder = Path(name).is_dir()
    trace = arrays.read(name, sequences=given.sequences or None) if folder else read_trace(name)
    fit, show = halves(trace)
    curves, same = (layer_loads(each, Lru(), given.cold) for each in (fit, show))
    layers, tokens = trace.geometry.layers, show.tokens_of(prefill=False)
    rows = []
    for slots in given.slots:
        total = int(slots) * layers
        ways = {how: allocate(how, curves, total) for how in ("equal", "marginal", "dynamic")}
        ways["same"] = allocate("dynamic", same, total)
        found = {how: shown(show, each, given.cold) for how, each in ways.items()}
        whole = visits_of(show, "global", given.cold)
        pooled = replayed_loads(show, whole, LRU, int(slots), "global")
        found["global"] = by_sequence(show, pooled)
        for how, loads in found.items():
            ratio = paired_ratio(np.maximum(loads, 1), np.maximum(found["equal"], 1))
            each = ways.get(how, [])
            spread = (min(each), max(each)) if each else ("", "")
            about = f"[{ratio.low:.3f}, {ratio.high:.3f}]"
            to_equal = float(loads.sum() / found["equal"].sum())
            rows.append((int(slots), how, *spread, loads.sum() / tokens, to_equal, about))
            if given.out:
                row = dict(zip(HEAD, rows[-1], strict=True))
                emit({"trace": Path(name).name, **row, "sequences": len(loads)}, given.out)
    print(f"{Path(name).name}: fitted on {len(fit)} visits, shown on {len(show)}")
    table(HEAD, rows)


if __name__ == "__main__":
    main()
