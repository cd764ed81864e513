"""Measure the disk link; every command prints one JSON line a case.

    python experiments/benchmarks/disk_link/bench.py reads  --out results/disk_link.jsonl
    python experiments/benchmarks/disk_link/bench.py decode --out results/disk_link.jsonl
    python experiments/benchmarks/disk_link/bench.py compare --out results/disk_link.jsonl

`reads` writes 0.3 to 2.1 GB of records for each of `--sizes` into `--folder` (a temporary one on
the disk of the cache otherwise) and takes them away again. `--tiny` only shows that it works.
"""

from __future__ import annotations

import os
import random
import tempfile
from contextlib import ExitStack
from math import comb
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from compare import against_accelerate
from raw import RECORDS, raw_seconds, synthetic

from experiments.harness import arguments, emit
from moex.bench.prompts import Prompts
from moex.bench.workload import generate
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.link.aio import AioLink
from moex.link.disk import DiskLink
from moex.paths import cache_folder
from moex.prefetch.gate import Gate
from moex.prefetch.linear import Linear
from moex.prefetch.mlp import MLP
from moex.prefetch.none import NoPrefetch
from moex.runner.assemble import LoadedModel, Setup, load_model, offload
from moex.store.disk import DiskStore
from moex.store.slots import Slots
from moex.types import DECODE, Expert, Load, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moex.cache.base import CachePolicy
    from moex.link.base import Link
    from moex.prefetch.base import Prefetcher
    from moex.prefetch.scored import ScoredPrefetcher
    from moex.runs.measured import Clocked

SIZES = {
    "bundled": (589_824, 8, 64),
    "qwen3-30b-a3b 4 bits": (2_654_208, 8, 64),
    "mixtral-8x7b 4 bits": (99_090_432, 2, 8),
    "mixtral-8x7b bf16": (352_321_536, 2, 3),
}
"""Bytes of an expert, layers and experts of the synthetic model that holds such records."""

PREFETCHERS: dict[str, type[ScoredPrefetcher]] = {"gate": Gate, "linear": Linear, "mlp": MLP}
CACHES: dict[str, type[CachePolicy]] = {"lru": LRU, "lfu": LFU}

PROMPTS = [
    "The old lighthouse keeper climbed the stairs every evening before sunset.",
    "The captain looked at the sky for a long time without speaking.",
    "Iron is a chemical element and one of the most common metals on earth.",
    "The river rises in the northern hills and flows through three counties.",
]


def lower_end(values: list[float]) -> float:
    """The one-sided 95% lower end of the median, from the order of the values alone."""
    n, rank = len(values), 0
    while sum(comb(n, below) for below in range(rank + 2)) <= 0.05 * 2**n:
        rank += 1
    return sorted(values)[rank]


def summary(ratios: list[float]) -> dict[str, float]:
    """The fields of a row for the ratios of interleaved pairs."""
    return {"ratio": median(ratios), "lower_95": lower_end(ratios), "pairs": len(ratios)}


def made(store: DiskStore, slots: Slots, threads: int) -> Link:
    """The link that moex makes for such a store."""
    return (
        AioLink(store, slots)
        if AioLink.suits(store, slots, None)
        else DiskLink(store, slots, threads)
    )


def link_seconds(
    store: DiskStore, order: list[Expert], threads: int, together: int, slots: Slots
) -> tuple[float, str]:
    """Seconds of demanding experts through the link, `together` a visit, and who read last."""
    link = made(store, slots, threads)
    count = len(slots.tensors)
    started = perf_counter()
    for first in range(0, len(order), together):
        chosen = order[first : first + together]
        loads = [Load(expert, (first + n) % count) for n, expert in enumerate(chosen)]
        link.submit(Plan(first, loads=tuple(loads)))
        for load in loads:
            link.wait(load.slot)
    seconds = perf_counter() - started
    link.close()
    return seconds, link.io or store.io


def reads(folder: Path, pairs: int, sizes: list[str]) -> Iterator[dict]:
    """Demand reads of whole experts through the link against raw direct reads.

    By as many threads, and by one more, because the thread that waits for the link reads, too.
    The kernel reads small records by itself (`io` says `aio`): no reader threads.
    """
    draw = random.Random(0)
    for name in sizes:
        size, layers, experts = SIZES[name]
        with tempfile.TemporaryDirectory(dir=folder, prefix="disk-link-") as scratch:
            store = synthetic(Path(scratch) / "packed", size, layers, experts)
            store.verify()  # checksums are compared once, and that is not what is measured here
            order = [Expert(layer, index) for layer in range(layers) for index in range(experts)]
            slots = Slots(store.layout, RECORDS)
            slots.records.fill_(1)
            for threads in (1, 2):
                for together in (1, 2, 4):
                    ratios, stricter, speeds = [], [], []
                    for _ in range(pairs):
                        draw.shuffle(order)
                        raw = raw_seconds(store, order, threads)
                        through, io = link_seconds(store, order, threads, together, slots)
                        more = raw_seconds(store, order, threads + 1)
                        ratios.append(raw / through)
                        stricter.append(more / through)
                        speeds.append(len(order) * store.layout.bytes / raw)
                    yield {
                        "case": f"{name}, {together} a visit, {threads} threads",
                        "io": io,
                        "raw_bytes_per_s": median(speeds),
                        **summary(ratios),
                        "against_one_more_thread": summary(stricter),
                    }
            store.close()


def decoded(loaded: LoadedModel, workload: Prompts) -> tuple[float, str]:
    """Tokens a second with half the experts and gate lookahead, once warm; and the I/O path."""
    batches = workload.batches(loaded.tokenizer(), "cpu")
    with (offloaded := offload(loaded, Setup(LRU(), Memory(0.5), Gate()))) as model:
        generate(model, batches, workload.new_tokens, offloaded.meter)
        offloaded.meter.reset()
        generate(model, batches, workload.new_tokens, offloaded.meter)
        clock = offloaded.meter.phases[DECODE]
    return clock.tokens / clock.seconds, offloaded.link.io or loaded.store.io


class Side:
    """A model kept open, decoded with again and again; warm.

    Args:
        stack: closes it.
        name: of the model.
        setup: how it is offloaded.
        workload: the prompts.
    """

    def __init__(self, stack: ExitStack, name: str, setup: Setup, workload: Prompts) -> None:
        self.parts = load_model(name, store="disk")
        stack.callback(self.parts.store.close)
        self.parts.store.verify()
        self.batches = workload.batches(self.parts.tokenizer(), "cpu")
        self.offloaded, self._tokens = offload(self.parts, setup), workload.new_tokens
        self._model = stack.enter_context(self.offloaded)
        for prompt in range(len(self.batches)):
            self.decode(prompt)

    def decode(self, prompt: int) -> Clocked:
        """Decode once; what it took."""
        self.offloaded.meter.reset()
        generate(self._model, [self.batches[prompt]], self._tokens, self.offloaded.meter)
        return self.offloaded.meter.phases[DECODE]

    @property
    def absent_bytes(self) -> int:
        """Bytes so far of experts that were not resident when decoding demanded them."""
        counts = self.offloaded.cache_stats.phases[DECODE]
        return (counts.prefetched_hits + counts.demand_misses) * self.parts.layout.bytes


def decode(
    name: str, pairs: int, tokens: int, threads: int, prefetch: Prefetcher, policy: CachePolicy
) -> Iterator[dict]:
    """Half the experts in memory: decoding against min(link, compute) at the measured hit rate.

    Compute is the same model with every expert resident and the same computing threads; the two
    take turns prompt by prompt, because a machine's own speed changes within seconds. Link is
    what raw direct reads by as many threads allow if only experts that were not resident when they
    were demanded crossed it: wasted prefetches do not count in its favour. With
    linux_aio there is no reader thread, but the core that one would have is left free.
    """
    torch.set_num_threads(threads)
    workload = Prompts(name="bench", prompts=PROMPTS, new_tokens=tokens)
    for prefetcher in (NoPrefetch(), prefetch):
        staging = 2 * getattr(prefetcher, "width", 0) or None  # room for more prefetches than usual
        setup = Setup(policy, Memory(0.5, staging=staging), prefetcher)
        rows = []
        with ExitStack() as stack:
            half = Side(stack, name, setup, workload)
            store, geometry = half.parts.store, half.parts.geometry
            assert isinstance(store, DiskStore)
            every = Side(stack, name, Setup(LRU(), Memory(geometry.experts)), workload)
            order = [Expert(n, i) for n in range(geometry.layers) for i in range(geometry.experts)]
            for _ in range(pairs):
                raw_s, before, took, stalled = 0.0, half.absent_bytes, [0.0, 0.0], 0.0
                for prompt in range(len(half.batches)):
                    for number, side in enumerate((half, every)):
                        took[number] += (clock := side.decode(prompt)).seconds
                        stalled += clock.stall_s
                    raw_s += raw_seconds(store, order, 1)
                made = clock.tokens * len(half.batches)
                speed, compute = (made / seconds for seconds in took)
                bandwidth = len(order) * len(half.batches) * half.parts.layout.bytes / raw_s
                link = bandwidth * made / (half.absent_bytes - before)
                rows.append((speed / min(link, compute), speed, compute, link, stalled / took[0]))
            io = half.offloaded.link.io or store.io
        middle = [median(column) for column in zip(*rows, strict=True)]
        yield {
            "case": f"{name}, half the experts, {type(prefetcher).__name__}",
            "io": io,
            "computing_threads": threads,
            "width": getattr(prefetcher, "width", 0),
            "cache": type(policy).__name__,
            "tokens_per_second": middle[1],
            "compute_tokens_per_second": middle[2],
            "link_tokens_per_second": middle[3],
            "stall_share": middle[4],
            **summary([row[0] for row in rows]),
        }


def compare(name: str, pairs: int, new_tokens: int, threads: int, folder: Path) -> Iterator[dict]:
    """Half the experts in memory and the rest on disk, against accelerate with them all on disk."""
    workload = Prompts(name="bench", prompts=PROMPTS, new_tokens=new_tokens)
    loaded = load_model(name, store="disk")
    assert isinstance(loaded.store, DiskStore)
    loaded.store.verify()
    batches, used = workload.batches(loaded.tokenizer(), "cpu"), []

    def mine() -> float:
        torch.set_num_threads(threads)
        speed, io = decoded(loaded, workload)
        used.append(io)
        return speed

    for row in against_accelerate(mine, name, batches, new_tokens, pairs, folder):
        yield {"io": "+".join(sorted(set(used))), "computing_threads": threads, **row}
    loaded.store.close()


def main() -> None:
    """Run one of the commands."""
    cores = len(os.sched_getaffinity(0))
    given = arguments(
        __doc__,
        "reads",
        "decode",
        "compare",
        tiny={"pairs": 2, "new_tokens": 4, "sizes": ["bundled"]},
        out=None,
        folder=cache_folder().expanduser(),
        pairs=9,
        sizes=(list(SIZES), "", list(SIZES)),
        model="tiny",
        new_tokens=64,
        threads=(max(1, cores - 1), "that compute"),
        prefetch=("gate", "for decode", list(PREFETCHERS)),
        cache=("lru", "for decode", list(CACHES)),
        width=(0, "prefetches per layer; 0: top-k"),
    )
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(given.threads)
    run = given.model, given.pairs, given.new_tokens, given.threads
    prefetch, cache = PREFETCHERS[given.prefetch](width=given.width), CACHES[given.cache]()
    rows = {
        "reads": lambda: reads(given.folder, given.pairs, given.sizes),
        "decode": lambda: decode(*run, prefetch, cache),
        "compare": lambda: compare(*run, given.folder),
    }
    for row in rows[given.part]():
        emit({"command": given.part, **row}, given.out)


if __name__ == "__main__":
    main()
