"""How many slots each layer gets: a total shared out by the miss-ratio curves of a trace."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import numpy as np

from moex.sim.curves.policies import policy_curve
from moex.trace.trace import OPTIONAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.cache.base import CachePolicy
    from moex.trace.trace import Trace
    from moex.types import Geometry


def allocate(how: str, loads: NDArray[np.int64], total: int) -> list[int]:
    """Return the slots of every layer.

    Args:
        how: "equal", "marginal" (each slot in turn to the layer that it saves most loads) or
            "dynamic" (the fewest loads in all).
        loads: of every layer at every number of slots (`layer_loads`).
        total: slots of all layers together.
    """
    layers, sizes = loads.shape
    total = min(total, layers * (sizes - 1))
    if how == "equal":
        return [total // layers + (layer < total % layers) for layer in range(layers)]
    return (marginal if how == "marginal" else dynamic)(loads, total)


def marginal(loads: NDArray[np.int64], total: int) -> list[int]:
    """Give each slot in turn to the layer whose loads it lowers most; ties: the first layer."""
    layers, sizes = loads.shape
    slots, gains = np.zeros(layers, np.int64), loads[:, 0] - loads[:, 1]
    for _ in range(total):
        layer = int(gains.argmax())
        slots[layer] += 1
        at = slots[layer]
        full = at == sizes - 1
        gains[layer] = -1 if full else loads[layer, at] - loads[layer, at + 1]
    return [int(each) for each in slots]


def dynamic(loads: NDArray[np.int64], total: int) -> list[int]:
    """Return the allocation of fewest loads: the dynamic program of AdapMoE (arXiv 2408.10284).

    `F[i][j] = min over k of F[i - 1][j - k] + loads[i][k]`: the fewest loads of the first layers
    with j slots together. Where it ties, the last layers get fewer slots.
    """
    layers, sizes = loads.shape
    never = np.iinfo(np.int64).max // 2
    fewest = np.full(total + 1, never, np.int64)
    fewest[0] = 0
    chosen = np.zeros((layers, total + 1), np.int64)
    for layer in range(layers):
        best = np.full(total + 1, never, np.int64)
        for given in range(min(sizes - 1, total) + 1):
            here = fewest[: total + 1 - given] + loads[layer, given]
            better = here < best[given:]
            best[given:][better] = here[better]
            chosen[layer, given:][better] = given
        fewest = best
    slots, left = [0] * layers, total
    for layer in reversed(range(layers)):
        slots[layer] = int(chosen[layer, left])
        left -= slots[layer]
    return slots


def expected(loads: NDArray[np.int64], slots: list[int]) -> int:
    """Return the loads of an allocation on the trace that the curves were made from."""
    return int(sum(row[count] for row, count in zip(loads, slots, strict=True)))


def layer_loads(
    trace: Trace, policy: CachePolicy, cold: bool = False, seed: int = 0
) -> NDArray[np.int64]:
    """Return the decoding loads of every layer with 0, 1, ... slots [layers, experts + 1]."""
    sizes, rows = range(1, trace.geometry.experts + 1), []
    for layer in range(trace.geometry.layers):
        curve = policy_curve(one_layer(trace, layer), policy, sizes, cold=cold, seed=seed)
        rows.append([curve.requests, *curve.misses.tolist()])
    return np.array(rows, np.int64)


def one_layer(trace: Trace, layer: int) -> Trace:
    """Return the visits of one layer, as a trace of a model that has no other."""
    visits = np.flatnonzero(trace.layer == layer)
    part, counts = copy(trace), np.diff(trace.offsets)
    part.geometry = trace.geometry._replace(layers=1)
    for name in ("sequence", "position", "prefill", "tokens", "scores"):
        if (column := getattr(trace, name)) is not None:
            setattr(part, name, column[visits])
    for name in set(OPTIONAL) - {"scores"}:
        setattr(part, name, None)
    part.layer = np.zeros(len(visits), trace.layer.dtype)
    part.experts = trace.experts[np.repeat(trace.layer == layer, counts)]
    part.offsets = np.append(0, np.cumsum(counts[visits]))
    resets = np.searchsorted(visits + trace.first, trace.resets)
    part.resets, part.first = tuple(resets[resets < len(visits)].tolist()), 0
    return part


def refuse_other(trace: Trace, geometry: Geometry) -> None:
    """Refuse to allocate slots of a model by the trace of another.

    Raises:
        ValueError: layers, experts or top-k differ.
    """
    ours, theirs = (
        f"{each.layers} layers x {each.experts} experts, top-{each.top_k}"
        for each in (geometry, trace.geometry)
    )
    if ours != theirs:
        raise ValueError(
            f"memory.allocate: the trace is of {theirs}, the model has {ours}; expected a trace of "
            "this model; try trace=results/RUN_ID/trace.parquet of a mode=live run, or "
            "memory.allocate=null"
        )
