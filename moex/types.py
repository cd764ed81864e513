"""The values that all parts of moex exchange. Standard library only.

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
"""Most layers ahead that experts are predicted for."""

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Data types of a model's weights; `auto` takes the checkpoint's."""
LARGEST = 10**15
"""Largest value of a geometry's field: the bytes of all experts are still exact in a float."""
MOST_EXPERTS = 10**6
"""Most experts of all layers together: about thirty times those of the largest models."""


class Expert(NamedTuple):
    """Identifies one expert: MoE layer (counted from 0, dense layers skipped) and index in it."""

    layer: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which is never called on an Expert


class Geometry(NamedTuple):
    """The dimensions of a model that matter for caching.

    `layers` counts MoE layers, `hidden` and `intermediate` are the expert's two widths, and
    `expert_bytes` is the size of one whole expert as it is stored and moved.
    """

    layers: int
    experts: int
    top_k: int
    hidden: int
    intermediate: int
    expert_bytes: int

    def check(self, where: str) -> None:
        """Raise an error if a field has a value that no model has; a width of 0 means unknown.

        Args:
            where: what the geometry belongs to, for the message.

        Raises:
            ValueError: a field is not a whole number, or out of range.
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

    def size(self, rows: bytes | None = None, span: tuple[int, int] | None = None) -> int:
        """Return the bytes of what is moved of an expert: `rows` or `span` as in `Load`."""
        if span is not None:
            return span[1] - span[0]
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
    `experts` are the distinct demanded indices in top-k order, and `scores` is the full router row
    (softmax, summed over the visit's tokens), empty if it is unknown.
    """

    clock: int
    position: int
    layer: int
    phase: str
    experts: tuple[int, ...]
    scores: tuple[float, ...] = ()


class Now(NamedTuple):
    """The logical time of a decision; a policy may use no other time."""

    clock: int
    position: int
    layer: int
    phase: str


class Load(NamedTuple):
    """One transfer of an expert into a slot; the whole expert if `rows` and `span` are None.

    `rows` is a bitmap of neurons, lowest bit first (numpy's `bitorder="little"`), `span` a slice of
    the record: its first byte, and the one after its last.
    """

    expert: Expert
    slot: int
    rows: bytes | None = None
    speculative: bool = False
    span: tuple[int, int] | None = None


class Eviction(NamedTuple):
    """An evicted or dropped expert and its slot; `rows` or `span` (as in `Load`) were unused."""

    expert: Expert
    slot: int
    rows: bytes | None = None
    span: tuple[int, int] | None = None


class Source(NamedTuple):
    """Where a load comes from, with a host tier: from one of its slots (`hit`), else the disk.

    `slot` is the host slot that holds the expert, or that the load fills on its way; -1: none.
    """

    hit: bool
    slot: int


class Demotion(NamedTuple):
    """An expert that moves from a slot of the device to one of the host tier."""

    expert: Expert
    slot: int
    host_slot: int


class Plan(NamedTuple):
    """What one wave of a visit loads, evicts and computes; `last` marks the visit's last wave.

    `hits` are demanded experts that need no load, `slots` are the slots that hold them. Hits that a
    prefetch loaded and that are demanded for the first time are in `prefetched`, too. `dropped` are
    prefetches that were discarded without having been used.

    With a neuron selector, `fills` load rows that an expert's slot lacks (of a hit; or, in a wave
    of its own, the next part of an expert that is larger than its slot), `partial` are the hits
    that lack rows, whichever wave loads them, and `unused` are prefetched rows that were not
    selected at the visit that they were predicted for. `computed` has the rows of every expert that
    are computed in this wave, and `held`, for each of the `transfers` to thin slots, the rows that
    are in the slot once it has arrived: bitmaps, as integers (bit j is neuron j).

    With slices, `fills` load low ones to slots of their own, for which `partial` hits wait. `low`
    has the experts that are computed whole, with those slots; `wanted` counts the bytes asked for.
    With a host tier, `sources` has where each of the `loads` comes from, and `demoted` are copied
    to the host tier before the plan's loads begin.
    `deferred` are experts of the last `loads` that the next visit computes; `due` those, and their
    slots, that the visit before deferred to this one.
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
    computed: tuple[tuple[Expert, int], ...] = ()
    held: tuple[int, ...] = ()
    low: tuple[tuple[Expert, int], ...] = ()
    wanted: int = 0
    sources: tuple[Source, ...] = ()
    demoted: tuple[Demotion, ...] = ()
    deferred: tuple[Expert, ...] = ()
    due: tuple[tuple[Expert, int], ...] = ()

    @property
    def residents(self) -> list[tuple[Expert, int]]:
        """Experts, and their slots, that were there before and miss nothing: computed first."""
        pairs = zip(self.hits, self.slots, strict=True)
        if not (self.prefetched or self.loads or self.fills):
            return list(pairs)
        coming = {load.expert for load in self.transfers}
        return [pair for pair in pairs if pair[0] not in self.prefetched and pair[0] not in coming]

    @property
    def arrivals(self) -> list[tuple[Expert, int, bool]]:
        """Experts and slots that are waited for, in order; and whether one that is late is a hit.

        First those that a prefetch brought, then those that this plan loads.
        """
        if not (self.prefetched or self.loads or self.fills):
            return []
        coming = dict.fromkeys(load.expert for load in self.transfers)
        early = [
            (expert, self.slots[self.hits.index(expert)], expert not in self.partial)
            for expert in self.prefetched
            if expert not in coming
        ]
        arriving = self.transfers[: -len(self.deferred)] if self.deferred else self.transfers
        if not self.low:
            return early + [(load.expert, load.slot, False) for load in arriving]
        slots = dict(zip(self.hits, self.slots, strict=True))
        slots |= {load.expert: load.slot for load in self.loads}
        return early + [(expert, slots[expert], False) for expert in coming]  # slices together

    @property
    def transfers(self) -> tuple[Load, ...]:
        """All loads that cross the link in this wave."""
        return self.loads + self.fills if self.fills else self.loads

    @property
    def stale(self) -> list[int]:
        """Slots whose earlier loads are not needed any more: what has not begun is never sent."""
        return [gone.slot for gone in self.dropped] + [load.slot for load in self.loads]


class Prediction(NamedTuple):
    """An expert that a prefetcher predicts to be demanded; a higher score is more certain."""

    expert: Expert
    score: float
    rows: bytes | None = None


class Future:
    """When each expert will be demanded, taken from the recorded visits of the same run."""

    def __init__(self, accesses: Iterable[Access]) -> None:
        self._clocks: dict[Expert, list[int]] = {}
        for access in accesses:
            for index in access.experts:
                self._clocks.setdefault(Expert(access.layer, index), []).append(access.clock)

    def next_use(self, expert: Expert, after: int) -> float:
        """Return the clock of the first visit after `after` that demands the expert, or inf."""
        clocks = self._clocks.get(expert, ())
        position = bisect_right(clocks, after)
        return clocks[position] if position < len(clocks) else inf


class Scope(NamedTuple):
    """What a policy gets when it starts: its pool of slots and, for oracles, the future."""

    capacity: int
    layers: Sequence[int]
    experts: int
    top_k: int
    seed: int
    future: Future | None = None

    @property
    def size(self) -> int:
        """Number of experts of the pool's layers."""
        return len(self.layers) * self.experts
