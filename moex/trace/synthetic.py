"""Synthetic routing traces, for tests and for sharing when prompts are private."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from moex.trace.diagnostics import (
    contamination,
    decoded,
    entropy_bits,
    link,
    overlap,
    usage,
    working_set,
)
from moex.trace.importers.build import build
from moex.trace.writer import write_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from moex.trace.format import Trace
    from moex.types import Geometry


@dataclass(frozen=True)
class Dials:
    """Parameters of a synthetic router.

    Each of a token's k picks in a layer comes from one of three sources: with probability
    `temporal` it is one that the token before used there, with probability `linked` one that the
    token's experts in the layer before point to (those of the same rank), else it is sampled by
    popularity: r ** -skew, where r is the expert's rank. A phase has ranks of its own, mixed with
    those of the whole trace: log r is the mean of both, weighted by `drift`.

    Args:
        skew: Zipf exponent of popularity; 0 is uniform.
        temporal: share of picks kept from the token before.
        linked: share of picks that follow the layer before.
        phases: number of phases of equal length; 0 for one a sequence.
        drift: weight of the phase's own popularity, from 0 (all phases alike) to 1.
        contaminated: share of sequences that begin like the first one.
        shared_tokens: for how many tokens they do.

    Raises:
        ValueError: a share outside [0, 1], or a negative exponent or count.
    """

    skew: float = 0.6
    temporal: float = 0.3
    linked: float = 0.1
    phases: int = 1
    drift: float = 1.0
    contaminated: float = 0.0
    shared_tokens: int = 0

    def __post_init__(self) -> None:
        shares = (self.temporal, self.linked, self.temporal + self.linked)
        if not all(0 <= share <= 1 for share in (*shares, self.drift, self.contaminated)):
            raise ValueError(
                f"synthetic: temporal={self.temporal}, linked={self.linked}, drift={self.drift}, "
                f"contaminated={self.contaminated}: expected shares, the first two of at most 1 "
                "together"
            )
        if min(self.skew, self.phases, self.shared_tokens) < 0:
            raise ValueError(
                f"synthetic: skew={self.skew}, phases={self.phases}, shared_tokens="
                f"{self.shared_tokens}: expected 0 or more of each"
            )


def generate(
    geometry: Geometry, tokens: int, sequences: int = 1, dials: Dials | None = None, seed: int = 0
) -> Trace:
    """Return a trace of `sequences` sequences of `tokens` decoded tokens each."""
    return _Router(geometry, tokens, sequences, dials or Dials(), seed).block(0, sequences)


def write_synthetic(
    path: str | Path,
    geometry: Geometry,
    tokens: int,
    sequences: int,
    dials: Dials | None = None,
    seed: int = 0,
    block: int = 64,
) -> Path:
    """Write a trace that need not fit in memory, `block` sequences at a time; return its path.

    With several blocks the sequences are not those of `generate`, but of the same popularity: every
    block continues the same random numbers.
    """
    router = _Router(geometry, tokens, sequences, dials or Dials(), seed)
    header = {"visits": sequences * tokens * geometry.layers, "provenance": router.provenance}
    return write_chunks(_blocks(router, sequences, block), path, geometry, header)


def _blocks(router: _Router, sequences: int, block: int) -> Iterator[Trace]:
    """Yield a trace in chunks."""
    for begin in range(0, sequences, block):
        yield from router.block(begin, min(sequences, begin + block)).chunks()


class _Router:
    """A synthetic router, which chooses the experts of one block of sequences after the other."""

    def __init__(
        self, geometry: Geometry, tokens: int, sequences: int, dials: Dials, seed: int
    ) -> None:
        self.geometry, self.tokens, self.sequences, self.dials = geometry, tokens, sequences, dials
        self.draw = np.random.default_rng(seed)
        self.provenance = {"synthetic": asdict(dials), "seed": seed}
        layers, experts = geometry.layers, geometry.experts
        self.phases = dials.phases or sequences
        rank = np.log1p(self.draw.random((self.phases + 1, layers, experts)).argsort(axis=2))
        self.log_weight = -dials.skew * (dials.drift * rank[1:] + (1 - dials.drift) * rank[0])
        # An expert points to the one of the same rank, so that links do not flatten popularity.
        order = rank[0].argsort(axis=1)
        self.points_to = np.zeros((layers, experts), np.int64)
        for layer in range(1, layers):
            self.points_to[layer, order[layer]] = order[layer - 1]
        copies = np.arange(sequences) < round(dials.contaminated * (sequences - 1))
        self.copies = np.roll(copies, 1)  # the first sequence is the one that is copied
        self.prefix = np.zeros((dials.shared_tokens, layers, geometry.top_k), np.uint16)

    def block(self, begin: int, end: int) -> Trace:
        """Return the sequences from `begin` to `end`, as a part of the whole trace."""
        (layers, experts, top_k), dials, draw = self.geometry[:3], self.dials, self.draw
        count, tokens, copies = end - begin, self.tokens, self.copies[begin:end]
        used = np.zeros((layers, count, experts), np.bool_)
        ids = np.zeros((count, tokens, layers, top_k), np.uint16)
        for token in range(tokens):
            now = np.arange(begin, end) * tokens + token
            phase = now * self.phases // (self.sequences * tokens)
            for layer in range(layers):
                before = used[layer - 1] if layer else np.zeros_like(used[0])
                pointed = before[:, self.points_to[layer]]
                key = self.log_weight[phase, layer] + draw.gumbel(size=(count, experts))
                picked = _pick(draw, used[layer], pointed, key, top_k, dials, first=token == 0)
                best = _ordered(np.where(picked, key, -np.inf), top_k)
                if token < dials.shared_tokens:
                    if begin == 0:
                        self.prefix[token, layer] = best[0]
                    best[copies] = self.prefix[token, layer]
                    picked[copies] = np.isin(np.arange(experts), self.prefix[token, layer])
                used[layer], ids[:, token, layer] = picked, best
        trace = build(
            ids.reshape(count * tokens, layers, top_k),
            sequence=np.repeat(np.arange(begin, end), tokens),
            position=np.tile(np.arange(tokens), count),
            prefill=np.zeros(count * tokens, np.bool_),
            geometry=self.geometry,
            provenance=self.provenance,
        )
        trace.first = begin * tokens * layers
        return trace


def _pick(
    draw: np.random.Generator,
    before: NDArray[np.bool_],
    pointed: NDArray[np.bool_],
    key: NDArray[np.float64],
    top_k: int,
    dials: Dials,
    first: bool,
) -> NDArray[np.bool_]:
    """Choose k experts for every sequence [sequences, experts] from the three sources."""
    source = draw.random((len(key), top_k))
    kept = np.where(first, 0, (source < dials.temporal).sum(axis=1))
    followed = (source > 1 - dials.linked).sum(axis=1)
    chosen = _take(draw, before, kept)
    chosen |= _take(draw, pointed & ~chosen, followed)
    rest = np.where(chosen, -np.inf, key)
    return chosen | _best(rest, top_k - chosen.sum(axis=1))


def _take(
    draw: np.random.Generator, of: NDArray[np.bool_], count: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return up to `count` members of each row, chosen uniformly at random."""
    return of & _best(np.where(of, draw.random(of.shape), -1.0), count)


def _best(key: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return a mask of the `count` largest of each row."""
    most = max(1, int(np.max(count, initial=1)))
    rising = np.sort(np.partition(-key, most - 1, axis=1)[:, :most], axis=1)
    least = -rising[np.arange(len(key)), np.maximum(count, 1) - 1]
    best: NDArray[np.bool_] = (key >= least[:, None]) & (count > 0)[:, None]
    return best


def _ordered(key: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the indices of the `count` largest of each row, the largest first."""
    best = np.argpartition(-key, count - 1, axis=1)[:, :count]
    falling = np.take_along_axis(-key, best, axis=1).argsort(axis=1)
    order: NDArray[np.int64] = np.take_along_axis(best, falling, axis=1)
    return order


def fit(trace: Trace, rounds: int = 15, seed: int = 0) -> Dials:
    """Return dials whose traces have the diagnostics of this one.

    Four figures (means over layers) are fitted: usage entropy, overlap of neighbouring tokens,
    layer link and working set. Each depends on all dials, so every round generates 40 sequences of
    64 tokens and corrects the dials by the error; the best round is returned. A phase is taken to
    be a sequence. Contamination is taken from repeated prefixes.
    """
    target, geometry = _figures(trace), trace.geometry
    dials = best = Dials(skew=0.8, temporal=0.5 * float(target[1]), phases=0, drift=0.5)
    nearest = np.inf
    for round_ in range(rounds):
        error = target - _figures(generate(geometry, 64, 40, dials, seed + round_))
        if (distance := float(np.abs(error).sum())) < nearest:
            best, nearest = dials, distance
        entropy, kept, linked, spread = (0.6 * error).tolist()
        temporal = min(0.98, max(0.0, dials.temporal + kept))
        dials = replace(
            dials,
            skew=min(6.0, max(0.0, dials.skew - 4 * spread)),
            drift=min(1.0, max(0.0, dials.drift + entropy)),
            temporal=temporal,
            linked=min(0.98 - temporal, max(0.0, dials.linked + linked)),
        )
    repeated, starts = contamination(trace), len(np.unique(trace.sequence))
    if starts < 2 or not repeated:
        return best
    positions = len(trace) / geometry.layers
    shared = round(repeated * positions / (starts - 1))
    return replace(best, contaminated=1.0 if shared else 0.0, shared_tokens=shared)


def _figures(trace: Trace) -> NDArray[np.float64]:
    """Return means over layers: entropy in bits, overlap, link, working set / experts."""
    layers = decoded(trace)
    linked = link(layers, trace.geometry.top_k)
    return np.asarray(
        [
            entropy_bits(usage(layers)).mean(),
            np.nanmean(overlap(layers)),
            linked.mean() if len(linked) else 0.0,
            working_set(layers) / trace.geometry.experts,
        ]
    )
