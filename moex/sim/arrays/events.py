"""A trace as a compiled replay reads it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.sim.arrays.replay import RESET, RESTART, Events

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from moex.trace.format import Trace


def events(
    trace: Trace,
    cold: bool = False,
    future: bool = False,
    predictions: tuple[NDArray[Any], NDArray[Any]] | None = None,
    before: int | None = None,
) -> Events:
    """Return a trace as a compiled replay reads it.

    Args:
        trace: the recorded routing.
        cold: whether every sequence starts with an empty cache.
        future: whether the policy is told when experts are used next.
        predictions: offsets [visits + 1] and experts (`layer * experts + index`) of what is
            predicted in every visit.
        before: the sequence of the visit before the first one; None: there is none.
    """
    visits, names = len(trace), trace.names()
    fresh = np.zeros(visits, np.int8)
    fresh[[reset - trace.first for reset in trace.resets]] |= RESET
    if cold:
        earlier = trace.sequence[0] if before is None else before
        changed = np.diff(trace.sequence, prepend=earlier) != 0
        fresh |= RESTART * changed.astype(np.int8)
    next_use = np.zeros(len(names) if future else 0)
    if future:
        after = np.full(trace.geometry.layers * trace.geometry.experts, np.inf)
        _compiled()(trace.offsets, names, after, next_use)
    ones = np.ones(visits, np.int32)
    none = np.zeros(0, np.int64)
    offsets, predicted = predictions or (none, none)
    return Events(
        trace.first,
        trace.layer.astype(np.int64),
        trace.position.astype(np.int64),
        trace.prefill.astype(np.bool_),
        ones if trace.tokens is None else trace.tokens.astype(np.int32),
        fresh,
        np.ascontiguousarray(trace.offsets, np.int64),
        names,
        next_use,
        np.ascontiguousarray(offsets, np.int64),
        np.ascontiguousarray(predicted, np.int64),
    )


def _next_uses(offsets: Any, names: Any, after: Any, found: Any) -> None:
    """Fill `found` with the visit in which every access's expert is used next, or infinity."""
    for visit in range(len(offsets) - 2, -1, -1):
        for i in range(offsets[visit], offsets[visit + 1]):
            found[i] = after[names[i]]
            after[names[i]] = visit


@cache
def _compiled() -> Callable[..., None]:
    import numba

    compiled: Callable[..., None] = numba.njit(_next_uses, cache=True)
    return compiled
