"""Diagnostics of a trace: the figures that decide whether caching can work on it.

All of them are of decoded tokens, except `contamination`, which is of whole sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from moex.trace.format import Trace
    from moex.trace.stream import TraceStream

WINDOW = 32
"""Window of the working set, in tokens."""


@dataclass(frozen=True)
class Diagnostics:
    """Figures of one trace.

    overlap: share of a token's experts that the token before used in that layer [layers].
    usage: share of a layer's picks that went to each expert [layers, experts].
    entropy_bits: of a layer's usage [layers]; at most log2(experts).
    link: how well a layer's experts predict the next layer's, beyond popularity [layers - 1].
    reuse: uses by how many tokens ago the expert was last used in its layer; entry 0: never.
    working_set: mean number of distinct experts of a layer in `WINDOW` consecutive tokens.
    contamination: share of positions in prefixes that repeat an earlier sequence's routing.
    """

    overlap: NDArray[np.float64]
    usage: NDArray[np.float64]
    entropy_bits: NDArray[np.float64]
    link: NDArray[np.float64]
    reuse: NDArray[np.int64]
    working_set: float
    contamination: float


class Decoded(NamedTuple):
    """One layer's decode visits: used experts [visits, experts] and sequence [visits]."""

    used: NDArray[np.bool_]
    sequence: NDArray[np.int32]


def diagnose(trace: Trace) -> Diagnostics:
    """Return all figures of a trace."""
    layers = decoded(trace)
    shares = usage(layers)
    return Diagnostics(
        overlap=overlap(layers),
        usage=shares,
        entropy_bits=entropy_bits(shares),
        link=link(layers, trace.geometry.top_k),
        reuse=reuse_distances(layers),
        working_set=working_set(layers),
        contamination=contamination(trace),
    )


def decoded(trace: Trace) -> list[Decoded]:
    """Return every layer's decode visits."""
    layers = []
    for layer in range(trace.geometry.layers):
        rows = np.flatnonzero((trace.layer == layer) & ~trace.prefill)
        used = np.zeros((len(rows), trace.geometry.experts), np.bool_)
        counts = np.diff(trace.offsets)[rows]
        first = np.repeat(trace.offsets[rows] - np.cumsum(counts) + counts, counts)
        flat = trace.experts[first + np.arange(counts.sum())]
        used[np.repeat(np.arange(len(rows)), counts), flat] = True
        layers.append(Decoded(used, trace.sequence[rows]))
    return layers


def usage(layers: Sequence[Decoded]) -> NDArray[np.float64]:
    """Return the share of a layer's picks that went to each expert [layers, experts]."""
    counts = np.asarray([layer.used.sum(axis=0) for layer in layers], np.float64)
    shares: NDArray[np.float64] = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    return shares


def counts(trace: Trace | TraceStream) -> list[list[int]]:
    """Return uses of every expert, prompts included [layers][experts]: input of cache=static."""
    geometry = trace.geometry
    uses = np.zeros(geometry.layers * geometry.experts, np.int64)
    for chunk in trace.chunks():
        uses += np.bincount(chunk.names(), minlength=len(uses))
    table: list[list[int]] = uses.reshape(geometry.layers, geometry.experts).tolist()
    return table


def entropy_bits(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy of each row of shares, in bits."""
    positive = np.where(shares > 0, shares, 1)
    bits: NDArray[np.float64] = -(positive * np.log2(positive)).sum(axis=1)
    return bits


def overlap(layers: Sequence[Decoded]) -> NDArray[np.float64]:
    """Return the share of a token's experts used by the token before [layers].

    Mean over decoded tokens that have such a token in their sequence; nan where none has.
    """
    means = []
    for used, sequence in layers:
        same = sequence[1:] == sequence[:-1]
        shared = (used[1:] & used[:-1]).sum(axis=1) / used[1:].sum(axis=1)
        means.append(shared[same].mean() if same.any() else np.nan)
    return np.asarray(means)


def link(layers: Sequence[Decoded], top_k: int) -> NDArray[np.float64]:
    """Return how well a layer's experts predict the next layer's, beyond popularity [layers - 1].

    Transition counts of the first half of the tokens predict k experts for each token of the second
    half. From the share that is right, the share that the k most used experts get right is
    subtracted, and the difference is divided by what they get wrong: 0 is no better than
    popularity, 1 is a perfect prediction.
    """
    gains = []
    for layer, following in pairwise(layers):
        half = min(len(layer.used), len(following.used)) // 2
        before, after = layer.used[: 2 * half].astype(np.float32), following.used[: 2 * half]
        counts = before[:half].T @ after[:half].astype(np.float32)
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        scores, wanted = before[half:] @ shares, after[half:]
        predicted = np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k]
        right = np.take_along_axis(wanted, predicted, axis=1).sum() / max(1, wanted.sum())
        popular = np.argsort(-after[:half].sum(axis=0))[:top_k]
        base = wanted[:, popular].sum() / max(1, wanted.sum())
        gains.append((right - base) / (1 - base) if base < 1 else 0.0)
    return np.asarray(gains)


def working_set(layers: Sequence[Decoded]) -> float:
    """Return the mean number of distinct experts of a layer in `WINDOW` consecutive tokens."""
    sizes = []
    for used, _ in layers:
        covered = len(used) // WINDOW * WINDOW
        if covered:
            windows = used[:covered].reshape(-1, WINDOW, used.shape[1])
            sizes.append(windows.any(axis=1).sum(axis=1).mean())
    return float(np.mean(sizes)) if sizes else float("nan")


def reuse_distances(layers: Sequence[Decoded]) -> NDArray[np.int64]:
    """Return a histogram of how many tokens ago an expert was last used in its layer.

    Entry d counts uses whose last use was d decode visits of that layer before (1: the token
    before), whichever sequence that was in; entry 0 counts first uses.
    """
    distances = []
    for used, _ in layers:
        expert, visit = np.nonzero(used.T)
        gap = np.diff(visit, prepend=0)
        gap[np.diff(expert, prepend=-1) != 0] = 0
        distances.append(gap)
    return np.bincount(np.concatenate(distances))


def contamination(trace: Trace) -> float:
    """Return the share of token positions whose prefix is routed like an earlier sequence's.

    A prompt template shared by many prompts makes identical prefixes, whose hits are not a property
    of the routing; far above 0, use another workload or an empty cache for every sequence.
    """
    if not len(trace):
        return 0.0
    new_pass = np.ones(len(trace), np.bool_)
    new_pass[1:] = np.diff(trace.layer.astype(np.int64)) <= 0
    new_pass[1:] |= trace.sequence[1:] != trace.sequence[:-1]
    starts = np.flatnonzero(new_pass)
    cuts = np.append(trace.offsets[starts], trace.offsets[-1]).tolist()
    picks, sequences = trace.experts.tobytes(), trace.sequence[starts].tolist()
    width = trace.experts.itemsize
    seen: set[int] = set()
    repeated, before, prefix = 0, None, 0
    for number, sequence in enumerate(sequences):
        if sequence != before:
            before, prefix = sequence, 0
        prefix = hash((prefix, picks[cuts[number] * width : cuts[number + 1] * width]))
        repeated += prefix in seen
        seen.add(prefix)
    return repeated / len(starts)
