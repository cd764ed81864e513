"""Fetch, compute on the host, or both: which is faster at which ratio of link and host?

    python experiments/studies/host_compute/bench.py simulate --out results/host_compute.jsonl
    python experiments/studies/host_compute/bench.py live --out results/host_compute_live.jsonl

One JSON line a case. `simulate` replays the bundled trace on modelled machines; `live` runs the
bundled model behind an emulated link beside an emulated host. `hybrid`'s constant `worth_s` is
calibrated by replay on the first half of the bundled trace; all that is reported is of the other
half, or of a live run. `--tiny` is a smoke test of both.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from experiments.harness import arguments, emit
from moex.api import read_trace
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.hardware.profile import HardwareProfile
from moex.miss.fetch import Fetch
from moex.miss.host import Host
from moex.miss.hybrid import Hybrid
from moex.paths import trace_path
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.sim.simulator import simulate
from moex.sim.worth import calibrate_worth

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moex.miss.base import MissHandler
    from moex.prefetch.base import Prefetcher
    from moex.trace.format import Trace

RATIOS = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
"""Seconds of a load over seconds of an expert on the host."""
SLOTS = (2, 4, 6)
PREFETCHERS = {"none": NoPrefetch, "gate": Gate}


def machine(ratio: float, expert_bytes: int, host_s: float, **costs: float) -> HardwareProfile:
    """A machine whose link takes `ratio` times as long for an expert as its host computes it."""
    return HardwareProfile(
        f"load/host {ratio:g}",
        link_bytes_per_s=expert_bytes / (ratio * host_s),
        chunk_bytes=max(1, expert_bytes // 8),
        host_expert_s=host_s,
        **costs,
    )


def handlers(
    trace: Trace, slots: int, profile: HardwareProfile, prefetcher: Prefetcher
) -> dict[str, MissHandler]:
    """The three ways, hybrid calibrated on the trace."""

    def cache(worth_s: float) -> ExpertCache:
        split = Hybrid(worth_s=worth_s).bound(trace.geometry, profile).split
        return ExpertCache(LRU(), trace.geometry, slots, split=split)

    worth_s = next(iter(calibrate_worth(trace, cache, profile, prefetcher)))
    ways = {"fetch": Fetch(), "host": Host(), "hybrid": Hybrid(worth_s=worth_s)}
    return {name: way.bound(trace.geometry, profile) for name, way in ways.items()}


def bar(seconds: dict[str, float]) -> dict[str, Any]:
    """Hybrid beside the better of the two."""
    best = min(seconds["fetch"], seconds["host"])
    return {"hybrid_over_best": seconds["hybrid"] / best, "tpot_s": seconds}


def simulated(tiny: bool) -> Iterator[dict[str, Any]]:
    """Replay the second half of the bundled trace on machines of every ratio."""
    trace = read_trace(trace_path("tiny"))
    half = len(trace) // 2
    first, second = trace.select(slice(0, half)), trace.select(slice(half, None))
    host_s = 1e-3
    for name, kind in PREFETCHERS.items():
        for slots in SLOTS[:1] if tiny else SLOTS:
            for ratio in RATIOS[::4] if tiny else RATIOS:
                # Computing beside the experts takes as long as two of them on the host.
                size = trace.geometry.expert_bytes
                profile = machine(ratio, size, host_s, visit_s=host_s, expert_s=host_s / 8)
                seconds, rows = {}, {}
                for way, miss in handlers(first, slots, profile, kind()).items():
                    cache = ExpertCache(LRU(), trace.geometry, slots, split=miss.split)
                    report = simulate(second, cache, kind(), profile)
                    seconds[way] = report.tpot_s or 0.0
                    rows[way] = [report.hit_rate, report.demand_misses, report.host_computed]
                    worth = getattr(miss, "worth_s", None)
                yield {
                    "what": "simulated",
                    "prefetch": name,
                    "slots": slots,
                    "load_over_host": ratio,
                    "worth_s": repr(worth),
                    **bar(seconds),
                    "hit_rate_fetched_host": rows,
                }


def live(tiny: bool) -> Iterator[dict[str, Any]]:
    """Run the bundled model behind an emulated link, ways interleaved round by round."""
    import torch

    from moex.bench.workload import generate
    from moex.cache.memory import Memory
    from moex.runner.assemble import Setup, load_model, offload
    from moex.types import DECODE

    loaded = load_model("tiny", store="ram")
    torch.set_num_threads(1)
    first = read_trace(trace_path("tiny"))
    first = first.select(slice(0, len(first) // 2))
    host_s, slots, rounds = 2e-3, 4, 2 if tiny else 9
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(2, 256, (1, 16), generator=draw) for _ in range(1 if tiny else 4)]
    for ratio in RATIOS[::4] if tiny else RATIOS[1:-1]:
        profile = machine(ratio, loaded.layout.bytes, host_s, visit_s=1e-3, expert_s=2e-4)
        ways = handlers(replace_bytes(first, loaded.layout.bytes), slots, profile, NoPrefetch())
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        counts = {}
        for _ in range(rounds):
            for name, miss in ways.items():
                run = offload(loaded, Setup(LRU(), Memory(slots), hardware=profile, miss=miss))
                with run as model:
                    generate(model, prompts, 8 if tiny else 48, run.meter)
                decode = run.meter.phases[DECODE]
                seconds[name].append(decode.seconds / decode.passes)
                stats = run.cache_stats.phases[DECODE]
                counts[name] = [stats.resident_hits, stats.demand_misses, stats.host_computed]
        yield {
            "what": "live, emulated link and host",
            "slots": slots,
            "load_over_host": ratio,
            "rounds": rounds,
            **bar({name: median(values) for name, values in seconds.items()}),
            "hits_fetched_host": counts,
        }


def replace_bytes(trace: Trace, size: int) -> Trace:
    """The same routing with experts of another size."""
    return replace(trace, geometry=trace.geometry._replace(expert_bytes=size))


def main() -> None:
    """Run one part and print its lines."""
    options = arguments(__doc__, "simulate", "live", out=None)
    rows = list({"simulate": simulated, "live": live}[options.part](options.tiny))
    rows.append({"what": "worst", "hybrid_over_best": max(r["hybrid_over_best"] for r in rows)})
    for row in rows:
        emit(row, options.out)


if __name__ == "__main__":
    main()
