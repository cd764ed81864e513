"""The same accesses through moex and other packages, in one run: CPU seconds, and misses.

    python experiments/benchmarks/replay_speed/peers.py --moe-cache-eval FOLDER \
        --moe-policylang FOLDER [--slots 8]

The first accesses of the recorded gpt-oss-20b routing where it is there (`replay_conformance`),
else a synthetic trace; one warm stream. Three semantics, each with LRU and LFU: whole visits with
a pool a layer (moe-cache-eval); access by access in routed order with a pool a layer
(moe-policylang); access by access in one pool (libCacheSim). moex replays each of them compiled.
Every package is given its own input ready-made; moex converts its trace within the measured time.

FOLDER: a checkout of github.com/shijiuzhang/moe-cache-eval; where moe-policylang and lark were
installed (`pip install --no-deps --target FOLDER moe-policylang lark`). Nothing of either is part
of moex. What is not there is left out, and said.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis.routing import sequential
from experiments.benchmarks.replay_conformance import golden
from experiments.benchmarks.replay_speed.speed import synthetic
from experiments.harness import arguments, table
from moex.cache.array_policy import ArrayPolicy
from moex.cache.core import ExpertCache
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.sim.arrays.run import WORTH_IT
from moex.sim.simulator import simulate
from moex.trace.export import oracle_general

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moex.cache.array_policy import Moment
    from moex.cache.base import CachePolicy
    from moex.trace.format import Trace
    from moex.types import Scope

TIE_SEED = 20260729
"""moe-cache-eval's default."""


class Way(NamedTuple):
    """One package with one policy; `run` replays everything and returns the misses."""

    semantics: str
    policy: str
    package: str
    run: Callable[[], int]


@dataclass
class RandomTies(ArrayPolicy):
    """LRU, or LFU with bypass, with ties as moe-cache-eval breaks them: by fixed random numbers.

    In its LFU a loaded expert competes with the residents at the end of its visit.
    """

    counts: bool = False
    bypass: bool = False

    def state(self, scope: Scope) -> dict[str, Any]:
        """Return no uses, and the rank of every expert among the random numbers."""
        layers = max(scope.layers) + 1
        drawn = np.random.default_rng(TIE_SEED).random(layers * scope.experts)
        first = min(scope.layers) * scope.experts
        rank = [float((drawn < one).sum()) for one in drawn[first : first + scope.size]]
        return {"value": [0.0] * scope.size, "uses": [0.0] * scope.size, "rank": rank} | {
            "counts": [float(self.counts)]
        }

    @staticmethod
    def used(state: Any, expert: int, now: Moment, hit: bool) -> None:
        """Order by uses where they count, then by last visit, then by rank: all in one number."""
        state.uses[expert] += state.counts[0]
        recent = now.clock * 1024.0 + state.rank[expert]
        state.value[expert] = state.uses[expert] * 4294967296.0 + recent

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> float:
        """Return the number."""
        return state.value[expert]


def ours(trace: Trace, policy: CachePolicy, slots: int, pool: str = "layer") -> int:
    """Misses that moex counts; compiled where the trace is long."""
    cache = ExpertCache(policy, trace.geometry, slots, pool)
    report = simulate(trace, cache, compiled=len(trace.experts) >= WORTH_IT)
    return report.requests - report.resident_hits


def event_aware(trace: Trace, slots: int, folder: Path) -> Iterator[Way]:
    """moe-cache-eval: a visit's set at a time, in numpy."""
    sys.path.insert(0, str(folder))
    events = importlib.import_module("moe_controller.events")
    theirs = importlib.import_module("moe_controller.simulation")
    layers, experts = trace.geometry[:2]
    visits, accesses = len(trace), len(trace.experts)
    clock = np.arange(visits) // layers
    given = events.EventTrace(
        root=folder,
        manifest={"model": {"num_layers": layers, "num_experts": experts}},
        request_indices=np.zeros(visits, np.int32),
        scheduler_steps=clock.astype(np.int32),
        forward_cycles=clock.astype(np.int32),
        phases=np.ones(visits, np.uint8),
        layer_ids=trace.layer.astype(np.int16),
        token_counts=np.ones(visits, np.int32),
        offsets=trace.offsets,
        expert_ids=trace.experts.astype(np.int16),
        assignment_counts=np.ones(accesses, np.int32),
        gate_mass=np.ones(accesses, np.float32),
    )
    given.validate()
    settings = {"capacity_blocks": slots * layers, "cache_scope": "per_layer"}
    for name in ("lru", "lfu"):
        yield Way(
            "visits",
            name,
            "moe-cache-eval",
            lambda name=name: theirs.simulate_event_atomic(given, policy=name, **settings).misses,
        )


def hooked(trace: Trace, slots: int, folder: Path) -> Iterator[Way]:
    """moe-policylang: its hook is told every layer's experts; a hook a layer."""
    sys.path.insert(0, str(folder))
    package = importlib.import_module("moe_policylang")
    ir = importlib.import_module("moe_policylang.ir")
    layers, top_k = trace.geometry.layers, trace.geometry.top_k
    rows = trace.experts.reshape(-1, top_k).tolist()

    def run(eviction: Any) -> int:
        cache = ir.CacheIR(slots, eviction, lfu_decay=1.0)
        hooks = [
            package.build_hook(package.compile_policy(ir.PolicyIR(f"layer_{layer}", cache)))
            for layer in range(layers)
        ]
        for clock, experts in enumerate(rows):
            hooks[clock % layers].on_layer(clock % layers, experts)
        return sum(hook.cache.stats.misses for hook in hooks)

    for name in ("lru", "lfu"):
        eviction = ir.EvictionPolicy[name.upper()]
        yield Way("accesses", name, "moe-policylang", lambda which=eviction: run(which))


def flattened(trace: Trace, slots: int, folder: Path) -> Iterator[Way]:
    """libCacheSim: one request an access, from a file."""
    lcs = importlib.import_module("libcachesim")
    path = oracle_general(trace, folder / "trace.oracleGeneral")
    capacity, count = slots * trace.geometry.layers, len(trace.experts)

    def run(kind: Any) -> int:
        given = lcs.ReaderInitParam(ignore_obj_size=True)
        reader = lcs.TraceReader(str(path), lcs.TraceType.ORACLE_GENERAL_TRACE, given)
        return round(kind(capacity).process_trace(reader)[0] * count)

    for name, kind in (("lru", lcs.LRU), ("lfu", lcs.LFU)):
        yield Way("one pool", name, "libCacheSim", lambda kind=kind: run(kind))


def ways(trace: Trace, slots: int, options: Any, folder: Path) -> Iterator[Way]:
    """Everything that is there, moex first in every semantics."""
    single = sequential(trace, "routed")
    for name, whole, part in (
        ("lru", RandomTies(), LRU()),
        ("lfu", RandomTies(counts=True, bypass=True), LFU(perfect=False)),
    ):
        yield Way("visits", name, "moex", lambda policy=whole: ours(trace, policy, slots))
        yield Way("accesses", name, "moex", lambda policy=part: ours(single, policy, slots))
        yield Way("one pool", name, "moex", lambda p=part: ours(single, p, slots, "global"))
    for name, make, place in (
        ("moe-cache-eval", event_aware, options.moe_cache_eval),
        ("moe-policylang", hooked, options.moe_policylang),
        ("libCacheSim", flattened, folder),
    ):
        try:
            if place is None:
                raise ModuleNotFoundError(f"no --{name} FOLDER given")
            yield from make(trace, slots, place)
        except ModuleNotFoundError as error:
            print(f"{name} is left out: {error}")


def main() -> None:
    """Print accesses per CPU second, the ratio to moex, and misses beside moex's."""
    options = arguments(
        __doc__,
        tiny={"accesses": 1920, "repeats": 1},
        moe_cache_eval=(None, "a checkout", Path),
        moe_policylang=(None, "where moe-policylang and lark are installed", Path),
        accesses=1_000_000,
        slots=8,
        repeats=3,
    )
    recorded = golden.folder().is_dir()
    trace = golden.load() if recorded else synthetic(options.accesses)
    passes = options.accesses // (trace.geometry.layers * trace.geometry.top_k)
    trace = trace.select(slice(passes * trace.geometry.layers))
    size = len(trace.experts)
    print(f"{size} accesses, {'gpt-oss-20b' if recorded else 'synthetic'}, {options.slots} slots")
    with tempfile.TemporaryDirectory() as folder:
        given = list(ways(trace, options.slots, options, Path(folder)))
        missed = [way.run() for way in given]  # which compiles
        seconds: list[list[float]] = [[] for _ in given]
        for _ in range(options.repeats):
            for way, taken in zip(given, seconds, strict=True):
                begun = time.process_time()
                way.run()
                taken.append(time.process_time() - begun)
    mine = {way[:2]: number for number, way in enumerate(given) if way.package == "moex"}
    speed = [size / median(taken) for taken in seconds]
    rows = []
    for number, way in sorted(enumerate(given), key=lambda each: each[1][:2]):
        base = mine[way[:2]]
        ratio = None if number == base else speed[base] / speed[number]
        apart = missed[number] - missed[base]
        rows.append([*way[:3], speed[number] / 1e6, ratio, missed[number], f"{apart:+}"])
    table(
        ["semantics", "policy", "package", "M accesses/CPU s", "moex is faster by", "misses",
         "more than moex's"],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
