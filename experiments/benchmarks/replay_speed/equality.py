"""Are compiled replays of real traces the interpreted ones, in every field of the row?

    python experiments/benchmarks/replay_speed/equality.py [cache ...] [--accesses 200000]

Both bundled traces, the first passes of the recorded gpt-oss-20b routing where it is there
(`replay_conformance`), and a synthetic one: every policy in array form, counts only, and with gate
lookahead and a machine's clock; both kinds of pool, cold and warm. Prints the cells that differ.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.replay_conformance import golden
from experiments.benchmarks.replay_speed.compiled import first, with_lookahead
from experiments.benchmarks.replay_speed.speed import CONFIGS, build, synthetic
from experiments.harness import arguments, machine
from moex.cache.core import ExpertCache
from moex.prefetch.gate import Gate
from moex.sim.arrays.compile import array_form
from moex.sim.replay import RecordedFuture
from moex.sim.scaled import scaled
from moex.sim.simulator import simulate
from moex.trace.files import open_trace
from moex.trace.format import Trace

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator


def traces(options: Namespace) -> Iterator[tuple[str, Trace]]:
    """Yield every trace with its name."""
    if not options.tiny:
        for name in ("tiny", "synthetic_mixtral"):
            bundled = open_trace(name)
            assert isinstance(bundled, Trace)
            yield name, bundled
    yield "synthetic", synthetic(options.accesses)
    if golden.folder().is_dir() and not options.tiny:
        whole = golden.load()
        passes = options.accesses // (whole.geometry.layers * whole.geometry.top_k)
        yield "gpt-oss-20b", first(whole, passes)


def fields(trace: Trace, name: str, pool: str, cold: bool, parts: dict[str, Any]) -> list[str]:
    """Return the fields in which the two rows differ."""
    rows = []
    for compiled in (False, True):
        policy = build(name)
        future = RecordedFuture(trace) if "future" in policy.needs else None
        slots = max(trace.geometry.top_k, trace.geometry.experts // 4)
        cache = ExpertCache(policy, trace.geometry, slots, pool, future=future)
        report = simulate(trace, cache, cold=cold, compiled=compiled, **parts)
        assert report.replay == ("compiled" if compiled else "interpreted")
        rows.append(asdict(replace(report, replay=None, interpreted_because=None)))
    return [key for key, value in rows[0].items() if value != rows[1][key]]


def main() -> None:
    """Compare all cells."""
    options = arguments(
        __doc__,
        tiny={"caches": ["lru"], "accesses": 2000},
        _caches=[],
        accesses=200_000,
    )
    named = options.caches or sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    arrays = [name for name in named if array_form(build(name))]
    cells = differing = 0
    for label, trace in traces(options):
        seen = trace if trace.lookahead is not None else with_lookahead(trace)
        timed = {"prefetcher": Gate(), "hardware": scaled(machine("rtx3090"), seen)}
        for name, pool, cold in product(arrays, ("layer", "global"), (False, True)):
            for parts in ({}, timed):
                differ = fields(seen, name, pool, cold, parts)
                cells, differing = cells + 1, differing + bool(differ)
                if differ:
                    print(label, name, pool, "cold" if cold else "warm", bool(parts), differ)
        print(f"{label}: {len(trace.experts)} accesses, compared", flush=True)
    print(f"{differing} of {cells} cells differ")


if __name__ == "__main__":
    main()
