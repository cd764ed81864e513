"""The values that every part of moex exchanges. Standard library only.

They are named tuples, not dataclasses, because replay makes millions of them and hashing `Expert`
is its inner loop.
"""

from __future__ import annotations

from bisect import bisect_right
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PREFILL = "prefill"
DECODE = "decode"

DEEPEST = 3
"""Layers ahead that experts are predicted for, at most."""

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Of a model's weights; `auto` is as the checkpoint says."""
LARGEST = 10**15
"""Of any number of a geometry: bytes of all experts are still exact in a float."""
MOST_EXPERTS = 10**6
"""Of all layers: some thirty times those of the largest models."""


class Expert(NamedTuple):
    """The name of one expert: MoE layer (counted from 0, dense layers skipped) and index in it."""

    layer: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a name


class Geometry(NamedTuple):
    """A model as far as caching cares.

    `layers` counts MoE layers, `hidden` and `intermediate` are the expert's two widths, and
    `expert_bytes` is what one whole expert occupies as it is stored and moved.
    """

    layers: int
    experts: int
    top_k: int
    hidden: int
    intermediate: int
    expert_bytes: int

    def check(self, where: str) -> None:
        """Refuse numbers that no model has; widths of 0 are not known.

        Args:
            where: what has these numbers, for the message.

        Raises:
            ValueError: one that is not a whole number, or out of range.
        """
        known = {"hidden": 0, "intermediate": 0}
        for name, given in self._asdict().items():
            low, most = known.get(name, 1), self.experts if name == "top_k" else LARGEST
            if type(given) is not int or not low <= given <= most:
                upper = f"{most}, the experts of a layer" if name == "top_k" else str(most)
                raise ValueError(
                    f"{where}: {name}={given}; expected a whole number {low} to {upper}"
                )
        if self.layers * self.experts > MOST_EXPERTS:
            raise ValueError(
                f"{where}: layers={self.layers} experts={self.experts}; expected at most "
                f"{MOST_EXPERTS} experts in all"
            )

    def size(self, rows: bytes | None = None) -> int:
        """Bytes of some rows of an expert (a bitmap as in `Load`); of all of it without one."""
        if rows is None:
            return self.expert_bytes
        count = int.from_bytes(rows, "little").bit_count()
        return count * self.expert_bytes // self.intermediate

    @property
    def all_bytes(self) -> int:
        """Bytes of all experts of all layers."""
        return self.layers * self.experts * self.expert_bytes

    @property
    def token_bytes(self) -> int:
        """Bytes of the experts that one token demands."""
        return self.layers * self.top_k * self.expert_bytes


class Access(NamedTuple):
    """One visit of one MoE layer: the event that caches are replayed on.

    `clock` counts visits, `position` is the index of the pass's first token in its sequence,
    `experts` are the distinct demanded indices in top-k order, and `scores` is the whole router
    row (softmax, summed over the visit's tokens) or empty where it is not known.
    """

    clock: int
    position: int
    layer: int
    phase: str
    experts: tuple[int, ...]
    scores: tuple[float, ...] = ()


class Now(NamedTuple):
    """The only time a policy may look at."""

    clock: int
    position: int
    layer: int
    phase: str


class Load(NamedTuple):
    """One transfer of an expert into a place.

    `rows` is a bitmap of neurons, lowest bit first (numpy's `bitorder="little"`); None is the whole
    expert.
    """

    expert: Expert
    slot: int
    rows: bytes | None = None
    speculative: bool = False


class Eviction(NamedTuple):
    """An expert that left, and the place that it held; `rows` as in `Load`, of what was wasted."""

    expert: Expert
    slot: int
    rows: bytes | None = None


class Plan(NamedTuple):
    """What one wave of a visit needs; `last` marks the visit's last wave.

    `hits` are demanded experts that need no load, `places` where they are; those of them that a
    speculative load brought and that are demanded for the first time stand in `guessed` too.
    `dropped` are guesses that left the books without having been used.

    With a neuron selector, `fills` load rows that an expert's place lacks (of a hit; or, in a wave
    of its own, the next part of an expert that is larger than its place), `partial` are the hits
    that lack rows, whichever wave brings them, and `unused` are rows that came early and were not
    selected at the visit that they were predicted for.
    """

    clock: int
    hits: tuple[Expert, ...] = ()
    slots: tuple[int, ...] = ()
    loads: tuple[Load, ...] = ()
    evictions: tuple[Eviction, ...] = ()
    prefetched: tuple[Expert, ...] = ()
    dropped: tuple[Eviction, ...] = ()
    host: tuple[Expert, ...] = ()
    skipped: tuple[Expert, ...] = ()
    last: bool = True
    fills: tuple[Load, ...] = ()
    unused: tuple[Eviction, ...] = ()
    partial: tuple[Expert, ...] = ()

    @property
    def residents(self) -> list[tuple[Expert, int]]:
        """Experts, and their slots, that were there before and miss nothing: computed first."""
        coming = {load.expert for load in self.transfers}
        pairs = zip(self.hits, self.slots, strict=True)
        return [pair for pair in pairs if pair[0] not in self.prefetched and pair[0] not in coming]

    @property
    def arrivals(self) -> list[tuple[Expert, int, bool]]:
        """Experts and slots that are waited for, in order; and whether one that is late is a hit.

        First those that a prefetch brought, then those that this plan loads.
        """
        coming = {load.expert for load in self.transfers}
        early = [
            (expert, self.slots[self.hits.index(expert)], expert not in self.partial)
            for expert in self.prefetched
            if expert not in coming
        ]
        return early + [(load.expert, load.slot, False) for load in self.transfers]

    @property
    def transfers(self) -> tuple[Load, ...]:
        """All that the link has to move."""
        return self.loads + self.fills if self.fills else self.loads


class Prediction(NamedTuple):
    """An expert that a prefetcher expects to be demanded, and how sure it is (higher is surer)."""

    expert: Expert
    score: float
    rows: bytes | None = None


class Future:
    """When each expert will be demanded: the recorded visits, seen from inside a run."""

    def __init__(self, accesses: Iterable[Access]) -> None:
        self._clocks: dict[Expert, list[int]] = {}
        for access in accesses:
            for index in access.experts:
                self._clocks.setdefault(Expert(access.layer, index), []).append(access.clock)

    def next_use(self, expert: Expert, after: int) -> float:
        """Clock of the first visit after clock `after` that demands the expert; inf if none."""
        clocks = self._clocks.get(expert, ())
        position = bisect_right(clocks, after)
        return clocks[position] if position < len(clocks) else inf


class Scope(NamedTuple):
    """What a policy is told when it starts: the pool that it rules and, for oracles, the future."""

    capacity: int
    layers: Sequence[int]
    experts: int
    top_k: int
    seed: int
    future: Future | None = None
