"""Peak memory and speed of making and replaying traces larger than memory, and equality of rows.

python experiments/benchmarks/streamed_replay/bench.py make --trace FILE --accesses 1000000000
python experiments/benchmarks/streamed_replay/bench.py replay --trace FILE     # lru, as a stream
python experiments/benchmarks/streamed_replay/bench.py read --trace FILE       # its chunks alone
python experiments/benchmarks/streamed_replay/bench.py equal                  # of rows

The trace is synthetic: 48 layers, top-8 of 128 experts, sequences of 500 decoded tokens.
"""

from __future__ import annotations

import resource
import tempfile
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import moex
from experiments.harness import arguments, emit
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.trace.files import open_trace
from moex.trace.synthetic import write_synthetic
from moex.types import Geometry

GEOMETRY = Geometry(48, 128, 8, 2048, 768, 9_437_184)
TOKENS, BLOCK = 500, 64


def peak_bytes() -> int:
    """Most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def make(path: Path, accesses: int, tokens: int) -> dict[str, float]:
    """Write a trace of about so many accesses."""
    sequences = max(2, round(accesses / (tokens * GEOMETRY.layers * GEOMETRY.top_k)))
    started = perf_counter()
    write_synthetic(path, GEOMETRY, tokens, sequences, block=BLOCK)
    seconds = perf_counter() - started
    return {"sequences": sequences, "seconds": seconds, "file_bytes": path.stat().st_size}


def replay(path: Path, slots: int, cold: bool, visits: int | None) -> dict[str, float]:
    """Replay a trace as a stream, or only its first visits."""
    opened = perf_counter()
    stream = open_trace(path, in_memory=0)
    part = stream if visits is None else stream.select(slice(visits))
    started = perf_counter()
    report = moex.simulate(part, LRU(), slots, cold=cold)
    seconds = perf_counter() - started
    assert report.requests is not None
    assert report.hit_rate is not None
    return {
        "opening_s": started - opened,
        "seconds": seconds,
        "accesses": report.requests,
        "accesses_per_s": report.requests / seconds,
        "hit_rate": report.hit_rate,
    }


def read(path: Path) -> dict[str, float]:
    """Read and check all chunks of a trace."""
    started, accesses = perf_counter(), 0
    for chunk in open_trace(path, in_memory=0).chunks():
        accesses += len(chunk.experts)
    seconds = perf_counter() - started
    return {"seconds": seconds, "accesses": accesses, "accesses_per_s": accesses / seconds}


def equal(path: Path, slots: int) -> dict[str, float]:
    """Count the fields in which rows of the stream, of shards and of the whole differ."""
    whole, stream = moex.read_trace(path), open_trace(path, in_memory=0)
    differ: dict[str, float] = {}
    for policy in (LRU(), LFU()):
        name = type(policy).__name__
        for cold in (False, True):
            expected = asdict(moex.simulate(whole, policy, slots, cold=cold))
            rows = {f"{name}, stream": moex.simulate(stream, policy, slots, cold=cold)}
            for shards in (2, 3) if cold else ():
                row = moex.simulate(stream, policy, slots, cold=True, shards=shards)
                row.shards = 1
                rows[f"{name}, {shards} shards"] = row
            for what, row in rows.items():
                fields = [key for key, value in asdict(row).items() if value != expected[key]]
                differ[f"{what}, {'cold' if cold else 'warm'}"] = len(fields)
    return differ


def main() -> None:
    """Run one of the four."""
    given = arguments(
        __doc__,
        "make",
        "replay",
        "read",
        "equal",
        tiny={"accesses": 40_000, "tokens": 20},
        trace=(None, "file of the trace; default: a temporary one", Path),
        accesses=1_000_000,
        tokens=TOKENS,
        slots=32,
        cold=(False, "empty the cache before every sequence"),
        visits=(None, "of the trace, from the first; default all", int),
        out=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = given.trace or Path(folder) / "trace.parquet"
        row = {"part": given.part, "slots": given.slots, "cold": given.cold}
        if given.part == "make" or not path.is_file():
            row |= make(path, given.accesses, given.tokens)
        if given.part == "replay":
            row |= replay(path, given.slots, given.cold, given.visits)
        elif given.part == "read":
            row |= read(path)
        elif given.part == "equal":
            row |= equal(path, given.slots)
        emit(row | {"peak_bytes": peak_bytes()}, given.out)


if __name__ == "__main__":
    main()
