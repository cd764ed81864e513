"""Small traces to test with."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from moex.trace.record import TraceRecorder
from moex.types import DECODE, PREFILL, Access, Expert, Geometry

if TYPE_CHECKING:
    from collections.abc import Sequence, Set


def literal(visits, layers=1, experts=8, top_k=2, expert_bytes=100):
    """A trace of visits (layer, experts[, phase[, sequence]])."""
    recorder = TraceRecorder(Geometry(layers, experts, top_k, 4, 4, expert_bytes))
    for clock, visit in enumerate(visits):
        layer, demanded, phase, sequence = (*visit, *(DECODE, 0)[len(visit) - 2 :])
        recorder.add(sequence, Access(clock, clock // layers, layer, phase, tuple(demanded)))
    return recorder.trace({})


def random_trace(seed, layers=2, experts=8, top_k=2, tokens=30, sequences=2, prompt=0):
    """Zipf-like routing with repeats; every sequence may begin with one pass of `prompt` tokens."""
    draw = np.random.default_rng(seed)
    weights = 1 / np.arange(1, experts + 1) ** 0.8
    recorder = TraceRecorder(Geometry(layers, experts, top_k, 4, 4, 100))
    clock = 0
    for sequence in range(sequences):
        before = {}
        for position in range(tokens):
            wide = prompt if position == 0 and prompt else 1
            phase = PREFILL if position == 0 and prompt else DECODE
            for layer in range(layers):
                rank = np.random.default_rng(layer).permutation(experts)
                picked = {}
                for _ in range(wide):
                    order = draw.exponential(size=experts) / weights[rank]
                    picked |= dict.fromkeys(np.argsort(order)[:top_k].tolist())
                if wide == 1 and layer in before and draw.random() < 0.4:
                    picked = dict.fromkeys(before[layer])
                before[layer] = list(picked)[:top_k]
                recorder.add(sequence, Access(clock, position, layer, phase, tuple(picked)))
                clock += 1
    return recorder.trace({})


def visit(clock: int, *experts: int, layer: int = 0) -> Access:
    """A decoding visit, as a cache is asked for it."""
    return Access(clock, clock, layer, DECODE, experts)


def names(*indices: int, layer: int = 0) -> list[Expert]:
    return [Expert(layer, index) for index in indices]


def fewest(visits: Sequence[Set[int]], slots: int, bypass: bool) -> int:
    """Try every choice of who stays after every visit (forced: all members, bypass: anybody)."""
    costs = {frozenset(): 0}
    for demanded in visits:
        after: dict[frozenset[int], int] = {}
        for residents, cost in costs.items():
            cost += len(demanded - residents)
            members = frozenset() if bypass else demanded
            others = (residents | demanded) - members
            room = min(slots - len(members), len(others))
            for kept in combinations(sorted(others), room):
                state = members | frozenset(kept)
                after[state] = min(cost, after.get(state, cost))
        costs = after
    return min(costs.values())
