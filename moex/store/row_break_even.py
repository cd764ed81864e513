"""From which share of an expert's rows on is it faster to move all of it? Measured, by store.

Rows are random: the worst case, for neighbours are read together. A store's share is measured once
on a machine for experts of one shape, when they are packed, and kept in the folder of packed ones.
"""

from __future__ import annotations

import json
import platform
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.variants.row_cache import RowCache
from moex.runs.atomic import exclusive_lock, write_atomically
from moex.store.bundles import Bundles
from moex.store.disk import DiskStore
from moex.store.layout import Planes
from moex.store.packing import Packer
from moex.store.ram import RamStore
from moex.store.row_slots import RowSlots
from moex.store.slots import HUGE, Slots
from moex.types import DECODE, Access, Expert, Geometry, Load, Prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from moex.store.base import ExpertStore

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
KEPT = "break_even.json"
MISSED, NEW_ROWS = 0.4, 0.5
"""With half of the experts resident: the share of demanded experts that LRU must load whole, and of
selected rows that the expert's last token did not leave there (bundled model, rounded)."""
MOST_BYTES = 3 << 29
"""Of experts in each of the two layouts, so that large ones are few."""


class Pair:
    """One kind of store twice, with random experts: neuron by neuron, and whole.

    Args:
        rows: the store of bundles.
        whole: the store of whole experts.
        device: where they are moved to.
    """

    def __init__(self, rows: ExpertStore, whole: ExpertStore, device: str = "cpu") -> None:
        assert isinstance(rows.layout, Bundles)
        assert isinstance(whole.layout, Planes)
        self.name, self.rows, self.whole = rows.name, rows, whole
        self.experts, self.width = rows.geometry.experts, rows.geometry.intermediate
        # Enough slots to lie in huge pages, as those of a run do.
        slots = 1 + HUGE // whole.layout.bytes
        self._thin = RowSlots(rows.layout, self.width, slots, device)
        self._full = Slots(whole.layout, slots, device)
        self._draw = np.random.default_rng(0)

    def whole_s(self, turn: int) -> float:
        """Seconds to move a whole expert, as it is moved without neurons."""
        return _seconds(lambda: self._full.bring(self.whole, self._load(turn, None))())

    def rows_s(self, turn: int, share: float) -> float:
        """Seconds to move a share of the rows; deciding where they go is part of it."""
        mask = np.zeros(self.width, bool)
        mask[self._draw.permutation(self.width)[: max(1, round(share * self.width))]] = True
        bits = np.packbits(mask, bitorder="little").tobytes()
        return _seconds(lambda: self._thin.bring(self.rows, self._load(turn, bits))())

    def all_s(self, turn: int) -> float:
        """Seconds to move all of an expert to a slot for neurons: the fallback."""
        return _seconds(lambda: self._thin.bring(self.rows, self._load(turn, None))())

    def _load(self, turn: int, rows: bytes | None) -> Load:
        return Load(Expert(0, turn % self.experts), 0, rows)


def _seconds(call: Callable[[], None]) -> float:
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else bool
    synchronize()
    started = perf_counter()
    call()
    synchronize()
    return perf_counter() - started


def kept(
    tensors: Mapping[str, tuple[Sequence[int], torch.dtype]],
    store: str,
    folder: Path,
    device: str = "cpu",
) -> float:
    """Return the break-even of experts of these tensors, measured if `folder` has none of them.

    It compares visits, not loads: of whole experts most are resident, rows are loaded for nearly
    every demanded expert.

    Args:
        tensors: name, shape and dtype of an expert's tensors.
        store: "ram" or "disk"; 1 is returned for any other.
        folder: of packed experts.
        device: where experts are moved to.

    Raises:
        ValueError: experts that cannot be kept neuron by neuron.
    """
    layout = Bundles(tensors)
    name = f"{layout.neurons} x {layout.hidden} {layout.dtype} {store} {device} {platform.node()}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / KEPT
    with exclusive_lock(folder, lambda: None):
        known = json.loads(path.read_text()) if path.is_file() else {}
        if name not in known:
            found = pairs(tensors, folder, device, only=store)
            known[name] = min(map(of_pair, found), default=1.0)
            write_atomically(path, json.dumps(known, indent=1) + "\n")
        return float(known[name])


def of_pair(pair: Pair) -> float:
    """Measure the break-even of visits: share / NEW_ROWS of the rows are selected."""
    seconds, width = measure(pair), pair.width
    more_s = _deciding_s(width)
    visits = {
        share / NEW_ROWS: took + more_s for share, took in seconds.items() if share <= NEW_ROWS
    }
    return break_even(visits | {0.0: MISSED * seconds[0.0]}, width)


def _deciding_s(width: int, visits: int = 400) -> float:
    """Seconds that planning by rows takes more than planning whole experts, a demanded expert."""
    geometry, draw = Geometry(1, 8, 2, 1, width, width), np.random.default_rng(0)
    chosen = [tuple(map(int, draw.permutation(8)[:2])) for _ in range(visits + 1)]
    masks = np.packbits(draw.random((visits + 1, 2, width)) < 0.3, axis=-1, bitorder="little")
    rows = [[mask.tobytes() for mask in pair] for pair in masks]
    needs = [[int.from_bytes(each, "little") for each in pair] for pair in rows]
    took = []
    for cache in (ExpertCache(LRU(), geometry, 4), RowCache(LRU(), geometry, 4)):
        rounds = []
        for _ in range(5):
            cache.reset()
            started = perf_counter()
            for clock in range(visits):
                for _ in cache.request(Access(clock, 0, 0, DECODE, chosen[clock]), needs[clock]):
                    named = zip(chosen[clock + 1], rows[clock + 1], strict=True)
                    cache.prefetch([Prediction(Expert(0, e), 1.0, r) for e, r in named], clock)
            rounds.append(perf_counter() - started)
        took.append(min(rounds) / (2 * visits))
    return max(0.0, took[1] - took[0])


def pairs(
    tensors: Mapping[str, tuple[Sequence[int], torch.dtype]],
    folder: str | Path | None = None,
    device: str = "cpu",
    experts: int = 8,
    only: str | None = None,
) -> Iterator[Pair]:
    """Yield the stores of random experts of these tensors, in memory and in files, or one of them.

    Raises:
        ValueError: experts that cannot be kept neuron by neuron.
    """
    layouts: tuple[Bundles, Planes] = Bundles(tensors), Planes(tensors)
    experts = max(2, min(experts, MOST_BYTES // layouts[0].bytes))
    draw = torch.Generator().manual_seed(0)
    made = {
        part.name: torch.randn(part.shape, generator=draw).to(part.dtype)
        for part in layouts[1].parts
    }
    width, hidden = layouts[0].neurons, layouts[0].hidden
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moex-", dir=folder)))
        for kind in ("ram", "disk"):
            if only not in (None, kind):
                continue
            opened: list[ExpertStore] = []
            for layout in layouts:
                geometry = Geometry(1, experts, 1, hidden, width, layout.bytes)
                fill = _in_memory if kind == "ram" else _in_files
                opened.append(fill(layout, geometry, made, work / layout.name))
                stack.callback(opened[-1].close)
            if kind == "disk":
                beside = layouts[0].planes(width)
                opened[0].whole = _in_files(beside, opened[0].geometry, made, work / "beside")
            yield Pair(opened[0], opened[1], device)


def _in_memory(
    layout: Planes | Bundles, geometry: Geometry, made: dict[str, torch.Tensor], _: Path
) -> RamStore:
    store = RamStore(layout, geometry)
    for index in range(geometry.experts):
        store.put(Expert(0, index), made)
    return store


def _in_files(
    layout: Planes | Bundles, geometry: Geometry, made: dict[str, torch.Tensor], folder: Path
) -> DiskStore:
    with Packer(folder, layout, geometry, {}) as packer:
        for index in range(geometry.experts):
            packer.put(Expert(0, index), made)
    store = DiskStore(folder, layout, geometry)
    store.verify()  # checksums are compared at the first reading: not while timing
    return store


def measure(pair: Pair, repeats: int = 9, shares: Sequence[float] = SHARES) -> dict[float, float]:
    """Median seconds by share of rows, in turns; at 0.0 those of a whole expert."""
    times: dict[float, list[float]] = {share: [] for share in (0.0, *shares)}
    for turn in range(repeats + 1):
        for number, share in enumerate(times):
            expert = turn * len(times) + number
            took = pair.rows_s(expert, share) if share else pair.whole_s(expert)
            if turn:  # the first is warmth
                times[share].append(took)
    return {share: median(seconds) for share, seconds in times.items()}


def break_even(seconds: dict[float, float], width: int) -> float:
    """The share up to which moving rows saves most over moving whole experts, summed over shares.

    So one disturbed measurement decides nothing. Between the last share that is and the first that
    is not on the straight line; at least one row of `width`, which moves every expert whole.
    """
    shares, whole = sorted(share for share in seconds if share), seconds[0.0]
    saved = np.cumsum([0.0, *(whole - seconds[share] for share in shares)])
    count = int(saved.argmax())
    if count in (0, len(shares)):
        return 1.0 if count else 1 / width
    below, above = shares[count - 1], shares[count]
    before, after = seconds[below], seconds[above]
    return below + (above - below) * (whole - before) / (after - before)
