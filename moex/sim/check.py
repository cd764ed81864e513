"""Checks that a trace has what a replay of it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.prefetch.base import check_forecast
from moex.trace.trace import Trace

if TYPE_CHECKING:
    from moex.cache.core import ExpertCache
    from moex.prefetch.base import Prefetcher
    from moex.routing.base import RoutingPolicy
    from moex.trace.stream import TraceStream

RECORDED = frozenset({"lookahead", "future", "recorded"})
"""The needs of a prefetcher that a trace can provide."""


def check(
    trace: Trace | TraceStream,
    cache: ExpertCache,
    prefetcher: Prefetcher,
    routing: RoutingPolicy | None = None,
) -> None:
    """Check that the trace can be replayed with this cache and prefetcher.

    Raises:
        ValueError: the trace is empty, of another geometry, or lacks what the replay needs.
    """
    check_forecast(cache.prototype, prefetcher)
    if not len(trace):
        raise ValueError("trace: holds no visit; expected at least one")
    ours, theirs = cache.geometry, trace.geometry
    if (ours.layers, ours.experts, ours.top_k) != (theirs.layers, theirs.experts, theirs.top_k):
        raise ValueError(
            f"trace: recorded on {theirs.layers} layers x {theirs.experts} experts, top-"
            f"{theirs.top_k}, but the cache is for {ours.layers} x {ours.experts}, top-{ours.top_k}"
        )
    if "lookahead" in prefetcher.needs and not trace.has("lookahead"):
        raise ValueError(
            f"trace: holds no gate-lookahead scores, which {type(prefetcher).__name__} needs; "
            "record it with: python run.py mode=live (any prefetcher), or try prefetch=none"
        )
    if "recorded" in prefetcher.needs and not trace.has("predictions"):
        raise ValueError(
            f"trace: holds no predictions, which {type(prefetcher).__name__} replays; "
            "record them with: python run.py mode=live prefetch=gate (or any other), or try "
            "prefetch=none"
        )
    if "future" in prefetcher.needs and not isinstance(trace, Trace):
        raise ValueError(
            f"trace: is too large for memory and read as a stream, but {type(prefetcher).__name__} "
            "needs all of it; expected a shorter trace, or another prefetcher; try prefetch=none"
        )
    lacking = prefetcher.needs - RECORDED
    if lacking:
        raise ValueError(
            f"trace: holds no {', '.join(sorted(lacking))}, which {type(prefetcher).__name__} "
            "needs; replay a run made with it using prefetch=recorded, or try prefetch=none"
        )
    if routing is not None:
        routing.refuse_scores(bool(trace.provenance.get("raw_logits", True)))
    if routing is not None and not trace.has("router"):
        raise ValueError(
            f"trace: holds no router rows, which {type(routing).__name__} chooses from; record it "
            "with: python run.py mode=live routing=cache_prior routing.strength=0 (routes as the "
            "model does), or try routing=none"
        )
    if cache.selects and not trace.has("rows"):
        raise ValueError(
            "trace: holds no selected rows; record it with: mode=live sparsity=oracle "
            "(or another selector), or to replay whole experts try sparsity=none"
        )
