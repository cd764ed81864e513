"""Replays a recorded routing in a live model, e.g. one with random weights.

The model's own routers are overridden: token t of layer l goes to the experts of the trace's t-th
token there. So caches, links and prefetchers see a real model's routing at any expert size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moex.paths import trace_path
from moex.trace.format import read_trace

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from moex.trace.format import Trace
    from moex.types import Geometry

Rows = list[tuple[float, ...]]


class RoutingReplay:
    """Takes the experts, router row and lookahead rows of every layer visit from a trace.

    Only visits of one token are used, in order, cyclically. A model with more layers than the
    trace cycles through the trace's layers.

    Args:
        trace: recorded on a model with the same number of experts and top-k.
        geometry: the live model's geometry.

    Raises:
        ValueError: the trace has other experts or top-k, or no visits of one token.
    """

    def __init__(self, trace: Trace, geometry: Geometry) -> None:
        theirs = trace.geometry
        if (theirs.experts, theirs.top_k) != (geometry.experts, geometry.top_k):
            raise ValueError(
                f"workload.routing: recorded on {theirs.experts} experts, top-{theirs.top_k}, but "
                f"the model has {geometry.experts}, top-{geometry.top_k}; expected the same; "
                "try workload.routing=null"
            )
        self.experts, self.layers = geometry.experts, theirs.layers
        self._visits: list[list[tuple[tuple[int, ...], Rows]]] = [[] for _ in range(self.layers)]
        for access in trace.accesses():
            if len(access.experts) == geometry.top_k:
                rows = [access.scores, *trace.lookahead_rows(access.clock)]
                self._visits[access.layer].append((access.experts, rows))
        if not all(self._visits):
            raise ValueError(
                "workload.routing: the trace has layers without a visit of one token; expected a "
                "trace of decoding; try workload.routing=null"
            )
        self._next = [0] * geometry.layers
        self._rows: Rows = []

    def reset(self) -> None:
        """Start again at the beginning of the trace."""
        self._next = [0] * len(self._next)

    def route(self, number: int, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The recorded experts [tokens, k] of layer `number`, and equal weights for them."""
        visits, start = self._visits[number % self.layers], self._next[number]
        self._next[number] += len(index)
        chosen = [visits[(start + token) % len(visits)] for token in range(len(index))]
        depth = min(len(self._next) - number, *(len(rows) for _, rows in chosen))
        self._rows = [
            tuple(map(sum, zip(*(rows[ahead] for _, rows in chosen), strict=True)))
            for ahead in range(depth)
        ]
        found = torch.tensor([experts for experts, _ in chosen], device=index.device)
        return found.to(index.dtype), torch.full_like(weights, 1 / weights.shape[1])

    def rows(self, number: int, hidden: Tensor) -> Rows:
        """Router row and lookahead rows of the latest visit, summed over its tokens."""
        return self._rows


def read_routing(path: str | Path, geometry: Geometry) -> RoutingReplay:
    """Read a trace file to replay its routing."""
    return RoutingReplay(read_trace(trace_path(str(path)), "workload.routing"), geometry)
