"""Tables made from a trace: what was loaded, who was resident, what lookahead would have named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.trace.format import DEPTHS, Trace
from moex.types import DECODE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from moex.cache.base import CachePolicy


def pattern(trace: Trace, slots: int, layers: Iterable[int], tokens: int) -> pd.DataFrame:
    """Who was chosen and whom LRU had resident: one line a layer, token and expert.

    Columns: `layer`, `token` (decoded tokens, counted from 0), `expert`, `weight` (the router's
    share after renormalization over the chosen; 1 / top-k where the trace has no scores; 0 if not
    chosen), `resident` (before the visit).
    """
    wanted = set(layers)
    cache = ExpertCache(LRU(), trace.geometry, slots)
    seen: dict[int, int] = dict.fromkeys(wanted, 0)
    lines = []
    for access in trace.accesses():
        layer = access.layer
        if layer in wanted and access.phase == DECODE and seen[layer] < tokens:
            held = {expert.index for expert in cache.residents(layer)}
            weights = _weights(access.experts, access.scores)
            lines += [
                (layer, seen[layer], index, weights.get(index, 0.0), index in held)
                for index in range(trace.geometry.experts)
            ]
            seen[layer] += 1
        for _ in cache.request(access):
            pass
        if all(count >= tokens for count in seen.values()):
            break
    return pd.DataFrame(lines, columns=["layer", "token", "expert", "weight", "resident"])


def _weights(chosen: tuple[int, ...], scores: tuple[float, ...]) -> dict[int, float]:
    if not scores:
        return dict.fromkeys(chosen, 1 / len(chosen))
    total = sum(scores[index] for index in chosen)
    return {index: scores[index] / total for index in chosen}


def lookahead_recall(trace: Trace) -> pd.DataFrame:
    """Recall of speculative loading: one line a depth, layer and number of experts fetched.

    Columns: `ahead` (layers), `layer` (that is predicted), `fetched`, `recall` (share of the
    demanded experts among the `fetched` best of the lookahead's scores; decoding only).

    Raises:
        ValueError: the trace holds no lookahead scores.
    """
    if trace.lookahead is None:
        raise ValueError(
            "trace: holds no gate-lookahead scores; record it with: python run.py mode=live"
        )
    geometry = trace.geometry
    experts, layers = geometry.experts, geometry.layers
    used = np.zeros((len(trace), experts), bool)
    used[np.repeat(np.arange(len(trace)), np.diff(trace.offsets)), trace.experts] = True
    scores = trace.lookahead.reshape(len(trace), DEPTHS, experts)
    lines = []
    for ahead in range(1, DEPTHS + 1):
        clocks = np.arange(len(trace) - ahead)
        # The visit that is predicted: so many layers on, of the same token.
        valid = (trace.layer[clocks] + ahead == trace.layer[clocks + ahead]) & ~trace.prefill[
            clocks
        ]
        for layer in range(ahead, layers):
            mine = clocks[valid & (trace.layer[clocks] + ahead == layer)]
            order = np.argsort(-scores[mine, ahead - 1], axis=1, kind="stable")
            right = np.take_along_axis(used[mine + ahead], order, axis=1).cumsum(axis=1)
            recall = (right / used[mine + ahead].sum(axis=1, keepdims=True)).mean(axis=0)
            lines += [(ahead, layer, n + 1, float(recall[n])) for n in range(experts)]
    return pd.DataFrame(lines, columns=["ahead", "layer", "fetched", "recall"])


def sequential(trace: Trace, order: str) -> Trace:
    """Return the trace with every access as a visit of its own: per-access replay.

    That is what a cache simulator for web objects does with a flattened trace: it evicts between
    the experts of one visit, so the result depends on their order: "routed" (top-k first),
    "ascending" (by index) or "random".

    Raises:
        ValueError: another order.
    """
    if order not in ("routed", "ascending", "random"):
        raise ValueError(f"order={order}: expected routed, ascending or random")
    counts = np.diff(trace.offsets)
    visit = np.repeat(np.arange(len(trace)), counts)
    draws = np.random.default_rng(0).random(len(visit))
    keys: dict[str, NDArray[Any]] = {"ascending": trace.experts, "random": draws}
    key = keys.get(order, np.arange(len(visit)))
    columns = {
        name: getattr(trace, name)[visit] for name in ("sequence", "position", "layer", "prefill")
    }
    return replace(
        trace,
        **columns,
        experts=trace.experts[np.lexsort((key, visit))],
        offsets=np.arange(len(visit) + 1),
        scores=None,
        lookahead=None,
        predictions=None,
    )


def hit_rate(trace: Trace, policy: CachePolicy, slots: int) -> float:
    """Share of accesses of a trace that a policy has resident, prompts included."""
    from moex.sim.simulator import simulate

    future = trace.future() if "future" in policy.needs else None
    report = simulate(trace, ExpertCache(policy, trace.geometry, slots, future=future))
    hits = (report.resident_hits or 0) + (report.prefill_resident_hits or 0)
    return hits / max(1, (report.requests or 0) + (report.prefill_requests or 0))
